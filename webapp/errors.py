"""The error tree: every failure that a person or a program can be told of.

::

    WardenError
    ├── InvalidRequest            invalid              422  a field has an invalid value
    │   └── WeakPassword          weak_password             the password is too short, too long, or contains the name
    ├── NotSignedIn               unauthorized         401  nobody is signed in, or the sign-in has ended
    │   └── SignInFailed          sign_in_failed            the name and the password do not match
    ├── Forbidden                 forbidden            403  the person's role does not allow it
    │   ├── NotYours              not_yours                 it is another person's
    │   │   └── TooLate           too_late                  the owner could stop it only before it acted
    │   └── InPerson              in_person                 an API token cannot, whatever its scope
    ├── NotFound                                       404
    │   ├── UnknownModel          unknown_model             the model is not in the cache
    │   ├── UnknownInstance       unknown_instance          no such loaded model
    │   ├── UnknownOperation      unknown_operation         no such operation
    │   ├── UnknownDevice         unknown_device            no such device
    │   ├── UnknownContainer      unknown_container         no such container started outside Warden
    │   ├── UnknownTicket         unknown_ticket            no such queued launch
    │   ├── UnknownPerson         unknown_person            no such account
    │   ├── UnknownInvitation     unknown_invitation        no such invitation, or it was used or has expired
    │   └── UnknownToken          unknown_token             no such API token
    ├── Refused                                        409
    │   ├── Busy                  busy                      another operation has claimed a device
    │   ├── NotEnoughMemory       not_enough_memory         the plan does not fit
    │   ├── AlreadyLoaded         already_loaded            the same model runs with the same options
    │   ├── InstanceInUse         instance_in_use           a model that would be unloaded is answering requests
    │   ├── InstanceLeased        instance_leased           a model that would be unloaded is leased by another person
    │   ├── ConfirmationNeeded    confirmation_needed       other people's models would go and were not confirmed
    │   ├── InstanceStopping      instance_stopping         the model is being unloaded; its lease can no longer change
    │   ├── CannotEnd             cannot_end                a model that would be unloaded cannot be stopped cleanly now
    │   ├── IdleUsedAgain         idle_used_again           an idle model is in use again
    │   ├── LeasePending          lease_pending             a change of the model's lease is being stored
    │   ├── NotOwner              not_owner            403  only the owner of a model may do that
    │   ├── ReleasePending        release_pending           a release request is already open
    │   ├── NothingAsked          nothing_asked             no release request is open
    │   ├── CoolingDown           cooling_down              the model failed to load a moment ago
    │   ├── ModeUnavailable       mode_unavailable          the mode is not available on this server
    │   ├── ModelUnsuitable       model_unsuitable          the cached files cannot be loaded
    │   ├── NotReady              not_ready                 the instance is not answering requests now
    │   ├── NotCancellable        not_cancellable           the operation has ended
    │   ├── NothingToRestore      nothing_to_restore        the operation has nothing left to load again
    │   ├── NotConfirmed          not_confirmed             stopping a foreign container requires its name
    │   ├── Superseded            superseded                an emergency took the operation's claims over
    │   ├── QueueFull             queue_full                the queue is full
    │   ├── AlreadyWaiting        already_waiting           the same person has queued the same launch
    │   ├── CannotWait            cannot_wait               it would not fit on an empty device either
    │   ├── TicketEnded           ticket_ended              the queued launch has left the queue
    │   ├── ForeignTicket         foreign_ticket       403  the queued launch belongs to another person
    │   ├── NameInUse             name_in_use               the name is taken
    │   ├── LastAdministrator     last_administrator        no administrator would remain
    │   └── OwnAccount            own_account               people cannot do this to their own account
    ├── Unavailable                                    503
    │   ├── DeviceUnreadable      device_unreadable         the device has no recent reading
    │   ├── StoreUnavailable      store_unavailable         the database does not answer
    │   ├── NotStored             not_stored                the change could not be stored, so it was not made
    │   ├── TooManyQuestions      too_many_questions        the limit of concurrent answers is reached
    │   ├── Stopping              stopping                  Warden is shutting down
    │   └── EngineUnavailable                               Docker is not available
    │       ├── EngineMissing     engine_missing            there is no Docker socket
    │       ├── EngineForbidden   engine_forbidden          this user may not use the socket
    │       ├── EngineUnreachable engine_unreachable        the engine does not answer in time
    │       └── EngineFailed      engine_failed             Docker refused or failed the request
    ├── LaunchFailed              launch_failed        500  a model did not become ready
    │   ├── OutOfMemory           out_of_memory             the load or a request ran out of memory
    │   ├── WorkerDied            worker_died               the worker process ended unexpectedly
    │   ├── LaunchStalled         launch_stalled            no sign of activity for the allowed time
    │   ├── LaunchTooSlow         launch_too_slow           active all the time and not ready within the total time
    │   ├── WorkerGarbled         worker_garbled            the worker's answer does not follow its protocol
    │   │   └── ServerGarbled     server_garbled            the container serves what is not vLLM, or another model
    │   ├── LaunchBlocked         launch_blocked            the server could not start it; the model is not the cause
    │   │   ├── DiskFull          disk_full                 the disk that the launch writes to is full
    │   │   ├── DiskReadOnly      disk_read_only            the launch writes to a read-only file system
    │   │   ├── TooManyFiles      too_many_files            the limit of open files is reached
    │   │   ├── TooManyProcesses  too_many_processes        the limit of processes is reached
    │   │   ├── LoadFenced        load_fenced               another process took memory that the load still needed
    │   │   ├── ImageMissing      image_missing             the image is not on this server
    │   │   ├── GpuRuntimeMissing gpu_runtime_missing       Docker cannot give GPUs to containers
    │   │   ├── PortTaken         port_taken                every port of the range is taken
    │   │   ├── PortLost          port_lost                 another process took the port before vLLM
    │   │   ├── NameTaken         name_taken                another container has the name
    │   │   └── ProfileDisturbed  profile_disturbed         another process's memory changed while vLLM was profiling
    │   ├── StartMemoryShort      start_memory_short        vLLM found less free memory than it is configured to use
    │   ├── KvCacheTooSmall       kv_cache_too_small        the KV cache is too small for one request
    │   ├── ArchitectureUnsupported architecture_unsupported  vLLM does not support the model's architecture
    │   ├── ArgumentRejected      argument_rejected         vLLM rejected a command-line argument
    │   ├── ContextTooLong        context_too_long          the context length is greater than the model supports
    │   ├── ContainerExited       container_exited          the container exited for an unknown reason
    │   └── ContainerRemoved      container_removed         the container was removed by someone else
    ├── WorkerSilent              worker_silent        504  the process does not answer in time
    │   └── WorkerCutOff          worker_cut_off            the process runs but its folder was removed
    ├── GenerationFailed          generation_failed    502  the model could not answer the prompt
    ├── StopFailed                stop_failed          500  a process survived all signals
    ├── Cancelled                 cancelled            409  a person cancelled the operation
    │   └── CancelledByStop       cancelled_by_stop         Warden was stopped during the operation
    ├── ProbeFailed               probe_failed         503  a device could not be read
    │   ├── DriverMissing         driver_missing            the NVIDIA driver or its library is missing
    │   ├── DeviceLost            device_lost               the GPU no longer answers on the PCIe bus
    │   └── NotSupported          not_supported             the driver does not provide this figure
    ├── DemoFailed                demo_failed          500  the demo model could not be created
    ├── SandboxFailed             sandbox_failed       500  the self-test's sandbox could not be created or removed
    └── ConfigurationError        configuration             Warden cannot start with this configuration
        └── AlreadyRunning        already_running           another Warden holds the state folder

Each class has a stable ``code``, the HTTP ``status`` that the JSON contract gives it, and ``params``: plain values that
the sentence in ``web/words.py`` names. ``str(error)`` is for logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from webapp.message import Message, Param


class WardenError(Exception):
    """Base of every error that Warden raises on purpose."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

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
    status = 422


