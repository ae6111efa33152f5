"""The training loop: one can read it from top to bottom."""

import math
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from trainer.cxr_model import CxrForImageClassification
from trainer.errors import UsageError, WorkError
from trainer.inference import prefetch, run_model, to_device
from trainer.recipes import Recipe
from trainer.training.checkpoint import Checkpoints, Progress
from trainer.training.feature_cache import open_feature_cache
from trainer.training.feed import PixelFeed
from trainer.training.fused import fuse
from trainer.training.monitor import chance_loss, chance_warning, validation_metrics


def check_passes(recipe: Recipe, model: CxrForImageClassification, images: int, processes: int) -> None:
    """Refuse a training in which a pass has no image, or one where BatchNorm trains and so needs two.

    Raises:
        UsageError: with the field of the recipe to change.
    """
    kind = torch.nn.modules.batchnorm._BatchNorm
    needed = 2 if any(isinstance(module, kind) and module.training for module in model.train().modules()) else 1
    passes = recipe.gradient_accumulation * processes
    steps = epoch_steps(np.arange(images), recipe.batch_size, passes, 0, 0)
    if min(map(len, steps)) >= needed * passes:
        return
    reason = f"{images} training images: " + ("BatchNorm needs two a pass" if needed == 2 else "each pass needs one")
    if recipe.batch_size < needed:
        raise UsageError(f"batch_size={recipe.batch_size}, {reason}; --set batch_size=2")
    most = images // (needed * processes)
    cure = f"--set gradient_accumulation={most}" if most else "give more images or fewer processes"
    raise UsageError(f"gradient_accumulation={recipe.gradient_accumulation}, {reason}; {cure}")


def fit(
    accelerator: Accelerator, model: CxrForImageClassification, feed: PixelFeed, folder: Path, cache_bytes: int = 0
) -> Progress:
    """Train until the recipe's last epoch or until it stops improving; go on from `folder` where it holds a checkpoint.

    The best weights are left in `folder` (see `Checkpoints.load_best`), where activations of frozen layers may take
    `cache_bytes` meanwhile.

    Raises:
        WorkError: the loss is no longer finite, or a checkpoint cannot be written.
    """
    recipe = feed.recipe
    checkpoints = Checkpoints(folder)
    model.to(accelerator.device, memory_format=torch.channels_last)
    start = time.perf_counter()
    cache = open_feature_cache(accelerator, model, feed, folder / "feature-cache", cache_bytes)
    part, batches = (cache.trainable, cache) if cache else (model, feed)
    fuse(part)
    trained, optimizer = accelerator.prepare(part, make_optimizer(model, recipe))
    chance = chance_loss(feed.data.labels[feed.data.train], model.config.class_weights, model.config.num_labels)
    progress = checkpoints.resume(accelerator, model)
    progress.cache_seconds += time.perf_counter() - start
    if begun := progress.epoch:
        accelerator.print(f"going on after epoch {begun} of {recipe.epochs}")
    bar = _progress_bar(recipe, begun, hidden=not accelerator.is_main_process)
    while progress.epoch < recipe.epochs and not progress.stale(recipe.patience):
        start = time.perf_counter()
        train_loss = train_epoch(accelerator, trained, optimizer, batches, progress.epoch, bar.update)
        row = {"epoch": progress.epoch + 1, "train_loss": train_loss, **validate(accelerator, trained, batches)}
        row |= {"lr": optimizer.param_groups[0]["lr"], "seconds": round(time.perf_counter() - start, 3)}
        bar.clear()  # for the lines below
        if not math.isfinite(row["train_loss"] + row["validation_loss"]):
            cure = f"lower it with --set learning_rate={recipe.learning_rate / 10:g}"
            raise WorkError(f"epoch {row['epoch']}: the loss is {row['train_loss']}; {cure}")
        best = progress.record(row, recipe.monitor)
        accelerator.log({key: value for key, value in row.items() if key != "epoch"}, step=progress.epoch)
        accelerator.print(_line(row, recipe, best) + _time_left(row, begun, recipe.epochs), flush=True)
        if warning := chance_warning(recipe, progress.history, chance):
            accelerator.print(warning, flush=True)
        checkpoints.save(accelerator, model, progress)
    bar.close()
    accelerator.wait_for_everyone()
    if cache and accelerator.is_local_main_process:
        shutil.rmtree(folder / "feature-cache", ignore_errors=True)
    return progress


