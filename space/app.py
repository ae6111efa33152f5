"""The Space: drop in a radiograph, read the answer. Start it with `python app.py`; models.toml names the models."""

import gc
import os
import re
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from config import ModelError, ensure_writable_cache, read_sources

# For gradio: no statistics of its visitors, which it would work out anew with each answer; and no look for a screen to
# draw on.
SETTINGS = {
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**12),
    "MPLBACKEND": "agg",
}


class Log:
    """Standard error without the images that visitors send: gradio's tracebacks quote what they were about."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, base64 cut out."""
        self._stream.write(re.sub(r"[\w+/=%-]{200,}", "…", text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main() -> int:
    """Load the models and serve; without one that loads, say why and stop."""
    os.environ.update(SETTINGS)
    sys.stderr = Log(sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what visitors sent is deleted
    try:
        sources = read_sources(Path(__file__).parent / "models.toml", os.environ)
        ensure_writable_cache(sources)
        from worker import Models

        with closing(Models(sources)) as models:
            gc.disable()  # nothing that is imported is garbage
            from page import serve  # it takes as long as the models: both at the same time

            gc.enable()
            predictors, failed = models.load()
            if not predictors:
                raise ModelError(
                    "no model can be loaded; name a complete run, or org/name@revision, in models.toml or CXR_<TASK>"
                )
            serve(predictors, failed)
    except ModelError as error:
        print(f"The Space does not start: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