class WeakPassword(InvalidRequest):
    """The password is too short, too long, or contains the name. Params: least, most (characters)."""

    code = "weak_password"


class NotSignedIn(WardenError):
    """Nobody is signed in, or the sign-in has ended."""

    code = "unauthorized"
    status = 401


class SignInFailed(NotSignedIn):
    """The name and the password do not match, or the account is disabled; the answer does not reveal which."""

    code = "sign_in_failed"


class Forbidden(WardenError):
    """The person's role does not allow it. Params: needed (the lowest role that is allowed), role (the person's)."""

    code = "forbidden"
    status = 403


class NotYours(Forbidden):
    """It belongs to another person; only that person or an administrator may do this. Params: owner."""

    code = "not_yours"


class TooLate(NotYours):
    """The period in which the owner of a model could stop its unloading is over.

    Params: owner (whose operation it is).
    """

    code = "too_late"


class InPerson(Forbidden):
    """An API token cannot do this, whatever its scope."""

    code = "in_person"


class NotFound(WardenError):
    """The named thing does not exist."""

    code = "not_found"
    status = 404


class UnknownModel(NotFound):
    """The model is not in the cache. Params: model."""

    code = "unknown_model"


class UnknownInstance(NotFound):
    """No loaded model has this id. Params: instance."""

    code = "unknown_instance"