def validate(accelerator: Accelerator, model: torch.nn.Module, feed: PixelFeed) -> dict[str, float]:
    """Loss, accuracy and the recipe's monitored metric on the validation images."""
    logits = run_model(model, feed.eval_batch, feed.data.validation, accelerator)
    return validation_metrics(logits, feed.data.labels[feed.data.validation], feed.recipe.monitor)


def train_epoch(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    feed: PixelFeed,
    epoch: int,
    advance: Callable[[float], object] = lambda part: None,
) -> float:
    """One pass over the training images; gives the mean loss of an image, class weights included.

    `advance` is called after each step with its part of the epoch.
    """
    recipe, data, unwrapped = feed.recipe, feed.data, accelerator.unwrap_model(model)
    parts = recipe.gradient_accumulation
    passes = accelerator.num_processes * parts
    steps = epoch_steps(data.train, recipe.batch_size, passes, recipe.seed, epoch)
    first, device = accelerator.process_index * parts, accelerator.device
    own = [samples for step in steps for samples in np.array_split(step, passes)[first : first + parts]]

    def load(samples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return feed.training(samples, epoch), to_device(torch.from_numpy(data.labels[samples]), device)

    batches = prefetch(load, own, device)
    total = torch.zeros((), device=device)
    model.train()
    for number, step in enumerate(steps):
        set_learning_rate(optimizer, recipe, epoch + number / len(steps))
        for part in range(parts):
            values, labels = next(batches)
            with accelerator.no_sync(model) if part < parts - 1 else nullcontext():
                losses = unwrapped.sample_losses(model(values).logits, labels)
                accelerator.backward(losses.sum() * (accelerator.num_processes / len(step)))
            total += losses.detach().sum()
        if recipe.gradient_clip:
            accelerator.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        advance(1 / len(steps))
    return accelerator.reduce(total, "sum").item() / len(data.train)


def epoch_steps(samples: np.ndarray, batch_size: int, parts: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The samples of each optimiser step, in an order that is a pure function of (seed, epoch).

    A step holds `batch_size` samples for each of its `parts` (passes x processes). A rest that would leave a part with
    fewer than two samples joins the step before it: batch normalisation cannot work on one.
    """
    order = np.random.default_rng([seed, epoch]).permutation(samples)
    size = batch_size * parts
    steps = [order[start : start + size] for start in range(0, len(order), size)]
    if len(steps) > 1 and len(steps[-1]) < 2 * parts:
        steps[-2:] = [np.concatenate(steps[-2:])]
    return steps


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over what is not frozen."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[recipe.optimizer](parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: float) -> None:
    """The schedule as a function of the time in epochs: nothing to save, nothing to lose."""
    warmup = min(1.0, (epoch + 1e-3) / recipe.warmup_epochs) if recipe.warmup_epochs else 1.0
    factors = {
        "constant": 1.0,
        "cosine": (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2,
        "exponential": 0.1 ** (epoch / 20),
    }
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * warmup * factors[recipe.schedule]


def _progress_bar(recipe: Recipe, done: int, hidden: bool) -> "tqdm[NoReturn]":
    """A bar of all epochs, whose time left is that of all, validation included."""
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return tqdm(
        desc="training",
        total=recipe.epochs,
        initial=done,
        bar_format=layout,
        smoothing=0,
        leave=False,
        disable=hidden,
    )


def _time_left(row: dict[str, float], begun: int, epochs: int) -> str:
    """After the first epoch since `begun`, a line with the time that the others will take."""
    left = int(epochs - row["epoch"])
    text = f"\nexpected: {tqdm.format_interval(left * row['seconds'])} more for at most {left} epochs"
    return text if left and row["epoch"] == begun + 1 else ""


def _line(row: dict[str, float], recipe: Recipe, best: bool) -> str:
    losses = f"train loss {row['train_loss']:.4f}  validation loss {row['validation_loss']:.4f}"
    names = ["accuracy"] if recipe.monitor == "loss" else ["accuracy", recipe.monitor]
    rest = "  ".join(f"{name.replace('_', ' ')} {row[f'validation_{name}']:.4f}" for name in names)
    return f"epoch {row['epoch']:>3}/{recipe.epochs}  {losses}  {rest}  {row['seconds']:.0f} s{'  *' if best else ''}"
