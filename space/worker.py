"""The models in a process of their own: they load while the page does, and a crash in a decoder does not end it."""

import ctypes
import gc
import platform
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from answer import Answer, printable
from config import TASKS, ZERO_GPU, ModelError, ModelSource
from facts import read_facts, read_figure

MAX_IN_FLIGHT = 16  # requests that are worked on at the same time: they share forward passes
Request = tuple[str, str | bytes, str, bool]  # task; path or content; name of the file; whether to give the image too
Loaded = tuple[dict[str, list[str]], dict[str, str]]  # labels of each task that loaded; why another did not
DELETED = "this file is no longer here: what is sent is deleted with its answer; add it again"
CRASHED = "the reader stopped while it worked on this file and no other; others are answered as before"
FAULT = "this file could not be answered: the fault is ours, and in the log"
UNLOADED = "the models cannot be loaded at the moment; try it again later"
# glibc's M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: a pass in a thread would give its memory back, and ask
# for it anew page by page. What is free beyond 512 MiB goes back at once, the rest after RELEASE seconds.
RELEASE = 3
ALLOCATOR = ((-8, 1), (-3, 1 << 28), (-1, 1 << 29))

_answered = threading.Event()  # since memory was released the last time


class Served:
    """A model that answers: its task, its title, its labels, its files; called with a file it gives an Answer."""

    def __init__(self, source: ModelSource, labels: list[str], models: "Models") -> None:
        self.task, self.source, self.labels, self._models = source.task, source, labels, models
        self.facts, self.example = read_facts(source), read_figure(source, "example")
        own = self.facts.get("recipe", {}).get("task", self.task) != self.task
        self.title = ", ".join(labels) if own else TASKS[self.task]  # a classifier of a user's own classes

    def __call__(self, source: str | bytes, name: str = "", film: bool = False) -> Answer:
        """The answer for a file, or its bytes and a name; `film`: with the image, too."""
        if isinstance(source, str):
            source = str(source)  # gradio's own kind of string would take gradio along to the other process
            name = name or printable(Path(source).name)
            if not Path(source).exists():
                return Answer({"file": name, "error": DELETED})
        return self._models.predict((self.task, source, name, film))


