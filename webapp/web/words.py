"""Every message code in words: what happened, to what, and what to do next. The English here is the source of the catalogue.

Messages name values; this module formats them by their names (``*_bytes``, ``seconds``, ``device``, ``mode``…), so that a sentence
never has to. A code without words is shown as it is, with its values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from webapp.domain.audit import Action, ActionGroup, AuditChannel, Detail, Result
from webapp.domain.footprint import Confidence, Note, PartName, Source
from webapp.domain.instance import InstanceState
from webapp.domain.lease import ReleaseAnswer
from webapp.domain.memory import LedgerKind, Level
from webapp.domain.modes import Mode, Precision
from webapp.domain.operation import OperationKind, OperationState, StepName, StepState
from webapp.domain.people import Role
from webapp.domain.plan import Verdict
from webapp.domain.planning.fit import Fit
from webapp.domain.postmortem import Cause, Phase
from webapp.domain.queue import QueueState
from webapp.domain.recommend import Mark
from webapp.domain.selftest import CheckMark, CheckName
from webapp.domain.timeline import EventMark, Span
from webapp.error_texts import ERROR_TEXTS
from webapp.message import Message, Param
from webapp.texts import N_, NN_, NP_
from webapp.web import formats
from webapp.web.translate import gettext, plural


@dataclass(frozen=True)
class Sentence:
    """A text of the source language, with its plural where ``count`` names the value that counts."""

    one: str
    many: str | None = None
    count: str = ""

    def say(self, params: Mapping[str, Param]) -> str:
        """Return the text in the language in force, with ``params`` in it."""
        shown = _ShownValues({name: shown_param(name, value) for name, value in params.items()})
        if self.many is None:
            return gettext(self.one) % shown
        counted = params.get(self.count)
        return plural(self.one, self.many, counted if isinstance(counted, int) else 0) % shown


class _ShownValues(dict[str, str]):
    """Formatted values; one that the message does not carry is unknown."""

    def __missing__(self, name: str) -> str:
        return formats.unknown()


def _one(text: str) -> Sentence:
    return Sentence(text)


def _many(one: str, many: str, count: str = "count") -> Sentence:
    return Sentence(one, many, count)


ERRORS: Final[Mapping[str, Sentence]] = {
    **{code: Sentence(text.sentence) for code, text in ERROR_TEXTS.items()},
    "unexpected": _one(N_("The operation failed because of a bug in Warden. The server’s log has the details.")),
    "unexpected_named": _one(
        N_("The operation failed because of a bug in Warden (%(detail)s). The server’s log has the details.")
    ),
    "unknown_model_named": _one(
        N_("The model %(model)s is not in the cache. Check its name or download it: the list refreshes within seconds.")
    ),
    "busy_model": _one(
        N_(
            "Another operation is using the memory: %(kind)s %(model)s, step “%(step)s”, started by "
            "%(actor)s at %(since)s. Wait for it to end, or cancel it."
        )
    ),
    "instance_in_use_counted": _one(
        N_(
            "Model %(model)s (owner %(owner)s) is answering requests now: %(in_flight)s. Wait for the "
            "answers; you may interrupt your own model, and ask the owner to release another person’s."
        )
    ),
    "instance_leased_for": _one(
        N_(
            "Model %(model)s is leased until %(until)s, its owner is %(owner)s: “%(reason)s”. Ask for its "
            "release or choose another device."
        )
    ),
    "device_unreadable_named": _one(
        N_("The readings of %(device)s are unreliable now, so nothing can be loaded. Check the driver and try again.")
    ),
    "launch_failed_logged": _one(
        N_("The model %(model)s did not start: %(detail)s. Look at the last lines of its log.")
    ),
    "cancelled_by_emergency": _one(N_("An emergency clean-up started by %(actor)s interrupted the operation.")),
    "driver_gone": _one(
        N_(
            "The NVIDIA driver stopped responding (%(detail)s). Check nvidia-smi; until it is back, there "
            "are no GPU readings."
        )
    ),
    "holders_unknown": _one(N_("The process list could not be read (%(detail)s): who holds the memory is unknown.")),
    "cache_unreadable": _one(
        N_("The model cache %(path)s cannot be read: %(detail)s. Check the folder and its permissions.")
    ),
    "kv_cache_too_small_fits": _one(
        N_(
            "The KV cache of the model %(model)s does not hold even one request (tokens: %(max_tokens)s): it "
            "needs %(needed_bytes)s and has %(available_bytes)s. Choose %(fits_tokens)s tokens or fewer."
        )
    ),
    "context_too_long_limit": _one(
        N_(
            "Model %(model)s does not support %(max_tokens)s tokens and was not started. Choose "
            "%(limit_tokens)s tokens or fewer."
        )
    ),
}
"""Failures, by the code of their class or of their message."""

MODELS: Final[Mapping[str, Sentence]] = {
    "model_incomplete": _one(N_("the download is incomplete, missing: %(missing)s; download it again")),
    "model_no_weights": _one(N_("the snapshot has no weights; download the model again")),
    "model_no_config": _one(N_("config.json is missing; download the model again")),
    "model_broken_config": _one(N_("config.json cannot be read: %(detail)s; download the model again")),
    "model_broken_weights": _one(N_("the weights file %(file)s is damaged: %(detail)s; download it again")),
    "model_pickle_only": _one(N_("the weights are pickle only, which can run code; WARDEN_ALLOW_PICKLE allows it")),
    "model_remote_code": _one(N_("it needs code from the model’s repository; WARDEN_ALLOW_REMOTE_CODE allows it")),
    "model_not_causal": _one(N_("it does not generate text (%(architecture)s); a language model is needed")),
    "model_no_tokenizer": _one(N_("there is no tokenizer; download the whole model")),
    "model_unreadable": _one(N_("the files cannot be read: %(detail)s; check the permissions of the cache")),
    "model_misread": _one(
        N_(
            "Warden failed to interpret the model %(model)s (%(detail)s): this is a bug in Warden, its log "
            "has the details; download the model again or delete it from the cache"
        )
    ),
}
"""Why a cached model cannot be loaded: clauses that stand after a colon."""

REASONS: Final[Mapping[str, Sentence]] = {
    "worker_command_missing": _one(N_("the program in WARDEN_WORKER_COMMAND is not on this server")),
    "folder_broken": _one(N_("its folder is damaged")),
    "files_gone": _one(N_("its files are no longer in the cache")),
    "revision_gone": _one(N_("the cache now holds another revision")),
    "half_started": _one(N_("it had not finished starting")),
    "launch_too_slow": _one(N_("it took too long to load")),
    "model_pickle_only": _one(N_("its weights are pickle only, which can run code")),
    "model_remote_code": _one(N_("it needs code from the model’s repository")),
    "model_no_tokenizer": _one(N_("there is no tokenizer")),
    "transformers_not_installed": _one(
        N_("Transformers mode is not installed on this server: it needs the extra warden[transformers]")
    ),
    "vllm_not_installed": _one(N_("vLLM mode is not installed on this server: it needs the extra warden[vllm]")),
    "model_incomplete": _one(N_("its download is incomplete")),
    "model_no_weights": _one(N_("the snapshot has no weights")),
    "model_no_config": _one(N_("config.json is missing")),
    "model_broken_config": _one(N_("config.json cannot be read")),
    "model_broken_weights": _one(N_("a weights file is damaged")),
    "model_not_causal": _one(N_("it does not generate text")),
    "model_unreadable": _one(N_("its files cannot be read")),
    "model_misread": _one(N_("Warden failed to interpret it")),
    "out_of_memory": _one(N_("it ran out of memory")),
    "launch_failed": _one(N_("it did not start")),
    "launch_stalled": _one(N_("the load stalled")),
    "worker_died": _one(N_("its process exited unexpectedly")),
    "worker_garbled": _one(N_("its process sent an invalid response")),
    "server_garbled": _one(N_("its container does not run vLLM")),
    "worker_silent": _one(N_("its process is not responding")),
    "worker_cut_off": _one(N_("its folder was removed")),
    "unknown_instance": _one(N_("it is gone")),
    "unknown_model": _one(N_("it is not in the cache")),
    "not_enough_memory": _one(N_("there is not enough memory for it")),
    "device_unreadable": _one(N_("the device’s readings are unreliable")),
    "stop_failed": _one(N_("its process could not be stopped")),
    "engine_unavailable": _one(N_("Docker is not responding")),
    "engine_missing": _one(N_("Docker was not found on this server")),
    "engine_forbidden": _one(N_("no permission for Docker’s socket")),
    "engine_unreachable": _one(N_("Docker is not responding")),
    "engine_failed": _one(N_("Docker returns an error")),
    "disk_full": _one(N_("the disk is full")),
    "disk_read_only": _one(N_("the disk is read-only")),
    "too_many_files": _one(N_("the limit of open files is reached")),
    "too_many_processes": _one(N_("the limit of processes is reached")),
    "load_fenced": _one(N_("another process took its memory")),
    "image_missing": _one(N_("the vLLM image is not on this server")),
    "gpu_runtime_missing": _one(N_("Docker cannot give a container a GPU")),
    "port_taken": _one(N_("all ports for containers are taken")),
    "port_lost": _one(N_("another process took its port")),
    "name_taken": _one(N_("the name of its container is taken")),
    "profile_disturbed": _one(N_("another process disturbed the memory measurement")),
    "start_memory_short": _one(N_("there was too little free memory at the start")),
    "kv_cache_too_small": _one(N_("the KV cache does not hold even one request")),
    "architecture_unsupported": _one(N_("vLLM does not know its architecture")),
    "argument_rejected": _one(N_("vLLM rejected an argument")),
    "context_too_long": _one(N_("it does not support that many tokens")),
    "container_removed": _one(N_("somebody else removed its container")),
    "container_exited": _one(N_("its container exited unexpectedly")),
}
"""The same as clauses without values, for a message that carries only another's code."""

