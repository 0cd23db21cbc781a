"""The error tree: every failure that Warden reports to a person or a program.

::

    WardenError                         (error)
    ├── InvalidRequest                  (invalid) a field has an invalid value
    │   └── WeakPassword                the password is too short, too long, or contains the name
    ├── NotSignedIn                     (unauthorized) nobody is signed in, or the sign-in has ended
    │   └── SignInFailed                the name and the password do not match
    ├── Forbidden                       the person's role does not allow it
    │   ├── NotYours                    it is another person's
    │   │   └── TooLate                 the owner could stop it only before it acted
    │   └── InPerson                    an API token cannot, whatever its scope
    ├── NotFound
    │   ├── UnknownModel                the model is not in the cache
    │   ├── UnknownInstance             no such loaded model
    │   ├── UnknownOperation            no such operation
    │   ├── UnknownDevice               no such device
    │   ├── UnknownContainer            no such container started outside Warden
    │   ├── UnknownQueuedLaunch         (unknown_ticket) no such queued launch
    │   ├── UnknownPerson               no such account
    │   ├── UnknownInvitation           no such invitation, or it was used or has expired
    │   └── UnknownToken                no such API token
    ├── Refused
    │   ├── Busy                        another operation has claimed a device
    │   ├── NotEnoughMemory             the plan does not fit
    │   ├── AlreadyLoaded               the same model runs with the same options
    │   ├── InstanceInUse               a model that would be unloaded is answering requests
    │   ├── InstanceLeased              a model that would be unloaded is leased by another person
    │   ├── ConfirmationNeeded          other people's models would be unloaded without consent
    │   ├── InstanceStopping            the model is being unloaded; its lease can no longer change
    │   ├── CannotEnd                   a model that would be unloaded cannot be stopped cleanly now
    │   ├── IdleUsedAgain               an idle model is in use again
    │   ├── LeasePending                a change of the model's lease is being stored
    │   ├── NotOwner                    only the owner of a model may do that
    │   ├── ReleasePending              a release request is already open
    │   ├── NothingAsked                no release request is open
    │   ├── CoolingDown                 the model failed to load a moment ago
    │   ├── ModeUnavailable             the mode is not available on this server
    │   ├── ModelUnsuitable             the cached files cannot be loaded
    │   ├── NotReady                    the instance is not answering requests now
    │   ├── NotCancellable              the operation has ended
    │   ├── NothingToRestore            the operation has nothing left to load again
    │   ├── NotConfirmed                stopping a foreign container requires its name
    │   ├── Superseded                  an emergency stop took over the operation's claims
    │   ├── QueueFull                   the queue is full
    │   ├── AlreadyWaiting              the same person has queued the same launch
    │   ├── RequestIdReused             the request id belongs to another request
    │   ├── CannotWait                  it would not fit on an empty device either
    │   ├── QueuedLaunchEnded           (ticket_ended) the queued launch has left the queue
    │   ├── ForeignQueuedLaunch         (foreign_ticket) the queued launch belongs to another person
    │   ├── NameInUse                   the name is taken
    │   ├── LastAdministrator           no administrator would remain
    │   └── OwnAccount                  people cannot do this to their own account
    ├── Unavailable
    │   ├── DeviceUnreadable            the device has no recent reading
    │   ├── StoreUnavailable            the database does not answer
    │   ├── NotStored                   the change could not be stored, so it was not made
    │   ├── TooManyQuestions            the limit of concurrent answers is reached
    │   ├── Stopping                    Warden is shutting down
    │   └── EngineUnavailable           Docker is not available
    │       ├── EngineMissing           there is no Docker socket
    │       ├── EngineForbidden         this user may not use the socket
    │       ├── EngineUnreachable       the engine does not answer in time
    │       └── EngineFailed            Docker refused the request or failed to carry it out
    ├── LaunchFailed                    a model did not become ready
    │   ├── OutOfMemory                 the load or a request ran out of memory
    │   ├── WorkerDied                  the worker process ended unexpectedly
    │   ├── LaunchStalled               no sign of activity for the allowed time
    │   ├── LaunchTooSlow               active all the time and not ready within the total time
    │   ├── WorkerGarbled               the worker's answer does not follow its protocol
    │   │   └── ServerGarbled           the container serves something other than vLLM, or another model
    │   ├── LaunchBlocked               the server could not start it; the model is not the cause
    │   │   ├── DiskFull                the disk that the launch writes to is full
    │   │   ├── DiskReadOnly            the launch writes to a read-only file system
    │   │   ├── TooManyFiles            the limit of open files is reached
    │   │   ├── TooManyProcesses        the limit of processes is reached
    │   │   ├── LoadFenced              another process took memory that the load still needed
    │   │   ├── ImageMissing            the image is not on this server
    │   │   ├── GpuRuntimeMissing       Docker cannot give GPUs to containers
    │   │   ├── PortTaken               every port of the range is taken
    │   │   ├── PortLost                another process took the port before vLLM
    │   │   ├── NameTaken               another container has the name
    │   │   └── ProfileDisturbed        another process's memory changed while vLLM was profiling
    │   ├── StartMemoryShort            vLLM found less free memory than it is configured to use
    │   ├── KvCacheTooSmall             the KV cache is too small for one request
    │   ├── ArchitectureUnsupported     vLLM does not support the model's architecture
    │   ├── ArgumentRejected            vLLM rejected a command-line argument
    │   ├── ContextTooLong              the context length is greater than the model supports
    │   ├── ContainerExited             the container exited for an unknown reason
    │   └── ContainerRemoved            the container was removed by someone else
    ├── WorkerSilent                    the process does not answer in time
    │   └── WorkerCutOff                the process runs but its folder was removed
    ├── GenerationFailed                the model could not answer the prompt
    ├── StopFailed                      a process survived all signals
    ├── Cancelled                       a person cancelled the operation
    │   └── CancelledByStop             Warden was stopped during the operation
    ├── ProbeFailed                     a device could not be read
    │   ├── DriverMissing               the NVIDIA driver or its library is missing
    │   ├── DeviceLost                  the GPU no longer answers on the PCIe bus
    │   └── NotSupported                the driver does not provide this figure
    ├── DemoFailed                      the demo model could not be created
    ├── SandboxFailed                   the self-test's sandbox could not be created or removed
    └── ConfigurationError              (configuration) Warden cannot start with this configuration
        └── AlreadyRunning              another Warden holds the state folder

A class has a stable ``code``, which follows from its name unless the tree gives it in brackets, and ``params``: plain
values that its sentence in ``webapp/error_texts.py`` names. ``str(error)`` is for logs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from webapp.message import Message, Param


class WardenError(Exception):
    """Base of every error that Warden raises on purpose."""

    code: ClassVar[str] = "error"

    def __init_subclass__(cls) -> None:
        """Name a class without a code of its own by its name: ``NotOwner`` is ``not_owner``."""
        super().__init_subclass__()
        if "code" not in vars(cls):
            cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, **params: Param) -> None:
        self.params: Mapping[str, Param] = params
        super().__init__(self.code, params)

    def __str__(self) -> str:
        named = ", ".join(f"{key}={value}" for key, value in self.params.items())
        return f"{self.code}({named})"

    @property
    def message(self) -> Message:
        """The error as a message that the page can put into words."""
        return Message(self.code, dict(self.params))


class InvalidRequest(WardenError):
    """A field has an invalid value. Params: field, value, allowed."""

    code = "invalid"


class WeakPassword(InvalidRequest):
    """The password is too short, too long, or contains the name. Params: least, most (characters)."""


class NotSignedIn(WardenError):
    """Nobody is signed in, or the sign-in has ended."""

    code = "unauthorized"


class SignInFailed(NotSignedIn):
    """The name and the password do not match, or the account is disabled; the answer does not reveal which."""


class Forbidden(WardenError):
    """The person's role does not allow it. Params: needed (the lowest role that is allowed), role (the person's)."""


class NotYours(Forbidden):
    """The object belongs to another person; only that person or an administrator may do this. Params: owner."""


class TooLate(NotYours):
    """The period in which the owner of a model could stop its unloading is over.

    Params: owner (whose operation it is).
    """


class InPerson(Forbidden):
    """An API token cannot do this, whatever its scope."""


class NotFound(WardenError):
    """The named thing does not exist."""


class UnknownModel(NotFound):
    """The model is not in the cache. Params: model."""


class UnknownInstance(NotFound):
    """No loaded model has this id. Params: instance."""


class UnknownOperation(NotFound):
    """No operation has this id. Params: operation."""


class UnknownDevice(NotFound):
    """No device has this id. Params: device, known."""


class UnknownContainer(NotFound):
    """No container started outside Warden has this id. Params: container."""


class UnknownQueuedLaunch(NotFound):
    """No queued or recently queued launch has this id. Params: ticket."""

    code = "unknown_ticket"


class UnknownPerson(NotFound):
    """No account has this name. Params: person."""


class UnknownInvitation(NotFound):
    """No invitation has this link, or it was used, or it has expired."""


class UnknownToken(NotFound):
    """No API token has this id. Params: token."""


class Refused(WardenError):
    """The request is valid but cannot be carried out now."""


class Busy(Refused):
    """Another operation has claimed a device. Params: operation, kind, actor, since, step, model."""


class NotEnoughMemory(Refused):
    """The plan does not fit. Params: model, device, needed_bytes, free_bytes, reserve_bytes, missing_bytes."""


class AlreadyLoaded(Refused):
    """The same model runs with the same options. Params: model, instance."""


class InstanceInUse(Refused):
    """A model that would be unloaded is answering requests. Params: model, instance, in_flight, owner."""


class InstanceLeased(Refused):
    """A model that would be unloaded is leased by another person.

    Params: model, instance, owner, until (since the epoch), reason.
    """


class ConfirmationNeeded(Refused):
    """Other people's idle models would be unloaded and were not confirmed.

    Params: model, models (each with its owner), instances (their ids, with commas between them).
    """


class InstanceStopping(Refused):
    """The model is being unloaded: its lease and release requests can no longer change. Params: model, instance."""


class CannotEnd(Refused):
    """A model to be unloaded runs in a mode that does not respond: it can be neither stopped cleanly nor loaded again.

    Params: model, instance, mode, reason (a code).
    """


class IdleUsedAgain(Refused):
    """The model was due for idle unloading, but was used, kept or leased at the last moment. Params: model."""


class LeasePending(Refused):
    """A change of the model's lease is being stored: others cannot take the model until the outcome is known.

    Params: model, instance.
    """


class NotOwner(Refused):
    """Only the owner of a model may do that. Params: model, instance, owner."""


class ReleasePending(Refused):
    """A release request for the model is already open. Params: model, instance, asker."""


class NothingAsked(Refused):
    """No release request for the model is open: it was answered, or there was none. Params: model, instance."""


class CoolingDown(Refused):
    """The model failed to load a moment ago. Params: model, seconds, failures."""


class ModeUnavailable(Refused):
    """The mode is not available on this server. Params: mode, reason."""


class ModelUnsuitable(Refused):
    """The cached files cannot be loaded. Params: model, reason."""


class NotReady(Refused):
    """The instance is not answering requests now. Params: model, instance, state."""


class NotCancellable(Refused):
    """The operation has ended. Params: operation, state."""


class NothingToRestore(Refused):
    """The operation has nothing left to load again: every model is back, or another operation restored it.

    Params: operation.
    """


class NotConfirmed(Refused):
    """Stopping a container that was started outside Warden requires typing its exact name.

    Params: container, name, owner.
    """


class NameInUse(Refused):
    """The name is taken, possibly in different upper and lower case. Params: person."""


class LastAdministrator(Refused):
    """No administrator would remain. Params: person."""


class OwnAccount(Refused):
    """People cannot change the role of, disable or remove their own account. Params: person."""


class Superseded(Refused):
    """An emergency stop took over the operation's claims. Params: operation."""


