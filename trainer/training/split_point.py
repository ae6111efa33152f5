"""Where a network with a frozen beginning is split: the part that trains, as a model of its own."""

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from trainer.cxr_model import CxrForImageClassification

SEQUENCES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_split_point(
    model: CxrForImageClassification, values: torch.Tensor
) -> tuple[CxrForImageClassification, str, torch.Tensor] | None:
    """The part of a model from the first trained layer on, as a model that takes what is given to that layer.

    From that layer outwards, the first block is taken that answers as the whole model does: one that joins a side path
    from before it does not.

    Returns:
        The part, the name of the module it begins with, and that module's input for `values`; None where there is no
        such module, or nothing is computed before it.
    """
    for cut in _candidates(model):
        try:
            with torch.inference_mode():
                example, expected = activations_before(model.eval(), cut, values)
                trainable = _cut(model, cut)
                agree = torch.allclose(trainable.eval()(example).logits, expected, rtol=1e-4, atol=1e-5)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
            continue  # shapes that do not fit: a side path joins; or a module that is never called
        if agree:
            return None if torch.equal(example, values) else (trainable, cut, example)
    return None


def _candidates(model: CxrForImageClassification) -> Iterator[str]:
    """The blocks around the first trained layer, innermost first; or the head.

    A block is a member of a sequence or of the backbone itself. Parts of other layers are none: what `fuse` fuses is
    computed without a call of its parts, so that no hook would see it.
    """
    first = next(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    if first.startswith(("head.", "classifier.")):
        yield "head"
    module, _, _ = first.rpartition(".")
    while "." in module:
        owner, _, _ = module.rpartition(".")
        if owner in ("backbone", "backbone.timm_model") or isinstance(model.get_submodule(owner), SEQUENCES):
            yield module
        module = owner


def _cut(model: CxrForImageClassification, cut: str) -> CxrForImageClassification:
    """A copy of the model that shares its parameters and buffers, without what runs before `cut`."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    trainable = copy.deepcopy(model, shared)
    if cut == "head":
        trainable.backbone, trainable.projection, trainable.views = PrecomputedFeatures(), None, None
        trainable.config.pooling = "avg"  # of one place: itself
        return trainable
    owner: nn.Module = trainable
    for part in cut.split("."):
        for earlier in list(owner._modules)[: list(owner._modules).index(part)]:
            if isinstance(owner, nn.ModuleDict):  # DenseNet's blocks join what each of their layers gives
                del owner[earlier]
            else:
                is_list = isinstance(owner._modules[earlier], nn.ModuleList)
                owner._modules[earlier] = nn.ModuleList() if is_list else nn.Identity()
        owner = owner.get_submodule(part)
    return trainable


class PrecomputedFeatures(nn.Module):
    """Stands for a backbone that was computed before: pooled features [B, D] as a map of one place."""

    def forward(self, pooled: torch.Tensor) -> Any:
        """Pooled features [B, D] as a map of one place."""
        return SimpleNamespace(last_hidden_state=pooled[:, :, None, None])


def activations_before(
    model: CxrForImageClassification, cut: str, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the module `cut` is given for these pixel values, and the logits."""
    inputs: list[torch.Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        first = arguments[0]  # DenseNet gives its layers a list of maps
        inputs.append(torch.cat(first, dim=1) if isinstance(first, list) else first)

    handle = model.get_submodule(cut).register_forward_pre_hook(keep)
    try:
        logits = model(values).logits
    finally:
        handle.remove()
    return inputs[0], logits
