"""Chest X-ray classifiers: train, evaluate, audit, predict. Research demonstration, not a medical device.

from trainer import get_recipe, train, load_run, evaluate, predict

run = train(get_recipe("tb"), "my-films.csv", "runs/tb")
print(run.metrics("test"), run.predictions())
print(evaluate(load_run("runs/tb"), "other-hospital.csv", split="external"))
print(list(predict(run, ["film.dcm"])))
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
API = {
    "train": "commands.train",
    "TrainOptions": "commands.train",
    "evaluate": "commands.evaluate",
    "audit": "commands.audit",
    "adapt": "commands.adapt",
    "predict": "commands.predict",
    "compare": "commands.compare",
    "push": "commands.publish",
    "get_recipe": "recipes",
    "load_run": "run",
}
__all__ = [*API, "__version__"]


def __getattr__(name: str) -> Any:
    """The functions of the API, imported when they are asked for: `import trainer` alone stays fast."""
    if name not in API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{API[name]}"), name)
