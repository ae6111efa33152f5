"""What gives the label away besides the lungs: how well a linear model tells it from other features."""

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainer.evaluation.intervals import cross_validated_auroc

FOLDS = 5
WARN = 0.75  # the lower end of an interval above this is a shortcut


def probe_auroc(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> list[dict[str, Any]]:
    """Cross-validated AUROC of each label against the others by logistic regression on `features` [N, D].

    Groups [N] stay on one side of each fold. Of two labels the second is told from the first. A label that fewer groups
    than folds hold, or lack, is left out.

    Returns:
        {"label", "n", "positives", "auroc", "low", "high", "method", "shortcut"} for each label.
    """
    names = sorted(set(labels))
    groups = np.unique(groups, return_inverse=True)[1]
    rows = []
    for label in names[1:] if len(names) == 2 else names:
        truth = labels == label
        if min(len(np.unique(groups[truth])), len(np.unique(groups[~truth]))) < FOLDS:
            continue
        auroc = cross_validated_auroc(truth, *_out_of_fold_scores(features, truth, groups), groups)
        if auroc["value"] is not None:
            row = {"label": label, "n": len(labels), "positives": int(truth.sum()), "auroc": auroc.pop("value")}
            rows.append({**row, **auroc, "shortcut": auroc["low"] > WARN})
    return rows


def _out_of_fold_scores(features: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The score [N] of each image by a model of the other folds, and its fold [N]."""
    splits = list(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(truth, truth, groups))
    folds = np.zeros(len(truth), int)
    for fold, (_, test) in enumerate(splits):
        folds[test] = fold
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", solver="newton-cholesky"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return cross_val_predict(model, features, truth, cv=splits, method="decision_function"), folds
