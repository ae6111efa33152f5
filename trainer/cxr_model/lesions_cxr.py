"""Where in the lungs lesions are. Research demonstration, not a medical device."""

import torch
from torch import Tensor, nn

from .lungs_cxr import resample

HIGHEST = 3  # cells that a film's score is the mean of
WITHIN = 0.3  # proportion of a cell that is lung


class LesionHead(nn.Module):
    """A linear layer on each cell of a feature map of the lungs, with a bias of its own for each place.

    Takes a map [B, D, n, n] of what a box [B, 4] of the film shows, and the film's lung fields [B, 1, 128, 128]; gives
    the logit of a lesion in each cell, [B, n, n], where cells outside of the lungs have their film's lowest.
    """

    def __init__(self, features: int, cells: int) -> None:
        super().__init__()
        self.cell = nn.Conv2d(features, 1, 1, bias=False)
        self.place = nn.Parameter(torch.zeros(cells, cells))

    def forward(self, feature_map: Tensor, fields: Tensor, box: Tensor) -> Tensor:
        """Logits of the cells."""
        logits = self.cell(feature_map)[:, 0] + self.place
        inside = resample(fields, box, logits.shape[-1])[:, 0] > WITHIN
        return torch.where(inside, logits, logits.amin(dim=(1, 2), keepdim=True))

    @staticmethod
    def film_score(cells: Tensor) -> Tensor:
        """A film's score [B]: the mean of its highest cells [B, n, n]."""
        return cells.flatten(1).topk(HIGHEST, dim=1).values.mean(dim=1)
