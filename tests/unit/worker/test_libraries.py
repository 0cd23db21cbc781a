"""How a worker's libraries are set up before they are imported."""

from __future__ import annotations

import pytest

from webapp.worker.libraries import ALLOCATOR, ENVIRONMENT, environment


def test_memory_is_taken_in_segments_that_grow() -> None:
    assert environment({}) == {**ENVIRONMENT, "PYTORCH_CUDA_ALLOC_CONF": ALLOCATOR}


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_allocator_that_somebody_chose_stays(name: str) -> None:
    assert environment({name: "max_split_size_mb:64"}) == ENVIRONMENT