class QueueFull(Refused):
    """The queue is full. Params: limit."""


class AlreadyWaiting(Refused):
    """The same person has already queued the same launch. Params: ticket, model, place."""


class RequestIdReused(Refused):
    """The same person has sent another request under this request id.

    Params: request_id, and the operation or the queued launch (``ticket``) that the other one began.
    """


class CannotWait(Refused):
    """The model would not fit even on an empty device, so queuing it cannot help.

    Params: model, needed_bytes, most_bytes.
    """


class QueuedLaunchEnded(Refused):
    """The queued launch has left the queue, or is being started. Params: ticket, model, state."""

    code = "ticket_ended"


class ForeignQueuedLaunch(Refused):
    """The queued launch belongs to another person. Params: ticket, actor."""

    code = "foreign_ticket"


class Unavailable(WardenError):
    """A required component is not responding."""


class DeviceUnreadable(Unavailable):
    """The device has no reading that is recent enough to rely on. Params: device, age_s."""


class StoreUnavailable(Unavailable):
    """The database does not answer.

    Params: reason, trouble (``StoreTrouble``) and file (SQLite's) if they are known.
    """


class NotStored(Unavailable):
    """The change could not be stored, so it was not made. Params: reason."""


class TooManyQuestions(Unavailable):
    """The limit of concurrent answers is reached. Params: limit."""


