"""A linear head in closed form on frozen features, whitened by how films without a finding differ.

How films without a finding differ, within a collection and between collections, is no disease. With Z the standardised
features and S the mean over collections (each counts alike) of the covariance of such films, plus the covariance of
their means, a regularised logistic regression is fitted on Z (I + S / a)^-1/2, and the transform is folded into its
weights: what ships is one linear layer. (Within-class covariance normalisation, Hatch et al. 2006; nuisance attribute
projection, Solomonoff et al. 2005; regularised discriminant analysis, Friedman 1989.)
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from trainer.cxr_model import CxrForImageClassification
from trainer.data.labelled import LabelledImages
from trainer.inference import for_inference, run_model
from trainer.recipes import Recipe
from trainer.tasks import is_negative
from trainer.training.checkpoint import Checkpoints, Progress
from trainer.training.feed import PixelFeed
from trainer.training.loop import fit
from trainer.training.monitor import validation_metrics

SAMPLE = 250  # films without a finding of a collection: more change little and cost memory


def fit_recipe(
    accelerator: Accelerator,
    model: CxrForImageClassification,
    feed: PixelFeed,
    labelled: LabelledImages,
    folder: Path,
    cache_bytes: int,
) -> Progress:
    """Train a model by its recipe, or fit its head in closed form; see `training.loop.fit` and `fit_whitened`."""
    if feed.recipe.head == "whitened":
        return fit_whitened(accelerator, model, feed, labelled, folder)
    return fit(accelerator, model, feed, folder, cache_bytes)


def fit_whitened(
    accelerator: Accelerator,
    model: CxrForImageClassification,
    feed: PixelFeed,
    labelled: LabelledImages,
    folder: Path,
) -> Progress:
    """Fit the head of a model on the features of its frozen backbone; features are computed by every process.

    A collection with films of one label alone teaches no label: what tells it from the others would be learned. Its
    films without a finding teach how such films differ.

    Returns:
        The progress of one epoch, whose weights are in `folder`, as `training.loop.fit` leaves them.
    """
    checkpoints, start = Checkpoints(folder), time.perf_counter()
    model.to(accelerator.device, memory_format=torch.channels_last)
    if checkpoints.newest():
        return checkpoints.resume(accelerator, model)
    rows = np.concatenate([feed.data.train, feed.data.validation])
    encoder = for_inference(model, feed.processor)

    def pooled(output: Any) -> torch.Tensor:
        return model.pool(output.maps or [output.feature_map])

    features = run_model(encoder, feed.eval_batch, rows, accelerator, title="features", select=pooled)
    train = feed.data.train
    collections = labelled.rows["collection"].to_numpy()[train]
    weights, bias = fit_views(
        features[: len(train)].numpy(), labelled.truth[train], collections, labelled.task.labels, feed.recipe,
        accelerator.print,
    )  # fmt: skip
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(weights))
        model.classifier.bias.copy_(torch.from_numpy(bias))
        logits = model.classifier(features.to(accelerator.device)).cpu()
    if logits.shape[1] == 1:
        logits = F.pad(logits, (1, 0))
    loss = F.cross_entropy(logits[: len(train)], torch.from_numpy(labelled.truth[train])).item()
    truth = labelled.truth[feed.data.validation]
    row = {"epoch": 1, "train_loss": loss, **validation_metrics(logits[len(train) :], truth, feed.recipe.monitor)}
    progress = Progress()
    progress.record({**row, "lr": 0.0, "seconds": round(time.perf_counter() - start, 3)}, feed.recipe.monitor)
    checkpoints.save(accelerator, model, progress)
    return progress


def fit_views(
    features: np.ndarray,
    truth: np.ndarray,
    collections: np.ndarray,
    labels: tuple[str, ...],
    recipe: Recipe,
    log: Callable[[str], None] = print,
) -> tuple[np.ndarray, np.ndarray]:
    """One head on the features [N, V x F] of all views: the mean of the logits of a head for each.

    Returns:
        weights [K, V x F] and biases [K], float32; K is 1 for two labels.
    """
    teaching = [name for name in sorted(set(collections)) if len(set(truth[collections == name])) > 1]
    if not teaching:
        log("note: no collection has films of two labels: what tells the collections apart is learned too")
    learns = np.isin(collections, teaching) if teaching else np.ones(len(truth), bool)
    negative = next((index for index, label in enumerate(labels) if is_negative(label)), 0)
    order = np.random.default_rng(recipe.seed).permutation(np.flatnonzero(truth == negative))
    healthy = np.concatenate([order[collections[order] == name][:SAMPLE] for name in sorted(set(collections))])
    log(
        f"head: learned from {int(learns.sum())} films of {', '.join(teaching or ['all'])}; whitened by {len(healthy)} "
        f"{labels[negative]} films of {', '.join(sorted(set(collections[healthy])))}"
    )
    views = [
        fit_head(each[learns], truth[learns], each[healthy], collections[healthy], recipe.whitening, recipe.ridge)
        for each in np.split(features, max(1, len(recipe.views)), axis=1)
    ]
    weights = np.concatenate([weight for weight, _ in views], axis=1) / len(views)
    bias = np.mean([bias for _, bias in views], axis=0)
    return weights.astype(np.float32), bias.astype(np.float32)


@dataclass(frozen=True)
class Whitening:
    """(I + S / a)^-1/2 as the identity plus a few directions: x + (x @ axes * factors) @ axes.T."""

    axes: np.ndarray  # [F, k], orthonormal
    factors: np.ndarray  # [k], in -1..0

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features [N, F], or weights [K, F], whitened: the transform is symmetric."""
        return features + (features @ self.axes * self.factors) @ self.axes.T


def fit_whitening(features: np.ndarray, collections: np.ndarray, strength: float) -> Whitening:
    """The whitening by films without a finding: standardised features [N, F] of collections [N]; `strength` is a."""
    names = sorted(set(collections))
    parts, means = [], []
    for name in names:
        own = features[collections == name]
        means.append(own.mean(axis=0))
        parts.append((own - means[-1]) / np.sqrt(len(own) * len(names)))
    parts.append((np.stack(means) - np.mean(means, axis=0)) / np.sqrt(len(names)))
    root = np.concatenate(parts)  # S = root.T @ root
    values, vectors = np.linalg.eigh(root @ root.T)
    kept = values > 1e-6 * values.max()
    values = values[kept]
    axes = root.T @ vectors[:, kept] / np.sqrt(values)
    return Whitening(axes, 1 / np.sqrt(1 + values / strength) - 1)


def fit_head(
    features: np.ndarray, truth: np.ndarray, whitening: np.ndarray, collections: np.ndarray, a: float, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """A head on features [N, F] of one view with label indices [N].

    Args:
        whitening: features of films without a finding [M, F], of `collections` [M].
        ridge: of the logistic regression; its C is 1 / (F x ridge).

    Returns:
        weights [K, F] and biases [K]: K is 1 for two labels.
    """
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-3
    transform = fit_whitening((whitening - mean) / std, collections, a)
    model = LogisticRegression(C=1 / (features.shape[1] * ridge), max_iter=1000)
    model.fit(transform((features - mean) / std), truth)
    weights = transform(model.coef_) / std
    return weights, model.intercept_ - weights @ mean
