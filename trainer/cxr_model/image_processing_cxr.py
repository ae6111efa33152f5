"""From a radiograph to a model's input. Research demonstration, not a medical device."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor, get_size_dict

from .grey_cxr import Radiograph
from .process_cxr import ReaderProcess
from .reader_cxr import Decode, read_radiograph

LARGEST = 2048  # pixels of a side of a model's input
TINY, LONGEST = 64, 2.0  # pixels of the shorter side; ratio of the sides
FLAT = 4.0  # standard deviation of a blank image, in grey levels
TURNED, INVERTED = 0.1, -0.2  # correlation with the mean thumbnail: gained by a turn; of the image itself


class CxrImageProcessor(BaseImageProcessor):
    """Radiograph in, `pixel_values` out: uint8 grey, resized to `size` (squashed), rescaled, normalised, 3 channels.

    `size` is {"height", "width"} in pixels, `resample` Pillow's filter number (0 nearest, 2 bilinear, 3 bicubic);
    `rescale_factor` multiplies the uint8 values before `image_mean` and `image_std`, one a channel, are applied.
    `mean_thumbnail` is the mean `thumbnail` of the training radiographs, 256 numbers; without it no image is called
    inverted or rotated. `adults`: the model learned from adults, so that a file that says a child is warned of.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012  transformers' own convention

    def __init__(
        self,
        size: dict[str, int] | Sequence[int] | int | None = None,
        resample: int = 2,
        rescale_factor: float = 1 / 255,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        mean_thumbnail: Sequence[int] | None = None,
        adults: bool = False,
        **kwargs: Any,
    ) -> None:
        mean_thumbnail = mean_thumbnail or kwargs.pop("usual_chest", None)  # its name in runs of before
        super().__init__(**kwargs)
        self.do_resize = self.do_rescale = self.do_normalize = True
        self.size = dict(get_size_dict(224 if size is None else size))
        if set(self.size) != {"height", "width"}:
            raise ValueError(f"size={size}: expected {{'height': H, 'width': W}}: the aspect ratio is not kept")
        if not all(isinstance(side, int) and 1 <= side <= LARGEST for side in self.size.values()):
            raise ValueError(f"size={size}: sides of 1 to {LARGEST} pixels are possible")
        self.resample = int(resample)
        self.rescale_factor = rescale_factor
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.mean_thumbnail = None if mean_thumbnail is None else list(mean_thumbnail)
        self.adults = adults

    def read(self, source: Any, decode: Decode | None = None) -> Radiograph:
        """`read_radiograph`, with the warnings `tiny`, `extreme-aspect`, `blank`, `inverted` and `rotated`."""
        radiograph = read_radiograph(source, decode)
        of_file = [code for code in radiograph.warnings if code != "child" or self.adults]
        return replace(radiograph, warnings=(*of_file, *self._doubts(radiograph.pixels)))

    @staticmethod
    def reader_process() -> ReaderProcess:
        """A `decode` for `read` that refuses what takes too long or too much memory, for files of anybody."""
        return ReaderProcess()

    def _doubts(self, pixels: np.ndarray) -> list[str]:
        short, long = sorted(pixels.shape)
        codes = [code for code, doubt in (("tiny", short < TINY), ("extreme-aspect", long > LONGEST * short)) if doubt]
        if pixels[:: 1 + short // 128, :: 1 + short // 128].std() < FLAT:
            return [*codes, "blank"]
        if self.mean_thumbnail is not None:
            mean, own = np.asarray(self.mean_thumbnail, np.float32).reshape(16, 16), thumbnail(pixels)
            mean /= np.linalg.norm(mean)
            upright, *turned = (float((np.rot90(mean, turns) * own).sum()) for turns in range(4))
            if upright < INVERTED and -upright > max(turned):
                codes.append("inverted")
            elif max(turned) > upright + TURNED:
                codes.append("rotated")
        return codes

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W] -> uint8 [height, width]; the aspect ratio is not kept."""
        size = (self.size["width"], self.size["height"])
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling(self.resample)))

    def to_pixel_values(self, grey: torch.Tensor) -> torch.Tensor:
        """uint8 [B, height, width] -> float32 [B, 3, height, width], normalised, channels last, on the same device."""
        mean, std = (torch.tensor(values, device=grey.device) for values in (self.image_mean, self.image_std))
        return torch.addcmul(-mean / std, grey.unsqueeze(-1).float() * self.rescale_factor, 1 / std).permute(0, 3, 1, 2)

    def preprocess(self, images: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """A source of `read_radiograph`, a list or [B, H, W, 3] -> {"pixel_values": [B, 3, height, width]}."""
        wrong = sorted(key for key, value in kwargs.items() if value is not None)
        if wrong or return_tensors not in (None, "pt", "np"):
            raise TypeError(f"the processor takes images, return_tensors 'pt' or 'np', not {wrong or return_tensors}")
        sources = images if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4 else [images]
        if len(sources) == 0:
            raise ValueError("no image was given")
        grey = torch.from_numpy(np.stack([self.resize(self.read(source).pixels) for source in sources]))
        values = self.to_pixel_values(grey)
        return BatchFeature({"pixel_values": values.numpy() if return_tensors == "np" else values})


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W] from afar, without black borders: float32 [16, 16] of mean 0 and length 1 (0 where blank)."""
    small = np.asarray(Image.fromarray(pixels).resize((96, 96), Image.Resampling.BOX))
    rows, columns = (np.flatnonzero((small > 20).mean(axis=axis) > 0.1) for axis in (1, 0))
    if min(len(rows), len(columns)) >= 10:
        small = small[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    seen = np.asarray(Image.fromarray(small).resize((16, 16), Image.Resampling.BOX), np.float32)
    seen -= seen.mean()
    return seen / max(float(np.linalg.norm(seen)), 1e-6)
