"""How near the training loop comes to what the hardware allows.

`python bench/ceiling.py [--models resnet-50 mobilenet-v2] [--json FILE]`. Compared are images a second of this
trainer's own epoch (images read from the cache, augmented, clipped, logged) and of a bare loop over the same network,
layers, precision and optimiser on one random batch that stays on the device; the two take turns. Random weights.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import describe_machine, draw_splits, write_report

MODELS = {"resnet-50": "microsoft/resnet-50", "mobilenet-v2": "google/mobilenet_v2_1.0_224"}


def measure(backbone: str, data: Path, batch: int, repeats: int) -> dict[str, Any]:
    """Medians of images a second, ours and bare, over `repeats` turns."""
    import numpy as np
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from trainer.data.labelled import load_for_training
    from trainer.hardware import best_device, choose_precision
    from trainer.recipes import get_recipe
    from trainer.tasks import TASKS
    from trainer.training.build import build_model, build_processor, load_backbone
    from trainer.training.feed import PixelFeed, TrainingData
    from trainer.training.fused import fuse
    from trainer.training.loop import make_optimizer, train_epoch

    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = replace(get_recipe("tb-finetuned"), batch_size=batch, backbone=backbone)
    processor = build_processor(recipe)
    labelled, _ = load_for_training(str(data), TASKS[recipe.task], processor, None, False, lambda text: None)
    accelerator = Accelerator(cpu=best_device().type == "cpu", mixed_precision=choose_precision("auto")[0])
    model = build_model(recipe, labelled.task.labels, load_backbone(recipe, backbone, False))
    model.update_statistics = False  # as with pre-trained weights
    model.to(accelerator.device, memory_format=torch.channels_last)
    fuse(model)
    trained, optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
    indices = labelled.indices("train")
    samples = TrainingData(labelled.truth, indices[: len(indices) // batch * batch], labelled.indices("validation"))
    feed = PixelFeed(labelled.images, processor, accelerator.device, recipe, samples)
    values = feed.eval_batch(indices[:batch]).normal_()
    labels = torch.from_numpy(np.resize([0, 1], batch)).to(accelerator.device)

    def synchronise() -> None:
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()

    def bare() -> None:
        model.train()
        for _ in range(len(samples.train) // batch):
            with accelerator.autocast():
                logits = model(values).logits
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    def own() -> None:
        train_epoch(accelerator, trained, optimizer, feed, 0)

    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(repeats + 1):  # the first turn warms up
        for name, loop in (("ours", own), ("bare", bare)):
            synchronise()
            start = time.perf_counter()
            loop()
            synchronise()
            if turn:
                rates[name].append(len(samples.train) / (time.perf_counter() - start))
    ratios = [one / other for one, other in zip(rates["ours"], rates["bare"], strict=True)]
    return {
        **{name: statistics.median(found) for name, found in rates.items()},
        "ratio": statistics.median(ratios),
        "turns": rates,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--images", type=int, default=160, help="in an epoch (default 160; some thousands on a GPU)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    results = {}
    print("| network | ours, images/s | bare step, images/s | ours / bare, median of pairs |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        data = draw_splits(Path(place), options.images, 32)
        for name in options.models:
            results[name] = found = measure(MODELS[name], data, options.batch_size, options.repeats)
            print(f"| {name} | {found['ours']:.1f} | {found['bare']:.1f} | {found['ratio']:.3f} |", flush=True)
    write_report(options.json, machine=describe_machine(), batch_size=options.batch_size, results=results)


if __name__ == "__main__":
    main()
