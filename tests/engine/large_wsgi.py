"""The product with two more addresses, whose answers are larger than what the kernel keeps for a client, and a worker in a hurry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from webapp import create_app
from webapp.server.worker import WebWorker

WHOLE: Final = b"0123456789abcdef" * 512 * 1024
"""8 MiB in one piece, as a long table is."""
PAGE: Final = 256 * 1024
PIECES: Final = 128
SEND_S: Final = 2.0


class HastyWorker(WebWorker):
    """Waits for a client for a short time only."""

    send_s = SEND_S


class LargeAnswers:
    """``/large`` is ``WHOLE``, ``/large/page`` its beginning, ``/large/pieces`` all of it as it is made, of no length known before."""

    def __init__(self, product: Any) -> None:
        self._product = product
        self.extensions = product.extensions

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer."""
        if environ["PATH_INFO"] == "/large":
            start_response("200 OK", [("Content-Length", str(len(WHOLE)))])
            return [WHOLE]
        if environ["PATH_INFO"] == "/large/page":
            start_response("200 OK", [("Content-Length", str(PAGE))])
            return [WHOLE[:PAGE]]
        if environ["PATH_INFO"] == "/large/pieces":
            start_response("200 OK", [])
            size = len(WHOLE) // PIECES
            return (WHOLE[number * size : (number + 1) * size] for number in range(PIECES))
        answer: Iterable[bytes] = self._product(environ, start_response)
        return answer


def make_app() -> LargeAnswers:
    """The application, for gunicorn alone: whoever imports this module may want no more than its sizes."""
    return LargeAnswers(create_app())
