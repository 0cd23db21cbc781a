"""What of the GPU probe needs no driver: the errors' translation and the merging of process lists."""

from __future__ import annotations

import pynvml
import pytest

from webapp.errors import DeviceLost, DriverMissing, NotSupported, ProbeFailed
from webapp.hardware.nvml import merge_claims, translate

NUMBERS = sorted(value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_"))
EXPECTED = {
    pynvml.NVML_ERROR_UNINITIALIZED: DriverMissing,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: DriverMissing,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: DriverMissing,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: DriverMissing,
    pynvml.NVML_ERROR_GPU_IS_LOST: DeviceLost,
    pynvml.NVML_ERROR_GPU_NOT_FOUND: DeviceLost,
    pynvml.NVML_ERROR_RESET_REQUIRED: DeviceLost,
    pynvml.NVML_ERROR_NOT_SUPPORTED: NotSupported,
    pynvml.NVML_ERROR_NO_PERMISSION: NotSupported,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: NotSupported,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: NotSupported,
    pynvml.NVML_ERROR_DEPRECATED: NotSupported,
    pynvml.NVML_ERROR_NO_DATA: NotSupported,
}


def test_there_are_errors_to_translate() -> None:
    assert len(NUMBERS) > 30
    assert set(EXPECTED) <= set(NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_each_of_the_librarys_errors_becomes_one_of_ours(number: int) -> None:
    ours = translate(pynvml.NVMLError(number), "gpu-0")
    assert type(ours) is EXPECTED.get(number, ProbeFailed)
    assert ours.params["detail"]


def test_an_error_number_of_a_newer_driver_is_a_failed_reading() -> None:
    assert translate(pynvml.NVMLError(4711), "gpu-0").params == {
        "device": "gpu-0",
        "detail": "NVML Error with code 4711",
    }


def test_a_binding_that_does_not_fit_the_library_is_not_supported() -> None:
    assert type(translate(pynvml.NVMLLibraryMismatchError("old"))) is NotSupported


@pytest.mark.parametrize(
    ("compute", "graphics", "merged"),
    [
        ([], [], {}),
        ([(7, 5)], [(8, 3)], {7: 5, 8: 3}),
        ([(7, 5)], [(7, 5)], {7: 5}),
        ([(7, 5)], [(7, 6)], {7: 6}),
        ([(7, 2), (7, 3)], [], {7: 5}),
        ([(7, 2), (7, None)], [], {7: None}),
        ([(7, None)], [(7, 4)], {7: 4}),
        ([(7, 4)], [(7, None)], {7: 4}),
        ([(7, None)], [(7, None)], {7: None}),
        ([(7, 0)], [], {7: 0}),
    ],
)
def test_a_process_has_one_figure(
    compute: list[tuple[int, int | None]], graphics: list[tuple[int, int | None]], merged: dict[int, int | None]
) -> None:
    assert merge_claims(compute, graphics) == merged
