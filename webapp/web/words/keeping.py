"""Texts that say why Warden cannot store anything now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webapp.texts import N_, NN_
from webapp.web.words.sentence import Sentence, many, one

KEEPING: Final[Mapping[str, Sentence]] = {
    "keeping_locked": one(
        N_(
            "Warden cannot save anything new: another process has locked the database file %(file)s. Find it "
            "and end it: fuser -v %(file)s."
        )
    ),
    "keeping_full": one(N_("Warden cannot save anything new: the disk that holds %(file)s is full. Free some space.")),
    "keeping_gone": one(
        N_(
            "Warden cannot save anything new: the database file %(file)s is gone and cannot be recreated "
            "(%(detail)s). Restore the folder and its permissions."
        )
    ),
    "keeping_slow": one(
        N_(
            "Warden cannot save anything new: the database takes longer than a second to answer. Check the "
            "disk and the server’s load."
        )
    ),
    "keeping_failed": one(N_("Warden cannot save anything new: the database returns an error (%(detail)s).")),
    "keeping_lost": many(
        *NN_(
            "%(count)s record did not fit in memory and is lost.",
            "%(count)s records did not fit in memory and are lost.",
        )
    ),
    "store_locked": one(N_("another process has locked the database file")),
    "store_full": one(N_("the disk is full")),
    "store_gone": one(N_("the database file is gone")),
    "store_slow": one(N_("the database takes longer than a second to answer")),
    "store_failed": one(N_("the database returns an error")),
}
