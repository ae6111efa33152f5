"""What gives the label away besides the lungs: how well a simple model tells it from the border or from global statistics."""

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainer.evaluation.intervals import delong

FOLDS = 5
WARN = 0.75  # the lower end of an interval above this is a shortcut


def tell_apart(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> list[dict[str, Any]]:
    """Cross-validated AUROC of each label against the others by logistic regression on `features` [N, D].

    Groups stay on one side of each fold. With two labels the second is told from the first. A label with fewer groups than
    folds is left out.

    Returns:
        {"label", "n", "positives", "auroc", "low", "high", "method", "shortcut"} for each label.
    """
    names = sorted(set(labels))
    groups = np.unique(groups, return_inverse=True)[1]  # numbers: scikit-learn compares names one by one
    found = []
    for label in names[1:] if len(names) == 2 else names:
        truth = labels == label
        if min(len(np.unique(groups[truth])), len(np.unique(groups[~truth]))) < FOLDS:
            continue
        scores = np.zeros(len(labels))
        for train, test in GroupKFold(FOLDS, shuffle=True, random_state=0).split(features, truth, groups):
            model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", solver="newton-cholesky"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(features[train], truth[train])
            scores[test] = model.decision_function(features[test])
        low, high, method = delong(truth, scores)
        row = {"label": label, "n": len(labels), "positives": int(truth.sum()), "auroc": float(roc_auc_score(truth, scores))}
        found.append({**row, "low": low, "high": high, "method": method, "shortcut": low > WARN})
    return found