class Stopping(Unavailable):
    """Warden is shutting down and accepts no operation."""


class EngineUnavailable(Unavailable):
    """Docker is not available. Params: socket, detail."""


class EngineMissing(EngineUnavailable):
    """There is no Docker socket. Params: socket."""


class EngineForbidden(EngineUnavailable):
    """This user may not use the Docker socket. Params: socket, user."""


class EngineUnreachable(EngineUnavailable):
    """The Docker socket exists, but the engine does not answer, or not in time. Params: socket, detail."""


class EngineFailed(EngineUnavailable):
    """Docker refused the request or failed to carry it out. Params: socket, detail (Docker's message)."""


class LaunchFailed(WardenError):
    """A model did not become ready. Params: model, detail, log (last lines)."""


class OutOfMemory(LaunchFailed):
    """The load or a request ran out of memory. Params: model, detail, log."""


class WorkerDied(LaunchFailed):
    """The worker process ended unexpectedly. Params: model, exit (code or signal name), log."""


class LaunchStalled(LaunchFailed):
    """The launch showed no activity for the allowed time. Params: model, seconds, log."""


class LaunchTooSlow(LaunchFailed):
    """The launch was active throughout but not ready within the total time. Params: model, seconds, log."""


class WorkerGarbled(LaunchFailed):
    """The worker's answer does not follow its protocol. Params: model, detail, log."""


