"""The memory cards: four figures, the level, the holders, and the last minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from webapp.control.contract import Snapshot
from webapp.domain.memory import (
    DeviceKind,
    HistoryPoint,
    Ledger,
    LedgerKind,
    LedgerPart,
    Reading,
    build_ledger,
    level_of,
    used_percent,
)
from webapp.web import charts, formats, words
from webapp.web.phrases import short_name
from webapp.web.translate import gettext as _
from webapp.web.translate import ngettext
from webapp.web.words import names

HOLDERS_SHOWN = 30
SHAPES = {"good": "●", "low": "▲", "critical": "■"}
Histories = Mapping[str, Sequence[HistoryPoint]]
"""The memory in use in the last minutes by device id, oldest first."""


@dataclass(frozen=True)
class Metric:
    """One of the four figures."""

    name: str
    label: str
    value: formats.Amount


@dataclass(frozen=True)
class LegendEntry:
    """One part of the bar."""

    kind: str
    label: str
    size: str
    title: str


@dataclass(frozen=True)
class HolderRow:
    """One process that holds memory."""

    pid: int
    kind: str
    user: str
    command: str
    container: str | None
    size: str


@dataclass(frozen=True)
class DeviceCard:
    """One device. ``level`` is ``None`` if its free memory is unknown."""

    id: str
    title: str
    level: str | None
    level_word: str
    level_shape: str
    facts: str
    metrics: tuple[Metric, ...]
    slices: tuple[charts.Slice, ...]
    legend: tuple[LegendEntry, ...]
    holders: tuple[HolderRow, ...]
    bar_text: str
    line: charts.ChartLine | None
    line_text: str
    problem: str | None
    note: str | None
    claimed_by: str | None


def device_cards(snapshot: Snapshot, histories: Histories, window_s: float) -> tuple[DeviceCard, ...]:
    """Return a card for each device of the latest reading; the lines show the last ``window_s`` seconds."""
    if snapshot.sample is None:
        return ()
    labels = {i.id: f"{short_name(i.model_id)} ({words.word(names.MODES, i.mode)})" for i in snapshot.instances}
    labels |= {o.instance_id: words.word(names.KINDS, o.kind) for o in snapshot.running if o.checks and o.instance_id}
    return tuple(_card(r, snapshot, labels, histories, window_s) for r in snapshot.sample.readings)


def _card(
    reading: Reading, snapshot: Snapshot, labels: Mapping[str, str], histories: Histories, window_s: float
) -> DeviceCard:
    level = None if reading.free_bytes is None else level_of(reading.free_bytes)
    ledger = build_ledger(reading, labels)
    parts = () if ledger is None else ledger.parts
    legend = tuple(_legend_entry(part) for part in parts)
    moments = [o.started_at for o in (*snapshot.running, *snapshot.recent) if reading.device_id in o.devices]
    history = [(point.taken_at, point.used_bytes) for point in histories.get(reading.device_id, ())]
    minutes = round(window_s / 60)
    return DeviceCard(
        id=reading.device_id,
        title=_title(reading),
        level=level,
        level_word=words.word(names.LEVELS, level) if level else _("No data"),
        level_shape=SHAPES.get(level or "", "○"),
        facts=" · ".join(_facts(reading)),
        metrics=_metrics(reading),
        slices=_slices(ledger),
        legend=legend,
        holders=_holders(reading),
        bar_text=_("Who holds the memory: %(parts)s", parts="; ".join(f"{e.label} {e.size}" for e in legend)),
        line=charts.line(history, reading.total_bytes, window_s, moments),
        line_text=ngettext("Memory over the last %(num)s minute", "Memory over the last %(num)s minutes", minutes),
        problem=None if reading.problem is None else words.say(reading.problem),
        note=_note(ledger),
        claimed_by=snapshot.claims.get(reading.device_id),
    )


def _title(reading: Reading) -> str:
    name = words.capital(words.device_label(reading.device_id))
    return f"{name} · {reading.name}" if reading.name else name


def _facts(reading: Reading) -> Sequence[str]:
    facts = []
    if reading.temperature_c is not None:
        facts.append(f"{formats.number(reading.temperature_c)}\u00a0°C")
    if reading.power_w is not None:
        facts.append(_("%(watts)s W", watts=formats.number(reading.power_w)))
    if reading.utilization_percent is not None:
        facts.append(_("load %(share)s", share=formats.percent(reading.utilization_percent)))
    return facts


def _metrics(reading: Reading) -> tuple[Metric, ...]:
    used = None
    if reading.total_bytes is not None and reading.free_bytes is not None:
        used = (
            reading.total_bytes - reading.free_bytes
        )  # so that the three figures add up; the driver's reserve is in the bar
    whole = _("GPU memory (total)") if reading.kind is DeviceKind.GPU else _("Memory (total)")
    return (
        Metric("total", whole, formats.gibs(reading.total_bytes)),
        Metric("used", _("Used"), formats.gibs(used)),
        Metric("free", _("Available"), formats.gibs(reading.free_bytes)),
        Metric("percent", _("Memory used"), formats.percent(used_percent(reading))),
    )


def _slices(ledger: Ledger | None) -> tuple[charts.Slice, ...]:
    if ledger is None:
        return ()
    held = [(part.kind.value, part.used_bytes) for part in ledger.parts if part.kind is not LedgerKind.FREE]
    return charts.bar(held, ledger.total_bytes)


def _legend_entry(part: LedgerPart) -> LegendEntry:
    label = part.label or words.word(names.LEDGER, part.kind)
    if part.kind is LedgerKind.FOREIGN and part.processes > 1:
        label = ngettext("%(user)s · %(num)s process", "%(user)s · %(num)s processes", part.processes, user=label)
    return LegendEntry(part.kind.value, label, formats.size(part.used_bytes), words.word(names.LEDGER, part.kind))


def _holders(reading: Reading) -> tuple[HolderRow, ...]:
    """Return the processes, largest first."""
    ordered = sorted(reading.holders, key=lambda h: h.used_bytes or 0, reverse=True)
    return tuple(
        HolderRow(
            pid=holder.pid,
            kind=holder.kind.value,
            user=holder.user or formats.unknown(),
            command=holder.command or formats.unknown(),
            container=holder.container_id[:12] if holder.container_id else None,
            size=formats.size(holder.used_bytes),
        )
        for holder in ordered[:HOLDERS_SHOWN]
    )


def _note(ledger: Ledger | None) -> str | None:
    if ledger is None or not ledger.overcommitted_bytes:
        return None
    return _(
        "The processes together report %(size)s more than is used: shared memory is counted for each of them.",
        size=formats.size(ledger.overcommitted_bytes),
    )
