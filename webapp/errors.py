"""The error tree: every failure that a person or a program can be told of.

::

    WardenError
    ├── InvalidRequest            invalid              422  a field has a value that cannot be meant
    │   └── WeakPassword          weak_password             the password is too short, too long, or holds the name
    ├── NotSignedIn               unauthorized         401  nobody is signed in, or is so no more
    │   └── SignInFailed          sign_in_failed            the name and the password do not belong together
    ├── Forbidden                 forbidden            403  the person's role does not allow it
    │   ├── NotYours              not_yours                 it is another person's
    │   │   └── TooLate           too_late                  it was the owner's to stop before it acted
    │   └── InPerson              in_person                 an API token may not, whatever its scope
    ├── NotFound                                       404
    │   ├── UnknownModel          unknown_model             the model is not in the cache
    │   ├── UnknownInstance       unknown_instance          no such loaded model
    │   ├── UnknownOperation      unknown_operation         no such operation
    │   ├── UnknownDevice         unknown_device            no such device
    │   ├── UnknownContainer      unknown_container         no such container of somebody else's
    │   ├── UnknownTicket         unknown_ticket            no such request that waits
    │   ├── UnknownPerson         unknown_person            no such account
    │   ├── UnknownInvitation     unknown_invitation        no such invitation, or it is used or over
    │   └── UnknownToken          unknown_token             no such API token
    ├── Refused                                        409
    │   ├── Busy                  busy                      another operation has claimed a device
    │   ├── NotEnoughMemory       not_enough_memory         the plan does not fit
    │   ├── AlreadyLoaded         already_loaded            the same model runs with the same options
    │   ├── InstanceInUse         instance_in_use           a model that would be unloaded answers requests
    │   ├── InstanceLeased        instance_leased           a model that would be unloaded is another person's, for a time
    │   ├── ConfirmationNeeded    confirmation_needed       other people's models have to go, and were not named
    │   ├── InstanceStopping      instance_stopping         the model is being ended: its terms change no more
    │   ├── CannotEnd             cannot_end                a model that would be unloaded cannot be ended in order now
    │   ├── IdleUsedAgain         idle_used_again           the model was to go for being idle and is wanted again
    │   ├── LeasePending          lease_pending             new terms of the model are being written down
    │   ├── NotOwner              not_owner            403  only the owner of a model may do that
    │   ├── ReleasePending        release_pending           somebody asks for the model already
    │   ├── NothingAsked          nothing_asked             nobody asks for the model
    │   ├── CoolingDown           cooling_down              the model failed to load a moment ago
    │   ├── ModeUnavailable       mode_unavailable          the mode cannot be chosen on this server
    │   ├── ModelUnsuitable       model_unsuitable          the cached files cannot be loaded
    │   ├── NotReady              not_ready                 the instance does not answer requests now
    │   ├── NotCancellable        not_cancellable           the operation has ended
    │   ├── NothingToRestore      nothing_to_restore        the operation has nothing that could be loaded again
    │   ├── NotConfirmed          not_confirmed             ending somebody else's container needs its name
    │   ├── Superseded            superseded                an emergency took the operation's claims over
    │   ├── QueueFull             queue_full                as many requests wait as may
    │   ├── AlreadyWaiting        already_waiting           the same person waits for the same already
    │   ├── CannotWait            cannot_wait               it would not fit on an empty device either
    │   ├── TicketEnded           ticket_ended              the request waits no more
    │   ├── ForeignTicket         foreign_ticket       403  the request is another person's
    │   ├── NameInUse             name_in_use               somebody has the name already
    │   ├── LastAdministrator     last_administrator        nobody would be left who may do everything
    │   └── OwnAccount            own_account               another administrator does this to one's own account
    ├── Unavailable                                    503
    │   ├── DeviceUnreadable      device_unreadable         the device has no figure that can be trusted
    │   ├── StoreUnavailable      store_unavailable         the database does not answer
    │   ├── NotStored             not_stored                it could not be kept, so it was not done
    │   ├── TooManyQuestions      too_many_questions        the page leads as many answers as it can
    │   ├── Stopping              stopping                  Warden is shutting down
    │   └── EngineUnavailable                               Docker cannot be asked
    │       ├── EngineMissing     engine_missing            there is no Docker socket
    │       ├── EngineForbidden   engine_forbidden          no rights to the socket
    │       ├── EngineUnreachable engine_unreachable        the socket is there and nobody answers in time
    │       └── EngineFailed      engine_failed             Docker answered that it cannot do what was asked
    ├── LaunchFailed              launch_failed        500  a model did not become ready
    │   ├── OutOfMemory           out_of_memory             the load or a request ran out of memory
    │   ├── WorkerDied            worker_died               the process ended by itself
    │   ├── LaunchStalled         launch_stalled            no sign of activity for the allowed time
    │   ├── LaunchTooSlow         launch_too_slow           active all the time and not ready within the total time
    │   ├── WorkerGarbled         worker_garbled            the process answers what is not its protocol
    │   │   └── ServerGarbled     server_garbled            the container serves what is not vLLM, or another model
    │   ├── LaunchBlocked         launch_blocked            the server was in no state to start it; the model is not to blame
    │   │   ├── DiskFull          disk_full                 no space is left where the start has to write
    │   │   ├── DiskReadOnly      disk_read_only            nothing can be written where the start has to write
    │   │   ├── TooManyFiles      too_many_files            Warden may open no more files and connections
    │   │   ├── TooManyProcesses  too_many_processes        no more processes or threads may be started
    │   │   ├── LoadFenced        load_fenced               somebody else took the memory that the load still needed
    │   │   ├── ImageMissing      image_missing             the image is not on this server
    │   │   ├── GpuRuntimeMissing gpu_runtime_missing       Docker cannot give a container a GPU
    │   │   ├── PortTaken         port_taken                every port of the range is taken
    │   │   ├── PortLost          port_lost                 somebody took the port before vLLM listened there
    │   │   ├── NameTaken         name_taken                another container has the name
    │   │   └── ProfileDisturbed  profile_disturbed         a neighbour's memory moved while vLLM measured
    │   ├── StartMemoryShort      start_memory_short        vLLM found less free memory than it was to take
    │   ├── KvCacheTooSmall       kv_cache_too_small        not one request of the context fits the KV cache
    │   ├── ArchitectureUnsupported architecture_unsupported  vLLM does not know the model's architecture
    │   ├── ArgumentRejected      argument_rejected         vLLM does not take an argument of its command line
    │   ├── ContextTooLong        context_too_long          the model is not made for a context of this length
    │   ├── ContainerExited       container_exited          the container ended by itself, for no reason that is known
    │   └── ContainerRemoved      container_removed         somebody removed the container
    ├── WorkerSilent              worker_silent        504  the process does not answer in time
    │   └── WorkerCutOff          worker_cut_off            the process lives and its folder was removed
    ├── GenerationFailed          generation_failed    502  the model could not answer the prompt
    ├── StopFailed                stop_failed          500  a process survived every signal
    ├── Cancelled                 cancelled            409  a person cancelled the operation
    │   └── CancelledByStop       cancelled_by_stop         Warden was stopped in the middle of it
    ├── ProbeFailed               probe_failed         503  a device could not be read
    │   ├── DriverMissing         driver_missing            no NVIDIA driver or library
    │   ├── DeviceLost            device_lost               the GPU fell off the bus
    │   └── NotSupported          not_supported             the driver has no such figure for this device
    ├── DemoFailed                demo_failed          500  the demo model could not be made
    ├── SandboxFailed             sandbox_failed       500  the self-test's own Warden could not be made or removed
    └── ConfigurationError        configuration             Warden cannot start like this
        └── AlreadyRunning        already_running           another Warden holds the state folder

Each class has a stable ``code``, the HTTP ``status`` that the JSON contract gives it, and ``params``: plain values that the
sentence in ``web/words.py`` names. ``str(error)`` is for logs.
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
    """A field has a value that cannot be meant. Params: field, value, allowed."""

    code = "invalid"
    status = 422


class WeakPassword(InvalidRequest):
    """The password is too short, too long, or holds the name. Params: least, most (characters)."""

    code = "weak_password"


class NotSignedIn(WardenError):
    """Nobody is signed in, or is so no more."""

    code = "unauthorized"
    status = 401


class SignInFailed(NotSignedIn):
    """The name and the password do not belong together, or the account is disabled; it is not said which."""

    code = "sign_in_failed"


class Forbidden(WardenError):
    """The person's role does not allow it. Params: needed (the lowest role that may), role (the person's)."""

    code = "forbidden"
    status = 403


class NotYours(Forbidden):
    """It is another person's, and only that person and an administrator may. Params: owner."""

    code = "not_yours"


