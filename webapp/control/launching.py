"""Launch an instance, watch it until it is ready, and measure its memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from webapp.control.calibration import Calibrator
from webapp.control.context import Context, held_by
from webapp.control.oom_watch import LoadWatch
from webapp.control.run import Run
from webapp.control.settle import wait_still
from webapp.control.unloading import READING_TIMEOUT_S, not_removed, note_stop
from webapp.domain.calibration import Measurement
from webapp.domain.instance import Instance, InstanceState, MemoryReport
from webapp.domain.lease import NO_LEASE, Lease
from webapp.domain.memory import Sample
from webapp.domain.modes import Mode
from webapp.domain.operation import Finding, StepName
from webapp.domain.planning.state import Cooldown
from webapp.errors import (
    EngineUnavailable,
    LaunchBlocked,
    LaunchFailed,
    LaunchStalled,
    LaunchTooSlow,
    PortLost,
    ProfileDisturbed,
    WardenError,
    WorkerGarbled,
    WorkerSilent,
)
from webapp.message import Message
from webapp.runtimes.base import LaunchSpec, Probe, ProbeState, Runtime, StopResult

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 0.05
"""How often a launch is checked; a check is one small request over a unix socket."""
GARBLED_LIMIT = 3
"""After this many invalid answers in a row the launch has failed."""
LOG_LINES = 20
"""Lines of the log that an error carries."""


def launch(
    run: Run, mode: Mode, spec: LaunchSpec, *, step: StepName = StepName.LAUNCH, lease: Lease = NO_LEASE
) -> Instance:
    """Start ``spec`` on the terms of ``lease`` and wait until it is ready; the instance is then listed as ready.

    On any failure, including an emergency stop in the meantime, nothing of it is left: its process is ended and it
    leaves the list.

    Raises:
        LaunchFailed: with its subclasses, see ``errors``.
        Cancelled, Superseded: see ``Run.wait``.
    """
    runtime, spec = run.context.runtimes[mode], replace(spec, started_at=run.context.clock())
    starting = replace(_starting(run.context, mode, spec), lease=lease)
    run.context.state_store.put(starting, operation_id=run.id)
    run.context.leases.settle(spec.instance_id, lease)
    run.tell(step, Message(f"creating_{mode}", {"model": spec.model_id}))
    try:
        runtime.launch(spec)
        probe = _wait_until_ready(run, runtime, spec, step)
        ready = replace(_ready(starting, probe), ready_at=run.context.clock())
        run.context.state_store.put(ready, operation_id=run.id)
    except Exception as exc:
        _remember_failure(run.context, spec.model_id, exc)
        _discard(run, runtime, starting)
        raise
    if step is StepName.LAUNCH:  # a rollback says nothing about the options that failed
        run.context.state_store.set_cooldown(spec.model_id, None)
    return ready


def launch_undisturbed(
    run: Run,
    mode: Mode,
    spec: LaunchSpec,
    again: Callable[[], LaunchSpec],
    *,
    step: StepName = StepName.LAUNCH,
    lease: Lease = NO_LEASE,
) -> Instance:
    """Launch like ``launch``, and retry once if another process disturbed the first start: its memory changed during
    the profiling, or it took the port.

    ``again`` creates the second start's specification, under another id, once the device has settled; it may raise. The
    operation reports the second start. A second failure is raised as it is.
    """
    try:
        return launch(run, mode, spec, step=step, lease=lease)
    except (ProfileDisturbed, PortLost) as exc:
        if spec.instance_id in run.context.state.instances:
            raise  # the remains of the first start still hold its memory
        log.warning("the start of %s was disturbed; once more: %s", spec.model_id, exc)
        message = _disturbance(spec.model_id, exc)
    run.tell(step, message)
    run.add_findings(Finding(message))
    context, devices = run.context, [device.id for device in spec.devices]
    wait_still(context.monitor, devices, context.settle_policy, clock=context.monotonic, wait=run.wait)
    return launch(run, mode, again(), step=step, lease=lease)


def _disturbance(model_id: str, exc: ProfileDisturbed | PortLost) -> Message:
    if isinstance(exc, PortLost):
        return Message("launch_again_port", {"model": model_id, "port": exc.params["port"]})
    figures = {name: exc.params.get(name) for name in ("before_bytes", "after_bytes")}
    return Message("launch_again_disturbed", {"model": model_id, **figures})


def measure(run: Run, instance: Instance) -> Instance:
    """Read the memory of the instance's processes by device, store it as measured, and add it to the calibration."""
    sample = run.context.monitor.fresh(READING_TIMEOUT_S, anew=True)
    measured = held_by(sample, instance)
    if run.context.calibrator is not None and sample is not None:
        _learn(run.context, run.context.calibrator, instance, sample, measured)
    return run.context.state_store.change(
        instance.id, lambda i: replace(i, measured_bytes={**i.measured_bytes, **measured})
    )


def _learn(
    context: Context, calibrator: Calibrator, instance: Instance, sample: Sample, measured: Mapping[str, int]
) -> None:
    """Store a measurement, if it is usable and nobody has used the model yet: an answer takes memory of its own."""
    names = [reading.name for d in instance.devices if (reading := sample.reading(d)) is not None]
    is_whole = len(measured) == len(instance.devices) == len(names)
    options = instance.options
    kind = context.calibration.kind_of(instance.model_id, instance.revision, instance.mode, options, names)
    engine = context.runtime(instance).engine_version(
        instance.id
    )  # not the engine of now: the worker may have been started without the launcher
    measurement = Measurement(
        kind=replace(kind, setup=replace(kind.setup, engine=engine)),
        taken_at=context.clock(),
        predicted_bytes=max(instance.resting_bytes.values(), default=0),
        measured_bytes=max(measured.values()) if is_whole else None,
        told=instance.memory or MemoryReport(),
    )
    if len(names) == len(instance.devices) and measurement.teaches and _is_unused(context, instance):
        calibrator.record(measurement)


