"""What a machine offers, each answer with capabilities and measurements that are not this machine's."""

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from tests.test_arrows import ROOT
from trainer import hardware
from trainer.data import copies

FLAGS = {"amx": ["amx_bf16", "avx512_bf16", "avx512_f", "avx2"], "avx512-bf16": ["avx512_bf16", "avx512_f", "avx2"]}
FLAGS |= {"avx512": ["avx512_f", "avx2"], "avx2": ["avx2"], "other": []}


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a CPU of some kind, without a GPU, that computes bf16 `speedup` times as fast: machine("amx")."""

    def pretend(kind: str, speedup: float | None = None, gpu: bool = False, native: bool = True) -> list[int]:
        measured = []
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(FLAGS[kind], True))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
        monkeypatch.setattr(hardware, "_bf16_speedup", lambda: measured.append(1) or speedup)
        hardware.bf16_on_cpu.cache_clear()
        return measured

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    yield pretend
    hardware.bf16_on_cpu.cache_clear()


@pytest.mark.parametrize(
    ("kind", "speedup", "precision", "reason"),
    [
        ("amx", None, "bf16", "CPU of kind amx"),
        ("avx512-bf16", 1.6, "bf16", "measured 1.60 times"),
        ("avx512-bf16", 0.9, "no", "measured 0.90 times"),
        ("avx512", None, "no", "CPU of kind avx512"),
        ("avx2", None, "no", "CPU of kind avx2"),
        ("other", None, "no", "CPU of kind other"),
    ],
)
def test_each_kind_of_cpu_has_its_precision(kind, speedup, precision, reason, machine):
    measured = machine(kind, speedup)
    assert hardware.cpu_kind() == kind
    for _ in range(2):
        chosen, why = hardware.choose_precision("auto")
        assert chosen == precision
        assert reason in why
    assert len(measured) == (speedup is not None)  # once, and only where flags do not tell


def test_several_processes_do_not_measure_and_so_agree(machine, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    measured = machine("avx512-bf16", 0.5)
    assert hardware.choose_precision("auto")[0] == "bf16"
    assert measured == []


def test_a_gpu_and_a_recipe_come_before_the_cpu(machine):
    measured = machine("avx512-bf16", 0.5, gpu=True)
    assert hardware.choose_precision("auto") == ("bf16", "the GPU computes it")
    machine("amx", gpu=True, native=False)
    assert hardware.choose_precision("auto")[0] == "fp16"
    assert hardware.choose_precision("no") == ("no", "the recipe says so")
    assert measured == []


def test_the_measurement_leaves_random_numbers_and_threads_alone(monkeypatch):
    monkeypatch.setattr(hardware, "MEASURED_SECONDS", 0.0)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert hardware._bf16_speedup() > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_near_copies_are_the_same_in_bf16_and_fp32(machine, monkeypatch):
    """And more images than a block holds are all compared."""
    monkeypatch.setattr(copies, "CHUNK", 5)
    thumbnails = torch.randint(0, 256, (13, 96, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    thumbnails[11] = thumbnails[2]
    results = []
    for kind in ("amx", "avx2"):
        machine(kind)
        pairs, complete = copies._alike(thumbnails.numpy())
        results.append((pairs.tolist(), complete))
    assert results[0] == results[1] == ([[2, 11]], True)


def test_an_older_glibc_gets_the_threshold_that_it_accepts(monkeypatch):
    asked = []

    class OlderLibrary:
        @staticmethod
        def mallopt(parameter, value):
            asked.append((parameter, value))
            return int(parameter != -3 or value <= 32 << 20)

    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda name: OlderLibrary)
    monkeypatch.setattr(hardware.platform, "libc_ver", lambda: ("glibc", "2.17"))
    monkeypatch.setattr(hardware.platform, "system", lambda: "Linux")
    monkeypatch.delenv("CXR_MALLOC", raising=False)
    for variable in hardware.MALLOC:
        monkeypatch.setenv(variable, "0")
    assert hardware.keep_freed_memory()
    assert (-3, 1 << 30) in asked
    assert os.environ["MALLOC_MMAP_THRESHOLD_"] == str(32 << 20)
    OlderLibrary.mallopt = staticmethod(lambda parameter, value: 0)
    assert not hardware.keep_freed_memory()
    monkeypatch.setattr(hardware.platform, "libc_ver", lambda: ("", ""))  # as with musl
    monkeypatch.delattr(OlderLibrary, "mallopt")
    assert not hardware.keep_freed_memory()


FAULTS = """
import json, os, resource
from trainer.cli import main

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        b"x" * (48 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before = faults()
main(["recipes", "--json"])
faults()
print(json.dumps([before, faults(), "MALLOC_MMAP_THRESHOLD_" in os.environ]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize("switch", ["1", "0"])
def test_a_command_faults_large_blocks_in_once_and_so_do_the_processes_that_it_starts(switch):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    words, environment = [sys.executable, "-c", FAULTS], {**kept, "CXR_MALLOC": switch, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True)
    before, after, inherited = json.loads(done.stdout.splitlines()[-1])
    assert inherited == (switch == "1")
    assert (after < before / 4) == (switch == "1")