class TooLate(NotYours):
    """The time in which the owner of a model could stop what ends it is over. Params: owner (whose operation it is)."""

    code = "too_late"


class InPerson(Forbidden):
    """An API token may not do this, whatever its scope."""

    code = "in_person"


class NotFound(WardenError):
    """What was named does not exist."""

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
    """No container of somebody else's has this id. Params: container."""

    code = "unknown_container"


class UnknownTicket(NotFound):
    """No request that waits, or waited lately, has this id. Params: ticket."""

    code = "unknown_ticket"


class UnknownPerson(NotFound):
    """No account has this name. Params: person."""

    code = "unknown_person"


class UnknownInvitation(NotFound):
    """No invitation has this link, or it was used, or its time is over."""

    code = "unknown_invitation"


class UnknownToken(NotFound):
    """No API token has this number. Params: token."""

    code = "unknown_token"


class Refused(WardenError):
    """The request is well formed and the world does not allow it now."""

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
    """A model that would be unloaded answers requests. Params: model, instance, in_flight, owner."""

    code = "instance_in_use"


class InstanceLeased(Refused):
    """A model that would be unloaded is another person's for a time. Params: model, instance, owner, until (since the epoch), reason."""

    code = "instance_leased"


class ConfirmationNeeded(Refused):
    """Other people's idle models have to go and were not confirmed.

    Params: model, models (each with its owner), instances (their ids, with commas between them).
    """

    code = "confirmation_needed"


