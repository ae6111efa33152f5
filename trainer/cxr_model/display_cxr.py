"""From the stored values of a DICOM file to grey. Research demonstration, not a medical device.

Each value of the header is checked against the pixels that it describes; what cannot be true of them is left out.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from .grey_cxr import to_uint8, value_range

DETAIL = 64  # stored levels between the percentiles of a film; with fewer, any rendering may be flat
LEAST_GREY, LEAST_SPREAD = 0.005, 24  # proportion between black and white; grey levels between the percentiles
MOST_PADDING, LEAST_EDGE = 0.95, 0.02  # proportion of all pixels; of those at the edges


class Header:
    """A DICOM data set of which any element may be unusable; `left_out` holds the names of those."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.left_out: set[str] = set()

    def get(self, keyword: str, dataset: Any = None) -> Any:
        """The value of an element, here or in an item: None where it is absent, text where it does not convert."""
        dataset = self.dataset if dataset is None else dataset
        try:
            return dataset.get(keyword)
        except Exception:  # pydicom raises anything on what does not convert
            self.left_out.add(keyword)
            return dataset.get_item(keyword).value.decode("ascii", "replace")

    def numbers(self, keyword: str, dataset: Any = None) -> list[float]:
        """The numbers of an element, NaN for one that is none; empty where it is absent or empty."""
        value = self.get(keyword, dataset)
        if isinstance(value, str):  # pydicom gives text where a value is no number
            value = value.strip(" \0").split("\\") if value.strip(" \0") else None
        return [] if value is None else [_to_float(number) for number in np.ravel(np.asarray(value, object))]

    def text(self, keyword: str) -> str:
        """An element in capitals; empty where it is absent."""
        return str(self.get(keyword) or "").strip(" \0").upper()


def _to_float(value: Any) -> float:
    try:
        return float(str(value).replace(",", "."))  # a decimal comma
    except (TypeError, ValueError):
        return float("nan")


def grey_from_stored(stored: np.ndarray, header: Header, bits: int) -> np.ndarray:
    """Integers [H, W] of `bits` bits -> uint8: modality LUT, VOI LUT or window, polarity (DICOM PS3.4, N.2)."""
    lowest = -(2 ** (bits - 1)) if header.dataset.PixelRepresentation else 0
    padding = _padding_mask(stored, header, lowest, bits)
    film = stored if padding is None else stored[~padding]
    values = _apply_modality(stored, header)
    grey = _apply_voi(values, film, padding, header)
    if grey is None and bits <= 8:
        whole = _apply_modality(np.arange(lowest, lowest + 2**bits), header)
        grey = to_uint8(values, float(whole.min()), float(whole.max()))
    elif grey is None:
        grey = to_uint8(values, *value_range(values if padding is None else values[~padding]))
    if header.dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    elif header.text("PresentationLUTShape") == "INVERSE":  # which is for the other alone (PS3.3, C.8.11.1)
        header.left_out.add("PresentationLUTShape")
    if padding is not None:
        grey[padding] = 0
    return grey


def _padding_mask(stored: np.ndarray, header: Header, lowest: int, bits: int) -> np.ndarray | None:
    """Pixels outside the film: bool [H, W]; None where no padding value is named, or one that the edges do not have."""
    limits = header.numbers("PixelPaddingValue")[:1]
    if not limits:
        return None
    limits += header.numbers("PixelPaddingRangeLimit")[:1]
    if np.isfinite(limits).all():
        folded = [lowest + (int(limit) - lowest) % 2**bits for limit in limits]  # it may have the other signedness
        mask: np.ndarray = (stored >= min(folded)) & (stored <= max(folded))
        edges = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
        if max(mask.mean(), LEAST_EDGE) <= edges and mask.mean() <= MOST_PADDING:
            return mask
        if not mask.any():
            return None
    header.left_out.add("PixelPaddingValue")
    return None


