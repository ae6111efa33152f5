"""How far scores can be taken at their word: temperature scaling, and what it changes.

Temperature: Guo et al., ICML 2017, arXiv:1706.04599. Calibration error with bins of equal mass: Nguyen and O'Connor,
EMNLP 2015, arXiv:1508.05154.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from trainer.evaluation.intervals import spread

BINS = 15
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The T for which softmax(logits / T) has the lowest negative log-likelihood; logits [N, C], label indices [N]."""

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(truth)), truth].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded").x))


def undo_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """The scores [N, C] that a model gave before its temperature was folded in."""
    return softmax(temperature * np.log(scores.clip(np.finfo(np.float64).tiny)), axis=1)


def calibration_figures(truth: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """`ece` (15 bins of equal mass on the highest score), `brier` (summed over the labels) and `nll`, each with its interval."""
    place = np.arange(len(truth))
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == truth
    squared = ((scores - np.eye(scores.shape[1])[truth]) ** 2).sum(axis=1)
    surprise = -np.log(scores[place, truth].clip(np.finfo(np.float64).tiny))
    bins = equal_mass_bins(confidence)
    gaps = np.eye(bins.max() + 1)[bins] * (confidence - right)[:, None]
    return {
        "ece": spread(lambda weights: np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1), groups),
        "brier": spread(lambda weights: weights @ squared / weights.sum(axis=1), groups),
        "nll": spread(lambda weights: weights @ surprise / weights.sum(axis=1), groups),
    }


def equal_mass_bins(values: np.ndarray) -> np.ndarray:
    """The bin [N] of each value: as many values in each bin as can be, ties together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    found = np.searchsorted(edges, values, side="right")
    return np.unique(found, return_inverse=True)[1]
