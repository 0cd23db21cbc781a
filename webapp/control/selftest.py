"""The self-test: the body of a ``selftest`` operation. It inspects the real Warden, and acts only in a separate
sandbox.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from webapp.control.context import Context, Sandbox, total_or_none
from webapp.control.contract import Question
from webapp.control.run import Outcome, Run
from webapp.control.unloading import READING_TIMEOUT_S
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.model import CachedModel
from webapp.domain.modes import Dtype, LaunchOptions, Mode
from webapp.domain.operation import Finding, Operation, OperationState, StepName, StepState
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.planner import plan_switch
from webapp.domain.recommend import Advice, recommend
from webapp.domain.selftest import (
    Check,
    CheckMark,
    CheckName,
    Given,
    Judged,
    Loaded,
    StateFacts,
    failed,
    judge_advice,
    judge_answer,
    judge_load,
    judge_memory,
    judge_refusal,
    judge_replace,
    judge_state,
    judge_unload,
    judge_vllm,
    ok,
    warning,
    worst_of,
)
from webapp.domain.units import GIB
from webapp.errors import (
    AlreadyRunning,
    Busy,
    Cancelled,
    GenerationFailed,
    NotEnoughMemory,
    SandboxFailed,
    StoreUnavailable,
    Superseded,
    WardenError,
)
from webapp.folders import make_private
from webapp.message import Message

log = logging.getLogger(__name__)

STEPS = (StepName.CHECKS,)
CLAIM = "selftest"
"""The claim of a self-test from its beginning, so that two clicks start only one; the device is claimed only while a
model is loaded there.
"""
READINGS = 3
POLL_S = 0.1
ANSWER_S = 60.0
STORE_S = 3.0
ALLOWANCE_BYTES = 2 * GIB
"""The most that the sandbox's models may take in addition to the reserve. It bounds the effect of a self-test, and
gives the refusal a limit to meet.
"""
FIRST = LaunchOptions(max_tokens=512)
SECOND = LaunchOptions(max_tokens=1024)
FAR_TOO_LARGE = LaunchOptions(dtype=Dtype.FLOAT32, max_tokens=2048, batch_size=1024)
"""4 GiB of KV cache for the tiny model: beyond the allowance on every device."""
QUESTION = Question("Hello! How are you today?", max_tokens=8, temperature=0.0)
ACTOR = "selftest"
_STATES = {
    CheckMark.OK: OperationState.SUCCEEDED,
    CheckMark.WARNING: OperationState.WARNING,
    CheckMark.FAILED: OperationState.FAILED,
}


class _Ends(Exception):
    """A check ends here, with the result ``judged``."""

    def __init__(self, judged: Judged) -> None:
        super().__init__(judged.seen.code)
        self.judged = judged


@dataclass
class SelfTest:
    """One self-test in progress. ``recommend`` returns the page's advice for the free memory."""

    run: Run
    recommend: Callable[[], Advice | None]
    loaded: Instance | None = None
    """The sandbox's model, once it is loaded."""
    model: CachedModel | None = None
    device: str = ""
    _checks: list[Check] = field(default_factory=list)

    def carry_out(self) -> Outcome:
        """Carry out the test: the body of a ``selftest`` operation. The real Warden is not changed."""
        with self.run.step(StepName.CHECKS) as note:
            self._check(CheckName.MEMORY, self._memory)
            self._check(CheckName.STATE, self._state)
            self._check(CheckName.ADVICE, self._advice)
            self._check(CheckName.VLLM, lambda: judge_vllm(self.run.context.mode_problems()[Mode.VLLM]))
            self._beside()
            worst = worst_of(self._checks)
            note.message = Message("selftest_checked", {"count": len(self._checks)})
            note.state = StepState.DONE if worst is CheckMark.OK else StepState.WARNING
        return Outcome(_STATES[worst], self._summary(worst))

    def _summary(self, worst: CheckMark) -> Message:
        count = sum(check.mark is worst for check in self._checks)
        if worst is CheckMark.OK:
            return Message("selftest_done", {"count": count})
        return Message(
            "selftest_done_failed" if worst is CheckMark.FAILED else "selftest_done_warnings", {"count": count}
        )

    def _check(self, name: CheckName, look: Callable[[], Judged]) -> bool:
        """Carry out one check and store it; return whether dependent checks can run."""
        params = {"check": name.value}
        self.run.tell(StepName.CHECKS, Message("selftest_checking", params), len(self._checks) / len(CheckName))
        self.run.check()
        began = self.run.context.monotonic()
        judged = _judged(look)
        self._note(name, judged, self.run.context.monotonic() - began)
        return judged.mark is not CheckMark.FAILED

    def _note(self, name: CheckName, judged: Judged, seconds: float) -> None:
        self._checks.append(Check(name, judged.mark, judged.seen, round(seconds, 3), judged.advice))
        self.run.change(checks=tuple(self._checks))

    # Inspections

    def _memory(self) -> Judged:
        context = self.run.context
        samples = [context.monitor.fresh(READING_TIMEOUT_S) for _ in range(READINGS)]
        witnesses = {} if context.sandboxes is None else context.sandboxes.witnesses()
        return judge_memory(samples, context.monitor.age_s(), context.settings.monitor.stale_after_s, witnesses)

    def _state(self) -> Judged:
        context = self.run.context
        context.journal.record(self.run.operation)
        kept = _is_kept(context, self.run.id)
        facts = state_facts(context.settings.storage.state_dir, kept=kept)
        return judge_state(facts if kept else replace(facts, store_problem=context.keeper.trouble))

    def _advice(self) -> Judged:
        shown = self.recommend()
        reason = next((r for r in (() if shown is None else shown.reasons) if r.code == "advice_free"), None)
        free = None if reason is None else reason.params.get("free_bytes")
        return judge_advice(recommend, free if isinstance(free, int) else None, shown)

    # Trials in the sandbox

    def _beside(self) -> None:
        context = self.run.context
        assert context.sandboxes is not None, "a sandbox has none of its own"
        try:
            with context.sandboxes.open(self._limit_bytes()) as sandbox:
                self._try(sandbox)
        except AlreadyRunning:
            self._cut(warning(Message("selftest_elsewhere"), Message("selftest_advice_later")))
        except SandboxFailed as exc:
            self._cut(
                failed(
                    exc.message, Message("selftest_advice_state", {"folder": str(context.settings.storage.state_dir)})
                )
            )

    def _cut(self, judged: Judged) -> None:
        """Record why the sandbox failed: in place of the checks that could not run, or as a line if all of them ran."""
        done = {check.name for check in self._checks}
        left = [name for name in CheckName if name not in done]
        if not left:
            self.run.add_findings(Finding(judged.seen, ok=False))
            return
        self._note(left[0], judged, 0.0)
        self._skip(left[0], *left[1:])

    def _skip(self, because: CheckName, *names: CheckName) -> None:
        for name in names:
            seen = Message("selftest_skipped", {"check": because.value})
            self._note(name, Judged(CheckMark.SKIPPED, seen), 0.0)

    def _limit_bytes(self) -> int:
        sample, policy = self.run.context.monitor.latest(), self.run.context.policy
        totals = [0] if sample is None else [r.total_bytes or 0 for r in sample.readings]
        return max(policy.reserve_on(total) for total in [*totals, 0]) + ALLOWANCE_BYTES

    def _try(self, sandbox: Sandbox) -> None:
        rest = [name for name in CheckName if name not in {check.name for check in self._checks}]
        steps: Mapping[CheckName, Callable[[Sandbox], Judged]] = {
            CheckName.MODEL: self._make,
            CheckName.SWITCH: self._switch,
            CheckName.ANSWER: self._ask,
            CheckName.REPLACE: self._replace,
            CheckName.REFUSAL: self._refuse,
            CheckName.CLEAN: self._clean,
            CheckName.UNLOAD: self._unload,
        }
        for name in rest:
            needs = CheckName.MODEL if self.model is None else CheckName.SWITCH
            if name not in (CheckName.MODEL, CheckName.SWITCH) and self.loaded is None:
                self._skip(needs, name)
            elif name is CheckName.SWITCH and self.model is None:
                self._skip(CheckName.MODEL, name)
            else:
                self._check(name, lambda step=steps[name]: step(sandbox))  # type: ignore[misc]

    def _make(self, sandbox: Sandbox) -> Judged:
        self._finished(sandbox, sandbox.controller.make_demo(ACTOR))
        model = next((m for m in sandbox.controller.snapshot().models if m.problem is None), None)
        if model is None:
            return failed(Message("selftest_model_missing"), Message("selftest_advice_report"))
        self.model = model
        return ok(Message("selftest_model_ok", {"model": model.id, "size_bytes": model.size_bytes}))

    def _switch(self, sandbox: Sandbox) -> Judged:
        assert self.model is not None
        self.device = self._room(self.model)
        loaded = self._load(sandbox, FIRST)
        self.loaded = loaded
        return judge_load(_figures(loaded, sandbox))

    def _room(self, model: CachedModel) -> str:
        """Return a device on which the tiny model fits in addition to everything, claimed from here on.

        Raises:
            _Ends: there is none, or another operation runs there.
        """
        planned = self._beside_all(model, None)
        try:
            self.run.context.state_store.claim(self.run.id, (planned,))
        except Busy as exc:
            raise _Ends(warning(exc.message, Message("selftest_advice_later"))) from exc
        device = self._beside_all(model, (planned,))  # once more: no other operation changes the device from now on
        self.run.change(devices=(device,))
        return device

    def _beside_all(self, model: CachedModel, devices: tuple[str, ...] | None) -> str:
        context = self.run.context
        planning_state = replace(
            context.planning_state(context.monitor.fresh(READING_TIMEOUT_S)), models={model.id: model}
        )
        request = SwitchRequest(Mode.TRANSFORMERS, model.id, SECOND, devices, keep_others=True)
        plan = plan_switch(request, planning_state)
        if plan.refusal is not None:
            if plan.refusal.code != NotEnoughMemory.code:
                raise _Ends(failed(plan.refusal))
            raise _Ends(warning(Message("selftest_no_room", plan.refusal.params), Message("selftest_advice_room")))
        return plan.devices[0].device_id

    def _load(self, sandbox: Sandbox, options: LaunchOptions) -> Instance:
        """Switch the sandbox to the tiny model and return it, ready."""
        begun = sandbox.controller.switch(self._request(options), ACTOR)
        self.run.change(instance_id=begun.instance_id)  # the page can then name the owner of the process
        ended = self._finished(sandbox, begun)
        instance = sandbox.controller.snapshot().instance(ended.instance_id or "")
        if instance is None or instance.state is not InstanceState.READY:
            raise _Ends(failed(Message("selftest_not_ready"), Message("selftest_advice_report")))
        return instance

    def _request(self, options: LaunchOptions) -> SwitchRequest:
        assert self.model is not None
        # The only user of the sandbox's model is this self-test, and it has its answer: the list may show that a moment
        # later.
        return SwitchRequest(Mode.TRANSFORMERS, self.model.id, options, (self.device,), interrupt_busy=True)

    def _finished(self, sandbox: Sandbox, operation: Operation) -> Operation:
        """Wait for an operation of the sandbox. Raises _Ends if it did not succeed."""
        while (now := sandbox.controller.operation(operation.id)).is_running:
            self.run.wait(POLL_S)
        if now.state not in (OperationState.SUCCEEDED, OperationState.WARNING):
            raise _Ends(failed(now.error or now.outcome or Message("error"), Message("selftest_advice_report")))
        return now

    def _ask(self, sandbox: Sandbox) -> Judged:
        assert self.loaded is not None
        loaded, controller = self.loaded, sandbox.controller
        late = GenerationFailed(model=loaded.model_id, detail=f"no answer within {ANSWER_S:.0f} s")
        pieces = self.run.wait_for(
            lambda: [*controller.ask(loaded.id, QUESTION)], "answer", late=late, limit_s=ANSWER_S
        )
        return judge_answer("".join(pieces), len(pieces))

    def _replace(self, sandbox: Sandbox) -> Judged:
        assert self.loaded is not None
        before = self.loaded
        self.loaded = after = self._load(sandbox, SECOND)
        operation = next(o for o in sandbox.controller.snapshot().recent if o.instance_id == after.id)
        listed = {i.id for i in sandbox.controller.snapshot().instances}
        return judge_replace(
            _given(operation),
            first_is_gone=before.id not in listed and before.pid not in sandbox.processes(),
            second_is_ready=after.id != before.id and after.options == SECOND,
        )

    def _refuse(self, sandbox: Sandbox) -> Judged:
        assert self.loaded is not None
        refusal = None
        try:
            self._finished(sandbox, sandbox.controller.switch(self._request(FAR_TOO_LARGE), ACTOR))
        except WardenError as exc:
            if isinstance(exc, Superseded | Cancelled):
                raise
            refusal = exc.message
        now = sandbox.controller.snapshot().instance(self.loaded.id)
        untouched = now is not None and now.state is InstanceState.READY and now.pid == self.loaded.pid
        return judge_refusal(refusal, untouched=untouched)

    def _clean(self, sandbox: Sandbox) -> Judged:
        ended = self._finished(sandbox, sandbox.controller.clean(ACTOR))
        bad = next((finding.message for finding in ended.findings if not finding.ok), None)
        if bad is not None:
            return failed(bad, Message("selftest_advice_report"))
        freed = None if ended.outcome is None else ended.outcome.params.get("freed_bytes")
        return ok(Message("selftest_clean_ok", {"count": len(ended.findings), "freed_bytes": freed}))

    def _unload(self, sandbox: Sandbox) -> Judged:
        assert self.loaded is not None
        ended = self._finished(sandbox, sandbox.controller.unload(self.loaded.id, ACTOR))
        return judge_unload(replace(_given(ended), processes=tuple(sandbox.processes())))


