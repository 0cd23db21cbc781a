"""Texts of operations: steps, outcomes, and why memory ran out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webapp.texts import N_, NN_
from webapp.web.words.sentence import Sentence, many, one

STEPS: Final[Mapping[str, Sentence]] = {
    "planned": one(N_("%(needed_bytes)s needed")),
    "stopped": one(N_("%(models)s")),
    "stop_ask": one(N_("stopping %(model)s")),
    "stop_terminate": one(N_("%(model)s is not stopping; sent SIGTERM")),
    "creating_vllm": one(N_("the image is present, creating the container")),
    "creating_transformers": one(N_("starting the process")),
    "stop_container": one(N_("stopping the container of %(model)s (SIGTERM)")),
    "stop_kill": one(N_("%(model)s is not stopping; sent SIGKILL")),
    "stop_verify": one(N_("checking that nothing of %(model)s is left")),
    "stop_unproved": one(N_("it could not be confirmed that the process has ended; press “Emergency clean-up”")),
    "rollback_settling": one(N_("waiting for the memory to be freed")),
    "settle_slow": one(N_("memory is being freed more slowly than usual")),
    "grace_over": one(N_("nobody stopped it")),
    "settled": one(N_("+%(freed_bytes)s")),
    "settle_unknown": one(N_("the device cannot be read")),
    "settle_late": one(N_("only +%(freed_bytes)s of %(expected_bytes)s")),
    "reaped": many(*NN_("%(count)s leftover", "%(count)s leftovers")),
    "checked": one(N_("%(free_bytes)s ≥ %(needed_bytes)s")),
    "checked_overruled": one(N_("%(missing_bytes)s short, loading anyway")),
    "launch_starting": one(N_("starting the process")),
    "launch_loading": one(N_("loading weights")),
    "launched": one(N_("weights loaded")),
    "ready_after": one(N_("it is answering")),
    "measured": one(N_("%(measured_bytes)s in use")),
    "measured_as_expected": one(N_("%(measured_bytes)s in use, %(expected_bytes)s expected at the start")),
    "measured_unknown": one(N_("could not be measured, %(predicted_bytes)s expected")),
    "cleaned": many(*NN_("%(count)s entry", "%(count)s entries")),
    "cleaned_free": one(N_("%(free_bytes)s available")),
    "ended": many(*NN_("%(count)s stopped", "%(count)s stopped")),
    "ended_late": many(*NN_("%(count)s more process stopped", "%(count)s more processes stopped")),
    "demo_made": one(N_("files written")),
    "vllm_creating": one(N_("creating the container")),
    "vllm_starting": one(N_("the container is running, vLLM is starting")),
    "vllm_weights": one(N_("loading weights")),
    "vllm_weights_percent": one(N_("loading weights: %(percent)s %%")),
    "vllm_profiling": one(N_("vLLM is warming up and measuring memory")),
    "vllm_kv_cache": one(N_("the KV cache is ready")),
    "vllm_kv_cache_sized": one(N_("KV cache: %(tokens)s tokens, %(kv_cache_bytes)s")),
    "vllm_graphs": one(N_("capturing CUDA graphs")),
    "vllm_graphs_percent": one(N_("capturing CUDA graphs: %(percent)s %%")),
    "vllm_serving": one(N_("the server is up, waiting for the model’s answer")),
}
"""Short texts of steps, shown under the step's name."""

