"""What local films may change of a model: its threshold; slope and intercepts of its scores; its last layer.

Slope and intercepts: Platt, Advances in Large Margin Classifiers (1999) 61, whose smoothed targets are used, and for
more labels Alexandari et al., arXiv:1901.06852 (one slope, an intercept a label); the intercept for another prevalence:
Saerens, Neural Computation 14 (2002) 21. The last layer: a logistic regression on the features that starts from the
model's own scores, so that few films change it little.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import beta

from trainer.evaluation.operating_points import Aim, choose_threshold

SPREAD = 0.5  # standard deviation of the logarithm of a slope, before films are seen
RIDGE = 0.3  # of the last layer's change, on features of variance 1 / F
FLAT = 1e-2  # of intercepts: they are nearly free
TINY = 1e-12  # scores are no nearer to 0 and 1


@dataclass(frozen=True)
class Films:
    """Local films as the model sees them: log scores [N, C], label indices [N], groups (patients) [N], which stay on
    one side of a fold, and what its last layer is given, [N, F].
    """

    logits: np.ndarray
    truth: np.ndarray
    groups: np.ndarray
    features: np.ndarray

    @property
    def positive(self) -> np.ndarray:
        """Of two labels, which films have the second, bool [N]."""
        return self.truth == 1

    def take(self, rows: np.ndarray) -> "Films":
        """Some of them."""
        return Films(self.logits[rows], self.truth[rows], self.groups[rows], self.features[rows])


@dataclass(frozen=True)
class Change:
    """New scores are softmax(slope x log scores + intercepts + features @ head.T); of two labels the second is decided
    from a threshold on, of more the one with the highest score.
    """

    threshold: float | None
    intercepts: np.ndarray  # [C], the first 0
    slope: float = 1.0
    head: np.ndarray | None = None  # [C, F]

    def scores(self, films: Films) -> np.ndarray:
        """Scores [N, C] in 0..1."""
        logits = self.slope * films.logits + self.intercepts
        return softmax(logits if self.head is None else logits + films.features @ self.head.T, axis=1)

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """Label indices [N] of scores [N, C]."""
        decided = scores.argmax(axis=1) if self.threshold is None else scores[:, 1] >= self.threshold
        return decided.astype(np.int64)

    def changed(self, score: float) -> float:
        """Of two labels and the same head: what a score of the second is now; also a threshold."""
        return float(expit(self.slope * logit(np.clip(score, TINY, 1 - TINY)) + self.intercepts[1]))


def to_logits(scores: np.ndarray) -> np.ndarray:
    """Logarithms of scores [N, C] in 0..1."""
    return np.log(np.clip(scores, TINY, 1))


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


def move_prevalence(scores: np.ndarray, share: float, prevalence: float) -> np.ndarray:
    """Scores of the second of two labels, [N], of a mixture with a share of it as those for a prevalence."""
    return expit(logit(np.clip(scores, TINY, 1 - TINY)) + logit(prevalence) - logit(share))


def fit_calibration(films: Films, prevalence: float | None = None) -> Change:
    """One slope and an intercept a label; they are those of the films' own mixture or, of two labels, of a prevalence.

    The threshold of two labels is .5 after it. Labels without films keep their place among the others.
    """
    slope, intercepts, _ = _fit(films, np.zeros((len(films.truth), 0)))
    return _calibrated(films, slope, intercepts, prevalence)


def fit_head(films: Films, prevalence: float | None = None) -> Change:
    """Slope and intercepts, and a change of the last layer, fitted together on standardised features.

    Features are divided by their standard deviation within a label. Few films measure that badly, so each variance is
    averaged with the median feature's.
    """
    centre, variance = films.features.mean(axis=0), np.zeros(films.features.shape[1])
    for label in np.unique(films.truth):
        own = films.features[films.truth == label]
        variance += ((own - own.mean(axis=0)) ** 2).sum(axis=0) / len(films.truth)
    scale = np.sqrt((variance + np.median(variance)) / 2 + TINY) * np.sqrt(len(variance))
    standard = (films.features - centre) / scale
    values, vectors = np.linalg.eigh(standard @ standard.T)  # as many directions as films
    kept = values > 1e-6 * values.max()
    root = np.sqrt(values[kept])
    slope, intercepts, weights = _fit(films, vectors[:, kept] * root)
    head = (standard.T @ (vectors[:, kept] / root) @ weights).T / scale
    return replace(_calibrated(films, slope, intercepts - head @ centre, prevalence), head=head)


def _calibrated(films: Films, slope: float, intercepts: np.ndarray, prevalence: float | None) -> Change:
    two = films.logits.shape[1] == 2
    if prevalence is not None:
        intercepts = intercepts + np.array([0.0, logit(prevalence) - logit(films.positive.mean())])
    return Change(0.5 if two else None, intercepts - intercepts[0], slope)


def _fit(films: Films, directions: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Slope, intercepts [C] and weights [r, C] of `directions` [N, r], by penalised likelihood of smoothed targets."""
    present, index = np.unique(films.truth, return_inverse=True)
    count, labels = directions.shape[1], len(present)
    sizes = np.bincount(index)
    targets = np.repeat(1 / (sizes[index] + labels), labels).reshape(-1, labels)
    targets[np.arange(len(index)), index] = (sizes[index] + 1) / (sizes[index] + labels)
    logits = films.logits[:, present]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, intercepts = np.exp(parameters[0]), parameters[1 : 1 + labels]
        weights = parameters[1 + labels :].reshape(count, labels)
        logs = log_softmax(slope * logits + intercepts + directions @ weights, axis=1)
        penalty = (parameters[0] / SPREAD) ** 2 + FLAT * (intercepts**2).sum() + RIDGE * (weights**2).sum()
        gaps = np.exp(logs) - targets
        of_slope = slope * (gaps * logits).sum() + parameters[0] / SPREAD**2
        of_weights = directions.T @ gaps + RIDGE * weights
        gradient = np.concatenate([[of_slope], gaps.sum(axis=0) + FLAT * intercepts, of_weights.ravel()])
        return float(penalty / 2 - (targets * logs).sum()), gradient

    solution: Any = minimize(loss, np.zeros(1 + labels + count * labels), jac=True, method="L-BFGS-B").x
    intercepts = np.full(films.logits.shape[1], solution[1 : 1 + labels].mean())
    intercepts[present] = solution[1 : 1 + labels]
    weights = np.zeros((count, films.logits.shape[1]))
    weights[:, present] = solution[1 + labels :].reshape(count, labels)
    return float(np.exp(solution[0])), intercepts, weights
