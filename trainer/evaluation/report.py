"""What metrics.json says of one split: figures overall, for each class, and within each collection."""

from typing import Any

import numpy as np
import pandas as pd

from trainer.evaluation.intervals import intervals
from trainer.evaluation.metrics import classification_figures


def split_report(rows: pd.DataFrame, truth: np.ndarray, scores: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """The figures of one split.

    Args:
        rows: its manifest rows, with `group` and `collection`.
        truth: label indices [N].
        scores: probabilities [N, C].
        labels: in the order of the scores.

    Returns:
        {"n", "groups", "collections", "metrics", "per_class", "confusion"}, each figure with its 95 % interval.
    """
    groups, collections = rows["group"].to_numpy(), rows["collection"].to_numpy()
    full = _figures(truth, scores, groups)
    per_class = {label: {"n": int((truth == index).sum()), **full["per_class"][index]} for index, label in enumerate(labels)}
    parts = {}
    for name in sorted(set(collections) - {""}):
        inside = collections == name
        part = _figures(truth[inside], scores[inside], groups[inside])
        sizes = {label: int((truth[inside] == index).sum()) for index, label in enumerate(labels)}
        parts[name] = {"n": int(inside.sum()), "groups": len(set(groups[inside])), "labels": sizes, "metrics": part["metrics"]}
    return {
        "n": len(rows),
        "groups": len(set(groups)),
        "collections": parts,
        "metrics": full["metrics"],
        "per_class": per_class,
        "confusion": full["confusion"],
    }


def _figures(truth: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    return intervals(truth, scores, groups, classification_figures(truth, scores))
