"""What local films may change of a model of two labels: its threshold; slope and intercept of its scores.

Slope and intercept: Platt, Advances in Large Margin Classifiers (1999) 61, whose smoothed targets are used; the
intercept for another prevalence: Saerens, Neural Computation 14 (2002) 21.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import beta

from trainer.evaluation.operating_points import Aim, choose_threshold

SPREAD = 0.5  # standard deviation of the logarithm of a slope, before films are seen
TINY = 1e-12  # scores are no nearer to 0 and 1


@dataclass(frozen=True)
class Change:
    """The score of the positive label is expit(slope x margin + intercept), the threshold is of that score.

    The margin is the logit of the score before: slope 1 and intercept 0 leave the scores as they are.
    """

    threshold: float
    slope: float = 1.0
    intercept: float = 0.0

    def scores(self, margins: np.ndarray) -> np.ndarray:
        """Scores of the positive label, [N] in 0..1."""
        scores: np.ndarray = expit(self.slope * margins + self.intercept)
        return scores

    def changed(self, score: float) -> float:
        """What a score before is now: also a threshold's."""
        return float(self.scores(np.array(to_margin(score))))

    def with_threshold(self, threshold: float) -> "Change":
        """The same scores, another threshold."""
        return replace(self, threshold=threshold)


def to_margin(scores: np.ndarray | float) -> np.ndarray:
    """Logits of scores in 0..1."""
    margins: np.ndarray = logit(np.clip(scores, TINY, 1 - TINY))
    return margins


def local_aim(sensitivity: float | None, specificity: float | None) -> Aim:
    """What a local threshold is chosen for: one rate as asked for, a sensitivity of .90 by default; the other as high
    as can be.
    """
    if specificity is not None:
        return Aim("local", f"highest sensitivity at specificity >= {specificity:g}", "sensitivity", 0.0, specificity)
    least = 0.9 if sensitivity is None else sensitivity
    return Aim("local", f"highest specificity at sensitivity >= {least:g}", "specificity", least, 0.0)


def fit_threshold(positive: np.ndarray, scores: np.ndarray, aim: Aim) -> float:
    """The threshold for an aim, half-way between two scores, by films that are `positive` bool [N] or healthy, with
    `scores` [N]. Healthy films alone are enough for a specificity.
    """
    if positive.any():
        threshold = choose_threshold(positive, scores, aim, np.zeros(len(scores), str))
        above_all = (float(scores.max()) + 1) / 2  # where healthy films have the highest scores
        return above_all if threshold is None else threshold
    ordered = np.sort(scores)
    below = min(int(np.ceil(aim.specificity * len(ordered) - 1e-9)), len(ordered) - 1)
    return float((ordered[below - 1] + ordered[below]) / 2)


def specificity_to_come(healthy: int, below: int) -> tuple[float, float]:
    """The 95 % interval of a threshold's specificity in films to come, where `below` of so many healthy ones were below
    it: of a proportion between two order statistics (Wilks, Ann. Math. Stat. 12 (1941) 91).
    """
    low, high = beta.ppf((0.025, 0.975), (below, below + 1), (healthy - below + 1, max(healthy - below, 1)))
    return float(low), float(high)


def fit_calibration(margins: np.ndarray, positive: np.ndarray, prevalence: float | None = None) -> Change:
    """Slope and intercept by films with margins [N]; the intercept is that of their own mixture, or of a prevalence.

    The threshold of what is returned is .5.
    """
    share = positive.mean()
    counts = positive.sum(), (~positive).sum()
    targets = np.where(positive, (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2))

    def loss(parameters: np.ndarray) -> float:
        values = np.exp(parameters[0]) * margins + parameters[1]
        entropy = np.logaddexp(0, values) - targets * values
        return float(entropy.sum() + (parameters[0] / SPREAD) ** 2 / 2)

    log_slope, intercept = minimize(loss, np.zeros(2), method="BFGS").x
    shift = 0.0 if prevalence is None else float(logit(prevalence) - logit(share))
    return Change(0.5, float(np.exp(log_slope)), float(intercept + shift))
