"""The form: what is typed, what it means, and the way back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from tests.web.fakes import FakeController, instance, model
from webapp.domain.modes import BATCH_SIZE_LIMIT, MAX_TOKENS_LIMIT, LaunchOptions, Mode, Precision
from webapp.domain.plan import SwitchRequest
from webapp.errors import InvalidRequest
from webapp.web.launch.form import LaunchForm, sent

SNAPSHOT = FakeController().snapshot()


@given(
    st.sampled_from(Mode), st.sampled_from(Precision), st.integers(1, MAX_TOKENS_LIMIT), st.integers(1, BATCH_SIZE_LIMIT),
    st.sampled_from([None, ("gpu-0",), ("gpu-0", "gpu-1")]), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from([(), ("i1",), ("i2", "i1")]),
)  # fmt: skip
def test_a_request_survives_the_way_through_a_link(
    mode: Mode,
    precision: Precision,
    max_tokens: int,
    batch_size: int,
    devices: tuple[str, ...] | None,
    keep: bool,
    restore: bool,
    interrupt: bool,
    unload: tuple[str, ...],
) -> None:
    there = FakeController(instances=(instance("i1"), instance("i2"))).snapshot()
    options = LaunchOptions(precision.dtype, precision.quantization, max_tokens, batch_size)
    request = SwitchRequest(mode, "Qwen/Qwen3-1.7B", options, devices, keep, restore, interrupt)
    request = replace(request, unload=unload if keep else ())

    link = dict(parse_qsl(LaunchForm.of(request).query))

    assert LaunchForm.read(link, there).to_request() == request


def test_a_model_to_unload_that_has_gone_is_asked_for_no_more() -> None:
    there = FakeController(instances=(instance("i1"),)).snapshot()
    sent = {"mode": "transformers", "model": "m", "keep_others": "1", "unload": "gone,i1,i1,"}

    assert LaunchForm.read(sent, there).to_request().unload == ("i1",)


def test_each_model_that_was_confirmed_is_a_field_of_its_own() -> None:
    there = FakeController(instances=(instance("i1"), instance("i2"))).snapshot()
    fields = MultiDict([("mode", "transformers"), ("model", "m"), ("unload", ""), ("unload", "i2"), ("unload", "i1")])
    assert LaunchForm.read(sent(fields), there).to_request().unload == ("i2", "i1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "tgi"), ("precision", "fp8"), ("max_tokens", "0"), ("max_tokens", "4194305"), ("max_tokens", "1.5"),
        ("max_tokens", "１２"), ("batch_size", "1025"), ("batch_size", "two"), ("batch_size", "9" * 5000),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_meant_is_named(field: str, value: str) -> None:
    changes: dict[str, Any] = {field: value}
    with pytest.raises(InvalidRequest) as caught:
        replace(LaunchForm(model="m"), **changes).to_request()

    assert caught.value.params["field"] == field


def test_a_checkbox_that_is_off_is_off_only_in_a_form_that_was_sent() -> None:
    assert LaunchForm.read({}, SNAPSHOT).restore_on_failure
    assert not LaunchForm.read({"mode": "transformers"}, SNAPSHOT).restore_on_failure


def test_no_model_is_chosen_before_somebody_chooses_one() -> None:
    controller = FakeController(models=(model("lab/old", modified_at=1.0), model("lab/new", modified_at=3.0)))

    assert LaunchForm.read({}, controller.snapshot()).model == ""


def test_a_short_context_is_the_first_choice_of_a_model_that_has_no_more() -> None:
    controller = FakeController(models=(model("lab/tiny", context_length=512),))

    assert LaunchForm.read({"model": "lab/tiny"}, controller.snapshot()).max_tokens == "512"


def test_an_empty_cache_has_no_model_whatever_the_page_still_says() -> None:
    assert (
        LaunchForm.read({"mode": "transformers", "model": "lab/gone"}, FakeController(models=()).snapshot()).model == ""
    )


def test_a_model_stays_chosen_before_the_cache_was_read() -> None:
    unread = replace(SNAPSHOT, models=(), models_scanned_at=None)
    assert LaunchForm.read({"mode": "transformers", "model": "lab/one"}, unread).model == "lab/one"
