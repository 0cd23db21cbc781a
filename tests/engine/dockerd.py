"""A Docker engine for the tests, independent of the machine's own.

It has its own data root (kept, so that images are imported only once), socket, containerd and bridge. The remains of a
killed run (processes, mounts, the bridge) are removed by the next start on the same data root.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
HOOK = "nvidia-container-runtime-hook"
PROGRAMS = ("dockerd", "containerd", "docker", "ip")
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0
LOCK_DEADLINE_S = 300.0
RUN_MARK = "RUN_OF_TESTS"
"""Removed from the environment of the engine, which outlives the test that starts it."""


class EngineFailed(RuntimeError):
    """A call to the private engine failed; the message ends with the engine's log."""


def why_unavailable() -> str | None:
    """Return why no engine can be started on this machine; ``None`` if one can."""
    if os.geteuid() != 0:
        return "a Docker engine of the tests' own needs root"
    missing = [name for name in PROGRAMS if _program(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class PrivateEngine:
    """One dockerd. ``name`` chooses the data root under ``build/``; With ``gpu_hook`` it accepts requests for NVIDIA
    GPUs."""

    def __init__(self, name: str = "docker", *, gpu_hook: bool = False) -> None:
        self.data_root = BUILD / name
        self._note = BUILD / f"{name}.json"
        self._lock_path = BUILD / f"{name}.lock"
        self._gpu_hook = gpu_hook
        self._lock: IO[str] | None = None
        self._folder: Path | None = None
        self._bridge = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """The temporary folder of the socket and the running state, with a short path; fails before ``start``."""
        if self._folder is None:
            raise EngineFailed("the engine was not started")
        return self._folder

    @property
    def socket(self) -> Path:
        """The engine's socket."""
        return self.folder / "docker.sock"

    @property
    def url(self) -> str:
        """The socket as a value for ``DOCKER_HOST``."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> str:
        """The log of dockerd so far."""
        with suppress(OSError):
            return (self.folder / "dockerd.log").read_text(errors="replace")
        return ""

    def start(self) -> PrivateEngine:
        """Remove the remains of a killed run, start the engine, and wait until it answers."""
        self.data_root.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._remove_what_is_left()
            self._folder = Path(tempfile.mkdtemp(prefix="wd-", dir="/tmp"))
            self._bridge = f"wd{os.getpid() % 0x10000:04x}{random.randrange(0x10000):04x}"
            self._note.write_text(json.dumps({"folder": str(self._folder), "bridge": self._bridge}))
            self._write_hook()
            _make_bridge(self._bridge)
            self._launch()
            self.remove_everything()
        except BaseException:
            self._remove_what_is_left()
            self._release_lock()
            raise
        return self

    def stop(self) -> None:
        """Remove its containers and volumes, end it, and remove everything that it created except the images."""
        if self._folder is None:
            return
        try:
            self.resume()
            if self.is_running():
                with suppress(EngineFailed, subprocess.TimeoutExpired):
                    self.remove_everything()
                self._end(signal.SIGTERM)
        finally:
            self._remove_what_is_left()
            self._folder = None
            self._release_lock()

    def kill(self) -> None:
        """Kill dockerd and containerd by SIGKILL: the socket refuses connections, containers run until the next
        start."""
        self._end(signal.SIGKILL)
        _kill_containerd(self.folder / "exec")

    def restart(self) -> None:
        """End the engine if it is running, and start it again on the same socket."""
        if self.is_running():
            self._end(signal.SIGTERM)
        self._launch()

    def pause(self) -> None:
        """Send SIGSTOP: the socket accepts connections but never answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def is_running(self) -> bool:
        """Whether dockerd is running, paused or not."""
        return self._process is not None and self._process.poll() is None

    def cli(self, *arguments: str, timeout_s: float = 60, check: bool = True) -> str:
        """Run ``docker`` against it and return the stripped output; with ``check``, another exit code than 0 raises."""
        result = subprocess.run(
            ["docker", *arguments],
            env={**os.environ, "DOCKER_HOST": self.url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and result.returncode != 0:
            raise EngineFailed(f"docker {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout.strip()

    def containers(self, *, running: bool = False) -> list[str]:
        """Return the full ids of all containers, or only of the running ones."""
        return self.cli("ps", "--quiet", "--no-trunc", *([] if running else ["--all"])).split()

    def volumes(self) -> list[str]:
        """Return the names of the volumes."""
        return self.cli("volume", "ls", "--quiet").split()

    def image_label(self, image: str, label: str) -> str | None:
        """Return a label of an image; ``None`` if there is no such image or label."""
        template = f'{{{{index .Config.Labels "{label}"}}}}'
        return self.cli("image", "inspect", "--format", template, image, check=False) or None

    def remove_everything(self) -> None:
        """Remove every container and every volume; images stay."""
        if left := self.containers():
            self.cli("rm", "--force", "--volumes", *left)
        if volumes := self.volumes():
            self.cli("volume", "rm", "--force", *volumes)

    def _launch(self) -> None:
        folder = self.folder
        (folder / "docker.pid").unlink(missing_ok=True)
        for left in (
            *(folder / "exec" / "containerd").glob("*.pid"),
            *(folder / "exec" / "containerd").glob("*.sock*"),
        ):
            left.unlink()
        arguments = {
            "data-root": self.data_root,
            "exec-root": folder / "exec",
            "pidfile": folder / "docker.pid",
            "config-file": self._config_file(),
            "host": self.url,
            "bridge": self._bridge,
            "iptables": "false",
            "ip6tables": "false",
            "ip-forward": "false",
            "ip-masq": "false",
        }
        with (folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program("dockerd") or "dockerd", *(f"--{name}={value}" for name, value in arguments.items())],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait(self._answers, START_DEADLINE_S, "did not start")

    def _config_file(self) -> Path:
        """Return an empty configuration: the machine's is for the machine's engine."""
        path = self.folder / "daemon.json"
        path.write_text("{}")
        return path

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in (RUN_MARK, "DOCKER_HOST")}
        path = kept.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
        return {**kept, "PATH": f"{self.folder / 'hook'}:{path}" if self._gpu_hook else path}

    def _write_hook(self) -> None:
        """Write the program that makes moby offer its NVIDIA driver; runc calls it before a container starts."""
        if not self._gpu_hook:
            return
        hook = self.folder / "hook" / HOOK
        hook.parent.mkdir()
        hook.write_text("#!/bin/sh\nexit 0\n")
        hook.chmod(0o755)

    def _answers(self) -> bool:
        if not self.is_running():
            raise EngineFailed(f"dockerd ended at once:\n{self.log[-4000:]}")
        with suppress(subprocess.TimeoutExpired):
            return bool(self.cli("version", "--format", "{{.Server.Version}}", timeout_s=5, check=False))
        return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_running():
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_DEADLINE_S)

    def _wait(self, condition: Callable[[], bool], deadline_s: float, what: str) -> None:
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > deadline:
                raise EngineFailed(f"dockerd {what} in {deadline_s:g} s:\n{self.log[-4000:]}")
            time.sleep(0.05)

    def _take_lock(self) -> None:
        """Wait for the end of any other run on the same data root; the lock ends with its process."""
        self._lock = self._lock_path.open("w")
        deadline = time.monotonic() + LOCK_DEADLINE_S
        while True:
            with suppress(BlockingIOError):
                return fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.monotonic() > deadline:
                self._release_lock()
                raise EngineFailed(f"another run has held {self.data_root} for {LOCK_DEADLINE_S:g} s")
            time.sleep(0.2)

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _remove_what_is_left(self) -> None:
        """Remove the processes, mounts, folder and bridge that the record of the last start names."""
        try:
            note = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return
        folder = Path(note["folder"])
        _kill_processes(folder)
        if self._process is not None:
            self._process.wait(STOP_DEADLINE_S)
        _unmount(folder, self.data_root)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["ip", "link", "delete", note["bridge"]], capture_output=True, check=False)
        self._note.unlink(missing_ok=True)


@contextmanager
def private_engine(name: str = "docker", *, gpu_hook: bool = False) -> Iterator[PrivateEngine]:
    """Start an engine and stop it at the end."""
    engine = PrivateEngine(name, gpu_hook=gpu_hook).start()
    try:
        yield engine
    finally:
        engine.stop()


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def _make_bridge(name: str) -> None:
    """Create a bridge with the first unused 172.31.x.1/24."""
    taken = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True).stdout
    free = [number for number in range(100, 250) if f" 172.31.{number}." not in taken]
    for command in (
        ["link", "add", name, "type", "bridge"],
        ["address", "add", f"172.31.{random.choice(free)}.1/24", "dev", name],
        ["link", "set", name, "up"],
    ):
        result = subprocess.run(["ip", *command], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise EngineFailed(f"ip {' '.join(command)}: {result.stderr.strip()}")


def _kill_processes(folder: Path) -> None:
    """Kill every process with the folder in its command line, dockerd first, and the containers of its shims."""
    mark = f"{folder}/"
    named = [process for process in psutil.process_iter() if any(mark in word for word in _words(process))]
    named.sort(key=lambda process: "dockerd" not in " ".join(_words(process)[:1]))
    whole = [*named, *(child for process in named for child in _descendants(process))]
    for process in whole:
        with suppress(psutil.Error):
            process.resume()
            process.kill()
    psutil.wait_procs(whole, timeout=STOP_DEADLINE_S)


def _kill_containerd(exec_root: Path) -> None:
    """Kill the containerd of an exec root; the containers' shims live on."""
    found = [
        p
        for p in psutil.process_iter()
        if (w := _words(p)) and Path(w[0]).name == "containerd" and str(exec_root) in " ".join(w)
    ]
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, timeout=STOP_DEADLINE_S)


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _unmount(*folders: Path) -> None:
    """Unmount everything below the folders, innermost first."""
    points = [line.split()[4].replace("\\040", " ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [point for point in points if any(Path(point).is_relative_to(folder) for folder in folders)]
    for point in sorted(inside, key=len, reverse=True):
        subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)
