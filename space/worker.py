"""The models in a process of their own: they load while the page does, and a crash in a decoder does not end it."""

import gc
import itertools
import signal
import sys
import threading
import traceback
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from answer import Answer
from config import ZERO_GPU, ModelError, ModelSource
from facts import read_facts, read_figure

MAX_IN_FLIGHT = 16  # requests that are worked on at the same time: they share forward passes
Loaded = tuple[dict[str, list[str]], dict[str, str]]  # labels of each task that loaded; why another did not
DELETED = "this file is no longer here: what is sent is deleted soon after its answer; add it again"
CRASHED = "the reader stopped twice while it worked on this file, at last on it alone; others are answered as before"
FAULT = "this file could not be answered: the fault is ours, and in the log"
UNLOADED = "the models cannot be loaded at the moment; try it again later"


class Served:
    """A model that answers: its task, its labels, its files; called with a file it gives an Answer."""

    def __init__(self, source: ModelSource, labels: list[str], models: "Models") -> None:
        self.task, self.source, self.labels, self._models = source.task, source, labels, models
        self.facts, self.example = read_facts(source), read_figure(source, "example")

    def __call__(self, source: str | bytes, name: str = "", film: bool = False) -> Answer:
        """The answer for a file, or its bytes and a name; `film`: with the image, too."""
        if isinstance(source, str):
            source = str(source)  # gradio's own kind of string would take gradio along to the other process
            name = name or Path(source).name
            if not Path(source).exists():
                return Answer({"file": name, "error": DELETED})
        return self._models.predict(self.task, source, name, film)


@dataclass(eq=False)
class Request:
    """What somebody waits for.

    `alone`: it was in flight when a process ended, and goes again with no other beside it.
    """

    task: str
    source: str | bytes
    name: str
    film: bool
    alone: bool = False
    answer: Future[Answer] = field(default_factory=Future)

    def fail(self, reason: str) -> None:
        """Answer with an error."""
        self.answer.set_result(Answer({"file": self.name, "error": reason}))


class Models:
    """The models, loaded in another process; on ZeroGPU, which lends its GPU to this process, in this one.

    Where that process ends, another is started; what was in flight goes again, before what came later and each alone,
    so that a second end has one cause: that file gets an error. Where it ends while it loads, all that wait get an
    error; then, and where it ends with nothing in flight, the next request starts another.
    """

    def __init__(self, sources: list[ModelSource]) -> None:
        """Start to load; `load` waits until that is done."""
        self._sources = sources
        self._lock, self._numbers = threading.Lock(), itertools.count()  # the lock is held to change anything below
        self._waiting: deque[Request] = deque()
        self._in_flight: dict[int, Request] = {}
        self._loaded: Future[Loaded] = Future()
        self._process: BaseProcess | None = None
        self._ready = self._closed = False
        if not ZERO_GPU:
            self._start()

    def load(self) -> tuple[list[Served], dict[str, str]]:
        """The models that load, and for each task that does not, why.

        Raises:
            ModelError: the process ended before it had loaded them.
        """
        labels, failed = load_predictors(self._sources) if ZERO_GPU else self._loaded.result()
        return [Served(source, labels[source.task], self) for source in self._sources if source.task in labels], failed

    def predict(self, task: str, source: str | bytes, name: str, film: bool) -> Answer:
        """An answer of the model of that task; from any thread."""
        if ZERO_GPU:
            from predictor import LOADED

            return LOADED[task](source, name, film)
        request = Request(task, source, name, film)
        with self._lock:
            self._waiting.append(request)
            if self._process is None:
                self._start()
            self._send()
        return request.answer.result()

    def close(self) -> None:
        """End the other process."""
        with self._lock:
            self._closed, process = True, self._process
        if process:
            process.terminate()
            process.join()

    def _start(self) -> None:
        """Start a process, and a thread that hands out its answers."""
        context = get_context("spawn")
        self._ready = False
        try:
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs, self._sources), daemon=True, name="models")
            self._process.start()
        except OSError as error:
            print(f"the models' process does not start: {error}", file=sys.stderr)
            self._give_up()
            return
        theirs.close()
        threading.Thread(target=self._receive, args=(self._connection,), daemon=True, name="answers").start()

    def _send(self) -> None:
        """Send those that wait, the first ones first, until one has to be alone."""
        while self._ready and self._waiting:
            if self._in_flight and any(request.alone for request in (self._waiting[0], *self._in_flight.values())):
                return
            request, number = self._waiting.popleft(), next(self._numbers)
            self._in_flight[number] = request
            with suppress(OSError):  # the process has just ended: `_receive` hears of it, and this one was in flight
                self._connection.send((number, request.task, request.source, request.name, request.film))

    def _receive(self, connection: Connection) -> None:
        """Hand out the answers of a process until it ends."""
        try:
            loaded = connection.recv()
            with self._lock:
                self._ready = True
                self._send()
            if not self._loaded.done():
                self._loaded.set_result(loaded)
            while True:
                number, answer = connection.recv()
                with self._lock:
                    request = self._in_flight.pop(number)
                    self._send()
                request.answer.set_result(answer)
        except (EOFError, OSError):
            self._recover()

    def _recover(self) -> None:
        """The process ended: start another, which is asked again what was in flight, one at a time."""
        with self._lock:
            if self._closed:
                return
            print("the models' process ended", file=sys.stderr)
            lost, self._in_flight = [*self._in_flight.values()], {}
            for request in reversed(lost):
                if request.alone:
                    request.fail(CRASHED)
                else:
                    request.alone = True
                    self._waiting.appendleft(request)
            if self._ready and lost:  # so each start is some request's doing: there is no endless loop
                self._start()
            else:
                self._give_up()

    def _give_up(self) -> None:
        """There is no process: tell those that wait. Whoever asks next starts one."""
        self._process = None
        while self._waiting:
            self._waiting.popleft().fail(UNLOADED)
        if not self._loaded.done():
            self._loaded.set_exception(ModelError("the process that loads the models ended"))


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
    import torch
    from predictor import LOADED

    # One core is the page's: threads of a pass that wait for it only lose time.
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    connection.send(load_predictors(sources))
    gc.enable()
    one_at_a_time = threading.Lock()

    def answer(number: int, task: str, source: str | bytes, name: str, film: bool) -> None:
        try:
            result = LOADED[task](source, name, film)
        except Exception:  # whatever it is, somebody waits for an answer
            traceback.print_exc()
            result = Answer({"file": name, "error": FAULT})
        with one_at_a_time:
            connection.send((number, result))

    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        while True:
            try:
                pool.submit(answer, *connection.recv())
            except EOFError:
                return
