"""Texts of the queue: what a launch waits for, and why it left the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webapp.texts import N_, NN_
from webapp.web.words.sentence import Sentence, many, one

WAITING: Final[Mapping[str, Sentence]] = {
    "waits_memory": one(
        N_(
            "%(device)s: %(missing_bytes)s short (needs %(needed_bytes)s + %(reserve_bytes)s reserve, "
            "%(free_bytes)s available)."
        )
    ),
    "waits_in_use": one(
        N_("waiting until %(model)s (owner: %(owner)s) is idle: it is unknown whether it is answering requests.")
    ),
    "waits_in_use_counted": many(
        *NN_(
            "waiting until %(model)s (owner: %(owner)s) is idle: it is answering %(in_flight)s request now.",
            "waiting until %(model)s (owner: %(owner)s) is idle: it is answering %(in_flight)s requests now.",
        ),
        "in_flight",
    ),
    "waits_leased": one(N_("%(model)s is leased until %(until)s (owner: %(owner)s); waiting for its release.")),
    "waits_others": one(N_("other people’s models hold the memory: %(models)s; waiting until it is free.")),
    "waits_operation": one(N_("%(device)s: an operation is running (%(kind)s), started by %(actor)s at %(since)s.")),
    "waits_operation_model": one(
        N_("%(device)s: an operation is running (%(kind)s, %(model)s), started by %(actor)s at %(since)s.")
    ),
    "waits_cooldown": one(
        N_("the model has just failed to load (failures in a row: %(failures)s); pausing before the next attempt.")
    ),
    "waits_pause": one(
        N_(
            "another process took the memory during the start (attempt %(tries)s of %(most)s); pausing "
            "before the next attempt."
        )
    ),
    "waits_judgement": one(N_("checking whether there is room.")),
    "waits_unjudged": one(
        N_(
            "could not check whether there is room: internal error (%(detail)s), details are in the log. The "
            "rest of the queue is not held up. Leave the queue and join it again with other settings."
        )
    ),
    "ticket_satisfied": one(
        N_("%(model)s is already loaded (owner: %(owner)s). Use that one: no second copy was started.")
    ),
    "ticket_not_fetched": one(
        N_(
            "Its place was held for %(seconds)s after the notice, but nobody started it. The next in the "
            "queue got the memory."
        )
    ),
    "ticket_waited_long": one(
        N_("No room became free within %(seconds)s. Join the queue again if you still need the model.")
    ),
    "ticket_without_right": one(
        N_("There is room, but %(actor)s may no longer load models: the role has changed or the account is gone.")
    ),
}
