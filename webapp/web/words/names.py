"""Names of enum members: states, kinds, modes, roles, fields. Their English is the source of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webapp.domain.audit import Action, ActionGroup, AuditChannel, Detail, Result
from webapp.domain.footprint import Confidence, Note, PartName, Source
from webapp.domain.instance import InstanceState
from webapp.domain.lease import ReleaseAnswer
from webapp.domain.memory import LedgerKind, Level
from webapp.domain.modes import Mode, Precision
from webapp.domain.operation import OperationKind, OperationState, StepName, StepState
from webapp.domain.people import Role
from webapp.domain.plan import Verdict
from webapp.domain.planning.fit import Fit
from webapp.domain.postmortem import Cause, Phase
from webapp.domain.queue import QueueState
from webapp.domain.recommend import Mark
from webapp.domain.selftest import CheckMark, CheckName
from webapp.domain.timeline import EventMark, Span
from webapp.texts import N_, NP_

LEVELS: Final[Mapping[str, str]] = {
    Level.GOOD: N_("Enough"),
    Level.LOW: N_("Low memory"),
    Level.CRITICAL: N_("Critically low"),
}
MODES: Final[Mapping[str, str]] = {Mode.TRANSFORMERS: "Transformers", Mode.VLLM: "vLLM"}
PRECISIONS: Final[Mapping[str, str]] = {
    Precision.AUTO: N_("As in the files"),
    Precision.FP16: "FP16",
    Precision.BF16: "BF16",
    Precision.FP32: "FP32",
    Precision.INT8: "INT8",
    Precision.INT4: N_("4-bit NF4"),
}
INSTANCE_STATES: Final[Mapping[str, str]] = {
    InstanceState.STARTING: N_("starting"),
    InstanceState.LOADING: N_("loading"),
    InstanceState.READY: N_("ready"),
    InstanceState.SILENT: N_("not answering"),
    InstanceState.STOPPING: N_("stopping"),
    InstanceState.STUCK: N_("is not stopping"),
    InstanceState.DEAD: N_("exited unexpectedly"),
}
KINDS: Final[Mapping[str, str]] = {
    OperationKind.SWITCH: N_("Switch"),
    OperationKind.UNLOAD: NP_("noun", "Unload"),
    OperationKind.CLEAN: N_("Memory clean-up"),
    OperationKind.EMERGENCY: N_("Emergency clean-up"),
    OperationKind.DEMO: N_("Demo model created"),
    OperationKind.STOP_CONTAINER: N_("Container stopped"),
    OperationKind.SELFTEST: N_("Self-test"),
    OperationKind.RESTORE: NP_("noun", "Load again"),
}
OPERATION_STATES: Final[Mapping[str, str]] = {
    OperationState.RUNNING: NP_("operation", "running"),
    OperationState.SUCCEEDED: N_("success"),
    OperationState.WARNING: N_("warning"),
    OperationState.FAILED: N_("error"),
    OperationState.CANCELLED: N_("cancelled"),
    OperationState.ABANDONED: N_("interrupted"),
}
QUEUE_STATES: Final[Mapping[str, str]] = {
    QueueState.WAITING: N_("queued"),
    QueueState.READY: N_("fits"),
    QueueState.STARTING: N_("starting"),
    QueueState.STARTED: N_("started"),
    QueueState.CANCELLED: N_("cancelled"),
    QueueState.EXPIRED: N_("expired"),
    QueueState.FAILED: N_("not started"),
}
STEP_NAMES: Final[Mapping[str, str]] = {
    StepName.PLAN: N_("Plan"),
    StepName.GRACE: N_("Countdown"),
    StepName.UNLOAD: NP_("noun", "Unload"),
    StepName.SETTLE: N_("Wait for memory"),
    StepName.CLEAN: N_("Clean up"),
    StepName.CHECK: N_("Check"),
    StepName.LAUNCH: N_("Launch"),
    StepName.READY: N_("Ready"),
    StepName.MEASURE: N_("Measure"),
    StepName.CREATE: N_("Write files"),
    StepName.END: NP_("noun", "End"),
    StepName.CHECKS: N_("Checks"),
    StepName.ROLLBACK: N_("Roll back"),
}
STEP_STATES: Final[Mapping[str, str]] = {
    StepState.WAITING: N_("waiting"),
    StepState.RUNNING: NP_("step", "running"),
    StepState.DONE: N_("done"),
    StepState.WARNING: N_("with a warning"),
    StepState.FAILED: N_("failed"),
    StepState.SKIPPED: N_("skipped"),
}
VERDICTS: Final[Mapping[str, str]] = {
    Verdict.FITS: N_("Fits"),
    Verdict.TIGHT: N_("Tight"),
    Verdict.REFUSED: N_("Not possible now"),
}
REFUSALS: Final[Mapping[str, str]] = {
    "not_enough_memory": N_("Doesn’t fit"),
    "instance_in_use": N_("In use"),
    "instance_leased": N_("In use"),
    "already_loaded": N_("Already loaded"),
    "confirmation_needed": N_("Confirm"),
    "mode_unavailable": N_("Not available"),
    "model_unsuitable": N_("Not available"),
}
"""A refused plan in a word, if its code is more specific than the verdict."""
FITS: Final[Mapping[str, str]] = {
    Fit.NOW: N_("fits now"),
    Fit.AFTER_UNLOADING: N_("fits after unloading"),
    Fit.TOO_LARGE: N_("doesn’t fit"),
    Fit.UNKNOWN: N_("unknown"),
}
SORTS: Final[Mapping[str, str]] = {"name": N_("by name"), "size": N_("by size"), "fit": N_("by fit")}
MARKS: Final[Mapping[str, str]] = {Mark.OK: N_("unlimited"), Mark.LIMITED: N_("limited")}
CHECKS: Final[Mapping[str, str]] = {
    CheckName.MEMORY: N_("Memory readings"),
    CheckName.STATE: N_("State folder and database"),
    CheckName.ADVICE: N_("Recommendations"),
    CheckName.VLLM: N_("vLLM mode"),
    CheckName.MODEL: N_("Tiny model"),
    CheckName.SWITCH: NP_("noun", "Loading"),
    CheckName.ANSWER: N_("The model’s answer"),
    CheckName.REPLACE: N_("Switch"),
    CheckName.REFUSAL: N_("Refusal when memory is short"),
    CheckName.CLEAN: N_("Cleaning"),
    CheckName.UNLOAD: N_("Unloading and freed memory"),
}
CHECK_MARKS: Final[Mapping[str, str]] = {
    CheckMark.OK: N_("ok"),
    CheckMark.WARNING: NP_("check", "warning"),
    CheckMark.FAILED: NP_("check", "failed"),
    CheckMark.SKIPPED: N_("skipped"),
}
CAUSES: Final[Mapping[str, str]] = {
    Cause.NEIGHBOUR_GREW: N_("another process took memory"),
    Cause.ESTIMATE_LOW: N_("estimate too low"),
    Cause.LOAD_PEAK: N_("load peak"),
    Cause.KV_CACHE: N_("KV cache"),
    Cause.PROCESS_LIMIT: N_("process limit"),
    Cause.UNKNOWN: N_("unknown cause"),
}
PHASES: Final[Mapping[str, str]] = {
    Phase.STARTING: N_("at the start"),
    Phase.LOADING: N_("while weights were loading"),
    Phase.KV_CACHE: N_("while the KV cache was allocated"),
    Phase.ANSWERING: N_("while answering requests"),
}
LEDGER: Final[Mapping[str, str]] = {
    LedgerKind.DRIVER: N_("driver"),
    LedgerKind.CONTAINER: N_("container"),
    LedgerKind.LAUNCHER: N_("libraries shared by models"),
    LedgerKind.WORKER: N_("helper process"),
    LedgerKind.FOREIGN: N_("another person’s process"),
    LedgerKind.UNATTRIBUTED: N_("unattributed"),
    LedgerKind.FREE: N_("free"),
}
SPANS: Final[Mapping[str, str]] = {Span.HOUR: N_("Hour"), Span.WEEK: N_("Week")}
EVENT_MARKS: Final[Mapping[str, str]] = {
    EventMark.LOAD: NP_("noun", "Loading"),
    EventMark.UNLOAD: NP_("noun", "Unload"),
    EventMark.SWITCH: N_("Switch"),
    EventMark.CLEAN: N_("Memory clean-up"),
    EventMark.FAILURE: N_("Failure"),
    EventMark.CANCELLED: N_("Cancelled"),
    EventMark.EMERGENCY: N_("Emergency clean-up"),
    EventMark.CONTAINER: N_("Container stopped"),
    EventMark.SELFTEST: N_("Self-test"),
}
PARTS: Final[Mapping[str, str]] = {
    PartName.WEIGHTS: N_("weights"),
    PartName.KV_CACHE: N_("KV cache"),
    PartName.ACTIVATION: N_("computation"),
    PartName.GRAPHS: N_("CUDA graphs"),
    PartName.NON_TORCH: N_("libraries outside torch"),
    PartName.CONTEXT: N_("runtime"),
}
SOURCES: Final[Mapping[str, str]] = {
    Source.HEADERS: N_("file headers"),
    Source.INDEX: N_("file index"),
    Source.SIZES: "config.json",
    Source.FILES: N_("file size"),
    Source.RULE: N_("calculated"),
    Source.PUBLISHED: N_("published measurements"),
    Source.MEASURED: N_("measured on other servers"),
    Source.LEARNED: N_("measured here"),
    Source.DEVICE: N_("measured here with other models"),
    Source.GUESS: N_("guess"),
    Source.NOTHING: N_("not applicable"),
}
CONFIDENCES: Final[Mapping[str, str]] = {
    Confidence.HIGH: N_("high"),
    Confidence.MEDIUM: N_("medium"),
    Confidence.LOW: N_("low"),
}
NOTES: Final[Mapping[str, str]] = {
    Note.UNKNOWN_ARCHITECTURE: N_("Unknown architecture: calculated as if it used standard attention."),
    Note.UNSTATED_SIZES: N_(
        "config.json does not state the sizes needed for the KV cache and the computation; they are "
        "guessed from the weights."
    ),
    Note.STATE_LAYERS: N_(
        "Some layers keep a constant state for each request; its size is calculated by the usual rule."
    ),
    Note.ENCODER: N_(
        "There is an encoder in addition to the decoder: its keys and values are counted for an input as "
        "long as the context."
    ),
    Note.NO_KV_CACHE: N_("An encoder has no KV cache."),
    Note.WEIGHTS_FROM_INDEX: N_(
        "There are no safetensors headers: the size of the weights is the total stated by the index."
    ),
    Note.WEIGHTS_FROM_SIZES: N_(
        "There are no safetensors headers: the size of the weights is calculated from config.json."
    ),
    Note.WEIGHTS_FROM_FILES: N_("The weights are not safetensors: their size on disk was used."),
    Note.DEQUANTIZED: N_("transformers unpacks these quantized files to 16 bits while loading."),
    Note.EXPERTS_NOT_QUANTIZED: N_("bitsandbytes skips fused experts, so the model shrinks little."),
    Note.EXPERTS: N_("A mixture of experts: how evenly tokens spread over them is not known in advance."),
    Note.EAGER_ATTENTION: N_(
        "transformers holds the scores of all pairs of tokens for this model: memory grows with the "
        "square of the prompt."
    ),
    Note.MASKED_WINDOW: N_(
        "The prompt is longer than the attention window: transformers builds a mask over all pairs of its tokens."
    ),
    Note.VISION: N_("Images and audio take more than text."),
    Note.DEVICE_MEMORY_UNKNOWN: N_("The GPU’s memory is unknown: vLLM’s limits for a smaller card were used."),
}
"""Notes that help people judge a footprint, as whole sentences."""
STAGES: Final[Mapping[str, str]] = {
    "ask": N_("graceful stop"),
    "terminate": "SIGTERM",
    "kill": "SIGKILL",
    "verify": N_("check"),
}
ROLES: Final[Mapping[str, str]] = {
    Role.VIEWER: N_("viewer"),
    Role.OPERATOR: N_("operator"),
    Role.ADMINISTRATOR: N_("administrator"),
}
GROUPS: Final[Mapping[str, str]] = {
    ActionGroup.SIGNING: N_("sign-ins"),
    ActionGroup.PEOPLE: N_("people and access"),
    ActionGroup.MODELS: N_("models"),
    ActionGroup.LEASES: N_("leases and release requests"),
    ActionGroup.WAITING: N_("queue"),
    ActionGroup.SERVER: N_("server"),
    ActionGroup.ACCESS: N_("access denied"),
}
ACTIONS: Final[Mapping[str, str]] = {
    Action.SIGN_IN: NP_("noun", "Sign in"),
    Action.SIGN_OUT: N_("Sign-out"),
    Action.PASSWORD: N_("Password changed"),
    Action.SESSION_ENDED: N_("Own session ended"),
    Action.SESSIONS_ENDED: N_("Signed out everywhere"),
    Action.TOKEN_MADE: N_("New token"),
    Action.TOKEN_REVOKED: N_("Token revoked"),
    Action.INVITATION_MADE: N_("New invitation"),
    Action.INVITATION_DROPPED: N_("Invitation revoked"),
    Action.INVITATION_USED: N_("Invitation accepted"),
    Action.PERSON_MADE: N_("New account"),
    Action.ROLE: N_("Role changed"),
    Action.DISABLED: N_("Account disabled"),
    Action.ENABLED: N_("Account enabled"),
    Action.REMOVED: N_("Account removed"),
    Action.SWITCH: N_("Load model"),
    Action.UNLOAD: N_("Unload model"),
    Action.IDLE_UNLOAD: N_("Idle model unloaded"),
    Action.DEMO: N_("Demo model created"),
    Action.PAUSE_ENDED: N_("Pause after a failed load ended"),
    Action.LEASE: N_("Lease terms"),
    Action.KEEP: N_("Idle model kept"),
    Action.RELEASE_ASKED: N_("Release request"),
    Action.RELEASE_ANSWERED: N_("Release request answered"),
    Action.RELEASED_IN_SILENCE: N_("Model released: its owner did not answer"),
    Action.QUEUE_JOINED: N_("Queue joined"),
    Action.QUEUE_LEFT: N_("Queue left"),
    Action.QUEUE_RESUMED: N_("Queue place resumed"),
    Action.QUEUE_STARTED: N_("Start from the queue"),
    Action.CLEAN: N_("Memory clean-up"),
    Action.EMERGENCY: N_("Emergency clean-up"),
    Action.CONTAINER_STOPPED: N_("External container stopped"),
    Action.CANCEL: N_("Operation cancelled"),
    Action.SELFTEST: N_("Self-test"),
    Action.ADDRESS: N_("Access denied"),
}
CAME: Final[Mapping[str, str]] = {
    AuditChannel.LOCAL: N_("without signing in, on this machine"),
    AuditChannel.SESSION: N_("by password"),
    AuditChannel.PROXY: N_("via the proxy"),
    AuditChannel.TOKEN: N_("by token"),
    AuditChannel.NOBODY: N_("not signed in"),
    AuditChannel.COMMAND_LINE: N_("command line"),
    AuditChannel.ITSELF: N_("automatic"),
}
RESULTS: Final[Mapping[str, str]] = {
    Result.DONE: N_("done"),
    Result.REFUSED: N_("refused"),
    Result.FAILED: N_("failed"),
}
DETAILS: Final[Mapping[str, str]] = {
    Detail.ROLE_BEFORE: N_("previous role"),
    Detail.ROLE: N_("role"),
    Detail.SCOPE: N_("token scope"),
    Detail.DAYS: N_("lifetime, days"),
    Detail.HOURS: N_("lifetime, hours"),
    Detail.MODE: N_("mode"),
    Detail.LOAD_ANYWAY: N_("despite the memory estimate"),
    Detail.OVERRIDE_REASON: N_("reason to override"),
    Detail.OWNER: N_("owner"),
    Detail.LEASE: N_("lease until"),
    Detail.EXTENDED: N_("extended"),
    Detail.REASON: N_("purpose"),
    Detail.IDLE: N_("idle unload, minutes"),
    Detail.WHY: N_("why"),
    Detail.ANSWER: N_("answer"),
    Detail.WORD: N_("owner’s message"),
    Detail.ROLLBACK: N_("without restoring the previous models"),
    Detail.REPEATED: N_("repeats within a minute"),
}
RELEASE_ANSWERS: Final[Mapping[str, str]] = {
    ReleaseAnswer.KEEP: N_("keep"),
    ReleaseAnswer.RELEASE: N_("release"),
}
FIELDS: Final[Mapping[str, str]] = {
    "mode": N_("Mode"),
    "model": N_("Model"),
    "precision": N_("Precision"),
    "dtype": N_("Precision"),
    "quantization": N_("Quantization"),
    "max_tokens": N_("Tokens"),
    "batch_size": N_("Batch"),
    "device": N_("Device"),
    "devices": N_("Device"),
    "unload": N_("Unload"),
    "lease": N_("Lease"),
    "lease_until": N_("Lease"),
    "lease_time": N_("Lease until"),
    "reason": N_("Purpose"),
    "idle": N_("Unload when idle"),
    "idle_unload_minutes": N_("Unload when idle"),
    "why": N_("Why"),
    "word": N_("Answer"),
    "prompt": N_("Prompt"),
    "kind": N_("Kind"),
    "actor": N_("Who"),
    "state": N_("Result"),
    "before": N_("After the operation"),
    "span": N_("Period"),
    "name": N_("Name"),
    "label": N_("Label"),
    "role": N_("Role"),
}
"""The form's labels of the fields that an ``invalid`` error can name."""