PLANS: Final[Mapping[str, Sentence]] = {
    "plan_fits": _one(N_("%(device)s: %(needed_bytes)s needed, %(free_bytes)s will be available: enough room.")),
    "plan_tight": _one(
        N_(
            "%(device)s: %(needed_bytes)s of %(free_bytes)s needed: a tight fit, the reserve of "
            "%(reserve_bytes)s stays free."
        )
    ),
    "plan_spread": _one(
        N_(
            "One device would need %(needed_bytes)s and %(device)s has %(free_bytes)s available, so the "
            "model is split across %(devices)s."
        )
    ),
    "plan_spread_in_use": _one(
        N_("Another model is answering on %(device)s right now, so this one is split across %(devices)s.")
    ),
    "plan_spread_claimed": _one(
        N_("Another operation is running on %(device)s, so this model is split across %(devices)s.")
    ),
    "plan_spread_leased": _one(N_("%(device)s holds another person’s model, so this one is split across %(devices)s.")),
    "plan_spread_others": _one(
        N_("On %(device)s another person’s model would have to be unloaded, so this one is split across %(devices)s.")
    ),
    "plan_estimate_rough": _one(N_("The estimate for %(device)s is rough: the model’s files do not state everything.")),
    "plan_measured": _many(
        *NN_(
            "%(device)s: measured here %(count)s time, ±%(spread_percent)s\u00a0%%.",
            "%(device)s: measured here %(count)s times, ±%(spread_percent)s\u00a0%%.",
        )
    ),
    "plan_measured_once": _one(N_("%(device)s: measured here once.")),
    "plan_measured_otherwise": _many(
        *NN_(
            "%(device)s: corrected by %(count)s load with another context or batch, ±%(spread_percent)s\u00a0%%.",
            "%(device)s: corrected by %(count)s loads with another context or batch, ±%(spread_percent)s\u00a0%%.",
        )
    ),
    "plan_measured_otherwise_once": _one(N_("%(device)s: corrected by 1 load with another context or batch.")),
    "plan_device_claimed": _one(N_("An operation is running on %(device)s: you can apply this when it ends.")),
    "plan_load_anyway": _one(
        N_(
            "%(device)s: the estimate needs %(needed_bytes)s plus a %(reserve_bytes)s reserve, "
            "%(free_bytes)s is available: %(missing_bytes)s short. If loaded anyway, the model may run out "
            "of memory."
        )
    ),
    "plan_promised": _one(N_("On %(device)s another %(promised_bytes)s is promised to models that are loading.")),
    "plan_no_return": _one(N_("If loading fails, %(model)s cannot be loaded again: %(reason)s.")),
    "plan_stuck_holds": _one(
        N_("The model %(model)s is not stopping and holds %(held_bytes)s: that memory will not be freed.")
    ),
    "context_capped": _one(N_("The model supports %(max_tokens)s tokens, so it gets that many instead of %(asked)s.")),
    "way_out_unload_others": _one(N_("Unload the others")),
    "way_out_other_device": _one(N_("Another device")),
    "way_out_devices": _one(N_("Split across %(devices)s")),
    "way_out_mode": _one(N_("%(mode)s mode")),
    "way_out_batch": _one(N_("Batch %(batch_size)s")),
    "way_out_tokens": _many(*NN_("%(max_tokens)s token", "%(max_tokens)s tokens"), "max_tokens"),
    "way_out_tokens_batch": _many(
        *NN_("%(max_tokens)s token, batch %(batch_size)s", "%(max_tokens)s tokens, batch %(batch_size)s"), "max_tokens"
    ),
    "way_out_unload": _one(N_("Unload %(model)s (%(owner)s, idle for %(idle_s)s)")),
    "way_out_unload_busy": _one(N_("Unload %(model)s (%(owner)s, answers may be cut off)")),
    "way_out_unload_busy_counted": _many(
        *NN_(
            "Unload %(model)s (%(owner)s, cutting off %(in_flight)s answer)",
            "Unload %(model)s (%(owner)s, cutting off %(in_flight)s answers)",
        ),
        "in_flight",
    ),
    "way_out_unload_two": _one(
        N_(
            "Unload %(model)s (%(owner)s, idle for %(idle_s)s) and %(other_model)s (%(other_owner)s, idle "
            "for %(other_idle_s)s)"
        )
    ),
    "way_out_precision": _one(N_("Precision %(precision)s")),
    "way_out_smallest": _one(N_("%(precision)s, %(max_tokens)s tokens, batch %(batch_size)s")),
    "advice_free": _one(N_("%(free_bytes)s available")),
    "advice_mode_short": _one(N_("won’t fit in %(mode)s mode")),
    "advice_precision_short": _one(N_("won’t fit in %(precision)s")),
    "advice_tokens_short": _many(
        *NN_("not enough memory for %(max_tokens)s token", "not enough memory for %(max_tokens)s tokens"), "max_tokens"
    ),
    "advice_batch_short": _one(N_("not enough memory for a batch of %(batch_size)s")),
    "advice_quantized": _one(N_("the files are quantized already (%(method)s)")),
    "advice_context": _many(
        *NN_("the model supports %(max_tokens)s token", "the model supports %(max_tokens)s tokens"),
        "max_tokens",
    ),
    "advice_nothing": _one(
        N_(
            "even this does not fit: it needs %(needed_bytes)s plus a %(reserve_bytes)s reserve, "
            "%(missing_bytes)s short"
        )
    ),
    "advice_vllm_unavailable": _one(N_("with this much memory vLLM would be recommended")),
}