def _apply_modality(values: np.ndarray, header: Header) -> np.ndarray:
    """The modality LUT, else slope and intercept."""
    for item in header.get("ModalityLUTSequence") or []:
        table = _look_up(values, item, header)
        if table and np.ptp(table[0]) > 0:
            return table[0]
        header.left_out.add("ModalityLUTSequence")
    slope = (header.numbers("RescaleSlope") or [1.0])[0]
    intercept = (header.numbers("RescaleIntercept") or [0.0])[0]
    if slope == 0 or not np.isfinite([slope, intercept]).all() or max(abs(slope), abs(intercept)) > 1e9:
        header.left_out.add("RescaleSlope")
        return values
    return values if (slope, intercept) == (1, 0) else values * slope + intercept


def _apply_voi(values: np.ndarray, film: np.ndarray, padding: np.ndarray | None, header: Header) -> np.ndarray | None:
    """The first VOI LUT or window (DICOM PS3.3, C.11.2) that shows the film: uint8 [H, W]; None without one."""
    for keyword, grey in _renderings(values, header):
        if grey is not None and _has_contrast(grey if padding is None else grey[~padding], film):
            return grey
        header.left_out.add(keyword)
    return None


def _renderings(values: np.ndarray, header: Header) -> Iterator[tuple[str, np.ndarray | None]]:
    for item in header.get("VOILUTSequence") or []:
        table = _look_up(values, item, header)
        yield "VOILUTSequence", to_uint8(table[0], 0, table[1]) if table else None
    function = header.text("VOILUTFunction")
    for window in zip(header.numbers("WindowCenter"), header.numbers("WindowWidth"), strict=False):
        yield "WindowWidth", _apply_window(values, *window, function)


def _has_contrast(grey: np.ndarray, film: np.ndarray) -> bool:
    """Whether a rendering has more than one or two tones, where the film has."""
    grey, film = (pixels.reshape(-1)[:: 1 + pixels.size // 2**16] for pixels in (grey, film))
    (low, high), (black, white) = value_range(film), value_range(grey)
    between = ((grey > 0) & (grey < 255)).mean()
    return bool(high - low < DETAIL or (between >= LEAST_GREY and white - black >= LEAST_SPREAD))


def _apply_window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray | None:
    """A window by its VOI LUT function (C.11.2.1.2); None for one that cannot be."""
    linear = function not in ("SIGMOID", "LINEAR_EXACT")
    if not np.isfinite([center, width]).all() or width < linear or width <= 0:
        return None
    if function == "SIGMOID":
        return to_uint8(np.tanh(2 * (values - center) / width), -1, 1)
    if linear:
        center, width = center - 0.5, width - 1
    return to_uint8(values, center - width / 2, center + width / 2)


def _look_up(values: np.ndarray, item: Any, header: Header) -> tuple[np.ndarray, int] | None:
    """A LUT item's entries for values [H, W], and the largest entry of all; None without a usable table."""
    descriptor, data = header.numbers("LUTDescriptor", item), header.get("LUTData", item)
    if len(descriptor) != 3 or not np.isfinite(descriptor).all() or not data:
        return None
    count, first, depth = (int(number) for number in descriptor)
    count = count % 2**16 or 2**16
    if not isinstance(data, bytes):
        data = np.asarray(data).astype("<u2").tobytes()
    elif not header.dataset.original_encoding[1]:
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
    narrow = len(data) < 2 * count and (depth <= 8 or len(data) - count in (0, 1))
    if len(data) < (count if narrow else 2 * count):
        return None
    width = 1 if narrow else 2
    entries = np.frombuffer(data[: len(data) // width * width], np.uint8 if narrow else "<u2").astype(np.int64)
    first -= 2**16 if first >= 2**15 and values.min() < 0 else 0
    indices = np.rint(values).astype(np.int64) - first
    if len(entries) < 2 * count or indices.max() < count:  # else the count is too small, not the table too long
        entries = entries[:count]
    return entries[indices.clip(0, len(entries) - 1)], int(entries.max())
