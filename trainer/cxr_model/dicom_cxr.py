"""DICOM files. Research demonstration, not a medical device.

No header field leaves this module, except as a warning code; errors name elements, never their values.
"""

import io
import logging
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .bounds_cxr import check_jpeg, check_jpeg2000, dicom_end, jpeg_size
from .display_cxr import Header, grey_from_stored
from .grey_cxr import Radiograph, RadiographError, array_to_grey, check_size, to_uint8

try:
    import pydicom
    from pydicom.encaps import get_frame
    from pydicom.pixels import apply_color_lut, pixel_array

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote header fields
except ImportError:
    pydicom = None

LATERAL_VIEWS = {"LL", "RL", "LLD", "RLD", "LATERAL", "LAT", "LPO", "RPO", "LAO", "RAO"}
CHEST_PARTS = ("CHEST", "THORAX", "LUNG", "TORAX")
OTHER_MODALITIES = {"CT", "MR", "US", "PT", "NM", "MG", "XA", "RF", "SM", "OP"}
ADULT = 15  # years
A_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
DECODERS = {"gdcm": "python-gdcm", "pylibjpeg": "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"}


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file begins as DICOM does; it is left at its start."""
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00")  # with a preamble, or bare


def read_dicom(file: BinaryIO) -> Radiograph:
    """The first frame of a DICOM file.

    Raises ImportError without pydicom; RadiographError without an image that can be unpacked or a required element.
    """
    if pydicom is None:
        raise ImportError("this is a DICOM file; reading it needs pydicom 3 or newer: pip install pydicom -U")
    content = file.read()
    dataset = pydicom.dcmread(io.BytesIO(content[: dicom_end(content)]), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # a bare data set, without the header of a file
        syntaxes = (pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian)
        dataset.file_meta.TransferSyntaxUID = syntaxes[bool(dataset.original_encoding[0])]
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise RadiographError("its pixels are floating-point numbers, which are not read: export it as integers")
    if not dataset.get("PixelData"):
        raise RadiographError("this DICOM file holds no image")
    header = Header(dataset)
    for kind in ("Shared", "PerFrame"):  # enhanced objects keep the elements of a frame in groups
        for group in (header.get(f"{kind}FunctionalGroupsSequence") or [])[:1]:
            for keyword in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
                dataset.update((header.get(keyword, group) or [{}])[0])
    stored, bits = _stored_values(header)
    photometric, deep = dataset.PhotometricInterpretation, None
    if photometric == "PALETTE COLOR":
        colour = apply_color_lut(stored, dataset)
        grey = array_to_grey(to_uint8(colour, 0, 255 if colour.max() <= 255 else 65535) if bits <= 8 else colour)
    elif photometric in GREY and (stored.ndim == 2 or (stored == stored[..., :1]).all()):
        stored = stored if stored.ndim == 2 else stored[..., 0]
        grey, deep = grey_from_stored(stored, header, bits), stored if bits > 8 else None
    else:
        if photometric in GREY:
            header.left_out.add("PhotometricInterpretation")
        grey = array_to_grey(stored.astype(np.uint8) << (8 - bits) if bits <= 8 else stored)
    return Radiograph(grey, _header_warnings(header), deep)


def _required(header: Header, keyword: str, known: Any) -> int:
    """An element without which no image can be read; where it is none of `known`, RadiographError names it."""
    number = (header.numbers(keyword) or [float("nan")])[0]
    if number not in known:
        raise RadiographError(f"its header holds no usable {keyword}, which every DICOM image needs: export it again")
    return int(number)


def _stored_values(header: Header) -> tuple[np.ndarray, int]:
    """The first frame as stored, [H, W] or [H, W, 3], and how many bits its values have."""
    dataset = header.dataset
    side = range(1, 2**16)
    rows, columns = _required(header, "Rows", side), _required(header, "Columns", side)
    check_size(columns, rows)
    allocated = _required(header, "BitsAllocated", (1, 8, 16, 32, 64))
    bits = _required(header, "BitsStored", range(1, 2**16))
    if dataset.file_meta.TransferSyntaxUID == pydicom.uid.JPEGBaseline8Bit and allocated != 8:
        header.left_out.add("BitsAllocated")
        dataset.BitsAllocated = allocated = 8
    if bits > allocated:
        header.left_out.add("BitsStored")
        bits = allocated
    dataset.BitsStored = bits
    dataset.PixelRepresentation = _required(header, "PixelRepresentation", (0, 1))
    frames = (header.numbers("NumberOfFrames") or [1.0])[0]
    dataset.NumberOfFrames = int(frames) if frames >= 1 and np.isfinite(frames) else 1
    _settle_colour(header, rows * columns * allocated // 8)
    try:
        words = pixel_array(dataset, index=0, correct_unused_bits=False)
    except RuntimeError as error:  # no decoder is installed, or none there is unpacks it
        syntax = dataset.file_meta.TransferSyntaxUID.name
        decoders = [package for module, package in DECODERS.items() if not find_spec(module)]
        cure = f"pip install {decoders[0]}, or " if decoders and "JPEG" in syntax else ""
        raise RadiographError(f"cannot unpack {syntax}: {cure}store it uncompressed") from error
    high = (header.numbers("HighBit") or [bits - 1])[0]
    return _used_bits(words, bits, int(high) if high in range(allocated) else bits - 1, header)


def _settle_colour(header: Header, plane: int) -> None:
    """Bring SamplesPerPixel and PhotometricInterpretation to what the pixel data holds, `plane` bytes a sample."""
    dataset = header.dataset
    syntax = dataset.file_meta.TransferSyntaxUID
    samples = _required(header, "SamplesPerPixel", (1, 3))
    photometric = header.text("PhotometricInterpretation").replace("MONOCHROME ", "MONOCHROME")
    if not photometric:
        raise RadiographError("its header holds no PhotometricInterpretation, which every DICOM image needs")
    if syntax.is_encapsulated:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=dataset.NumberOfFrames)
        _check_frame(frame, dataset)
        held = _components(frame) or samples
    else:
        size, whole = len(dataset.PixelData), plane * dataset.NumberOfFrames
        held = 1 if samples == 3 and plane <= size <= plane + 1 else samples
        shortest = 2 * whole if photometric == "YBR_FULL_422" and held == 3 else held * whole
        if size < shortest or size >= max(2 * held * whole, 3):
            said = "Rows, Columns, SamplesPerPixel, BitsAllocated and NumberOfFrames"
            raise RadiographError(f"has {size:,} bytes of pixel data, {held * whole:,} by {said}: export it again")
    if held != samples:
        header.left_out.add("SamplesPerPixel")
        lossy = syntax in (pydicom.uid.JPEGBaseline8Bit, pydicom.uid.JPEGExtended12Bit)
        photometric = "MONOCHROME2" if held == 1 else "YBR_FULL_422" if lossy else "RGB"
        dataset.PlanarConfiguration = 0
    elif held == 3:
        planar = dataset.PlanarConfiguration = _required(header, "PlanarConfiguration", (0, 1))
        if photometric == "RGB" and dataset.BitsAllocated == 8 and not syntax.is_compressed:
            flat = np.frombuffer(dataset.PixelData, np.uint8, 3 * plane)
            unlike = [(np.ptp(flat.reshape(shape), axis) > 0).mean() for shape, axis in (((-1, 3), 1), ((3, -1), 0))]
            if unlike[planar] > 4 * unlike[1 - planar] + 0.01:  # the channels of a film are the same
                header.left_out.add("PlanarConfiguration")
                dataset.PlanarConfiguration = 1 - planar
    palette = ("PALETTE COLOR",) if held == 1 and "RedPaletteColorLookupTableData" in dataset else ()
    if photometric not in (*GREY, *(COLOUR if held == 3 else palette)):
        header.left_out.add("PhotometricInterpretation")
        photometric = "MONOCHROME2" if held == 1 else "RGB"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = held, photometric


def _check_frame(frame: bytes, dataset: Any) -> None:
    """Refuse a compressed frame that asks for more than the header says: its decoder would believe the frame."""
    if frame[:2] == b"\xff\xd8":
        check_jpeg(frame)
        size, said = jpeg_size(frame), (int(dataset.Columns), int(dataset.Rows))
        if size not in (None, said):
            raise RadiographError(f"its compressed image is {size}, its header says {said}: export it again")
    elif b"\xff\x4f\xff\x51" in frame[:200]:
        check_jpeg2000(frame)


def _components(frame: bytes) -> int:
    """Samples a pixel of a JPEG or JPEG 2000 frame; 0 for one whose start Pillow does not read."""
    try:
        return len(Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")).getbands())
    except OSError:
        return 0


def _used_bits(words: np.ndarray, bits: int, high: int, header: Header) -> tuple[np.ndarray, int]:
    """The values in allocated words, and how many bits they have (PS3.5, 8.1.1), where the pixels agree.

    Bits above BitsStored are left out where that makes the image smoother; elsewhere it is not used.
    """
    allocated = 8 * words.itemsize
    used = int(np.bitwise_or.reduce(words, axis=None)) % 2**allocated
    shift = high + 1 - bits
    if shift < 0 or (shift and used < 2**bits):  # they lie at the bottom of the word
        header.left_out.add("HighBit")
        shift = 0
    whole = words >> shift
    masked = (words << (allocated - bits - shift)) >> (allocated - bits)
    if np.array_equal(masked, whole) or _roughness(masked) <= _roughness(whole):
        return masked, bits
    header.left_out.add("BitsStored")
    return whole, allocated - shift


def _roughness(values: np.ndarray) -> float:
    """The mean step between neighbours in a row."""
    rows = values[:: 1 + len(values) // 512].astype(np.float64)
    return float(np.abs(np.diff(rows, axis=1)).mean()) if values.shape[1] > 1 else 0.0


def _header_warnings(header: Header) -> tuple[str, ...]:
    part = header.text("BodyPartExamined")
    chest = not part or any(name in part for name in CHEST_PARTS)
    codes = {
        "multi-frame": header.dataset.NumberOfFrames > 1,
        "lateral-view": header.text("ViewPosition") in LATERAL_VIEWS,
        "not-chest": not chest or header.text("Modality") in OTHER_MODALITIES,
        "implausible-header": bool(header.left_out),
        "child": _is_child(header.text("PatientAge")),
    }
    return tuple(code for code, present in codes.items() if present)


def _is_child(age: str) -> bool:
    """Whether an age as DICOM writes it (`012Y`, `018M`, `006W`, `009D`) is less than ADULT years."""
    number, unit = age[:-1], age[-1:]
    return number.isdecimal() and unit in A_YEAR and int(number) < ADULT * A_YEAR[unit]