STEPS: Final[Mapping[str, Sentence]] = {
    "planned": _one(N_("%(needed_bytes)s needed")),
    "stopped": _one(N_("%(models)s")),
    "stop_ask": _one(N_("stopping %(model)s")),
    "stop_terminate": _one(N_("%(model)s is not stopping; sent SIGTERM")),
    "creating_vllm": _one(N_("the image is present, creating the container")),
    "creating_transformers": _one(N_("starting the process")),
    "stop_container": _one(N_("stopping the container of %(model)s (SIGTERM)")),
    "stop_kill": _one(N_("%(model)s is not stopping; sent SIGKILL")),
    "stop_verify": _one(N_("checking that nothing of %(model)s is left")),
    "stop_unproved": _one(N_("it could not be confirmed that the process has ended; press “Emergency clean-up”")),
    "rollback_settling": _one(N_("waiting for the memory to be freed")),
    "settle_slow": _one(N_("memory is being freed more slowly than usual")),
    "grace_over": _one(N_("nobody stopped it")),
    "settled": _one(N_("+%(freed_bytes)s")),
    "settle_unknown": _one(N_("the device cannot be read")),
    "settle_late": _one(N_("only +%(freed_bytes)s of %(expected_bytes)s")),
    "reaped": _many(*NN_("%(count)s leftover", "%(count)s leftovers")),
    "checked": _one(N_("%(free_bytes)s ≥ %(needed_bytes)s")),
    "checked_overruled": _one(N_("%(missing_bytes)s short, loading anyway")),
    "launch_starting": _one(N_("starting the process")),
    "launch_loading": _one(N_("loading weights")),
    "launched": _one(N_("weights loaded")),
    "ready_after": _one(N_("it is answering")),
    "measured": _one(N_("%(measured_bytes)s in use")),
    "measured_as_expected": _one(N_("%(measured_bytes)s in use, %(expected_bytes)s expected at the start")),
    "measured_unknown": _one(N_("could not be measured, %(predicted_bytes)s expected")),
    "cleaned": _many(*NN_("%(count)s entry", "%(count)s entries")),
    "cleaned_free": _one(N_("%(free_bytes)s available")),
    "ended": _many(*NN_("%(count)s stopped", "%(count)s stopped")),
    "ended_late": _many(*NN_("%(count)s more process stopped", "%(count)s more processes stopped")),
    "demo_made": _one(N_("files written")),
    "vllm_creating": _one(N_("creating the container")),
    "vllm_starting": _one(N_("the container is running, vLLM is starting")),
    "vllm_weights": _one(N_("loading weights")),
    "vllm_weights_percent": _one(N_("loading weights: %(percent)s %%")),
    "vllm_profiling": _one(N_("vLLM is warming up and measuring memory")),
    "vllm_kv_cache": _one(N_("the KV cache is ready")),
    "vllm_kv_cache_sized": _one(N_("KV cache: %(tokens)s tokens, %(kv_cache_bytes)s")),
    "vllm_graphs": _one(N_("capturing CUDA graphs")),
    "vllm_graphs_percent": _one(N_("capturing CUDA graphs: %(percent)s %%")),
    "vllm_serving": _one(N_("the server is up, waiting for the model’s answer")),
}
"""What a step has to say, short: it stands under the step's name."""

OUTCOMES: Final[Mapping[str, Sentence]] = {
    "switch_done": _one(N_("The model %(model)s is ready to answer: %(mode)s, %(seconds)s.")),
    "unload_done": _one(N_("The model %(model)s is unloaded: %(freed_bytes)s freed in %(seconds)s.")),
    "unload_unknown": _one(
        N_(
            "The model %(model)s has stopped. How much memory was freed is unknown: the device cannot be "
            "read. Check the driver; readings then return."
        )
    ),
    "unload_held": _one(
        N_(
            "The model %(model)s has stopped, but only %(freed_bytes)s of %(expected_bytes)s was freed in "
            "%(seconds)s. The memory card shows who holds the rest."
        )
    ),
    "clean_done": _one(N_("Memory cleaned: %(freed_bytes)s freed, %(free_bytes)s available.")),
    "emergency_done": _many(
        *NN_(
            "Emergency clean-up done: %(count)s process stopped, %(freed_bytes)s freed.",
            "Emergency clean-up done: %(count)s processes stopped, %(freed_bytes)s freed.",
        )
    ),
    "emergency_incomplete": _one(
        N_(
            "The emergency clean-up is incomplete: %(count)s stopped, %(freed_bytes)s of %(expected_bytes)s "
            "freed. What is left is listed below."
        )
    ),
    "demo_done": _one(N_("The demo model %(model)s is in the cache. Choose it and load it.")),
    "nothing_changed": _one(N_("Nothing on the server was changed.")),
    "loaded_anyway": _one(
        N_("%(model)s: loaded despite the estimate, as %(actor)s decided (%(device)s, %(missing_bytes)s short)")
    ),
    "rolled_back": _one(N_("The previous models are loaded again: %(models)s.")),
    "restore_failed": _one(
        N_("Could not load again: %(models)s. The result lists the reasons; once they are fixed, press “Load again”.")
    ),
    "restore_begun": _one(N_("%(models)s: loading again, started by %(actor)s")),
    "restore_not_needed": _one(N_("%(model)s: already loaded")),
    "restore_revision_gone": _one(
        N_(
            "%(model)s: cannot be restored, revision %(revision)s is no longer in the cache; Warden never "
            "loads another revision in its place"
        )
    ),
    "not_restored_by_choice": _one(N_("The previous models were not restored, as chosen: %(models)s.")),
    "switch_done_memory_held": _one(
        N_(
            "The model %(model)s is ready to answer: %(mode)s, %(seconds)s. Only %(freed_bytes)s of the "
            "previous model’s %(expected_bytes)s was freed."
        )
    ),
    "ended_early": _one(N_("The operation was stopped halfway. Check what is loaded.")),
    "taken_over": _one(N_("An emergency clean-up finished the rest.")),
    "rollback_cancelled": _one(N_("Restoring the previous models was interrupted. Check what is loaded.")),
    "undo_failed": _one(N_("Rolling back failed (%(detail)s). Press “Clean memory”.")),
    "unloaded_not_waited": _one(N_("The model %(model)s has stopped; Warden did not wait for its memory to be freed.")),
    "abandoned": _one(
        N_("Warden stopped in the middle of the operation; leftovers were removed when it started again.")
    ),
    "adopted": _one(N_("%(model)s: kept running and was reattached")),
    "found_dead": _one(N_("%(model)s: stopped while Warden was not running: %(reason)s")),
    "removed_half_started": _one(N_("%(model)s: had not finished starting, its leftovers were removed")),
    "removal_failed": _one(N_("%(model)s: its leftovers could not be removed; press “Emergency clean-up”")),
    "restored": _one(N_("%(model)s: loaded again")),
    "restore_model_gone": _one(N_("%(model)s: cannot be restored, it is no longer in the cache")),
    "restore_no_memory": _one(N_("%(model)s: cannot be restored, %(missing_bytes)s short")),
    "restore_failed_because": _one(N_("%(model)s: cannot be restored, %(code)s")),
    "stuck_cleared": _one(N_("%(model)s has stopped and nothing of it is left; it was removed from the list.")),
    "dead_removed": _one(N_("%(model)s: had already stopped, its entry was removed")),
    "dead_not_removed": _one(N_("%(model)s: had already stopped, but its leftovers could not be removed")),
    "clean_worker": _one(N_("%(model)s: freed %(freed_bytes)s")),
    "clean_failed": _one(N_("%(model)s: not cleaned, %(code)s")),
    "stays_foreign": _one(
        N_(
            "%(device)s: another person’s process %(pid)s (%(user)s, %(command)s) keeps running and holds "
            "%(used_bytes)s"
        )
    ),
    "stays_unattributed": _one(N_("%(device)s: %(used_bytes)s is in use by no visible process")),
    "leftover_process": _one(N_("%(instance)s: process %(pid)s without a model")),
    "leftover_folder": _one(N_("%(instance)s: folder without a model")),
    "ended_instance": _one(N_("%(name)s: stopped")),
    "ended_not_removed": _one(
        N_("%(name)s: stopped, its memory is free; Docker has not removed the container yet, Warden removes it later")
    ),
    "ended_unlisted": _one(N_("%(name)s: an unlisted process was stopped")),
    "end_failed": _one(N_("%(name)s: could not be stopped (%(detail)s); end its process manually")),
    "runtime_unreachable": _one(N_("mode %(mode)s is not responding: what is left in it is unknown")),
    "instance_vanished": _one(N_("the process of the model %(model)s is gone: somebody else or the system ended it")),
    "container_ended": _one(N_("The container %(name)s was stopped. It held no device memory.")),
    "container_ended_freed": _one(N_("The container %(name)s was stopped: %(freed_bytes)s freed in %(seconds)s.")),
    "container_ended_held": _one(
        N_(
            "The container %(name)s was stopped, but only %(freed_bytes)s of %(expected_bytes)s was freed in "
            "%(seconds)s. The memory card shows who holds the rest."
        )
    ),
    "container_not_waited": _one(
        N_("The container %(name)s was stopped; Warden did not wait for its memory to be freed.")
    ),
    "launch_again_disturbed": _one(
        N_(
            "%(model)s: another process disturbed the memory measurement (%(before_bytes)s free before, "
            "%(after_bytes)s after); starting again"
        )
    ),
    "container_not_removed": _one(
        N_(
            "%(model)s: stopped, but Docker has not removed the container %(name)s yet; Warden removes it as "
            "soon as Docker allows"
        )
    ),
    "launch_again_port": _one(N_("%(model)s: another process took port %(port)s; starting again on another port")),
    "leftover_container": _one(N_("%(name)s: a container without a model")),
    "stays_container": _one(N_("somebody else’s container %(name)s keeps running (owner: %(user)s, image %(image)s)")),
    "not_reached": _one(
        N_("%(name)s: the mode %(mode)s is not responding, so it could not be stopped; try again when it responds")
    ),
}
"""How an operation ended, and the lines of its result."""

