"""Near copies: one radiograph stored twice, re-encoded, re-exposed, scaled, annotated or slightly cropped.

All chests look alike in their coarse structure, so a perceptual hash or a plain correlation calls thousands of them
copies. Here local contrast is levelled first, every pair is compared, and what is alike is laid over each other: a copy
then agrees in its fine structure, another film of the same chest does not.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from trainer.data.pixels import GreyImages
from trainer.files import read_json, write_json
from trainer.hardware import bf16_on_cpu

SIDE = 96  # pixels of the thumbnails
ALIKE, COPY = 0.60, 0.90  # correlation of candidates before they are laid over each other, and of copies after it
# resolution, steps, correlation to go on
ROUNDS = ((SIDE // 2, 10, 0.70), (SIDE // 2, 20, 0.80), (SIDE, 1, 0.80), (SIDE, 20, COPY))
VERSION = 4  # to be raised when the search changes: kept results are then not used
NEIGHBOURS = 8  # most candidates for an image, and as many candidates as images in all: the likeliest
CHUNK = 512  # images compared with all at a time
PAIRS_PER_BATCH = 128  # pairs laid over each other at a time: as many as fit a processor's cache


class Copies(NamedTuple):
    """Pairs of near copies: first, second (a higher row), similarity in .9..1; `complete`: none was left out."""

    pairs: list[tuple[int, int, float]]
    complete: bool

    @property
    def index_pairs(self) -> list[tuple[int, int]]:
        """The pairs alone."""
        return [(one, two) for one, two, _ in self.pairs]

    @property
    def note(self) -> list[str]:
        """What a user should know of the search."""
        bound = f"{NEIGHBOURS} candidates an image, one on average"
        note = f"the search for near copies stopped at its bound ({bound}): there may be more"
        return [] if self.complete else [note]


def copies_among(images: GreyImages) -> Copies:
    """Near copies among decoded images, looked for once and kept beside their cache."""
    kept = images.cache.with_name(f"{images.cache.name}-copies-{VERSION}.json")
    if not kept.is_file():
        write_json(kept, find_copies(_thumbnails(images))._asdict())
    return Copies(**read_json(kept))


def _thumbnails(images: GreyImages) -> np.ndarray:
    """uint8 [N, 96, 96] of decoded images."""
    chunks = []
    for start in range(0, len(images), CHUNK):
        grey = images.batch(np.arange(start, min(start + CHUNK, len(images)))).float().unsqueeze(1)
        small = F.interpolate(grey, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        chunks.append(small.squeeze(1).round().to(torch.uint8).numpy())
    return np.concatenate(chunks)


def find_copies(thumbnails: np.ndarray) -> Copies:
    """Near copies among uint8 [N, 96, 96] thumbnails.

    `complete` is False where one image had more than NEIGHBOURS candidates, or all together more than there are
    images: only the likeliest were then laid over each other.
    """
    pairs, complete = _alike(thumbnails)
    moves, scores = torch.zeros(len(pairs), 4), torch.zeros(len(pairs))
    for side, steps, least in ROUNDS:
        moves, scores = _overlay(thumbnails, side, pairs, moves, steps)
        kept = scores >= least
        pairs, moves, scores = pairs[kept], moves[kept], scores[kept]
    return Copies(
        [(one, two, score) for (one, two), score in zip(pairs.tolist(), scores.tolist(), strict=True)], complete
    )


def _levelled(thumbnails: np.ndarray, side: int) -> torch.Tensor:
    """Local contrast normalisation: minus the local mean, by the local standard deviation; float32 [N, side, side]."""
    sigma = side / 24
    reach = int(3 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    bell /= bell.sum()

    def blurred(images: torch.Tensor) -> torch.Tensor:
        across = F.conv2d(F.pad(images, (reach, reach, 0, 0), "reflect"), bell.view(1, 1, 1, -1))
        return F.conv2d(F.pad(across, (0, 0, reach, reach), "reflect"), bell.view(1, 1, -1, 1))

    images = F.avg_pool2d(torch.from_numpy(thumbnails).float().unsqueeze(1), SIDE // side)
    detail = images - blurred(images)
    return (detail / (blurred(detail**2).clamp_min(0).sqrt() + 2)).squeeze(1)


def _alike(thumbnails: np.ndarray) -> tuple[torch.Tensor, bool]:
    """Candidates [P, 2], and whether these are all.

    Every image is compared with every other, by the correlation of their detail: kept in bf16, and multiplied in it
    where this CPU is faster so.
    """
    dtype = torch.bfloat16 if bf16_on_cpu()[0] else torch.float32
    starts = range(0, len(thumbnails), CHUNK)
    vectors = torch.cat([_unit(_levelled(thumbnails[start : start + CHUNK], SIDE // 2)) for start in starts])
    candidates, strength, complete = [], [], True
    for start in tqdm(starts, desc="comparing all pairs", unit="block", leave=False):
        block = vectors[start : start + CHUNK].to(dtype)
        alike = torch.cat([block @ part.to(dtype).T for part in vectors[start:].split(CHUNK)], dim=1).float()
        best = alike.topk(min(NEIGHBOURS + 1, alike.shape[1]), dim=1)
        complete &= not bool(((alike > ALIKE).sum(dim=1) > NEIGHBOURS + 1).any())  # an image is its own first neighbour
        row, column = torch.nonzero(best.values > ALIKE, as_tuple=True)
        first, second = row + start, best.indices[row, column] + start
        candidates.append(torch.stack([first, second], 1)[first < second])
        strength.append(best.values[row, column][first < second])
    likeliest = torch.cat(strength).argsort(descending=True)[: len(vectors)]
    return torch.cat(candidates)[likeliest], complete and len(likeliest) == sum(map(len, candidates))


def _unit(images: torch.Tensor) -> torch.Tensor:
    """bf16 [N, D] of mean 0 and length 1; an empty image is all 0, so that it is like none."""
    vectors = images.flatten(1) - images.flatten(1).mean(1, keepdim=True)
    norms = vectors.norm(dim=1, keepdim=True)
    return torch.where(norms > 1, vectors / norms.clamp_min(1e-6), 0.0).bfloat16()


def _overlay(
    thumbnails: np.ndarray, side: int, pairs: torch.Tensor, moves: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift and scale the second of each pair to fit the first, by gradient ascent on their correlation.

    Returns:
        The moves [P, 4] (scales and shifts of x and y) and the best correlations [P].
    """
    best_moves, best = moves.clone(), torch.full((len(pairs),), -1.0)
    for start in tqdm(range(0, len(pairs), PAIRS_PER_BATCH), desc="laying over each other", unit="block", leave=False):
        part = slice(start, start + PAIRS_PER_BATCH)
        first, second = (_levelled(thumbnails[pairs[part, place].numpy()], side) for place in (0, 1))
        second = second.unsqueeze(1)
        move = moves[part].clone().requires_grad_()
        optimizer = torch.optim.Adam([move], lr=0.01)
        for _ in range(steps):
            zero = torch.zeros_like(move[:, 0])
            rows = [1 + move[:, 0], zero, move[:, 2], zero, 1 + move[:, 1], move[:, 3]]
            grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(second.shape), align_corners=False)
            moved = F.grid_sample(second, grid, padding_mode="border", align_corners=False).squeeze(1)
            score = _correlation(first, moved, (grid.abs() <= 1).all(-1).float())
            better = score.detach() > best[part]
            best[part] = torch.where(better, score.detach(), best[part])
            best_moves[part] = torch.where(better.unsqueeze(1), move.detach(), best_moves[part])
            optimizer.zero_grad()
            (-score.sum()).backward()
            optimizer.step()
    return best_moves, best


def _correlation(one: torch.Tensor, two: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted correlation of images [B, H, W] pair by pair."""
    total = weight.sum((1, 2)).clamp_min(1)
    one = one - ((one * weight).sum((1, 2)) / total).view(-1, 1, 1)
    two = two - ((two * weight).sum((1, 2)) / total).view(-1, 1, 1)
    norms = ((one**2 * weight).sum((1, 2)) * (two**2 * weight).sum((1, 2))).clamp_min(1e-12).sqrt()
    return (one * two * weight).sum((1, 2)) / norms
