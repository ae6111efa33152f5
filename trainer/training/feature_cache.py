"""The feature cache: activations of the frozen layers of a network for each image and view, computed once.

A recipe that freezes a prefix of its network runs that prefix once an image and view, keeps what the first trained
layer would be given, and trains the rest on that. The trained function, its order of samples and its views are those of
a training without a cache.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from trainer.cxr_model import CxrForImageClassification
from trainer.errors import WorkError
from trainer.inference import prefetch, to_device
from trainer.recipes import Recipe, to_json
from trainer.training.augment import PARAMETERS, draw_parameters, parameters_for_epoch
from trainer.training.feed import PixelFeed, TrainingData
from trainer.training.fused import fuse
from trainer.training.split_point import activations_before, find_split_point

FLIP = 2  # the augmentation parameter that decides about mirroring
BATCH = 64
ALLOCATE = getattr(os, "posix_fallocate", lambda file, start, length: os.truncate(file, length))


class FeatureCache:
    """A `Feed` of stored activations, for the `trainable`: the part of the model that still trains, sharing its
    parameters.
    """

    def __init__(
        self, trainable: CxrForImageClassification, recipe: Recipe, activations: torch.Tensor, offsets: np.ndarray
    ) -> None:
        self.trainable, self.recipe, self.activations, self.offsets = trainable, recipe, activations, offsets
        self.device = next(trainable.parameters()).device

    def training(self, samples: np.ndarray, epoch: int) -> torch.Tensor:
        """The view that an epoch shows of each sample."""
        views = count_views(self.recipe)
        if _only_flips(self.recipe):
            view = (parameters_for_epoch(self.recipe, epoch, samples)[:, FLIP] < 0).numpy().astype(np.int64)
        else:
            view = np.full(len(samples), epoch % views)
        return self._get(self.offsets[samples] + view)

    def eval_batch(self, samples: np.ndarray) -> torch.Tensor:
        """For validation images: stored as they are."""
        return self._get(self.offsets[samples])

    def _get(self, rows: np.ndarray) -> torch.Tensor:
        return to_device(self.activations[torch.from_numpy(rows)], self.device)


def count_views(recipe: Recipe) -> int:
    """In how many ways a training shows an image; 0 where each epoch shows another."""
    if recipe.augment == "none":
        return 1
    return 2 if _only_flips(recipe) else recipe.views


def _only_flips(recipe: Recipe) -> bool:
    return (
        recipe.augment == "random"
        and recipe.flip
        and not (recipe.rotate or recipe.translate or recipe.zoom or recipe.intensity)
    )


def open_feature_cache(
    accelerator: Accelerator,
    model: CxrForImageClassification,
    feed: PixelFeed,
    data: TrainingData,
    folder: Path,
    limit: int,
) -> FeatureCache | None:
    """Compute the activations of a training's frozen layers, or take up what a stopped training left in `folder`.

    What lies there is used only where it is of the same decoded images at the same rows, the same recipe, precision and
    normalisation, and the same frozen weights and statistics; else it is begun anew. Training images are stored in each
    view, validation images as they are, in at most `limit` bytes.

    Returns:
        None where no layer is frozen, each epoch augments anew, or limit or disk are too small (which is logged).

    Raises:
        WorkError: the cache cannot be written.
    """
    views = count_views(feed.recipe)
    if feed.recipe.unfreeze == "all" or not views or not limit:
        return None
    split = find_split_point(model, feed.eval_batch(data.validation[:2]))
    if split is None:
        accelerator.print("note: this network cannot be split before what trains: all of it is computed in each epoch")
        return None
    trainable, name, example = split
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, example.dtype)
    shape = (len(data.train) * views + len(data.validation), *example.shape[1:])
    if lacking := _lacks_room(folder, math.prod(shape) * dtype.itemsize, limit):
        accelerator.print(f"note: storing frozen layers takes {lacking}: they are computed in each epoch")
        return None
    offsets = _offsets(data, views)
    key = {"split_point": name, "shape": list(shape), "precision": accelerator.mixed_precision}
    with accelerator.local_main_process_first():
        activations, filled = _open_files(folder, {**key, **_describe(model, feed, data)}, shape, dtype)
    fuse(model)
    _fill(accelerator, model, name, list(_batches(feed, data, offsets, views)), activations, filled)
    accelerator.wait_for_everyone()
    return FeatureCache(trainable, feed.recipe, activations, offsets)


def _offsets(data: TrainingData, views: int) -> np.ndarray:
    """The first row of the cache for each image, by its row number."""
    offsets = np.full(max(data.train.max(), data.validation.max()) + 1, -1)
    offsets[data.train] = np.arange(len(data.train)) * views
    offsets[data.validation] = len(data.train) * views + np.arange(len(data.validation))
    return offsets


def _describe(model: CxrForImageClassification, feed: PixelFeed, data: TrainingData) -> dict[str, Any]:
    """What the frozen layers compute from, and with."""
    return {
        "pixels": feed.images.cache.name,
        "normalisation": [list(feed.processor.image_mean), list(feed.processor.image_std)],
        "rows": _digest([data.train, data.validation]),
        "recipe": to_json(feed.recipe),
        "frozen": _digest(_frozen(model)),
    }


def _lacks_room(folder: Path, size: int, limit: int) -> str:
    """What a cache of `size` bytes would need and cannot have, for the user; empty where there is room."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free + sum(file.stat().st_size for file in folder.iterdir())
    if size <= min(limit, free):
        return ""
    return f"{size / 1e9:.1f} GB (" + (
        f"--feature-cache-gb {limit / 1e9:g})" if size > limit else f"{free / 1e9:.1f} GB free on the disk)"
    )


