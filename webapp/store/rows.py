"""Rows of documents, some of which may be unreadable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from sqlalchemy import Row

from webapp.store.documents import DocumentError

log = logging.getLogger(__name__)

T = TypeVar("T")


def readable(rows: Iterable[Row[Any]], read: Callable[[Row[Any]], T], what: str) -> Iterator[T]:
    """Yield ``read(row)`` for each row; a row that raises DocumentError is left out and logged as
    ``what.format(row=row)``."""
    for row in rows:
        try:
            yield read(row)
        except DocumentError as exc:
            log.warning("%s cannot be read and is left out: %s", what.format(row=row), exc)
