"""The answer to a request that was refused or failed (RFC 9457)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from webapp.message import Param
from webapp.schema.base import Answer


class ProblemDocument(Answer):
    """Why a request was refused or failed. ``code`` is for programs and stable; ``title`` and ``detail`` are for
    people.
    """

    type: Literal["about:blank"] = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    params: dict[str, Param] = Field(description="Values of the sentence in `detail`.")
