"""No network: every test session works in a Hugging Face home of its own, which its processes share."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" not in os.environ:
    HOME = tempfile.TemporaryDirectory(prefix="cxr-hub-tests-")  # deleted with the session
    os.environ["HF_HOME"] = HOME.name
SESSION = Path(os.environ["HF_HOME"])
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: threads that wait for each other only lose time
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pydicom  # noqa: E402
import pytest  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from filelock import FileLock  # noqa: E402
from hypothesis import settings  # noqa: E402
from PIL import Image  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian  # noqa: E402

from tests.forks import LoadedPython  # noqa: E402
from trainer.cli import main  # noqa: E402
from trainer.data.phantom import write_phantoms  # noqa: E402

settings.register_profile("cxr", deadline=None, max_examples=50)  # machines are noisy
settings.load_profile("cxr")
TINY = SESSION / "tiny-mobilenet"  # a network of a quarter million weights
TINY.mkdir(exist_ok=True)
(TINY / "config.json").write_text(
    json.dumps({"model_type": "mobilenet_v2", "depth_multiplier": 0.35, "finegrained_output": False})
)
QUICK = (
    "--no-pretrained",
    "--backbone",
    str(TINY),
    "--set",
    "image_size=64",
    "--set",
    "epochs=2",
    "--set",
    "batch_size=16",
    "--set",
    "mixed_precision=no",
)
SMALL = SESSION / "small-resnet"  # a network that learns phantoms from random weights in seconds
SMALL.mkdir(exist_ok=True)
_LAYERS = {"layer_type": "basic", "embedding_size": 16, "hidden_sizes": [32, 64, 128], "depths": [1, 1, 1]}
(SMALL / "config.json").write_text(json.dumps({"model_type": "resnet", **_LAYERS}))
LEARNING = ["--no-pretrained", "--backbone", str(SMALL)]
for setting in [
    "image_size=128",
    "batch_size=16",
    "learning_rate=0.003",
    "augment=none",
    "input_dropout=0",
    "weight_decay=0.0001",
    "gradient_clip=5",
    "mixed_precision=no",
]:
    LEARNING += ["--set", setting]
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    """Several trainings in one process may differ in precision."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def loaded_python(tmp_path_factory) -> Iterator[LoadedPython]:
    """Python processes of their own, without the seconds that imports take."""
    python = LoadedPython(tmp_path_factory.mktemp("python") / "process")
    yield python
    python.close()


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process of the session that asks for it makes, for all of them: to be read only."""
    folder = SESSION / "made" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            unfinished = folder.with_suffix(".part")
            make(unfinished)
            for made in SESSION.joinpath("made").glob(f"{unfinished.name}*"):  # masks lie beside phantoms
                made.rename(made.with_name(made.name.replace(".part", "")))
    return folder


def train_once(name: str, recipe: str, data: Path, *words: str) -> Path:
    """A finished run that all processes share."""

    def train(folder: Path) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        assert main(["train", recipe, "--data", str(data), "--output", str(folder), *words]) == 0

    return made_once(name, train)


@pytest.fixture(scope="session")
def phantoms() -> Path:
    return made_once("phantoms", lambda folder: write_phantoms(folder, "tb", 48, seed=7))


@pytest.fixture(scope="session")
def run(phantoms) -> Path:
    """A finished run of two epochs on phantoms."""
    return train_once("run", "tb-finetuned", phantoms, *QUICK)


@pytest.fixture(scope="session")
def covid_run() -> Path:
    """A run of four classes, one epoch on phantoms."""
    data = made_once("covid-phantoms", lambda folder: write_phantoms(folder, "covid", 48, seed=3))
    return train_once("covid-run", "covid-finetuned", data, *QUICK, "--set", "epochs=1")


@pytest.fixture(scope="session")
def marked_phantoms():
    """Draw phantoms with a white square near a corner of every image of one class: marked_phantoms(folder, seed)."""

    def draw(folder: Path, seed: int) -> Path:
        write_phantoms(folder, "tb", 120, seed)
        for file in (folder / "Tuberculosis").glob("*.png"):
            pixels = np.array(Image.open(file))
            pixels[292:312, 8:28] = 255
            Image.fromarray(pixels).save(file)
        return folder

    return draw


@pytest.fixture(scope="session")
def marked_run(marked_phantoms) -> Path:
    """A run that has learned what it was shown: the mark; a tracker watched it."""
    data = made_once("marked-phantoms", lambda folder: marked_phantoms(folder, 1))
    return train_once("marked-run", "tb-finetuned", data, *LEARNING, "--set", "epochs=8", "--report-to", "tensorboard")


@pytest.fixture(scope="session")
def film(phantoms) -> Path:
    """One that the runs here are familiar with."""
    return phantoms / "Tuberculosis" / "phantom-00007.png"


@pytest.fixture(scope="session")
def dicom_of():
    """Make a DICOM dataset of an array: dicom_of(pixels, bits=12, PhotometricInterpretation="MONOCHROME1", …)."""

    def make(pixels: np.ndarray, bits: int, **fields) -> pydicom.Dataset:
        dataset = pydicom.Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
        dataset.PatientName, dataset.PatientID, dataset.Modality = "Doe^Jane", "secret-42", "DX"
        dataset.Rows, dataset.Columns = (
            pixels.shape[-2:] if pixels.ndim == 2 or "NumberOfFrames" in fields else pixels.shape[:2]
        )
        dataset.SamplesPerPixel = 3 if pixels.ndim == 3 and "NumberOfFrames" not in fields else 1
        if dataset.SamplesPerPixel == 3:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = "RGB" if dataset.SamplesPerPixel == 3 else "MONOCHROME2"
        dataset.BitsAllocated = pixels.dtype.itemsize * 8
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
        for name, value in fields.items():
            setattr(dataset, name, value)
        dataset.PixelData = pixels.tobytes()
        return dataset

    return make
