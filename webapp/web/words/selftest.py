"""Texts of the self-test: results and advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webapp.texts import N_, NN_
from webapp.web.words.sentence import Sentence, many, one

SELFTEST: Final[Mapping[str, Sentence]] = {
    "selftest_checking": one(N_("%(check)s")),
    "selftest_checked": many(*NN_("%(count)s item", "%(count)s items")),
    "selftest_done": many(
        *NN_("Everything works: %(count)s check passed.", "Everything works: %(count)s checks passed.")
    ),
    "selftest_done_warnings": many(*NN_("Passed with %(count)s warning.", "Passed with %(count)s warnings.")),
    "selftest_done_failed": many(
        *NN_(
            "%(count)s check failed. The advice is next to it.",
            "%(count)s checks failed. The advice is next to each.",
        )
    ),
    "selftest_skipped": one(N_("not checked: “%(check)s” must pass first")),
    "selftest_readings_late": one(
        N_("readings received: %(count)s of %(asked)s, the latest %(age_s)s ago: the driver responds too slowly")
    ),
    "selftest_readings_stuck": one(N_("the readings are stuck: they all have the same time")),
    "selftest_no_figures": one(N_("%(device)s: the driver did not report total and free memory")),
    "selftest_ledger_off": one(N_("%(device)s: the parts do not add up to the total; they are off by %(off_bytes)s")),
    "selftest_witness_off": one(N_("%(device)s: Warden sees %(free_bytes)s free, the system sees %(other_bytes)s")),
    "selftest_memory_ok": one(
        N_("%(devices)s: %(total_bytes)s in total, adds up to the byte; readings: %(count)s, the latest %(age_s)s ago")
    ),
    "selftest_state_unwritable": one(N_("%(folder)s is not writable: %(detail)s")),
    "selftest_not_kept": one(N_("the operation was written to the database but cannot be read back")),
    "selftest_state_open": one(N_("%(folder)s is open to other users (mode %(bits)s)")),
    "selftest_files_open": one(N_("other users can read these files: %(files)s")),
    "selftest_state_ok": one(N_("%(folder)s is writable and closed to other users; the database responds")),
    "selftest_advice_wrong": one(N_("the recommendation for %(free_bytes)s differs from the table")),
    "selftest_advice_unknown": one(
        N_("the table is right (points checked: %(count)s), but the free memory is unknown now, so there is no advice")
    ),
    "selftest_advice_ok": one(
        N_(
            "the table is right (points checked: %(count)s); for %(free_bytes)s: %(mode)s, %(precision)s, "
            "%(max_tokens)s tokens, batch %(batch_size)s"
        )
    ),
    "selftest_vllm_ok": one(N_("it can be chosen: Docker responds, and the image is present")),
    "selftest_vllm_unavailable": one(N_("it cannot be chosen: %(reason)s; Transformers mode works without it")),
    "selftest_model_ok": one(N_("the model %(model)s (%(size_bytes)s) was created and found in the cache")),
    "selftest_model_missing": one(N_("the model was created, but does not appear in the list")),
    "selftest_no_room": one(
        N_(
            "does not fit next to the loaded models (%(device)s): it needs %(needed_bytes)s plus a "
            "%(reserve_bytes)s reserve, %(free_bytes)s is available; nothing was touched"
        )
    ),
    "selftest_elsewhere": one(N_("another self-test is already running from this state folder")),
    "selftest_not_ready": one(N_("the switch has ended, but the model is not ready")),
    "selftest_switch_ok": one(
        N_("loaded in %(seconds)s; at most %(predicted_bytes)s promised, %(measured_bytes)s in use")
    ),
    "selftest_not_measured": one(
        N_("loaded in %(seconds)s, but its memory use is unknown (promised: %(predicted_bytes)s)")
    ),
    "selftest_over_prediction": one(
        N_("loaded in %(seconds)s, but it takes %(measured_bytes)s instead of the promised %(predicted_bytes)s")
    ),
    "selftest_answer_ok": many(*NN_("answered in %(count)s chunk", "answered in %(count)s chunks")),
    "selftest_answer_empty": one(N_("the answer was empty")),
    "selftest_replace_ok": one(
        N_("the first model was unloaded, %(freed_bytes)s freed in %(seconds)s; the second was loaded in its place")
    ),
    "selftest_replace_held": one(
        N_(
            "the model was replaced, but only %(freed_bytes)s of the first one’s %(expected_bytes)s was "
            "freed in %(seconds)s"
        )
    ),
    "selftest_not_replaced": one(N_("the first model was not unloaded, or the second did not take its place")),
    "selftest_refusal_ok": one(
        N_("a request for %(needed_bytes)s with %(free_bytes)s available was refused, and the loaded model stayed")
    ),
    "selftest_not_refused": one(N_("a request that is far too large was not refused")),
    "selftest_refused_late": one(N_("the request was refused, but the loaded model was harmed")),
    "selftest_clean_ok": one(N_("ended without errors, %(freed_bytes)s freed; lines in the report: %(count)s")),
    "selftest_unload_ok": one(N_("%(freed_bytes)s of %(expected_bytes)s freed in %(seconds)s, no processes are left")),
    "selftest_unload_held": one(
        N_("no processes are left, but only %(freed_bytes)s of %(expected_bytes)s was freed in %(seconds)s")
    ),
    "selftest_process_left": one(N_("processes are left after unloading: %(pids)s")),
    "selftest_advice_driver": one(
        N_("Check the driver (nvidia-smi) and the server’s log, then run the self-test again.")
    ),
    "selftest_advice_state": one(
        N_("Check the owner of %(folder)s and the free disk space, or set another folder in WARDEN_STATE_DIR.")
    ),
    "selftest_advice_store": one(
        N_("Check the free disk space and the database file; the server’s log says what is wrong.")
    ),
    "selftest_advice_chmod": one(N_("Restrict access: %(command)s")),
    "selftest_advice_report": one(N_("Run the self-test again; if that does not help, see the server’s log.")),
    "selftest_advice_later": one(
        N_("Wait for that operation to end and run the self-test again; it takes about a minute.")
    ),
    "selftest_advice_room": one(
        N_("Unload a model you don’t need and run the self-test again: it never unloads models.")
    ),
    "selftest_advice_held": one(
        N_(
            "If others are using the server’s memory right now, try again when it is quieter; otherwise see "
            "who holds it."
        )
    ),
    "selftest_advice_emergency": one(N_("End these processes manually, or restart Warden: it removes leftovers.")),
}
