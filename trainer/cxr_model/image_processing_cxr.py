"""One reader for every radiograph file, one pixel range. Research demonstration, not a medical device.

Every source ends as uint8 grey: 0 is black (air), 255 is white (bone), whatever the file's depth, colour or polarity.
8 bits stay as they are. What is deeper and has no window is stretched between percentiles, so no pixel rules the others.
No header field, EXIF tag or file name leaves this module, except the file name in an error.
"""

import io
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

try:
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, pixel_array

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote header fields
except ImportError:
    pydicom = None

MAX_PIXELS = 80_000_000  # a 43 x 43 cm film at 50 micrometres has 74 million
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
LATERAL_VIEWS = {"LL", "RL", "LLD", "RLD", "LATERAL", "LAT", "LPO", "RPO", "LAO", "RAO"}
BLACK, WHITE, SAMPLED = 0.5, 99.5, 2_000_000  # percentiles of a deep picture; most of its pixels they are taken of
CHEST_PARTS = ("CHEST", "THORAX", "LUNG", "TORAX")
OTHER_MODALITIES = {"CT", "MR", "US", "PT", "NM", "MG", "XA", "RF", "SM", "OP"}
TINY, LONGEST, FLAT, COLOURED = 64, 2.0, 4.0, 12.0  # pixels a side; sides' ratio; grey levels: spread of a blank, between channels
TURNED, INVERTED = 0.1, -0.2  # correlation with the usual chest: gained by a turn; of the picture itself


class RadiographError(ValueError):
    """A file that cannot be read as a radiograph; the message names it and says what to do."""


@dataclass(frozen=True)
class Radiograph:
    """A picture at its own size: `pixels` uint8 [H, W], 0 black; `warnings` holds codes such as `multi-frame`."""

    pixels: np.ndarray
    warnings: tuple[str, ...] = ()