OUTCOMES: Final[Mapping[str, Sentence]] = {
    "switch_done": one(N_("The model %(model)s is ready to answer: %(mode)s, %(seconds)s.")),
    "unload_done": one(N_("The model %(model)s is unloaded: %(freed_bytes)s freed in %(seconds)s.")),
    "unload_unknown": one(
        N_(
            "The model %(model)s has stopped. How much memory was freed is unknown: the device cannot be "
            "read. Check the driver; readings then return."
        )
    ),
    "unload_held": one(
        N_(
            "The model %(model)s has stopped, but only %(freed_bytes)s of %(expected_bytes)s was freed in "
            "%(seconds)s. The memory card shows who holds the rest."
        )
    ),
    "clean_done": one(N_("Memory cleaned: %(freed_bytes)s freed, %(free_bytes)s available.")),
    "emergency_done": many(
        *NN_(
            "Emergency clean-up done: %(count)s process stopped, %(freed_bytes)s freed.",
            "Emergency clean-up done: %(count)s processes stopped, %(freed_bytes)s freed.",
        )
    ),
    "emergency_incomplete": one(
        N_(
            "The emergency clean-up is incomplete: %(count)s stopped, %(freed_bytes)s of %(expected_bytes)s "
            "freed. What is left is listed below."
        )
    ),
    "demo_done": one(N_("The demo model %(model)s is in the cache. Choose it and load it.")),
    "nothing_changed": one(N_("Nothing on the server was changed.")),
    "loaded_anyway": one(
        N_("%(model)s: loaded despite the estimate, as %(actor)s decided (%(device)s, %(missing_bytes)s short)")
    ),
    "rolled_back": one(N_("The previous models are loaded again: %(models)s.")),
    "restore_failed": one(
        N_("Could not load again: %(models)s. The result lists the reasons; once they are fixed, press “Load again”.")
    ),
    "restore_begun": one(N_("%(models)s: loading again, started by %(actor)s")),
    "restore_not_needed": one(N_("%(model)s: already loaded")),
    "restore_revision_gone": one(
        N_(
            "%(model)s: cannot be restored, revision %(revision)s is no longer in the cache; Warden never "
            "loads another revision in its place"
        )
    ),
    "not_restored_by_choice": one(N_("The previous models were not restored, as chosen: %(models)s.")),
    "switch_done_memory_held": one(
        N_(
            "The model %(model)s is ready to answer: %(mode)s, %(seconds)s. Only %(freed_bytes)s of the "
            "previous model’s %(expected_bytes)s was freed."
        )
    ),
    "ended_early": one(N_("The operation was stopped halfway. Check what is loaded.")),
    "taken_over": one(N_("An emergency clean-up finished the rest.")),
    "rollback_cancelled": one(N_("Restoring the previous models was interrupted. Check what is loaded.")),
    "undo_failed": one(N_("Rolling back failed (%(detail)s). Press “Clean memory”.")),
    "unloaded_not_waited": one(N_("The model %(model)s has stopped; Warden did not wait for its memory to be freed.")),
    "abandoned": one(
        N_("Warden stopped in the middle of the operation; leftovers were removed when it started again.")
    ),
    "adopted": one(N_("%(model)s: kept running and was reattached")),
    "found_dead": one(N_("%(model)s: stopped while Warden was not running: %(reason)s")),
    "removed_half_started": one(N_("%(model)s: had not finished starting, its leftovers were removed")),
    "removal_failed": one(N_("%(model)s: its leftovers could not be removed; press “Emergency clean-up”")),
    "restored": one(N_("%(model)s: loaded again")),
    "restore_model_gone": one(N_("%(model)s: cannot be restored, it is no longer in the cache")),
    "restore_no_memory": one(N_("%(model)s: cannot be restored, %(missing_bytes)s short")),
    "restore_failed_because": one(N_("%(model)s: cannot be restored, %(code)s")),
    "stuck_cleared": one(N_("%(model)s has stopped and nothing of it is left; it was removed from the list.")),
    "dead_removed": one(N_("%(model)s: had already stopped, its entry was removed")),
    "dead_not_removed": one(N_("%(model)s: had already stopped, but its leftovers could not be removed")),
    "clean_worker": one(N_("%(model)s: freed %(freed_bytes)s")),
    "clean_failed": one(N_("%(model)s: not cleaned, %(code)s")),
    "stays_foreign": one(
        N_(
            "%(device)s: another person’s process %(pid)s (%(user)s, %(command)s) keeps running and holds "
            "%(used_bytes)s"
        )
    ),
    "stays_unattributed": one(N_("%(device)s: %(used_bytes)s is in use by no visible process")),
    "leftover_process": one(N_("%(instance)s: process %(pid)s without a model")),
    "leftover_folder": one(N_("%(instance)s: folder without a model")),
    "ended_instance": one(N_("%(name)s: stopped")),
    "ended_not_removed": one(
        N_("%(name)s: stopped, its memory is free; Docker has not removed the container yet, Warden removes it later")
    ),
    "ended_unlisted": one(N_("%(name)s: an unlisted process was stopped")),
    "end_failed": one(N_("%(name)s: could not be stopped (%(detail)s); end its process manually")),
    "runtime_unreachable": one(N_("mode %(mode)s is not responding: what is left in it is unknown")),
    "instance_vanished": one(N_("the process of the model %(model)s is gone: somebody else or the system ended it")),
    "container_ended": one(N_("The container %(name)s was stopped. It held no device memory.")),
    "container_ended_freed": one(N_("The container %(name)s was stopped: %(freed_bytes)s freed in %(seconds)s.")),
    "container_ended_held": one(
        N_(
            "The container %(name)s was stopped, but only %(freed_bytes)s of %(expected_bytes)s was freed in "
            "%(seconds)s. The memory card shows who holds the rest."
        )
    ),
    "container_not_waited": one(
        N_("The container %(name)s was stopped; Warden did not wait for its memory to be freed.")
    ),
    "launch_again_disturbed": one(
        N_(
            "%(model)s: another process disturbed the memory measurement (%(before_bytes)s free before, "
            "%(after_bytes)s after); starting again"
        )
    ),
    "container_not_removed": one(
        N_(
            "%(model)s: stopped, but Docker has not removed the container %(name)s yet; Warden removes it as "
            "soon as Docker allows"
        )
    ),
    "launch_again_port": one(N_("%(model)s: another process took port %(port)s; starting again on another port")),
    "leftover_container": one(N_("%(name)s: a container without a model")),
    "stays_container": one(N_("somebody else’s container %(name)s keeps running (owner: %(user)s, image %(image)s)")),
    "not_reached": one(
        N_("%(name)s: the mode %(mode)s is not responding, so it could not be stopped; try again when it responds")
    ),
}
"""How an operation ended, and the lines of its result."""

