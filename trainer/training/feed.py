"""What a model is shown: batches of pixel values, made on the device from the decoded grey images."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

from trainer.cxr_model import CxrImageProcessor
from trainer.data.pixels import GreyImages
from trainer.recipes import Recipe
from trainer.training.augment import augment, draw_for_epoch

Job = TypeVar("Job")
Made = TypeVar("Made")


class PlainFeed(Protocol):
    """Model inputs for samples, given by their rows in the study."""

    def plain(self, samples: np.ndarray) -> torch.Tensor:
        """As they are."""


class Feed(PlainFeed, Protocol):
    """Model inputs to train on."""

    def training(self, samples: np.ndarray, epoch: int) -> torch.Tensor:
        """As the recipe augments them in this epoch: a pure function of (seed, epoch, sample)."""


@dataclass(frozen=True)
class Pixels:
    """Pixel values float32 [B, 3, H, W], channels last, on `device`."""

    images: GreyImages
    processor: CxrImageProcessor
    device: torch.device

    def plain(self, samples: np.ndarray) -> torch.Tensor:
        """Not augmented."""
        return self.processor.to_pixel_values(self._grey(samples))

    def _grey(self, samples: np.ndarray) -> torch.Tensor:
        return send(self.images.batch(samples), self.device)


@dataclass(frozen=True)
class PixelFeed(Pixels):
    """Pixel values, augmented as a recipe says."""

    recipe: Recipe

    def training(self, samples: np.ndarray, epoch: int) -> torch.Tensor:
        """As this epoch shows them."""
        return self.augmented(samples, draw_for_epoch(self.recipe, epoch, samples))

    def augmented(self, samples: np.ndarray, draws: torch.Tensor) -> torch.Tensor:
        """With what `augment.draw` drew for them."""
        grey = self._grey(samples)
        if self.recipe.augment == "random":
            grey = augment(grey, send(draws, self.device), self.recipe)
        return self.processor.to_pixel_values(grey)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on `device`; a GPU fetches it from pinned memory while the CPU goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def ahead(make: Callable[[Job], Made], jobs: Sequence[Job], device: torch.device) -> Iterator[Made]:
    """What `make` gives for each job; beside a GPU the next one is made while this one is used. A CPU has no hands free."""
    if device.type == "cpu" or not jobs:
        yield from map(make, jobs)
        return
    with ThreadPoolExecutor(max_workers=1) as worker:
        coming = worker.submit(make, jobs[0])
        for job in jobs[1:]:
            made, coming = coming.result(), worker.submit(make, job)
            yield made
        yield coming.result()
