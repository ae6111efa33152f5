"""From values of any depth to uint8 grey. Research demonstration, not a medical device."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_PIXELS = 80_000_000  # a 43 x 43 cm film at 50 micrometres has 74 million
BLACK, WHITE = 0.5, 99.5  # percentiles of a deep image
SAMPLED = 2_000_000  # pixels at most that the percentiles are taken of, and that are converted at a time
PREVIEW = 768  # pixels of a side


class RadiographError(ValueError):
    """A file that cannot be read as a radiograph; the message names it and says what to do."""


@dataclass(frozen=True)
class Radiograph:
    """An image at its own size: `pixels` uint8 [H, W], 0 black; `warnings` holds codes such as `multi-frame`; of a file
    of more than 8 bits `deep` holds its values, [H, W], for viewers.
    """

    pixels: np.ndarray
    warnings: tuple[str, ...] = ()
    deep: np.ndarray | None = None

    def preview(self) -> np.ndarray | None:
        """The deep values from their least to their greatest: uint16 [h, w], black as in `pixels`, no side over PREVIEW
        pixels; None where there are no more than 256 of them.
        """
        if self.deep is None:
            return None
        stride = max(1, max(self.deep.shape) // (4 * PREVIEW))  # of a film so large that a copy of it costs much
        image = Image.fromarray(self.deep[::stride, ::stride].astype(np.float32))
        values = np.asarray(image.reduce(1 + (max(image.size) - 1) // PREVIEW))
        low, high = float(values.min()), float(values.max())
        if not 256 <= high - low < np.inf:
            return None
        shown = np.asarray(Image.fromarray(self.pixels).resize(values.shape[::-1], Image.Resampling.BOX))
        if np.corrcoef(values.reshape(-1), shown.reshape(-1))[0, 1] < 0:
            values, low, high = -values, -high, -low
        return np.rint((values - low) * (65535 / (high - low))).astype(np.uint16)


def check_size(width: int, height: int) -> None:
    """Refuse more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise RadiographError(f"{width} x {height} pixels are too many, at most {MAX_PIXELS:,}: scale it down")


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map low..high to 0..255, clipped and rounded; some rows at a time, so that little memory is needed."""
    result = np.empty(values.shape, np.uint8)
    rows = max(1, SAMPLED * len(values) // max(values.size, 1))
    for first in range(0, len(values), rows):
        part: np.ndarray = values[first : first + rows].astype(np.float32 if values.itemsize <= 2 else np.float64)
        scaled = (part - low) * (255 / max(high - low, 1e-30))
        result[first : first + rows] = np.rint(scaled.clip(0, 255))
    return result


def value_range(values: np.ndarray) -> tuple[float, float]:
    """Black and white of values that come without: percentiles, not interpolated; one value moves them by one rank."""
    sample = values.reshape(-1)[:: 1 + values.size // SAMPLED]
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise RadiographError("holds values that are no finite numbers: export it again, as integers")
    return float(np.percentile(sample, BLACK, method="higher")), float(np.percentile(sample, WHITE, method="lower"))


def array_to_grey(array: np.ndarray) -> np.ndarray:
    """An array [H, W], [H, W, 1 | 3 | 4] or [1 | 3, H, W] as uint8 grey [H, W]."""
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        array = array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise RadiographError(f"an array of shape {array.shape} is no image: expected [H, W] or [H, W, 3]")
    check_size(array.shape[1], array.shape[0])
    if np.issubdtype(array.dtype, np.floating) and array.min() < 0:
        raise RadiographError(f"floats from {array.min():g}: give 0..1, or the integers of the file")
    if array.dtype != np.uint8:
        array = to_uint8(array, *((0, 1) if array.dtype == bool else value_range(array)))
    array = np.ascontiguousarray(array)
    return array if array.ndim == 2 else np.asarray(Image.fromarray(array).convert("L"))
