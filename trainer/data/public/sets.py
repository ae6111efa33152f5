"""The public chest X-ray sets: their facts from sets.toml, and for each a function that reads what its paths say.

Such a function takes one path of a set, as its archive or folder has it, and gives the label, collection and patient.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainer.data.schema import SPLIT_NAMES
from trainer.tasks import normalise_label


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
    """One public set: its table in sets.toml, and `read_path`, which reads one path of it."""

    name: str
    task: str
    title: str
    page: str
    licence: str
    citation: str
    read_path: Callable[[PurePosixPath], ImageRecord | None]
    kaggle: str = ""
    urls: tuple[str, ...] = ()
    by_hand: str = ""


def _folder_of(path: PurePosixPath, names: dict[str, str]) -> str:
    """The label of the innermost folder that is a class's, whatever its case and separators."""
    known = {normalise_label(name): label for name, label in names.items()}
    return next(
        (known[normalise_label(part)] for part in reversed(path.parts[:-1]) if normalise_label(part) in known), ""
    )


def _split_of(path: PurePosixPath) -> str:
    return next((SPLIT_NAMES[part.lower()] for part in path.parts[:-1] if part.lower() in SPLIT_NAMES), "")


def _in(path: PurePosixPath, folder: str) -> bool:
    return folder in (part.lower() for part in path.parts[:-1])


def _tb(path: PurePosixPath) -> ImageRecord | None:
    """TB_Chest_Radiography_Database/{Normal,Tuberculosis}/Normal-1.png; the sheets beside them name each image's
    origin.
    """
    label = _folder_of(path, {"Normal": "Normal", "Tuberculosis": "Tuberculosis"})
    return ImageRecord(label, "tb-database") if label else None


def _radiography(path: PurePosixPath) -> ImageRecord | None:
    """COVID-19_Radiography_Dataset/COVID/{images,masks}/COVID-1.png; older releases have no `images` folder."""
    names = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
    label = _folder_of(path, {name: name for name in names})
    return ImageRecord(label, "covid19-radiography", mask=_in(path, "masks")) if label else None


def _kermany(path: PurePosixPath) -> ImageRecord | None:
    """chest_xray/{train,test}/{NORMAL,PNEUMONIA}: person1_bacteria_2.jpeg, BACTERIA-1008087-0001.jpeg,
    IM-0115-0001.jpeg.
    """
    label = _folder_of(path, {"NORMAL": "Normal", "PNEUMONIA": "Pneumonia"})
    patient = re.match(r"(person\d+|(?:BACTERIA|VIRUS|NORMAL)-\d+|(?:NORMAL2-)?IM-\d+)", path.name, re.IGNORECASE)
    if not label or _in(path, "__macosx"):
        return None
    return ImageRecord(label, "kermany", f"kermany:{patient[1].lower()}" if patient else "", _split_of(path))


def _pa(path: PurePosixPath) -> ImageRecord | None:
    """{covid,normal,pneumonia}/*.jpg, all posterior-anterior."""
    label = _folder_of(path, {"covid": "Covid", "covid19": "Covid", "normal": "Normal", "pneumonia": "Pneumonia"})
    return ImageRecord(label, "covid-pneumonia-normal-pa") if label else None


def _source_b(path: PurePosixPath) -> ImageRecord | None:
    """{train,val,test}/{covid,normal,pneumonia}: the merged set as its project used it, split included."""
    found = _pa(path)
    split = _split_of(path)
    return ImageRecord(found.label, "source-b", split=split) if found and split else None


def _montgomery(path: PurePosixPath) -> ImageRecord | None:
    """MontgomerySet/CXR_png/MCUCXR_0001_0.png (1: tuberculosis); ManualMask/{leftMask,rightMask} hold the lungs."""
    return _nlm(path, r"(MCUCXR_\d+)_([01])", "montgomery", mask=_in(path, "leftmask") or _in(path, "rightmask"))


def _shenzhen(path: PurePosixPath) -> ImageRecord | None:
    """ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png (1: tuberculosis); some copies hold mask/CHNCXR_0001_0_mask.png."""
    return _nlm(path, r"(CHNCXR_\d+)_([01])", "shenzhen", mask=path.stem.lower().endswith("_mask"))


def _nlm(path: PurePosixPath, pattern: str, collection: str, mask: bool) -> ImageRecord | None:
    found = re.match(pattern, path.name, re.IGNORECASE)
    if not found:
        return None
    return ImageRecord(
        ("Normal", "Tuberculosis")[int(found[2])], collection, f"{collection}:{found[1].lower()}", mask=mask
    )


def _tbx11k(path: PurePosixPath) -> ImageRecord | None:
    """TBX11K/imgs/{health,sick,tb}/h0001.png; the sick without tuberculosis have no place among two labels."""
    label = _folder_of(path, {"health": "Normal", "tb": "Tuberculosis"})
    return ImageRecord(label, "tbx11k", f"tbx11k:{path.stem.lower()}") if label and _in(path, "imgs") else None


READERS = {
    "tb": _tb,
    "covid19-radiography": _radiography,
    "kermany": _kermany,
    "covid-pa": _pa,
    "source-b": _source_b,
    "montgomery": _montgomery,
    "shenzhen": _shenzhen,
    "tbx11k": _tbx11k,
}
PUBLIC_SETS = {
    name: PublicSet(name, read_path=READERS[name], **{**facts, "urls": tuple(facts.get("urls", ()))})
    for name, facts in tomllib.loads(Path(__file__).with_name("sets.toml").read_text(encoding="utf-8")).items()
}
MERGED = {"three-class": ("kermany", "covid-pa", "covid19-radiography")}
INTO_THREE = {"COVID": "Covid", "Viral Pneumonia": "Pneumonia", "Lung_Opacity": ""}  # "": not one of the three
