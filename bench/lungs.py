"""The lung network that ships with every model that looks for lungs: how it was trained, `make lungs`.

`python bench/lungs.py --data lung_masks.csv --output lungs.safetensors` learns from films whose lungs were
outlined by hand: columns file, mask, collection, split (train, validation, test, external) and heart (`out` where the
outline leaves out the lung behind the heart, else `in`). Collections count alike. The films are made hard: opacities
hide lungs, there are text and borders, they are turned, stretched, re-exposed, inverted and blurred. It prints the Dice
coefficient of each collection and split, each by its own convention.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from tqdm.auto import tqdm

from trainer.cxr_model.lungs_cxr import SIDE, LungNetwork, resample, whole_film
from trainer.hardware import choose_precision, keep_freed_memory
from trainer.training.build import LUNGS

SIZE = 224  # pixels of a side at which films are kept
PER_COLLECTION = 256  # films of each collection an epoch
BATCH = 32
LEARNING_RATE = 3e-3
AVERAGED = 0.995  # share of the old in each step of the averaged weights, which ship


class Films:
    """Films [N, 1, SIZE, SIZE] and their lungs, uint8, with the rows they are of."""

    def __init__(self, table: Path) -> None:
        self.rows = pd.read_csv(table)
        files = list(zip(self.rows["file"], self.rows["mask"], strict=True))
        pairs = [self._load(table.parent, file, mask) for file, mask in tqdm(files, "reading")]
        self.films, self.lungs = (torch.from_numpy(np.stack(part))[:, None] for part in zip(*pairs, strict=True))
        self.heart = torch.from_numpy((self.rows["heart"] == "in").to_numpy(np.int64))

    @staticmethod
    def _load(folder: Path, file: str, mask: str) -> tuple[np.ndarray, np.ndarray]:
        film = Image.open(folder / file).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        lungs = Image.open(folder / mask).convert("L").resize((SIZE, SIZE), Image.Resampling.BOX)
        return np.array(film), np.array(lungs)

    def batch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Films and lungs of some rows, float32 [B, 1, SIZE, SIZE] in 0..1."""
        return self.films[rows].float() / 255, self.lungs[rows].float() / 255

    def indices(self, split: str) -> dict[str, np.ndarray]:
        """Row numbers of a split, by collection."""
        inside = self.rows[self.rows["split"] == split]
        return {str(name): part.index.to_numpy() for name, part in inside.groupby("collection")}


