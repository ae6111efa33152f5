"""One contestant of bench/train.py: `python peers.py NAME DATA BACKBONE MODE EPOCHS BATCH LEARNING_RATE` prints its
figures as JSON. `mode` is `frozen` (a head on a frozen network) or `full`.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass
class Job:
    """What is trained, and the clock."""

    data: str
    backbone: str
    mode: str
    epochs: int
    batch_size: int
    learning_rate: float
    ticks: list[float] = field(default_factory=list)

    @property
    def pretrained(self) -> bool:
        """Whether the backbone has weights, or is a configuration alone."""
        return not Path(self.backbone).is_dir() or any(Path(self.backbone).glob("*.safetensors"))

    def tick(self, *_: Any) -> None:
        """A training step begins."""
        self.ticks.append(time.perf_counter())

    def figures(
        self, seconds: float, loss: float | None = None, accuracy: float | None = None
    ) -> dict[str, float | None]:
        """As `bench/train.py` reads them; None where nothing was trained."""
        if not self.ticks:
            return {"seconds": round(seconds, 2), "per_image_ms": None, "validation_loss": None, "accuracy": None}
        steps = [late - early for early, late in zip(self.ticks, self.ticks[1:], strict=False)]
        each = 1000 * statistics.median(steps[len(steps) // 4 :]) / self.batch_size
        return {
            "seconds": round(seconds, 2),
            "per_image_ms": round(each, 3),
            "validation_loss": loss,
            "accuracy": accuracy,
        }


def ours(job: Job, batch_norm: str = "frozen") -> dict[str, float | None]:
    """`cxr train`; `finished` are the seconds until its run was finished."""
    import trainer.finish
    from trainer.cli import main as cxr
    from trainer.training import loop

    settings: dict[str, Any] = {"epochs": job.epochs, "batch_size": job.batch_size, "learning_rate": job.learning_rate}
    settings |= {"augment": "none", "weight_decay": 0.0, "input_dropout": 0.0, "schedule": "constant"}
    settings |= {"warmup_epochs": 0.0, "class_weights": "none", "patience": 0, "gradient_clip": 1.0}
    settings |= {"unfreeze": "none" if job.mode == "frozen" else "all", "batch_norm": batch_norm}
    set_rate, finish = loop.set_learning_rate, trainer.finish.finish
    loop.set_learning_rate = lambda *words: (job.tick(), set_rate(*words))[1]
    result: dict[str, float | None] = {}

    def clocked(run: Any, labelled: Any, processor: Any, progress: Any, model: Any) -> None:
        last = progress.history[-1]
        result.update(job.figures(time.perf_counter() - start, last["validation_loss"], last["validation_accuracy"]))
        finish(run, labelled, processor, progress, model)
        result["finished"] = round(time.perf_counter() - start, 2)

    trainer.finish.finish = clocked
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "tb-finetuned", "--data", job.data, "--output", f"{folder}/run", "--backbone", job.backbone]
        words += [] if job.pretrained else ["--no-pretrained"]
        for name, value in settings.items():
            words += ["--set", f"{name}={value}"]
        start = time.perf_counter()
        if code := cxr(words):
            raise RuntimeError(f"cxr train ended with exit code {code}")
    return result


def trainer(job: Job, bf16: bool = False, frozen_statistics: bool = False) -> dict[str, float | None]:
    """transformers.Trainer with its defaults, images decoded as they are asked for.

    `frozen_statistics`: BatchNorm layers stay in eval mode, which Trainer has no argument for.
    """
    import numpy as np
    import torch
    from datasets import load_dataset
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
        MobileNetV2ImageProcessor,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            job.tick()

    start = time.perf_counter()
    set_seed(0)
    if job.pretrained:
        processor = AutoImageProcessor.from_pretrained(job.backbone)
        model = AutoModelForImageClassification.from_pretrained(
            job.backbone, num_labels=2, ignore_mismatched_sizes=True
        )
    else:
        processor = MobileNetV2ImageProcessor(size={"height": 224, "width": 224}, do_center_crop=False)
        model = AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(job.backbone, num_labels=2))
    if hasattr(model, "dropout"):
        model.dropout.p = 0.0
    if job.mode == "frozen":
        model.base_model.requires_grad_(False)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms if frozen_statistics else []:
        norm.eval()
        norm.train = lambda mode=True, norm=norm: norm  # stays as `eval` leaves it

    def prepare(rows: dict[str, Any]) -> dict[str, Any]:
        pictures = [image.convert("RGB").resize((224, 224)) for image in rows["image"]]
        return {"pixel_values": list(processor(pictures, return_tensors="pt")["pixel_values"]), "labels": rows["label"]}

    films = {
        split: load_dataset("imagefolder", data_dir=f"{job.data}/{split}", split="train").with_transform(prepare)
        for split in ("train", "validation")
    }
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=job.epochs,
            per_device_train_batch_size=job.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=job.learning_rate,
            lr_scheduler_type="constant",
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            disable_tqdm=True,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),  # it takes bf16 on a CPU only when told so
        )
        peer = Trainer(
            model,
            arguments,
            train_dataset=films["train"],
            eval_dataset=films["validation"],
            compute_metrics=lambda found: {"accuracy": float(np.mean(found.predictions.argmax(1) == found.label_ids))},
            callbacks=[Clock()],
        )
        peer.train()
    last = [row for row in peer.state.log_history if "eval_loss" in row][-1]
    return job.figures(time.perf_counter() - start, last["eval_loss"], last["eval_accuracy"])


def limit(job: Job) -> dict[str, float | None]:
    """No training: each image decoded by Pillow on all cores, and one forward pass of the bare network in bf16,
    channels last.
    """
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModel

    model = (
        AutoModel.from_pretrained(job.backbone)
        if job.pretrained
        else AutoModel.from_config(AutoConfig.from_pretrained(job.backbone))
    )
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model = model.float().eval().to(device, memory_format=torch.channels_last)
    files = [file for split in ("train", "validation") for file in sorted(Path(job.data, split).rglob("*.*"))]
    start = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        grey = torch.from_numpy(np.stack(list(pool.map(decode_bare, files, chunksize=64))))
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        for part in grey.split(64):
            values = (part.to(device)[:, :, :, None].float() / 127.5 - 1).expand(-1, -1, -1, 3).permute(0, 3, 1, 2)
            found = model(values).last_hidden_state.mean(dim=(2, 3))
    found.float().cpu()
    return job.figures(time.perf_counter() - start)


def decode_bare(file: Path) -> Any:
    """uint8 [224, 224]."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image.convert("L").resize((224, 224), Image.Resampling.BILINEAR))


CONTESTANTS = {
    "ours": ours,
    "ours-moving": partial(ours, batch_norm="moving"),
    "trainer": trainer,
    "trainer-bf16": partial(trainer, bf16=True),
    "trainer-bf16-frozen": partial(trainer, bf16=True, frozen_statistics=True),
    "limit": limit,
}
HUGGING_FACE = ("datasets", "transformers.trainer", "transformers.models.mobilenet_v2.modeling_mobilenet_v2")
OURS = ("trainer.cli", "trainer.commands.train", "trainer.finish", "trainer.training.loop")


def main() -> None:
    """Command line."""
    name, data, backbone, mode, epochs, batch_size, learning_rate = sys.argv[1:]
    for module in OURS if name.startswith("ours") else HUGGING_FACE:  # before any clock starts
        import_module(module)
    print(json.dumps(CONTESTANTS[name](Job(data, backbone, mode, int(epochs), int(batch_size), float(learning_rate)))))


if __name__ == "__main__":
    main()
