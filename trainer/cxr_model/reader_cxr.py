"""One reader for every radiograph file, one pixel range. Research demonstration, not a medical device.

Every source ends as uint8 grey: 0 is black (air), 255 is white (bone), whatever the file's depth, colour or polarity.
No header field, EXIF tag or file name leaves this module, except the file name in an error.
"""

import base64
import io
import os
import re
import stat
import sys
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .bounds_cxr import MAX_BYTES, check_image
from .dicom_cxr import is_dicom, read_dicom
from .grey_cxr import MAX_PIXELS, Radiograph, RadiographError, array_to_grey, check_size

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
SAMPLE_FORMAT, PHOTOMETRIC, PLANAR, DEPTH = 339, 262, 284, 258  # TIFF tags
SAMPLES = {("I", 1): np.uint32, ("L", 2): np.int8}  # what a TIFF file's samples are where Pillow takes them otherwise
COLOURED = 12.0  # grey levels between the channels of a coloured image, more than a JPEG makes of grey
MOST_WHITE = 0.5  # proportion of what is not black
LARGE = 30_000_000  # pixels, more than a detector has
Decode = Callable[[BinaryIO], Radiograph]
SHORTEST_BASE64 = 64  # characters; no image file is shorter


def read_radiograph(source: Any, decode: Decode | None = None) -> Radiograph:
    """Read one radiograph.

    Args:
        source: a path, bytes, a binary file, a Pillow image, or an array / tensor: [H, W], [H, W, 1 | 3 | 4] or
            [1 | 3, H, W] of uint8, deeper integers or floats from 0 up. Files: PNG, JPEG, TIFF, BMP, WebP, GIF (8 or 16
            bit, grey, RGB(A), palette, CMYK, EXIF-rotated) and DICOM, also as a base64 string or a data: URL. A web
            address is refused.
        decode: what reads an open file; by default `decode_file`, in this process.

    Raises:
        RadiographError: not a radiograph that can be read, or not in the memory there is; names the file and the cure.
        ImportError: a DICOM file, and pydicom is not installed.
    """
    name = _name(source)
    try:
        if hasattr(source, "cpu"):  # a tensor of torch
            source = source.detach().cpu().numpy()
        if isinstance(source, np.ndarray):
            return Radiograph(array_to_grey(source))
        if isinstance(source, Image.Image):
            return _read_image(source)
        with _open(source) as file:
            return (decode or decode_file)(file)
    except (RadiographError, ImportError) as error:
        raise type(error)(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise RadiographError(f"{name}: not an image that can be read: save it as PNG, JPEG or 16-bit TIFF") from error
    except Image.DecompressionBombError as error:
        raise RadiographError(f"{name}: has more than {MAX_PIXELS:,} pixels: scale it down") from error
    except MemoryError:  # one file's fault: it ends no batch
        raise RadiographError(f"{name}: reading it needs more memory than there is; scale it down") from None
    except Exception as error:  # decoders raise anything on a damaged file, and may quote its header
        raise RadiographError(f"{name}: damaged or unsupported ({type(error).__name__})") from None


def decode_file(file: BinaryIO) -> Radiograph:
    """The radiograph in an open file; raises whatever its decoder does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_dicom(file):
            return read_dicom(file)
        check_image(file)
        image = Image.open(file, formats=FORMATS)
        check_size(*image.size)  # before it is made smaller
        _read_smaller(image)
        return _read_image(image)


def _name(source: Any) -> str:
    path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    return f"the {type(source).__name__} given" if path is None or path[:5] == "data:" or len(path) > 4096 else path


def _open(source: Any) -> BinaryIO:
    if isinstance(source, (bytes, bytearray, memoryview)) or hasattr(source, "read"):
        return io.BytesIO(source.read() if hasattr(source, "read") else source)
    if not isinstance(source, (str, os.PathLike)):  # a number would be a file that is open already
        raise RadiographError("expected a path, bytes, a binary file, a Pillow image or an array")
    if re.match(r"\w{2,}://", str(source)):
        raise RadiographError("web addresses are not opened: download the file and give its path")
    if isinstance(source, str) and not os.path.exists(source) and (content := _from_base64(source)):
        return io.BytesIO(content)
    try:
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode):
            raise RadiographError("a folder: give the images in it")
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for whoever writes into it
            raise RadiographError("not a regular file")
        file = open(source, "rb")  # noqa: SIM115  the caller closes it
    except OSError as error:
        denied = isinstance(error, PermissionError)
        raise RadiographError("no permission to read it" if denied else str(error.strerror).lower()) from error
    if not 0 < status.st_size <= MAX_BYTES:
        file.close()
        raise RadiographError(f"larger than {MAX_BYTES:,} bytes" if status.st_size else "the file is empty")
    return file


def _from_base64(text: str) -> bytes:
    """The bytes of a data: URL or of a base64 string, as transformers' own pipeline takes them; empty for others."""
    if text[:5] != "data:" and len(text) < SHORTEST_BASE64:
        return b""
    try:
        return base64.b64decode("".join(text.split(",", 1)[-1].split()), validate=True)
    except ValueError:
        return b""


def _read_image(image: Image.Image) -> Radiograph:
    check_size(*image.size)
    several = image.format != "MPO" and getattr(image, "is_animated", False)
    opened, tags = image.format is not None, getattr(image, "tag_v2", {})
    kind = SAMPLES.get((image.mode, int(np.ravel(tags.get(SAMPLE_FORMAT, 1))[0]))) if tags else None
    if tags.get(PLANAR) == 2 and max(np.ravel(tags.get(DEPTH, 8))) > 8:  # Pillow takes the halves of a sample for two
        raise RadiographError("TIFF of more than 8 bits in separate planes is not read: save it as grey")
    deep = _deep_colour(image)
    image = ImageOps.exif_transpose(image)  # a copy: the image may be the caller's
    coloured = False
    if kind or image.mode in DEEP_MODES:
        deep = np.asarray(image).view(kind) if kind else np.asarray(image)
        grey = array_to_grey(deep)
        grey = 255 - grey if tags.get(PHOTOMETRIC) == 0 else grey  # Pillow inverts only the unsigned 8-bit ones
    else:
        if image.has_transparency_data:  # over black
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
        flat = image if image.mode in ("1", "L") else image.convert("RGB")
        grey = np.asarray(flat if flat.mode == "L" else flat.convert("L")) if deep is None else array_to_grey(deep)
        if flat.mode == "RGB":
            small = np.asarray(flat.resize((64, 64), Image.Resampling.BOX), np.int16)
            coloured = bool(np.ptp(small, axis=2).mean() > COLOURED)
    if not opened and image.mode == "RGB" and _is_clipped(grey):
        raise RadiographError("is all black or mostly white, as a deep film in 8 bits: give the file or name the model")
    codes = {"multi-frame": several, "coloured": coloured}
    deep = deep if deep is not None and deep.ndim == 2 else None
    return Radiograph(grey, tuple(code for code, present in codes.items() if present), deep)


def _read_smaller(image: Any) -> None:
    """Have a very large image decoded at half of its sides, where its format can: no model needs more."""
    if image.width * image.height > LARGE:
        if image.format == "JPEG":
            image.draft(None, (image.width // 2, image.height // 2))
        elif image.format == "JPEG2000":
            image.reduce = 1


def _is_clipped(grey: np.ndarray) -> bool:
    return bool(grey.max() <= 1 or np.count_nonzero(grey == 255) > MOST_WHITE * np.count_nonzero(grey))


def _deep_colour(image: Any) -> np.ndarray | None:
    """The 16-bit samples of a colour image that is not loaded yet, [H, W] or [H, W, 3] over black; None for others.

    Pillow keeps one byte of each sample: the upper ones are read as it does, the lower ones in the other byte order.
    """
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    rawmode = arguments if isinstance(arguments, str) else str(arguments[0])
    kind, _, order = rawmode.partition(";16")
    if kind not in ("LA", "RGB", "RGBX", "RGBA", "RGBa") or order not in ("B", "L", "N"):
        return None
    position = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(position)

    def decode(rawmode: str, mode: str = "") -> np.ndarray:
        half: Any = Image.open(io.BytesIO(content), formats=FORMATS)
        half._mode = mode or half.mode
        half.tile = [(*tile[:3], rawmode if isinstance(tile[3], str) else (rawmode, *tile[3][1:])) for tile in tiles]
        return np.asarray(ImageOps.exif_transpose(half)).astype(np.uint32)

    if kind == "LA":
        words = decode("I;32B", "I")
        return ((words >> 16) * ((words & 0xFFFF) / 0xFFFF)).astype(np.uint16)
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[order]
    samples = decode(rawmode) << 8 | decode(f"{kind};16{other}")
    alpha = samples[..., 3:] if kind == "RGBA" else np.full((1, 1, 1), 0xFFFF)
    return (samples[..., :3] * (alpha / 0xFFFF)).astype(np.uint16)
