"""What visitors send. It lies in a folder of this process alone, and is deleted with its answer.

Import it before gradio, which asks where temporary files go while it is imported.
"""

import atexit
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

EVERY = 15  # seconds between two looks at the folder
OFFERED = 600  # seconds a file stays after an answer where the page offers to ask again
UNASKED = 600  # seconds it stays without a question: so long may a queue be
EMPTY = 60  # seconds an empty file stays: gradio leaves one with each request


class Uploads:
    """A folder of temporary files: those that were answered, and those that nobody asked about, are deleted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._used: Counter[Path] = Counter()

    @contextmanager
    def use(self, paths: Iterable[str], stay: float = 0) -> Iterator[None]:
        """Within it these files stay, however long it takes; then they are deleted, or due so many seconds later."""
        files = [Path(path) for path in paths]
        with self._lock:
            self._used.update(files)
        try:
            yield
        finally:
            due = time.time() + stay
            with self._lock:
                self._used -= Counter(files)
                for file in files:
                    with suppress(FileNotFoundError):
                        os.utime(file, (due, due - UNASKED))
                        if not stay and file not in self._used:
                            file.unlink()
                            self._remove_folder(file.parent)

    def sweep(self, now: float | None = None) -> None:
        """Delete what is due, and folders that are empty. `now`: seconds since 1970, by default the time it is.

        A file is due so long after the time of its last change, which `use` sets. A new folder is about to be filled.
        """
        now = time.time() if now is None else now
        for path in sorted(self.folder.rglob("*"), reverse=True):  # what lies in a folder comes before it
            with self._lock, suppress(FileNotFoundError):
                info = path.stat()
                if path.is_dir():
                    if now > info.st_ctime + EVERY and not any(path.iterdir()):
                        self._remove_folder(path)
                elif path not in self._used and now > info.st_mtime + (UNASKED if info.st_size else EMPTY):
                    path.unlink()

    def _remove_folder(self, path: Path) -> None:
        """Delete a folder within, unless something lies in it."""
        if path != self.folder:
            with suppress(OSError):
                path.rmdir()

    def new_folder(self) -> Path:
        """A path within that no other file has."""
        return self.folder / secrets.token_hex(16)

    def keep_clean(self) -> None:
        """Sweep from now on, as long as the process lives."""

        def watch() -> None:
            while True:
                time.sleep(EVERY)
                try:
                    self.sweep()
                except OSError as error:
                    print(f"what visitors sent cannot be deleted: {error}", file=sys.stderr)

        threading.Thread(target=watch, daemon=True, name="uploads").start()


def _own_folder() -> Path:
    """A folder that no other program shares, within GRADIO_TEMP_DIR if that is set; deleted with this process."""
    base = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="cxr-space-", dir=base)).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def name_uploads_apart() -> None:
    """Have gradio put every upload into a folder of its own, not into one named by the file's digest: what one visitor
    sent may go with its answer while another waits for one about the same film.
    """
    from gradio import route_utils

    begin = route_utils.GradioUploadFile.__init__

    def begin_apart(upload: Any, *words: Any, **named: Any) -> None:
        begin(upload, *words, **named)
        upload.sha.update(secrets.token_bytes(16))

    route_utils.GradioUploadFile.__init__ = begin_apart


UPLOADS = Uploads(_own_folder())
