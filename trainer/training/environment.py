"""What a run was made with: versions, hardware and settings; no path and no host name."""

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "accelerate",
    "datasets",
    "scikit-learn",
    "numpy",
    "Pillow",
    "pydicom",
)


def describe(command: list[str]) -> dict[str, Any]:
    """The machine, the versions and the command, for environment.json; a path in the command is cut down to its last
    name.
    """
    import torch

    from trainer import __version__

    return {
        "cxr_hub": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "memory_format": "channels_last",
        "command": " ".join(["cxr", *(_without_path(word) for word in command)]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _without_path(word: str) -> str:
    return Path(word).name if "/" in word or "\\" in word else word
