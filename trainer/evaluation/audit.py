"""Does a model read the lungs? What it answers when they are hidden, and where its heat map points.

Hidden lungs: Maguolo and Nanni, Inf. Fusion 76 (2021) 1; pointing game: Zhang et al., Int. J. Comput. Vis. 126 (2018) 1084.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from trainer.data.marks import Marks
from trainer.evaluation.intervals import share, spread
from trainer.training.feed import Pixels

MARGIN = 0.03  # what is added around a lung mask, of the side
CONDITIONS = ("as they are", "lungs hidden", "only lungs", "resolution levelled")


@dataclass(frozen=True)
class Occlusion:
    """Hides the lungs of pictures, or all but the lungs: there `usual`, the mean picture uint8 [H, W], is shown instead.

    A mean of all classes tells none of them, and is less strange to a network than an even grey. `lungs` by row; other
    rows have `central_area`.
    """

    lungs: Marks
    keep_lungs: bool
    usual: torch.Tensor

    def __call__(self, grey: torch.Tensor, samples: np.ndarray) -> torch.Tensor:
        """uint8 [B, H, W] -> the same, with the usual picture in what is hidden."""
        height, width = grey.shape[1:]
        central = central_area(height, width)
        areas = [widen(self.lungs[row], box=not self.keep_lungs) if row in self.lungs else central for row in samples]
        hidden = torch.from_numpy(np.stack(areas) != self.keep_lungs).to(grey.device)
        return torch.where(hidden, self.usual.to(grey.device), grey)


@dataclass(frozen=True)
class Levelling:
    """Shrinks pictures to `side` pixels and enlarges them again: no source is sharper than another."""

    side: int

    def __call__(self, grey: torch.Tensor, samples: np.ndarray) -> torch.Tensor:
        """uint8 [B, H, W] -> the same, blurred."""
        small = F.interpolate(grey[:, None].float(), size=(self.side, self.side), mode="area")
        return F.interpolate(small, size=grey.shape[1:], mode="bilinear").round().to(torch.uint8)[:, 0]


@dataclass(frozen=True)
class ChangedPixels(Pixels):
    """Pixel values of pictures after `change`."""

    change: Occlusion | Levelling

    def plain(self, samples: np.ndarray) -> torch.Tensor:
        """Changed, not augmented."""
        return self.processor.to_pixel_values(self.change(self._grey(samples), samples))


def central_area(height: int, width: int) -> np.ndarray:
    """A rounded box that holds the lungs of most frontal chest radiographs and leaves the corners free, bool [H, W]."""
    y, x = ((np.arange(size) + 0.5) / size for size in (height, width))
    return ((y[:, None] - 0.48) / 0.46) ** 4 + ((x - 0.5) / 0.47) ** 4 < 1


def widen(lungs: np.ndarray, box: bool) -> np.ndarray:
    """A lung mask bool [H, W] with a margin; or the upright box around it, which tells nothing of the lungs' form."""
    reach = max(1, round(MARGIN * max(lungs.shape)))
    wide = F.max_pool2d(torch.from_numpy(lungs)[None].float(), 2 * reach + 1, stride=1, padding=reach)[0].numpy() > 0
    if box and wide.any():
        rows, columns = (np.flatnonzero(wide.any(axis=axis)) for axis in (1, 0))
        wide[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return wide


def pointing(heat: np.ndarray, marks: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """How often the highest point of a map lies in a finding, and the share of the map that does.

    Args:
        heat: [N, H, W], not negative.
        marks: bool [N, H, W], the findings.
        groups: what is resampled, [N].

    Returns:
        {"hits", "inside"}; an all-zero map points nowhere, which is a miss.
    """
    flat, inside = heat.reshape(len(heat), -1), marks.reshape(len(marks), -1)
    total = flat.sum(axis=1)
    hits = inside[np.arange(len(flat)), flat.argmax(axis=1)] & (total > 0)
    within = (flat * inside).sum(axis=1) / np.maximum(total, 1e-12)
    mean = spread(lambda weights: weights @ within / weights.sum(axis=1), groups, highest=1.0)
    return {"hits": share(hits, np.ones(len(hits), bool), groups), "inside": mean}


def prior_maps(marks: np.ndarray) -> dict[str, np.ndarray]:
    """Maps that have not seen the picture, [N, H, W]: a bump in its centre; where the other pictures' findings lie."""
    count, height, width = marks.shape
    y, x = ((np.arange(size) + 0.5) / size - 0.5 for size in (height, width))
    bump = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.2**2)).astype(np.float32)
    others = marks.sum(axis=0, dtype=np.float32) - marks
    return {"centre": np.broadcast_to(bump, marks.shape), "where findings usually lie": others / max(count - 1, 1)}
