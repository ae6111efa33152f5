"""The lowest versions of the libraries that this code runs with, checked before anything that older ones lack."""

import torch
import transformers

LOWEST = {"transformers": (5, 17), "torch": (2, 11)}

for library in (transformers, torch):
    lowest = LOWEST[library.__name__]
    if tuple(int(number) for number in library.__version__.split(".")[:2]) < lowest:
        needed = f"{library.__name__}>={'.'.join(map(str, lowest))}"
        raise ImportError(f"this model needs {needed}, here is {library.__version__}: pip install -U '{needed}'")
