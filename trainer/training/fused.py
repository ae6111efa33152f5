"""The same layers with less memory traffic: what a fine-tuning of ResNets and MobileNet-V2 spends most of its time on.

Where BatchNorm's statistics stay, convolution and normalisation are one convolution with scaled weights: the same
function of the same parameters, and gamma and beta still train. Where they move, both are computed one after the other;
padding costs no copy and the activation is computed in place in either case. Each pass over a feature map counts.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import MobileNetV2ConvLayer, apply_tf_padding
from transformers.models.resnet.modeling_resnet import ResNetConvLayer, ResNetShortCut

LAYERS = (MobileNetV2ConvLayer, ResNetConvLayer, ResNetShortCut)


def fuse(model: nn.Module) -> None:
    """Let the convolution layers of transformers' ResNet and MobileNet-V2 below `model` compute as one step, in place.

    Parameters and their names stay, results too up to rounding, and BatchNorm in training mode moves its statistics. A
    layer that is fused already stays as it is.
    """
    for layer in model.modules():
        if not isinstance(layer, LAYERS) or layer.normalization is None or layer.convolution.dilation != (1, 1):
            continue
        if getattr(layer.forward, "func", None) is not _forward:
            layer.forward = partial(_forward, layer)


def _forward(layer: Any, features: Tensor) -> Tensor:
    weight, bias, norm = layer.convolution.weight, layer.convolution.bias, layer.normalization
    if norm.training:
        features = norm(_convolve(layer, features, weight, bias))
    else:
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight, bias = weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
        features = _convolve(layer, features, weight, bias)
    activation = getattr(layer, "activation", None)
    if isinstance(activation, nn.ReLU6):
        return F.relu6(features, inplace=True)
    if isinstance(activation, nn.ReLU):
        return F.relu(features, inplace=True)
    return features if activation is None else activation(features)


def _convolve(layer: Any, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer's convolution with this weight and bias; without a copy of the map wherever that can be."""
    convolution, tf_padding = layer.convolution, isinstance(layer, MobileNetV2ConvLayer) and layer.config.tf_padding
    (stride, _), (size, _), groups = convolution.stride, convolution.kernel_size, convolution.groups
    before = [_tf_padding_before(length, size, stride) if tf_padding else size // 2 for length in features.shape[2:]]
    if stride > 1 and groups > 1 and features.device.type == "cpu" and torch.is_grad_enabled():
        # oneDNN has no fast bf16 gradient for a depthwise convolution with a stride: to compute every place is quicker
        top, left = (size // 2 - padding for padding in before)
        features = F.conv2d(features, weight, bias, 1, size // 2, 1, groups)[..., top::stride, left::stride]
        return features.contiguous(memory_format=torch.channels_last)
    if tf_padding and stride > 1:
        features, before = apply_tf_padding(features, convolution), [0, 0]
    return F.conv2d(features, weight, bias, stride, before, 1, groups)


def _tf_padding_before(length: int, size: int, stride: int) -> int:
    """Zeros that TensorFlow's SAME puts before a side of this length."""
    return max(size - (length % stride or stride), 0) // 2
