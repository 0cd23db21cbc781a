"""Weights read by several threads are, byte for byte, those that safetensors reads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from webapp.worker import host_weights
from webapp.worker.host_weights import HostWeightsFile, reading_pool

DTYPES = [*sorted(host_weights._DTYPES.values(), key=str), torch.uint16]  # the last is left to the library


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with reading_pool() as pool:
        yield pool


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path, metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_of_each_type_is_read_whole(dtype: torch.dtype, tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    first = torch.randint(0, 2, (3, 5, 7)).to(dtype)
    path = _saved(tmp_path / "x.safetensors", {"before": torch.ones(3), "it": first, "after": torch.ones(1)})
    read = HostWeightsFile(path, pool).get_slice("it")[...]
    assert (read.dtype, read.shape) == (dtype, first.shape)
    assert _bytes(read) == _bytes(first)


def test_a_tensor_larger_than_a_part_is_put_together(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    path = _saved(tmp_path / "x.safetensors", {"it": torch.randn(77, 131), "small": torch.arange(10)})
    file = HostWeightsFile(path, pool, part_bytes=1000)
    with safe_open(path, framework="pt") as library:
        for name in library.keys():  # noqa: SIM118 - no mapping
            assert _bytes(file.get_tensor(name)) == _bytes(library.get_tensor(name))


@pytest.mark.parametrize("shape", [(), (0,), (4, 0, 2), (1,)])
def test_scalars_and_empty_tensors(shape: tuple[int, ...], tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    path = _saved(tmp_path / "x.safetensors", {"it": torch.ones(shape)})
    assert torch.equal(HostWeightsFile(path, pool).get_tensor("it"), torch.ones(shape))


def test_what_the_library_answers_is_answered(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    path = _saved(tmp_path / "x.safetensors", {"it": torch.arange(12.0).reshape(3, 4)})
    with HostWeightsFile(path, pool) as file:
        assert list(file.keys()) == ["it"]
        assert file.metadata() == {"format": "pt"}
        piece = file.get_slice("it")
        assert (piece.get_shape(), piece.get_dtype()) == ([3, 4], "F32")
        assert torch.equal(piece[1:, :2], torch.arange(12.0).reshape(3, 4)[1:, :2])
        with pytest.raises(SafetensorError):
            file.get_tensor("other")


def test_a_file_cut_short_is_an_error(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    path = _saved(tmp_path / "x.safetensors", {"it": torch.ones(1000)})
    file = HostWeightsFile(path, pool)
    with path.open("r+b") as writing:
        writing.truncate(path.stat().st_size - 100)
    with pytest.raises(OSError, match="ends 100 bytes early"):
        file.get_tensor("it")
    with pytest.raises(SafetensorError):
        HostWeightsFile(path, pool)