class InstanceStopping(Refused):
    """The model is being ended: nothing that its owner or others agree on changes that any more. Params: model, instance."""

    code = "instance_stopping"


class CannotEnd(Refused):
    """A model that would be unloaded runs in a mode that cannot be asked: it could be neither ended in order nor loaded again.

    Params: model, instance, mode, reason (a code).
    """

    code = "cannot_end"


class IdleUsedAgain(Refused):
    """The model was to go for being idle, and in the last moment it is used, kept or leased. Params: model."""

    code = "idle_used_again"


class LeasePending(Refused):
    """New terms of the model are being written down: nobody else takes it before it is known whether they hold. Params: model, instance."""

    code = "lease_pending"


class NotOwner(Refused):
    """Only the owner of a model may do that. Params: model, instance, owner."""

    code = "not_owner"
    status = 403


class ReleasePending(Refused):
    """Somebody asks for the model already. Params: model, instance, asker."""

    code = "release_pending"


class NothingAsked(Refused):
    """Nobody asks for the model: the ask was answered, or there was none. Params: model, instance."""

    code = "nothing_asked"


class CoolingDown(Refused):
    """The model failed to load a moment ago. Params: model, seconds, failures."""

    code = "cooling_down"


class ModeUnavailable(Refused):
    """The mode cannot be chosen on this server. Params: mode, reason."""

    code = "mode_unavailable"


class ModelUnsuitable(Refused):
    """The cached files cannot be loaded. Params: model, reason."""

    code = "model_unsuitable"


class NotReady(Refused):
    """The instance does not answer requests now. Params: model, instance, state."""

    code = "not_ready"


class NotCancellable(Refused):
    """The operation has ended. Params: operation, state."""

    code = "not_cancellable"


class NothingToRestore(Refused):
    """The operation has nothing that could be loaded again: everything came back, or somebody was quicker. Params: operation."""

    code = "nothing_to_restore"


class NotConfirmed(Refused):
    """Ending somebody else's container needs its very name. Params: container, name, owner."""

    code = "not_confirmed"


class NameInUse(Refused):
    """Somebody has the name already, perhaps written otherwise. Params: person."""

    code = "name_in_use"


class LastAdministrator(Refused):
    """Nobody would be left who may do everything. Params: person."""

    code = "last_administrator"


class OwnAccount(Refused):
    """Nobody changes the role of an own account, disables or removes it. Params: person."""

    code = "own_account"


