"""The models that ship, by their task's name: their weights lie in space/models, the code that reads them here."""

import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

from trainer.files import writing_errors
from trainer.tasks import TASKS

MODELS = Path(__file__).parents[1] / "space" / "models"  # in a checkout; an installed wheel has none
CODE = Path(__file__).parent / "cxr_model"


def unpack_shipped(task: str) -> Path | None:
    """The folder of a model that ships, complete, in the cache (HF_HOME); None where none of that name ships.

    Raises:
        WorkError: the cache cannot be written.
    """
    shipped = MODELS / task
    if task not in TASKS or not (shipped / "config.json").is_file():
        return None
    from huggingface_hub.constants import HF_HOME

    files = sorted([*(file for file in shipped.rglob("*") if file.is_file()), *CODE.glob("*_cxr.py")])
    digest = sha256(b"".join(sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:16]
    folder = Path(HF_HOME, "cxr-hub", f"{task}-{digest}")
    if folder.is_dir():
        return folder
    with writing_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = shutil.copytree(shipped, Path(temporary, task))
            for file in CODE.glob("*_cxr.py"):
                shutil.copy(file, made)
            try:
                made.rename(folder)
            except OSError:  # another process may have been faster
                if not folder.is_dir():
                    raise
    return folder
