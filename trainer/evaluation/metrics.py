"""Metrics of a classifier, without intervals, as a local `evaluate.Metric`: nothing is downloaded."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, roc_auc_score

DESCRIPTION = "Accuracy, balanced accuracy, sensitivity, specificity, precision, F1, AUROC and the confusion matrix."


class Classification(evaluate.Metric):
    """`compute(references=[N], predictions=[N], scores=[N, C])`: see `classification_metrics`."""

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        features = {"references": label, "predictions": label, "scores": datasets.List(datasets.Value("float64"))}
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", features=datasets.Features(features))

    def _compute(self, references: Any, predictions: Any, scores: Any) -> dict[str, Any]:
        return classification_metrics(np.asarray(references), np.asarray(predictions), np.asarray(scores, np.float64))


def classification_metrics(truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Metrics overall and of each label; what is undefined (a label that does not occur) is None.

    `accuracy` alone is of the highest score, as other people publish it; all else follows the decision. With two labels
    `metrics` holds those of the second, the positive one; with more, averages over the labels.

    Args:
        truth: label indices [N].
        decisions: what the model decides, label indices [N].
        scores: probabilities [N, C].

    Returns:
        {"metrics": {name: value}, "per_class": [{name: value}], "confusion": rows of counts, a row a true label}.
    """
    labels = range(scores.shape[1])
    confusion = confusion_matrix(truth, decisions, labels=labels)
    values = confusion_rates(confusion)
    counts = confusion.sum(axis=1)
    values["f1"] = np.where(counts > 0, values["f1"], np.nan)
    aurocs = [
        roc_auc_score(truth == index, scores[:, index]) if 0 < counts[index] < len(truth) else np.nan
        for index in labels
    ]
    values["auroc"] = np.array(aurocs)
    metrics = {"accuracy": accuracy_score(truth, scores.argmax(axis=1))}
    metrics["balanced_accuracy"] = values["sensitivity"].mean()
    if len(labels) == 2:
        metrics |= {name: value[1] for name, value in values.items()}
    else:
        metrics |= {f"macro_{name}": values[name].mean() for name in ("f1", "auroc")}
    per_class = [_defined({name: value[index] for name, value in values.items()}) for index in labels]
    return {"metrics": _defined(metrics), "per_class": per_class, "confusion": confusion.tolist()}


def confusion_rates(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Sensitivity, specificity, precision and F1 of each label, [..., C], of counts [..., C, C] with a row a true
    label; nan where undefined.
    """
    right, actual, decided = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1), confusion.sum(axis=-2)
    negatives = actual.sum(axis=-1, keepdims=True) - actual
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "sensitivity": right / actual,
            "specificity": (negatives - decided + right) / negatives,
            "precision": right / decided,
            "f1": 2 * right / (actual + decided),
        }


def _defined(values: dict[str, Any]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}