WEB: Final[Mapping[str, Sentence]] = {
    "bad_json": _one(N_("The request body is not JSON (%(detail)s). Send a JSON object.")),
}
"""What the web layer itself refuses."""

LEASES: Final[Mapping[str, Sentence]] = {
    "release_kept": _one(N_("The owner, %(owner)s, keeps model %(model)s.")),
    "release_kept_word": _one(N_("The owner, %(owner)s, keeps model %(model)s: “%(word)s”.")),
    "release_given": _one(N_("The owner, %(owner)s, releases model %(model)s for you: you can take its place.")),
    "release_given_word": _one(
        N_("The owner, %(owner)s, releases model %(model)s for you: you can take its place. “%(word)s”.")
    ),
    "release_given_silently": _one(
        N_(
            "The owner, %(owner)s, has not answered, and model %(model)s is idle and not leased: you can "
            "take its place."
        )
    ),
    "released_in_silence": _one(
        N_(
            "%(asker)s asked to release model %(model)s. There was no answer and the model was idle, so its "
            "place can be taken now."
        )
    ),
    "unloaded_by": _one(N_("%(actor)s unloaded your model %(model)s (idle, no lease).")),
    "unloaded_for": _one(N_("%(actor)s unloaded your model %(model)s to load %(new_model)s (idle, no lease).")),
    "lease_overridden": _one(
        N_("Administrator %(actor)s overrides %(owner)s and takes the place of model %(model)s: “%(reason)s”.")
    ),
    "unloaded_idle": _one(N_("Model %(model)s is being unloaded: nobody has used it for %(idle_s)s.")),
}
"""What people are told of models that change hands, and of idle ones."""

KEEPING: Final[Mapping[str, Sentence]] = {
    "keeping_locked": _one(
        N_(
            "Warden cannot save anything new: another process has locked the database file %(file)s. Find it "
            "and end it: fuser -v %(file)s."
        )
    ),
    "keeping_full": _one(N_("Warden cannot save anything new: the disk that holds %(file)s is full. Free some space.")),
    "keeping_gone": _one(
        N_(
            "Warden cannot save anything new: the database file %(file)s is gone and cannot be recreated "
            "(%(detail)s). Restore the folder and its permissions."
        )
    ),
    "keeping_slow": _one(
        N_(
            "Warden cannot save anything new: the database takes longer than a second to answer. Check the "
            "disk and the server’s load."
        )
    ),
    "keeping_failed": _one(N_("Warden cannot save anything new: the database returns an error (%(detail)s).")),
    "keeping_lost": _many(
        *NN_(
            "%(count)s record did not fit in memory and is lost.",
            "%(count)s records did not fit in memory and are lost.",
        )
    ),
    "store_locked": _one(N_("another process has locked the database file")),
    "store_full": _one(N_("the disk is full")),
    "store_gone": _one(N_("the database file is gone")),
    "store_slow": _one(N_("the database takes longer than a second to answer")),
    "store_failed": _one(N_("the database returns an error")),
}
"""Why Warden cannot keep what it is told."""

