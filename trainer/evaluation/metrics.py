"""Figures of a classifier, as a local `evaluate.Metric`: nothing is downloaded, scikit-learn computes, in float64."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_auc_score,
)

DESCRIPTION = "Accuracy, balanced accuracy, sensitivity, specificity, precision, F1, AUROC and the confusion matrix."


class Classification(evaluate.Metric):
    """`compute(references=[N], predictions=[N], scores=[N, C] probabilities)` -> {"metrics", "per_class", "confusion"}.

    References and predictions are label indices; predictions are what the model decides, at the threshold that ships.
    `accuracy` alone is of the argmax, as other people publish it; all else follows the decision. With two classes the
    figures of `metrics` are those of the second, the positive one; with more they are averages over the classes. What
    is undefined (a class that does not occur) is None.
    """

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        features = {"references": label, "predictions": label, "scores": datasets.List(datasets.Value("float64"))}
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", features=datasets.Features(features))

    def _compute(self, references: Any, predictions: Any, scores: Any) -> dict[str, Any]:
        truth, predicted, probabilities = (
            np.asarray(references),
            np.asarray(predictions),
            np.asarray(scores, np.float64),
        )
        classes = probabilities.shape[1]
        confusion = confusion_matrix(truth, predicted, labels=range(classes))
        per_class = _per_class(truth, predicted, probabilities, confusion)
        present = confusion.sum(axis=1) > 0
        metrics = {
            "accuracy": accuracy_score(truth, probabilities.argmax(axis=1)),
            "balanced_accuracy": balanced_accuracy_score(truth, predicted) if present.all() else None,
        }
        if classes == 2:
            metrics |= per_class[1]
        else:
            for name, average in (("f1", "macro_f1"), ("auroc", "macro_auroc")):
                values = [figures[name] for figures in per_class]
                metrics[average] = None if None in values else float(np.mean(np.asarray(values, np.float64)))
        return {"metrics": metrics, "per_class": per_class, "confusion": confusion.tolist()}


def classification_metrics(truth: np.ndarray, decisions: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """The point figures of `Classification` for label indices [N], decided ones [N] and scores [N, C]."""
    return Classification(keep_in_memory=True).compute(references=truth, predictions=decisions, scores=scores)


def _per_class(
    truth: np.ndarray, predicted: np.ndarray, scores: np.ndarray, confusion: np.ndarray
) -> list[dict[str, float | None]]:
    classes = range(len(confusion))
    precision, sensitivity, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=classes, zero_division=np.nan
    )
    rows = []
    for index in classes:
        negatives = truth != index
        figures = {
            "sensitivity": sensitivity[index] if support[index] else None,
            "specificity": (predicted[negatives] != index).mean() if negatives.any() else None,
            "precision": precision[index],
            "f1": f1[index] if support[index] else None,
            "auroc": roc_auc_score(~negatives, scores[:, index]) if negatives.any() and support[index] else None,
        }
        rows.append(
            {name: None if value is None or np.isnan(value) else float(value) for name, value in figures.items()}
        )
    return rows
