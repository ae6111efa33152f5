"""How far scores can be taken at their word: temperature scaling, and what it changes.

Temperature: Guo et al., ICML 2017, arXiv:1706.04599; its smoothed targets: Platt, Advances in Large Margin Classifiers
(1999) 61, here for any number of labels. Calibration error with bins of equal mass: Nguyen and O'Connor,
EMNLP 2015, arXiv:1508.05154.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from trainer.evaluation.intervals import bootstrap_interval
from trainer.evaluation.metrics import weighted_mean

BINS = 15
BOUNDS = np.log([0.05, 20.0])  # of log T


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The T for which softmax(logits [N, C] / T) has the lowest cross-entropy to smoothed targets of label indices [N].

    Without smoothing, images that are all answered right would have the lowest T there is.
    """
    classes = logits.shape[1]
    counts = np.bincount(truth, minlength=classes)[truth][:, None]
    targets = (np.eye(classes)[truth] * counts + 1) / (counts + classes)

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=BOUNDS, method="bounded").x))


def undo_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """The scores [N, C] that a model gave before its temperature was folded in."""
    return softmax(temperature * np.log(scores.clip(np.finfo(np.float64).tiny)), axis=1)


def calibration_metrics(truth: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """`ece` (of the highest score, <= 1), `brier` (summed over the labels, <= 2) and `nll`, with intervals."""
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == truth
    squared = ((scores - np.eye(scores.shape[1])[truth]) ** 2).sum(axis=1)
    surprise = -np.log(scores[np.arange(len(truth)), truth].clip(np.finfo(np.float64).tiny))
    bins = equal_mass_bins(confidence)
    gaps = np.eye(bins.max() + 1)[bins] * (confidence - right)[:, None]
    return {
        "ece": bootstrap_interval(
            lambda weights: np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1), groups, 1.0
        ),
        "brier": bootstrap_interval(weighted_mean(squared), groups, 2.0),
        "nll": bootstrap_interval(weighted_mean(surprise), groups),
    }


def equal_mass_bins(values: np.ndarray) -> np.ndarray:
    """The bin [N] of each value: as many values in each bin as can be, ties together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1]
