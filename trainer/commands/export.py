"""`cxr export`: a run's model as ONNX."""

import argparse

from trainer.commands.options import RUN_FOLDER, Commands, add_command


def add_parser(commands: Commands) -> None:
    """cxr export"""
    help = "write a run's model as ONNX, checked against PyTorch"
    parser = add_command(commands, "export", help, RUN_FOLDER, example="cxr export runs/tb")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Write RUN/onnx/model.onnx."""
    from trainer.export import export_onnx
    from trainer.run import load_run

    run = load_run(options.model, hub=False)
    difference = export_onnx(run)
    print(f"{run.path / 'onnx' / 'model.onnx'}: logits within {difference:.1e} of PyTorch's")
    return 0