SELFTEST: Final[Mapping[str, Sentence]] = {
    "selftest_checking": _one(N_("%(check)s")),
    "selftest_checked": _many(*NN_("%(count)s item", "%(count)s items")),
    "selftest_done": _many(
        *NN_("Everything works: %(count)s check passed.", "Everything works: %(count)s checks passed.")
    ),
    "selftest_done_warnings": _many(*NN_("Passed with %(count)s warning.", "Passed with %(count)s warnings.")),
    "selftest_done_failed": _many(
        *NN_(
            "%(count)s check failed. The advice is next to it.",
            "%(count)s checks failed. The advice is next to each.",
        )
    ),
    "selftest_skipped": _one(N_("not checked: “%(check)s” must pass first")),
    "selftest_readings_late": _one(
        N_("readings received: %(count)s of %(asked)s, the latest %(age_s)s ago: the driver responds too slowly")
    ),
    "selftest_readings_stuck": _one(N_("the readings are stuck: they all have the same time")),
    "selftest_no_figures": _one(N_("%(device)s: the driver did not report total and free memory")),
    "selftest_ledger_off": _one(N_("%(device)s: the parts do not add up to the total; they are off by %(off_bytes)s")),
    "selftest_witness_off": _one(N_("%(device)s: Warden sees %(free_bytes)s free, the system sees %(other_bytes)s")),
    "selftest_memory_ok": _one(
        N_("%(devices)s: %(total_bytes)s in total, adds up to the byte; readings: %(count)s, the latest %(age_s)s ago")
    ),
    "selftest_state_unwritable": _one(N_("%(folder)s is not writable: %(detail)s")),
    "selftest_not_kept": _one(N_("the operation was written to the database but cannot be read back")),
    "selftest_state_open": _one(N_("%(folder)s is open to other users (mode %(bits)s)")),
    "selftest_files_open": _one(N_("other users can read these files: %(files)s")),
    "selftest_state_ok": _one(N_("%(folder)s is writable and closed to other users; the database responds")),
    "selftest_advice_wrong": _one(N_("the recommendation for %(free_bytes)s differs from the table")),
    "selftest_advice_unknown": _one(
        N_("the table is right (points checked: %(count)s), but the free memory is unknown now, so there is no advice")
    ),
    "selftest_advice_ok": _one(
        N_(
            "the table is right (points checked: %(count)s); for %(free_bytes)s: %(mode)s, %(precision)s, "
            "%(max_tokens)s tokens, batch %(batch_size)s"
        )
    ),
    "selftest_vllm_ok": _one(N_("it can be chosen: Docker responds, and the image is present")),
    "selftest_vllm_unavailable": _one(N_("it cannot be chosen: %(reason)s; Transformers mode works without it")),
    "selftest_model_ok": _one(N_("the model %(model)s (%(size_bytes)s) was created and found in the cache")),
    "selftest_model_missing": _one(N_("the model was created, but does not appear in the list")),
    "selftest_no_room": _one(
        N_(
            "does not fit next to the loaded models (%(device)s): it needs %(needed_bytes)s plus a "
            "%(reserve_bytes)s reserve, %(free_bytes)s is available; nothing was touched"
        )
    ),
    "selftest_elsewhere": _one(N_("another self-test is already running from this state folder")),
    "selftest_not_ready": _one(N_("the switch has ended, but the model is not ready")),
    "selftest_switch_ok": _one(
        N_("loaded in %(seconds)s; at most %(predicted_bytes)s promised, %(measured_bytes)s in use")
    ),
    "selftest_not_measured": _one(
        N_("loaded in %(seconds)s, but its memory use is unknown (promised: %(predicted_bytes)s)")
    ),
    "selftest_over_prediction": _one(
        N_("loaded in %(seconds)s, but it takes %(measured_bytes)s instead of the promised %(predicted_bytes)s")
    ),
    "selftest_answer_ok": _many(*NN_("answered in %(count)s chunk", "answered in %(count)s chunks")),
    "selftest_answer_empty": _one(N_("the answer was empty")),
    "selftest_replace_ok": _one(
        N_("the first model was unloaded, %(freed_bytes)s freed in %(seconds)s; the second was loaded in its place")
    ),
    "selftest_replace_held": _one(
        N_(
            "the model was replaced, but only %(freed_bytes)s of the first one’s %(expected_bytes)s was "
            "freed in %(seconds)s"
        )
    ),
    "selftest_not_replaced": _one(N_("the first model was not unloaded, or the second did not take its place")),
    "selftest_refusal_ok": _one(
        N_("a request for %(needed_bytes)s with %(free_bytes)s available was refused, and the loaded model stayed")
    ),
    "selftest_not_refused": _one(N_("a request that is far too large was not refused")),
    "selftest_refused_late": _one(N_("the request was refused, but the loaded model was harmed")),
    "selftest_clean_ok": _one(N_("ended without errors, %(freed_bytes)s freed; lines in the report: %(count)s")),
    "selftest_unload_ok": _one(N_("%(freed_bytes)s of %(expected_bytes)s freed in %(seconds)s, no processes are left")),
    "selftest_unload_held": _one(
        N_("no processes are left, but only %(freed_bytes)s of %(expected_bytes)s was freed in %(seconds)s")
    ),
    "selftest_process_left": _one(N_("processes are left after unloading: %(pids)s")),
    "selftest_advice_driver": _one(
        N_("Check the driver (nvidia-smi) and the server’s log, then run the self-test again.")
    ),
    "selftest_advice_state": _one(
        N_("Check the owner of %(folder)s and the free disk space, or set another folder in WARDEN_STATE_DIR.")
    ),
    "selftest_advice_store": _one(
        N_("Check the free disk space and the database file; the server’s log says what is wrong.")
    ),
    "selftest_advice_chmod": _one(N_("Restrict access: %(command)s")),
    "selftest_advice_report": _one(N_("Run the self-test again; if that does not help, see the server’s log.")),
    "selftest_advice_later": _one(
        N_("Wait for that operation to end and run the self-test again; it takes about a minute.")
    ),
    "selftest_advice_room": _one(
        N_("Unload a model you don’t need and run the self-test again: it never unloads models.")
    ),
    "selftest_advice_held": _one(
        N_(
            "If others are using the server’s memory right now, try again when it is quieter; otherwise see "
            "who holds it."
        )
    ),
    "selftest_advice_emergency": _one(N_("End these processes manually, or restart Warden: it removes leftovers.")),
}
"""What a self-test has seen, and what to do about it."""

WHY: Final[Mapping[str, Sentence]] = {
    "why_neighbour_grew": _one(
        N_(
            "Another process took the memory: %(who)s. The model needs %(gate_bytes)s (%(device)s), but the "
            "room for it shrank from %(room_bytes)s to %(left_bytes)s."
        )
    ),
    "why_estimate_low": _one(
        N_(
            "The estimate was too low: %(gate_bytes)s was expected (%(device)s), the model held "
            "%(held_bytes)s and asked for more, and %(free_bytes)s was available. No other process was "
            "involved."
        )
    ),
    "why_estimate_exceeded": _one(
        N_(
            "The estimate was too low: %(gate_bytes)s was expected (%(device)s) and the model took "
            "%(held_bytes)s, %(excess_bytes)s more. No other process was involved."
        )
    ),
    "why_load_peak": _one(
        N_(
            "The loading peak exceeded the available memory: %(gate_bytes)s was needed, %(room_bytes)s was "
            "available (%(device)s)."
        )
    ),
    "why_kv_cache": _one(
        N_(
            "There was no room for the KV cache: the model held %(held_bytes)s of the expected "
            "%(gate_bytes)s (%(device)s). A shorter context or a smaller batch helps."
        )
    ),
    "why_process_limit": _one(
        N_(
            "The device still had %(free_bytes)s (%(device)s), which was enough by the estimate: a limit of "
            "the process (ulimit, cgroup) denied the memory. Check it."
        )
    ),
    "why_unknown": _one(N_("The readings from that moment do not show the cause.")),
}
"""Why a model ran out of memory, with the figures that say so."""

WAITING: Final[Mapping[str, Sentence]] = {
    "waits_memory": _one(
        N_(
            "%(device)s: %(missing_bytes)s short (needs %(needed_bytes)s + %(reserve_bytes)s reserve, "
            "%(free_bytes)s available)."
        )
    ),
    "waits_in_use": _one(
        N_("waiting until %(model)s (owner: %(owner)s) is idle: it is unknown whether it is answering requests.")
    ),
    "waits_in_use_counted": _many(
        *NN_(
            "waiting until %(model)s (owner: %(owner)s) is idle: it is answering %(in_flight)s request now.",
            "waiting until %(model)s (owner: %(owner)s) is idle: it is answering %(in_flight)s requests now.",
        ),
        "in_flight",
    ),
    "waits_leased": _one(N_("%(model)s is leased until %(until)s (owner: %(owner)s); waiting for its release.")),
    "waits_others": _one(N_("other people’s models hold the memory: %(models)s; waiting until it is free.")),
    "waits_operation": _one(N_("%(device)s: an operation is running (%(kind)s), started by %(actor)s at %(since)s.")),
    "waits_operation_model": _one(
        N_("%(device)s: an operation is running (%(kind)s, %(model)s), started by %(actor)s at %(since)s.")
    ),
    "waits_cooldown": _one(
        N_("the model has just failed to load (failures in a row: %(failures)s); pausing before the next attempt.")
    ),
    "waits_pause": _one(
        N_(
            "another process took the memory during the start (attempt %(tries)s of %(most)s); pausing "
            "before the next attempt."
        )
    ),
    "waits_judgement": _one(N_("checking whether there is room.")),
    "waits_unjudged": _one(
        N_(
            "could not check whether there is room: internal error (%(detail)s), details are in the log. The "
            "rest of the queue is not held up. Leave the queue and join it again with other settings."
        )
    ),
    "ticket_satisfied": _one(
        N_("%(model)s is already loaded (owner: %(owner)s). Use that one: no second copy was started.")
    ),
    "ticket_not_fetched": _one(
        N_(
            "Its place was held for %(seconds)s after the notice, but nobody started it. The next in the "
            "queue got the memory."
        )
    ),
    "ticket_waited_long": _one(
        N_("No room became free within %(seconds)s. Join the queue again if you still need the model.")
    ),
    "ticket_without_right": _one(
        N_("There is room, but %(actor)s may no longer load models: the role has changed or the account is gone.")
    ),
}
"""What a request waits for, and why it waits no more."""

