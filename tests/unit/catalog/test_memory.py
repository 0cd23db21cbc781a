"""However large a file of the cache is, the process that looks at it stays small."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.models import INDEX, WEIGHTS, make_model
from webapp.catalog.streaming import MAX_STREAMED_BYTES, MAX_TENSORS

MIB = 2**20
LOOK = """
import sys
from pathlib import Path
from webapp.catalog.scan import Catalog

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

Catalog(Path(sys.argv[1])).look()
before = peak()
(model,) = Catalog(Path(sys.argv[2])).look().models
print(peak() - before, model.problem.code if model.problem else None)
"""
"""The kernel's own word of the most that a process held."""


def look_at(small: Path, large: Path) -> tuple[int, str]:
    """Return by how much a look at ``large`` makes a process grow that has looked at ``small``, and the model's problem."""
    command = [sys.executable, "-c", LOOK, str(small), str(large)]
    grown, problem = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(grown), problem


def write(path: Path, parts: Iterator[bytes] | list[bytes]) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.writelines(parts)


def nested(size: int) -> list[bytes]:
    """An object of which Python would make twenty times as much."""
    return [b'{"x": [[]', b",[]" * (size // 3), b"]}"]


def many(first: bytes, member: Callable[[int], str], size: int) -> Iterator[bytes]:
    """An object of as many members as go in."""
    yield b'{"first":' + first
    written = 0
    while written < size:
        part = "".join("," + member(number) for number in range(written, written + 1000)).encode()
        written += len(part)
        yield part
    yield b"}"


def weights(parts: Iterator[bytes] | list[bytes]) -> list[bytes]:
    text = b"".join(parts)
    return [len(text).to_bytes(8, "little"), text]


def large_config(snapshot: Path) -> None:
    write(snapshot / "config.json", nested(120 * MIB))


def large_header(snapshot: Path) -> None:
    write(snapshot / WEIGHTS, weights(nested(90 * MIB)))


def nested_header(snapshot: Path) -> None:
    write(snapshot / WEIGHTS, weights(nested(MAX_STREAMED_BYTES - MIB)))


def crowded_header(snapshot: Path) -> None:
    tensor = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    entries = many(tensor.encode(), lambda number: f'"n{number}":{tensor}', MAX_STREAMED_BYTES - MIB)
    write(snapshot / WEIGHTS, weights(entries))


def crowded_index(snapshot: Path) -> None:
    (snapshot / WEIGHTS).unlink()
    names = many(b'"a"', lambda number: f'"n{number}":"a"', MAX_STREAMED_BYTES - MIB)
    write(snapshot / INDEX, [b'{"weight_map":', *names, b"}"])


def nested_index(snapshot: Path) -> None:
    (snapshot / WEIGHTS).unlink()
    write(snapshot / INDEX, nested(MAX_STREAMED_BYTES - MIB))


def large_tokenizer(snapshot: Path) -> None:
    token = '{"content":"<audio>","special":true}'
    parts = many(token.encode(), lambda number: f'"{number}":{token}', 6 * MIB)
    write(snapshot / "tokenizer_config.json", [b'{"added_tokens_decoder":', *parts, b',"chat_template":"x"}'])


@pytest.mark.parametrize(
    ("make_large", "problem", "most_mib"),
    [
        (large_config, "model_broken_config", 8),
        (large_header, "model_broken_weights", 8),
        (nested_header, "model_broken_weights", 48),
        (crowded_header, "model_broken_weights", 160),
        (crowded_index, "model_broken_weights", 64),
        (nested_index, "model_broken_weights", 48),
        (large_tokenizer, "None", 16),
    ],
)
def test_a_file_of_any_size_leaves_the_process_small(
    tmp_path: Path, make_large: Callable[[Path], None], problem: str, most_mib: int
) -> None:
    make_model(tmp_path / "small")
    make_large(make_model(tmp_path / "large"))

    grown, said = look_at(tmp_path / "small", tmp_path / "large")

    assert said == problem
    assert grown < most_mib * MIB


def test_as_many_tensors_as_the_largest_models_have_are_read(tmp_path: Path) -> None:
    """Kimi K2: 384 experts in 60 layers of three matrices with their scales, in one long header."""
    entries, end = {}, 0
    for number in range(MAX_TENSORS - 90_000):
        entries[f"model.layers.{number % 61}.mlp.experts.{number}.up_proj.weight"] = {
            "dtype": "U8",
            "shape": [1],
            "data_offsets": [end, end + 1],
        }
        end += 1
    snapshot = make_model(tmp_path / "large")
    text = json.dumps(entries, separators=(",", ":")).encode()
    write(snapshot / WEIGHTS, [len(text).to_bytes(8, "little"), text, bytes(end)])
    make_model(tmp_path / "small")

    grown, problem = look_at(tmp_path / "small", tmp_path / "large")

    assert 20 * MIB < len(text) < MAX_STREAMED_BYTES
    assert problem == "None"
    assert grown < 160 * MIB
