"""Every file decoded once: uint8 grey arrays in datasets' own cache, memory-mapped and read in batches."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from trainer.cxr_model import CxrImageProcessor, RadiographError, ReaderProcess, image_processing_cxr, thumbnail
from trainer.errors import WorkError
from trainer.files import writing_errors
from trainer.hardware import available_cores

MAX_DAMAGED, MAX_DAMAGED_PROPORTION = 3, 0.05  # files that are set aside, whichever is more
READER = CxrImageProcessor()  # without a mean thumbnail: what it doubts of a file is the same for every model
DECODE = ReaderProcess()  # of everything that reads files of others
CHEST_LIKE = 0.1  # correlation of a collection's component with the simplest chest; eleven collections have .19 to .67
INVERTED, UNLIKE = -0.4, 0.1  # likeness to most images: of 1,500 chest radiographs 1 % had less than .36, one than .1


@dataclass
class GreyImages:
    """Decoded images in the order of a manifest's rows; `cache` begins the names of their cache files."""

    table: datasets.Dataset
    height: int
    width: int
    cache: Path

    def __len__(self) -> int:
        return len(self.table)

    def batch(self, indices: np.ndarray) -> torch.Tensor:
        """uint8 [B, height, width] of these rows."""
        column = self.table[np.asarray(indices)].column("pixels").combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=True)
        return torch.from_numpy(flat.reshape(-1, self.height, self.width).copy())

    def warnings(self) -> list[str]:
        """Of each image what the reader doubts, `code,code…`, with `inverted` and `unlike-the-others` by comparison."""
        table = self.table.with_format("numpy")
        return add_comparison(table["warnings"][:], table["thumbnail"][:])

    def mean(self, indices: np.ndarray) -> torch.Tensor:
        """The mean image of these rows, uint8 [height, width]."""
        parts = np.array_split(indices, -(-len(indices) // 256))
        total = torch.stack([self.batch(part).sum(dim=0) for part in parts]).sum(dim=0)
        return (total / len(indices)).round().to(torch.uint8)


def decode(rows: pd.DataFrame, processor: CxrImageProcessor) -> tuple[pd.DataFrame, GreyImages, pd.DataFrame]:
    """Decode the files of a manifest, or find them decoded in the cache.

    Args:
        rows: a manifest with `file` and `sha256`.
        processor: the reader and the size; what it gives is what the model will see at prediction.

    Returns:
        The rows that could be read, their images, and the rows that could not (`file`, `error`).

    Raises:
        WorkError: more than 3 files and 5 % of them cannot be read; the first are named.
    """
    fingerprint = _fingerprint(rows, processor)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "cxr-hub-pixels"
    with writing_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        table = _map_files(rows["file"].tolist(), processor, fingerprint, folder)
    errors = np.asarray(table.with_format("numpy")["error"][:])
    readable = np.flatnonzero(errors == "")
    skipped = rows.assign(error=errors).loc[errors != "", ["file", "error"]]
    if len(skipped) > max(MAX_DAMAGED, MAX_DAMAGED_PROPORTION * len(rows)):
        first = "\n  ".join(skipped["error"].head(5))
        limit = f"at most {MAX_DAMAGED_PROPORTION:.0%} or {MAX_DAMAGED} files may be"
        raise WorkError(f"{len(skipped)} of {len(rows)} files cannot be read ({limit}):\n  {first}")
    if len(skipped):
        table = table.select(readable)
    height, width = processor.size["height"], processor.size["width"]
    images = GreyImages(table.with_format("arrow"), height, width, folder / fingerprint)
    return rows.iloc[readable].reset_index(drop=True), images, skipped


def _map_files(files: list[str], processor: CxrImageProcessor, fingerprint: str, folder: Path) -> datasets.Dataset:
    """Columns `pixels`, `thumbnail`, `warnings` and `error`, from the cache where it holds them."""
    length = processor.size["height"] * processor.size["width"]
    features = {
        "pixels": datasets.List(datasets.Value("uint8"), length=length),
        "thumbnail": datasets.List(datasets.Value("float32"), length=256),
        **dict.fromkeys(("warnings", "error"), datasets.Value("string")),
    }
    source = datasets.Dataset.from_dict({"file": files})
    return source.with_format("arrow").map(
        _decode_batch,
        fn_kwargs={"processor": processor},
        batched=True,
        batch_size=64,
        writer_batch_size=256,
        remove_columns=["file"],
        features=datasets.Features(features),
        cache_file_name=str(folder / f"{fingerprint}.arrow"),
        new_fingerprint=fingerprint,
        num_proc=available_cores() if len(files) >= 512 else None,
        desc="decoding",
    )


def data_fingerprint(rows: pd.DataFrame) -> str:
    """One name for exactly these images, labels, splits and groups, wherever the files lie."""
    lines = sorted("\t".join(row) for row in rows[["sha256", "label", "split", "group"]].itertuples(index=False))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _fingerprint(rows: pd.DataFrame, processor: CxrImageProcessor) -> str:
    """Changes with the files' bytes and order, the size, the filter, the reader's own code and the decoders at hand."""
    digest = hashlib.sha256()
    for module in sorted(Path(str(image_processing_cxr.__file__)).parent.glob("*.py")):
        digest.update(module.read_bytes())
    digest.update(str([name for name in ("pydicom", "gdcm", "pylibjpeg") if find_spec(name)]).encode())
    digest.update(f"{processor.size} {processor.resample}".encode())
    digest.update("".join(rows["sha256"]).encode())
    return digest.hexdigest()[:32]


def _decode_batch(table: pa.Table, processor: CxrImageProcessor) -> pa.Table:
    pixels = np.zeros((len(table), processor.size["height"] * processor.size["width"]), np.uint8)
    thumbnails = np.zeros((len(table), 256), np.float32)
    warnings, errors = [""] * len(table), [""] * len(table)
    for row, file in enumerate(table.column("file").to_pylist()):
        try:
            radiograph = READER.read(file, DECODE)
        except (RadiographError, ImportError) as error:
            errors[row] = str(error)
            continue
        resized = processor.resize(radiograph.pixels)
        pixels[row] = resized.reshape(-1)
        thumbnails[row] = thumbnail(resized).reshape(-1)
        warnings[row] = ",".join(radiograph.warnings)
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        for name, values in (("pixels", pixels), ("thumbnail", thumbnails))
    }
    return pa.table({**arrays, "warnings": pa.array(warnings, pa.string()), "error": pa.array(errors, pa.string())})


def add_comparison(warnings: Sequence[str], thumbnails: np.ndarray) -> list[str]:
    """`warnings` with what images seem beside the others, by correlation with the first principal component.

    Args:
        warnings: codes of each image, joined by commas.
        thumbnails: `thumbnail` of each, float32 [N, 256].
    """
    component = np.linalg.eigh(thumbnails.T @ thumbnails)[1][:, -1]
    likeness = thumbnails @ component
    upright = float(component @ _chest())
    likeness *= np.sign(upright if abs(upright) > CHEST_LIKE else np.median(likeness)) or 1
    codes = np.where(likeness < INVERTED, "inverted", np.where(likeness < UNLIKE, "unlike-the-others", ""))
    return [
        ",".join(code for code in (known, other) if code) if "blank" not in known else known
        for known, other in zip(warnings, codes.tolist(), strict=True)
    ]


def _chest() -> np.ndarray:
    """A `thumbnail` of the simplest chest, 256 numbers: dark lungs beside a bright mediastinum, above an abdomen."""
    chest = np.zeros((16, 16))
    chest[3:11, 2:14] = -1
    chest[:, 6:10] = chest[12:] = 1
    chest -= chest.mean()
    return chest.reshape(-1) / np.linalg.norm(chest)


def doubts_note(files: Sequence[str], warnings: Sequence[str]) -> list[str]:
    """One sentence that counts the images that seem to be no sound radiographs."""
    doubtful = [file for file, codes in zip(files, warnings, strict=True) if codes]
    if not doubtful:
        return []
    kinds = count_doubts(warnings)
    return [f"DOUBTFUL: {len(doubtful)} of {len(files)} images ({kinds}; first: {doubtful[0]}): look at them first"]


def count_doubts(warnings: Iterable[str]) -> str:
    """`4 blank, 3 tiny`."""
    counts = Counter(code for codes in warnings for code in codes.split(",") if code)
    return ", ".join(f"{count} {code}" for code, count in counts.most_common())