FULLER: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "busy": ("busy_model", ("model", "step")),
    "instance_leased": ("instance_leased_for", ("reason",)),
    "instance_in_use": ("instance_in_use_counted", ("in_flight",)),
    "release_kept": ("release_kept_word", ("word",)),
    "release_given": ("release_given_word", ("word",)),
    "unexpected": ("unexpected_named", ("detail",)),
    "unknown_model": ("unknown_model_named", ("model",)),
    "device_unreadable": ("device_unreadable_named", ("device",)),
    "kv_cache_too_small": ("kv_cache_too_small_fits", ("fits_tokens",)),
    "context_too_long": ("context_too_long_limit", ("limit_tokens",)),
    "why_estimate_low": ("why_estimate_exceeded", ("excess_bytes",)),
    "launch_failed": ("launch_failed_logged", ("log",)),
    "measured": ("measured_as_expected", ("measured_bytes", "expected_bytes")),
    "waits_in_use": ("waits_in_use_counted", ("in_flight",)),
    "waits_operation": ("waits_operation_model", ("model",)),
    "way_out_unload_busy": ("way_out_unload_busy_counted", ("in_flight",)),
    "vllm_weights": ("vllm_weights_percent", ("percent",)),
    "vllm_kv_cache": ("vllm_kv_cache_sized", ("tokens", "kv_cache_bytes")),
    "vllm_graphs": ("vllm_graphs_percent", ("percent",)),
}
"""A fuller sentence for a code, and the values that it needs."""

SENTENCES: Final[Mapping[str, Sentence]] = {
    **REASONS,
    **STEPS,
    **OUTCOMES,
    **PLANS,
    **MODELS,
    **WEB,
    **LEASES,
    **KEEPING,
    **SELFTEST,
    **WHY,
    **WAITING,
    **ERRORS,
}

