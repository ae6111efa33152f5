"""Decoders that cannot be bounded from within, in a process with a clock and a memory limit. Research demonstration,
not a medical device.

Nothing that is loaded with a model starts one: `cxr` and the Space do.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .bounds_cxr import is_jpeg2000, is_tiff, transfer_syntax
from .dicom_cxr import is_dicom
from .grey_cxr import Radiograph, RadiographError
from .reader_cxr import decode_file, read_radiograph

SECONDS = 4.0  # of processor time, that one file may take; a film of 15 million pixels takes less than two
WAIT = 20.0  # seconds, that it may take in all: others may have the processor
MEMORY = 1_200_000_000  # bytes that the process may allocate
HEADER = 1 << 16  # bytes of a DICOM file in which its transfer syntax stands
UNCOMPRESSED = {f"1.2.840.10008.1.2{kind}" for kind in ("", ".1", ".2", ".1.99")}  # transfer syntaxes
PIPE = 1 << 20  # bytes for pixels on their way: fewer waits
SETTINGS = {  # one thread; what is freed is kept, up to 128 MiB, in large pages: each costs a fault at first
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
# This folder as a package, without what its __init__ imports: torch and transformers would take seconds.
CHILD = """
import importlib, sys, types
package = sys.modules["reader"] = types.ModuleType("reader")
package.__path__ = [sys.argv[1]]
importlib.import_module("reader.process_cxr").serve()
"""


class ReaderProcess:
    """Decodes a file as `decode_file` does: TIFF, JPEG 2000 and compressed DICOM in another process, which is started
    with the first of them and stays; where a file ends it, that file is refused, and the next starts another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started it: a fork must not share its pipes
        self.previews = False  # whether `deep` of a radiograph is given, as its preview

    def __call__(self, file: BinaryIO) -> Radiograph:
        """The radiograph in an open file, from any thread.

        Raises:
            RadiographError: it cannot be read, or not within SECONDS and MEMORY.
            ImportError: a DICOM file, and pydicom is not installed.
        """
        if is_bounded(file):
            return decode_file(file)
        path = getattr(file, "name", None)
        content = b"" if path else file.read()
        with self._lock:
            return self._ask({"path": os.path.abspath(path) if path else "", "preview": self.previews}, content)

    def start(self) -> None:
        """Start the process, if there is none."""
        if self._process is None or self._owner != os.getpid():
            self._process, self._owner = _start(), os.getpid()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None and self._owner == os.getpid():
            _end(self._process)
        self._process = None

    def _ask(self, request: dict[str, Any], content: bytes) -> Radiograph:
        self.start()
        process: Any = self._process
        late = threading.Timer(WAIT, process.kill)
        late.start()
        try:
            _write(process.stdin, request, content)
            answer, pixels = _read(process.stdout)
        except (OSError, EOFError):
            reason = _end(process)
            self._process = None
            if reason in (-signal.SIGKILL, -getattr(signal, "SIGPROF", 0)):
                raise RadiographError(f"takes more than {SECONDS:.0f} s to decode: save it anew, smaller") from None
            raise RadiographError("its decoder failed: save it anew") from None
        finally:
            late.cancel()
        if "error" in answer:
            raise (ImportError if answer["missing"] else RadiographError)(answer["error"])
        height, width = answer["shape"]
        image = np.frombuffer(pixels, np.uint8, height * width).reshape(height, width)
        deep = np.frombuffer(pixels, np.uint16, offset=image.size).reshape(answer["deep"]) if answer["deep"] else None
        return Radiograph(image, tuple(answer["warnings"]), deep)


def is_bounded(file: BinaryIO) -> bool:
    """Whether what a file asks of its decoder is bounded from within; it is left at its start."""
    start = file.read(HEADER)
    file.seek(0)
    if is_dicom(file):
        return transfer_syntax(start)[0] in UNCOMPRESSED
    return not (is_tiff(start) or is_jpeg2000(start))


def serve() -> None:
    """The other process: answer what comes by standard input, until that ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decoders print
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory()
    _write(answers, {})
    while True:
        try:
            request, content = _read(requests)
        except EOFError:
            return
        _set_clock(SECONDS)
        answer, pixels = _answer(request["path"] or content, request["preview"])
        _set_clock(0)
        _write(answers, answer, pixels)


def _answer(source: str | bytes, preview: bool) -> tuple[dict[str, Any], bytes | memoryview]:
    try:
        radiograph = read_radiograph(source)
    except (RadiographError, ImportError) as error:
        name = source if isinstance(source, str) else "the bytes given"
        return {"error": str(error).removeprefix(f"{name}: "), "missing": isinstance(error, ImportError)}, b""
    image, deep = np.ascontiguousarray(radiograph.pixels), radiograph.preview() if preview else None
    answer = {"shape": image.shape, "warnings": radiograph.warnings, "deep": None if deep is None else deep.shape}
    return answer, image.data.cast("B") if deep is None else image.tobytes() + deep.tobytes()


def _limit_memory() -> None:
    """Where the system has limits, keep this process to MEMORY, and leave no image of it when it ends."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _set_clock(seconds: float) -> None:
    """Have the system end this process after so many seconds of processor time; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _start() -> subprocess.Popen[bytes]:
    words = [sys.executable, "-P", "-c", CHILD, str(Path(__file__).parent)]
    process: Any = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **SETTINGS},
    )
    with suppress(ImportError, AttributeError, OSError):  # Linux alone has it, for so many of a user's pipes
        import fcntl

        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE)
    try:
        _read(process.stdout)
    except EOFError:
        raise RadiographError(f"the process that decodes it does not start ({_end(process)})") from None
    return process


def _end(process: subprocess.Popen[bytes]) -> int:
    """End a process, and say how it ended."""
    for pipe in filter(None, (process.stdin, process.stdout)):
        with suppress(OSError):  # what was not sent yet cannot be
            pipe.close()
    try:
        return process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _write(pipe: Any, words: dict[str, Any], content: bytes | memoryview = b"") -> None:
    """A line of JSON, and bytes: nothing that runs where it is read."""
    pipe.write(json.dumps({**words, "size": len(content)}).encode() + b"\n")
    pipe.write(content)
    pipe.flush()


def _read(pipe: Any) -> tuple[dict[str, Any], bytes]:
    """What `_write` wrote.

    Raises:
        EOFError: the other side ended.
    """
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    words = json.loads(line)
    content = pipe.read(words["size"])
    if len(content) < words["size"]:
        raise EOFError
    return words, content