class Augmentation:
    """What makes films hard; each effect for some films of a batch only."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        line = torch.linspace(0, 1, SIDE)
        self.y, self.x = line[:, None], line[None, :]

    def __call__(self, films: torch.Tensor, lungs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Films and lungs [B, 1, SIZE, SIZE] -> [B, 1, SIDE, SIDE]."""
        grid = F.affine_grid(self._placement(len(films)), [len(films), 1, SIDE, SIDE], align_corners=False)
        films, lungs = (F.grid_sample(part, grid, align_corners=False) for part in (films, lungs))
        for _ in range(4):
            films = self._opacity(films)
        films = self._exposure(films)
        for _ in range(3):
            films = self._text(films)
        inside = self._border(len(films))
        tone = self._uniform(films, 0, 1) * self._some(films, 0.2)
        films, lungs = films * inside + tone * (1 - inside), lungs * inside
        inverted = self._some(films, 0.15)
        return inverted * (1 - films) + (1 - inverted) * films, lungs

    def _uniform(self, like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(len(like), 1, 1, 1, generator=self.generator) * (high - low) + low

    def _some(self, like: torch.Tensor, proportion: float) -> torch.Tensor:
        """1 for that proportion of the films, 0 for the others."""
        return (self._uniform(like, 0, 1) < proportion).float()

    def _placement(self, count: int) -> torch.Tensor:
        """Turned by up to 15 degrees, stretched, shifted, mirrored: [B, 2, 3]."""
        random = torch.rand(count, 6, generator=self.generator) * 2 - 1
        angle, mirror = 0.26 * random[:, 0], random[:, 1].sign()
        wide, high = 1.3 ** random[:, 2], 1.3 ** random[:, 3]
        rows = [angle.cos() * wide * mirror, -angle.sin() * wide, 0.2 * random[:, 4]]
        rows += [angle.sin() * high * mirror, angle.cos() * high, 0.2 * random[:, 5]]
        return torch.stack(rows, dim=1).view(-1, 2, 3)

    def _opacity(self, films: torch.Tensor) -> torch.Tensor:
        """A bright, soft spot of any size, as of an ill lung."""
        across = (self.x - self._uniform(films, 0.1, 0.9)) / self._uniform(films, 0.02, 0.22)
        down = (self.y - self._uniform(films, 0.1, 0.9)) / self._uniform(films, 0.02, 0.22)
        strength = self._uniform(films, 0.2, 0.9) * self._some(films, 0.3)
        return films + strength * torch.exp(-(across**2) - down**2) * (self._uniform(films, 0.5, 1.0) - films)

    def _exposure(self, films: torch.Tensor) -> torch.Tensor:
        """Gamma, a slope of brightness, sharpness and grain."""
        films = films.clamp(0, 1) ** torch.exp(self._uniform(films, -0.7, 0.7))
        slope = self._uniform(films, -0.15, 0.15) * (self.x - 0.5) + self._uniform(films, -0.3, 0.3) * (self.y - 0.5)
        blurred = F.avg_pool2d(F.pad(films, (1, 1, 1, 1), mode="replicate"), 3, 1)
        sharpness = self._uniform(films, -0.6, 1.0) * self._some(films, 0.6)
        grain = torch.randn(films.shape, generator=self.generator) * self._uniform(films, 0, 0.05)
        return films + slope + sharpness * (blurred - films) + grain

    def _text(self, films: torch.Tensor) -> torch.Tensor:
        """A speckled rectangle, as of letters and markers."""
        left, top = self._uniform(films, -0.05, 1), self._uniform(films, -0.05, 1)
        right, bottom = left + self._uniform(films, 0.02, 0.2), top + self._uniform(films, 0.01, 0.06)
        inside = (self.x > left) & (self.x < right) & (self.y > top) & (self.y < bottom)
        speckled = torch.rand(films.shape, generator=self.generator) < 0.6
        return films + inside * speckled * self._some(films, 0.35) * (self._uniform(films, 0, 1) - films)

    def _border(self, count: int) -> torch.Tensor:
        """1 inside of the borders, 0 on them: [B, 1, SIDE, SIDE]."""
        width = torch.rand(4, count, 1, 1, 1, generator=self.generator) * 0.22 - 0.12
        across = (self.x > width[0]) & (self.x < 1 - width[1])
        return (across & (self.y > width[2]) & (self.y < 1 - width[3])).float()


def lung_loss(logits: torch.Tensor, lungs: torch.Tensor, heart: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and Dice loss (arXiv:1606.04797) of the convention of each film; and what lies in the lungs without
    the part behind the heart should lie in those with it.
    """
    own, truth = logits[torch.arange(len(logits)), heart], lungs[:, 0]
    proportion = own.sigmoid()
    overlap = 2 * (proportion * truth).sum(dim=(1, 2)) + 1
    dice = 1 - (overlap / (proportion.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) + 1)).mean()
    without, within = logits.sigmoid().unbind(dim=1)
    nested = (without - within).clamp_min(0).mean()
    return F.binary_cross_entropy_with_logits(own, truth) + dice + nested / 2


def train(films: Films, epochs: int, seed: int) -> LungNetwork:
    """The network with the averaged weights, in eval mode."""
    torch.manual_seed(seed)
    network, rng, augment = LungNetwork(), np.random.default_rng(seed), Augmentation(seed)
    network.to(memory_format=torch.channels_last)
    collections = films.indices("train")
    steps = epochs * (PER_COLLECTION * len(collections) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.03)
    averaged = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    half = choose_precision("auto")[0] == "bf16"
    bar = tqdm(total=steps, desc="training")
    for _ in range(epochs):
        parts = [np.resize(rng.permutation(rows), PER_COLLECTION) for rows in collections.values()]
        for rows in rng.permutation(np.concatenate(parts)).reshape(-1, BATCH):
            images, lungs = augment(*films.batch(rows))
            with torch.autocast("cpu", torch.bfloat16, half):
                logits = network(images.contiguous(memory_format=torch.channels_last))
            loss = lung_loss(logits.float(), lungs, films.heart[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            kept = min(AVERAGED, bar.n / (bar.n + 10))
            for name, tensor in network.state_dict().items():
                averaged[name] = torch.lerp(tensor.float(), averaged[name].float(), kept).to(tensor.dtype)
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    bar.close()
    network.load_state_dict({name: round_to_half(tensor) for name, tensor in averaged.items()})
    return network.eval()


def round_to_half(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it ships: float32 that half precision holds exactly."""
    return tensor.half().float() if tensor.is_floating_point() else tensor


def dice_table(network: LungNetwork, films: Films) -> pd.DataFrame:
    """Dice coefficients at SIZE pixels: a row a collection and split, with n, mean, 5th percentile and least."""
    table = []
    for split in ("validation", "test", "external"):
        for name, rows in films.indices(split).items():
            scores = torch.cat([_dice(network, films, part) for part in np.split(rows, range(64, len(rows), 64))])
            low = [scores.quantile(0.05).item(), scores.min().item()]
            table.append([name, split, len(rows), scores.mean().item(), *low])
    return pd.DataFrame(table, columns=["collection", "split", "n", "dice", "5 %", "least"])


def _dice(network: LungNetwork, films: Films, rows: np.ndarray) -> torch.Tensor:
    images, lungs = films.batch(rows)
    whole = whole_film(images)
    with torch.inference_mode():
        fields = network(resample(images, whole, SIDE)).sigmoid()[torch.arange(len(rows)), films.heart[rows]]
        found, truth = resample(fields[:, None], whole, SIZE) > 0.5, lungs > 0.5
    size = found.sum(dim=(1, 2, 3)) + truth.sum(dim=(1, 2, 3))
    return 2 * (found & truth).sum(dim=(1, 2, 3)) / size.clamp_min(1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="CSV")
    parser.add_argument("--output", type=Path, default=LUNGS)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep_freed_memory()
    films = Films(options.data)
    network = train(films, options.epochs, options.seed)
    weights = network.to(memory_format=torch.contiguous_format).state_dict()
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_file(half, options.output)
    print(dice_table(network, films).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
