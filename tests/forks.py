"""Python processes that need not load the libraries: each is forked from one process that has.

That process never imports the project, so that a stranger's program gets the code of a model from its folder or its
Hub alone. huggingface_hub reads the address of the Hub and the cache's folder when it is imported: both are fixed, and
the folder is a link that leads to another one for each program.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 300
CHILDREN: list[int] = []  # of a program that runs in several processes


@dataclass
class Forked:
    """A program that runs, or has ended; what it says goes to two files."""

    words: list[str]
    pid: int
    said: list[Path]
    parent: subprocess.Popen[str]

    def wait(self) -> subprocess.CompletedProcess[str]:
        assert self.parent.stdout
        code = int(self.parent.stdout.readline())
        return subprocess.CompletedProcess(self.words, code, *(file.read_text() for file in self.said))


class LoadedPython:
    """Starts programs, one at a time; `port` is where they find their Hub, if a test serves one there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment = {
            **{**kept, "HF_ENDPOINT": f"http://127.0.0.1:{self.port}", "HF_HOME": str(folder / "home")},
            **{"HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            "TQDM_MININTERVAL": "0",  # progress bars show every step
        }
        words, pipe = [sys.executable, __file__], subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment)

    def start(self, words: list[object], work: Path, home: Path | None = None, **order: Any) -> Forked:
        """Start `-m MODULE …`, which sees the project, or `-c CODE …` in the folder `work`, with the cache in `home`.

        `token`: that of the Hub; `offline`: no Hub is asked; `file_size`: no file may grow beyond, as on a full disk;
        `processes`: so many run it together, with the environment that `accelerate launch` gives each.
        """
        link, texts = self.folder / "home", [str(word) for word in words]
        link.unlink(missing_ok=True)
        home = home or Path(os.environ["HF_HOME"])
        home.mkdir(exist_ok=True)
        link.symlink_to(home)
        said = [self.folder / "stdout", self.folder / "stderr"]
        for file in said:
            file.write_text("")
        assert self.process.stdin
        assert self.process.stdout
        told = {"words": texts, "work": str(work), "said": [str(file) for file in said], **order}
        print(json.dumps(told), file=self.process.stdin, flush=True)
        return Forked(texts, int(self.process.stdout.readline()), said, self.process)

    def run(self, words: list[object], work: Path, home: Path | None = None, **order: Any):
        """Run it to its end; see `start`."""
        return self.start(words, work, home, **order).wait()

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


def _become(
    words: list[str],
    work: str,
    said: list[str],
    token: str = "",
    offline: bool = True,
    file_size: int = 0,
    processes: int = 1,
) -> None:
    """In the forked process: run the program."""
    signal.alarm(SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(said, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_TRUNC), number)
    os.chdir(work)
    if token:
        os.environ["HF_TOKEN"] = token
    if offline:
        import huggingface_hub.constants

        os.environ["HF_HUB_OFFLINE"] = "1"
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    if file_size:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if processes > 1:
        _multiply(processes)
    kind, what, *arguments = words
    sys.argv = [kind, *arguments]
    if kind == "-m":
        sys.path[0] = str(Path(__file__).parents[1])
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = work
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))


def _multiply(processes: int) -> None:
    """Fork into several processes of one training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = range(1, processes)
    rank = next((rank for rank in ranks if not _fork()), 0)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(processes), "ACCELERATE_MIXED_PRECISION": "no"}


def _fork() -> int:
    child = os.fork()
    CHILDREN.append(child) if child else CHILDREN.clear()
    return child


def _serve() -> None:
    _load()
    for line in sys.stdin:
        if child := os.fork():
            print(child, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        code = 0
        try:
            _become(**json.loads(line))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or any(os.waitpid(child, 0)[1] for child in CHILDREN))


if __name__ == "__main__":
    _serve()