class Superseded(Refused):
    """An emergency took the operation's claims over. Params: operation."""

    code = "superseded"


class QueueFull(Refused):
    """As many requests wait as may. Params: limit."""

    code = "queue_full"


class AlreadyWaiting(Refused):
    """The same person waits for the same already. Params: ticket, model, place."""

    code = "already_waiting"


class CannotWait(Refused):
    """It would not fit on an empty device either, so waiting is in vain. Params: model, needed_bytes, most_bytes."""

    code = "cannot_wait"


class TicketEnded(Refused):
    """The request waits no more, or is being started. Params: ticket, model, state."""

    code = "ticket_ended"


class ForeignTicket(Refused):
    """The request is another person's. Params: ticket, actor."""

    code = "foreign_ticket"
    status = 403


class Unavailable(WardenError):
    """A part that is needed does not answer."""

    code = "unavailable"
    status = 503


class DeviceUnreadable(Unavailable):
    """The device has no figure that can be trusted. Params: device, age_s."""

    code = "device_unreadable"


class StoreUnavailable(Unavailable):
    """The database does not answer. Params: reason, trouble (``StoreTrouble``) and file (SQLite's) where they are known."""

    code = "store_unavailable"


class NotStored(Unavailable):
    """What was asked for could not be kept, so it was not done. Params: reason."""

    code = "not_stored"


class TooManyQuestions(Unavailable):
    """The page leads as many answers at once as it can. Params: limit."""

    code = "too_many_questions"


class Stopping(Unavailable):
    """Warden is shutting down and accepts no operation."""

    code = "stopping"


class EngineUnavailable(Unavailable):
    """Docker cannot be asked. Params: socket, detail."""

    code = "engine_unavailable"


class EngineMissing(EngineUnavailable):
    """There is no Docker socket. Params: socket."""

    code = "engine_missing"


class EngineForbidden(EngineUnavailable):
    """This user has no rights to the socket. Params: socket, user."""

    code = "engine_forbidden"


class EngineUnreachable(EngineUnavailable):
    """The socket is there and nobody answers, or not in time. Params: socket, detail."""

    code = "engine_unreachable"


class EngineFailed(EngineUnavailable):
    """Docker answered that it cannot do what was asked. Params: socket, detail (its words)."""

    code = "engine_failed"


class LaunchFailed(WardenError):
    """A model did not become ready. Params: model, detail, log (last lines)."""

    code = "launch_failed"


class OutOfMemory(LaunchFailed):
    """The load or a request ran out of memory. Params: model, detail, log."""

    code = "out_of_memory"


class WorkerDied(LaunchFailed):
    """The process ended by itself. Params: model, exit (code or signal name), log."""

    code = "worker_died"


class LaunchStalled(LaunchFailed):
    """No sign of activity for the allowed time. Params: model, seconds, log."""

    code = "launch_stalled"


class LaunchTooSlow(LaunchFailed):
    """Active all the time and not ready within the total time. Params: model, seconds, log."""

    code = "launch_too_slow"


class WorkerGarbled(LaunchFailed):
    """The process answers what is not its protocol. Params: model, detail, log."""

    code = "worker_garbled"


class ServerGarbled(WorkerGarbled):
    """The container serves what is not vLLM, or another model. Params: model, detail, log."""

    code = "server_garbled"


class LaunchBlocked(LaunchFailed):
    """The server was in no state to start it; nothing is known against the model, so it may be tried again at once."""

    code = "launch_blocked"


class DiskFull(LaunchBlocked):
    """No space is left on the disk where the start has to write, or the quota is used up. Params: model, path, mount."""

    code = "disk_full"


class DiskReadOnly(LaunchBlocked):
    """The file system where the start has to write is mounted read-only. Params: model, path, mount."""

    code = "disk_read_only"


class TooManyFiles(LaunchBlocked):
    """Warden, or the whole machine, may open no more files and connections. Params: model, limit (``None`` is unknown)."""

    code = "too_many_files"


class TooManyProcesses(LaunchBlocked):
    """The machine starts no more processes or threads for Warden. Params: model."""

    code = "too_many_processes"


