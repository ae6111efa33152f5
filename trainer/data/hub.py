"""Data on the Hub: a dataset id as training data, and a prepared folder as a dataset repository."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from trainer.cxr_model import RadiographError
from trainer.cxr_model.image_processing_cxr import read_radiograph
from trainer.data.manifest import SPLIT_FOLDERS
from trainer.errors import UsageError

OPTIONAL = ("group", "collection")
SHARD = 1000  # images in a parquet file


def read_hub_dataset(reference: str) -> pd.DataFrame:
    """`org/name[@revision]` as manifest rows; its pictures are laid in the datasets cache, one file each, as they were stored.

    The picture column is the one of type Image; the label column is `label` or `labels`, or the only one of class labels.
    With `train` alone (as most have) the data has no split of its own.

    Raises:
        UsageError: it cannot be reached, or has no such columns.
    """
    name, _, revision = reference.partition("@")
    try:
        found = datasets.load_dataset(name, revision=revision or None)
    except (OSError, ValueError, ConnectionError) as error:  # DatasetNotFoundError is an OSError
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"{reference}: neither a folder, a CSV nor a dataset that can be loaded ({reason})") from error
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "cxr-hub-files" / name.replace("/", "--")
    splits = {split: SPLIT_FOLDERS.get(split, "") for split in found} if len(found) > 1 else dict.fromkeys(found, "")
    unknown = sorted(split for split, known in splits.items() if len(found) > 1 and not known)
    if unknown:
        raise UsageError(f"{reference}: unknown split {', '.join(unknown)}; expected {', '.join(SPLIT_FOLDERS)}")
    rows = [row for split, part in found.items() for row in _rows(part, splits[split], folder, reference)]
    return pd.DataFrame(rows)


def _rows(part: datasets.Dataset, split: str, folder: Path, reference: str) -> Iterator[dict[str, str]]:
    image, label = _columns(part.features, reference)
    names = part.features[label].names if isinstance(part.features[label], datasets.ClassLabel) else None
    folder.mkdir(parents=True, exist_ok=True)
    for row in tqdm(part.cast_column(image, datasets.Image(decode=False)), desc=f"unpacking {reference}", unit="image", leave=False):
        content = row[image]["bytes"] if row[image]["bytes"] is not None else Path(row[image]["path"]).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        file = folder / digest
        if not file.exists():
            writing = file.with_suffix(f".{os.getpid()}")
            writing.write_bytes(content)
            os.replace(writing, file)
        text = names[row[label]] if names else str(row[label])
        yield {"file": str(file), "label": text, "split": split, **{key: str(row.get(key) or "") for key in OPTIONAL}}


def _columns(features: datasets.Features, reference: str) -> tuple[str, str]:
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = [name for name in ("label", "labels") if name in features] or classes
    if len(images) != 1 or len(labels) != 1:
        raise UsageError(f"{reference}: needs one image column and one label column; it has {', '.join(features)}")
    return images[0], labels[0]


def write_parquet(rows: pd.DataFrame, folder: Path, salt: bytes) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """Pictures as 8-bit grey PNG inside parquet files, FOLDER/data/<split>-….parquet; no header, EXIF or file name goes along.

    Args:
        rows: a manifest with splits.
        salt: hides the group names.

    Returns:
        Images of each split, images of each label, and the errors of files that were left out.
    """
    labels = sorted(set(rows["label"]))
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=labels),
            "group": datasets.Value("string"),
            "collection": datasets.Value("string"),
        }
    )
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
                    picture = _png(row["file"])
                except (RadiographError, ImportError) as error:
                    errors.append(str(error))
                    continue
                group = hashlib.sha256(salt + row["group"].encode()).hexdigest()[:12]
                image = {"bytes": picture, "path": None}
                packed.append({"image": image, "label": row["label"], "group": group, "collection": row["collection"]})
            target = folder / "data" / f"{split}-{number:05d}-of-{len(starts):05d}.parquet"
            datasets.Dataset.from_list(packed, features=features).to_parquet(target)
            splits[str(split)] += len(packed)
            classes.update(row["label"] for row in packed)
    bar.close()
    return dict(splits), dict(sorted(classes.items())), errors


def _png(file: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(read_radiograph(file).pixels).save(stream, "PNG")
    return stream.getvalue()
