"""The bank: what the frozen layers of a network give for each image and view, computed once.

A recipe that freezes a prefix of its network runs that prefix once an image and view, keeps what the first trained layer
would be given, and trains the rest on that. The trained function, its order of samples and its views are those of a
training without a bank.
"""

import copy
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from trainer.cxr_model import CxrForImageClassification
from trainer.errors import WorkError
from trainer.recipes import Recipe, to_json
from trainer.training.augment import DRAWS, draw, draw_for_epoch
from trainer.training.feed import PixelFeed, ahead, send
from trainer.training.fused import fuse

FLIP = 2  # the column of `draw` that decides about mirroring
BATCH = 64
SEQUENCES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
ALLOCATE = getattr(os, "posix_fallocate", lambda file, start, length: os.truncate(file, length))


class Bank:
    """A `Feed` of stored activations, for the `tail`: the part of the model that still trains, sharing its parameters."""

    def __init__(self, tail: CxrForImageClassification, recipe: Recipe, activations: torch.Tensor, places: np.ndarray) -> None:
        self.tail, self.recipe, self.activations, self.places = tail, recipe, activations, places
        self.device = next(tail.parameters()).device

    def training(self, samples: np.ndarray, epoch: int) -> torch.Tensor:
        """The view that an epoch shows of each sample."""
        views = count_views(self.recipe)
        if _only_flips(self.recipe):
            view = (draw_for_epoch(self.recipe, epoch, samples)[:, FLIP] < 0).numpy().astype(np.int64)
        else:
            view = np.full(len(samples), epoch % views)
        return self._get(self.places[samples] + view)

    def plain(self, samples: np.ndarray) -> torch.Tensor:
        """For validation images: stored as they are."""
        return self._get(self.places[samples])

    def _get(self, rows: np.ndarray) -> torch.Tensor:
        return send(self.activations[torch.from_numpy(rows)], self.device)


def count_views(recipe: Recipe) -> int:
    """In how many ways a training shows an image; 0 where each epoch shows another."""
    if recipe.augment == "none":
        return 1
    return 2 if _only_flips(recipe) else recipe.views


def _only_flips(recipe: Recipe) -> bool:
    return recipe.augment == "random" and recipe.flip and not (recipe.rotate or recipe.translate or recipe.zoom or recipe.intensity)


def open_bank(
    accelerator: Accelerator,
    model: CxrForImageClassification,
    feed: PixelFeed,
    recipe: Recipe,
    train: np.ndarray,
    validation: np.ndarray,
    folder: Path,
    limit: int,
) -> Bank | None:
    """Build the bank of a training, or go on with the one a stopped training left in `folder`.

    What is found is used only where it is of the same decoded pictures at the same rows, the same recipe, precision and
    normalisation, and the same frozen weights and statistics; else it is begun anew. Every machine has one bank: its
    processes each compute a share of it and all read it.

    Args:
        model: on its device, with its frozen parameters marked.
        train: rows of the training images; they are stored in each view, the `validation` images as they are.
        limit: the most bytes it may take.

    Returns:
        None where no layer is frozen, each epoch augments anew, or the limit or the disk is too small (which is said).

    Raises:
        WorkError: the bank cannot be written.
    """
    views = count_views(recipe)
    if recipe.unfreeze == "all" or not views or not limit:
        return None
    found = find_tail(model, feed.plain(validation[:2]))
    if found is None:
        accelerator.print("note: this network cannot be cut before what trains: frozen layers are computed in each epoch")
        return None
    tail, cut, example = found
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, example.dtype)
    shape = (len(train) * views + len(validation), *example.shape[1:])
    folder.mkdir(parents=True, exist_ok=True)
    if lacking := _lacks_room(folder, math.prod(shape) * dtype.itemsize, limit):
        accelerator.print(f"note: storing frozen layers takes {lacking}: they are computed in each epoch")
        return None
    places = np.full(max(train.max(), validation.max()) + 1, -1)
    places[train], places[validation] = np.arange(len(train)) * views, len(train) * views + np.arange(len(validation))
    key = {"cut": cut, "shape": list(shape), "precision": accelerator.mixed_precision, "rows": _digest([train, validation])}
    key |= _describe(model, feed, recipe)
    with accelerator.local_main_process_first():
        activations, filled = _open_files(folder, key, shape, dtype)
    fuse(model)
    _fill(accelerator, model, cut, list(_batches(feed, recipe, train, validation, places, views)), activations, filled)
    accelerator.wait_for_everyone()
    return Bank(tail, recipe, activations, places)


def _describe(model: CxrForImageClassification, feed: PixelFeed, recipe: Recipe) -> dict[str, Any]:
    """What the frozen layers compute from, and with."""
    return {
        "pixels": feed.images.cache.name,
        "normalisation": [list(feed.processor.image_mean), list(feed.processor.image_std)],
        "recipe": to_json(recipe),
        "frozen": _digest(_frozen(model)),
    }


def _lacks_room(folder: Path, size: int, limit: int) -> str:
    """What a bank of `size` bytes would need and cannot have, for the user; empty where there is room."""
    free = shutil.disk_usage(folder).free + sum(file.stat().st_size for file in folder.iterdir())
    if size <= min(limit, free):
        return ""
    return f"{size / 1e9:.1f} GB (" + (f"--bank-size {limit / 1e9:g})" if size > limit else f"{free / 1e9:.1f} GB free on the disk)")