class UnknownOperation(NotFound):
    """No operation has this id. Params: operation."""

    code = "unknown_operation"


class UnknownDevice(NotFound):
    """No device has this id. Params: device, known."""

    code = "unknown_device"


class UnknownContainer(NotFound):
    """No container started outside Warden has this id. Params: container."""

    code = "unknown_container"


class UnknownTicket(NotFound):
    """No queued or recently queued launch has this id. Params: ticket."""

    code = "unknown_ticket"


class UnknownPerson(NotFound):
    """No account has this name. Params: person."""

    code = "unknown_person"


class UnknownInvitation(NotFound):
    """No invitation has this link, or it was used, or it has expired."""

    code = "unknown_invitation"


class UnknownToken(NotFound):
    """No API token has this id. Params: token."""

    code = "unknown_token"


class Refused(WardenError):
    """The request is valid but cannot be carried out now."""

    code = "refused"
    status = 409


class Busy(Refused):
    """Another operation has claimed a device. Params: operation, kind, actor, since, step, model."""

    code = "busy"


class NotEnoughMemory(Refused):
    """The plan does not fit. Params: model, device, needed_bytes, free_bytes, reserve_bytes, missing_bytes."""

    code = "not_enough_memory"


class AlreadyLoaded(Refused):
    """The same model runs with the same options. Params: model, instance."""

    code = "already_loaded"


class InstanceInUse(Refused):
    """A model that would be unloaded is answering requests. Params: model, instance, in_flight, owner."""

    code = "instance_in_use"


class InstanceLeased(Refused):
    """A model that would be unloaded is leased by another person.

    Params: model, instance, owner, until (since the epoch), reason.
    """

    code = "instance_leased"


class ConfirmationNeeded(Refused):
    """Other people's idle models would be unloaded and were not confirmed.

    Params: model, models (each with its owner), instances (their ids, with commas between them).
    """

    code = "confirmation_needed"


class InstanceStopping(Refused):
    """The model is being unloaded: its lease and release requests can no longer change. Params: model, instance."""

    code = "instance_stopping"


class CannotEnd(Refused):
    """A model to be unloaded runs in a mode that does not respond: it can be neither stopped cleanly nor loaded again.

    Params: model, instance, mode, reason (a code).
    """

    code = "cannot_end"


class IdleUsedAgain(Refused):
    """The model was due for idle unloading, but was used, kept or leased at the last moment. Params: model."""

    code = "idle_used_again"


class LeasePending(Refused):
    """A change of the model's lease is being stored: others cannot take the model until the outcome is known.

    Params: model, instance.
    """

    code = "lease_pending"


class NotOwner(Refused):
    """Only the owner of a model may do that. Params: model, instance, owner."""

    code = "not_owner"
    status = 403


class ReleasePending(Refused):
    """A release request for the model is already open. Params: model, instance, asker."""

    code = "release_pending"


class NothingAsked(Refused):
    """No release request for the model is open: it was answered, or there was none. Params: model, instance."""

    code = "nothing_asked"


class CoolingDown(Refused):
    """The model failed to load a moment ago. Params: model, seconds, failures."""

    code = "cooling_down"


class ModeUnavailable(Refused):
    """The mode is not available on this server. Params: mode, reason."""

    code = "mode_unavailable"


class ModelUnsuitable(Refused):
    """The cached files cannot be loaded. Params: model, reason."""

    code = "model_unsuitable"


class NotReady(Refused):
    """The instance is not answering requests now. Params: model, instance, state."""

    code = "not_ready"


class NotCancellable(Refused):
    """The operation has ended. Params: operation, state."""

    code = "not_cancellable"


class NothingToRestore(Refused):
    """The operation has nothing left to load again: every model is back, or another operation restored it.

    Params: operation.
    """

    code = "nothing_to_restore"


class NotConfirmed(Refused):
    """Stopping a container that was started outside Warden requires typing its exact name.

    Params: container, name, owner.
    """

    code = "not_confirmed"


class NameInUse(Refused):
    """The name is taken, possibly in different upper and lower case. Params: person."""

    code = "name_in_use"


