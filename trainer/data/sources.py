"""The public chest X-ray sets: where each comes from, on whose terms, and what its file names say.

`place` reads one path of a set, as its archive or folder has it, and says which label, collection and patient it belongs to.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from trainer.data.manifest import SPLIT_FOLDERS
from trainer.tasks import plain


@dataclass(frozen=True)
class Place:
    """Where a picture belongs. `group` is a patient, empty where the set names none; a mask names the picture it is for."""

    label: str
    collection: str
    group: str = ""
    split: str = ""
    mask: bool = False


@dataclass(frozen=True)
class PublicSet:
    """One public set. `kaggle` is a handle there, `urls` are plain downloads; without either it must be fetched by hand."""

    name: str
    task: str
    title: str
    page: str
    licence: str
    citation: str
    place: Callable[[PurePosixPath], Place | None]
    kaggle: str = ""
    urls: tuple[str, ...] = ()
    by_hand: str = ""


def _folder_of(path: PurePosixPath, names: dict[str, str]) -> str:
    """The label of the innermost folder that is a class's, whatever its case and separators."""
    known = {plain(name): label for name, label in names.items()}
    return next((known[plain(part)] for part in reversed(path.parts[:-1]) if plain(part) in known), "")


def _split_of(path: PurePosixPath) -> str:
    return next((SPLIT_FOLDERS[part.lower()] for part in path.parts[:-1] if part.lower() in SPLIT_FOLDERS), "")


def _in(path: PurePosixPath, folder: str) -> bool:
    return folder in (part.lower() for part in path.parts[:-1])


def place_tb(path: PurePosixPath) -> Place | None:
    """TB_Chest_Radiography_Database/{Normal,Tuberculosis}/Normal-1.png; the sheets beside them name each picture's origin."""
    label = _folder_of(path, {"Normal": "Normal", "Tuberculosis": "Tuberculosis"})
    return Place(label, "tb-database") if label else None


def place_radiography(path: PurePosixPath) -> Place | None:
    """COVID-19_Radiography_Dataset/COVID/{images,masks}/COVID-1.png; older releases have no `images` folder."""
    names = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
    label = _folder_of(path, {name: name for name in names})
    return Place(label, "covid19-radiography", mask=_in(path, "masks")) if label else None


def place_kermany(path: PurePosixPath) -> Place | None:
    """chest_xray/{train,test}/{NORMAL,PNEUMONIA}: person1_bacteria_2.jpeg, BACTERIA-1008087-0001.jpeg, IM-0115-0001.jpeg."""
    label = _folder_of(path, {"NORMAL": "Normal", "PNEUMONIA": "Pneumonia"})
    patient = re.match(r"(person\d+|(?:BACTERIA|VIRUS|NORMAL)-\d+|(?:NORMAL2-)?IM-\d+)", path.name, re.IGNORECASE)
    if not label or _in(path, "__macosx"):
        return None
    return Place(label, "kermany", f"kermany:{patient[1].lower()}" if patient else "", _split_of(path))


def place_pa(path: PurePosixPath) -> Place | None:
    """{covid,normal,pneumonia}/*.jpg, all posterior-anterior."""
    label = _folder_of(path, {"covid": "Covid", "covid19": "Covid", "normal": "Normal", "pneumonia": "Pneumonia"})
    return Place(label, "covid-pneumonia-normal-pa") if label else None


def place_source_b(path: PurePosixPath) -> Place | None:
    """{train,val,test}/{covid,normal,pneumonia}: the merged set as its project used it, split included."""
    found = place_pa(path)
    split = _split_of(path)
    return Place(found.label, "source-b", split=split) if found and split else None


def place_montgomery(path: PurePosixPath) -> Place | None:
    """MontgomerySet/CXR_png/MCUCXR_0001_0.png (1: tuberculosis); ManualMask/{leftMask,rightMask} hold the lungs."""
    return _nlm(path, r"(MCUCXR_\d+)_([01])", "montgomery", mask=_in(path, "leftmask") or _in(path, "rightmask"))


def place_shenzhen(path: PurePosixPath) -> Place | None:
    """ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png (1: tuberculosis); some copies hold mask/CHNCXR_0001_0_mask.png."""
    return _nlm(path, r"(CHNCXR_\d+)_([01])", "shenzhen", mask=path.stem.lower().endswith("_mask"))


def _nlm(path: PurePosixPath, pattern: str, collection: str, mask: bool) -> Place | None:
    found = re.match(pattern, path.name, re.IGNORECASE)
    if not found:
        return None
    return Place(("Normal", "Tuberculosis")[int(found[2])], collection, f"{collection}:{found[1].lower()}", mask=mask)


def place_tbx11k(path: PurePosixPath) -> Place | None:
    """TBX11K/imgs/{health,sick,tb}/h0001.png; the sick without tuberculosis have no place among two labels."""
    label = _folder_of(path, {"health": "Normal", "tb": "Tuberculosis"})
    return Place(label, "tbx11k", f"tbx11k:{path.stem.lower()}") if label and _in(path, "imgs") else None


