"""The feature cache: activations of the frozen layers of a network for each image and view, computed once.

A recipe that freezes a prefix of its network runs that prefix once an image and view, keeps what the first trained
layer would be given, and trains the rest on that: the function, the order and the views of a training without a cache.
"""

import hashlib
import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from trainer.cxr_model import CxrForImageClassification
from trainer.files import writing_errors
from trainer.inference import prefetch, to_device
from trainer.recipes import Recipe
from trainer.training.augment import PARAMETERS, draw_parameters
from trainer.training.feed import PixelFeed
from trainer.training.fused import fuse
from trainer.training.split_point import activations_before, find_split_point

FLIP = 2  # the augmentation parameter that decides about mirroring
BATCH = 64
ALLOCATE = getattr(os, "posix_fallocate", lambda file, start, length: os.truncate(file, length))


@dataclass(frozen=True)
class FeatureCache(PixelFeed):
    """Stored activations in the place of pixel values, for `trainable`: what of the model still trains.

    `activations` [R, …] hold each training image in each view, then the validation images; `offsets` [N] are the first
    row of each image.
    """

    trainable: CxrForImageClassification
    activations: Tensor
    offsets: np.ndarray

    def training(self, samples: np.ndarray, epoch: int) -> Tensor:
        """The view that an epoch shows of each sample."""
        if _only_flips(self.recipe):
            view = (draw_parameters(self.recipe, epoch, samples)[:, FLIP] < 0).numpy().astype(np.int64)
        else:
            view = np.full(len(samples), epoch % count_views(self.recipe))
        return self._rows(self.offsets[samples] + view)

    def eval_batch(self, samples: np.ndarray) -> Tensor:
        """For validation images: stored as they are."""
        return self._rows(self.offsets[samples])

    def _rows(self, rows: np.ndarray) -> Tensor:
        return to_device(self.activations[torch.from_numpy(rows)], self.device)


def count_views(recipe: Recipe) -> int:
    """In how many ways a training shows an image; 0 where each epoch shows another."""
    if recipe.augment == "none":
        return 1
    return 2 if _only_flips(recipe) else recipe.augmented_views


def _only_flips(recipe: Recipe) -> bool:
    moves = recipe.rotate or recipe.translate or recipe.zoom or recipe.intensity
    return recipe.augment == "random" and recipe.flip and not moves


def open_feature_cache(
    accelerator: Accelerator, model: CxrForImageClassification, feed: PixelFeed, folder: Path, limit: int
) -> FeatureCache | None:
    """Compute the activations of a training's frozen layers, or take up what a stopped training left in `folder`.

    What lies there is used only where it is of the same decoded images at the same rows, the same recipe, precision and
    normalisation, and the same frozen weights and statistics; else it is begun anew. It takes at most `limit` bytes.

    Returns:
        None where no layer is frozen, each epoch augments anew, or limit or disk are too small (which is logged).

    Raises:
        WorkError: the cache cannot be written.
    """
    views, train, validation = count_views(feed.recipe), feed.data.train, feed.data.validation
    if feed.recipe.unfreeze == "all" or not views or not limit:
        return None
    split = find_split_point(model, feed.eval_batch(validation[:2]))
    if split is None:
        accelerator.print("note: this network cannot be split before what trains: all of it is computed in each epoch")
        return None
    trainable, name, example = split
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, example.dtype)
    shape = (len(train) * views + len(validation), *example.shape[1:])
    size = math.prod(shape) * dtype.itemsize
    if lacking := _lacks_room(folder, size, limit):
        accelerator.print(f"note: storing frozen layers takes {lacking}: they are computed in each epoch")
        return None
    offsets = np.full(max(train.max(), validation.max()) + 1, -1)
    offsets[train] = np.arange(len(train)) * views
    offsets[validation] = len(train) * views + np.arange(len(validation))
    with accelerator.local_main_process_first():
        key = f"{name} {shape} {dtype} {_digest(model, feed)}"
        activations, filled = _open_files(folder, key, shape, dtype)
    cache = FeatureCache(**vars(feed), trainable=trainable, activations=activations, offsets=offsets)
    fuse(model)
    kept = f"{len(train):,} training images x {views} and {len(validation):,} validation images"
    accelerator.print(f"feature cache: {kept}, {size / 1e6:,.1f} MB in {folder} while it trains", flush=True)
    _fill(accelerator, model, name, cache, filled)
    accelerator.wait_for_everyone()
    return cache


