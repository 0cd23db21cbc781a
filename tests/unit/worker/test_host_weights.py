"""Weights read by several threads are, byte for byte, those that safetensors reads."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from webapp.worker import host_weights, memory
from webapp.worker.host_weights import THREADS, HostWeightsFile, Readers

DTYPES = [*sorted(host_weights._DTYPES.values(), key=str), torch.uint16]  # the last is left to the library


@pytest.fixture
def make_readers() -> Iterator[Callable[..., Readers]]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield partial(Readers, pool)


@pytest.fixture
def threads(make_readers: Callable[..., Readers]) -> Readers:
    return make_readers()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path, metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_of_each_type_is_read_whole(dtype: torch.dtype, tmp_path: Path, threads: Readers) -> None:
    first = torch.randint(0, 2, (3, 5, 7)).to(dtype)
    path = _saved(tmp_path / "x.safetensors", {"before": torch.ones(3), "it": first, "after": torch.ones(1)})
    read = HostWeightsFile(path, threads).get_slice("it")[...]
    assert (read.dtype, read.shape) == (dtype, first.shape)
    assert _bytes(read) == _bytes(first)


def test_a_tensor_larger_than_a_part_is_put_together(tmp_path: Path, make_readers: Callable[..., Readers]) -> None:
    path = _saved(tmp_path / "x.safetensors", {"it": torch.randn(77, 131), "small": torch.arange(10)})
    file = HostWeightsFile(path, make_readers(part_bytes=1000))
    with safe_open(path, framework="pt") as library:
        for name in library.keys():  # noqa: SIM118 - no mapping
            assert _bytes(file.get_tensor(name)) == _bytes(library.get_tensor(name))


@pytest.mark.parametrize("size", [4095, 4096, 2**20 - 8, 9 * 2**20 + 1])
@pytest.mark.parametrize("part_bytes", [4096, 2**20 - 1, 4 * 2**20])
def test_the_last_part_is_read_too(
    size: int, part_bytes: int, tmp_path: Path, make_readers: Callable[..., Readers]
) -> None:
    content = torch.randint(0, 256, (size,), dtype=torch.uint8)
    path = _saved(tmp_path / "x.safetensors", {"before": torch.ones(3), "it": content})
    assert torch.equal(HostWeightsFile(path, make_readers(part_bytes=part_bytes)).get_tensor("it"), content)


def test_weights_count_as_the_process_s_own_memory(tmp_path: Path, threads: Readers) -> None:
    size = 64 * 2**20
    path = _saved(tmp_path / "x.safetensors", {"it": torch.ones(size, dtype=torch.uint8)})
    before = memory.own_bytes()
    read = HostWeightsFile(path, threads).get_tensor("it")
    after = memory.own_bytes()
    assert before is not None and after is not None
    assert after - before == pytest.approx(size, rel=0.1)
    assert read.numel() == size


@pytest.mark.parametrize("shape", [(), (0,), (4, 0, 2), (1,)])
def test_scalars_and_empty_tensors(shape: tuple[int, ...], tmp_path: Path, threads: Readers) -> None:
    path = _saved(tmp_path / "x.safetensors", {"it": torch.ones(shape)})
    assert torch.equal(HostWeightsFile(path, threads).get_tensor("it"), torch.ones(shape))


def test_what_the_library_answers_is_answered(tmp_path: Path, threads: Readers) -> None:
    path = _saved(tmp_path / "x.safetensors", {"it": torch.arange(12.0).reshape(3, 4)})
    with HostWeightsFile(path, threads) as file:
        assert list(file.keys()) == ["it"]
        assert file.metadata() == {"format": "pt"}
        piece = file.get_slice("it")
        assert (piece.get_shape(), piece.get_dtype()) == ([3, 4], "F32")
        assert torch.equal(piece[1:, :2], torch.arange(12.0).reshape(3, 4)[1:, :2])
        with pytest.raises(SafetensorError):
            file.get_tensor("other")


@pytest.mark.parametrize(("size", "lacking"), [(4000, 100), (9 * 2**20, 100), (9 * 2**20, 7 * 2**20)])
def test_a_file_cut_short_is_an_error(size: int, lacking: int, tmp_path: Path, threads: Readers) -> None:
    path = _saved(tmp_path / "x.safetensors", {"it": torch.ones(size, dtype=torch.uint8)})
    file = HostWeightsFile(path, threads)
    with path.open("r+b") as writing:
        writing.truncate(path.stat().st_size - lacking)
    with pytest.raises(OSError, match=f"ends {lacking} bytes early"):
        file.get_tensor("it")
    with pytest.raises(SafetensorError):
        HostWeightsFile(path, threads)