KAGGLE_PAGE = "https://www.kaggle.com/datasets/"
NLM_PAGE = "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets/"
JAEGER = (
    "Jaeger S, Candemir S, Antani S, Wang YX, Lu PX, Thoma G. Two public chest X-ray datasets for computer-aided screening "
    "of pulmonary diseases. Quant Imaging Med Surg 2014;4(6):475-7."
)
TB_HANDLE = "tawsifurrahman/tuberculosis-tb-chest-xray-dataset"
KERMANY_FILE = "f12eaf6d-6023-432f-acc9-80c9d7393433"  # ChestXRay2017.zip of version 2
COVID_HANDLE = "tawsifurrahman/covid19-radiography-database"
PA_HANDLE = "amanullahasraf/covid19-pneumonia-normal-chest-xray-pa-dataset"

PUBLIC_SETS = {
    found.name: found
    for found in (
        PublicSet(
            "tb",
            "tb",
            "Tuberculosis (TB) Chest X-ray Database (Qatar University, University of Dhaka)",
            KAGGLE_PAGE + TB_HANDLE,
            "as its page states; some of its pictures are under their own sources' terms",
            "Rahman T, Khandakar A, Kadir MA, et al. Reliable Tuberculosis Detection using Chest X-ray with Deep Learning, "
            "Segmentation and Visualization. IEEE Access 2020;8:191586-191601. doi:10.1109/ACCESS.2020.3031384",
            place_tb,
            kaggle=TB_HANDLE,
        ),
        PublicSet(
            "covid19-radiography",
            "covid",
            "COVID-19 Radiography Database (Qatar University, University of Dhaka)",
            KAGGLE_PAGE + COVID_HANDLE,
            "as its page states",
            "Chowdhury MEH, Rahman T, Khandakar A, et al. Can AI help in screening Viral and COVID-19 pneumonia? IEEE Access "
            "2020;8:132665-132676. Rahman T, Khandakar A, Qiblawey Y, et al. Exploring the Effect of Image Enhancement "
            "Techniques on COVID-19 Detection using Chest X-ray Images. arXiv:2012.02238",
            place_radiography,
            kaggle=COVID_HANDLE,
        ),
        PublicSet(
            "kermany",
            "three-class",
            "Labeled Optical Coherence Tomography and Chest X-Ray Images, the chest part (Kermany, Zhang, Goldbaum)",
            "https://data.mendeley.com/datasets/rscbjbr9sj/2",
            "CC BY 4.0",
            "Kermany DS, Goldbaum M, Cai W, et al. Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep "
            "Learning. Cell 2018;172(5):1122-1131. doi:10.17632/rscbjbr9sj.2",
            place_kermany,
            urls=(f"https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/{KERMANY_FILE}/file_downloaded",),
        ),
        PublicSet(
            "covid-pa",
            "three-class",
            "COVID19, Pneumonia and Normal Chest X-ray PA Dataset (Asraf, Islam)",
            KAGGLE_PAGE + PA_HANDLE,
            "as its page states",
            "Asraf A, Islam Z. COVID19, Pneumonia and Normal Chest X-ray PA Dataset. Mendeley Data 2021. doi:10.17632/jctsfj2sfn.1",
            place_pa,
            kaggle=PA_HANDLE,
        ),
        PublicSet(
            "source-b",
            "three-class",
            "The merged three-class set of Lung X-Ray Classification (TensorFlow 2.17), ready split",
            "the project's own page",
            "those of the three sets it was merged from",
            "cite the three sets it was merged from: kermany, covid-pa, covid19-radiography",
            place_source_b,
            by_hand="download the project's ready ZIP",
        ),
        PublicSet(
            "montgomery",
            "tb",
            "Montgomery County chest X-ray set (US National Library of Medicine)",
            NLM_PAGE,
            "free for research, its source to be acknowledged",
            JAEGER,
            place_montgomery,
            urls=("https://openi.nlm.nih.gov/imgs/collections/NLM-MontgomeryCXRSet.zip",),
        ),
        PublicSet(
            "shenzhen",
            "tb",
            "Shenzhen hospital chest X-ray set (US National Library of Medicine, Guangdong Medical College)",
            NLM_PAGE,
            "free for research, its source to be acknowledged",
            JAEGER,
            place_shenzhen,
            urls=("https://openi.nlm.nih.gov/imgs/collections/ChinaSet_AllFiles.zip",),
        ),
        PublicSet(
            "tbx11k",
            "tb",
            "TBX11K (Nankai University)",
            "https://mmcheng.net/tb/",
            "academic use, as its page states",
            "Liu Y, Wu YH, Ban Y, Wang H, Cheng MM. Rethinking Computer-aided Tuberculosis Diagnosis. CVPR 2020:2646-2655.",
            place_tbx11k,
            by_hand="download TBX11K.zip by one of the links there",
        ),
    )
}
MERGED = {"three-class": ("kermany", "covid-pa", "covid19-radiography")}
INTO_THREE = {"COVID": "Covid", "Viral Pneumonia": "Pneumonia", "Lung_Opacity": ""}  # "" has no place among the three
