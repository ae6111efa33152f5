"""One model: a file in, a prediction and its heat map out. Nothing is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import spaces  # ZeroGPU's own package: it lends a GPU for a call, and must come before torch
except ImportError:
    spaces = None
import numpy as np
import torch
from answer import SHOWN, Answer
from batching import SharedPass
from config import ModelError, ModelSource
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForImageClassification

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Classified = tuple[dict[str, Any], np.ndarray]  # the decision for an image, and the heat map of its label, float [h, w]


class Predictor:
    """A loaded model and its processor."""

    def __init__(self, source: ModelSource) -> None:
        """Load it.

        Raises:
            ModelError: it cannot be loaded, or weights are missing from it.
        """
        self.task = source.task
        options: dict[str, Any] = {"revision": source.revision, "trust_remote_code": True}
        try:
            self.processor = AutoImageProcessor.from_pretrained(source.model, **options)
            model, info = AutoModelForImageClassification.from_pretrained(
                source.model, output_loading_info=True, **options
            )
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise ModelError(f"the {source.task} model {source.model} cannot be loaded: {error}") from error
        if info["missing_keys"]:
            raise ModelError(
                f"the {source.task} model {source.model} lacks weights: {sorted(info['missing_keys'])[:3]}"
            )
        weights = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
        if not all(torch.isfinite(tensor).all() for tensor in weights):  # the code of older models does not look
            raise ModelError(f"the {source.task} model {source.model} has weights that are not finite")
        example = torch.rand(1, 3, self.processor.size["height"], self.processor.size["width"])
        model = model.eval().to(memory_format=torch.channels_last)
        if hasattr(model, "fold_batch_norm"):  # models of older versions have no such method
            model = model.fold_batch_norm(example.contiguous(memory_format=torch.channels_last))
        self.model = model.to(DEVICE)
        LOADED[self.task] = self
        self._shared = SharedPass(lambda grey: classify(self.task, grey))

    @property
    def labels(self) -> list[str]:
        """The answers, in the order of the model's outputs."""
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    def warm(self) -> None:
        """Answer a black image, so that the first visitor need not wait for what a first pass sets up."""
        self._pass(torch.zeros(self.processor.size["height"], self.processor.size["width"], dtype=torch.uint8))

    def __call__(self, source: str | Path | bytes, name: str = "", film: bool = False) -> Answer:
        """Read and classify one file or its bytes; what cannot be read gives a prediction with an `error`.

        `film`: give the image, too, as the reader sees it.
        """
        name = Path(name or (source if isinstance(source, str | Path) else "image")).name
        try:
            radiograph = self.processor.read(source)
        except (ValueError, ImportError) as error:
            what = "the bytes given" if isinstance(source, bytes) else source
            return Answer({"file": name, "error": str(error).removeprefix(f"{what}: ")})
        decided, heat = self._pass(torch.from_numpy(self.processor.resize(radiograph.pixels).copy()))
        prediction = {"file": name, **decided, "warnings": [*radiograph.warnings, *decided["warnings"]]}
        height, width = radiograph.pixels.shape
        scale = min(1.0, SHOWN / max(height, width))
        size = max(1, round(scale * width)), max(1, round(scale * height))
        return Answer(
            prediction, size, heat, np.asarray(Image.fromarray(radiograph.pixels).resize(size)) if film else None
        )

    def _pass(self, grey: torch.Tensor) -> Classified:
        """ZeroGPU lends its GPU to the thread of a request only; elsewhere requests share their passes."""
        found: Classified = classify(self.task, grey.unsqueeze(0))[0] if spaces else self._shared(grey)
        return found


LOADED: dict[str, Predictor] = {}


def _classify(task: str, grey: torch.Tensor) -> list[Classified]:
    """Answers for images uint8 [B, H, W]: scores, familiarity and heat maps from one forward pass."""
    predictor = LOADED[task]
    values = predictor.processor.to_pixel_values(grey.to(DEVICE))
    with torch.inference_mode():
        output = predictor.model(values.contiguous(memory_format=torch.channels_last))
    decided = predictor.model.decide(output)
    chosen = torch.tensor([predictor.labels.index(found["label"]) for found in decided], device=DEVICE)
    return list(zip(decided, predictor.model.heatmap(output, chosen).cpu().numpy(), strict=True))


# On ZeroGPU the call runs in another process, to which its arguments are sent: a name, not a model.
classify: Callable[[str, torch.Tensor], list[Classified]] = spaces.GPU(_classify) if spaces else _classify