class ModelProcess:
    """A process that loads the models and answers MAX_IN_FLIGHT requests at a time, each by a pipe of its own."""

    def __init__(self, sources: list[ModelSource]) -> None:
        context = get_context("spawn")
        self._pipes, theirs = zip(*(context.Pipe() for _ in range(MAX_IN_FLIGHT)), strict=True)
        self._free: SimpleQueue[Connection] = SimpleQueue()
        self._process = context.Process(target=_work, args=(theirs, sources), daemon=True, name="models")
        self._process.start()
        for pipe in theirs:
            pipe.close()

    def load(self) -> Loaded:
        """Wait until the models are loaded; EOFError or OSError where the process ends before."""
        loaded: Loaded = self._pipes[0].recv()
        for pipe in self._pipes:
            self._free.put(pipe)
        return loaded

    def predict(self, request: Request, alone: bool = False) -> Answer:
        """Wait for a free pipe, `alone` for all of them, and then for the answer.

        Raises:
            EOFError, OSError: the process ended.
        """
        pipes = [self._free.get() for _ in range(MAX_IN_FLIGHT if alone else 1)]
        try:
            pipes[0].send(request)
            answer: Answer = pipes[0].recv()
            return answer
        finally:
            for pipe in pipes:
                self._free.put(pipe)

    def end(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


class Models:
    """The models, loaded in another process; on ZeroGPU, which lends its GPU to this process, in this one.

    Where that process ends, the first request that hears of it starts another. What was in flight goes again, each
    alone, so that a second end has one cause: that file gets an error. Where the models do not load again, all that
    wait get an error, and the next request starts another process.
    """

    def __init__(self, sources: list[ModelSource]) -> None:
        """Start to load; `load` waits until that is done."""
        self._sources, self._failures, self._closed = sources, 0, False
        self._lock = threading.Lock()  # held by a request that goes again, and while a process starts
        self._process = None if ZERO_GPU else ModelProcess(sources)

    def load(self) -> tuple[list[Served], dict[str, str]]:
        """The models that load, and for each task that does not, why.

        Raises:
            ModelError: the process ended before it had loaded them.
        """
        try:
            labels, failed = self._process.load() if self._process else load_predictors(self._sources)
        except (EOFError, OSError) as error:
            raise ModelError("the process that loads the models ended") from error
        return [Served(source, labels[source.task], self) for source in self._sources if source.task in labels], failed

    def predict(self, request: Request) -> Answer:
        """An answer of the model of that task; from any thread."""
        if ZERO_GPU:
            return _answer(request)
        process, failures = self._process, self._failures
        if process:
            with suppress(EOFError, OSError):
                return process.predict(request)
        with self._lock:
            if self._process is process and failures == self._failures:  # the first to hear of its end
                self._start()
            if not self._process:
                return Answer({"file": request[2], "error": UNLOADED})
            try:
                return self._process.predict(request, alone=True)
            except (EOFError, OSError):
                self._start()
                return Answer({"file": request[2], "error": CRASHED})

    def close(self) -> None:
        """End the other process."""
        self._closed = True
        if self._process:
            self._process.end()

    def _start(self) -> None:
        """Start a process in place of one that ended."""
        self._process = None
        if self._closed:
            return
        print("the models' process ended: another starts", file=sys.stderr)
        try:
            process = ModelProcess(self._sources)
            process.load()
            self._process = process
        except (EOFError, OSError) as error:
            self._failures += 1
            print(f"the models' process does not load them: {error!r}", file=sys.stderr)


def load_predictors(sources: list[ModelSource]) -> Loaded:
    """Load what loads into this process, and warm the first."""
    _keep_memory()
    from predictor import LOADED, Predictor

    failed: dict[str, str] = {}
    for source in sources:
        try:
            Predictor(source)
        except ModelError as error:
            failed[source.task] = str(error)
            print(error, file=sys.stderr)
    for predictor in list(LOADED.values())[: 0 if ZERO_GPU else 1]:  # a GPU is lent to requests only
        predictor.warm()
    return {task: predictor.labels for task, predictor in LOADED.items()}, failed


def _keep_memory() -> None:
    """Let glibc keep what is freed, up to the threshold of ALLOCATOR; elsewhere nothing is set."""
    if platform.libc_ver()[0] == "glibc":
        accepted = [ctypes.CDLL(None).mallopt(parameter, value) for parameter, value in ALLOCATOR]
        if not all(accepted):
            print("this glibc refuses the memory thresholds: answers take longer", file=sys.stderr)


def _release_memory() -> None:
    """Give back, after the models are loaded and from time to time, what large files took."""
    if platform.libc_ver()[0] != "glibc":
        return
    while True:
        _answered.clear()
        ctypes.CDLL(None).malloc_trim(0)
        _answered.wait()
        time.sleep(RELEASE)


def _answer(request: Request) -> Answer:
    from predictor import LOADED

    task, source, name, film = request
    return LOADED[task](source, name, film)


def _work(pipes: tuple[Connection, ...], sources: list[ModelSource]) -> None:
    """The other process: load, then answer until the page's process is gone."""
    gc.disable()  # nothing that is imported or loaded is garbage
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    # One core is the page's: threads of a pass that wait for it only lose time.
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    pipes[0].send(load_predictors(sources))
    gc.enable()
    threading.Thread(target=_release_memory, daemon=True, name="memory").start()
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        list(pool.map(_serve, pipes))


def _serve(pipe: Connection) -> None:
    """Answer what comes by one pipe, until its other end is gone."""
    with suppress(EOFError, OSError):
        while True:
            request: Request = pipe.recv()
            try:
                answer = _answer(request)
            except Exception:  # whatever it is, somebody waits for an answer
                traceback.print_exc()
                answer = Answer({"file": request[2], "error": FAULT})
            pipe.send(answer)
            del answer
            _answered.set()