def read_radiograph(source: Any) -> Radiograph:
    """Read one radiograph.

    Args:
        source: a path, bytes, a binary file, a Pillow image, or an array / tensor: [H, W], [H, W, 1 | 3 | 4] or
            [1 | 3, H, W] of uint8, deeper integers or floats from 0 up. Files: PNG, JPEG, TIFF, BMP, WebP, GIF (8 or 16
            bit, grey, RGB(A), palette, CMYK, EXIF-rotated) and DICOM. A web address is refused.

    Raises:
        RadiographError: not a radiograph that can be read, or not in the memory there is; names the file and the cure.
        ImportError: a DICOM file, and pydicom is not installed.
    """
    name = _name(source)
    try:
        if isinstance(source, torch.Tensor):
            source = source.detach().cpu().numpy()
        if isinstance(source, np.ndarray):
            return Radiograph(_array_to_grey(source))
        if isinstance(source, Image.Image):
            return _read_picture(source)
        with _open(source) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read_dicom(file) if _is_dicom(file) else _read_picture(Image.open(file, formats=FORMATS))
    except (RadiographError, ImportError) as error:
        raise type(error)(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise RadiographError(f"{name}: not a picture that can be read; use PNG, JPEG, TIFF or DICOM") from error
    except MemoryError:  # one file's fault: it ends no batch
        raise RadiographError(f"{name}: reading it needs more memory than there is; scale it down") from None
    except Exception as error:  # decoders raise anything on a damaged file, and may quote its header
        raise RadiographError(f"{name}: damaged or unsupported ({type(error).__name__})") from None


class CxrImageProcessor(BaseImageProcessor):
    """Radiograph in, `pixel_values` out: read to uint8 grey, resize to `size` (squashed), rescale, normalise, repeat to 3 channels.

    `size` is {"height", "width"} in pixels, `resample` Pillow's filter number (0 nearest, 2 bilinear, 3 bicubic);
    `rescale_factor` multiplies the uint8 values before `image_mean` and `image_std`, one a channel, are applied.
    `usual_chest` is the mean `outline` of the training radiographs, 256 numbers; without it no picture is called inverted or rotated.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012  transformers' own convention

    def __init__(
        self,
        size: dict[str, int] | None = None,
        resample: int = 2,
        rescale_factor: float = 1 / 255,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        usual_chest: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.do_resize = self.do_rescale = self.do_normalize = True
        self.size = {key: int((size or {}).get(key, 224)) for key in ("height", "width")}
        self.resample = int(resample)
        self.rescale_factor = rescale_factor
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.usual_chest = None if usual_chest is None else list(usual_chest)

    def read(self, source: Any) -> Radiograph:
        """`read_radiograph`, and what of `tiny`, `extreme-aspect`, `blank`, `inverted` and `rotated` the picture seems to be."""
        found = read_radiograph(source)
        return replace(found, warnings=(*found.warnings, *self._doubts(found.pixels)))

    def _doubts(self, pixels: np.ndarray) -> list[str]:
        short, long = sorted(pixels.shape)
        codes = [code for code, doubt in (("tiny", short < TINY), ("extreme-aspect", long > LONGEST * short)) if doubt]
        if pixels[:: 1 + short // 256, :: 1 + short // 256].std() < FLAT:
            return [*codes, "blank"]
        if self.usual_chest is not None:
            usual, shown = np.asarray(self.usual_chest, np.float32).reshape(16, 16), outline(pixels)
            upright, *turned = (float((np.rot90(usual, turns) * shown).sum() / np.linalg.norm(usual)) for turns in range(4))
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
        """One source of `read_radiograph`, or a list of them -> {"pixel_values": [B, 3, height, width]}, `pt` or `np`."""
        wrong = sorted(key for key, value in kwargs.items() if value is not None)
        if wrong or return_tensors not in (None, "pt", "np"):
            raise TypeError(f"the processor takes images and return_tensors 'pt' or 'np', not {wrong or return_tensors}")
        sources = images if isinstance(images, (list, tuple)) else [images]
        grey = torch.from_numpy(np.stack([self.resize(self.read(source).pixels) for source in sources]))
        values = self.to_pixel_values(grey)
        return BatchFeature({"pixel_values": values.numpy() if return_tensors == "np" else values})


def outline(pixels: np.ndarray) -> np.ndarray:
    """What uint8 [H, W] looks like from afar, without black borders: float32 [16, 16] of mean 0 and length 1 (0 where blank)."""
    small = np.asarray(Image.fromarray(pixels).resize((96, 96), Image.Resampling.BOX))
    rows, columns = (np.flatnonzero((small > 20).mean(axis=axis) > 0.1) for axis in (1, 0))
    if min(len(rows), len(columns)) >= 10:
        small = small[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    seen = np.asarray(Image.fromarray(small).resize((16, 16), Image.Resampling.BOX), np.float32)
    seen -= seen.mean()
    return seen / max(float(np.linalg.norm(seen)), 1e-6)


def _name(source: Any) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"the {type(source).__name__} given"


def _open(source: Any) -> BinaryIO:
    if isinstance(source, bytes) or hasattr(source, "read"):
        return io.BytesIO(source if isinstance(source, bytes) else source.read())
    if str(source).startswith(("http://", "https://")):
        raise RadiographError("web addresses are not opened: download the file and give its path")
    try:
        file = open(source, "rb")  # noqa: SIM115  the caller closes it
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        reasons = {FileNotFoundError: "no such file", IsADirectoryError: "a folder, not a file"}
        raise RadiographError(reasons.get(type(error), "no permission to read it")) from error
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise RadiographError("the file is empty")
    return file


def _is_dicom(file: BinaryIO) -> bool:
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00")  # with a preamble, or bare


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise RadiographError(f"{width} x {height} pixels are too many, at most {MAX_PIXELS:,}: scale it down")


def _to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map low..high to 0..255, clipped and rounded."""
    scaled = (values.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def _value_range(values: np.ndarray) -> tuple[float, float]:
    """Black and white of values that come without: percentiles, not interpolated; one value moves them by one rank."""
    sample = values.reshape(-1)[:: 1 + values.size // SAMPLED]
    if not np.isfinite(values).all():
        raise RadiographError("holds values that are not finite")
    return float(np.percentile(sample, BLACK, method="higher")), float(np.percentile(sample, WHITE, method="lower"))


def _read_picture(image: Image.Image) -> Radiograph:
    _check_size(*image.size)
    frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    white_is_zero = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0
    image = ImageOps.exif_transpose(image)  # a copy: the picture may be the caller's
    if image.mode in DEEP_MODES:
        grey = _array_to_grey(np.asarray(image))
        grey, coloured = 255 - grey if white_is_zero else grey, False  # Pillow inverts only the 8-bit ones
    else:
        flat = _flatten(image)
        grey, coloured = np.asarray(flat if flat.mode == "L" else flat.convert("L")), _is_coloured(flat)
    codes = {"multi-frame": frames > 1, "coloured": coloured}
    return Radiograph(grey, tuple(code for code, present in codes.items() if present))


def _is_coloured(image: Image.Image) -> bool:
    """Whether the channels differ by more than a JPEG makes of grey."""
    if image.mode != "RGB":
        return False
    small = np.asarray(image.resize((64, 64), Image.Resampling.BOX), np.int16)
    return float(np.ptp(small, axis=2).mean()) > COLOURED


def _flatten(image: Image.Image) -> Image.Image:
    """Transparency over black; palettes and CMYK to RGB."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image if image.mode in ("1", "L") else image.convert("RGB")


def _array_to_grey(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        array = array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise RadiographError(f"an array of shape {array.shape} is no picture: expected [H, W] or [H, W, 3]")
    _check_size(array.shape[1], array.shape[0])
    if np.issubdtype(array.dtype, np.floating) and array.min() < 0:
        raise RadiographError(f"floats from {array.min():g}: give 0..1, or the integers of the file")
    if array.dtype != np.uint8:
        array = _to_uint8(array, *((0, 1) if array.dtype == bool else _value_range(array)))
    array = np.ascontiguousarray(array)
    return array if array.ndim == 2 else np.asarray(Image.fromarray(array).convert("L"))


def _read_dicom(file: BinaryIO) -> Radiograph:
    if pydicom is None:
        raise ImportError("this is a DICOM file; reading it needs pydicom: pip install pydicom")
    if b"1.2.840.10008.1.2.1.99" in file.read(2048):
        raise RadiographError("deflated DICOM is not read (it can unpack without bound): store it uncompressed or as JPEG")
    file.seek(0)
    dataset = pydicom.dcmread(file, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # a bare data set, without the header of a file
        syntaxes = (pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian)
        dataset.file_meta.TransferSyntaxUID = syntaxes[bool(dataset.original_encoding[0])]
    if "PixelData" not in dataset:
        raise RadiographError("this DICOM file holds no picture")
    _check_size(int(dataset.Columns), int(dataset.Rows))
    stored = _stored_pixels(dataset)
    if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        grey = _array_to_grey(apply_color_lut(stored, dataset) if stored.ndim == 2 else stored)
    else:
        grey = _grey_from_stored(stored, dataset)
    return Radiograph(grey, _header_warnings(dataset))


def _stored_pixels(dataset: Any) -> np.ndarray:
    """The first frame as stored, [H, W] or [H, W, 3]."""
    try:
        return pixel_array(dataset, index=0)
    except (RuntimeError, NotImplementedError) as error:
        syntax = dataset.file_meta.TransferSyntaxUID.name
        raise RadiographError(f"cannot unpack {syntax}: pip install python-gdcm, or store it uncompressed") from error


def _grey_from_stored(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Modality LUT, then VOI LUT or window, then polarity (DICOM PS3.4, N.2); padding is black."""
    padding = _padding_mask(stored, dataset)
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        grey = _to_uint8(apply_voi(values.astype(np.int64), dataset), 0, 2**bits - 1)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        grey = _apply_window(values, dataset)
    else:
        shown = values if padding is None or padding.all() else values[~padding]
        grey = _to_uint8(values, *(_declared_range(dataset) if dataset.BitsStored <= 8 else _value_range(shown)))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    if padding is not None:
        grey[padding] = 0
    return grey


def _declared_range(dataset: Any) -> tuple[float, float]:
    """The smallest and the largest value that the declared bits can hold, after the modality LUT."""
    low = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
    reach = apply_modality_lut(np.arange(low, low + 2**dataset.BitsStored), dataset)
    return float(reach.min()), float(reach.max())


def _apply_window(values: np.ndarray, dataset: Any) -> np.ndarray:
    """The first window, by its VOI LUT function (DICOM PS3.3, C.11.2.1.2)."""
    center, width = (float(np.atleast_1d(dataset[key].value)[0]) for key in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return _to_uint8(1 / (1 + np.exp(-4 * (values - center) / max(width, 1e-6))), 0, 1)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return _to_uint8(values, center - width / 2, center + width / 2)


def _padding_mask(stored: np.ndarray, dataset: Any) -> np.ndarray | None:
    """Pixels outside the film: [H, W] bool, or None where the header names no padding value."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (stored >= low) & (stored <= high)


def _header_warnings(dataset: Any) -> tuple[str, ...]:
    part = str(dataset.get("BodyPartExamined") or "").upper()
    chest = not part or any(name in part for name in CHEST_PARTS)
    found = {
        "multi-frame": int(dataset.get("NumberOfFrames") or 1) > 1,
        "lateral-view": str(dataset.get("ViewPosition") or "").upper() in LATERAL_VIEWS,
        "not-chest": not chest or str(dataset.get("Modality") or "").upper() in OTHER_MODALITIES,
    }
    return tuple(code for code, present in found.items() if present)
