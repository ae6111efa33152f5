"""How long a fine-tuning takes: this trainer and transformers.Trainer (fp32 and bf16) on the same images.

`python bench/train.py --mode frozen --backbone DIR_OR_ID` trains a head on a frozen network, `--mode full` all of it.
Same images, epochs, batch size, optimiser and learning rate, no augmentation. Each contestant has a process of its own;
its clock starts after its imports and stops when the weights are trained, validation in each epoch included, the final
evaluation and the card apart. `per image` is the median interval between two training steps by the batch size, the
first steps left out. In frozen mode the limit stands beside them: each image decoded by Pillow and shown to the bare
network once, nothing trained. fastai and Keras were measured with this script up to commit ef60cc8.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from harness import ROOT, describe_machine, draw_splits, interleave, median, run_child, write_report

PEERS = {"ours": "ours", "Trainer": "trainer", "Trainer, bf16": "trainer-bf16"}
LIMIT = "one bare pass and decode"


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
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--peers", nargs="+", choices=list(PEERS.values()), default=list(PEERS.values()))
    parser.add_argument("--phantoms", type=Path, help="keep the drawn images here")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = draw_splits(options.phantoms or Path(place), options.images, options.images // 5)
        given = (data, options.backbone, options.mode, options.epochs, options.batch_size, options.learning_rate)
        contestants = {
            name: partial(run_child, [str(ROOT / "bench" / "peers.py"), peer, *map(str, given)])
            for name, peer in {**PEERS, **({LIMIT: "limit"} if options.mode == "frozen" else {})}.items()
            if peer in (*options.peers, "limit")
        }
        results = interleave(contestants, options.repeats)
    ours = results["ours"]
    print(
        f"{options.mode}, {options.images} images, {options.epochs} epochs, batch {options.batch_size}, "
        f"{Path(options.backbone).name}\n"
    )
    print("| trainer | to trained weights, s | x | per image, ms | x | validation loss | accuracy |")
    print("|---|---|---|---|---|---|---|")
    for name, runs in results.items():
        seconds, each = median(runs, "seconds"), median(runs, "per_image_ms")
        ratios = seconds / median(ours, "seconds"), each / median(ours, "per_image_ms")
        loss, accuracy = median(runs, "validation_loss"), median(runs, "accuracy")
        cells = f"{ratios[0]:.1f} | {each:.2f} | {ratios[1]:.1f} | {loss:.4f} | {accuracy:.4f}".replace("nan", "–")
        print(f"| {name} | {seconds:.1f} | {cells} |")
    settings = {key: str(value) for key, value in vars(options).items()}
    write_report(options.json, machine=describe_machine(), settings=settings, results=results)


if __name__ == "__main__":
    main()
