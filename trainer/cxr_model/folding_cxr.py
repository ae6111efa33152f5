"""BatchNorm folded into convolutions: the same function of an image with less work."""

from contextlib import ExitStack
from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor, nn


def fold_batch_norm(model: Any, pixel_values: Tensor) -> Any:
    """A copy of a model in eval mode with BatchNorm in the convolutions before it (arXiv:1712.05877, section 3.2).

    Layers that belong together are seen in one pass over `pixel_values` [B, 3, H, W]. Where the copy's `logits` or
    `feature_map` differ, as where a convolution feeds other layers too, the model itself is given back.
    """
    folded = deepcopy(model.eval())
    names = {module: name for name, module in folded.named_modules()}
    with torch.inference_mode():
        expected, pairs = _watched(folded, pixel_values)
    for layer, reader in pairs:
        if type(layer) is nn.Conv2d and type(reader) is nn.BatchNorm2d:
            folded.set_submodule(names[layer], nn.utils.fuse_conv_bn_eval(layer, reader))
            folded.set_submodule(names[reader], nn.Identity())
        elif type(layer) is nn.BatchNorm2d and type(reader) in (nn.ReLU, nn.ReLU6):
            reader.inplace = True
    for layer in folded.modules():
        if getattr(getattr(layer, "config", None), "tf_padding", False) and getattr(layer, "convolution", None):
            _pad_within(layer, even=all(side % 32 == 0 for side in pixel_values.shape[2:]))
    with torch.inference_mode():
        output = folded(pixel_values)
    same = all(torch.allclose(output[key], expected[key], rtol=1e-3, atol=1e-4) for key in ("logits", "feature_map"))
    return folded if same else model


def _pad_within(layer: Any, even: bool) -> None:
    """transformers' MobileNets copy each map to pad it as TensorFlow does; a convolution's own padding does the same.

    With a stride of 2 an `even` map is padded at its far sides: so is it all around under a kernel that begins with 0.
    """
    convolution = layer.convolution
    if even and convolution.stride == (2, 2) and convolution.kernel_size == (3, 3) and convolution.groups > 1:
        wider = nn.functional.pad(convolution.weight.detach(), (1, 0, 1, 0))
        convolution.weight = nn.Parameter(wider.contiguous(memory_format=torch.channels_last))
        convolution.kernel_size = (4, 4)
    elif convolution.stride != (1, 1):
        return
    sizes = zip(convolution.dilation, convolution.kernel_size, strict=True)
    convolution.padding = tuple(dilation * (kernel - 1) // 2 for dilation, kernel in sizes)
    layer.config = copy(layer.config)
    layer.config.tf_padding = False


def _watched(model: Any, pixel_values: Tensor) -> tuple[Any, list[tuple[Any, Any]]]:
    """The model's output, and its layers in pairs: one, and the next that reads its output."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the outputs are held, so that no address is used twice
    pairs: list[tuple[Any, Any]] = []

    def wrote(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        made[id(output)] = (layer, output)

    def read(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], layer))

    with ExitStack() as hooks:
        for layer in model.modules():
            if type(layer) in (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6):
                hooks.enter_context(layer.register_forward_pre_hook(read))
                hooks.enter_context(layer.register_forward_hook(wrote))
        return model(pixel_values), pairs