def _judged(look: Callable[[], Judged]) -> Judged:
    """Return the result of a check; an error is the observation. A cancel and a take-over are passed on."""
    try:
        return look()
    except (Superseded, Cancelled):
        raise
    except _Ends as exc:
        return exc.judged
    except WardenError as exc:
        return failed(exc.message, Message("selftest_advice_report"))
    except Exception as exc:
        log.exception("a check of the self-test failed unexpectedly")
        return failed(Message("unexpected", {"detail": type(exc).__name__}), Message("selftest_advice_report"))


def _figures(instance: Instance, sandbox: Sandbox) -> Loaded:
    operation = next((o for o in sandbox.controller.snapshot().recent if o.instance_id == instance.id), None)
    seconds = None if operation is None or operation.ended_at is None else operation.ended_at - operation.started_at
    return Loaded(
        instance.pid,
        None if seconds is None else round(seconds, 2),
        sum(instance.predicted_bytes.values()) if instance.predicted_bytes else None,
        sum(instance.measured_bytes.values()) if instance.measured_bytes else None,
    )


def _given(operation: Operation) -> Given:
    receipts = operation.receipts
    return Given(
        freed_bytes=total_or_none(r.freed_bytes for r in receipts),
        expected_bytes=total_or_none(r.expected_bytes for r in receipts),
        seconds=max((r.seconds for r in receipts), default=0.0),
        settled=bool(receipts) and all(r.settled for r in receipts),
    )


def _is_kept(context: Context, operation_id: str) -> bool:
    """Return whether the operation can be read from the store again."""
    with suppress(StoreUnavailable):
        return context.journal.flush(STORE_S) and context.journal.find(operation_id) is not None
    return False


def state_facts(folder: Path, *, kept: bool = True) -> StateFacts:
    """Return the facts about the state folder, after writing and removing a file in it."""
    probe = folder / f".selftest-{threading.get_ident()}"
    try:
        make_private(folder)
        probe.touch(mode=0o600)
        probe.unlink()
        mode = folder.stat().st_mode & 0o777
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        loose = tuple(path.name for path in files if path.stat().st_mode & 0o077)
    except OSError as exc:
        return StateFacts(str(folder), None, exc.strerror or str(exc), kept=kept)
    return StateFacts(str(folder), mode, None, loose, kept)
