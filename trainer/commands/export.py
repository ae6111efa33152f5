"""`cxr export`: a run's model as ONNX."""

import argparse
from pathlib import Path

from trainer.commands.options import RUN, Commands, add_command
from trainer.errors import UsageError


def add_parser(commands: Commands) -> None:
    """cxr export"""
    parser = add_command(
        commands, "export", "write a run's model as ONNX, checked against PyTorch", RUN, example="cxr export runs/tb"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="for a model of the Hub: the folder to copy it to and export it in"
    )
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Write RUN/onnx/model.onnx."""
    from trainer.export import export_onnx
    from trainer.run import load_run

    is_folder = Path(options.model).is_dir()
    if is_folder and options.output:
        raise UsageError(
            f"--output is for a model of the Hub; {options.model} is a folder and gets its onnx/model.onnx in place"
        )
    if not is_folder and not options.output:
        raise UsageError(
            f"{options.model}: no such folder; for a model of the Hub give --output DIR, where a copy of it goes"
        )
    run = load_run(options.model, options.output)
    difference = export_onnx(run)
    print(f"{run.path / 'onnx' / 'model.onnx'}: logits within {difference:.1e} of PyTorch's")
    return 0
