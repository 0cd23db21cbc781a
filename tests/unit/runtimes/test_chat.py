"""The OpenAI client against a small server: pieces as they come, each failure its own error, hanging up hangs up."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from webapp.errors import GenerationFailed, NotReady, OutOfMemory, WardenError
from webapp.runtimes.base import Endpoint
from webapp.runtimes.chat import ChatReply, stream_chat
from webapp.runtimes.sockets import Garbled, Silent, Unreachable, ask

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Server:
    """Answers one connection after the other with the next of its scripts; a gate in a script is waited for."""

    def __init__(self, path: Path) -> None:
        self.requests: list[bytes] = []
        self.scripts: list[Sequence[bytes | threading.Event]] = []
        self.hung_up = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        request = connection.recv(65536)
        if not request:
            return  # only tried whether somebody is there
        while b"\r\n\r\n" not in request or not request.rstrip().endswith(b"}"):
            request += connection.recv(65536)
        self.requests.append(request)
        for part in self.scripts.pop(0):
            if isinstance(part, threading.Event):
                part.wait(5)
            else:
                connection.sendall(part)
        connection.settimeout(5)
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(1) == b"":
            self.hung_up.set()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "s")
    yield server
    server.close()


@pytest.fixture
def endpoint(tmp_path: Path) -> Endpoint:
    return Endpoint("http://worker", str(tmp_path / "s"), {"Authorization": "Bearer t"}, "owner/name")


def piece(text: str | None) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


def refusal(status: str, code: str, message: str = "why") -> bytes:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def question(endpoint: Endpoint, *, chat: bool = True, max_tokens: int | None = 5) -> ChatReply:
    return stream_chat(endpoint, "привет", max_tokens=max_tokens, temperature=0.5, has_chat_template=chat)


def test_pieces_come_while_the_answer_is_on_its_way(server: Server, endpoint: Endpoint) -> None:
    gate = threading.Event()
    server.scripts.append([HEAD, piece(""), piece("при"), gate, piece("вет"), b": comment\n\n", b"data: [DONE]\n\n"])

    answer = question(endpoint)

    assert next(answer) == "при"
    gate.set()
    assert list(answer) == ["вет"]
    request = server.requests[0]
    assert b"POST /v1/chat/completions" in request
    assert b"Bearer t" in request
    body = json.loads(request.partition(b"\r\n\r\n")[2])
    assert body["messages"] == [{"role": "user", "content": "привет"}]
    assert (body["max_tokens"], body["temperature"], body["model"], body["stream"]) == (5, 0.5, "owner/name", True)


def test_a_model_without_a_template_completes_text(server: Server, endpoint: Endpoint) -> None:
    text = b'data: {"choices": [{"text": "a"}]}\n\ndata: {"choices": []}\n\ndata: [DONE]\n\n'
    server.scripts.append([HEAD, text])

    assert list(question(endpoint, chat=False, max_tokens=None)) == ["a"]
    body = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert body["prompt"] == "привет"
    assert "max_tokens" not in body


def test_an_empty_answer_is_an_answer(server: Server, endpoint: Endpoint) -> None:
    server.scripts.append([HEAD, b"data: [DONE]\n\n"])

    assert list(question(endpoint)) == []


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        (refusal("400 Bad", "context_length_exceeded"), GenerationFailed, "context_length_exceeded"),
        (refusal("503 No", "overloaded"), GenerationFailed, "overloaded"),
        (refusal("503 No", "out_of_memory"), OutOfMemory, None),
        (refusal("503 No", "stopping"), NotReady, None),
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno", GenerationFailed, "garbled"),
        (b"what?\r\n\r\n", GenerationFailed, "cut_off"),
        (HEAD, GenerationFailed, "cut_off"),
        (HEAD + b"data: {}\n\n", GenerationFailed, "garbled"),
        (HEAD + b'data: {"error": {"code": "out_of_memory", "message": "m"}}\n\n', OutOfMemory, None),
        (HEAD + b'data: {"error": "CUDA out of memory"}\n\n', OutOfMemory, None),
    ],
)
def test_each_failure_has_its_error(
    server: Server, endpoint: Endpoint, script: bytes, kind: type[WardenError], reason: str | None
) -> None:
    server.scripts.append([script])

    with pytest.raises(kind) as failed:
        question(endpoint)

    assert failed.value.params["model"] == "owner/name"
    assert failed.value.params.get("reason") == reason


def test_an_answer_that_breaks_off_says_so_after_its_pieces(server: Server, endpoint: Endpoint) -> None:
    server.scripts.append([HEAD, piece("a")])
    answer = question(endpoint)

    assert next(answer) == "a"
    with pytest.raises(GenerationFailed):
        next(answer)
    assert list(answer) == []


def test_closing_hangs_up_also_before_the_first_piece_is_taken(server: Server, endpoint: Endpoint) -> None:
    server.scripts.append([HEAD, piece("a")])

    question(endpoint).close()

    assert server.hung_up.wait(5)


def test_nobody_there_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReady):
        question(Endpoint("http://worker", str(tmp_path / "gone" / "s"), {}, "m"))


def test_a_short_question_tells_refused_from_silent_from_garbled(server: Server, tmp_path: Path) -> None:
    gate = threading.Event()
    server.scripts += [[b"rubbish {}\r\n\r\n"], [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal"], [gate]]
    path = str(tmp_path / "s")

    with pytest.raises(Garbled):
        ask(path, "t", "POST", "/state", body=b"{}", timeout_s=5)
    with pytest.raises(Unreachable, match="cut off"):
        ask(path, "t", "POST", "/state", body=b"{}", timeout_s=5)
    with pytest.raises(Silent):
        ask(path, "t", "POST", "/state", body=b"{}", timeout_s=0.05)
    gate.set()
    with pytest.raises(Unreachable):
        ask(f"{path}-other", "t", "GET", "/state", timeout_s=1)
