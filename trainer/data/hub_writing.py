"""Images as parquet files, for a dataset repository on the Hub."""

import hashlib
import io
from collections import Counter
from pathlib import Path

import datasets
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from trainer.cxr_model import RadiographError, read_radiograph
from trainer.data.pixels import DECODE

SHARD = 1000  # images in a parquet file


def write_parquet(rows: pd.DataFrame, folder: Path, salt: bytes) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """Images as 8-bit grey PNG inside parquet files, FOLDER/data/<split>-….parquet; no header, EXIF or file name goes
    along.

    Args:
        rows: a manifest with splits.
        salt: hides the group names.

    Returns:
        Images of each split, images of each label, and the errors of files that were left out.
    """
    labels = sorted(set(rows["label"]))
    text = datasets.Value("string")
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=labels), "group": text, "collection": text}
    features = datasets.Features(columns)
    errors: list[str] = []
    splits: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(rows), desc="packing", unit="image", leave=False)
    for split, part in rows.groupby(rows["split"].replace("", "train")):
        starts = range(0, len(part), SHARD)
        for number, start in enumerate(starts):
            packed = []
            for row in part.iloc[start : start + SHARD].to_dict("records"):
                bar.update()
                try:
                    content = _png(row["file"])
                except (RadiographError, ImportError) as error:
                    errors.append(str(error))
                    continue
                group = hashlib.sha256(salt + row["group"].encode()).hexdigest()[:12]
                image = {"bytes": content, "path": None}
                packed.append({"image": image, "label": row["label"], "group": group, "collection": row["collection"]})
            target = folder / "data" / f"{split}-{number:05d}-of-{len(starts):05d}.parquet"
            datasets.Dataset.from_list(packed, features=features).to_parquet(target)
            splits[str(split)] += len(packed)
            classes.update(row["label"] for row in packed)
    bar.close()
    return dict(splits), dict(sorted(classes.items())), errors


def _png(file: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(read_radiograph(file, DECODE).pixels).save(stream, "PNG")
    return stream.getvalue()
