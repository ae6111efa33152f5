"""`cxr recipes`: how each model is trained."""

import argparse
import json

from trainer.commands.options import JSON, Commands, add_command


def add_parser(commands: Commands) -> None:
    """cxr recipes"""
    parser = add_command(commands, "recipes", "list the recipes", JSON, example="cxr recipes --json    (all fields)")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print a line a recipe, or all fields as JSON."""
    from dataclasses import asdict

    from trainer.recipes import RECIPES

    if options.json:
        print(json.dumps([asdict(recipe) for recipe in RECIPES.values()], indent=2))
        return 0
    width = max(map(len, RECIPES))
    for recipe in RECIPES.values():
        print(f"{recipe.name:<{width}}  {recipe.summary}  [{recipe.backbone}]")
    return 0
