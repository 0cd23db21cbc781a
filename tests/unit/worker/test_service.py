"""The routes with a model that does what a test wants: errors after the traceback is gone, queues, stops, streams."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from webapp.runtimes.protocol import LoadSpec, StateReport, WorkerSpec
from webapp.worker.engine import (
    Completion,
    DeviceMemory,
    Emit,
    FinishReason,
    LoadedModel,
    Message,
    Progress,
    PromptRefused,
    Sampling,
)
from webapp.worker.openai import ApiError
from webapp.worker.server import ClientGone
from webapp.worker.service import Service

LOAD = LoadSpec("owner/name", "r", "/s", "cpu", None, "auto", "none", 20, 1)


@dataclass
class Model:
    """Answers its prompt's length in words; ``error`` is raised after the first, ``gate`` waited for before it."""

    has_chat_template: bool = True
    context_length: int | None = None
    error: Exception | None = None
    gate: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        if messages[0]["role"] == "judge":
            raise PromptRefused("roles must alternate")
        return [1] * len(messages)

    def encode_text(self, prompt: str) -> list[int]:
        return [1] * len(prompt.split())

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, emit: Emit, is_cancelled: Callable[[], bool]
    ) -> Completion:
        self.reached.set()
        while self.gate is not None and not self.gate.wait(0.001):
            if is_cancelled():
                self.cancelled = True
                return Completion(FinishReason.CANCELLED, 0)
        emit("one ")
        if self.error is not None:
            raise self.error
        emit("two")
        return Completion(FinishReason.STOP, min(2, sampling.max_new_tokens))


class FakeEngine:
    """Notes whether an exception was being handled when it was told to clean."""

    def __init__(self) -> None:
        self.cleaned_inside: list[bool] = []

    def import_libraries(self) -> None: ...

    def prepare(self, spec: LoadSpec) -> None: ...

    def load(self, spec: LoadSpec, progress: Progress) -> LoadedModel:
        return Model()

    def memory(self) -> DeviceMemory | None:
        return DeviceMemory(5, 10 - len(self.cleaned_inside))

    def clean(self) -> None:
        self.cleaned_inside.append(sys.exc_info()[0] is not None)


class Control:
    def __init__(self) -> None:
        self.taken: list[WorkerSpec] = []
        self.stops: list[float] = []

    def report(self) -> StateReport:
        return StateReport(1, "a", 2, "ready")

    def take(self, spec: WorkerSpec) -> bool:
        self.taken.append(spec)
        return len(self.taken) == 1

    def stop(self, wait_s: float) -> None:
        self.stops.append(wait_s)


class Exchange:
    """Keeps what is answered."""

    def __init__(self, value: Any = None, *, gone: bool = False, hangs_up_after: int | None = None) -> None:
        self.body = b"" if value is None else json.dumps(value).encode()
        self.status: int | None = None
        self.value: Any = None
        self.sent = b""
        self._gone = gone
        self._left = hangs_up_after

    def is_gone(self) -> bool:
        return self._gone

    def reply(self, status: int, value: Mapping[str, Any]) -> None:
        self.status, self.value = status, value

    def begin_stream(self) -> None:
        self.status = 200

    def send(self, data: bytes) -> None:
        if self._left is not None:
            if self._left == 0:
                raise ClientGone
            self._left -= 1
        self.sent += data


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def service(control: Control, engine: FakeEngine) -> Service:
    return Service(control, engine)


def call(service: Service, path: str, exchange: Exchange, method: str = "POST") -> Exchange:
    service.routes()[(method, path)](exchange)
    return exchange


def complete(service: Service, exchange: Exchange | None = None, **values: Any) -> Exchange:
    return call(service, "/v1/completions", exchange or Exchange({"prompt": "a b", **values}))


def test_a_whole_answer_has_text_reason_and_figures(service: Service) -> None:
    service.serve(LOAD, Model())

    answer = complete(service).value

    assert answer["choices"][0] == {"index": 0, "text": "one two", "logprobs": None, "finish_reason": "stop"}
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    assert service.in_flight == 0
    assert service.last_used_at is not None


