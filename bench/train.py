"""How long a fine-tuning takes: this trainer and transformers.Trainer (fp32 and bf16) on the same images.

`python bench/train.py --mode frozen --backbone DIR_OR_ID` trains a head on a frozen network, `--mode full` all of it.
Same images, epochs, batch size, optimiser and learning rate, no augmentation. Each contestant has a process of its own;
its clock starts after its imports and stops when the weights are trained, with validation in each epoch. `per image` is
the median interval between two training steps by the batch size, the first steps left out. To a finished run, ours
goes on to its evaluation and card; for the others the same evaluation is added, as long as it took ours.

In full mode ours keeps BatchNorm's statistics or lets them move (Trainer moves them): a table beside each. Trainer is
run as installed, and once more with glibc told to keep large blocks. A step that does not learn is no speed: where our
validation loss is more than 1.1 times the other's, or either guesses, a dash stands for the ratio, with the reason.

In frozen mode the limit stands beside them: each image decoded by Pillow and shown to the bare network once, nothing
trained. fastai and Keras were measured with this script up to commit ef60cc8.
"""

import argparse
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from harness import ROOT, describe_machine, draw_splits, interleave, median, run_child, write_report

OURS, MOVING = "ours", "ours, moving statistics"
LIMIT = "one bare pass and decode"
FULL = {
    OURS: "ours",
    MOVING: "ours-moving",
    "Trainer": "trainer",
    "Trainer, bf16": "trainer-bf16",
    "Trainer, bf16, frozen statistics": "trainer-bf16-frozen",
}
FROZEN = {OURS: "ours", "Trainer": "trainer", "Trainer, bf16": "trainer-bf16", LIMIT: "limit"}
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
WORSE = 1.1  # times the other's validation loss: no ratio beyond
CHANCE = 0.98 * math.log(2)

Results = dict[str, list[dict[str, Any]]]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("frozen", "full"), default="frozen")
    parser.add_argument(
        "--backbone",
        default="google/mobilenet_v2_1.0_224",
        help="a Hub id or a folder; a config alone is random weights",
    )
    parser.add_argument(
        "--images", type=int, default=2000, help="training images; a fifth as many validate (default 2000)"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, help="default 1e-3 for a head, 1e-4 for all of it")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--peers", nargs="+", choices=sorted({*FULL.values(), *FROZEN.values()}), help="default all")
    parser.add_argument("--phantoms", type=Path, help="keep the drawn images here")
    parser.add_argument("--data", type=Path, help="instead of phantoms: {train,validation,test}/<one of two labels>/*")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    options.learning_rate = options.learning_rate or (1e-3 if options.mode == "frozen" else 1e-4)
    with tempfile.TemporaryDirectory() as place:
        data = options.data or draw_splits(options.phantoms or Path(place), options.images, options.images // 5)
        results = interleave(contestants(options, data), options.repeats)
    print(
        f"{options.mode}, {options.data or f'{options.images} phantoms'}, {options.epochs} epochs, "
        f"batch {options.batch_size}, learning rate {options.learning_rate:g}, {Path(options.backbone).name}"
    )
    for reference in (OURS, MOVING):
        if reference in results:
            print(f"\nx: beside {reference}\n")
            print_table(results, reference)
    settings = {key: str(value) for key, value in vars(options).items()}
    write_report(options.json, machine=describe_machine(), settings=settings, allocator=ALLOCATOR, results=results)


def contestants(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """What is run, by the name of its row: all but ours also with the allocator's setting."""
    job = (data, options.backbone, options.mode, options.epochs, options.batch_size, options.learning_rate)
    runs: dict[str, Any] = {}
    for name, peer in (FROZEN if options.mode == "frozen" else FULL).items():
        if options.peers and peer not in options.peers:
            continue
        start = partial(run_child, [str(ROOT / "bench" / "peers.py"), peer, *map(str, job)])
        runs[name] = start
        if not name.startswith(OURS):
            runs[f"{name}, allocator set"] = partial(start, variables=ALLOCATOR)
    return runs


def print_table(results: Results, reference: str) -> None:
    """Times and quality of all, each time beside that of `reference`."""
    ours = results[reference]
    evaluation = median(ours, "finished") - median(ours, "seconds")
    print("| trainer | to trained weights, s | x | per image, ms | x | to a finished run, s | x | loss | accuracy |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, runs in results.items():
        seconds, each = median(runs, "seconds"), median(runs, "per_image_ms")
        loss, accuracy = median(runs, "validation_loss"), median(runs, "accuracy")
        finished = median(runs, "finished") if name.startswith(OURS) else seconds + evaluation
        if name.startswith(LIMIT):  # nothing is trained, nothing to evaluate
            finished = math.nan
        reason = no_ratio(median(ours, "validation_loss"), loss)
        ratios = [
            f"– ({reason})" if reason else f"{theirs / median(ours, key):.1f}"
            for theirs, key in ((seconds, "seconds"), (each, "per_image_ms"), (finished, "finished"))
        ]
        cells = f"{seconds:.1f} | {ratios[0]} | {each:.2f} | {ratios[1]} | {finished:.1f} | {ratios[2]}"
        print(f"| {name} | {cells} | {loss:.4f} | {accuracy:.4f} |".replace("nan", "–"), flush=True)


def no_ratio(ours: float, theirs: float) -> str:
    """Why two times do not compare, by the validation losses; empty where they do."""
    if ours > CHANCE or theirs > CHANCE:
        return f"{'ours' if ours > CHANCE else 'it'} learns nothing"
    return f"our loss is {ours / theirs:.1f} times its" if ours > WORSE * theirs else ""


if __name__ == "__main__":
    main()
