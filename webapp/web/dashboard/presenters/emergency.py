"""What an emergency stop would end and what it would leave, shown before the confirmation."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.control.contract import EmergencyPreview
from webapp.domain.memory import Holder
from webapp.web import formats
from webapp.web.dashboard.presenters.instances import InstanceRow, instance_row
from webapp.web.operations.presenters.operations import OperationView, operation_view
from webapp.web.translate import ngettext


@dataclass(frozen=True)
class ForeignRow:
    """A foreign process, which stays."""

    pid: int
    user: str
    command: str
    size: str


@dataclass(frozen=True)
class StayingContainer:
    """A foreign container, which stays."""

    name: str
    owner: str
    image: str


@dataclass(frozen=True)
class EmergencyView:
    """What an emergency stop would do."""

    instances: tuple[InstanceRow, ...]
    unlisted_workers: str
    operations: tuple[OperationView, ...]
    foreign: tuple[ForeignRow, ...]
    containers: tuple[StayingContainer, ...]
    tickets: str = ""
    """The queued launches that would be paused."""

    @property
    def ends_nothing(self) -> bool:
        """Whether nothing known would be ended."""
        return not (self.instances or self.unlisted_workers or self.operations)


def emergency_view(preview: EmergencyPreview) -> EmergencyView:
    """Return the view of a preview."""
    unlisted_workers = ngettext("%(num)s helper process", "%(num)s helper processes", preview.unlisted_workers)
    tickets = ngettext(
        "%(num)s queued model is paused and will not start until resumed.",
        "%(num)s queued models are paused and will not start until resumed.",
        preview.launches,
    )
    return EmergencyView(
        instances=tuple(instance_row(instance) for instance in preview.instances),
        unlisted_workers=unlisted_workers if preview.unlisted_workers else "",
        operations=tuple(operation_view(operation) for operation in preview.operations),
        foreign=tuple(_foreign(holder) for holder in preview.foreign),
        containers=tuple(StayingContainer(c.name, c.owner or formats.unknown(), c.image) for c in preview.containers),
        tickets=tickets if preview.launches else "",
    )


def _foreign(holder: Holder) -> ForeignRow:
    unknown = formats.unknown()
    return ForeignRow(holder.pid, holder.user or unknown, holder.command or unknown, formats.size(holder.used_bytes))
