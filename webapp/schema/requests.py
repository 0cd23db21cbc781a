"""The request bodies. An omitted field has its default."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from webapp.schema.base import NAME_LIMIT, TEXT_LIMIT, Body, Dtype, Mode, Moment, Name, Quantization

MAX_TOKENS_LIMIT: Final = 4_194_304
BATCH_SIZE_LIMIT: Final = 1024
UNLOAD_LIMIT: Final = 100
LONGEST_LEASE_S: Final = 30 * 86400.0
LONGEST_PROMPT: Final = 20_000
REQUEST_ID_LIMIT: Final = 64

Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS_LIMIT)]
Text = Annotated[str, Field(max_length=TEXT_LIMIT)]
RequestId = Annotated[str, Field(max_length=REQUEST_ID_LIMIT, pattern=r"^[A-Za-z0-9._-]+$")]
Minutes = Annotated[float, Field(ge=0, allow_inf_nan=False)]


ModelId = Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]


class OptionsDocument(Body):
    """Launch options; an omitted one has its default."""

    dtype: Dtype = "auto"
    quantization: Quantization = "none"
    max_tokens: Tokens = Field(default=2048, description="Prompt and answer together, of one request.")
    batch_size: Annotated[int, Field(ge=1, le=BATCH_SIZE_LIMIT)] = Field(default=1, description="Requests at once.")


class LaunchDocument(Body):
    """A model to load, and what is unloaded for it.

    ``restore_on_failure`` loads the unloaded models again if the launch fails. ``lease_until``, ``reason`` and
    ``idle_unload_minutes`` are the terms of the new instance.
    """

    mode: Mode
    model: ModelId
    options: OptionsDocument = OptionsDocument()
    devices: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None, description="`null` lets Warden choose."
    )
    keep_others: bool = Field(default=False, description="Unload nothing but what `unload` names.")
    restore_on_failure: bool = True
    interrupt_busy: bool = Field(default=False, description="Cut off answers under way, of one's own models.")
    unload: Annotated[tuple[Name, ...], Field(max_length=UNLOAD_LIMIT)] = Field(
        default=(), description="Instances to unload, by id."
    )
    load_anyway: bool = Field(default=False, description="Override a memory shortage.")
    lease_until: Moment | None = None
    reason: Text = Field(default="", description="What the instance is for; shown to others.")
    idle_unload_minutes: Minutes | None = None
    override_reason: Text | None = Field(
        default=None, description="An administrator's reason to override a lease or a busy model of another person."
    )


class LaunchOnceDocument(LaunchDocument):
    """A launch that can be sent again: the fields of ``Launch``, and an id that the client chooses."""

    request_id: RequestId | None = Field(
        default=None,
        description="Letters, digits, `.`, `_`, `-`. The same person's second request under it begins nothing new.",
    )


class LaunchToQueueDocument(LaunchOnceDocument):
    """A launch to queue: the fields of ``LaunchOnce``, and whether it starts automatically."""

    starts_by_itself: bool = Field(default=True, description="Start when there is room, or only notify its person.")


class QuestionDocument(Body):
    """A question to a model."""

    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]
    max_tokens: Tokens | None = None


class ModelNameDocument(Body):
    """A cached model, by its id."""

    model: ModelId


class ContainerNameDocument(Body):
    """The exact name of the container, as confirmation."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]


class LeaseTermsDocument(Body):
    """New terms of an instance: an omitted field stays as it is, ``until: null`` ends the lease.

    ``until`` and ``extend_s`` exclude each other.
    """

    until: Moment | None = None
    extend_s: Annotated[float, Field(gt=0, le=LONGEST_LEASE_S, allow_inf_nan=False)] | None = None
    reason: Text | None = None
    idle_unload_minutes: Minutes | None = None


class ReleaseWishDocument(Body):
    """Why an instance is needed; the body can be omitted."""

    why: Text = ""


class ReleaseDecisionDocument(Body):
    """The owner's answer to a release request, with an optional message."""

    answer: Literal["keep", "release"]
    word: Text = ""


class OverrideDocument(Body):
    """An administrator's reason to unload a leased or busy model; the body can be omitted."""

    override_reason: Text | None = None


class CancellationDocument(Body):
    """What to cancel: the operation, or its rollback; the body can be omitted."""

    rollback: bool = False
