"""Whether weights and a configuration belong together: their amount before they are loaded, each tensor after."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

BYTES = 2  # of a number, at least: nothing smaller than half precision is stored
WHERE = ("revision", "subfolder", "cache_dir", "token", "local_files_only")


def check_amount(model_class: type[PreTrainedModel], name: str, config: Any = None, **options: Any) -> None:
    """Refuse a configuration whose network has more weights than model.safetensors can hold, without building it.

    Takes what `from_pretrained` takes; OSError: it has.
    """
    where = {key: options[key] for key in WHERE if key in options}
    file = cached_file(name, SAFE_WEIGHTS_NAME, **where, _raise_exceptions_for_missing_entries=False)
    if file is None:  # in parts, or none
        return
    with torch.device("meta"):  # shapes alone
        model = model_class(deepcopy(config) or model_class.config_class.from_pretrained(name, **where))
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    if count * BYTES > Path(file).stat().st_size:
        raise OSError(f"{name}: the configuration has {count:,} weights, more than its file holds: they do not fit")


def check_loaded(model: PreTrainedModel, info: dict[str, Any], name: str, new_head: bool) -> None:
    """OSError: weights are missing, left over, not finite or, unless the head is to be new, of other sizes."""
    kinds = ["missing_keys", "unexpected_keys", *([] if new_head else ["mismatched_keys"])]
    if wrong := {kind: sorted(map(str, info[kind])) for kind in kinds if info[kind]}:
        raise OSError(f"{name}: the weights do not fit the configuration: {wrong}")
    if broken := [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]:
        raise OSError(f"{name}: weights that are not finite: {', '.join(broken[:3])}; train it anew")
