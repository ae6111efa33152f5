"""`make hostile`: every hostile file through the reader as `cxr` has it, with its time and the memory of both processes.

Prints a line for each that took over 5 s, over 1.5 GB, ended its process or ended in a traceback; exits 1 where one did.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile import more_files  # noqa: F401  it names more kinds
from tests.hostile.files import KINDS, VALID, mutations

SLOW, HANGS, MUCH, MOST = 5.0, 20.0, 1.5e9, 6 << 30
CHILD = """
import json, resource, sys, time
import psutil
from trainer.cxr_model import RadiographError, read_radiograph
from trainer.data.pixels import DECODE

def peak():
    ended = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    status = "".join(open(f"/proc/{child.pid}/status").read() for child in psutil.Process().children())
    return ended[0] + max(ended[1], int(status.partition("VmHWM:")[2].split()[0]))

DECODE.start()
start = peak()
for line in sys.stdin:
    file, begun = line.rstrip("\\n"), time.perf_counter()
    try:
        read_radiograph(file, DECODE)
        said = ""
    except (RadiographError, ImportError) as error:
        said = str(error)
    seconds = time.perf_counter() - begun
    DECODE.start()
    print(json.dumps({"seconds": seconds, "bytes": 1024 * (peak() - start), "said": said}), flush=True)
"""


class Reader:
    """A process that reads files one after another; a new one after each that raised its peak or ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, file: Path) -> dict[str, object]:
        """{"seconds", "bytes", "said"}, or {"ended"} where the process ended or hung."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST)),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        begun = time.perf_counter()
        self._process.stdin.write(f"{file}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, object] = json.loads(line)
            if float(str(answer["bytes"])) > MUCH / 10:
                self.end()
            return answer
        self._process.wait()
        ended = f"{self._process.returncode}: {self._process.stderr.read()[-300:]}"
        self._process = None
        return {"ended": ended, "seconds": time.perf_counter() - begun, "bytes": 0}

    def end(self) -> None:
        """End the process."""
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--verbose", action="store_true", help="a line for every file")
    options = parser.parse_args()
    files = {name: make for name, make in KINDS.items() if options.only in name}
    reader, bad = Reader(), 0
    with tempfile.TemporaryDirectory() as folder:

        def try_one(name: str, content: bytes) -> bool:
            file = Path(folder, f"{name}.bin")
            file.write_bytes(content)
            answer = reader.read(file)
            file.unlink()
            wrong = "ended" in answer or float(str(answer["seconds"])) > SLOW or float(str(answer["bytes"])) > MUCH
            if wrong or options.verbose:
                size = f"{float(str(answer['bytes'])) / 1e9:.2f} GB"
                said = str(answer.get("ended", answer.get("said")))[-160:].replace("\n", " ")
                print(
                    f"{'!' if wrong else ' '} {name}: {float(str(answer['seconds'])):.2f} s, {size}: {said}", flush=True
                )
            return wrong

        count = 0
        for name, make in files.items():
            bad += try_one(name, make())
            count += 1
        for valid in VALID if not options.only else ():
            for name, content in mutations(valid).items():
                bad += try_one(name, content)
                count += 1
    reader.end()
    print(f"{count} files, {bad} of them over {SLOW:.0f} s or {MUCH / 1e9} GB, or the end of the reader")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
