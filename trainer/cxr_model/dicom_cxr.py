"""DICOM files. Research demonstration, not a medical device.

No header field leaves this module, except as a warning code.
"""

import logging
from typing import Any, BinaryIO

import numpy as np

from .grey_cxr import Radiograph, RadiographError, array_to_grey, check_size, to_uint8, value_range

try:
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, pixel_array

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote header fields
except ImportError:
    pydicom = None

LATERAL_VIEWS = {"LL", "RL", "LLD", "RLD", "LATERAL", "LAT", "LPO", "RPO", "LAO", "RAO"}
CHEST_PARTS = ("CHEST", "THORAX", "LUNG", "TORAX")
OTHER_MODALITIES = {"CT", "MR", "US", "PT", "NM", "MG", "XA", "RF", "SM", "OP"}


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file begins as DICOM does; it is left at its start."""
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00")  # with a preamble, or bare


def read_dicom(file: BinaryIO) -> Radiograph:
    """The first frame of a DICOM file.

    Raises:
        ImportError: pydicom is not installed.
        RadiographError: no image in it, or one that cannot be unpacked.
    """
    if pydicom is None:
        raise ImportError("this is a DICOM file; reading it needs pydicom: pip install pydicom")
    if b"1.2.840.10008.1.2.1.99" in file.read(2048):
        raise RadiographError(
            "deflated DICOM is not read (it can unpack without bound): store it uncompressed or as JPEG"
        )
    file.seek(0)
    dataset = pydicom.dcmread(file, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # a bare data set, without the header of a file
        syntaxes = (pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian)
        dataset.file_meta.TransferSyntaxUID = syntaxes[bool(dataset.original_encoding[0])]
    if "PixelData" not in dataset:
        raise RadiographError("this DICOM file holds no image")
    check_size(int(dataset.Columns), int(dataset.Rows))
    stored = _stored_pixels(dataset)
    if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        grey = array_to_grey(apply_color_lut(stored, dataset) if stored.ndim == 2 else stored)
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
        grey = to_uint8(apply_voi(values.astype(np.int64), dataset), 0, 2**bits - 1)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        grey = _apply_window(values, dataset)
    else:
        shown = values if padding is None or padding.all() else values[~padding]
        grey = to_uint8(values, *(_declared_range(dataset) if dataset.BitsStored <= 8 else value_range(shown)))
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
        return to_uint8(1 / (1 + np.exp(-4 * (values - center) / max(width, 1e-6))), 0, 1)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return to_uint8(values, center - width / 2, center + width / 2)


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
