"""Texts of plans: verdicts, reasons, alternatives, advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from webapp.texts import N_, NN_
from webapp.web.words.sentence import Sentence, many, one

PLANS: Final[Mapping[str, Sentence]] = {
    "plan_fits": one(N_("%(device)s: %(needed_bytes)s needed, %(free_bytes)s will be available: enough room.")),
    "plan_tight": one(
        N_(
            "%(device)s: %(needed_bytes)s of %(free_bytes)s needed: a tight fit, the reserve of "
            "%(reserve_bytes)s stays free."
        )
    ),
    "plan_spread": one(
        N_(
            "One device would need %(needed_bytes)s and %(device)s has %(free_bytes)s available, so the "
            "model is split across %(devices)s."
        )
    ),
    "plan_spread_in_use": one(
        N_("Another model is answering on %(device)s right now, so this one is split across %(devices)s.")
    ),
    "plan_spread_claimed": one(
        N_("Another operation is running on %(device)s, so this model is split across %(devices)s.")
    ),
    "plan_spread_leased": one(N_("%(device)s holds another person’s model, so this one is split across %(devices)s.")),
    "plan_spread_others": one(
        N_("On %(device)s another person’s model would have to be unloaded, so this one is split across %(devices)s.")
    ),
    "plan_estimate_rough": one(N_("The estimate for %(device)s is rough: the model’s files do not state everything.")),
    "plan_measured": many(
        *NN_(
            "%(device)s: measured here %(count)s time, ±%(spread_percent)s\u00a0%%.",
            "%(device)s: measured here %(count)s times, ±%(spread_percent)s\u00a0%%.",
        )
    ),
    "plan_measured_once": one(N_("%(device)s: measured here once.")),
    "plan_measured_otherwise": many(
        *NN_(
            "%(device)s: corrected by %(count)s load with another context or batch, ±%(spread_percent)s\u00a0%%.",
            "%(device)s: corrected by %(count)s loads with another context or batch, ±%(spread_percent)s\u00a0%%.",
        )
    ),
    "plan_measured_otherwise_once": one(N_("%(device)s: corrected by 1 load with another context or batch.")),
    "plan_device_claimed": one(N_("An operation is running on %(device)s: you can apply this when it ends.")),
    "plan_load_anyway": one(
        N_(
            "%(device)s: the estimate needs %(needed_bytes)s plus a %(reserve_bytes)s reserve, "
            "%(free_bytes)s is available: %(missing_bytes)s short. If loaded anyway, the model may run out "
            "of memory."
        )
    ),
    "plan_promised": one(N_("On %(device)s another %(promised_bytes)s is promised to models that are loading.")),
    "plan_no_return": one(N_("If loading fails, %(model)s cannot be loaded again: %(reason)s.")),
    "plan_stuck_holds": one(
        N_("The model %(model)s is not stopping and holds %(held_bytes)s: that memory will not be freed.")
    ),
    "context_capped": one(N_("The model supports %(max_tokens)s tokens, so it gets that many instead of %(asked)s.")),
    "way_out_unload_others": one(N_("Unload the others")),
    "way_out_other_device": one(N_("Another device")),
    "way_out_devices": one(N_("Split across %(devices)s")),
    "way_out_mode": one(N_("%(mode)s mode")),
    "way_out_batch": one(N_("Batch %(batch_size)s")),
    "way_out_tokens": many(*NN_("%(max_tokens)s token", "%(max_tokens)s tokens"), "max_tokens"),
    "way_out_tokens_batch": many(
        *NN_("%(max_tokens)s token, batch %(batch_size)s", "%(max_tokens)s tokens, batch %(batch_size)s"), "max_tokens"
    ),
    "way_out_unload": one(N_("Unload %(model)s (%(owner)s, idle for %(idle_s)s)")),
    "way_out_unload_busy": one(N_("Unload %(model)s (%(owner)s, answers may be cut off)")),
    "way_out_unload_busy_counted": many(
        *NN_(
            "Unload %(model)s (%(owner)s, cutting off %(in_flight)s answer)",
            "Unload %(model)s (%(owner)s, cutting off %(in_flight)s answers)",
        ),
        "in_flight",
    ),
    "way_out_unload_two": one(
        N_(
            "Unload %(model)s (%(owner)s, idle for %(idle_s)s) and %(other_model)s (%(other_owner)s, idle "
            "for %(other_idle_s)s)"
        )
    ),
    "way_out_precision": one(N_("Precision %(precision)s")),
    "way_out_smallest": one(N_("%(precision)s, %(max_tokens)s tokens, batch %(batch_size)s")),
    "advice_free": one(N_("%(free_bytes)s available")),
    "advice_mode_short": one(N_("won’t fit in %(mode)s mode")),
    "advice_precision_short": one(N_("won’t fit in %(precision)s")),
    "advice_tokens_short": many(
        *NN_("not enough memory for %(max_tokens)s token", "not enough memory for %(max_tokens)s tokens"), "max_tokens"
    ),
    "advice_batch_short": one(N_("not enough memory for a batch of %(batch_size)s")),
    "advice_quantized": one(N_("the files are quantized already (%(method)s)")),
    "advice_context": many(
        *NN_("the model supports %(max_tokens)s token", "the model supports %(max_tokens)s tokens"),
        "max_tokens",
    ),
    "advice_nothing": one(
        N_(
            "even this does not fit: it needs %(needed_bytes)s plus a %(reserve_bytes)s reserve, "
            "%(missing_bytes)s short"
        )
    ),
    "advice_vllm_unavailable": one(N_("with this much memory vLLM would be recommended")),
}
