"""What this machine offers: cores, device, kind of CPU, precision, memory allocator. Importing it imports no torch."""

import ctypes
import os
import platform
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# environment variables that glibc reads when a process starts, mallopt's parameter (malloc.h) and values, of which the
# first that is accepted counts: an older glibc refuses thresholds above 32 MiB
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": (-3, (1 << 30, 32 << 20)),
    "MALLOC_TRIM_THRESHOLD_": (-1, ((1 << 31) - 1,)),
    "MALLOC_TOP_PAD_": (-2, (64 << 20,)),
}
CPU_KINDS = {"amx": "amx_bf16", "avx512-bf16": "avx512_bf16", "avx512": "avx512_f", "avx2": "avx2"}  # flag of each
FASTER = 1.1  # bf16 is taken where it was measured this many times as fast as fp32
MEASURED_SECONDS = 0.4  # for each precision


def available_cores() -> int:
    """How many cores this process may use: containers and batch systems often grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Let glibc keep large blocks that are freed: else each goes back to Linux and is faulted in again, page by page.

    Holds for this process, its forks and the processes that it starts; True where all of it took effect. Other systems
    and C libraries stay as they are, and so does glibc with CXR_MALLOC=0.
    """
    if os.environ.get("CXR_MALLOC") == "0" or platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt, complete = ctypes.CDLL(None).mallopt, True
    for variable, (parameter, values) in MALLOC.items():
        accepted = next((value for value in values if mallopt(parameter, value) == 1), None)
        complete &= accepted is not None
        if accepted is not None:
            os.environ[variable] = str(accepted)
    return complete


def best_device() -> "torch.device":
    """The accelerator where there is one, else the CPU."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def cpu_kind() -> str:
    """`amx`, `avx512-bf16`, `avx512`, `avx2` or `other`: what decides about precision on a CPU."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return next((kind for kind, flag in CPU_KINDS.items() if capabilities.get(flag)), "other")


@cache
def bf16_on_cpu() -> tuple[bool, str]:
    """Whether this CPU computes faster in bf16 (channels last) than in fp32, and why; remembered for the process.

    AMX does; AVX-512 with bf16 is measured, for about a second; all others emulate it.
    """
    kind = cpu_kind()
    if kind != "avx512-bf16":
        return kind == "amx", f"CPU of kind {kind}"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return True, f"CPU of kind {kind}, not measured: several processes have to agree"
    speedup = _bf16_speedup()
    return speedup >= FASTER, f"CPU of kind {kind}, bf16 measured {speedup:.2f} times as fast as fp32"


def choose_precision(wanted: str) -> tuple[str, str]:
    """The precision of a training, `bf16`, `fp16` or `no` (fp32), and why; `auto` takes the machine's fastest."""
    import torch

    if wanted != "auto":
        return wanted, "the recipe says so"
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU computes it") if native else ("fp16", "the GPU does not compute bf16")
    faster, reason = bf16_on_cpu()
    return "bf16" if faster else "no", reason


def _bf16_speedup() -> float:
    """How many times as fast as fp32 a training step of a small convolutional network is in bf16."""
    import torch

    with torch.random.fork_rng(devices=[]):
        network = torch.nn.Sequential(
            torch.nn.Conv2d(32, 192, 1),
            torch.nn.Conv2d(192, 192, 3, padding=1, groups=192),
            torch.nn.ReLU6(),
            torch.nn.Conv2d(192, 64, 1),
            torch.nn.Conv2d(64, 64, 3, padding=1),
        ).to(memory_format=torch.channels_last)
        images = torch.randn(8, 32, 56, 56).to(memory_format=torch.channels_last)
    fastest = []
    for enabled in (False, True):
        times: list[float] = []
        end = time.perf_counter() + MEASURED_SECONDS
        while len(times) < 2 or time.perf_counter() < end:  # the first is slower: it chooses its kernels
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled):
                loss = network(images).float().square().mean()
            loss.backward()
            times.append(time.perf_counter() - start)
        fastest.append(min(times))
    return fastest[0] / fastest[1]
