"""Requests that come at the same time share one forward pass."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch

Waiting = tuple[torch.Tensor, Future[Any]]


class SharedPass:
    """Call it with one image from any thread: those that wait while a pass runs go into the next one together."""

    def __init__(self, run: Callable[[torch.Tensor], Sequence[Any]], most: int = 16) -> None:
        """`run` answers a batch [B, …] with B answers; no more than `most` images share a pass."""
        self._run, self._most = run, most
        self._waiting: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="shared pass").start()

    def __call__(self, image: torch.Tensor) -> Any:
        """The answer for one image [H, W]; what `run` raises for this image alone is raised."""
        answer: Future[Any] = Future()
        self._waiting.put((image, answer))
        return answer.result()

    def _serve(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < self._most and not self._waiting.empty():
                batch.append(self._waiting.get())
            self._answer(batch)

    def _answer(self, batch: list[Waiting]) -> None:
        """One pass; where it fails, by one image or for want of memory, a pass for each image."""
        try:
            answers = self._run(torch.stack([image for image, _ in batch]))
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
            return
        except Exception as error:  # whatever went wrong belongs to the waiting requests, not to this thread
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
        for one in batch:  # here, where the memory of the pass that failed is free again
            self._answer([one])
