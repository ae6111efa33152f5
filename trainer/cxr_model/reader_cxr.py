"""One reader for every radiograph file, one pixel range. Research demonstration, not a medical device.

Every source ends as uint8 grey: 0 is black (air), 255 is white (bone), whatever the file's depth, colour or polarity.
No header field, EXIF tag or file name leaves this module, except the file name in an error.
"""

import io
import os
import warnings
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .dicom_cxr import is_dicom, read_dicom
from .grey_cxr import Radiograph, RadiographError, array_to_grey, check_size

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
COLOURED = 12.0  # grey levels between the channels of a coloured image


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
            return Radiograph(array_to_grey(source))
        if isinstance(source, Image.Image):
            return _read_picture(source)
        with _open(source) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_dicom(file) if is_dicom(file) else _read_picture(Image.open(file, formats=FORMATS))
    except (RadiographError, ImportError) as error:
        raise type(error)(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise RadiographError(f"{name}: not an image that can be read; use PNG, JPEG, TIFF or DICOM") from error
    except MemoryError:  # one file's fault: it ends no batch
        raise RadiographError(f"{name}: reading it needs more memory than there is; scale it down") from None
    except Exception as error:  # decoders raise anything on a damaged file, and may quote its header
        raise RadiographError(f"{name}: damaged or unsupported ({type(error).__name__})") from None


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


def _read_picture(image: Image.Image) -> Radiograph:
    check_size(*image.size)
    frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    white_is_zero = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0
    image = ImageOps.exif_transpose(image)  # a copy: the image may be the caller's
    if image.mode in DEEP_MODES:
        grey = array_to_grey(np.asarray(image))
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