class LastAdministrator(Refused):
    """No administrator would remain. Params: person."""

    code = "last_administrator"


class OwnAccount(Refused):
    """People cannot change the role of, disable or remove their own account. Params: person."""

    code = "own_account"


class Superseded(Refused):
    """An emergency took the operation's claims over. Params: operation."""

    code = "superseded"


class QueueFull(Refused):
    """The queue is full. Params: limit."""

    code = "queue_full"


class AlreadyWaiting(Refused):
    """The same person has already queued the same launch. Params: ticket, model, place."""

    code = "already_waiting"


class CannotWait(Refused):
    """The model would not fit even on an empty device, so queuing it cannot help.

    Params: model, needed_bytes, most_bytes.
    """

    code = "cannot_wait"


class TicketEnded(Refused):
    """The queued launch has left the queue, or is being started. Params: ticket, model, state."""

    code = "ticket_ended"


class ForeignTicket(Refused):
    """The queued launch belongs to another person. Params: ticket, actor."""

    code = "foreign_ticket"
    status = 403


class Unavailable(WardenError):
    """A required component is not responding."""

    code = "unavailable"
    status = 503


class DeviceUnreadable(Unavailable):
    """The device has no reading that is recent enough to rely on. Params: device, age_s."""

    code = "device_unreadable"


class StoreUnavailable(Unavailable):
    """The database does not answer.

    Params: reason, trouble (``StoreTrouble``) and file (SQLite's) where they are known.
    """

    code = "store_unavailable"


class NotStored(Unavailable):
    """The change could not be stored, so it was not made. Params: reason."""

    code = "not_stored"


class TooManyQuestions(Unavailable):
    """The limit of concurrent answers is reached. Params: limit."""

    code = "too_many_questions"


class Stopping(Unavailable):
    """Warden is shutting down and accepts no operation."""

    code = "stopping"


class EngineUnavailable(Unavailable):
    """Docker is not available. Params: socket, detail."""

    code = "engine_unavailable"


class EngineMissing(EngineUnavailable):
    """There is no Docker socket. Params: socket."""

    code = "engine_missing"


class EngineForbidden(EngineUnavailable):
    """This user may not use the Docker socket. Params: socket, user."""

    code = "engine_forbidden"


class EngineUnreachable(EngineUnavailable):
    """The Docker socket exists, but the engine does not answer, or not in time. Params: socket, detail."""

    code = "engine_unreachable"


class EngineFailed(EngineUnavailable):
    """Docker refused or failed the request. Params: socket, detail (its words)."""

    code = "engine_failed"


class LaunchFailed(WardenError):
    """A model did not become ready. Params: model, detail, log (last lines)."""

    code = "launch_failed"


class OutOfMemory(LaunchFailed):
    """The load or a request ran out of memory. Params: model, detail, log."""

    code = "out_of_memory"


class WorkerDied(LaunchFailed):
    """The worker process ended unexpectedly. Params: model, exit (code or signal name), log."""

    code = "worker_died"


class LaunchStalled(LaunchFailed):
    """The launch showed no activity for the allowed time. Params: model, seconds, log."""

    code = "launch_stalled"


class LaunchTooSlow(LaunchFailed):
    """The launch was active throughout but not ready within the total time. Params: model, seconds, log."""

    code = "launch_too_slow"


class WorkerGarbled(LaunchFailed):
    """The worker's answer does not follow its protocol. Params: model, detail, log."""

    code = "worker_garbled"


class ServerGarbled(WorkerGarbled):
    """The container serves what is not vLLM, or another model. Params: model, detail, log."""

    code = "server_garbled"


class LaunchBlocked(LaunchFailed):
    """The server could not start the model for a reason unrelated to the model, so it can be tried again at once."""

    code = "launch_blocked"


class DiskFull(LaunchBlocked):
    """The disk that the launch writes to is full, or the quota is exhausted. Params: model, path, mount."""

    code = "disk_full"


class DiskReadOnly(LaunchBlocked):
    """The file system that the launch writes to is mounted read-only. Params: model, path, mount."""

    code = "disk_read_only"


class TooManyFiles(LaunchBlocked):
    """Warden or the whole machine has reached its limit of open files and connections.

    Params: model, limit (``None`` is unknown).
    """

    code = "too_many_files"


class TooManyProcesses(LaunchBlocked):
    """Warden has reached the limit of processes and threads. Params: model."""

    code = "too_many_processes"


