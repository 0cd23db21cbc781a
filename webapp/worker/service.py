"""The answer of each route: control for Warden, OpenAI's protocol for every client with the token."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Protocol

from webapp.runtimes.protocol import (
    CleanReport,
    LoadSpec,
    ProtocolError,
    StateReport,
    StopRequest,
    WorkerSpec,
    decode,
    decode_spec,
)
from webapp.worker import memory, openai
from webapp.worker.engine import Completion, FinishReason, InferenceEngine, LoadedModel, PromptRefused, Sampling
from webapp.worker.openai import ApiError
from webapp.worker.server import ClientGone, Exchange, Route
from webapp.worker.turns import GivenUp, Turns, TurnsFull

log = logging.getLogger(__name__)

MOST_AT_ONCE = 128
"""The limit of concurrent requests, whatever the launch options are: each has a thread."""


class Control(Protocol):
    """The program's methods that the routes use."""

    def report(self) -> StateReport:
        """Return the worker's state."""

    def take(self, spec: WorkerSpec) -> bool:
        """Give a waiting worker its model; False if it has another one."""

    def stop(self, wait_s: float) -> None:
        """Begin to shut down; requests in progress may continue for ``wait_s``."""


class Service:
    """The routes, and the model once it is loaded."""

    def __init__(self, control: Control, engine: InferenceEngine) -> None:
        self._control = control
        self._engine = engine
        self._ready: tuple[LoadSpec, LoadedModel, Turns] | None = None
        self._stopping = threading.Event()
        self._cancelled = threading.Event()
        self._last_used_at: float | None = None

    def routes(self) -> Mapping[tuple[str, str], Route]:
        """Return every route by method and path."""
        return {
            ("GET", "/state"): self._state,
            ("POST", "/load"): self._load,
            ("POST", "/clean"): self._clean,
            ("POST", "/stop"): self._stop,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): lambda exchange: self._answer(exchange, chat=True),
            ("POST", "/v1/completions"): lambda exchange: self._answer(exchange, chat=False),
        }

    def serve(self, spec: LoadSpec, model: LoadedModel) -> None:
        """Start answering requests."""
        self._ready = (spec, model, Turns(min(spec.batch_size, MOST_AT_ONCE)))

    @property
    def in_flight(self) -> int:
        """Requests that are being answered or wait for their turn."""
        return 0 if self._ready is None else self._ready[2].in_flight

    @property
    def last_used_at(self) -> float | None:
        """When the last request arrived or ended, in seconds since the epoch."""
        return self._last_used_at

    def drain(self, wait_s: float, cut_s: float) -> None:
        """Refuse new requests, let those in progress continue for ``wait_s``, then cut them off and wait ``cut_s``."""
        self._stopping.set()
        if self._ready is None or self._ready[2].wait_until_idle(wait_s):
            return
        self._cancelled.set()
        self._ready[2].wait_until_idle(cut_s)

    # Control

    def _state(self, exchange: Exchange) -> None:
        exchange.reply(200, asdict(self._control.report()))

    def _load(self, exchange: Exchange) -> None:
        try:
            spec = decode_spec(exchange.body)
        except ProtocolError as exc:
            raise ApiError(400, "invalid", str(exc)) from exc
        if spec.load is None or not self._control.take(spec):
            raise ApiError(409, "not_idle", "the worker has a model")
        exchange.reply(202, {"id": spec.id})

    def _clean(self, exchange: Exchange) -> None:
        before, device_before = memory.own_bytes(), self._engine.memory()
        self._engine.clean()
        after, device_after = memory.own_bytes(), self._engine.memory()
        report = CleanReport(
            before,
            after,
            None if device_before is None else device_before.reserved_bytes,
            None if device_after is None else device_after.reserved_bytes,
        )
        log.info("cleaned: %s -> %s bytes", before, after)
        exchange.reply(200, asdict(report))

    def _stop(self, exchange: Exchange) -> None:
        try:
            request = decode(StopRequest, exchange.body or b"{}")
        except ProtocolError as exc:
            raise ApiError(400, "invalid", str(exc)) from exc
        try:
            exchange.reply(202, {"stopping": True})  # first: the end does not wait until an answer is written
        finally:
            self._control.stop(max(0.0, request.wait_s))

    # OpenAI

    def _models(self, exchange: Exchange) -> None:
        spec, model, _ = self._loaded()
        exchange.reply(200, openai.models_body(spec.model_id, int(time.time()), _context(spec, model)))

    def _answer(self, exchange: Exchange, *, chat: bool) -> None:
        spec, model, turns = self._loaded()
        request = openai.parse_request(exchange.body, spec.model_id, chat=chat)
        prompt = _encode(model, request)
        sampling = Sampling(
            max_new_tokens=openai.new_tokens(request, len(prompt), _context(spec, model)),
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            stop=request.stop,
            seed=request.seed,
        )
        answer = _Reply(exchange, request, openai.Answers(spec.model_id, int(time.time()), chat=chat), len(prompt))
        self._last_used_at = time.time()
        try:
            with turns.turn(lambda: self._cancelled.is_set() or exchange.is_gone()):
                self._generate(model, prompt, sampling, answer)
        except TurnsFull as exc:
            raise ApiError(503, "overloaded", "too many requests wait already; try again in a moment") from exc
        except GivenUp as exc:
            raise ApiError(503, "stopping", "the model is being unloaded") from exc
        finally:
            self._last_used_at = time.time()

    def _generate(self, model: LoadedModel, prompt: Sequence[int], sampling: Sampling, answer: _Reply) -> None:
        """Answer; an error of the model is formatted only after its traceback, which holds tensors, is released."""
        answer.begin()
        failure: ApiError | None = None
        completion: Completion | None = None
        try:
            completion = model.generate(prompt, sampling, answer.take, self._is_cancelled(answer.exchange))
        except ClientGone:
            log.info("a request was given up")
            raise
        except Exception as exc:  # noqa: BLE001 - the top of a request; whatever the libraries raise is its answer
            failure = _failure(exc)
        if failure is not None:
            self._engine.clean()
            log.error("a request failed: %s", failure.code)
            answer.fail(failure)
        elif completion is not None:
            answer.end(completion)

    def _is_cancelled(self, exchange: Exchange) -> Callable[[], bool]:
        return lambda: self._cancelled.is_set() or exchange.is_gone()

    def _loaded(self) -> tuple[LoadSpec, LoadedModel, Turns]:
        if self._stopping.is_set():
            raise ApiError(503, "stopping", "the model is being unloaded")
        if self._ready is None:
            raise ApiError(503, "not_ready", "no model is loaded yet")
        return self._ready


