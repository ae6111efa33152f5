"""Options that several commands share, as argparse parents."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from hub_cards.formatting import printable
from trainer.errors import UsageError

Commands = Any  # what `add_subparsers` returns: argparse names its type privately
DISCLAIMER = "Research demonstration, not a medical device: never use it for a diagnosis."


def add_command(
    commands: Commands,
    name: str,
    help: str,
    *parents: argparse.ArgumentParser,
    example: str = "",
    description: str = "",
) -> argparse.ArgumentParser:
    """Add a command whose help ends with an example and the disclaimer."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, parents=parents, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.description = description or help[0].upper() + help[1:] + "."
    parser.epilog = f"example:\n  {example}\n\n{DISCLAIMER}" if example else DISCLAIMER
    return parser


def log(message: str) -> None:
    """What a user should know while a command works: to standard error."""
    print(printable(message), file=sys.stderr)


def check_words(words: list[str], command: str) -> None:
    """Refuse words that are empty, and names that no run can hold; films of `predict` may have any name."""
    for before, word in zip(["cxr", *words], words, strict=False):
        if not word.strip():
            raise UsageError(f"an empty word after {before}: is a variable of the shell not set?")
        if command != "predict" and word.encode("utf-8", "replace").decode() != word:
            raise UsageError(f"{os.fsencode(word)!r}: the name is not UTF-8; rename it")


def parent(*names: str, **settings: Any) -> argparse.ArgumentParser:
    """A parser of one argument, to be given to others as a parent."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(*names, **settings)
    return parser


def split(*choices: str) -> argparse.ArgumentParser:
    """--split with these choices."""
    return parent("--split", choices=choices, default="test", help="default: test; data without splits is used whole")


def _result_file(text: str) -> Path:
    """A file for a result, which takes the place of none but another result."""
    file = Path(text)
    if file.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file, as {text}/result.json")
    if file.exists() and file.suffix != ".json":
        raise argparse.ArgumentTypeError(f"{text} is there and is no .json file: name another")
    return file


DATA_HELP = """DIR/<class>/*.png, DIR/{train,validation,test}/<class>/*.png, a CSV with
file,label[,split,group,collection], or org/name[@revision] of a Hub dataset"""
LICENCE_HELP = "under which it may be used, e.g. cc-by-nc-4.0; nothing is published without"
REPO_HELP = "the repository on the Hub; made where there is none"
PRIVATE_HELP = "in a private repository, never in a public one (default: as its owner set)"
RUN_HELP = "a run's folder, tb, covid or three-class (the models that ship), or org/name[@revision] on the Hub"
RUN_FOLDER_HELP = "a run's folder, or a model that ships, as tb; of one on the Hub: hf download ID --local-dir RUN"
OUTPUT_HELP = "write the result as JSON there; the run stays as it is"
RUN = parent("model", metavar="RUN", help=RUN_HELP)
RUN_FOLDER = parent("model", metavar="RUN", help=RUN_FOLDER_HELP)
DATA = parent("--data", required=True, help=DATA_HELP)
DATA_ARGUMENT = parent("data", metavar="DATA", help="a folder or a manifest, as for cxr train")
JSON = parent("--json", action="store_true", help="print JSON instead of text")
OUTPUT_FILE = parent("--output", metavar="FILE", type=_result_file, help=OUTPUT_HELP)
LICENCE = parent("--licence", "--license", default="", help=LICENCE_HELP)
PRIVATE = parent("--private", action="store_true", help=PRIVATE_HELP)
OTHERS = parent("--other-diseases", metavar="DATA", help="say what the run calls films of diseases it does not answer")
BY = parent(
    "--by",
    type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
    default=[],
    metavar="COLUMNS",
    help="columns of the CSV, e.g. sex,age_group: the same in each of their groups, compared with the others",
)
REPO_ID = parent("--repo-id", required=True, metavar="ORG/NAME", help=REPO_HELP)
DRY_RUN = parent("--dry-run", action="store_true", help="say what would be published; send nothing")
