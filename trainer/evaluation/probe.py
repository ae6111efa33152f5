"""What gives the label away besides the lungs: how well a simple model tells it from the border or from global
statistics.
"""

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainer.evaluation.intervals import cross_validated_auroc

FOLDS = 5
WARN = 0.75  # the lower end of an interval above this is a shortcut


def probe_auroc(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> list[dict[str, Any]]:
    """Cross-validated AUROC of each label against the others by logistic regression on `features` [N, D].

    Groups stay on one side of each fold and those that hold the label are spread evenly; scores are compared within
    folds alone, as models of different folds differ; the interval resamples groups. With two labels the second is told
    from the first. A label that fewer groups than folds hold, or lack, is left out.

    Returns:
        {"label", "n", "positives", "auroc", "low", "high", "method", "shortcut"} for each label.
    """
    names = sorted(set(labels))
    groups = np.unique(groups, return_inverse=True)[1]
    found = []
    for label in names[1:] if len(names) == 2 else names:
        truth = labels == label
        if min(len(np.unique(groups[truth])), len(np.unique(groups[~truth]))) < FOLDS:
            continue
        folds = _folds(truth, groups)
        area = cross_validated_auroc(truth, _out_of_fold_scores(features, truth, folds), folds, groups)
        if area["value"] is not None:
            row = {"label": label, "n": len(labels), "positives": int(truth.sum()), "auroc": area["value"]}
            found.append(
                {**row, **{key: area[key] for key in ("low", "high", "method")}, "shortcut": area["low"] > WARN}
            )
    return found


def _folds(truth: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The fold [N] of each image: groups whole, cases spread evenly."""
    folds = np.zeros(len(truth), int)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for fold, (_, test) in enumerate(splitter.split(truth, truth, groups)):
        folds[test] = fold
    return folds


def _out_of_fold_scores(features: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The score [N] of each image by a model of the other folds; 0 where these hold one class."""
    scores = np.zeros(len(truth))
    for fold in range(FOLDS):
        train = folds != fold
        if 0 < truth[train].sum() < train.sum():
            model = make_pipeline(
                StandardScaler(), LogisticRegression(class_weight="balanced", solver="newton-cholesky")
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(features[train], truth[train])
            scores[~train] = model.decision_function(features[~train])
    return scores