def _batches(
    feed: PixelFeed, data: TrainingData, offsets: np.ndarray, views: int
) -> Iterator[tuple[np.ndarray, Callable[[], torch.Tensor]]]:
    """Rows of the cache, and how the pixel values that belong there are made."""
    for start in range(0, len(data.validation), BATCH):
        samples = data.validation[start : start + BATCH]
        yield offsets[samples], partial(feed.eval_batch, samples)
    for view in range(views):
        for start in range(0, len(data.train), BATCH):
            samples = data.train[start : start + BATCH]
            yield (
                offsets[samples] + view,
                partial(feed.augmented, samples, _view_parameters(feed.recipe, samples, view)),
            )


def _view_parameters(recipe: Recipe, samples: np.ndarray, view: int) -> torch.Tensor:
    """Augmentation parameters of a view, [B, PARAMETERS]."""
    if not _only_flips(recipe):
        return draw_parameters(recipe.seed, view, samples)
    parameters = torch.zeros(len(samples), PARAMETERS)
    parameters[:, FLIP] = 1 - 2 * view
    return parameters


def _fill(
    accelerator: Accelerator,
    model: CxrForImageClassification,
    split_point: str,
    batches: list[tuple[np.ndarray, Any]],
    activations: torch.Tensor,
    filled: torch.Tensor,
) -> None:
    """Compute this process's share of what is not there yet."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own = [batch for batch in batches[accelerator.local_process_index :: processes] if not filled[batch[0]].all()]
    model.eval()
    bar = tqdm(
        own, desc="frozen layers, once", unit="batch", leave=False, disable=not accelerator.is_local_main_process
    )
    with torch.inference_mode(), accelerator.autocast():
        for (rows, _), values in zip(bar, prefetch(lambda batch: batch[1](), own, accelerator.device), strict=True):
            features, _ = activations_before(model, split_point, values)
            activations[torch.from_numpy(rows)] = features.to(activations.device, activations.dtype)
            filled[rows] = 1


def _open_files(
    folder: Path, key: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """The activations and which rows are filled, memory-mapped; begun anew where they belong to something else."""
    label, files = folder / "key.json", (folder / "activations.bin", folder / "filled.bin")
    try:
        if not label.exists() or json.loads(label.read_text()) != key:
            label.unlink(missing_ok=True)
            for file, length in zip(files, (math.prod(shape) * dtype.itemsize, shape[0]), strict=True):
                with file.open("wb") as stream:
                    ALLOCATE(stream.fileno(), 0, length)  # a full disk is told here, not by a signal later
            label.write_text(json.dumps(key))
    except OSError as error:
        raise WorkError(
            f"the feature cache cannot be written to {folder} ({error}); free some space or lower --feature-cache-gb"
        ) from error
    activations = torch.from_file(str(files[0]), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
    return activations, torch.from_file(str(files[1]), shared=True, size=shape[0], dtype=torch.uint8)


def remove_feature_cache(folder: Path) -> None:
    """Free the disk."""
    shutil.rmtree(folder, ignore_errors=True)


def _frozen(model: CxrForImageClassification) -> Iterator[np.ndarray]:
    """Every number that the frozen layers compute with: parameters that do not train, and BatchNorm's statistics."""
    for part in (model.backbone, model.projection):
        for tensor in (*part.parameters(), *part.buffers()) if part is not None else ():
            if not tensor.requires_grad:
                yield tensor.detach().cpu().numpy()


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:32]
