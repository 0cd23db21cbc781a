"""Asks a model through the OpenAI protocol and passes its answer on as it arrives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from webapp.errors import GenerationFailed, NotReady, OutOfMemory, WardenError
from webapp.runtimes.base import Endpoint
from webapp.runtimes.sockets import connect, short_path

CONNECT_S = 5.0
SILENCE_S = 300.0
"""How long a model may be silent, because of a long prompt on a CPU or other requests ahead of it."""
_DETAIL_LENGTH = 300
_DONE = "[DONE]"
_BASE_URL = "http://worker"


@contextmanager
def unix_client(path: str, *, timeout: httpx.Timeout, headers: Mapping[str, str]) -> Iterator[httpx.Client]:
    """Yield an httpx client of the socket at ``path``, for streamed answers.

    Raises:
        OSError: connections are refused. That is tried first, because httpcore does not close a refused socket.
    """
    connect(path, timeout.connect or CONNECT_S).close()
    with (
        short_path(path) as uds,
        httpx.HTTPTransport(uds=uds, verify=False) as transport,
        # The environment is ignored: a proxy set there would be asked for the host "worker".
        httpx.Client(
            transport=transport, base_url=_BASE_URL, timeout=timeout, headers=dict(headers), trust_env=False
        ) as client,
    ):
        yield client


def stream_chat(
    endpoint: Endpoint, prompt: str, *, max_tokens: int | None, temperature: float, has_chat_template: bool
) -> ChatReply:
    """Send ``prompt``, wait for the first piece of the answer, and return an iterator over the pieces.

    A model without a chat template continues the prompt as plain text. Closing the reply hangs up, and the model stops.

    Raises (also while iterating):
        NotReady: the model does not accept requests now.
        OutOfMemory: the answer did not fit in memory.
        GenerationFailed: the model could not answer for any other reason.
    """
    body: dict[str, Any] = {"model": endpoint.model, "temperature": temperature, "stream": True}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if has_chat_template:
        route, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": prompt}]
    else:
        route, body["prompt"] = "/v1/completions", prompt
    answer = ChatReply(endpoint, route, body)
    answer.open()
    return answer


class ChatReply(Iterator[str]):
    """The pieces of one answer. ``close`` may be called at any time, even before the first piece is read."""

    def __init__(self, endpoint: Endpoint, route: str, body: Mapping[str, Any]) -> None:
        self._endpoint = endpoint
        self._route = route
        self._body = body
        self._stack = ExitStack()
        self._lines: Iterator[str] = iter(())
        self._first: str | None = None
        self._ended = False

    def open(self) -> None:
        """Send the question and wait for the first piece. Raises NotReady, OutOfMemory, GenerationFailed."""
        with self._translating():
            response = self._stack.enter_context(self._client().stream("POST", self._route, json=self._body))
            if not response.is_success:
                response.read()
                raise self._refusal(response)
            self._lines = response.iter_lines()
            self._first = self._piece()

    def __next__(self) -> str:
        piece, self._first = self._first, None
        if piece is None and not self._ended:
            with self._translating():
                piece = self._piece()
        if piece is None:
            self.close()
            raise StopIteration
        return piece

    def close(self) -> None:
        """Hang up."""
        self._ended, self._first = True, None
        self._stack.close()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """Hang up on any error, and translate those of httpx."""
        try:
            yield
        except (httpx.HTTPError, httpx.StreamError, OSError) as exc:
            self.close()
            raise self._translated(exc) from exc
        except WardenError:
            self.close()
            raise

    def _client(self) -> httpx.Client:
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        if self._endpoint.uds is not None:
            return self._stack.enter_context(
                unix_client(self._endpoint.uds, timeout=timeout, headers=self._endpoint.headers)
            )
        return self._stack.enter_context(
            httpx.Client(
                base_url=self._endpoint.base_url, timeout=timeout, headers=dict(self._endpoint.headers), trust_env=False
            )
        )

    def _piece(self) -> str | None:
        """Return the next piece that has text; ``None`` at the end."""
        for line in self._lines:
            if not line.startswith("data:"):
                continue
            data = line[len("data:") :].strip()
            if data == _DONE:
                self._ended = True
                return None
            if text := self._text(data):
                return text
        raise self._failed("the connection ended before the answer did", "cut_off")

    def _text(self, data: str) -> str:
        try:
            event = json.loads(data)
            if "error" in event:
                raise self._error(event["error"])
            choices = event["choices"]
            if not choices:
                return ""
            choice = choices[0]
            text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as exc:
            raise self._failed(f"not the protocol: {data[:80]}", "garbled") from exc
        return text if isinstance(text, str) else ""

    def _refusal(self, response: httpx.Response) -> WardenError:
        try:
            return self._error(response.json()["error"])
        except (ValueError, TypeError, KeyError):
            return self._failed(f"status {response.status_code}", "garbled")

    def _error(self, error: Any) -> WardenError:
        """Translate OpenAI's error object."""
        fields = error if isinstance(error, dict) else {"message": str(error)}
        code, message = str(fields.get("code") or ""), str(fields.get("message") or "")
        if code == "out_of_memory" or "out of memory" in message.lower():
            return OutOfMemory(model=self._endpoint.model, detail=message[:_DETAIL_LENGTH], log="")
        if code in ("not_ready", "stopping"):
            return NotReady(model=self._endpoint.model, instance=None, state=code)
        return self._failed(message, code or "error")

    def _translated(self, error: Exception) -> WardenError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | OSError):
            return NotReady(model=self._endpoint.model, instance=None, state="silent")
        if isinstance(error, httpx.TimeoutException):
            return self._failed(f"no sign of life for {SILENCE_S:.0f} s", "silent")
        return self._failed("the connection ended before the answer did", "cut_off")

    def _failed(self, detail: str, reason: str) -> GenerationFailed:
        return GenerationFailed(model=self._endpoint.model, detail=detail[:_DETAIL_LENGTH], reason=reason)
