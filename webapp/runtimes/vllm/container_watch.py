"""Polls the Docker engine, so that no page has to wait for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from webapp.errors import EngineFailed, EngineUnavailable, EngineUnreachable, ImageMissing
from webapp.message import Message
from webapp.rounds import Rounds
from webapp.runtimes import processes
from webapp.runtimes.base import ForeignContainer
from webapp.runtimes.vllm.command import LABEL, image_family
from webapp.runtimes.vllm.docker.containers import ContainerSummary
from webapp.runtimes.vllm.docker.engine import DockerEngine
from webapp.runtimes.vllm.docker.failures import ContainerGone, pull_command
from webapp.settings import Settings

log = logging.getLogger(__name__)

FIRST_LOOK_S = 2.0
"""How long ``start`` waits for the first poll."""
ALIVE = ("running", "paused", "restarting")
"""Docker's states of containers that have processes."""


@dataclass(frozen=True)
class ContainerView:
    """The engine as last seen."""

    problem: Message | None
    """Why no container can be started now; ``None`` if one can."""
    own: Mapping[str, str]
    """Ids of this Warden's containers, each with its instance."""
    foreign: tuple[ForeignContainer, ...]
    image_id: str | None = None
    """Id of vLLM's image, if it is on this server: the image's name may refer to another one tomorrow."""


class ContainerWatch(Rounds):
    """A thread that keeps ``view`` current; readers take a reference and never wait."""

    def __init__(
        self, engine: DockerEngine, settings: Settings, each_look: Callable[[Mapping[str, str]], None]
    ) -> None:
        """``each_look`` is called with this Warden's containers after each poll that Docker answered, and must not
        wait."""
        super().__init__("docker", self._watch, settings.docker.poll_s, stop_s=FIRST_LOOK_S)
        self._engine = engine
        self._each_look = each_look
        self._image = settings.vllm.image
        self._home = str(settings.storage.state_dir)
        self.view = ContainerView(EngineUnreachable(socket=engine.socket, detail="not asked yet").message, {}, ())
        self._described: Mapping[tuple[str, str], ForeignContainer] = {}
        """Results of inspecting, by id and state: they change only with the state."""
        self._looked = threading.Event()

    def start(self) -> None:
        """Start; waits briefly for the first poll, so that the first page is not wrong."""
        super().start()
        self._looked.wait(FIRST_LOOK_S)

    def is_own(self, seen: ContainerSummary) -> bool:
        """Whether this Warden started the container."""
        return seen.labels.get(LABEL + "home") == self._home and LABEL + "instance" in seen.labels

    def _watch(self) -> None:
        try:
            self._look()
        finally:
            self._looked.set()

    def _look(self) -> None:
        """Poll once; if the engine does not answer, Warden's containers stay as they were and ``problem`` says why."""
        try:
            image_id = self._engine.image_id(self._image)
            seen = self._engine.containers()
            own = {s.id: s.labels[LABEL + "instance"] for s in seen if self.is_own(s)}
            foreign = self._foreign([s for s in seen if not self.is_own(s)])
        except EngineUnavailable as exc:
            if self.view.problem != exc.message:
                log.info("Docker cannot be asked: %s", exc)
            self.view = replace(self.view, problem=exc.message, foreign=())
            return
        self.view = ContainerView(None if image_id else self._missing_image(), own, foreign, image_id)
        self._each_look(own)

    def _missing_image(self) -> Message:
        return ImageMissing(image=self._image, command=pull_command(self._image)).message

    def _foreign(self, others: Sequence[ContainerSummary]) -> tuple[ForeignContainer, ...]:
        family = image_family(self._image)
        alive = {(s.id, s.state): s for s in others if s.state in ALIVE}
        described = {key: self._described.get(key) or self._describe(seen) for key, seen in alive.items()}
        self._described = {key: found for key, found in described.items() if found is not None}
        shown = [f for f in self._described.values() if image_family(f.image) == family or f.of_warden is not None]
        return tuple(sorted(shown, key=lambda f: f.name))

    def _describe(self, seen: ContainerSummary) -> ForeignContainer | None:
        """Return what is known of a container; Docker's list may give only the id of its image."""
        try:
            inspected = self._engine.inspect(seen.id)
        except (ContainerGone, EngineFailed):
            return None  # a container that Docker cannot describe must not hide the others
        labels = inspected.labels
        return ForeignContainer(
            id=seen.id,
            name=seen.name,
            image=inspected.image or seen.image,
            state=seen.state,
            created_at=seen.created_at,
            owner=labels.get(LABEL + "owner") or _owner(inspected.pid),
            model=labels.get(LABEL + "model") or model_of(inspected.arguments),
            ports=seen.ports,
            pids=() if inspected.pid is None else (inspected.pid,),
            of_warden=labels.get(LABEL + "home"),
        )


def _owner(pid: int | None) -> str | None:
    """Return the user of a process, ``None`` if it is root, as in most containers."""
    user = None if pid is None else processes.user_of(pid)
    return None if user == "root" else user


def model_of(arguments: Sequence[str]) -> str | None:
    """Return the model in a vLLM command line: ``--served-model-name``, ``--model``, or the word after ``serve``."""
    for flag in ("--served-model-name", "--model"):
        for number, argument in enumerate(arguments):
            name, _, value = argument.partition("=")
            if name == flag:
                return value or next(iter(arguments[number + 1 :]), None)
    if "serve" in arguments:
        following = arguments[arguments.index("serve") + 1 :]
        return following[0] if following and not following[0].startswith("-") else None
    return None
