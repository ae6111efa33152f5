"""Every file decoded once: uint8 grey arrays in datasets' own cache, memory-mapped and read in batches."""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from trainer.cxr_model import (
    CxrImageProcessor,
    RadiographError,
    dicom_cxr,
    display_cxr,
    grey_cxr,
    read_radiograph,
    reader_cxr,
)
from trainer.data.manifest import available_cores
from trainer.errors import WorkError

MAX_BAD_SHARE = 0.01


@dataclass
class GreyImages:
    """Decoded images, row i being row i of the manifest they were made from; `cache` begins the names of their cache
    files.
    """

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
        WorkError: more than 1 % of the files cannot be read; the first are named.
    """
    fingerprint = _fingerprint(rows, processor)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "cxr-hub-pixels"
    folder.mkdir(parents=True, exist_ok=True)
    table = _map_files(rows["file"].tolist(), processor, fingerprint, folder)
    errors = np.asarray(table.with_format("numpy")["error"][:])
    readable = np.flatnonzero(errors == "")
    skipped = rows.assign(error=errors).loc[errors != "", ["file", "error"]]
    if len(skipped) > MAX_BAD_SHARE * len(rows):
        first = "\n  ".join(skipped["error"].head(5))
        raise WorkError(f"{len(skipped)} of {len(rows)} files cannot be read (at most 1 % may be):\n  {first}")
    if len(skipped):
        table = table.select(readable)
    height, width = processor.size["height"], processor.size["width"]
    images = GreyImages(table.with_format("arrow"), height, width, folder / fingerprint)
    return rows.iloc[readable].reset_index(drop=True), images, skipped


def _map_files(files: list[str], processor: CxrImageProcessor, fingerprint: str, folder: Path) -> datasets.Dataset:
    """Columns `pixels` and `error`, from the cache where it holds them."""
    length = processor.size["height"] * processor.size["width"]
    pixels = datasets.List(datasets.Value("uint8"), length=length)
    image = datasets.Features({"image": datasets.Image(decode=False)})
    source = datasets.Dataset.from_dict({"image": files}, features=image)
    return source.with_format("arrow").map(
        _decode_batch,
        fn_kwargs={"processor": processor},
        batched=True,
        batch_size=64,
        writer_batch_size=256,
        remove_columns=["image"],
        features=datasets.Features({"pixels": pixels, "error": datasets.Value("string")}),
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
    for module in (grey_cxr, display_cxr, dicom_cxr, reader_cxr):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(str([name for name in ("pydicom", "gdcm", "pylibjpeg") if find_spec(name)]).encode())
    digest.update(f"{processor.size} {processor.resample}".encode())
    digest.update("".join(rows["sha256"]).encode())
    return digest.hexdigest()[:32]


def _decode_batch(table: pa.Table, processor: CxrImageProcessor) -> pa.Table:
    height, width = processor.size["height"], processor.size["width"]
    pixels = np.zeros((len(table), height * width), np.uint8)
    errors: list[Any] = []
    for row, image in enumerate(table.column("image").to_pylist()):
        try:
            pixels[row] = processor.resize(read_radiograph(image["path"]).pixels).reshape(-1)
            errors.append("")
        except (RadiographError, ImportError) as error:
            errors.append(str(error))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), height * width)
    return pa.table({"pixels": flat, "error": pa.array(errors, pa.string())})
