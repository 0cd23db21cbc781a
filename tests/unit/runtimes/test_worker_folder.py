"""A worker's folder: records survive, broken files read as nothing, logs stay bounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from webapp.domain.footprint import Footprint, Part, PartName
from webapp.domain.instance import InstanceState
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import Dtype, LaunchOptions, Quantization
from webapp.runtimes.base import LaunchDevice, LaunchSpec
from webapp.runtimes.worker_folder import LOG_KEPT_BYTES, LOG_LIMIT_BYTES, InstanceRecord, WorkerFolder

SPEC = LaunchSpec(
    instance_id="one",
    operation_id="op",
    model_id="owner/name",
    revision="r",
    snapshot=Path("/s"),
    options=LaunchOptions(Dtype.FLOAT16, Quantization.INT8, 512, 2),
    devices=(LaunchDevice("gpu-0", DeviceKind.GPU, 0, "GPU-x"),),
    owner="анна",
    footprints=(Footprint("gpu-0", (Part(PartName.WEIGHTS, 7), Part(PartName.KV_CACHE, 3))),),
)


@pytest.fixture
def folder(tmp_path: Path) -> WorkerFolder:
    (tmp_path / "one").mkdir()
    return WorkerFolder(tmp_path / "one")


def test_a_record_comes_back_as_the_instance_that_it_was(folder: WorkerFolder) -> None:
    record = InstanceRecord.of(replace(SPEC, started_at=12.5))
    folder.write_record(record)

    assert folder.record() == record
    instance = record.instance(InstanceState.STARTING)
    assert (instance.id, instance.options, instance.devices) == ("one", SPEC.options, ("gpu-0",))
    assert (instance.owner, instance.started_at, instance.predicted_bytes) == ("анна", 12.5, {"gpu-0": 10})
    assert instance.resting_bytes == {"gpu-0": 7}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 1}', b"\xff"])
def test_a_broken_file_reads_as_nothing(folder: WorkerFolder, content: bytes) -> None:
    for name in ("spec.json", "instance.json", "process.json", "failure.json"):
        (folder.path / name).write_bytes(content)

    assert (folder.spec(), folder.record(), folder.process(), folder.failure()) == (None, None, None, None)


def test_a_missing_folder_reads_as_nothing_and_is_removed_without_an_error(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path / "none")

    assert (folder.spec(), folder.record(), folder.log_tail(5), folder.log_size()) == (None, None, (), 0)
    assert not folder.exists()
    assert folder.remove()


def test_the_end_of_a_log_is_read_in_order(folder: WorkerFolder) -> None:
    folder.log.write_bytes(b"one\ntwo\n\xff three\n" + b"x" * 5000)

    assert folder.log_tail(3)[:2] == ("two", "\ufffd three")
    assert len(folder.log_tail(3)[2]) == 2000
    assert folder.log_tail(0) == ()


def test_a_log_that_grew_too_long_is_cut_to_its_end_under_the_hands_of_its_writer(folder: WorkerFolder) -> None:
    with folder.log.open("ab") as writer:
        writer.write(b"".join(b"line %09d\n" % number for number in range(LOG_LIMIT_BYTES // 15 + 1000)))
        writer.flush()
        folder.trim_log()
        writer.write(b"after\n")
        writer.flush()

    assert folder.log_size() <= LOG_KEPT_BYTES + 6
    assert folder.log_tail(1) == ("after",)
    assert folder.log_tail(10**6)[0].startswith("line ")
    size = folder.log_size()
    folder.trim_log()
    assert folder.log_size() == size
