"""A dataset of the Hub as manifest rows."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import datasets
import pandas as pd
from tqdm.auto import tqdm

from trainer.data.metadata import column_names
from trainer.data.schema import SPLIT_NAMES
from trainer.errors import UsageError
from trainer.files import write_bytes

OPTIONAL = ("group", "collection")


def read_hub_dataset(reference: str) -> pd.DataFrame:
    """`org/name[@revision]` as manifest rows; its images are laid in the datasets cache, one file each, as they were
    stored.

    The image column is the one of type Image; the label column is `label` or `labels`, or the only one of class
    labels. One split only, whatever its name, counts as none.

    Raises:
        UsageError: it cannot be reached, or has no such columns.
    """
    name, _, revision = reference.partition("@")
    try:
        loaded = datasets.load_dataset(name, revision=revision or None)
    except (OSError, ValueError, ConnectionError) as error:  # DatasetNotFoundError is an OSError
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"{reference}: neither a folder, a CSV nor a dataset that can be loaded ({reason})") from error
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "cxr-hub-files" / name.replace("/", "--")
    splits = {split: SPLIT_NAMES.get(split, "") for split in loaded} if len(loaded) > 1 else dict.fromkeys(loaded, "")
    unknown = sorted(split for split, known in splits.items() if len(loaded) > 1 and not known)
    if unknown:
        raise UsageError(f"{reference}: unknown split {', '.join(unknown)}; expected {', '.join(SPLIT_NAMES)}")
    rows = [row for split, part in loaded.items() for row in _rows(part, splits[split], folder, reference)]
    return pd.DataFrame(rows)


def _rows(part: datasets.Dataset, split: str, folder: Path, reference: str) -> Iterator[dict[str, str]]:
    image, label = _columns(part.features, reference)
    names = part.features[label].names if isinstance(part.features[label], datasets.ClassLabel) else None
    others = {key: name for key in OPTIONAL for name in column_names(part.column_names, key)[:1]}
    folder.mkdir(parents=True, exist_ok=True)
    for row in tqdm(
        part.cast_column(image, datasets.Image(decode=False)), desc=f"unpacking {reference}", unit="image", leave=False
    ):
        content = row[image]["bytes"] if row[image]["bytes"] is not None else Path(row[image]["path"]).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        file = folder / digest
        if not file.exists():
            write_bytes(file, content)
        text = names[row[label]] if names else str(row[label])
        yield {
            "file": str(file),
            "label": text,
            "split": split,
            **{key: "" if row[name] is None else str(row[name]) for key, name in others.items()},
        }


def _columns(features: datasets.Features, reference: str) -> tuple[str, str]:
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = [name for name in ("label", "labels") if name in features] or classes
    if len(images) != 1 or len(labels) != 1:
        raise UsageError(f"{reference}: needs one image column and one label column; it has {', '.join(features)}")
    return images[0], labels[0]
