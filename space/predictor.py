"""One model: a file in, a prediction, the film and its heat map out. Nothing is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import spaces  # ZeroGPU's own package: it lends a GPU for a call, and must come before torch
except ImportError:
    spaces = None
import numpy as np
import torch
from facts import read_facts, read_figure
from models import ModelError, ModelSource
from PIL import Image
from safetensors import SafetensorError
from shared import SharedPass
from transformers import AutoImageProcessor, AutoModelForImageClassification

PREVIEW = 768  # longest side of what is shown, in pixels
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Classified = tuple[dict[str, Any], np.ndarray]  # the decision for a picture, and the heat map of its label, float [h, w]


@dataclass(frozen=True)
class Answer:
    """`prediction` as the command line and the API give it; `film` uint8 [H, W] and `heat` float [h, w] in 0..1, or None."""

    prediction: dict[str, Any]
    film: np.ndarray | None = None
    heat: np.ndarray | None = None


class Predictor:
    """A loaded model and its processor."""

    def __init__(self, source: ModelSource) -> None:
        """Load it.

        Raises:
            ModelError: it cannot be loaded, or weights are missing from it.
        """
        self.task, self.source = source.task, source
        options: dict[str, Any] = {"revision": source.revision, "trust_remote_code": True}
        try:
            self.processor = AutoImageProcessor.from_pretrained(source.model, **options)
            model, info = AutoModelForImageClassification.from_pretrained(source.model, output_loading_info=True, **options)
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise ModelError(f"the {source.task} model {source.model} cannot be loaded: {error}") from error
        if info["missing_keys"]:
            raise ModelError(f"the {source.task} model {source.model} lacks weights: {sorted(info['missing_keys'])[:3]}")
        self.model = model.eval().to(DEVICE, memory_format=torch.channels_last)
        self.facts, self.example = read_facts(source), read_figure(source, "example.png")
        LOADED[self.task] = self
        self._shared = SharedPass(lambda grey: classify(self.task, grey))

    @property
    def labels(self) -> list[str]:
        """The answers, in the order of the model's outputs."""
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    def warm(self) -> None:
        """Answer a black picture, so that the first visitor need not wait for what a first pass sets up."""
        self._pass(torch.zeros(self.processor.size["height"], self.processor.size["width"], dtype=torch.uint8))

    def __call__(self, source: str | Path | bytes, name: str = "") -> Answer:
        """Read and classify one file or its bytes; what cannot be read gives a prediction with an `error`."""
        name = Path(name or (source if isinstance(source, str | Path) else "picture")).name
        try:
            radiograph = self.processor.read(source)
        except (ValueError, ImportError) as error:
            what = "the bytes given" if isinstance(source, bytes) else source
            return Answer({"file": name, "error": str(error).removeprefix(f"{what}: ")})
        decided, heat = self._pass(torch.from_numpy(self.processor.resize(radiograph.pixels).copy()))
        prediction = {"file": name, **decided, "warnings": [*radiograph.warnings, *decided["warnings"]]}
        return Answer(prediction, _preview(radiograph.pixels), heat)

    def _pass(self, grey: torch.Tensor) -> Classified:
        """ZeroGPU lends its GPU to the thread of a request only; elsewhere requests share their passes."""
        found: Classified = classify(self.task, grey.unsqueeze(0))[0] if spaces else self._shared(grey)
        return found


LOADED: dict[str, Predictor] = {}


def _classify(task: str, grey: torch.Tensor) -> list[Classified]:
    """Answers for pictures uint8 [B, H, W]: scores, familiarity and heat maps from one forward pass."""
    predictor = LOADED[task]
    with torch.inference_mode():
        output = predictor.model(predictor.processor.to_pixel_values(grey.to(DEVICE)))
    decided = predictor.model.decide(output)
    chosen = torch.tensor([predictor.labels.index(found["label"]) for found in decided], device=DEVICE)
    return list(zip(decided, predictor.model.heatmap(output, chosen).cpu().numpy(), strict=True))


# On ZeroGPU the call runs in another process, to which its arguments are sent: a name, not a model.
classify: Callable[[str, torch.Tensor], list[Classified]] = spaces.GPU(_classify) if spaces else _classify


def _preview(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW, PREVIEW))
    return np.asarray(image)
