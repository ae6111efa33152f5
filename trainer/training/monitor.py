"""What is watched while a model trains: the validation metric that stops and picks, and a loss that does not fall."""

from itertools import pairwise

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch.nn import functional as F

from trainer.recipes import Recipe

NEAR_CHANCE = 0.98  # a training loss above this share of chance's has learned nothing


def validation_metrics(logits: torch.Tensor, truth: np.ndarray, monitor: str) -> dict[str, float]:
    """Loss, accuracy and the monitored metric of logits [N, C] and label indices [N].

    `auroc` is of the second of two labels, and else the mean over labels, each against the rest.
    """
    targets = torch.from_numpy(truth)
    accuracy = (logits.argmax(1) == targets).double().mean().item()
    metrics = {"validation_loss": F.cross_entropy(logits, targets).item(), "validation_accuracy": accuracy}
    if monitor == "auroc" and np.isfinite(metrics["validation_loss"]):
        scores = logits.double().softmax(dim=1).numpy()
        metrics["validation_auroc"] = float(roc_auc_score(np.eye(scores.shape[1])[truth], scores))
    if monitor == "balanced_accuracy":
        metrics["validation_balanced_accuracy"] = float(balanced_accuracy_score(truth, logits.argmax(1).numpy()))
    return metrics


def chance_loss(truth: np.ndarray, weights: list[float] | None, labels: int) -> float:
    """The lowest weighted cross-entropy that one answer for all images can have: of the classes' weighted shares.

    Args:
        truth: label indices [N] of the training images.
        weights: one loss weight a label, or None.
        labels: how many there are.
    """
    mass = np.bincount(truth, minlength=labels) * np.asarray(weights or [1.0] * labels)
    mass = mass[mass > 0]
    return float((mass * np.log(mass.sum() / mass)).sum() / len(truth))


def chance_warning(recipe: Recipe, history: list[dict[str, float]], chance: float) -> str | None:
    """A warning if the last two epochs learned nothing and no two before them did: it is given once per training, also
    across --resume. Else None.
    """
    stuck = [row["train_loss"] > NEAR_CHANCE * chance for row in history]
    pairs = [first and second for first, second in pairwise(stuck)]
    if not pairs or not pairs[-1] or any(pairs[:-1]):
        return None
    cures = [f"a lower rate (--set learning_rate={recipe.learning_rate / 10:g})"]
    if recipe.batch_norm == "frozen" and recipe.unfreeze != "none":
        cures.append("BatchNorm statistics that follow the images (--set batch_norm=moving)")
    problem = f"the training loss stays at chance ({history[-1]['train_loss']:.4f}, guessing has {chance:.4f})"
    return f"warning: {problem}: nothing is learned; try {' or '.join(cures)}"
