"""What a vLLM log tells, on logs recorded with vLLM 0.32 and on lines made from its format strings where a GPU would be needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.domain.instance import MemoryReport
from webapp.domain.units import GIB, gib
from webapp.errors import (
    ArchitectureUnsupported,
    ArgumentRejected,
    ContainerExited,
    ContextTooLong,
    GpuRuntimeMissing,
    KvCacheTooSmall,
    LaunchFailed,
    OutOfMemory,
    PortLost,
    ProfileDisturbed,
    StartMemoryShort,
)
from webapp.runtimes.vllm.causes import cause_of
from webapp.runtimes.vllm.log import LogReader, Stage, clean_line, is_own_question, split_chunks, stage_of

LOGS = Path(__file__).parents[2] / "data" / "vllm_logs"
ENGINE = "(EngineCore pid=214) ERROR 11-24 13:53:05 [core.py:1512] "


def recorded(name: str) -> list[str]:
    return [clean_line(line) for line in (LOGS / f"{name}.log").read_text().splitlines()]


def cause(lines: list[str], **changes: object) -> LaunchFailed:
    about: dict[str, object] = {"model": "lab/one", "max_tokens": 512, "exit_code": 1, **changes}
    return cause_of(lines, **about)  # type: ignore[arg-type]


def test_a_start_goes_through_its_stages_in_order() -> None:
    reader, seen = LogReader(), [Stage.STARTING]
    for line in recorded("start"):
        reader.feed(line)
        if reader.stage is not seen[-1]:
            seen.append(reader.stage)
    assert seen == [Stage.STARTING, Stage.WEIGHTS, Stage.PROFILING, Stage.KV_CACHE, Stage.SERVING]
    assert reader.figures["kv_cache_tokens"] == 262144
    assert reader.figures["kv_cache_bytes"] == gib(0.25)
    assert reader.figures["init_seconds"] > 0


def test_the_share_of_the_weights_is_told_while_they_load() -> None:
    reader = LogReader()
    reader.feed("(Worker pid=1) INFO 11-24 13:52:33 [gpu_model_runner.py:5040] Starting to load model /hf-cache/m...")
    assert (reader.message.code, reader.message.params) == ("vllm_weights", {"percent": None})
    reader.feed("Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:01<00:03,  1.00it/s]")
    assert (reader.progress, reader.message.params) == (0.25, {"percent": 25})


def test_what_a_gpu_start_took_is_reported_of_the_fullest_gpu() -> None:
    reader = LogReader()
    assert reader.memory is None
    for rank, weights in enumerate((3.77, 3.75)):
        reader.feed(
            f"(Worker_TP{rank} pid=9) INFO 11-24 13:52:33 [gpu_model_runner.py:5150] Model loading took {weights} GiB memory and 3 seconds"
        )
    assert reader.memory == MemoryReport(weights_bytes=gib(3.77))
    reader.feed(
        "INFO 11-24 13:52:41 [gpu_worker.py:1029] Free memory on device (78.6/79.1 GiB) on startup. Desired GPU memory utilization is "
        "(0.9, 71.2 GiB). Actual usage is 15.31 GiB for consumed memory (weights + non-torch), 1.89 GiB for peak activation, and 0.91 GiB "
        "for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=1`."
    )
    assert reader.memory == MemoryReport(weights_bytes=gib(3.77), consumed_bytes=gib(15.31), activation_bytes=gib(1.89))


def test_a_gpu_start_tells_memory_and_graphs() -> None:
    reader = LogReader()
    for line in (
        "INFO 11-24 13:52:33 [gpu_model_runner.py:5150] Model loading took 14.99 GiB memory and 3.141590 seconds",
        "INFO 11-24 13:52:33 [gpu_worker.py:760] Available KV cache memory: 5.25 GiB",
        "INFO 11-24 13:52:33 [kv_cache_utils.py:2327] GPU KV cache size: 43,008 tokens, Maximum concurrency for 2,048 tokens per "
        "request: 21.00x",
    ):
        reader.feed(line)
    assert reader.message.params == {"tokens": 43008, "kv_cache_bytes": gib(5.25)}
    reader.feed("Capturing CUDA graphs (decode, FULL):  50%|█████     | 4/8 [00:00<00:00, 10.1it/s]")
    assert (reader.stage, reader.progress) == (Stage.GRAPHS, 0.5)
    reader.feed("INFO 11-24 13:52:40 [gpu_model_runner.py:6582] Graph capturing finished in 3 secs, took 0.52 GiB")
    assert reader.figures == {
        "weights_bytes": gib(14.99),
        "kv_cache_bytes": gib(5.25),
        "kv_cache_tokens": 43008,
        "concurrency": 21.0,
        "graphs_bytes": gib(0.52),
    }


@pytest.mark.parametrize(
    ("name", "error", "params"),
    [
        ("bad_argument", ArgumentRejected, {"argument": "--no-such-flag"}),
        ("bad_value", ArgumentRejected, {"argument": "gpu_memory_utilization"}),
        ("architecture", ArchitectureUnsupported, {"architecture": "FunnyForCausalLM"}),
        ("kv_small", KvCacheTooSmall, {"max_tokens": 512}),
        ("memory_short", StartMemoryShort, {"wanted_bytes": round(93.13 * GIB)}),
        ("missing_model", LaunchFailed, {}),
        ("broken_weights", LaunchFailed, {}),
        ("port_in_use", PortLost, {"port": None}),
        ("long_context", ContextTooLong, {"max_tokens": 999999, "limit_tokens": 512}),
    ],
)
def test_a_recorded_failure_is_named(name: str, error: type[LaunchFailed], params: dict[str, object]) -> None:
    found = cause(recorded(name))
    assert type(found) is error
    assert {key: found.params[key] for key in params} == params
    assert found.params["model"] == "lab/one"
    assert str(found.params["log"]).splitlines() == recorded(name)[-20:]


def test_a_container_that_has_answered_served_though_its_first_lines_are_gone() -> None:
    answered = b'INFO:     172.17.0.1:58340 - "GET /metrics HTTP/1.1" 200 OK\n'
    assert stage_of(answered * 3) is Stage.SERVING
    assert stage_of(answered.replace(b"200 OK", b"401 Unauthorized")) is Stage.STARTING
    assert stage_of("\n".join(recorded("start")).encode()) is Stage.SERVING
    assert stage_of("\n".join(recorded("broken_weights")).encode()) is Stage.WEIGHTS
    assert stage_of(b"") is Stage.STARTING


def test_files_that_cannot_be_read_are_told_in_vllms_words() -> None:
    assert "/hf-cache/nowhere" in str(cause(recorded("missing_model")).params["detail"])


@pytest.mark.parametrize(
    ("line", "error", "params"),
    [
        (
            "ValueError: Free memory on device cuda:0 (31.4/47.4 GiB) on startup is less than desired GPU memory utilization "
            "(0.95, 45.03 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
            StartMemoryShort,
            {"free_bytes": gib(31.4), "total_bytes": gib(47.4), "wanted_bytes": gib(45.03)},
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (4096), (0.5 GiB KV cache is needed, which is "
            "larger than the available KV cache memory (0.25 GiB). Based on the available memory, the estimated maximum model length "
            "is 2048. Try increasing `gpu_memory_utilization`",
            KvCacheTooSmall,
            {"max_tokens": 4096, "needed_bytes": gib(0.5), "available_bytes": gib(0.25), "fits_tokens": 2048},
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            KvCacheTooSmall,
            {"max_tokens": 512, "available_bytes": 0, "fits_tokens": None},
        ),
        (
            "AssertionError: Error in memory profiling. Initial free memory 20.5 GiB, current free memory 21.25 GiB. This happens when",
            ProfileDisturbed,
            {"before_bytes": gib(20.5), "after_bytes": gib(21.25)},
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of 23.64 GiB",
            OutOfMemory,
            {},
        ),
    ],
)
def test_the_root_cause_counts_and_not_what_follows_of_it(
    line: str, error: type[LaunchFailed], params: dict[str, object]
) -> None:
    lines = [
        ENGINE + "Traceback (most recent call last):",
        ENGINE + line,
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        "(APIServer pid=1) torch.OutOfMemoryError: a later one",
    ]
    found = cause(lines)
    assert type(found) is error
    assert {key: found.params[key] for key in params} == params


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"exit_code": 3}, 3),
        ({"exit_code": 137, "exit_signal": "SIGKILL"}, "SIGKILL"),
    ],
)
def test_an_end_without_a_word_is_told_by_its_code(how: dict[str, object], told: object) -> None:
    found = cause(["all was well"], **how)
    assert type(found) is ContainerExited
    assert found.params["exit"] == told


def test_a_container_that_the_kernel_killed_for_memory_is_out_of_memory() -> None:
    assert type(cause([], exit_code=137, exit_signal="SIGKILL", oom_killed=True)) is OutOfMemory


def test_raw_output_is_split_at_line_ends_and_progress_states() -> None:
    assert split_chunks(b"one\r\ntwo\r 50%\r100%\nrest") == (["one", "two", " 50%", "100%"], b"rest")
    lines, rest = split_chunks(b"x" * 100_000)
    assert (len(lines), rest) == (1, b"")


def test_a_line_has_no_colours_and_an_end() -> None:
    assert clean_line("\x1b[36m(APIServer pid=1)\x1b[0m text \x00 \n") == "(APIServer pid=1) text"
    assert len(clean_line("y" * 5000)) == 2000


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_output_at_all_is_taken(pieces: list[bytes]) -> None:
    reader, rest, lines = LogReader(), b"", []
    for piece in pieces:
        found, rest = split_chunks(rest + piece)
        lines += [clean_line(line) for line in found]
    for line in lines:
        reader.feed(line)
    assert isinstance(reader.message.code, str)
    assert isinstance(cause(lines), LaunchFailed)


def test_what_somebody_asked_is_no_cause() -> None:
    lines = [
        "INFO 11-24 13:52:33 [logger.py:40] Received request: prompt: 'why CUDA out of memory?'",
        "RuntimeError: boom",
    ]
    assert type(cause(lines)) is ContainerExited


def test_a_figure_that_is_no_number_is_no_error_of_ours() -> None:
    line = "ValueError: Free memory on device cuda:0 (1.2.3/4 GiB) on startup is less than desired GPU memory utilization (x, 5.. GiB)"
    assert isinstance(cause([line]), LaunchFailed)


def test_less_memory_than_two_decimals_show_is_unknown() -> None:
    assert cause(recorded("kv_small")).params["available_bytes"] is None


def test_a_container_that_sees_no_gpu_says_so() -> None:
    assert (
        type(cause(["(APIServer pid=1) RuntimeError: Failed to infer device type, please set the"]))
        is GpuRuntimeMissing
    )


@pytest.mark.parametrize(
    ("line", "own"),
    [
        ('INFO:     172.31.125.1:40856 - "GET /metrics HTTP/1.1" 200 OK', True),
        ('INFO:     172.31.125.1:40856 - "GET /v1/models HTTP/1.1" 200 OK', True),
        ('INFO:     172.31.125.1:40856 - "GET /v1/models HTTP/1.1" 401 Unauthorized', False),
        ('INFO:     172.31.125.1:40856 - "POST /v1/chat/completions HTTP/1.1" 200 OK', False),
    ],
)
def test_wardens_own_questions_do_not_crowd_out_the_log(line: str, own: bool) -> None:
    assert is_own_question(line) is own
