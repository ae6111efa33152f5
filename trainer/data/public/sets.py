"""The public chest X-ray sets: their facts, and how their paths are read, from sets.toml."""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from trainer.data.schema import SPLIT_NAMES
from trainer.tasks import normalise_label

LABEL_DIGITS = {"0": "Normal", "1": "Tuberculosis"}  # at the end of a name, in the sets of the National Library
MASK_FOLDERS = ("masks", "leftmask", "rightmask")


@dataclass(frozen=True)
class ImageRecord:
    """What a path says of its image. `group` is a patient, empty where the set names none."""

    label: str
    collection: str
    group: str = ""
    split: str = ""
    mask: bool = False  # a lung mask, named as the image it belongs to


@dataclass(frozen=True)
class PublicSet:
    """One public set, as its table in sets.toml has it; the fields are explained there."""

    name: str
    title: str
    page: str
    licence: str
    citation: str
    layout: str
    collection: str
    kaggle: str = ""
    urls: list[str] = field(default_factory=list)
    by_hand: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    patient: str = ""
    inside: str = ""
    split: str = ""

    def read_path(self, path: PurePosixPath) -> ImageRecord | None:
        """What a path of the set, as its archive or folder has it, says of its image; None for other files."""
        folders = [part.lower() for part in path.parts[:-1]]
        if "__macosx" in folders or (self.inside and self.inside not in folders):
            return None
        patient = re.match(self.patient, path.name, re.IGNORECASE) if self.patient else None
        known = {normalise_label(name): label for name, label in self.labels.items()}
        names = [normalise_label(part) for part in reversed(path.parts[:-1])]
        label = next((known[name] for name in names if name in known), "")
        if patient and "label" in patient.groupdict():
            label = LABEL_DIGITS[patient["label"]]
        split = next((SPLIT_NAMES[part] for part in folders if part in SPLIT_NAMES), "") if self.split else ""
        if not label or (self.split == "required" and not split):
            return None
        group = f"{self.collection}:{patient['id'].lower()}" if patient else ""
        mask = path.stem.lower().endswith("_mask") or any(folder in MASK_FOLDERS for folder in folders)
        return ImageRecord(label, self.collection, group, split, mask)


PUBLIC_SETS = {
    name: PublicSet(name, **facts)
    for name, facts in tomllib.loads(Path(__file__).with_name("sets.toml").read_text(encoding="utf-8")).items()
}
MERGED = {"three-class": ("kermany", "covid-pa", "covid19-radiography")}
INTO_THREE = {"COVID": "Covid", "Viral Pneumonia": "Pneumonia", "Lung_Opacity": ""}  # "": not one of the three