def _digest(model: CxrForImageClassification, feed: PixelFeed) -> str:
    """Of what the frozen layers compute from, and of every number that they compute with."""
    known = [feed.images.cache.name, feed.processor.image_mean, feed.processor.image_std, asdict(feed.recipe)]
    digest = hashlib.sha256(json.dumps(known).encode())
    frozen = [part for part in (model.backbone, model.projection) if part is not None]
    tensors = [tensor for part in frozen for tensor in (*part.parameters(), *part.buffers())]
    numbers = [tensor.detach().cpu().numpy() for tensor in tensors if not tensor.requires_grad]
    for array in (feed.data.train, feed.data.validation, *numbers):
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _lacks_room(folder: Path, size: int, limit: int) -> str:
    """What a cache of `size` bytes would need and cannot have, for the user; empty where there is room."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free + sum(file.stat().st_size for file in folder.iterdir())
    if size <= min(limit, free):
        return ""
    bound = f"--feature-cache-gb {limit / 1e9:g}" if size > limit else f"{free / 1e9:.1f} GB free on the disk"
    return f"{size / 1e9:.1f} GB ({bound})"


def _fill(
    accelerator: Accelerator, model: CxrForImageClassification, split_point: str, cache: FeatureCache, filled: Tensor
) -> None:
    """Compute this process's share of the rows that are not there yet."""

    def pixel_values(job: tuple[np.ndarray, int | None]) -> Tensor:
        samples, view = job
        if view is None:
            return PixelFeed.eval_batch(cache, samples)
        return cache.augmented(samples, _view_parameters(cache.recipe, samples, view))

    kinds = [(cache.data.validation, None), *((cache.data.train, view) for view in range(count_views(cache.recipe)))]
    jobs = [(rows[start : start + BATCH], view) for rows, view in kinds for start in range(0, len(rows), BATCH)]
    rank, processes = accelerator.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own = [job for job in jobs[rank::processes] if not filled[cache.offsets[job[0]] + (job[1] or 0)].all()]
    model.eval()
    bar = tqdm(own, desc="frozen layers, once", unit="batch", leave=False, disable=rank > 0)
    with torch.inference_mode(), accelerator.autocast():
        for (samples, view), values in zip(bar, prefetch(pixel_values, own, accelerator.device), strict=True):
            rows = torch.from_numpy(cache.offsets[samples] + (view or 0))
            features, _ = activations_before(model, split_point, values)
            cache.activations[rows] = features.to(cache.activations.device, cache.activations.dtype)
            filled[rows] = 1


def _view_parameters(recipe: Recipe, samples: np.ndarray, view: int) -> Tensor:
    """Augmentation parameters of a view, [B, PARAMETERS]."""
    if _only_flips(recipe):
        return torch.full((len(samples), PARAMETERS), 1.0 - 2 * view)  # FLIP decides, the others change nothing
    return draw_parameters(recipe, view, samples)


def _open_files(folder: Path, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The activations and which rows are filled, memory-mapped; begun anew where they belong to something else."""
    label, files = folder / "key.txt", (folder / "activations.bin", folder / "filled.bin")
    with writing_errors(folder):
        if not label.exists() or label.read_text() != key:
            label.unlink(missing_ok=True)
            for file, length in zip(files, (math.prod(shape) * dtype.itemsize, shape[0]), strict=True):
                with file.open("wb") as stream:
                    ALLOCATE(stream.fileno(), 0, length)  # a full disk is told here, not by a signal later
            label.write_text(key)
    activations = torch.from_file(str(files[0]), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
    return activations, torch.from_file(str(files[1]), shared=True, size=shape[0], dtype=torch.uint8)