WHY: Final[Mapping[str, Sentence]] = {
    "why_neighbour_grew": one(
        N_(
            "Another process took the memory: %(who)s. The model needs %(gate_bytes)s (%(device)s), but the "
            "room for it shrank from %(room_bytes)s to %(left_bytes)s."
        )
    ),
    "why_estimate_low": one(
        N_(
            "The estimate was too low: %(gate_bytes)s was expected (%(device)s), the model held "
            "%(held_bytes)s and asked for more, and %(free_bytes)s was available. No other process was "
            "involved."
        )
    ),
    "why_estimate_exceeded": one(
        N_(
            "The estimate was too low: %(gate_bytes)s was expected (%(device)s) and the model took "
            "%(held_bytes)s, %(excess_bytes)s more. No other process was involved."
        )
    ),
    "why_load_peak": one(
        N_(
            "The loading peak exceeded the available memory: %(gate_bytes)s was needed, %(room_bytes)s was "
            "available (%(device)s)."
        )
    ),
    "why_kv_cache": one(
        N_(
            "There was no room for the KV cache: the model held %(held_bytes)s of the expected "
            "%(gate_bytes)s (%(device)s). A shorter context or a smaller batch helps."
        )
    ),
    "why_process_limit": one(
        N_(
            "The device still had %(free_bytes)s (%(device)s), which was enough by the estimate: a limit of "
            "the process (ulimit, cgroup) denied the memory. Check it."
        )
    ),
    "why_unknown": one(N_("The readings from that moment do not show the cause.")),
}
"""Why a model ran out of memory, with the figures."""