def _is_unused(context: Context, instance: Instance) -> bool:
    """Return whether the model has answered no request; one that does not respond may have."""
    try:
        probe = context.runtime(instance).probe(instance.id)
    except WardenError as exc:
        log.debug("%s cannot be asked whether it was used: %s", instance.id, exc)
        return False
    return probe.in_flight == 0 and probe.last_used_at is None


def _starting(context: Context, mode: Mode, spec: LaunchSpec) -> Instance:
    return Instance(
        id=spec.instance_id,
        mode=mode,
        model_id=spec.model_id,
        revision=spec.revision,
        options=spec.options,
        devices=tuple(device.id for device in spec.devices),
        owner=spec.owner,
        state=InstanceState.STARTING,
        started_at=spec.started_at,
        predicted_bytes=spec.predicted_bytes,
        resting_bytes=spec.resting_bytes(mode),
    )


def _ready(instance: Instance, probe: Probe) -> Instance:
    return instance.to(
        InstanceState.READY,
        memory=probe.memory,
        has_chat_template=probe.has_chat_template,
        pid=probe.pid,
        progress=None,
    )


class _Watch:
    """Distinguishes slow from stalled: a launch must show some activity, and end within its total time."""

    def __init__(self, context: Context, spec: LaunchSpec) -> None:
        self._context = context
        self._spec = spec
        self._began = self._active_at = context.monotonic()
        self._activity: tuple[object, ...] = ()

    def look(self, activity: tuple[object, ...] | None) -> type[LaunchFailed] | None:
        """Record the activity (``None``: no answer). Return why the launch must be given up, or ``None``."""
        now = self._context.monotonic()
        if activity is not None and activity != self._activity:
            self._activity, self._active_at = activity, now
        settings = self._context.settings.launch
        if now - self._active_at > settings.launch_stall_s:
            return LaunchStalled
        return LaunchTooSlow if now - self._began > settings.launch_deadline_s else None

    def seconds(self, why: type[LaunchFailed]) -> float:
        """Return how long it was inactive, or how long it took in total."""
        since = self._active_at if why is LaunchStalled else self._began
        return round(self._context.monotonic() - since, 1)


def _wait_until_ready(run: Run, runtime: Runtime, spec: LaunchSpec, step: StepName) -> Probe:
    watch, neighbours = _Watch(run.context, spec), LoadWatch(run.context, spec)
    garbled = 0
    while True:
        run.check()
        probe: Probe | None = None
        try:
            probe = runtime.probe(spec.instance_id)
            garbled = 0
        except (WorkerSilent, EngineUnavailable) as exc:  # the watch decides how long is too long
            log.debug("%s does not answer while it starts: %s", spec.instance_id, exc)
        except WorkerGarbled:
            garbled += 1
            if garbled >= GARBLED_LIMIT:
                raise
        if probe is not None:
            if probe.state is ProbeState.READY:
                return probe
            _show(run, spec, probe, step)
        neighbours.look()
        why = watch.look(None if probe is None else probe.activity)
        if why is not None:
            lines = runtime.log_tail(spec.instance_id, LOG_LINES)
            raise why(model=spec.model_id, seconds=watch.seconds(why), log="\n".join(lines))
        run.wait(PROBE_INTERVAL_S)


def _show(run: Run, spec: LaunchSpec, probe: Probe, step: StepName) -> None:
    """Publish the progress of a launch if the progress has changed."""
    progress = None if probe.progress is None else round(probe.progress, 2)
    state = InstanceState.LOADING if probe.state is ProbeState.LOADING else InstanceState.STARTING
    shown = run.context.state.instances.get(spec.instance_id)
    if shown is None:
        return
    if shown.state is InstanceState.LOADING:
        state = InstanceState.LOADING  # a late answer from before the load started
    message = probe.message or Message(f"launch_{state}", {"model": spec.model_id})
    told = run.operation.current_step
    if (shown.state, shown.progress) != (state, progress):
        run.context.state_store.change(spec.instance_id, lambda i: i.to(state, progress=progress, pid=probe.pid))
    if told is None or (told.message, told.progress) != (message, progress):
        run.tell(step, message, progress)


def _discard(run: Run, runtime: Runtime, instance: Instance) -> None:
    """Remove the remains of a failed launch; an instance whose end is not confirmed stays listed as stuck."""
    try:
        result: StopResult | Exception = runtime.terminate(instance.id, ask=False)
    except Exception as exc:
        log.exception("what a failed launch of %s left could not be removed", instance.model_id)
        result = exc
    note_stop(run.context, instance, result)
    if isinstance(result, StopResult) and result.not_removed:
        run.add_findings(not_removed(instance))


def _remember_failure(context: Context, model_id: str, exc: Exception) -> None:
    """Delay the next launch of a model that failed for reasons of its own: 10 s, doubling to 5 min (settings).

    If the server was unable to start it, the model is not blamed.
    """
    if not isinstance(exc, LaunchFailed) or isinstance(exc, LaunchBlocked):
        return
    last = context.state.cooldowns.get(model_id)
    failures = 1 if last is None else last.failures + 1
    pause = context.settings.launch.pause_s(failures)
    context.state_store.set_cooldown(model_id, Cooldown(failures, context.monotonic() + pause))
