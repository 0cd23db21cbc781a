"""What an address names by its id."""

from __future__ import annotations

from webapp.control.contract import ForeignContainer
from webapp.domain.instance import Instance
from webapp.errors import UnknownContainer, UnknownInstance
from webapp.web.ports import controller


def find_instance(instance_id: str) -> Instance:
    """Return a loaded model. Raises UnknownInstance."""
    instance = controller().snapshot().instance(instance_id)
    if instance is None:
        raise UnknownInstance(instance=instance_id)
    return instance


def find_container(container_id: str) -> ForeignContainer:
    """Return a foreign container. Raises UnknownContainer."""
    container = next((c for c in controller().snapshot().containers if c.id == container_id), None)
    if container is None:
        raise UnknownContainer(container=container_id)
    return container
