"""Whether an unloaded model could be loaded again as it ran: its revision, its files, its mode. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from webapp.domain.instance import ANSWERING, Instance
from webapp.domain.model import CachedModel
from webapp.domain.modes import Mode
from webapp.message import Message


def at_revision(model: CachedModel, revision: str) -> CachedModel | None:
    """Return ``model`` at ``revision``; ``None`` if the cache does not have that revision.

    Only the folder of another revision is known: the sizes are those of the listed one.
    """
    if model.revision == revision:
        return model
    if revision not in model.revisions:
        return None
    return replace(model, revision=revision, snapshot=model.snapshot.parent / revision, problem=None)


def no_return(
    instance: Instance, models: Mapping[str, CachedModel], mode_problems: Mapping[Mode, Message | None]
) -> Message | None:
    """Return why ``instance`` could not be loaded again once it is unloaded, or ``None`` if no reason is known.

    Another revision of the model is no substitute: it may answer differently.
    """
    if instance.state not in ANSWERING:
        return None
    if (problem := mode_problems.get(instance.mode)) is not None:
        return problem
    model = models.get(instance.model_id)
    if model is None:
        return Message("files_gone", {"model": instance.model_id})
    found = at_revision(model, instance.revision)
    if found is None:
        return Message("revision_gone", {"model": instance.model_id, "revision": instance.revision})
    return found.problem
