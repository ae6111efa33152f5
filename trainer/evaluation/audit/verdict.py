"""What the metrics of a shortcut audit mean, in words."""

from collections.abc import Sequence
from typing import Any

from hub_cards.formatting import format_metric, format_number
from trainer.evaluation.audit.conditions import CONDITIONS
from trainer.evaluation.probe import WARN

CHANCE = 0.6  # an interval whose lower end is at or below this may be guessing


def verdict(conditions: dict[str, Any], collections: Sequence[dict[str, Any]] = ()) -> dict[str, str]:
    """{"code", "text"}; the codes are `shortcut`, `doubtful`, `lungs` and `nothing`.

    Args:
        conditions: metrics with intervals by condition.
        collections: how well features tell the collections; hidden lungs say nothing of a collection's look inside
            them.
    """
    name = "auroc" if "auroc" in conditions[CONDITIONS[0]] else "macro_auroc"
    whole, hidden, only = (conditions[condition][name] for condition in CONDITIONS[:3])
    if whole["low"] is None or hidden["low"] is None:
        return {"code": "nothing", "text": "One class alone: nothing can be said of what tells the classes apart."}
    if whole["low"] <= CHANCE:
        text = f"This model hardly tells these images apart: AUROC {format_metric(whole)}. No verdict."
        return {"code": "nothing", "text": text}
    if hidden["low"] > WARN or (hidden["low"] > CHANCE >= (only["low"] or 0)):
        code, verb, reading = "shortcut", "still reaches", "it reads the source, not the disease."
    elif hidden["low"] > CHANCE:
        code, verb, reading = "doubtful", "reaches", "part of its answer comes from outside of them."
    elif hidden["high"] > WARN:
        code, verb, reading = "doubtful", "reaches", "too few images for a verdict."
    else:
        reading = f"what it reads lies within them.{_collection_warning(collections)}"
        code, verb = "lungs", "falls to"
    auroc = f"{format_metric(hidden)} (with them {format_metric(whole)}, with nothing else {format_metric(only)})"
    return {"code": code, "text": f"With its lungs hidden this model {verb} AUROC {auroc}: {reading}"}


def _collection_warning(collections: Sequence[dict[str, Any]]) -> str:
    worst = max(collections, key=lambda row: row["low"], default={"low": 0})
    if worst["low"] <= WARN:
        return ""
    auroc = f"{worst['collection']} among {worst['among']} with AUROC {format_number(worst['auroc'])}"
    return f" That may still be a source's look: its features tell {auroc}."