def find_tail(model: CxrForImageClassification, values: torch.Tensor) -> tuple[CxrForImageClassification, str, torch.Tensor] | None:
    """The part of a model from the first trained layer on, as a model that takes what is given to that layer.

    From the trained layer outwards, the first block is taken that answers as the whole model does: one that joins a side
    path from before it does not.

    Returns:
        The tail, the name of the module it begins with, and that module's input for `values`; None where there is no such
        cut, or only one before which nothing is computed.
    """
    for cut in _candidates(model):
        try:
            with torch.inference_mode():
                example, expected = _activations(model.eval(), cut, values)
                tail = _cut(model, cut)
                agree = torch.allclose(tail.eval()(example).logits, expected, rtol=1e-4, atol=1e-5)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
            continue  # shapes that do not fit: a side path joins; or a module that is never called
        if agree:
            return None if torch.equal(example, values) else (tail, cut, example)
    return None


def _candidates(model: CxrForImageClassification) -> Iterator[str]:
    """The blocks around the first trained layer, innermost first; or the head.

    A block is a member of a sequence or of the backbone itself. Parts of other layers are none: what `fuse` fuses is
    computed without a call of its parts, so that no hook would see it.
    """
    first = next(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    if first.startswith(("head.", "classifier.")):
        yield "head"
    module, _, _ = first.rpartition(".")
    while "." in module:
        owner, _, _ = module.rpartition(".")
        if owner in ("backbone", "backbone.timm_model") or isinstance(model.get_submodule(owner), SEQUENCES):
            yield module
        module = owner


def _cut(model: CxrForImageClassification, cut: str) -> CxrForImageClassification:
    """A copy of the model that shares its parameters and buffers, without what runs before `cut`."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    tail = copy.deepcopy(model, shared)
    if cut == "head":
        tail.backbone, tail.projection = _Given(), None
        return tail
    owner: nn.Module = tail
    for part in cut.split("."):
        for earlier in list(owner._modules):
            if earlier == part:
                break
            if isinstance(owner, nn.ModuleDict):  # DenseNet's blocks join what each of their layers gives
                del owner[earlier]
            else:
                owner._modules[earlier] = nn.ModuleList() if isinstance(owner._modules[earlier], nn.ModuleList) else nn.Identity()
        owner = owner.get_submodule(part)
    return tail


class _Given(nn.Module):
    """Stands for a backbone that was computed before: pooled features [B, D] as a map of one place."""

    def forward(self, pooled: torch.Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=pooled[:, :, None, None])


def _activations(model: CxrForImageClassification, cut: str, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the module `cut` is given for these pixel values, and the logits."""
    given: list[torch.Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        first = arguments[0]  # DenseNet gives its layers a list of maps
        given.append(torch.cat(first, dim=1) if isinstance(first, list) else first)

    handle = model.get_submodule(cut).register_forward_pre_hook(keep)
    try:
        logits = model(values).logits
    finally:
        handle.remove()
    return given[0], logits


def _batches(
    feed: PixelFeed, recipe: Recipe, train: np.ndarray, validation: np.ndarray, places: np.ndarray, views: int
) -> Iterator[tuple[np.ndarray, Any]]:
    """Rows of the bank, and how the pixel values that belong there are made."""
    for start in range(0, len(validation), BATCH):
        samples = validation[start : start + BATCH]
        yield places[samples], lambda samples=samples: feed.plain(samples)
    for view in range(views):
        for start in range(0, len(train), BATCH):
            samples = train[start : start + BATCH]
            yield places[samples] + view, lambda samples=samples, view=view: feed.augmented(samples, _draws(recipe, samples, view))


def _draws(recipe: Recipe, samples: np.ndarray, view: int) -> torch.Tensor:
    if not _only_flips(recipe):
        return draw(recipe.seed, view, samples)
    draws = torch.zeros(len(samples), DRAWS)
    draws[:, FLIP] = 1 - 2 * view
    return draws


def _fill(
    accelerator: Accelerator,
    model: CxrForImageClassification,
    cut: str,
    batches: list[tuple[np.ndarray, Any]],
    activations: torch.Tensor,
    filled: torch.Tensor,
) -> None:
    """Compute this process's share of what is not there yet."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    mine = [batch for batch in batches[accelerator.local_process_index :: processes] if not filled[batch[0]].all()]
    model.eval()
    bar = tqdm(mine, desc="frozen layers, once", unit="batch", leave=False, disable=not accelerator.is_local_main_process)
    with torch.inference_mode(), accelerator.autocast():
        for (rows, _), values in zip(bar, ahead(lambda batch: batch[1](), mine, accelerator.device), strict=True):
            given, _ = _activations(model, cut, values)
            activations[torch.from_numpy(rows)] = given.to(activations.device, activations.dtype)
            filled[rows] = 1


def _open_files(folder: Path, key: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """The activations and which rows are filled, memory-mapped; begun anew where they belong to something else."""
    label, files = folder / "bank.json", (folder / "activations.bin", folder / "filled.bin")
    try:
        if not label.exists() or json.loads(label.read_text()) != key:
            label.unlink(missing_ok=True)
            for file, length in zip(files, (math.prod(shape) * dtype.itemsize, shape[0]), strict=True):
                with file.open("wb") as stream:
                    ALLOCATE(stream.fileno(), 0, length)  # a full disk is told here, not by a signal later
            label.write_text(json.dumps(key))
    except OSError as error:
        raise WorkError(
            f"the bank of frozen layers cannot be written to {folder} ({error}); free some space or lower --bank-size"
        ) from error
    activations = torch.from_file(str(files[0]), shared=True, size=math.prod(shape), dtype=dtype).view(shape)
    return activations, torch.from_file(str(files[1]), shared=True, size=shape[0], dtype=torch.uint8)


def remove_bank(folder: Path) -> None:
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
