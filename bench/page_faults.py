"""What the allocator costs: a forward pass of MobileNet-V2 (32 x 3 x 224 x 224, fp32) before and after the setting.

`python bench/page_faults.py [--bf16] [--json FILE]`. Both in one process, the first as glibc comes, the second as every
`cxr` command sets it (`trainer.hardware.keep_freed_memory`); random weights, nothing is downloaded.
"""

import argparse
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from harness import ROOT, describe_machine, write_report

BATCH = 32


def measure(repeats: int, bf16: bool) -> dict[str, dict[str, float]]:
    """Medians over `repeats` passes, by name of the setting."""
    import torch
    from transformers import MobileNetV2Config, MobileNetV2Model

    from trainer.hardware import keep_freed_memory

    model = MobileNetV2Model(MobileNetV2Config()).eval().to(memory_format=torch.channels_last)
    images = torch.rand(BATCH, 3, 224, 224).to(memory_format=torch.channels_last)

    def one_pass() -> tuple[float, float, float]:
        usage, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, bf16):
            model(images)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        return seconds, after.ru_minflt - usage.ru_minflt, after.ru_stime - usage.ru_stime

    results = {}
    for name in ("as glibc comes", "freed memory kept"):
        if results and not keep_freed_memory():
            print("the setting does not take effect here: Linux with glibc only, without CXR_MALLOC=0", file=sys.stderr)
            break
        one_pass()
        passes = [one_pass() for _ in range(repeats)]
        seconds, faults, kernel = (statistics.median(column) for column in zip(*passes, strict=True))
        results[name] = {"images_per_s": BATCH / seconds, "page_faults": faults, "kernel_s": kernel}
    return results


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="under autocast to bf16")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if inherited := [name for name in os.environ if name.startswith("MALLOC_")]:
        parser.error(f"unset {', '.join(inherited)} first: they are the setting")
    results: dict[str, Any] = measure(options.repeats, options.bf16)
    print("| allocator | images/s | page faults a pass | kernel, s a pass |")
    print("|---|---|---|---|")
    for name, row in results.items():
        print(f"| {name} | {row['images_per_s']:.1f} | {row['page_faults']:,.0f} | {row['kernel_s']:.2f} |")
    write_report(options.json, machine=describe_machine(), results=results)


if __name__ == "__main__":
    main()
