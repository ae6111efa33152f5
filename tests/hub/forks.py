"""Commands in processes of their own that need not load the libraries: each is forked from one process that has.

That process never imports the project, so that a stranger's program gets the code of a model from the Hub alone. The
address of the Hub and the cache's folder are read by huggingface_hub when it is imported: both are fixed, and the
folder is a link that leads to another one for each command.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
import types
from pathlib import Path

SECONDS = 300


class LoadedPython:
    """Starts like `python`, without the seconds that imports take."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))},
            **{"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"},
            **{"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        }
        words = [sys.executable, __file__]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=self.environment)

    def run(self, words: list[str], home: Path, work: Path, token: str) -> subprocess.CompletedProcess[str]:
        """Run `-m MODULE …` or `-c CODE …` in the folder `work`, with the cache in `home`."""
        link = self.folder / "home"
        link.unlink(missing_ok=True)
        home.mkdir(exist_ok=True)
        link.symlink_to(home)
        said = [self.folder / "stdout", self.folder / "stderr"]
        order = {"words": words, "work": str(work), "token": token, "said": [str(file) for file in said]}
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(order), file=self.process.stdin, flush=True)
        code = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(file.read_text() for file in said))

    def close(self) -> None:
        self.process.communicate()


def _load() -> None:
    import accelerate
    import datasets
    import evaluate
    import matplotlib.pyplot
    import pydicom
    import sklearn.linear_model
    import sklearn.metrics
    import timm
    import torchvision
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
    from transformers.models.mobilenet_v2 import modeling_mobilenet_v2

    del accelerate, datasets, evaluate, matplotlib, pydicom, sklearn, timm, torchvision
    del AutoImageProcessor, AutoModelForImageClassification, pipeline, modeling_mobilenet_v2


def _run(words: list[str], work: str, token: str, said: list[str]) -> None:
    """In the forked process: become the command."""
    signal.alarm(SECONDS)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(said, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(work)
    if token:
        os.environ["HF_TOKEN"] = token
    sys.path[0] = work
    kind, what, *arguments = words
    sys.argv = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))


def _serve() -> None:
    _load()
    for line in sys.stdin:
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        code = 0
        try:
            _run(**json.loads(line))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


if __name__ == "__main__":
    _serve()
