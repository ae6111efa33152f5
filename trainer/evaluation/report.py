"""What metrics.json says of one split: figures overall, for each class, and within each collection."""

from typing import Any

import numpy as np
import pandas as pd

from trainer.evaluation.calibration import calibration_metrics, undo_temperature
from trainer.evaluation.intervals import intervals, proportion
from trainer.evaluation.operating_points import PREVALENCES, decided, operating_point_metrics
from trainer.evaluation.scoring import Scored

UNFAMILIAR = 0.5  # the familiarity below which an image is called unlike the training radiographs


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
    splits = {
        name: split_report(part.rows, part.truth, decided(part.scores, labels, decision), part.scores, labels)
        for name, part in parts.items()
    }
    report: dict[str, Any] = {"schema": 1, "decision": decision, "splits": splits}
    if calibration:
        report["calibration"] = {**calibration, "splits": _calibration(parts, calibration["temperature"])}
    report["operating_points"] = [_operating_point(point, parts, labels, prevalences) for point in points]
    if flagged := _unfamiliar(parts):
        method = "Mahalanobis distance of texture, probabilistic PCA"
        report["familiarity"] = {"method": method, "threshold": UNFAMILIAR, "splits": flagged}
    return report


def _calibration(parts: dict[str, Scored], temperature: float) -> dict[str, Any]:
    """Calibration metrics of each split, before and after temperature scaling."""
    report = {}
    for name, part in parts.items():
        groups, raw = part.rows["group"].to_numpy(), undo_temperature(part.scores, temperature)
        before, after = (calibration_metrics(part.truth, scores, groups) for scores in (raw, part.scores))
        report[name] = {"n": len(part.truth), "before": before, "after": after}
    return report


def _operating_point(
    point: dict[str, Any], parts: dict[str, Scored], labels: tuple[str, ...], prevalences: tuple[float, ...]
) -> dict[str, Any]:
    """An operating point with its metrics on validation and, under `on`, on each split."""
    metrics = {
        name: operating_point_metrics(
            point, part.truth, part.scores, part.rows["group"].to_numpy(), labels, prevalences
        )
        for name, part in parts.items()
    }
    chosen = {key: (metrics.get("validation") or {}).get(key) for key in ("sensitivity", "specificity")}
    return {"split": "validation", **chosen, **point, "on": {name: found for name, found in metrics.items() if found}}


def _unfamiliar(parts: dict[str, Scored]) -> dict[str, Any]:
    """The proportion of each split that is unfamiliar to the model; nothing where it has no familiarity."""
    report = {}
    for name, part in parts.items():
        if part.familiarity is not None:
            everyone, groups = np.ones(len(part.rows), bool), part.rows["group"].to_numpy()
            flagged = proportion(part.familiarity < UNFAMILIAR, everyone, groups)
            report[name] = {"n": len(part.rows), "flagged": flagged}
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
    per_class = {
        label: {"n": int((truth == index).sum()), **full["per_class"][index]} for index, label in enumerate(labels)
    }
    parts = {}
    for name in sorted(set(collections) - {""}):
        inside = collections == name
        part = intervals(truth[inside], decisions[inside], scores[inside], groups[inside])
        sizes = {label: int((truth[inside] == index).sum()) for index, label in enumerate(labels)}
        parts[name] = {
            "n": int(inside.sum()),
            "groups": len(set(groups[inside])),
            "labels": sizes,
            "metrics": part["metrics"],
        }
    return {
        "n": len(rows),
        "groups": len(set(groups)),
        "collections": parts,
        "metrics": full["metrics"],
        "per_class": per_class,
        "confusion": full["confusion"],
    }