LEVELS: Final[Mapping[str, str]] = {
    Level.GOOD: N_("Enough"),
    Level.LOW: N_("Low memory"),
    Level.CRITICAL: N_("Critically low"),
}
MODES: Final[Mapping[str, str]] = {Mode.TRANSFORMERS: "Transformers", Mode.VLLM: "vLLM"}
PRECISIONS: Final[Mapping[str, str]] = {
    Precision.AUTO: N_("As in the files"),
    Precision.FP16: "FP16",
    Precision.BF16: "BF16",
    Precision.FP32: "FP32",
    Precision.INT8: "INT8",
    Precision.INT4: N_("4-bit NF4"),
}
INSTANCE_STATES: Final[Mapping[str, str]] = {
    InstanceState.STARTING: N_("starting"),
    InstanceState.LOADING: N_("loading"),
    InstanceState.READY: N_("ready"),
    InstanceState.SILENT: N_("not answering"),
    InstanceState.STOPPING: N_("stopping"),
    InstanceState.STUCK: N_("is not stopping"),
    InstanceState.DEAD: N_("exited unexpectedly"),
}
KINDS: Final[Mapping[str, str]] = {
    OperationKind.SWITCH: N_("Switch"),
    OperationKind.UNLOAD: NP_("noun", "Unload"),
    OperationKind.CLEAN: N_("Memory clean-up"),
    OperationKind.EMERGENCY: N_("Emergency clean-up"),
    OperationKind.DEMO: N_("Demo model created"),
    OperationKind.STOP_CONTAINER: N_("Container stopped"),
    OperationKind.SELFTEST: N_("Self-test"),
    OperationKind.RESTORE: NP_("noun", "Load again"),
}
OPERATION_STATES: Final[Mapping[str, str]] = {
    OperationState.RUNNING: NP_("operation", "running"),
    OperationState.SUCCEEDED: N_("success"),
    OperationState.WARNING: N_("warning"),
    OperationState.FAILED: N_("error"),
    OperationState.CANCELLED: N_("cancelled"),
    OperationState.ABANDONED: N_("interrupted"),
}
TICKET_STATES: Final[Mapping[str, str]] = {
    QueueState.WAITING: N_("queued"),
    QueueState.READY: N_("fits"),
    QueueState.STARTING: N_("starting"),
    QueueState.STARTED: N_("started"),
    QueueState.CANCELLED: N_("cancelled"),
    QueueState.EXPIRED: N_("expired"),
    QueueState.FAILED: N_("not started"),
}
STEP_NAMES: Final[Mapping[str, str]] = {
    StepName.PLAN: N_("Plan"),
    StepName.GRACE: N_("Countdown"),
    StepName.UNLOAD: NP_("noun", "Unload"),
    StepName.SETTLE: N_("Wait for memory"),
    StepName.CLEAN: N_("Clean up"),
    StepName.CHECK: N_("Check"),
    StepName.LAUNCH: N_("Launch"),
    StepName.READY: N_("Ready"),
    StepName.MEASURE: N_("Measure"),
    StepName.CREATE: N_("Write files"),
    StepName.END: NP_("noun", "End"),
    StepName.CHECKS: N_("Checks"),
    StepName.ROLLBACK: N_("Roll back"),
}
STEP_STATES: Final[Mapping[str, str]] = {
    StepState.WAITING: N_("waiting"),
    StepState.RUNNING: NP_("step", "running"),
    StepState.DONE: N_("done"),
    StepState.WARNING: N_("with a warning"),
    StepState.FAILED: N_("failed"),
    StepState.SKIPPED: N_("skipped"),
}
VERDICTS: Final[Mapping[str, str]] = {
    Verdict.FITS: N_("Fits"),
    Verdict.TIGHT: N_("Tight"),
    Verdict.REFUSED: N_("Not possible now"),
}
REFUSALS: Final[Mapping[str, str]] = {
    "not_enough_memory": N_("Doesn’t fit"),
    "instance_in_use": N_("In use"),
    "instance_leased": N_("In use"),
    "already_loaded": N_("Already loaded"),
    "confirmation_needed": N_("Confirm"),
    "mode_unavailable": N_("Not available"),
    "model_unsuitable": N_("Not available"),
}
"""A refused plan in a word, where its code says more than the verdict."""
FITS: Final[Mapping[str, str]] = {
    Fit.NOW: N_("fits now"),
    Fit.AFTER_UNLOADING: N_("fits after unloading"),
    Fit.TOO_LARGE: N_("doesn’t fit"),
    Fit.UNKNOWN: N_("unknown"),
}
SORTS: Final[Mapping[str, str]] = {"name": N_("by name"), "size": N_("by size"), "fit": N_("by fit")}
MARKS: Final[Mapping[str, str]] = {Mark.OK: N_("unlimited"), Mark.LIMITED: N_("limited")}
CHECKS: Final[Mapping[str, str]] = {
    CheckName.MEMORY: N_("Memory readings"),
    CheckName.STATE: N_("State folder and database"),
    CheckName.ADVICE: N_("Recommendations"),
    CheckName.VLLM: N_("vLLM mode"),
    CheckName.MODEL: N_("Tiny model"),
    CheckName.SWITCH: NP_("noun", "Loading"),
    CheckName.ANSWER: N_("The model’s answer"),
    CheckName.REPLACE: N_("Switch"),
    CheckName.REFUSAL: N_("Refusal when memory is short"),
    CheckName.CLEAN: N_("Cleaning"),
    CheckName.UNLOAD: N_("Unloading and freed memory"),
}
CHECK_MARKS: Final[Mapping[str, str]] = {
    CheckMark.OK: N_("ok"),
    CheckMark.WARNING: NP_("check", "warning"),
    CheckMark.FAILED: NP_("check", "failed"),
    CheckMark.SKIPPED: N_("skipped"),
}
CAUSES: Final[Mapping[str, str]] = {
    Cause.NEIGHBOUR_GREW: N_("another process took memory"),
    Cause.ESTIMATE_LOW: N_("estimate too low"),
    Cause.LOAD_PEAK: N_("load peak"),
    Cause.KV_CACHE: N_("KV cache"),
    Cause.PROCESS_LIMIT: N_("process limit"),
    Cause.UNKNOWN: N_("unknown cause"),
}
PHASES: Final[Mapping[str, str]] = {
    Phase.STARTING: N_("at the start"),
    Phase.LOADING: N_("while weights were loading"),
    Phase.KV_CACHE: N_("while the KV cache was allocated"),
    Phase.ANSWERING: N_("while answering requests"),
}
LEDGER: Final[Mapping[str, str]] = {
    LedgerKind.DRIVER: N_("driver"),
    LedgerKind.CONTAINER: N_("container"),
    LedgerKind.LAUNCHER: N_("libraries shared by models"),
    LedgerKind.WORKER: N_("helper process"),
    LedgerKind.FOREIGN: N_("another person’s process"),
    LedgerKind.UNATTRIBUTED: N_("unattributed"),
    LedgerKind.FREE: N_("free"),
}
SPANS: Final[Mapping[str, str]] = {Span.HOUR: N_("Hour"), Span.WEEK: N_("Week")}
EVENT_MARKS: Final[Mapping[str, str]] = {
    EventMark.LOAD: NP_("noun", "Loading"),
    EventMark.UNLOAD: NP_("noun", "Unload"),
    EventMark.SWITCH: N_("Switch"),
    EventMark.CLEAN: N_("Memory clean-up"),
    EventMark.FAILURE: N_("Failure"),
    EventMark.CANCELLED: N_("Cancelled"),
    EventMark.EMERGENCY: N_("Emergency clean-up"),
    EventMark.CONTAINER: N_("Container stopped"),
    EventMark.SELFTEST: N_("Self-test"),
}
PARTS: Final[Mapping[str, str]] = {
    PartName.WEIGHTS: N_("weights"),
    PartName.KV_CACHE: N_("KV cache"),
    PartName.ACTIVATION: N_("computation"),
    PartName.GRAPHS: N_("CUDA graphs"),
    PartName.NON_TORCH: N_("libraries outside torch"),
    PartName.CONTEXT: N_("runtime"),
}
SOURCES: Final[Mapping[str, str]] = {
    Source.HEADERS: N_("file headers"),
    Source.INDEX: N_("file index"),
    Source.SIZES: "config.json",
    Source.FILES: N_("file size"),
    Source.RULE: N_("calculated"),
    Source.PUBLISHED: N_("published measurements"),
    Source.MEASURED: N_("measured on other servers"),
    Source.LEARNED: N_("measured here"),
    Source.DEVICE: N_("measured here with other models"),
    Source.GUESS: N_("guess"),
    Source.NOTHING: N_("not applicable"),
}
CONFIDENCES: Final[Mapping[str, str]] = {
    Confidence.HIGH: N_("high"),
    Confidence.MEDIUM: N_("medium"),
    Confidence.LOW: N_("low"),
}
NOTES: Final[Mapping[str, str]] = {
    Note.UNKNOWN_ARCHITECTURE: N_("Unknown architecture: calculated as if it used standard attention."),
    Note.UNSTATED_SIZES: N_(
        "config.json does not state the sizes needed for the KV cache and the computation; they are "
        "guessed from the weights."
    ),
    Note.STATE_LAYERS: N_(
        "Some layers keep a constant state for each request; its size is calculated by the usual rule."
    ),
    Note.ENCODER: N_(
        "There is an encoder in addition to the decoder: its keys and values are counted for an input as "
        "long as the context."
    ),
    Note.NO_KV_CACHE: N_("An encoder has no KV cache."),
    Note.WEIGHTS_FROM_INDEX: N_(
        "There are no safetensors headers: the size of the weights is the total stated by the index."
    ),
    Note.WEIGHTS_FROM_SIZES: N_(
        "There are no safetensors headers: the size of the weights is calculated from config.json."
    ),
    Note.WEIGHTS_FROM_FILES: N_("The weights are not safetensors: their size on disk was used."),
    Note.DEQUANTIZED: N_("transformers unpacks these quantized files to 16 bits while loading."),
    Note.EXPERTS_NOT_QUANTIZED: N_("bitsandbytes skips fused experts, so the model shrinks little."),
    Note.EXPERTS: N_("A mixture of experts: how evenly tokens spread over them is not known in advance."),
    Note.EAGER_ATTENTION: N_(
        "transformers holds the scores of all pairs of tokens for this model: memory grows with the "
        "square of the prompt."
    ),
    Note.MASKED_WINDOW: N_(
        "The prompt is longer than the attention window: transformers builds a mask over all pairs of its tokens."
    ),
    Note.VISION: N_("Images and audio take more than text."),
    Note.DEVICE_MEMORY_UNKNOWN: N_("The GPU’s memory is unknown: vLLM’s limits for a smaller card were used."),
}
"""What a person has to know about a footprint to judge it: whole sentences."""
STAGES: Final[Mapping[str, str]] = {
    "ask": N_("graceful stop"),
    "terminate": "SIGTERM",
    "kill": "SIGKILL",
    "verify": N_("check"),
}
ROLES: Final[Mapping[str, str]] = {
    Role.VIEWER: N_("viewer"),
    Role.OPERATOR: N_("operator"),
    Role.ADMINISTRATOR: N_("administrator"),
}