class ServerGarbled(WorkerGarbled):
    """The container serves something other than vLLM, or another model. Params: model, detail, log."""


class LaunchBlocked(LaunchFailed):
    """The server could not start the model for a reason unrelated to the model, so it can be tried again at once."""


class DiskFull(LaunchBlocked):
    """The disk that the launch writes to is full, or the quota is exhausted. Params: model, path, mount."""


class DiskReadOnly(LaunchBlocked):
    """The file system that the launch writes to is mounted read-only. Params: model, path, mount."""


class TooManyFiles(LaunchBlocked):
    """Warden or the whole machine has reached its limit of open files and connections.

    Params: model, limit (``None`` is unknown).
    """


class TooManyProcesses(LaunchBlocked):
    """Warden has reached the limit of processes and threads. Params: model."""


class LoadFenced(LaunchBlocked):
    """Another process took memory that the load still needed, so the load was stopped before it could fail.

    Params: model, device, needed_bytes, free_bytes, missing_bytes, grown_bytes, grown_to_bytes; of the process that
    grew: who (user, name and pid in one text), pid, user, command, instance (a model of Warden's), container (a foreign
    one).
    """


class ImageMissing(LaunchBlocked):
    """The image is not on this server. Params: image, command (pulls the image)."""


class GpuRuntimeMissing(LaunchBlocked):
    """Docker cannot give GPUs to containers. Params: model, detail."""


class PortTaken(LaunchBlocked):
    """Every port in the configured range is taken. Params: model, ports (``8100-8199``)."""


class PortLost(LaunchBlocked):
    """Another process took the port before vLLM listened on it. Params: model, port, log."""


class NameTaken(LaunchBlocked):
    """Another container already has the required name. Params: model, name."""


class ProfileDisturbed(LaunchBlocked):
    """Another process changed its memory use while vLLM was profiling.

    Params: model, before_bytes, after_bytes (free), log.
    """


class StartMemoryShort(LaunchFailed):
    """vLLM found less free memory than it is configured to use.

    Params: model, free_bytes, total_bytes, wanted_bytes, log.
    """


class KvCacheTooSmall(LaunchFailed):
    """The KV cache is too small for one request of the chosen context length.

    Params: model, max_tokens, needed_bytes, available_bytes, fits_tokens (the longest context that fits,
    ``None`` if unknown), log.
    """


class ArchitectureUnsupported(LaunchFailed):
    """vLLM does not support the model's architecture. Params: model, architecture, log."""


class ArgumentRejected(LaunchFailed):
    """vLLM rejected a command-line argument. Params: model, argument, detail, log."""


class ContainerExited(LaunchFailed):
    """The container exited for an unknown reason. Params: model, exit (code or signal name), log."""


class ContainerRemoved(LaunchFailed):
    """The container was removed by someone else. Params: model, log."""


class ContextTooLong(LaunchFailed):
    """The chosen context length is greater than the model supports.

    Params: model, max_tokens, limit_tokens (``None`` is unknown), log.
    """


class WorkerSilent(WardenError):
    """The process did not answer in time. Params: instance, seconds."""


class WorkerCutOff(WorkerSilent):
    """The process is running but its folder was removed, so it cannot be reached.

    Params: instance, pid, path, seconds.
    """


class GenerationFailed(WardenError):
    """The model could not answer the prompt. Params: model, detail, reason."""


class StopFailed(WardenError):
    """A process survived all signals. Params: model, pid, user, state."""


class Cancelled(WardenError):
    """A person cancelled the operation. Params: actor."""


class CancelledByStop(Cancelled):
    """Warden was stopped during the operation."""


class ProbeFailed(WardenError):
    """A device could not be read. Params: device, detail."""


class DriverMissing(ProbeFailed):
    """The NVIDIA driver or its library is missing. Params: detail."""


class DeviceLost(ProbeFailed):
    """The GPU is lost: it no longer answers on the PCIe bus. Params: device, detail."""


class NotSupported(ProbeFailed):
    """The driver does not provide this figure for the device. Params: device, detail."""


class DemoFailed(WardenError):
    """The demo model could not be created. Params: detail."""


class SandboxFailed(WardenError):
    """The self-test's sandbox could not be created or fully removed. Params: detail."""


class ConfigurationError(WardenError):
    """Warden cannot start with this configuration. Params: setting, value, detail."""

    code = "configuration"


class AlreadyRunning(ConfigurationError):
    """Another Warden holds the state folder. Params: state_dir, pid."""