class LoadFenced(LaunchBlocked):
    """Another process took memory that the load still needed, so the load was stopped before it could fail.

    Params: model, device, needed_bytes, free_bytes, missing_bytes, grown_bytes, grown_to_bytes; of the process that
    grew: who (user, name and pid in one text), pid, user, command, instance (a model of Warden's), container (a foreign
    one).
    """

    code = "load_fenced"


class ImageMissing(LaunchBlocked):
    """The image is not on this server. Params: image, command (what fetches it)."""

    code = "image_missing"


class GpuRuntimeMissing(LaunchBlocked):
    """Docker cannot give GPUs to containers. Params: model, detail."""

    code = "gpu_runtime_missing"


class PortTaken(LaunchBlocked):
    """Every port in the configured range is taken. Params: model, ports (``8100-8199``)."""

    code = "port_taken"


class PortLost(LaunchBlocked):
    """Another process took the port before vLLM listened on it. Params: model, port, log."""

    code = "port_lost"


class NameTaken(LaunchBlocked):
    """Another container already has the required name. Params: model, name."""

    code = "name_taken"


class ProfileDisturbed(LaunchBlocked):
    """Another process changed its memory use while vLLM was profiling.

    Params: model, before_bytes, after_bytes (free), log.
    """

    code = "profile_disturbed"


class StartMemoryShort(LaunchFailed):
    """vLLM found less free memory than it is configured to use.

    Params: model, free_bytes, total_bytes, wanted_bytes, log.
    """

    code = "start_memory_short"


class KvCacheTooSmall(LaunchFailed):
    """The KV cache is too small for one request of the chosen context length.

    Params: model, max_tokens, needed_bytes, available_bytes, fits_tokens (the longest context that fits,
    ``None`` if unknown), log.
    """

    code = "kv_cache_too_small"


class ArchitectureUnsupported(LaunchFailed):
    """vLLM does not support the model's architecture. Params: model, architecture, log."""

    code = "architecture_unsupported"


class ArgumentRejected(LaunchFailed):
    """vLLM rejected a command-line argument. Params: model, argument, detail, log."""

    code = "argument_rejected"


class ContainerExited(LaunchFailed):
    """The container exited for an unknown reason. Params: model, exit (code or signal name), log."""

    code = "container_exited"


class ContainerRemoved(LaunchFailed):
    """The container was removed by someone else. Params: model, log."""

    code = "container_removed"


class ContextTooLong(LaunchFailed):
    """The chosen context length is greater than the model supports.

    Params: model, max_tokens, limit_tokens (``None`` is unknown), log.
    """

    code = "context_too_long"


class WorkerSilent(WardenError):
    """The process did not answer in time. Params: instance, seconds."""

    code = "worker_silent"
    status = 504


class WorkerCutOff(WorkerSilent):
    """The process is running but its folder was removed, so it cannot be reached.

    Params: instance, pid, path, seconds.
    """

    code = "worker_cut_off"


class GenerationFailed(WardenError):
    """The model could not answer the prompt. Params: model, detail, reason."""

    code = "generation_failed"
    status = 502


class StopFailed(WardenError):
    """A process survived all signals. Params: model, pid, user, state."""

    code = "stop_failed"


class Cancelled(WardenError):
    """A person cancelled the operation. Params: actor."""

    code = "cancelled"
    status = 409


class CancelledByStop(Cancelled):
    """Warden was stopped during the operation."""

    code = "cancelled_by_stop"


class ProbeFailed(WardenError):
    """A device could not be read. Params: device, detail."""

    code = "probe_failed"
    status = 503


class DriverMissing(ProbeFailed):
    """The NVIDIA driver or its library is missing. Params: detail."""

    code = "driver_missing"


class DeviceLost(ProbeFailed):
    """The GPU is lost: it no longer answers on the PCIe bus. Params: device, detail."""

    code = "device_lost"


class NotSupported(ProbeFailed):
    """The driver does not provide this figure for the device. Params: device, detail."""

    code = "not_supported"


class DemoFailed(WardenError):
    """The demo model could not be created. Params: detail."""

    code = "demo_failed"


class SandboxFailed(WardenError):
    """The self-test's sandbox could not be created or fully removed. Params: detail."""

    code = "sandbox_failed"


class ConfigurationError(WardenError):
    """Warden cannot start with this configuration. Params: setting, value, detail."""

    code = "configuration"


class AlreadyRunning(ConfigurationError):
    """Another Warden holds the state folder. Params: state_dir, pid."""

    code = "already_running"