GROUPS: Final[Mapping[str, str]] = {
    ActionGroup.SIGNING: N_("sign-ins"),
    ActionGroup.PEOPLE: N_("people and access"),
    ActionGroup.MODELS: N_("models"),
    ActionGroup.LEASES: N_("leases and release requests"),
    ActionGroup.WAITING: N_("queue"),
    ActionGroup.SERVER: N_("server"),
    ActionGroup.ACCESS: N_("access denied"),
}
ACTIONS: Final[Mapping[str, str]] = {
    Action.SIGN_IN: NP_("noun", "Sign in"),
    Action.SIGN_OUT: N_("Sign-out"),
    Action.PASSWORD: N_("Password changed"),
    Action.SESSION_ENDED: N_("Own session ended"),
    Action.SESSIONS_ENDED: N_("Signed out everywhere"),
    Action.TOKEN_MADE: N_("New token"),
    Action.TOKEN_REVOKED: N_("Token revoked"),
    Action.INVITATION_MADE: N_("New invitation"),
    Action.INVITATION_DROPPED: N_("Invitation revoked"),
    Action.INVITATION_USED: N_("Invitation accepted"),
    Action.PERSON_MADE: N_("New account"),
    Action.ROLE: N_("Role changed"),
    Action.DISABLED: N_("Account disabled"),
    Action.ENABLED: N_("Account enabled"),
    Action.REMOVED: N_("Account removed"),
    Action.SWITCH: N_("Load model"),
    Action.UNLOAD: N_("Unload model"),
    Action.IDLE_UNLOAD: N_("Idle model unloaded"),
    Action.DEMO: N_("Demo model created"),
    Action.LEASE: N_("Lease terms"),
    Action.KEEP: N_("Idle model kept"),
    Action.RELEASE_ASKED: N_("Release request"),
    Action.RELEASE_ANSWERED: N_("Release request answered"),
    Action.RELEASED_IN_SILENCE: N_("Model released: its owner did not answer"),
    Action.TICKET_MADE: N_("Queue joined"),
    Action.TICKET_CANCELLED: N_("Queue left"),
    Action.TICKET_RESUMED: N_("Queue place resumed"),
    Action.TICKET_STARTED: N_("Start from the queue"),
    Action.CLEAN: N_("Memory clean-up"),
    Action.EMERGENCY: N_("Emergency clean-up"),
    Action.CONTAINER_STOPPED: N_("External container stopped"),
    Action.CANCEL: N_("Operation cancelled"),
    Action.SELFTEST: N_("Self-test"),
    Action.ADDRESS: N_("Access denied"),
}
CAME: Final[Mapping[str, str]] = {
    AuditChannel.LOCAL: N_("without signing in, on this machine"),
    AuditChannel.SESSION: N_("by password"),
    AuditChannel.PROXY: N_("via the proxy"),
    AuditChannel.TOKEN: N_("by token"),
    AuditChannel.NOBODY: N_("not signed in"),
    AuditChannel.COMMAND_LINE: N_("command line"),
    AuditChannel.ITSELF: N_("automatic"),
}
RESULTS: Final[Mapping[str, str]] = {
    Result.DONE: N_("done"),
    Result.REFUSED: N_("refused"),
    Result.FAILED: N_("failed"),
}
DETAILS: Final[Mapping[str, str]] = {
    Detail.ROLE_BEFORE: N_("previous role"),
    Detail.ROLE: N_("role"),
    Detail.SCOPE: N_("token scope"),
    Detail.DAYS: N_("lifetime, days"),
    Detail.HOURS: N_("lifetime, hours"),
    Detail.MODE: N_("mode"),
    Detail.LOAD_ANYWAY: N_("despite the memory estimate"),
    Detail.OVERRIDE_REASON: N_("reason to override"),
    Detail.OWNER: N_("owner"),
    Detail.LEASE: N_("lease until"),
    Detail.EXTENDED: N_("extended"),
    Detail.REASON: N_("purpose"),
    Detail.IDLE: N_("idle unload, minutes"),
    Detail.WHY: N_("why"),
    Detail.ANSWER: N_("answer"),
    Detail.WORD: N_("owner’s message"),
    Detail.ROLLBACK: N_("without restoring the previous models"),
    Detail.REPEATED: N_("repeats within a minute"),
}
RELEASE_ANSWERS: Final[Mapping[str, str]] = {
    ReleaseAnswer.KEEP: N_("keep"),
    ReleaseAnswer.RELEASE: N_("release"),
}

FIELDS: Final[Mapping[str, str]] = {
    "mode": N_("Mode"),
    "model": N_("Model"),
    "precision": N_("Precision"),
    "dtype": N_("Precision"),
    "quantization": N_("Quantization"),
    "max_tokens": N_("Tokens"),
    "batch_size": N_("Batch"),
    "device": N_("Device"),
    "devices": N_("Device"),
    "unload": N_("Unload"),
    "lease": N_("Lease"),
    "lease_until": N_("Lease"),
    "lease_time": N_("Lease until"),
    "reason": N_("Purpose"),
    "idle": N_("Unload when idle"),
    "idle_unload_minutes": N_("Unload when idle"),
    "why": N_("Why"),
    "word": N_("Answer"),
    "prompt": N_("Prompt"),
    "kind": N_("Kind"),
    "actor": N_("Who"),
    "state": N_("Result"),
    "before": N_("After the operation"),
    "span": N_("Period"),
    "name": N_("Name"),
    "label": N_("Label"),
    "role": N_("Role"),
}
"""The form's names of the fields that an ``invalid`` can name."""


def word(table: Mapping[str, str], key: str | None) -> str:
    """Return the word for a member of a closed set; one that is not in ``table`` stands as it is."""
    if key is None:
        return formats.unknown()
    text = table.get(key)
    return key if text is None else gettext(text)


def error_title(code: str) -> str:
    """Return in few words why something was not done; a code of another version stands as it is."""
    text = ERROR_TEXTS.get(code)
    return code if text is None else gettext(text.title)


def say(message: Message) -> str:
    """Return ``message`` as a sentence of the language in force."""
    return capital(clause(message))


def clause(message: Message) -> str:
    """Return ``message`` as it stands inside a sentence or under a step's name: no capital made of its first letter."""
    code, needed = FULLER.get(message.code, (message.code, ()))
    if not all(message.params.get(name) for name in needed):
        code = message.code
    sentence = SENTENCES.get(code)
    return _unknown(message) if sentence is None else sentence.say(message.params)


def problem(message: Message) -> str:
    """Return why something cannot be chosen, as it stands after a colon: the full stop is the caller's."""
    return clause(message).removesuffix(".")


def _unknown(message: Message) -> str:
    values = ", ".join(f"{name}={value}" for name, value in message.params.items() if value is not None)
    return f"{message.code} ({values})" if values else message.code


def capital(text: str) -> str:
    """Return ``text`` with its first letter as a capital, unless that begins a name (``Qwen/…``, ``vLLM``)."""
    first = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if first.islower() and not set("/._") & set(first) else text


def device_label(device_id: str | None) -> str:
    """Return a device's name for people: ``GPU 0``, or the host's RAM."""
    if device_id is None:
        return gettext("the device")
    if device_id == "host":
        return gettext("main memory")
    kind, _, index = device_id.partition("-")
    return f"GPU {index}" if kind == "gpu" and index.isdigit() else device_id


def _devices(value: str) -> str:
    return ", ".join(device_label(part.strip()) for part in value.split(","))


def _reason(value: str) -> str:
    known = {**REASONS, **KEEPING}
    return gettext(known[value].one) if value in known else value


def _state(value: str) -> str:
    return word({**OPERATION_STATES, **INSTANCE_STATES}, value)


_BY_NAME: Final[Mapping[str, Callable[[str], str]]] = {
    "device": device_label,
    "devices": _devices,
    "known": _devices,
    "mode": lambda value: word(MODES, value),
    "kind": lambda value: word(KINDS, value),
    "step": lambda value: word(STEP_NAMES, value),
    "stage": lambda value: word(STAGES, value),
    "precision": lambda value: word(PRECISIONS, value),
    "field": lambda value: word(FIELDS, value),
    "reason": _reason,
    "code": _reason,
    "state": _state,
    "container": lambda value: value[:SHORT_ID],
    "needed": lambda value: word(ROLES, value),
    "role": lambda value: word(ROLES, value),
    "check": lambda value: word(CHECKS, value),
}
_LONGEST: Final = 300
SHORT_ID: Final = 12
"""Digits of a container's id that people are shown, as Docker does."""


def shown_param(name: str, value: Param) -> str:
    """Return one value of a message as the reader's language writes it."""
    if value is None:
        return formats.unknown()
    if isinstance(value, bool):
        return gettext("yes") if value else gettext("no")
    if isinstance(value, int | float):
        return _shown_number(name, value)
    text = value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
    shown = _BY_NAME.get(name)
    return text if shown is None else shown(text)


def _shown_number(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return formats.size(value)
    if name.endswith("idle_s"):
        return formats.rough_duration(value)
    if name == "seconds" or name.endswith("_s"):
        return formats.duration(value)
    if name in ("since", "until"):
        return formats.moment(value, value if name == "since" else time.time())
    if name == "pid":
        return str(int(value))
    return formats.number(value) if isinstance(value, int) else formats.number(value, 1)
