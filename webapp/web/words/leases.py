"""Texts about leases, release requests and idle models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webapp.texts import N_
from webapp.web.words.sentence import Sentence, one

LEASES: Final[Mapping[str, Sentence]] = {
    "release_kept": one(N_("The owner, %(owner)s, keeps model %(model)s.")),
    "release_kept_word": one(N_("The owner, %(owner)s, keeps model %(model)s: “%(word)s”.")),
    "release_given": one(N_("The owner, %(owner)s, releases model %(model)s for you: you can take its place.")),
    "release_given_word": one(
        N_("The owner, %(owner)s, releases model %(model)s for you: you can take its place. “%(word)s”.")
    ),
    "release_given_silently": one(
        N_(
            "The owner, %(owner)s, has not answered, and model %(model)s is idle and not leased: you can "
            "take its place."
        )
    ),
    "released_in_silence": one(
        N_(
            "%(asker)s asked to release model %(model)s. There was no answer and the model was idle, so its "
            "place can be taken now."
        )
    ),
    "unloaded_by": one(N_("%(actor)s unloaded your model %(model)s (idle, no lease).")),
    "unloaded_for": one(N_("%(actor)s unloaded your model %(model)s to load %(new_model)s (idle, no lease).")),
    "lease_overridden": one(
        N_("Administrator %(actor)s overrides %(owner)s and takes the place of model %(model)s: “%(reason)s”.")
    ),
    "unloaded_idle": one(N_("Model %(model)s is being unloaded: nobody has used it for %(idle_s)s.")),
}
