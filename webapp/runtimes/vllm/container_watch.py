"""Looks at the Docker engine again and again, so that nobody who draws a page has to wait for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from webapp.errors import EngineFailed, EngineUnavailable, EngineUnreachable, ImageMissing
from webapp.message import Message
from webapp.runtimes import processes
from webapp.runtimes.base import ForeignContainer
from webapp.runtimes.vllm.command import LABEL, image_family
from webapp.runtimes.vllm.docker.containers import ContainerSummary
from webapp.runtimes.vllm.docker.engine import DockerEngine
from webapp.runtimes.vllm.docker.failures import ContainerGone, pull_command
from webapp.settings import Settings

log = logging.getLogger(__name__)

FIRST_LOOK_S = 2.0
"""How long ``start`` waits for the first look."""
ALIVE = ("running", "paused", "restarting")
"""Docker's words for containers with processes."""


@dataclass(frozen=True)
class ContainerView:
    """The engine as last seen."""

    problem: Message | None
    """Why no container can be started now."""
    own: Mapping[str, str]
    """Ids of this Warden's containers, with the instance of each."""
    foreign: tuple[ForeignContainer, ...]
    image_id: str | None = None
    """Of vLLM's image, where that is on this server: its name may mean another one tomorrow."""


class ContainerWatch:
    """A thread that keeps ``view`` up to date; whoever reads it takes a reference and never waits."""

    def __init__(
        self, engine: DockerEngine, settings: Settings, each_look: Callable[[Mapping[str, str]], None]
    ) -> None:
        """``each_look`` gets the own containers of each look that Docker answered, and must not wait."""
        self._engine = engine
        self._each_look = each_look
        self._image = settings.vllm_image
        self._home = str(settings.state_dir)
        self._poll_s = settings.docker_poll_s
        self.view = ContainerView(EngineUnreachable(socket=engine.socket, detail="not asked yet").message, {}, ())
        self._described: Mapping[tuple[str, str], ForeignContainer] = {}
        """By id and state, what inspecting told: it changes only with the state."""
        self._stopping = threading.Event()
        self._now = threading.Event()
        self._looked = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. The first look is waited for a moment, so that the page does not begin with a wrong word."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="warden-docker", daemon=True)
        self._thread.start()
        self._looked.wait(FIRST_LOOK_S)

    def stop(self) -> None:
        """End; a look that hangs is not waited for longer than the first one would be."""
        self._stopping.set()
        self._now.set()
        if self._thread is not None:
            self._thread.join(FIRST_LOOK_S)

    def nudge(self) -> None:
        """Look at once: something was changed."""
        self._now.set()

    def is_own(self, seen: ContainerSummary) -> bool:
        """Whether this Warden started it."""
        return seen.labels.get(LABEL + "home") == self._home and LABEL + "instance" in seen.labels

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except Exception:
                log.exception("looking at Docker failed")
            self._looked.set()
            self._now.wait(self._poll_s)
            self._now.clear()  # before the question whether to stop, so that a stop in between is not missed

    def _look(self) -> None:
        """Ask once what there is; of an engine that cannot be asked the own containers stay as they were, and why is
        said."""
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
        """What is known of a container; the list may call its image by a number."""
        try:
            inspected = self._engine.inspect(seen.id)
        except (ContainerGone, EngineFailed):
            return None  # one that Docker cannot tell of hides no other
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
    """The user of a process, where that says something: most containers run as root."""
    user = None if pid is None else processes.user_of(pid)
    return None if user == "root" else user


def model_of(arguments: Sequence[str]) -> str | None:
    """Return the model that a vLLM command line names: ``--served-model-name``, ``--model``, or what follows
    ``serve``."""
    for flag in ("--served-model-name", "--model"):
        for number, argument in enumerate(arguments):
            name, _, value = argument.partition("=")
            if name == flag:
                return value or next(iter(arguments[number + 1 :]), None)
    if "serve" in arguments:
        following = arguments[arguments.index("serve") + 1 :]
        return following[0] if following and not following[0].startswith("-") else None
    return None
