"""What a training shows its network: batches of pixel values, augmented on the device."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight

from trainer.data.labelled import LabelledImages
from trainer.errors import UsageError
from trainer.inference import PixelBatches, to_device
from trainer.recipes import Recipe
from trainer.training.augment import augment, draw_parameters


@dataclass(frozen=True)
class TrainingData:
    """Label indices [N] of all images, and the row numbers of those that train and validate."""

    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray

    @classmethod
    def of(cls, labelled: LabelledImages) -> "TrainingData":
        """The train and validation splits of labelled images."""
        return cls(labelled.truth, labelled.indices("train"), labelled.indices("validation"))


@dataclass(frozen=True)
class PixelFeed(PixelBatches):
    """Pixel values float32 [B, 3, H, W] of the data, augmented as a recipe says."""

    recipe: Recipe
    data: TrainingData

    def training(self, samples: np.ndarray, epoch: int) -> torch.Tensor:
        """The samples as the recipe augments them in this epoch: a pure function of (seed, epoch, sample)."""
        return self.augmented(samples, draw_parameters(self.recipe, epoch, samples))

    def augmented(self, samples: np.ndarray, parameters: torch.Tensor) -> torch.Tensor:
        """The samples with these augmentation parameters."""
        grey = self.grey(samples)
        if self.recipe.augment == "random":
            grey = augment(grey, to_device(parameters, self.device), self.recipe)
        return self.processor.to_pixel_values(grey)


def class_weights(recipe: Recipe, labelled: LabelledImages) -> list[float] | None:
    """One loss weight a label, in label order; None where all count alike. `balanced`: n / (classes x n_class).

    Raises:
        UsageError: the recipe names other labels than the data has.
    """
    weights, labels = recipe.class_weights, labelled.task.labels
    if weights == "none":
        return None
    if weights == "balanced":
        truth = labelled.truth[labelled.indices("train")]
        return list(compute_class_weight("balanced", classes=np.arange(len(labels)), y=truth))
    if not isinstance(weights, dict) or set(weights) != set(labels):
        raise UsageError(f"class_weights: needs one weight for each of {', '.join(labels)}")
    return [weights[label] for label in labels]
