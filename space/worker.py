"""The models in a process of their own: they load while the page does, and what crashes a decoder does not take the page along."""

import ctypes
import gc
import itertools
import os
import platform
import signal
import sys
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from answer import Answer
from facts import read_facts, read_figure
from models import ModelError, ModelSource

TOGETHER = 16  # requests that are worked on at the same time: they share forward passes
Loaded = tuple[dict[str, list[str]], dict[str, str]]  # labels of each task that loaded; why another did not
GONE = "the reader stopped while it worked on this file; others are answered as before"


class Served:
    """A model that answers: its task, its labels, its figures; called with a file it gives an Answer."""

    def __init__(self, source: ModelSource, labels: list[str], models: "Models") -> None:
        self.task, self.source, self.labels, self._models = source.task, source, labels, models
        self.facts, self.example = read_facts(source), read_figure(source, "example.png")

    def __call__(self, source: str | bytes, name: str = "", film: bool = False) -> Answer:
        """See predictor.Predictor; bytes need a name."""
        plain = source if isinstance(source, bytes) else str(source)  # gradio's own kind of string would take gradio along
        return self._models.ask(self.task, plain, Path(name or str(source)).name, film)


class Models:
    """Loads models in another process, and asks them; on ZeroGPU, which lends its GPU to this process, in this one."""

    def __init__(self, sources: list[ModelSource]) -> None:
        """Start to load; `load` waits until that is done."""
        self._sources = sources
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._asked: dict[int, tuple[str, Future[Answer]]] = {}
        self._loaded: Future[Loaded] = Future()
        self._here, self._closed = find_spec("spaces") is not None, False
        if not self._here:
            self._start()
            threading.Thread(target=self._receive, daemon=True, name="answers").start()

    def load(self) -> tuple[list[Served], dict[str, str]]:
        """The models that load, and for each task that does not, why.

        Raises:
            ModelError: the process ended before it had loaded them.
        """
        labels, failed = load_predictors(self._sources) if self._here else self._loaded.result()
        return [Served(source, labels[source.task], self) for source in self._sources if source.task in labels], failed

    def ask(self, task: str, source: str | bytes, name: str, film: bool) -> Answer:
        """An answer of the model of that task; from any thread."""
        if self._here:
            from predictor import LOADED

            return LOADED[task](source, name, film)
        answer: Future[Answer] = Future()
        with self._lock:
            number = next(self._numbers)
            self._asked[number] = (name, answer)
            try:
                self._connection.send((number, task, source, name, film))
            except OSError:  # it has just ended; whoever notices first
                self._asked.pop(number, None)
                return Answer({"file": name, "error": GONE})
        return answer.result()

    def close(self) -> None:
        """End the other process."""
        self._closed = True
        if not self._here:
            self._process.terminate()
            self._process.join()

    def _start(self) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._sources), daemon=True, name="models")
        self._process.start()
        theirs.close()

    def _receive(self) -> None:
        """Hand out answers; where the process ended, tell those that wait, and start another."""
        while True:
            try:
                loaded = self._connection.recv()
                if not self._loaded.done():
                    self._loaded.set_result(loaded)
                while True:
                    number, answer = self._connection.recv()
                    self._asked.pop(number)[1].set_result(answer)
            except (EOFError, OSError):
                if self._closed:
                    return
                if not self._loaded.done():
                    self._loaded.set_exception(ModelError("the process that loads the models ended"))
                    return
                print("the models' process ended; it is started again", file=sys.stderr)
                with self._lock:
                    lost, self._asked = self._asked, {}
                    self._start()
                for name, future in lost.values():
                    future.set_result(Answer({"file": name, "error": GONE}))


def load_predictors(sources: list[ModelSource]) -> Loaded:
    """Load what loads into this process, and warm the first."""
    from predictor import LOADED, Predictor

    failed: dict[str, str] = {}
    for source in sources:
        try:
            Predictor(source)
        except ModelError as error:
            failed[source.task] = str(error)
            print(error, file=sys.stderr)
    for predictor in list(LOADED.values())[:1]:
        predictor.warm()
    return {task: predictor.labels for task, predictor in LOADED.items()}, failed


def _work(connection: Connection, sources: list[ModelSource]) -> None:
    """The other process: load, then answer until the page's process is gone."""
    gc.disable()  # nothing that is imported or loaded is garbage
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_freed_memory()
    import torch
    from predictor import LOADED

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores - 1))  # one core is the page's: threads of a pass that wait for it only lose time
    connection.send(load_predictors(sources))
    gc.enable()

    one_at_a_time = threading.Lock()

    def answer(number: int, task: str, source: str | bytes, name: str, film: bool) -> None:
        try:
            found = LOADED[task](source, name, film)
        except Exception:  # whatever it is, somebody waits for an answer
            traceback.print_exc()
            found = Answer({"file": name, "error": "this file could not be answered: the fault is ours, and in the log"})
        with one_at_a_time:
            connection.send((number, found))

    with ThreadPoolExecutor(TOGETHER) as pool:
        while True:
            try:
                pool.submit(answer, *connection.recv())
            except EOFError:
                return


def _keep_freed_memory() -> None:
    """Let glibc keep up to half a GiB that was freed: a pass in a thread would give its memory back, and ask for it anew page by page."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((-8, 1), (-3, 1 << 28), (-1, 1 << 29)):  # malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, value)
