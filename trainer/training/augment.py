"""Augmentation in batches on the device: one affine resampling, one intensity curve, on grey images."""

import numpy as np
import torch
from torch.nn import functional as F

from trainer.recipes import Recipe

PARAMETERS = 9  # uniform numbers in -1..1 for each image and epoch


def draw_parameters(recipe: Recipe, epoch: int, samples: np.ndarray) -> torch.Tensor:
    """Uniform numbers in -1..1, [B, 9]: a pure function of (seed, epoch, sample), whatever the batch or process; with
    `augmented_views`, epoch e looks as epoch e mod their number did.
    """
    shown = epoch % recipe.augmented_views if recipe.augmented_views else epoch
    rows = [
        np.random.Generator(np.random.Philox(key=[recipe.seed, shown], counter=int(sample))).random(PARAMETERS)
        for sample in samples
    ]
    return torch.from_numpy(np.stack(rows).astype(np.float32)) * 2 - 1


def augment(grey: torch.Tensor, parameters: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Move and re-expose images, uint8 [B, H, W] -> float32 in 0..255, as the recipe says; black where none is left.

    `parameters` [B, 9] are those of these images, on their device.
    """
    images = _jitter_intensity(grey, parameters, recipe) if recipe.intensity else grey.float()
    if recipe.flip or recipe.rotate or recipe.translate or recipe.zoom:
        grid = _grid(_matrices(parameters, recipe), *images.shape[1:])
        images = F.grid_sample(images.unsqueeze(1), grid, padding_mode="zeros", align_corners=False).squeeze(1)
    return images


def _grid(matrices: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """What `F.affine_grid` gives, [B, H, W, 2], as a sum of what each row and each column adds: a tenth of its time."""
    down, across = ((torch.arange(size, device=matrices.device) * 2 + 1) / size - 1 for size in (height, width))
    rows = matrices[:, :, 1, None] * down + matrices[:, :, 2:]
    columns = matrices[:, :, 0, None] * across
    return rows.transpose(1, 2)[:, :, None] + columns.transpose(1, 2)[:, None]


def _jitter_intensity(grey: torch.Tensor, parameters: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Contrast, brightness and gamma as a table of the 256 grey levels for each image."""
    levels = torch.arange(256, device=grey.device) / 255
    gain, offset, gamma = (parameters[:, column].unsqueeze(1) * recipe.intensity for column in (6, 7, 8))
    curve = ((levels - 0.5) * (1 + gain) + 0.5 + offset / 2).clamp(0, 1)
    table = 255 * curve ** torch.exp(gamma)
    first = 256 * torch.arange(len(grey), dtype=torch.int32, device=grey.device)
    return table.flatten().index_select(0, (grey.int() + first[:, None, None]).flatten()).view(grey.shape)


def _matrices(parameters: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Inverse affine maps [B, 2, 3] on -1..1 coordinates."""
    angle = torch.deg2rad(parameters[:, 0] * recipe.rotate)
    scale = 1 / (1 + parameters[:, 1] * recipe.zoom)
    mirror = torch.where(parameters[:, 2] < 0, -1.0, 1.0) if recipe.flip else torch.ones_like(angle)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = parameters[:, 3:5] * 2 * recipe.translate
    rows = [cosine * mirror, -sine, shift[:, 0], sine * mirror, cosine, shift[:, 1]]
    return torch.stack(rows, dim=1).view(-1, 2, 3)
