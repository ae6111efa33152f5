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
    name = auroc_name(conditions)
    whole, hidden, only = (conditions[condition][name] for condition in CONDITIONS[:3])
    if whole["low"] is None or hidden["low"] is None:
        return _said("nothing", "One class alone: nothing can be said of what tells the classes apart.")
    if whole["low"] <= CHANCE:
        return _said(
            "nothing", f"This model hardly tells these images apart: AUROC {format_metric(whole)}. No verdict."
        )
    aurocs = (
        f"AUROC {format_metric(hidden)} (with them {format_metric(whole)}, with nothing else {format_metric(only)})"
    )
    if hidden["low"] > WARN or (hidden["low"] > CHANCE >= (only["low"] or 0)):
        reading = "it reads the source, not the disease."
        return _said("shortcut", f"With its lungs hidden this model still reaches {aurocs}: {reading}")
    if hidden["low"] > CHANCE:
        reading = "part of its answer comes from outside of them."
        return _said("doubtful", f"With its lungs hidden this model reaches {aurocs}: {reading}")
    if hidden["high"] > WARN:
        return _said("doubtful", f"With its lungs hidden this model reaches {aurocs}: too few images for a verdict.")
    reading = f"what it reads lies within them.{_collection_warning(collections)}"
    return _said("lungs", f"With its lungs hidden this model falls to {aurocs}: {reading}")


def _collection_warning(collections: Sequence[dict[str, Any]]) -> str:
    worst = max(collections, key=lambda row: row["low"], default={"low": 0})
    if worst["low"] <= WARN:
        return ""
    auroc = f"{worst['collection']} among {worst['among']} with AUROC {format_number(worst['auroc'])}"
    return f" That may still be a source's look: its features tell {auroc}."


def _said(code: str, text: str) -> dict[str, str]:
    return {"code": code, "text": text}


def auroc_name(conditions: dict[str, Any]) -> str:
    """Of two labels the AUROC, of more the mean of each against the others."""
    return "auroc" if "auroc" in conditions[CONDITIONS[0]] else "macro_auroc"
