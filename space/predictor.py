"""One model: a file in, a prediction and its heat map out. Nothing is kept."""

import json
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from config import ZERO_GPU, ModelError, ModelSource

if ZERO_GPU:
    import spaces  # it lends a GPU for a call, and must come before torch
import numpy as np
import torch
from answer import SHOWN, Answer
from facts import find_file, read_facts
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

MAX_CONFIGURATION = 2**20  # bytes
MAX_LABELS = 1000
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# What is decided of an image, the heat map of what was asked, float [h, w], and its lungs, uint8 [h, w]
Classified = tuple[dict[str, Any], np.ndarray, np.ndarray | None]
Waiting = tuple[torch.Tensor, Future[Any]]


class SharedPass:
    """Requests that come at the same time share one forward pass.

    Call it with one image from any thread: those that wait while a pass runs go into the next one together.
    """

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


class Predictor:
    """A loaded model and its processor."""

    def __init__(self, source: ModelSource) -> None:
        """Load it.

        Raises:
            ModelError: it cannot be loaded, or weights are missing from it.
        """
        self.task, named = source.task, f"the {source.task} model {source.model}"
        options: dict[str, Any] = {"revision": source.revision, "trust_remote_code": True}
        try:
            _check_configuration(source)
            trained = read_facts(source).get("recipe", {}).get("labels")
            self.processor = AutoImageProcessor.from_pretrained(source.model, **options)
            model, info = AutoModelForImageClassification.from_pretrained(
                source.model, output_loading_info=True, **options
            )
            if info["missing_keys"]:
                raise ValueError(f"it lacks the weights {sorted(info['missing_keys'])[:3]}")
            self.labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
            if trained and trained != self.labels:
                raise ValueError(f"it names the labels {self.labels} and was trained on {trained}")
            self.model = self._prepared(model.eval()).to(DEVICE)
        except Exception as error:  # whatever a damaged or tampered file makes of it
            raise ModelError(f"{named} cannot be loaded: {str(error)[:300] or type(error).__name__}") from error
        self._read = self.processor.read
        if hasattr(self.processor, "reader_process"):  # absent from the code of older models
            decode = self.processor.reader_process()
            decode.previews = True
            decode.start()
            self._read = partial(self.processor.read, decode=decode)
        LOADED[self.task] = self
        self._shared = SharedPass(lambda grey: classify(self.task, grey))

    def _prepared(self, model: Any) -> Any:
        """The model as it is served: BatchNorm folded away; ValueError: what it says of a test image cannot be."""
        threshold = (model.config.operating_point or {"threshold": 0.5})["threshold"]
        slope = self.processor(Image.linear_gradient("L"), return_tensors="pt")["pixel_values"]
        if not (0 <= threshold <= 1 and slope.isfinite().all()):
            raise ValueError(f"its threshold is {threshold}, or it makes no pixel values of a test image")
        example = slope.contiguous(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)
        if hasattr(model, "fold_batch_norm"):  # models of older versions have no such method
            model = model.fold_batch_norm(example)
        with torch.inference_mode():
            (answer,) = model.decide(model(example))
        if not all(0 <= score <= 1 for score in answer["scores"].values()):
            raise ValueError(f"its scores of a test image are {answer['scores']}")
        return model

    def warm(self) -> None:
        """Answer a black image, so that the first visitor need not wait for what a first pass sets up."""
        self._pass(torch.zeros(self.processor.size["height"], self.processor.size["width"], dtype=torch.uint8))

    def __call__(self, source: str | bytes, name: str, film: bool = False) -> Answer:
        """Read and classify one file or its bytes; what cannot be read gives a prediction with an `error`.

        `film`: give the image, too, as the reader sees it.
        """
        try:
            radiograph = self._read(source)
        except (ValueError, ImportError) as error:
            what = "the bytes given" if isinstance(source, bytes) else source
            return Answer({"file": name, "error": str(error).removeprefix(f"{what}: ")})
        decided, heat, lungs = self._pass(torch.from_numpy(self.processor.resize(radiograph.pixels).copy()))
        prediction = {"file": name, **decided, "warnings": [*radiograph.warnings, *decided["warnings"]]}
        image = Image.fromarray(radiograph.pixels)
        scale = min(1.0, SHOWN / max(image.size))
        size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
        deep = (
            radiograph.preview() if film and hasattr(radiograph, "preview") else None
        )  # absent from the code of older models
        return Answer(prediction, size, heat, np.asarray(image.resize(size)) if film else None, lungs, deep)

    def _pass(self, grey: torch.Tensor) -> Classified:
        """ZeroGPU lends its GPU to the thread of a request only; elsewhere requests share their passes."""
        result: Classified = classify(self.task, grey.unsqueeze(0))[0] if ZERO_GPU else self._shared(grey)
        return result


def _check_configuration(source: ModelSource) -> None:
    """Refuse, with ValueError, a configuration that names code of another repository (models.toml names what is
    trusted), or more labels than any model has.
    """
    named: list[Any] = []

    def note(one: dict[str, Any]) -> dict[str, Any]:
        named.append(one.get("auto_map"))
        if isinstance(count := one.get("num_labels"), int) and count > MAX_LABELS:  # the code of older models tries it
            raise ValueError(f"num_labels={count}: no model has as many")
        return one

    for file in ("config.json", "preprocessor_config.json", "processor_config.json"):
        path = find_file(source, file)
        if path is None:
            continue
        if path.stat().st_size > MAX_CONFIGURATION:
            raise ValueError(f"its {file} is larger than any configuration")
        json.loads(path.read_text(encoding="utf-8"), object_hook=note)
    if "--" in json.dumps(named):
        raise ValueError("its configuration names code of another repository")


LOADED: dict[str, Predictor] = {}


def _classify(task: str, grey: torch.Tensor) -> list[Classified]:
    """Answers for images uint8 [B, H, W]: scores, familiarity, heat maps and lungs from one forward pass."""
    predictor = LOADED[task]
    values = predictor.processor.to_pixel_values(grey.to(DEVICE))
    with torch.inference_mode():
        output = predictor.model(values.contiguous(memory_format=torch.channels_last))
    decided = predictor.model.decide(output)
    chosen = torch.tensor([predictor.labels.index(one["decision"]["label"]) for one in decided], device=DEVICE)
    heat = predictor.model.heatmap(output, chosen).cpu().numpy()
    lungs = output.get("lungs")
    fields = [None] * len(decided) if lungs is None else (255 * lungs).byte().cpu().numpy()
    return list(zip(decided, heat, fields, strict=True))


# On ZeroGPU the call runs in another process, to which its arguments are sent: a name, not a model.
classify: Callable[[str, torch.Tensor], list[Classified]] = spaces.GPU(_classify) if ZERO_GPU else _classify
