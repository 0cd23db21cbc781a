"""The worker program on the CPU with real models: it answers at once, loads, generates, gives memory back, ends."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.engine.models import make_model
from tests.engine.workers.direct import TOKEN, DirectWorker, load_spec
from webapp.runtimes.chat import unix_client
from webapp.runtimes.protocol import CleanReport, ProcessRecord, decode
from webapp.runtimes.sockets import Garbled

CHAT = "tests/chat"
BASE = "tests/base"
LARGE = "tests/large"
SECRET_PROMPT = "zanzibar quokka"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def chat_model(cache: Path) -> Path:
    return make_model(cache, CHAT)


@pytest.fixture(scope="module")
def base_model(cache: Path) -> Path:
    """About 60 MB, so that its memory is easy to tell from noise."""
    return make_model(cache, BASE, hidden=1024, intermediate=4096, layers=2, dtype="float16", chat_template=False)


@pytest.fixture(scope="module")
def large_model(cache: Path) -> Path:
    """About 60 MB, so that its memory is easy to tell from noise."""
    return make_model(cache, LARGE, hidden=1024, intermediate=4096, layers=2, dtype="float16")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, chat_model: Path) -> Iterator[DirectWorker]:
    """One worker with a chat model for all tests that leave it as it was."""
    with DirectWorker(tmp_path_factory.mktemp("worker") / "w", load_spec(CHAT, chat_model)) as worker:
        worker.wait_for("ready")
        yield worker


def chat(worker: DirectWorker, **values: object) -> httpx.Response:
    messages = [{"role": "user", "content": SECRET_PROMPT}]
    return worker.post("/v1/chat/completions", {"messages": messages, "max_tokens": 8, "seed": 3, **values})


def events(response: httpx.Response) -> list[dict[str, object]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_it_answers_before_it_imports_anything(tmp_path: Path, chat_model: Path) -> None:
    with DirectWorker(tmp_path / "w", load_spec(CHAT, chat_model)) as worker:
        first = worker.wait_for_socket()

        assert worker.state().state == "importing"
        record = decode(ProcessRecord, (worker.folder / "process.json").read_bytes())
        assert (record.pid, record.pgid) == (worker.process.pid, worker.process.pid)
        assert first < 1.0, "0.2 s on an idle machine"


def test_sigterm_ends_it_in_the_middle_of_an_import(tmp_path: Path, chat_model: Path) -> None:
    with DirectWorker(tmp_path / "w", load_spec(CHAT, chat_model)) as worker:
        worker.wait_for_socket()
        worker.process.send_signal(signal.SIGTERM)

        assert worker.process.wait(1.5) == -signal.SIGTERM


def test_its_folder_may_have_any_length(worker: DirectWorker, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100) / ("y" * 100) / "w"
    with DirectWorker(long, None) as spare:
        spare.wait_for_socket()

        assert len(str(long)) > 200
        assert spare.state().id == "direct"


def test_a_wrong_token_learns_nothing(worker: DirectWorker) -> None:
    answer = worker.post("/v1/completions", {"prompt": "a"}, token="wrong")

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert worker.post("/stop", {}, token="x").status_code == 401
    assert worker.state().state == "ready"


def test_a_chat_is_answered_by_the_models_own_template(worker: DirectWorker) -> None:
    answer = chat(worker).json()

    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 8


def test_a_stream_has_the_text_of_the_whole_answer(worker: DirectWorker) -> None:
    whole = chat(worker).json()["choices"][0]["message"]["content"]

    pieces = events(chat(worker, stream=True, stream_options={"include_usage": True}))

    deltas = [piece["choices"][0]["delta"] for piece in pieces if piece["choices"]]  # type: ignore[index]
    assert "".join(delta.get("content", "") for delta in deltas) == whole
    assert pieces[-1]["usage"]["completion_tokens"] <= 8  # type: ignore[index]


def test_a_seed_repeats_an_answer_and_another_changes_it(worker: DirectWorker) -> None:
    answers = [
        worker.post("/v1/completions", {"prompt": "one two", "max_tokens": 24, "seed": seed}).json()["choices"][0][
            "text"
        ]
        for seed in (1, 1, 2)
    ]

    assert answers[0] == answers[1] != answers[2]


def test_seeds_hold_while_other_requests_run(worker: DirectWorker) -> None:
    ask = {"prompt": "one two", "max_tokens": 24, "seed": 5}
    alone = worker.post("/v1/completions", ask).json()["choices"][0]["text"]
    answers: list[str] = []

    def work() -> None:
        answers.append(worker.post("/v1/completions", ask).json()["choices"][0]["text"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [alone] * 4


def test_temperature_zero_is_greedy(worker: DirectWorker) -> None:
    answers = {
        worker.post("/v1/completions", {"prompt": "one", "max_tokens": 12, "temperature": 0, "seed": seed}).text[60:]
        for seed in (1, 2)
    }

    texts = {json.loads("{" + answer[answer.index('"choices"') :])["choices"][0]["text"] for answer in answers}
    assert len(texts) == 1


def test_a_stop_string_ends_the_answer_before_it(worker: DirectWorker) -> None:
    ask = {"prompt": "one two", "max_tokens": 30, "seed": 1}
    text = worker.post("/v1/completions", ask).json()["choices"][0]["text"]
    stop = text[4:7]

    answer = worker.post("/v1/completions", {**ask, "stop": stop}).json()["choices"][0]

    assert (answer["text"], answer["finish_reason"]) == (text[: text.index(stop)], "stop")


def test_the_answer_is_cut_at_the_context_and_a_longer_prompt_is_refused(worker: DirectWorker) -> None:
    free = worker.post("/v1/completions", {"prompt": "one two three", "max_tokens": 9999, "seed": 1}).json()["usage"]
    refused = worker.post("/v1/completions", {"prompt": "word " * 400})

    assert free["total_tokens"] <= 128
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert re.search(r"has \d{3} tokens .* 128 tokens", error["message"])


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        ({"messages": []}, "invalid"),
        ({"messages": [{"role": "user", "content": 3}]}, "invalid"),
        ({"messages": [{"role": "user", "content": "a"}], "temperature": "hot"}, "invalid"),
        ({"messages": [{"role": "user", "content": "a"}], "max_tokens": 0}, "invalid"),
        ({"messages": [{"role": "user", "content": "a"}], "n": 2}, "unsupported"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, "unsupported"),
        ({"messages": [{"role": "user", "content": "a"}], "model": "other/one"}, "model_not_found"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(worker: DirectWorker, body: object, code: str) -> None:
    answer = worker.post("/v1/chat/completions", body)  # type: ignore[arg-type]

    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["code"] == code


def test_a_body_beyond_the_limit_is_not_read(worker: DirectWorker) -> None:
    answer = worker.post("/v1/completions", b"x" * (8 * 2**20 + 1))

    assert answer.status_code == 413


def test_who_hangs_up_ends_the_generation(worker: DirectWorker) -> None:
    body = {"prompt": "one", "max_tokens": 120, "stream": True, "temperature": 1.5}
    with (
        unix_client(
            str(worker.folder / "s"), timeout=httpx.Timeout(30), headers={"Authorization": f"Bearer {TOKEN}"}
        ) as c,
        c.stream("POST", "/v1/completions", json=body) as response,
    ):
        next(response.iter_lines())

    deadline = time.monotonic() + 10
    while worker.state().in_flight and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker.state().in_flight == 0


def test_it_lists_its_model_and_its_use(worker: DirectWorker) -> None:
    chat(worker)
    listed = json.loads(worker.ask("GET", "/v1/models"))["data"]
    report = worker.state()

    assert [model["id"] for model in listed] == [CHAT]
    assert listed[0]["max_model_len"] == 128
    assert report.last_used_at is not None
    assert time.time() - report.last_used_at < 30
    assert report.tensors_done == report.tensors_total > 0


def test_clean_reports_what_the_process_holds(worker: DirectWorker) -> None:
    report = decode(CleanReport, worker.ask("POST", "/clean", {}))

    assert report.process_before_bytes
    assert report.process_after_bytes
    assert report.device_before_bytes is None


def test_neither_token_nor_prompts_nor_answers_are_logged(worker: DirectWorker) -> None:
    answer = chat(worker, max_tokens=30).json()["choices"][0]["message"]["content"]

    assert TOKEN not in worker.log
    assert "zanzibar" not in worker.log
    assert answer not in worker.log


def test_a_ready_worker_takes_no_second_model(worker: DirectWorker, chat_model: Path) -> None:
    with pytest.raises(Garbled, match="not_idle"):
        worker.load(load_spec(CHAT, chat_model, max_tokens=77))


def test_a_waiting_worker_loads_a_base_model_into_its_own_memory_completes_text_and_ends_in_order(
    tmp_path: Path, base_model: Path
) -> None:
    size = (base_model / "model.safetensors").stat().st_size
    with DirectWorker(tmp_path / "w", None) as spare:
        idle = spare.wait_for("idle")
        assert spare.post("/v1/completions", {"prompt": "a"}).status_code == 503
        spare.load(load_spec(BASE, base_model, max_tokens=500))
        ready = spare.wait_for("ready")

        assert (idle.id, ready.id, ready.model_id) == ("direct", "direct", BASE)
        assert ready.base_bytes is not None
        assert ready.allocated_bytes is not None
        assert size * 0.95 < ready.allocated_bytes < size * 1.1 + 12 * 2**20
        maps = (Path("/proc") / str(spare.process.pid) / "maps").read_text(encoding="utf-8")
        assert str(base_model.resolve().parents[1]) not in maps, "no weights in mapped files"

        answer = spare.post("/v1/completions", {"prompt": "one two", "max_tokens": 4})
        refused = chat(spare)
        assert answer.json()["usage"]["completion_tokens"] >= 1
        assert not ready.has_chat_template
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "no_chat_template")
        assert "/v1/completions" in refused.json()["error"]["message"]

        assert_a_stop_cuts_what_goes_on(spare)


def assert_a_stop_cuts_what_goes_on(worker: DirectWorker) -> None:
    answers: list[httpx.Response] = []
    body = {"prompt": "one", "max_tokens": 480, "temperature": 2.0, "seed": 11}
    asking = threading.Thread(target=lambda: answers.append(worker.post("/v1/completions", body)))
    asking.start()
    while worker.state().in_flight == 0 and asking.is_alive():
        time.sleep(0.005)
    worker.ask("POST", "/stop", {"wait_s": 0.05})
    asking.join(30)

    assert worker.process.wait(5) == 0
    assert answers[0].json()["choices"][0]["finish_reason"] in ("length", "stop")


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_bitsandbytes_quantizes_on_the_cpu_and_answers(tmp_path: Path, large_model: Path, quantization: str) -> None:
    size = (large_model / "model.safetensors").stat().st_size
    with DirectWorker(tmp_path / "w", load_spec(LARGE, large_model, quantization=quantization)) as worker:
        worker.wait_for("ready")
        worker.ask("POST", "/clean", {})
        report = worker.state()
        answer = chat(worker, max_tokens=4)

        assert answer.status_code == 200, answer.text
        assert report.allocated_bytes is not None
        assert report.allocated_bytes < size * 0.9, "smaller than in FP16, with what the allocator keeps"
