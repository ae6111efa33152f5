"""What a run was made with: versions, hardware and settings; no path and no host name."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trainer import __version__

PACKAGES = "torch torchvision transformers timm accelerate datasets scikit-learn numpy Pillow pydicom"


def describe(command: list[str]) -> dict[str, Any]:
    """The machine, the versions and the command (paths cut down to their last name), for environment.json."""
    return {
        "cxr_hub": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES.split()},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": " ".join(["cxr", *(Path(word.replace("\\", "/")).name or word for word in command)]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """The processor's name, which Linux tells in a file alone."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
