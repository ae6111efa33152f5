"""Is an image like the training radiographs at all? Fitted on textures; applied by the model and its processor.

A Mahalanobis distance under a probabilistic PCA (Tipping and Bishop, J. R. Stat. Soc. B 61 (1999) 611), of the texture
in the model's last feature map. bench/familiarity.py compares it with other methods.
"""

from typing import Any

import numpy as np
import torch

from trainer.cxr_model import CxrForImageClassification, thumbnail

FALSE_ALARMS = 0.01  # proportion of validation radiographs that are called unfamiliar
MOST_COMPONENTS, MOST_BYTES = 64, 150_000


def fit_familiarity(model: CxrForImageClassification, train: np.ndarray, validation: torch.Tensor) -> np.ndarray:
    """Put the familiarity of textures into a model.

    Args:
        train: `texture` [N, D] of training radiographs.
        validation: `texture` [M, D] of those that the threshold is chosen on.

    Returns:
        The familiarity [M] of the latter.
    """
    size = train.shape[1]
    count = max(1, min(MOST_COMPONENTS, (MOST_BYTES - 4 * size) // (2 * size + 4), len(train) // 4, size - 1))
    mean = train.mean(axis=0)
    _, lengths, axes = np.linalg.svd((train - mean).astype(np.float64), full_matrices=False)
    deviations = lengths[:count] / np.sqrt(len(train))
    outside = float((lengths[count:] ** 2).sum() / len(train))
    settings: dict[str, Any] = {"components": count, "outside": max(outside, 1e-9)}
    model.add_familiarity(settings)
    for name, values in (
        ("mean", mean),
        ("axes", axes[:count]),
        ("spread", deviations.clip(max(1e-3 * deviations[0], 1e-6))),
    ):
        model.get_buffer(f"familiarity_{name}").copy_(torch.from_numpy(np.ascontiguousarray(values)))
    model.to(model.device)
    distances = model.mahalanobis_distance(validation.to(model.device)).cpu().numpy()
    settings["threshold"] = max(float(np.quantile(distances, 1 - FALSE_ALARMS)), 1e-6)
    return np.asarray(1 / (1 + distances / settings["threshold"]))


def mean_thumbnail(images: np.ndarray) -> list[int]:
    """The mean thumbnail of uint8 [N, H, W] training radiographs, as 256 small whole numbers."""
    mean = np.mean([thumbnail(image) for image in images], axis=0)
    return (1000 * mean / np.linalg.norm(mean)).round().astype(int).ravel().tolist()
