"""Texts of failures: what happened, to what, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webapp.error_texts import ERROR_TEXTS
from webapp.texts import N_
from webapp.web.words.sentence import Sentence, one

ERRORS: Final[Mapping[str, Sentence]] = {
    **{code: Sentence(text.sentence) for code, text in ERROR_TEXTS.items()},
    "unexpected": one(N_("The operation failed because of a bug in Warden. The server’s log has the details.")),
    "unexpected_named": one(
        N_("The operation failed because of a bug in Warden (%(detail)s). The server’s log has the details.")
    ),
    "unknown_model_named": one(
        N_("The model %(model)s is not in the cache. Check its name or download it: the list refreshes within seconds.")
    ),
    "busy_model": one(
        N_(
            "Another operation is using the memory: %(kind)s %(model)s, step “%(step)s”, started by "
            "%(actor)s at %(since)s. Wait for it to end, or cancel it."
        )
    ),
    "instance_in_use_counted": one(
        N_(
            "Model %(model)s (owner %(owner)s) is answering requests now: %(in_flight)s. Wait for the "
            "answers; you may interrupt your own model, and ask the owner to release another person’s."
        )
    ),
    "instance_leased_for": one(
        N_(
            "Model %(model)s is leased until %(until)s, its owner is %(owner)s: “%(reason)s”. Ask for its "
            "release or choose another device."
        )
    ),
    "device_unreadable_named": one(
        N_("The readings of %(device)s are unreliable now, so nothing can be loaded. Check the driver and try again.")
    ),
    "launch_failed_logged": one(
        N_("The model %(model)s did not start: %(detail)s. Look at the last lines of its log.")
    ),
    "cancelled_by_emergency": one(N_("An emergency clean-up started by %(actor)s interrupted the operation.")),
    "driver_gone": one(
        N_(
            "The NVIDIA driver stopped responding (%(detail)s). Check nvidia-smi; until it is back, there "
            "are no GPU readings."
        )
    ),
    "holders_unknown": one(N_("The process list could not be read (%(detail)s): who holds the memory is unknown.")),
    "cache_unreadable": one(
        N_("The model cache %(path)s cannot be read: %(detail)s. Check the folder and its permissions.")
    ),
    "kv_cache_too_small_fits": one(
        N_(
            "The KV cache of the model %(model)s does not hold even one request (tokens: %(max_tokens)s): it "
            "needs %(needed_bytes)s and has %(available_bytes)s. Choose %(fits_tokens)s tokens or fewer."
        )
    ),
    "context_too_long_limit": one(
        N_(
            "Model %(model)s does not support %(max_tokens)s tokens and was not started. Choose "
            "%(limit_tokens)s tokens or fewer."
        )
    ),
}
"""Failures by the code of their class or of their message."""

WEB: Final[Mapping[str, Sentence]] = {
    "bad_json": one(N_("The request body is not JSON (%(detail)s). Send a JSON object.")),
}
"""Refusals of the web layer."""