def test_out_of_memory_is_cleaned_up_after_its_traceback_is_gone(service: Service, engine: FakeEngine) -> None:
    service.serve(LOAD, Model(error=RuntimeError("CUDA out of memory")))

    with pytest.raises(ApiError) as failed:
        complete(service)

    assert (failed.value.status, failed.value.code) == (503, "out_of_memory")
    assert engine.cleaned_inside == [False]
    assert service.in_flight == 0


def test_an_error_in_a_stream_is_an_event_of_it(service: Service, engine: FakeEngine) -> None:
    service.serve(LOAD, Model(error=ValueError("bad")))

    sent = complete(service, stream=True).sent.decode()

    assert '"one "' in sent
    assert '"code": "generation_failed"' in sent
    assert sent.endswith("data: [DONE]\n\n")
    assert engine.cleaned_inside == [False]


def test_who_hangs_up_in_a_stream_is_no_failure(service: Service, engine: FakeEngine) -> None:
    service.serve(LOAD, Model())

    with pytest.raises(ClientGone):
        complete(service, Exchange({"prompt": "a", "stream": True}, hangs_up_after=1))

    assert engine.cleaned_inside == []
    assert service.in_flight == 0


def test_nothing_is_answered_before_the_load_and_after_the_stop(service: Service) -> None:
    with pytest.raises(ApiError, match="no model is loaded yet"):
        complete(service)
    service.serve(LOAD, Model())
    service.drain(0, 0)

    with pytest.raises(ApiError) as refused:
        complete(service)

    assert (refused.value.status, refused.value.code) == (503, "stopping")


def test_a_drain_cuts_what_goes_on_too_long(service: Service) -> None:
    model = Model(gate=threading.Event())
    service.serve(LOAD, model)
    exchange = Exchange({"prompt": "a"})
    asking = threading.Thread(target=complete, args=(service, exchange))
    asking.start()
    assert model.reached.wait(5)
    assert service.in_flight == 1

    service.drain(0.01, 5)
    asking.join(5)

    assert model.cancelled
    assert exchange.value["choices"][0]["finish_reason"] == "length"


def test_the_context_is_the_smaller_of_the_launchs_and_the_models(service: Service) -> None:
    service.serve(LOAD, Model(context_length=3))
    with pytest.raises(ApiError, match="3 tokens and the context is 3 tokens"):
        complete(service, Exchange({"prompt": "a b c"}))

    listed = call(service, "/v1/models", Exchange(), "GET").value["data"][0]
    assert (listed["id"], listed["max_model_len"]) == ("owner/name", 3)


@pytest.mark.parametrize(
    ("model", "role", "code"),
    [(Model(has_chat_template=False), "user", "no_chat_template"), (Model(), "judge", "template_refused")],
)
def test_a_chat_that_the_template_does_not_take_is_refused(
    service: Service, model: Model, role: str, code: str
) -> None:
    service.serve(LOAD, model)

    with pytest.raises(ApiError) as refused:
        call(service, "/v1/chat/completions", Exchange({"messages": [{"role": role, "content": "a"}]}))

    assert (refused.value.status, refused.value.code) == (400, code)


def test_a_spare_is_loaded_once(service: Service, control: Control) -> None:
    body = {"id": "late", "token": "", "load": vars(LOAD)}

    assert call(service, "/load", Exchange(body)).status == 202
    assert control.taken == [WorkerSpec("late", "", LOAD)]
    refused: tuple[object, ...] = (body, {"id": "late", "token": "", "load": None}, {"id": 1}, [])
    for each in refused:
        with pytest.raises(ApiError):
            call(service, "/load", Exchange(each))


def test_a_stop_is_answered_before_it_begins(service: Service, control: Control) -> None:
    assert call(service, "/stop", Exchange({"wait_s": 2.5})).status == 202
    assert call(service, "/stop", Exchange()).status == 202
    with pytest.raises(ApiError):
        call(service, "/stop", Exchange({"wait_s": "long"}))

    assert control.stops == [2.5, 0.0]


def test_clean_says_what_the_device_got_back(service: Service) -> None:
    report = call(service, "/clean", Exchange({})).value

    assert (report["device_before_bytes"], report["device_after_bytes"]) == (10, 9)
    assert call(service, "/state", Exchange(), "GET").value["state"] == "ready"
