"""The product with further routes, whose answers exceed the kernel's buffers, and a worker with short timeouts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from webapp import create_app
from webapp.server.worker import WebWorker

WHOLE: Final = b"0123456789abcdef" * 512 * 1024
"""8 MiB in one piece, like a long table."""
PAGE: Final = 256 * 1024
PIECES: Final = 128
SEND_S: Final = 2.0


class HastyWorker(WebWorker):
    """Waits for clients only for a short time."""

    send_s = SEND_S


class LargeAnswers:
    """``/large`` returns ``WHOLE``, ``/large/page`` its beginning, ``/large/pieces`` streams it without a length."""

    def __init__(self, product: Any) -> None:
        self._product = product
        self.extensions = product.extensions

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
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
    """Return the application for gunicorn; other modules import only the sizes."""
    return LargeAnswers(create_app())
