"""The command line: assembles the commands, turns errors into exit codes."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

from hub_cards.formatting import printable
from trainer import __version__
from trainer.commands import adapt, audit, compare, data, evaluate, export, predict, publish, recipes, train
from trainer.commands.options import DISCLAIMER, check_words
from trainer.commands.tables import Terminal
from trainer.errors import UsageError, WorkError
from trainer.hardware import keep_freed_memory

COMMANDS = (train, evaluate, audit, adapt, predict, compare, export, publish, recipes, data)
EXAMPLES = f"""examples:
  cxr data phantom --output phantoms                     drawn radiographs, to try everything without data
  cxr train tb-finetuned --data phantoms --output runs/tb --no-pretrained
  cxr train tb --data my-folder --output runs/mine       my-folder/<class>/*.png (or .jpg, .tif, .dcm)
  cxr evaluate runs/tb --data other.csv --split external
  cxr predict runs/tb film.dcm

CXR_MALLOC=0 leaves the memory allocator as it is; else freed memory is kept while a command works (Linux, glibc).
{DISCLAIMER}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 the work failed, 2 wrong use, 130 stopped by the user."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    options = build_parser().parse_args(words)
    options.command = tuple(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # whatever the terminal and the names of files, as stderr
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    keep_freed_memory()
    try:
        check_words(words, options.name)
        command: Callable[[argparse.Namespace], int] = options.main
        with redirect_stdout(Terminal(sys.stdout)):
            code = command(options)
        if os.environ.get("RANK", "0") == "0":
            print(DISCLAIMER, file=sys.stderr)
        return code
    except UsageError as error:
        print(printable(f"cxr: {error}"), file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the reader went away, as `| head` does
        return 0
    except (WorkError, OSError) as error:
        print(printable(f"cxr: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        resume = "; the same command with --resume goes on" if options.name == "train" else ""
        print(f"cxr: stopped{resume}", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `main` to its function."""
    parser = argparse.ArgumentParser(
        prog="cxr",
        description="Chest X-ray classifiers: train, evaluate, predict, publish.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cxr-hub {__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser
