"""Requests that come at the same time share one forward pass."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch


class SharedPass:
    """Call it with one image from any thread: those that wait while a pass runs go into the next one together."""

    def __init__(self, run: Callable[[torch.Tensor], Sequence[Any]], most: int = 16) -> None:
        """`run` answers a batch [B, …] with B answers; no more than `most` images share a pass."""
        self._run, self._most = run, most
        self._waiting: queue.SimpleQueue[tuple[torch.Tensor, Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="shared pass").start()

    def __call__(self, picture: torch.Tensor) -> Any:
        """The answer for one image [H, W]; what `run` raises is raised to each that shared the pass."""
        answer: Future[Any] = Future()
        self._waiting.put((picture, answer))
        return answer.result()

    def _serve(self) -> None:
        while True:
            together = [self._waiting.get()]
            while len(together) < self._most and not self._waiting.empty():
                together.append(self._waiting.get())
            try:
                answers = self._run(torch.stack([picture for picture, _ in together]))
                for (_, future), answer in zip(together, answers, strict=True):
                    future.set_result(answer)
            except Exception as error:  # whatever went wrong belongs to the waiting requests, not to this thread
                for _, future in together:
                    future.set_exception(error)
