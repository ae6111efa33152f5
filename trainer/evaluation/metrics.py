"""Metrics of a classifier, without intervals: a local `evaluate.Metric`, and the same of weighted images.

Undefined values are nan.
"""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]  # of weights [R, N]: [R]


class Classification(evaluate.Metric):
    """`compute(references=[N], predictions=[N], scores=[N, C])`: `weighted_metrics` where each image counts once."""

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        features = {"references": label, "predictions": label, "scores": datasets.List(datasets.Value("float64"))}
        about = {"description": "Accuracy, sensitivity, specificity, precision, F1, AUROC, confusion", "citation": ""}
        return evaluate.MetricInfo(features=datasets.Features(features), **about)

    def _compute(self, references: Any, predictions: Any, scores: Any) -> dict[str, np.ndarray]:
        truth, decisions, scores = np.asarray(references), np.asarray(predictions), np.asarray(scores, np.float64)
        return weighted_metrics(truth, decisions, scores, np.ones((1, len(truth))))


def weighted_metrics(
    truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Each metric of label indices [N] and scores [N, C] for each row of `weights` [R, N]: [R], or [R, C] where labels
    have their own; and `confusion` [R, C, C], a row a true label.

    `accuracy` alone is of the highest score, as other people publish it; all else but the AUROC follows the decision.
    """
    classes = scores.shape[1]
    cells = np.eye(classes**2)[truth * classes + decisions]
    confusion = (weights @ cells).reshape(-1, classes, classes)
    metrics = confusion_rates(confusion)
    areas = [weighted_auroc(truth == label, scores[:, label], weights) for label in range(classes)]
    metrics["auroc"] = np.stack(areas, axis=1)
    metrics["accuracy"] = weighted_mean(truth == scores.argmax(axis=1))(weights)
    metrics["balanced_accuracy"] = metrics["sensitivity"].mean(axis=1)
    metrics |= {f"macro_{name}": metrics[name].mean(axis=1) for name in ("f1", "auroc")}
    return {**metrics, "confusion": confusion}


def confusion_rates(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics [..., C] of each label that follow from counts [..., C, C] with a row a true label."""
    right, actual, decided = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1), confusion.sum(axis=-2)
    negatives = actual.sum(axis=-1, keepdims=True) - actual
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "sensitivity": right / actual,
            "specificity": (negatives - decided + right) / negatives,
            "precision": right / decided,
            "f1": np.where(actual > 0, 2 * right / (actual + decided), np.nan),
        }


def weighted_pairs(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted (case, control) pairs ordered right, ties one half, and all pairs, by row of `weights` [R, N]."""
    order = np.argsort(scores, kind="stable")
    positive, scores, weights = positive[order], scores[order], weights[:, order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    cases = np.add.reduceat(weights * positive, starts, axis=1)
    controls = np.add.reduceat(weights * ~positive, starts, axis=1)
    below = np.cumsum(controls, axis=1) - controls
    return (cases * (below + controls / 2)).sum(axis=1), cases.sum(axis=1) * controls.sum(axis=1)


def weighted_auroc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The AUROC for each row of `weights` [R, N]."""
    right, every = weighted_pairs(positive, scores, weights)
    return np.divide(right, every, out=np.full(len(every), np.nan), where=every > 0)


def weighted_mean(values: np.ndarray) -> Statistic:
    """The mean of `values` [N] as a statistic."""
    return lambda weights: weights @ values / weights.sum(axis=1)
