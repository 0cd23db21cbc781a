"""The launch form: its values as typed, and the request that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict

from webapp.control.contract import Snapshot
from webapp.domain.model import CachedModel
from webapp.domain.modes import BATCH_SIZE_LIMIT, MAX_TOKENS_LIMIT, LaunchOptions, Mode, Precision
from webapp.domain.plan import SwitchRequest
from webapp.errors import InvalidRequest
from webapp.web.leases import form as lease_form

AUTO: Final = "auto"
"""The device choice "choose for me"."""
JOINT: Final = ","
"""Separates several values of one field: devices, models to unload."""
ON: Final = "1"
DEFAULT_TOKENS: Final = 2048


@dataclass(frozen=True)
class LaunchForm:
    """The values of the fields, as text, because a person may type anything."""

    mode: str = Mode.TRANSFORMERS.value
    model: str = ""
    precision: str = Precision.AUTO.value
    max_tokens: str = str(DEFAULT_TOKENS)
    batch_size: str = "1"
    device: str = AUTO
    """``AUTO``, one device, or several."""
    keep_others: bool = False
    restore_on_failure: bool = True
    interrupt_busy: bool = False
    unload: str = ""
    """Models that may be unloaded, by id: own ones in spite of ``keep_others``, and confirmed ones of other people."""
    lease: str = ""
    """The choice of the lease's end; see ``webapp.web.leases.form``."""
    lease_time: str = ""
    reason: str = ""
    idle: str = ""
    """The choice of the idle time after which it is unloaded; see ``webapp.web.leases.form``."""
    override_reason: str = ""
    """Why an administrator overrides another person's hold."""

    @classmethod
    def read(cls, values: Mapping[str, str], snapshot: Snapshot) -> LaunchForm:
        """Return the form as sent; a field that was not sent has its initial value, and no model is preselected.

        A checkbox that is off is not sent, so the other fields show whether the form was sent. Models to unload that no
        longer exist are dropped.
        """
        sent = "mode" in values
        is_empty = snapshot.models_scanned_at is not None and not snapshot.models
        model = "" if is_empty else values.get("model", "")
        return cls(
            mode=values.get("mode", Mode.TRANSFORMERS.value),
            model=model,
            precision=values.get("precision", Precision.AUTO.value),
            max_tokens=values.get("max_tokens", str(_default_tokens(snapshot.model(model)))).strip(),
            batch_size=values.get("batch_size", "1").strip(),
            device=values.get("device", AUTO),
            keep_others=values.get("keep_others") == ON,
            restore_on_failure=values.get("restore_on_failure") == ON if sent else True,
            interrupt_busy=values.get("interrupt_busy") == ON,
            unload=JOINT.join(_still_loaded(values.get("unload", ""), snapshot)),
            lease=values.get("lease", ""),
            lease_time=values.get("lease_time", ""),
            reason=values.get("reason", "").strip(),
            idle=values.get("idle", ""),
            override_reason=values.get("override_reason", "").strip(),
        )

    @classmethod
    def of(cls, request: SwitchRequest) -> LaunchForm:
        """Return the form for ``request``."""
        options = request.options
        return cls(
            mode=request.mode.value,
            model=request.model_id,
            precision=options.precision.value,
            max_tokens=str(options.max_tokens),
            batch_size=str(options.batch_size),
            device=AUTO if request.devices is None else JOINT.join(request.devices),
            keep_others=request.keep_others,
            restore_on_failure=request.restore_on_failure,
            interrupt_busy=request.interrupt_busy,
            unload=JOINT.join(request.unload),
            reason=request.reason,
            idle=lease_form.idle_choice(request.idle_minutes),
        )

    def on_terms_of(self, other: LaunchForm) -> LaunchForm:
        """Return the form with the lease of ``other``, which a proposed configuration should not change."""
        kept = {name: getattr(other, name) for name in ("lease", "lease_time", "reason", "idle", "override_reason")}
        return replace(self, **kept)

    def to_request(self, now: float | None = None) -> SwitchRequest:
        """Return the request of the form at ``now``; without ``now``, as for a plan, the lease's end is left open.

        Raises:
            InvalidRequest: a field has an invalid value.
        """
        precision = Precision(_choice("precision", self.precision, [p.value for p in Precision]))
        return SwitchRequest(
            mode=Mode(_choice("mode", self.mode, [m.value for m in Mode])),
            model_id=self.model,
            options=LaunchOptions(
                dtype=precision.dtype,
                quantization=precision.quantization,
                max_tokens=_whole("max_tokens", self.max_tokens, MAX_TOKENS_LIMIT),
                batch_size=_whole("batch_size", self.batch_size, BATCH_SIZE_LIMIT),
            ),
            devices=self.devices,
            keep_others=self.keep_others,
            restore_on_failure=self.restore_on_failure,
            interrupt_busy=self.interrupt_busy,
            unload=self.named,
            lease_until=None if now is None else lease_form.lease_until(self.lease, self.lease_time, now),
            reason=self.reason,
            idle_minutes=lease_form.idle_minutes(self.idle),
            override_reason=self.override_reason or None,
        )

    def placed(self) -> SwitchRequest:
        """Return the request with minimal launch options: only its devices and its unloads matter."""
        return replace(
            self, mode=Mode.TRANSFORMERS.value, precision=Precision.AUTO.value, max_tokens="1", batch_size="1"
        ).to_request()

    @property
    def named(self) -> tuple[str, ...]:
        """The ids of the models that may be unloaded."""
        return _parts(self.unload)

    @property
    def devices(self) -> tuple[str, ...] | None:
        """The chosen devices, ``None`` for "choose for me"."""
        return None if self.device == AUTO else tuple(self.device.split(JOINT))

    @property
    def first_device(self) -> str | None:
        """The first of the chosen devices, for a single figure."""
        return None if self.devices is None else self.devices[0]

    @property
    def sent(self) -> Mapping[str, str]:
        """The fields as a browser sends them."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: ON if value is True else value for name, value in values if value is not False}

    @property
    def query(self) -> str:
        """The form as a query string, so that a link can fill it in."""
        return urlencode(self.sent)


def sent(values: MultiDict[str, str]) -> dict[str, str]:
    """Return the fields of a form as text; the fields of the models to unload are joined."""
    return {**values.to_dict(), "unload": JOINT.join(values.getlist("unload"))}


def _parts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for part in text.split(JOINT) if part))


def _still_loaded(text: str, snapshot: Snapshot) -> list[str]:
    loaded = {instance.id for instance in snapshot.instances}
    return [part for part in _parts(text) if part in loaded]


def _choice(field: str, value: str, allowed: list[str]) -> str:
    if value not in allowed:
        raise InvalidRequest(field=field, value=value, allowed=", ".join(allowed))
    return value


def _whole(field: str, text: str, limit: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(limit)) and 1 <= int(text) <= limit):
        raise InvalidRequest(field=field, value=text, allowed=f"1–{limit}")
    return int(text)


def _default_tokens(model: CachedModel | None) -> int:
    limit = None if model is None else model.context_length
    return DEFAULT_TOKENS if limit is None else min(DEFAULT_TOKENS, limit)
