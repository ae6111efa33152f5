"""What metrics.json says of one split: figures overall, for each class, and within each collection."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from trainer.evaluation.calibration import calibration_figures, undo_temperature
from trainer.evaluation.intervals import intervals, share
from trainer.evaluation.points import PREVALENCES, decided, point_figures

UNFAMILIAR = 0.5  # the familiarity below which a picture is called unlike the training radiographs


class Scored(NamedTuple):
    """A split that was scored: manifest rows with group and collection, label indices [N], scores [N, C], familiarity [N]."""

    rows: pd.DataFrame
    truth: np.ndarray
    scores: np.ndarray
    familiarity: np.ndarray | None


def assess(
    parts: dict[str, Scored],
    labels: tuple[str, ...],
    decision: dict[str, Any] | None,
    calibration: dict[str, Any] | None,
    points: list[dict[str, Any]],
    prevalences: tuple[float, ...] = PREVALENCES,
) -> dict[str, Any]:
    """metrics.json from what a model scored.

    Args:
        parts: each split.
        labels: in the order of the scores.
        decision: the operating point that ships, or None where the highest score decides.
        calibration: the model's record of its temperature, which the scores have in them already.
        points: its operating points, chosen on validation.
        prevalences: for predictive values.
    """
    groups = {name: part.rows["group"].to_numpy() for name, part in parts.items()}
    splits = {
        name: split_report(rows, truth, decided(scores, labels, decision), scores, labels)
        for name, (rows, truth, scores, _) in parts.items()
    }
    report: dict[str, Any] = {"schema": 1, "decision": decision, "splits": splits}
    if calibration:
        report["calibration"] = {**calibration, "splits": {}}
        for name, (_, truth, scores, _) in parts.items():
            raw = undo_temperature(scores, calibration["temperature"])
            before, after = (calibration_figures(truth, found, groups[name]) for found in (raw, scores))
            report["calibration"]["splits"][name] = {"n": len(truth), "before": before, "after": after}
    report["operating_points"] = []
    for point in points:
        found = {
            name: point_figures(point, truth, scores, groups[name], labels, prevalences) for name, (_, truth, scores, _) in parts.items()
        }
        chosen = {key: (found.get("validation") or {}).get(key) for key in ("sensitivity", "specificity")}
        report["operating_points"].append(
            {"split": "validation", **chosen, **point, "on": {name: figures for name, figures in found.items() if figures}}
        )
    flagged = {
        name: {"n": len(part.rows), "flagged": share(part.familiarity < UNFAMILIAR, np.ones(len(part.rows), bool), groups[name])}
        for name, part in parts.items()
        if part.familiarity is not None
    }
    if flagged:
        report["familiarity"] = {"method": "Mahalanobis distance of texture, probabilistic PCA", "threshold": UNFAMILIAR, "splits": flagged}
    return report


def split_report(
    rows: pd.DataFrame, truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray, labels: tuple[str, ...]
) -> dict[str, Any]:
    """The figures of one split.

    Args:
        rows: its manifest rows, with `group` and `collection`.
        truth: label indices [N].
        decisions: what the model decides, label indices [N].
        scores: probabilities [N, C].
        labels: in the order of the scores.

    Returns:
        {"n", "groups", "collections", "metrics", "per_class", "confusion"}, each figure with its 95 % interval.
    """
    groups, collections = rows["group"].to_numpy(), rows["collection"].to_numpy()
    full = intervals(truth, decisions, scores, groups)
    per_class = {label: {"n": int((truth == index).sum()), **full["per_class"][index]} for index, label in enumerate(labels)}
    parts = {}
    for name in sorted(set(collections) - {""}):
        inside = collections == name
        part = intervals(truth[inside], decisions[inside], scores[inside], groups[inside])
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
