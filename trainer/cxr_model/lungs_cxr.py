"""Where the lungs of a radiograph are, and views of them. Research demonstration, not a medical device."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 128  # pixels of a side that the lung network sees
LEVELS = 64  # grey levels of equalisation
SMALLEST, LARGEST = 0.05, 0.75  # proportions of the film that lungs take
JITTER = 0.05  # of the box's sides in training: how far each of its ends moves at most
LEAST_SIDE, MOST_DOUBTFUL = 0.12, 0.55  # proportions of the lungs: in one half of the film, and neither in nor out


class LungNetwork(nn.Module):
    """A small U-Net (arXiv:1505.04597): grey [B, 1, 128, 128] of any exposure to the logits of the lung fields
    [B, 2, 128, 128], without and with the lung behind the heart. Inside it works on blocks of 2 x 2 pixels.
    """

    WIDTHS = (24, 40, 64, 96)

    def __init__(self) -> None:
        super().__init__()
        widths = self.WIDTHS
        self.down = nn.ModuleList(
            nn.Sequential(_block(before, width), _block(width, width))
            for before, width in zip((4, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            _block(below + width, width) for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(widths[0], 8, 1)

    def forward(self, grey: Tensor) -> Tensor:
        """Logits of the lung fields; the grey is standardised here, so that its scale is free."""
        mean, std = grey.mean(dim=(2, 3), keepdim=True), grey.std(dim=(2, 3), keepdim=True)
        hidden = F.pixel_unshuffle((grey - mean) / (std + 1e-6), 2)
        passed: list[Tensor] = []
        for level in self.down:
            hidden = level(F.max_pool2d(hidden, 2) if passed else hidden)
            passed.append(hidden)
        for level, beside in zip(self.up, passed[-2::-1], strict=True):
            larger = F.interpolate(hidden, scale_factor=2.0, mode="nearest")
            hidden = level(torch.cat([larger, beside], dim=1))
        return F.pixel_shuffle(self.out(hidden), 2)


def _block(before: int, after: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


def whole_film(images: Tensor) -> Tensor:
    """The box [B, 4] of all of each image."""
    return torch.tensor([0.0, 0.0, 1.0, 1.0], device=images.device).expand(images.shape[0], 4)


def resample(images: Tensor, box: Tensor, size: int) -> Tensor:
    """The part of images [B, C, H, W] inside a box [B, 4] (left, top, right, bottom, in 0..1), as [B, C, size, size].

    Bilinear, averaged over what one new pixel covers where it shrinks, as Pillow does.
    """
    rows = _weights(box[:, 1], box[:, 3], images.shape[2], size).to(images.dtype)
    columns = _weights(box[:, 0], box[:, 2], images.shape[3], size).to(images.dtype)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _weights(low: Tensor, high: Tensor, length: int, size: int) -> Tensor:
    """How much each of `length` pixels counts for each of `size` new ones between two ends: [B, size, length]."""
    step = ((high - low) * length / size)[:, None]
    centres = low[:, None] * length + (torch.arange(size, device=low.device) + 0.5) * step - 0.5
    apart = (centres[:, :, None] - torch.arange(length, device=low.device)).abs()
    weights = (1 - apart / step.clamp_min(1.0)[:, :, None]).clamp_min(0.0)
    return weights / weights.sum(dim=2, keepdim=True).clamp_min(1e-6)


class LungViews(nn.Module):
    """The lungs of a film, and views of it that a backbone is shown, all of one size.

    `film` is the film itself, `lungs` the film cropped to the lungs and a margin, `lungs-equalised` that with the grey
    levels of the lungs spread evenly. All are shrunk to `level` pixels a side first, so that they are equally sharp.
    """

    def __init__(self, names: list[str], level: int) -> None:
        super().__init__()
        self.names, self.level = names, level
        self.network = LungNetwork()

    def train(self, mode: bool = True) -> "LungViews":
        """Training mode jitters the box; the lung network stays as it is."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, grey: Tensor, looked_at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Grey [B, 1, S, S] in 0..1 -> views [B, V, S, S], lung fields [B, 1, 128, 128] in 0..1, box [B, 4].

        The lungs are looked for in `looked_at`: the same images, or what they were before something was hidden.
        """
        whole = whole_film(grey)
        fields = self.network(resample(looked_at, whole, SIDE)).float().sigmoid()
        fields = fields.amax(dim=1, keepdim=True)  # with the lung behind the heart
        box = lung_box(fields)
        if self.training:
            sides = (box[:, 2:] - box[:, :2]).repeat(1, 2)
            box = (box + JITTER * sides * (2 * torch.rand_like(box) - 1)).clamp(0.0, 1.0)
        views = [self._view(name, grey, fields, whole if name == "film" else box) for name in self.names]
        return torch.cat(views, dim=1), fields, box

    def _view(self, name: str, grey: Tensor, fields: Tensor, box: Tensor) -> Tensor:
        size = grey.shape[-1]
        small = resample(grey, box, self.level or size)
        if name == "lungs-equalised":
            small = equalise(small, resample(fields, box, self.level or size))
        return small if small.shape[-1] == size else resample(small, whole_film(small), size)


def lung_box(fields: Tensor, tail: float = 0.01, margin: float = 0.06) -> Tensor:
    """The box [B, 4] (left, top, right, bottom, in 0..1) around lung fields [B, 1, H, W].

    It leaves `tail` of the fields' area out at each side, so that specks do not count, and adds `margin` of its size.
    """
    sides = []
    for dimension in (2, 3):  # over rows: left and right; over columns: top and bottom
        profile = fields.sum(dim=(1, dimension)) + 1e-4
        profile = profile / profile.sum(dim=1, keepdim=True)
        before = profile.cumsum(dim=1) - profile
        low, high = (((q - before) / profile).clamp(0.0, 1.0).mean(dim=1) for q in (tail, 1 - tail))
        room = margin * (high - low)
        sides.append(((low - room).clamp_min(0.0), (high + room).clamp_max(1.0)))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1)


def equalise(grey: Tensor, fields: Tensor) -> Tensor:
    """Grey [B, 1, H, W] in 0..1 through the cumulative histogram of its pixels within `fields`, over 64 levels."""
    position = grey.clamp(0.0, 1.0).flatten(1) * (LEVELS - 1)
    level = position.floor().clamp_max(LEVELS - 2.0)
    part, index = position - level, level.long()
    weight = fields.flatten(1).to(grey.dtype) + 1e-4
    histogram = torch.zeros(grey.shape[0], LEVELS, dtype=weight.dtype, device=grey.device)
    histogram = histogram.scatter_add(1, index, weight * (1 - part)).scatter_add(1, index + 1, weight * part)
    histogram = histogram / histogram.sum(dim=1, keepdim=True)
    shares = histogram.cumsum(dim=1) - histogram / 2
    low, high = shares.gather(1, index), shares.gather(1, index + 1)
    return (low + part * (high - low)).view_as(grey)


def lungs_are_plausible(fields: Tensor) -> Tensor:
    """Whether lung fields [B, H, W] in 0..1 look like two lungs: on both sides, neither tiny nor huge, and of clear
    borders, which nothing else has; bool [B].
    """
    area, columns = fields.mean(dim=(1, 2)), fields.sum(dim=1)
    half = columns.shape[1] // 2
    sides = torch.stack([columns[:, :half].sum(dim=1), columns[:, half:].sum(dim=1)]) / columns.sum(dim=1)
    doubtful = ((fields > 0.1) & (fields < 0.9)).sum(dim=(1, 2)) / (fields > 0.1).sum(dim=(1, 2)).clamp_min(1)
    return (area > SMALLEST) & (area < LARGEST) & (sides.amin(dim=0) > LEAST_SIDE) & (doubtful < MOST_DOUBTFUL)
