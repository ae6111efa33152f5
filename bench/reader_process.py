"""What the process for TIFF, JPEG 2000 and compressed DICOM costs a good file: reading with it and without, in turn.

`python bench/reader_process.py [--repeats 9] [--json FILE]`. The files are drawn: noise of a detector over a smooth
ground, 8 and 12 bits, of three sizes. Medians of the pairs' ratios; PNG, JPEG and uncompressed DICOM start no process.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, describe_machine, write_report
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

SIZES = ((1024, 1024), (2500, 2048), (4300, 3500))
DEEP = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}


def draw(height: int, width: int) -> np.ndarray:
    """uint16 [height, width] of 12 bits."""
    rng = np.random.default_rng(0)
    ground = Image.fromarray((rng.random((32, 32)) * 3500).astype(np.int32)).resize((width, height), 3)
    return (np.asarray(ground) + rng.normal(0, 20, (height, width))).clip(0, 4095).astype(np.uint16)


def write_films(height: int, width: int) -> dict[str, bytes]:
    """A film of each kind."""
    from tests.hostile.files import dicom, saved

    film = draw(height, width)
    deep, shallow = Image.fromarray(film), Image.fromarray((film >> 4).astype(np.uint8))
    size: dict[str, Any] = {"Rows": height, "Columns": width}
    described = {"samples_per_pixel": 1, "bits_allocated": 16, "bits_stored": 12, "pixel_representation": 0}
    rle = RLELosslessEncoder.encode(
        film, rows=height, columns=width, number_of_frames=1, photometric_interpretation="MONOCHROME2", **described
    )
    return {
        "DICOM, JPEG 2000, 12 bits": dicom(
            JPEG2000Lossless, encapsulate([saved(deep, "JPEG2000", irreversible=False)]), **size, **DEEP
        ),
        "DICOM, JPEG, 8 bits": dicom(JPEGBaseline8Bit, encapsulate([saved(shallow, "JPEG", quality=95)]), **size),
        "DICOM, RLE, 12 bits": dicom(RLELossless, encapsulate([rle]), **size, **DEEP),
        "TIFF, LZW, 16 bits": saved(deep, "TIFF", compression="tiff_lzw"),
        "JPEG 2000, 8 bits": saved(shallow, "JPEG2000"),
        "PNG, 8 bits": saved(shallow, "PNG"),
        "DICOM, uncompressed": dicom(content=film.tobytes(), **size, **DEEP),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from trainer.cxr_model import ReaderProcess, read_radiograph

    process, results = ReaderProcess(), []
    process.start()
    print("| file | pixels | without, ms | with, ms | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for height, width in SIZES:
            for name, content in write_films(height, width).items():
                file = Path(folder, "film")
                file.write_bytes(content)
                pairs = []
                for _ in range(options.repeats + 1):
                    begun = time.perf_counter()
                    read_radiograph(file)
                    half = time.perf_counter()
                    read_radiograph(file, process)
                    pairs.append((1000 * (half - begun), 1000 * (time.perf_counter() - half)))
                without, beside = (statistics.median(times) for times in zip(*pairs[1:], strict=True))
                ratio = statistics.median(two / one for one, two in pairs[1:])
                results.append({"file": name, "size": [height, width], "ms": [without, beside], "ratio": ratio})
                print(f"| {name} | {height} x {width} | {without:.0f} | {beside:.0f} | {ratio:.2f} |", flush=True)
    process.close()
    write_report(options.json, machine=describe_machine(), results=results)


if __name__ == "__main__":
    main()
