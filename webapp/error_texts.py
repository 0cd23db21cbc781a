"""The text of every error: a short title, and a sentence that says what happened and what to do.

The page, the JSON interface and the terminal use the same texts. English is the source, which the page translates. A
sentence contains placeholders for the error's parameters, such as ``%(model)s``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from webapp.message import Param
from webapp.texts import N_

GIB: Final = 2**30
UNKNOWN: Final = "n/a"


@dataclass(frozen=True)
class ErrorText:
    """The text of one error. ``title`` starts with a lower-case letter, as it is also used after a colon."""

    title: str
    sentence: str


ERROR_TEXTS: Final[Mapping[str, ErrorText]] = {
    "error": ErrorText(N_("internal error"), N_("Something went wrong. The server’s log has the details.")),
    "invalid": ErrorText(N_("invalid value"), N_("The field “%(field)s” cannot be “%(value)s”. Allowed: %(allowed)s.")),
    "weak_password": ErrorText(
        N_("weak password"),
        N_("This password is not accepted: it needs %(least)s to %(most)s characters and must not contain your name."),
    ),
    "unauthorized": ErrorText(
        N_("not signed in"), N_("You’re not signed in, or your session has ended. Sign in again.")
    ),
    "sign_in_failed": ErrorText(
        N_("wrong name or password"), N_("Wrong name or password. Check the keyboard layout and try again.")
    ),
    "forbidden": ErrorText(
        N_("the role does not allow it"),
        N_(
            "This needs the role “%(needed)s”, not “%(role)s”. Administrators change roles on the People page: ask one."
        ),
    ),
    "not_yours": ErrorText(
        N_("somebody else’s operation"),
        N_("Only %(owner)s and an administrator may do this. Ask them, or wait until it is free."),
    ),
    "too_late": ErrorText(
        N_("already unloading"),
        N_("The model is already being unloaded; it is too late to stop that. You can load it again."),
    ),
    "in_person": ErrorText(
        N_("not allowed with a token"),
        N_("An API token cannot do this: sign in by name and password to manage accounts."),
    ),
    "unknown_person": ErrorText(N_("no such account"), N_("There is no account %(person)s.")),
    "unknown_invitation": ErrorText(
        N_("the invitation is not valid"), N_("This link was used or has expired. Ask an administrator for a new one.")
    ),
    "unknown_token": ErrorText(N_("no such token"), N_("There is no token %(token)s; it may have been revoked.")),
    "name_in_use": ErrorText(N_("the name is taken"), N_("The name %(person)s is taken. Choose another one.")),
    "last_administrator": ErrorText(
        N_("the only administrator"), N_("%(person)s is the only administrator. Appoint another one first.")
    ),
    "own_account": ErrorText(
        N_("not possible for one’s own account"),
        N_("You cannot change your own role, or disable or remove your own account: another administrator can."),
    ),
    "not_found": ErrorText(N_("not found"), N_("Page not found. Check the address.")),
    "unknown_model": ErrorText(N_("no such model"), N_("No model is chosen. Choose one from the list.")),
    "unknown_instance": ErrorText(
        N_("no such model is loaded"),
        N_("The model with id %(instance)s is no longer here: it was unloaded. Reload the page."),
    ),
    "unknown_operation": ErrorText(
        N_("no such operation"),
        N_("There is no operation %(operation)s. Check the address, or find it in the history."),
    ),
    "unknown_device": ErrorText(N_("no such device"), N_("This server has no device %(device)s. It has: %(known)s.")),
    "refused": ErrorText(N_("refused"), N_("This is not possible now. Reload the page and see what has changed.")),
    "busy": ErrorText(
        N_("another operation is running"),
        N_(
            "Another operation is running: %(kind)s, started by %(actor)s at %(since)s. Wait for it to end, "
            "or cancel it."
        ),
    ),
    "not_enough_memory": ErrorText(
        N_("not enough memory"),
        N_(
            "Not enough memory on %(device)s: %(model)s needs %(needed_bytes)s plus a reserve of %(reserve_bytes)s, "
            "%(free_bytes)s is available; %(missing_bytes)s short. Choose settings or a model that need less."
        ),
    ),
    "already_loaded": ErrorText(
        N_("already loaded"),
        N_("The model %(model)s is already loaded with the same settings. Change the settings or use the loaded one."),
    ),
    "instance_in_use": ErrorText(
        N_("somebody else’s model, answering"),
        N_(
            "It is unknown whether %(model)s (owner: %(owner)s) is answering requests now, so it counts as busy. Ask "
            "its owner to release it."
        ),
    ),
    "instance_leased": ErrorText(
        N_("leased by somebody else"),
        N_(
            "Model %(model)s is leased until %(until)s, its owner is %(owner)s. Ask for its release or "
            "choose another device."
        ),
    ),
    "confirmation_needed": ErrorText(
        N_("other people’s models were not confirmed"),
        N_("There is enough room only if other people’s models are unloaded: %(models)s. Confirm each of them."),
    ),
    "instance_stopping": ErrorText(
        N_("the model is already being unloaded"),
        N_(
            "The model %(model)s is already being unloaded: it is too late to change its lease or to request "
            "its release. If you need it, load it again."
        ),
    ),
    "cannot_end": ErrorText(
        N_("the model cannot be stopped now"),
        N_(
            "%(model)s cannot be stopped cleanly now, or loaded again if loading fails: %(reason)s. Fix that "
            "first, or choose not to restore the unloaded models. Nothing was changed."
        ),
    ),
    "idle_used_again": ErrorText(N_("in use again"), N_("Model %(model)s is in use again and stays.")),
    "lease_pending": ErrorText(
        N_("the lease is being saved"), N_("The lease of %(model)s is being saved. Try again in a second.")
    ),
    "not_owner": ErrorText(
        N_("somebody else’s model"), N_("Only its owner, %(owner)s, can do that: model %(model)s is not yours.")
    ),
    "release_pending": ErrorText(
        N_("already requested"),
        N_("%(asker)s has already asked to release model %(model)s. Wait for the owner’s answer."),
    ),
    "nothing_asked": ErrorText(
        N_("there is no such request"), N_("The request to release model %(model)s has already been answered.")
    ),
    "cooling_down": ErrorText(
        N_("pause after a failed load"),
        N_(
            "The model %(model)s has just failed to load (failures in a row: %(failures)s). Try again in "
            "%(seconds)s or choose other settings."
        ),
    ),
    "mode_unavailable": ErrorText(
        N_("the mode is not available"),
        N_("The mode %(mode)s is not available now: %(reason)s. Nothing was changed. Choose another mode."),
    ),
    "model_unsuitable": ErrorText(
        N_("the model cannot be loaded"),
        N_("The model %(model)s cannot be loaded: %(reason)s. Choose another one or repair its files in the cache."),
    ),
    "not_ready": ErrorText(
        N_("the model is not answering now"),
        N_("The model %(model)s accepts no requests: %(state)s. Wait until it is ready."),
    ),
    "nothing_to_restore": ErrorText(
        N_("nothing to load again"), N_("Nothing to load again: everything is loaded or loading. Reload the page.")
    ),
    "not_cancellable": ErrorText(
        N_("too late to cancel"), N_("Nothing to cancel: the operation has ended (%(state)s).")
    ),
    "superseded": ErrorText(
        N_("interrupted by an emergency clean-up"), N_("An emergency clean-up interrupted the operation.")
    ),
    "unavailable": ErrorText(
        N_("not possible now"), N_("A required component is not responding. Try again in a minute.")
    ),
    "device_unreadable": ErrorText(
        N_("memory readings are unavailable"),
        N_("The memory readings are unreliable now, so nothing can be loaded. Check the driver and try again."),
    ),
    "store_unavailable": ErrorText(
        N_("the database is not available"),
        N_(
            "the database is not responding (%(reason)s). Loaded models keep running; the history returns "
            "with the database."
        ),
    ),
    "not_stored": ErrorText(
        N_("not saved"),
        N_(
            "Warden could not save this (%(reason)s), so nothing was done. Check the disk space and the database, "
            "then try again."
        ),
    ),
    "stopping": ErrorText(
        N_("Warden is stopping"),
        N_("Warden is shutting down and accepts no new operations. Try again when it is running again."),
    ),
    "too_many_questions": ErrorText(
        N_("too many answers at once"), N_("Too many chats at once (limit %(limit)s). Wait for one to finish.")
    ),
    "launch_failed": ErrorText(
        N_("the model did not start"),
        N_(
            "The model %(model)s did not start: %(detail)s. Its process never started, so the model has no "
            "log; see the server’s log."
        ),
    ),
    "out_of_memory": ErrorText(
        N_("out of memory"),
        N_(
            "Model %(model)s ran out of memory (%(detail)s). Choose fewer tokens or a smaller batch, a "
            "smaller model or, in Transformers mode, INT8 or 4-bit."
        ),
    ),
    "worker_died": ErrorText(
        N_("the worker ended"),
        N_(
            "The process of the model %(model)s exited unexpectedly (%(exit)s). See the last lines of its "
            "log and load the model again."
        ),
    ),
    "launch_stalled": ErrorText(
        N_("the launch stalled"),
        N_("Loading the model %(model)s made no progress for %(seconds)s and was stopped. Look at its log."),
    ),
    "launch_too_slow": ErrorText(
        N_("the launch took too long"),
        N_(
            "The model %(model)s did not finish loading within %(seconds)s. Look at its log or raise "
            "WARDEN_LAUNCH_DEADLINE_S."
        ),
    ),
    "cancelled_by_stop": ErrorText(
        N_("interrupted by a stop of Warden"),
        N_("Warden was stopped in the middle of the operation. Repeat it after the start."),
    ),
    "worker_garbled": ErrorText(
        N_("the worker sent an invalid response"),
        N_(
            "The process of the model %(model)s sent an invalid response (%(detail)s) and was stopped. Check "
            "the setting WARDEN_WORKER_COMMAND."
        ),
    ),
    "server_garbled": ErrorText(
        N_("the container serves something else"),
        N_(
            "The container of model %(model)s does not run vLLM, or serves another model (%(detail)s); it "
            "was stopped. Check WARDEN_VLLM_IMAGE, WARDEN_VLLM_ENTRYPOINT and WARDEN_VLLM_ARGS."
        ),
    ),
    "worker_silent": ErrorText(
        N_("the worker is not responding"),
        N_(
            "The process of the model %(instance)s did not respond within %(seconds)s. Wait; if that does "
            "not help, unload the model."
        ),
    ),
    "worker_cut_off": ErrorText(
        N_("the worker’s folder is gone"),
        N_(
            "The folder of this model (%(path)s) was removed: process %(pid)s is running, but cannot be "
            "reached. Unload the model, then load it again."
        ),
    ),
    "generation_failed": ErrorText(
        N_("the model could not answer"),
        N_("The model %(model)s could not answer: %(detail)s. Change the question or ask again."),
    ),
    "stop_failed": ErrorText(
        N_("a process could not be stopped"),
        N_(
            "Process %(pid)s (user %(user)s, state %(state)s) survived every signal and still holds the "
            "memory of the model %(model)s. End it manually or restart the server."
        ),
    ),
    "cancelled": ErrorText(N_("cancelled"), N_("%(actor)s cancelled the operation.")),
    "probe_failed": ErrorText(
        N_("the device could not be read"), N_("%(device)s could not be read (%(detail)s). Check the driver.")
    ),
    "driver_missing": ErrorText(
        N_("the NVIDIA driver is missing"),
        N_("No NVIDIA driver was found, so main memory is shown. If there is a GPU, install the driver."),
    ),
    "device_lost": ErrorText(
        N_("the GPU is lost"),
        N_("%(device)s was lost on the PCIe bus (%(detail)s). Usually only a restart of the server helps."),
    ),
    "not_supported": ErrorText(
        N_("the value is not available"), N_("The driver does not report this value (%(device)s: %(detail)s).")
    ),
    "demo_failed": ErrorText(
        N_("the demo model could not be created"),
        N_(
            "The demo model could not be created: %(detail)s. Check the free space and the permissions of "
            "the cache folder."
        ),
    ),
    "sandbox_failed": ErrorText(
        N_("no sandbox for the self-test"),
        N_("The separate copy for the self-test could not be created or removed: %(detail)s. See the server’s log."),
    ),
    "configuration": ErrorText(
        N_("wrong setting"), N_("%(setting)s=%(value)s cannot be used: %(detail)s. Correct the setting.")
    ),
    "already_running": ErrorText(
        N_("another Warden is running"),
        N_(
            "process %(pid)s is a Warden that uses %(state_dir)s. Use its page, stop it, or set another "
            "folder for this one in WARDEN_STATE_DIR."
        ),
    ),
    "unknown_container": ErrorText(
        N_("no such container"),
        N_("The container %(container)s is no longer here, or it is Warden’s own. Reload the page."),
    ),
    "not_confirmed": ErrorText(
        N_("the confirmation does not match"),
        N_("The container %(name)s is somebody else’s (owner: %(owner)s). To stop it, enter its full name."),
    ),
    "engine_unavailable": ErrorText(
        N_("Docker is not responding"),
        N_("Docker is not responding now (%(socket)s). Check the docker service and try again."),
    ),
    "engine_missing": ErrorText(
        N_("Docker is missing"),
        N_(
            "Docker was not found on this server: the socket %(socket)s does not exist. Install and start "
            "Docker, or name its socket in WARDEN_DOCKER_SOCKET."
        ),
    ),
    "engine_forbidden": ErrorText(
        N_("no access to Docker"),
        N_(
            "The user %(user)s has no permission for Docker’s socket %(socket)s. Add them to the docker "
            "group and restart Warden."
        ),
    ),
    "engine_unreachable": ErrorText(
        N_("Docker is not responding"),
        N_(
            "Docker is not responding (%(socket)s: %(detail)s). Check the docker service; when it is back, "
            "Warden continues automatically."
        ),
    ),
    "engine_failed": ErrorText(
        N_("Docker reports an error"),
        N_(
            "Docker returned an error (%(socket)s: %(detail)s). Look at the log of the docker service; once "
            "the error is gone, Warden continues automatically."
        ),
    ),
    "unknown_ticket": ErrorText(
        N_("no such place in the queue"), N_("There is no place %(ticket)s in the queue any more. Reload the page.")
    ),
    "queue_full": ErrorText(
        N_("the queue is full"), N_("The queue is full (%(limit)s). Try again when a place frees up.")
    ),
    "already_waiting": ErrorText(N_("already queued"), N_("Already queued: %(model)s, position %(place)s.")),
    "request_id_reused": ErrorText(
        N_("the request id was used already"),
        N_("The id %(request_id)s belongs to an earlier request with other values. Send a new request under a new id."),
    ),
    "cannot_wait": ErrorText(
        N_("this request cannot be queued"),
        N_(
            "Waiting won’t help: %(model)s needs %(needed_bytes)s, and even an empty device has only "
            "%(most_bytes)s. Choose something smaller."
        ),
    ),
    "ticket_ended": ErrorText(
        N_("no longer in the queue"),
        N_("%(model)s is no longer in the queue: it is starting, has started, or was cancelled. Reload the page."),
    ),
    "foreign_ticket": ErrorText(
        N_("somebody else’s place in the queue"),
        N_("This place in the queue belongs to %(actor)s. Only they or an administrator can cancel or start it."),
    ),
    "launch_blocked": ErrorText(
        N_("the server could not start the model"),
        N_(
            "The model %(model)s was not started: the server is not ready for it (%(detail)s). Remove the "
            "cause and try again."
        ),
    ),
    "disk_full": ErrorText(
        N_("the disk is full"),
        N_(
            "%(model)s was not started: the disk %(mount)s is full, so %(path)s cannot be written. Free some space "
            "(df -h %(mount)s) and try again."
        ),
    ),
    "disk_read_only": ErrorText(
        N_("the disk is read-only"),
        N_(
            "%(model)s was not started: the file system %(mount)s is read-only, so %(path)s cannot be written. "
            "Remount it for writing, or set WARDEN_STATE_DIR to another folder."
        ),
    ),
    "too_many_files": ErrorText(
        N_("too many open files"),
        N_(
            "%(model)s was not started: the limit of open files and connections is reached (%(limit)s). "
            "Close pages you don’t need, or raise the limit: ulimit -n, or LimitNOFILE in a systemd service."
        ),
    ),
    "too_many_processes": ErrorText(
        N_("too many processes"),
        N_(
            "%(model)s was not started: the limit of processes is reached. End processes you don’t need, or "
            "raise the limit: ulimit -u, or TasksMax in a systemd service."
        ),
    ),
    "load_fenced": ErrorText(
        N_("stopped before memory ran out"),
        N_(
            "Loading %(model)s was stopped in time: it would have run out of memory (%(device)s). Another "
            "process took the memory: %(who)s, +%(grown_bytes)s. The model still needs %(needed_bytes)s and "
            "%(free_bytes)s is available. Try again later or ask for less."
        ),
    ),
    "image_missing": ErrorText(
        N_("the image is missing"),
        N_("The image %(image)s is not on this server. Pull it with “%(command)s” and try again."),
    ),
    "gpu_runtime_missing": ErrorText(
        N_("Docker cannot give GPUs to containers"),
        N_(
            "Docker cannot give the model %(model)s a GPU (%(detail)s). Install the NVIDIA Container Toolkit, "
            "restart Docker and try again."
        ),
    ),
    "port_taken": ErrorText(
        N_("no free port"),
        N_(
            "No port is left for the model %(model)s: all of %(ports)s are in use. Free one of them or widen "
            "WARDEN_VLLM_PORTS."
        ),
    ),
    "port_lost": ErrorText(
        N_("the port was taken"),
        N_(
            "Another process took port %(port)s while model %(model)s was starting. Load it again: it will "
            "get another port."
        ),
    ),
    "name_taken": ErrorText(
        N_("a container has that name"),
        N_(
            "The name %(name)s that the model %(model)s needs belongs to another container. Remove it "
            "(docker rm %(name)s) and try again."
        ),
    ),
    "profile_disturbed": ErrorText(
        N_("memory changed during the start"),
        N_(
            "Another process changed its memory use while vLLM measured the memory for the model %(model)s: "
            "%(before_bytes)s was free before, %(after_bytes)s after. Try again when that process is quiet."
        ),
    ),
    "start_memory_short": ErrorText(
        N_("too little memory at the start"),
        N_(
            "vLLM refused to start the model %(model)s: %(free_bytes)s of %(total_bytes)s is free, and it "
            "was configured to use %(wanted_bytes)s. Free memory, or choose fewer tokens and a smaller batch."
        ),
    ),
    "kv_cache_too_small": ErrorText(
        N_("the KV cache is too small"),
        N_(
            "The KV cache of the model %(model)s does not hold even one request (tokens: %(max_tokens)s): it needs "
            "%(needed_bytes)s and has %(available_bytes)s. Choose fewer tokens."
        ),
    ),
    "architecture_unsupported": ErrorText(
        N_("vLLM does not support the model"),
        N_(
            "vLLM does not support the architecture %(architecture)s; the model %(model)s was not started. Load it in "
            "Transformers mode, or use a newer image (WARDEN_VLLM_IMAGE)."
        ),
    ),
    "argument_rejected": ErrorText(
        N_("vLLM rejected an argument"),
        N_(
            "vLLM rejected the argument %(argument)s (%(detail)s); the model %(model)s was not started. "
            "Correct WARDEN_VLLM_ARGS or use another image (WARDEN_VLLM_IMAGE)."
        ),
    ),
    "context_too_long": ErrorText(
        N_("the context is too long"),
        N_(
            "Model %(model)s does not support %(max_tokens)s tokens and was not started. Choose fewer "
            "tokens: the limit is at the end of its log."
        ),
    ),
    "container_removed": ErrorText(
        N_("the container was removed"),
        N_(
            "Somebody else removed the container of model %(model)s. Find out who (docker events), and load the "
            "model again if it is still needed."
        ),
    ),
    "container_exited": ErrorText(
        N_("the container exited"),
        N_(
            "The container of the model %(model)s exited unexpectedly (code or signal: %(exit)s). See the "
            "last lines of its log and load the model again."
        ),
    ),
    "bad_request": ErrorText(N_("invalid request"), N_("Invalid request. Go back to the dashboard and try again.")),
    "too_many_attempts": ErrorText(
        N_("too many attempts"),
        N_(
            "Too many failed attempts for this name or from this address. Try again in a minute; if that "
            "does not help, in 15 minutes."
        ),
    ),
    "untrusted_host": ErrorText(
        N_("wrong server name"),
        N_(
            "This server name is not listed in WARDEN_TRUSTED_HOSTS. Open the page as http://127.0.0.1 or add the name."
        ),
    ),
    "cross_site": ErrorText(
        N_("request from another site"),
        N_("The request came from a page of another site and was refused. Open the dashboard directly and try again."),
    ),
    "form_for_json": ErrorText(
        N_("request from another site"),
        N_(
            "Send the data as JSON (Content-Type: application/json). Form data is refused because other "
            "sites can send it."
        ),
    ),
    "csrf": ErrorText(N_("form expired"), N_("This form has expired. Reload the page (cookies must be on).")),
    "method_not_allowed": ErrorText(N_("method not allowed"), N_("Method not allowed for this URL.")),
    "too_large": ErrorText(
        N_("the request is too large"), N_("The request is too large: up to 256 KiB is accepted. Shorten it.")
    ),
    "no_uploads": ErrorText(N_("files are not accepted"), N_("Files are not accepted here.")),
    "unsupported_type": ErrorText(
        N_("wrong content type"), N_("This type of data is not accepted here. Send application/json.")
    ),
}
"""The texts by code: all of ``webapp/errors.py``, then those of HTTP."""


def english(code: str, params: Mapping[str, Param]) -> str:
    """Return the sentence of an error in English, for a terminal."""
    return ERROR_TEXTS[code].sentence % _Plain({name: _plain(name, value) for name, value in params.items()})


class _Plain(dict[str, str]):
    """Parameters as text; a missing one is shown as unknown."""

    def __missing__(self, name: str) -> str:
        return UNKNOWN


def _plain(name: str, value: Param) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, int | float) and name.endswith("_bytes"):
        return f"{value / GIB:.1f} GiB"
    return str(value)
