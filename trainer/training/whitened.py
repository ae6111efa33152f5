"""A linear head in closed form on frozen features, whitened by how films without a finding differ.

How films without a finding differ, within a collection and between collections, is no disease: a regularised
logistic regression is fitted on standardised features that are whitened by them, and the transform is folded into its
weights, so that what ships is one linear layer. Where lesions are known, a lesion head is fitted beside it.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight
from torch.nn import functional as F

from trainer.cxr_model import CxrForImageClassification
from trainer.data.annotations import Masks
from trainer.data.labelled import LabelledImages
from trainer.inference import for_inference, run_model
from trainer.recipes import Recipe
from trainer.tasks import is_negative
from trainer.training.checkpoint import Checkpoints, Progress
from trainer.training.feed import PixelFeed
from trainer.training.lesions import FILMS, fit_lesions, select_cells
from trainer.training.monitor import validation_metrics
from trainer.training.whitening import fit_whitening

SAMPLE = 250  # films without a finding of a collection: more change little and cost memory


def fit_whitened(
    accelerator: Accelerator,
    model: CxrForImageClassification,
    feed: PixelFeed,
    labelled: LabelledImages,
    lesions: Masks,
    folder: Path,
) -> Progress:
    """Fit the head of a model on the features of its frozen backbone; features are computed by every process.

    Each label of each collection counts alike. A collection with films of one label alone teaches no label: what tells
    it from the others would be learned. Its films without a finding teach how such films differ.

    Args:
        lesions: where lesions are, by row number, for a model with a lesion head.

    Returns:
        The progress of one epoch, whose weights are in `folder`, as `training.loop.fit` leaves them.
    """
    checkpoints, start = Checkpoints(folder), time.perf_counter()
    model.to(accelerator.device, memory_format=torch.channels_last)
    if checkpoints.newest():
        return checkpoints.resume(accelerator, model)
    train, validation, recipe = feed.data.train, feed.data.validation, feed.recipe
    encoder = for_inference(model, feed.processor)  # its head is not fitted yet: for features and cells alone
    compute = partial(run_model, encoder, feed.eval_batch, accelerator=accelerator)
    features = compute(np.concatenate([train, validation]), title="features", select=partial(_pool, model))
    truth, collections = labelled.truth[train], labelled.rows["collection"].to_numpy(str)[train]
    healthy = sample_healthy(truth, collections, labelled.task.labels, recipe.seed)
    fitted = fit_views(features[: len(train)].numpy(), truth, collections, healthy, recipe, accelerator.print)
    logits = _apply(model, fitted, features)
    loss, validated = F.cross_entropy(logits[: len(train)], torch.from_numpy(truth)).item(), logits[len(train) :]
    if model.lesions is not None:
        few = few_of_each(healthy, collections[healthy], FILMS)
        cells = partial(compute, title="cells", select=partial(select_cells, model))
        fit_lesions(model, cells, lesions, train[few], collections[few], logits[few], recipe)
        whole = for_inference(model, feed.processor)
        validated = run_model(whole, feed.eval_batch, validation, accelerator, title="validation")
    metrics = validation_metrics(validated, labelled.truth[validation], recipe.monitor)
    seconds = round(time.perf_counter() - start, 3)
    progress = Progress()
    progress.record({"epoch": 1, "train_loss": loss, **metrics, "lr": 0.0, "seconds": seconds}, recipe.monitor)
    checkpoints.save(accelerator, model, progress)
    return progress


def _pool(model: CxrForImageClassification, output: Any) -> torch.Tensor:
    return model.pool(output.maps or [output.feature_map])


def _apply(
    model: CxrForImageClassification, fitted: tuple[np.ndarray, np.ndarray], features: torch.Tensor
) -> torch.Tensor:
    """Put weights and biases into a model's last layer: its logits [N, C] of features."""
    with torch.no_grad():
        for parameter, values in zip((model.classifier.weight, model.classifier.bias), fitted, strict=True):
            parameter.copy_(torch.from_numpy(values))
        logits = model.classifier(features.to(model.device)).cpu()
    return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits


def sample_healthy(truth: np.ndarray, collections: np.ndarray, labels: tuple[str, ...], seed: int) -> np.ndarray:
    """Of training films with label indices [N], the numbers of at most SAMPLE without a finding of each collection."""
    negative = next((index for index, label in enumerate(labels) if is_negative(label)), 0)
    numbers = np.random.default_rng(seed).permutation(np.flatnonzero(truth == negative))
    return few_of_each(numbers, collections[numbers], SAMPLE)


def few_of_each(numbers: np.ndarray, collections: np.ndarray, most: int) -> np.ndarray:
    """The first `most` numbers of each collection."""
    return np.concatenate([numbers[collections == name][:most] for name in sorted(set(collections))])


def fit_views(
    features: np.ndarray,
    truth: np.ndarray,
    collections: np.ndarray,
    healthy: np.ndarray,
    recipe: Recipe,
    log: Callable[[str], None] = print,
) -> tuple[np.ndarray, np.ndarray]:
    """One head on the features [N, V x F] of all views: the mean of the logits of a head for each.

    Args:
        healthy: the numbers of the films without a finding that whiten.

    Returns:
        weights [K, V x F] and biases [K], float32; K is 1 for two labels.
    """
    teaching = [name for name in sorted(set(collections)) if len(set(truth[collections == name])) > 1]
    if not teaching:
        log("note: no collection has films of two labels: what tells the collections apart is learned too")
    learns = np.isin(collections, teaching) if teaching else np.ones(len(truth), bool)
    learned = f"{int(learns.sum())} films{_of(teaching)}"
    log(f"head: learned from {learned}; whitened by {len(healthy)} without a finding{_of(set(collections[healthy]))}")
    counted = count_alike(truth[learns], collections[learns])
    views = [
        fit_head(each[learns], truth[learns], counted, each[healthy], collections[healthy], recipe)
        for each in np.split(features, max(1, len(recipe.views)), axis=1)
    ]
    weights = np.concatenate([weight for weight, _ in views], axis=1) / len(views)
    bias = np.mean([bias for _, bias in views], axis=0)
    return weights.astype(np.float32), bias.astype(np.float32)


def _of(collections: Iterable[str]) -> str:
    names = ", ".join(sorted(filter(None, collections)))
    return f" of {names}" if names else ""


def fit_head(
    features: np.ndarray,
    truth: np.ndarray,
    counted: np.ndarray,
    whitening: np.ndarray,
    collections: np.ndarray,
    recipe: Recipe,
) -> tuple[np.ndarray, np.ndarray]:
    """A head on features [N, F] of one view with label indices [N], each film with the sample weight `counted` [N].

    Args:
        whitening: features of films without a finding [M, F], of `collections` [M].
        recipe: its `ridge` is that of the logistic regression, whose C is 1 / (F x ridge).

    Returns:
        weights [K, F] and biases [K]: K is 1 for two labels.
    """
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-3
    transform = fit_whitening((whitening - mean) / std, collections, recipe.whitening)
    model = LogisticRegression(C=1 / (features.shape[1] * recipe.ridge), max_iter=1000)
    model.fit(transform((features - mean) / std), truth, sample_weight=counted)
    weights = transform(model.coef_) / std
    return weights, model.intercept_ - weights @ mean


def count_alike(truth: np.ndarray, collections: np.ndarray) -> np.ndarray:
    """How much each film counts, [N], so that each label of each collection counts alike; the mean is 1."""
    cells = [f"{collection}/{label}" for collection, label in zip(collections, truth, strict=True)]
    return np.asarray(compute_sample_weight("balanced", cells))