class LoadFenced(LaunchBlocked):
    """Somebody else took the memory that the load still needed, so it was stopped before it failed.

    Params: model, device, needed_bytes, free_bytes, missing_bytes, grown_bytes, grown_to_bytes; of who grew: who (user, name and pid in one
    text), pid, user, command, instance (a model of Warden's), container (somebody else's).
    """

    code = "load_fenced"


class ImageMissing(LaunchBlocked):
    """The image is not on this server. Params: image, command (what fetches it)."""

    code = "image_missing"


class GpuRuntimeMissing(LaunchBlocked):
    """Docker cannot give a container a GPU. Params: model, detail."""

    code = "gpu_runtime_missing"


class PortTaken(LaunchBlocked):
    """Every port of the range is taken. Params: model, ports (``8100-8199``)."""

    code = "port_taken"


class PortLost(LaunchBlocked):
    """Somebody took the port before vLLM listened there. Params: model, port, log."""

    code = "port_lost"


class NameTaken(LaunchBlocked):
    """Another container has the name that this one was to have. Params: model, name."""

    code = "name_taken"


class ProfileDisturbed(LaunchBlocked):
    """A neighbour's memory moved while vLLM measured. Params: model, before_bytes, after_bytes (free), log."""

    code = "profile_disturbed"


class StartMemoryShort(LaunchFailed):
    """vLLM found less free memory than it was to take. Params: model, free_bytes, total_bytes, wanted_bytes, log."""

    code = "start_memory_short"


class KvCacheTooSmall(LaunchFailed):
    """Not one request of the context fits the KV cache.

    Params: model, max_tokens, needed_bytes, available_bytes, fits_tokens (the context that would fit, ``None`` if unknown), log.
    """

    code = "kv_cache_too_small"


class ArchitectureUnsupported(LaunchFailed):
    """vLLM does not know the model's architecture. Params: model, architecture, log."""

    code = "architecture_unsupported"


class ArgumentRejected(LaunchFailed):
    """vLLM does not take an argument of its command line. Params: model, argument, detail, log."""

    code = "argument_rejected"


class ContainerExited(LaunchFailed):
    """The container ended by itself, for no reason that is known. Params: model, exit (code or signal name), log."""

    code = "container_exited"


class ContainerRemoved(LaunchFailed):
    """Somebody removed the container. Params: model, log."""

    code = "container_removed"


class ContextTooLong(LaunchFailed):
    """The model is not made for a context of this length. Params: model, max_tokens, limit_tokens (``None`` is unknown), log."""

    code = "context_too_long"


class WorkerSilent(WardenError):
    """The process does not answer in time. Params: instance, seconds."""

    code = "worker_silent"
    status = 504


class WorkerCutOff(WorkerSilent):
    """The process lives and its folder was removed, so that nobody can ask it anything. Params: instance, pid, path, seconds."""

    code = "worker_cut_off"


class GenerationFailed(WardenError):
    """The model could not answer the prompt. Params: model, detail, reason."""

    code = "generation_failed"
    status = 502


class StopFailed(WardenError):
    """A process survived every signal. Params: model, pid, user, state."""

    code = "stop_failed"


class Cancelled(WardenError):
    """A person cancelled the operation. Params: actor."""

    code = "cancelled"
    status = 409


class CancelledByStop(Cancelled):
    """Warden was stopped in the middle of the operation."""

    code = "cancelled_by_stop"


class ProbeFailed(WardenError):
    """A device could not be read. Params: device, detail."""

    code = "probe_failed"
    status = 503


class DriverMissing(ProbeFailed):
    """No NVIDIA driver or library. Params: detail."""

    code = "driver_missing"


class DeviceLost(ProbeFailed):
    """The GPU fell off the bus. Params: device, detail."""

    code = "device_lost"


class NotSupported(ProbeFailed):
    """The driver has no such figure for this device. Params: device, detail."""

    code = "not_supported"


class DemoFailed(WardenError):
    """The demo model could not be made. Params: detail."""

    code = "demo_failed"


class SandboxFailed(WardenError):
    """The self-test's own Warden could not be made, or something of it could not be removed. Params: detail."""

    code = "sandbox_failed"


class ConfigurationError(WardenError):
    """Warden cannot start like this. Params: setting, value, detail."""

    code = "configuration"


class AlreadyRunning(ConfigurationError):
    """Another Warden holds the state folder. Params: state_dir, pid."""

    code = "already_running"