class _Reply:
    """One answer in progress: in pieces if a stream was requested, else collected and sent whole."""

    def __init__(self, exchange: Exchange, request: openai.Request, bodies: openai.Answers, prompt_tokens: int) -> None:
        self.exchange = exchange
        self._request = request
        self._bodies = bodies
        self._prompt_tokens = prompt_tokens
        self._text: list[str] = []
        self._began = False

    def begin(self) -> None:
        """Start a stream; an answer that is sent whole starts at its end."""
        if not self._request.stream:
            return
        self.exchange.begin_stream()
        self._began = True
        if (first := self._bodies.first()) is not None:
            self.exchange.send(openai.event(first))

    def take(self, text: str) -> None:
        """Add a piece of text. Raises ClientGone."""
        if self._request.stream:
            self.exchange.send(openai.event(self._bodies.piece(text)))
        else:
            self._text.append(text)

    def end(self, completion: Completion) -> None:
        """Send the reason why it ended, and the number of tokens."""
        if completion.reason is FinishReason.CANCELLED and self.exchange.is_gone():
            log.info("a request was given up")
            raise ClientGone
        usage = openai.Usage(self._prompt_tokens, completion.tokens)
        if not self._request.stream:
            self.exchange.reply(200, self._bodies.whole("".join(self._text), completion.reason, usage))
            return
        self.exchange.send(openai.event(self._bodies.last(completion.reason)))
        if self._request.include_usage:
            self.exchange.send(openai.event(self._bodies.usage(usage)))
        self.exchange.send(openai.DONE)

    def fail(self, error: ApiError) -> None:
        """Report the failure: as an event if the stream has started, else as the answer."""
        if not self._began:
            raise error
        self.exchange.send(openai.event(error.body()))
        self.exchange.send(openai.DONE)


def _context(spec: LoadSpec, model: LoadedModel) -> int:
    return spec.max_tokens if model.context_length is None else min(spec.max_tokens, model.context_length)


def _encode(model: LoadedModel, request: openai.Request) -> list[int]:
    if request.messages is None:
        tokens = model.encode_text(request.prompt or "")
    elif not model.has_chat_template:
        raise ApiError(
            400,
            "no_chat_template",
            "the model has no chat template: use /v1/completions to continue a text",
            "messages",
        )
    else:
        try:
            tokens = model.encode_chat(request.messages)
        except PromptRefused as exc:
            raise ApiError(400, "template_refused", f"the chat template says: {exc}", "messages") from exc
    if not tokens:
        raise ApiError(400, "invalid", "the prompt has no tokens", "messages" if request.is_chat else "prompt")
    return tokens


def _failure(error: Exception) -> ApiError:
    """Format an error without keeping it: its traceback holds tensors."""
    if memory.is_out_of_memory(error):
        return ApiError(503, "out_of_memory", "out of memory while answering; try a shorter prompt or answer")
    return ApiError(500, "generation_failed", f"{type(error).__name__}: {str(error)[:300]}")
