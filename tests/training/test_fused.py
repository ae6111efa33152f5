"""Fused layers compute the function of the layers they stand for, and its gradients."""

import copy

import pytest
import torch
from torch import nn
from transformers import MobileNetV2Config, MobileNetV2Model, ResNetConfig, ResNetModel

from trainer.training.fused import fuse

NETWORKS = {
    "mobilenet": lambda: MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35), add_pooling_layer=False),
    "mobilenet, plain padding": lambda: MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35, tf_padding=False)),
    "mobilenet, dilated": lambda: MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35, output_stride=16)),
    "resnet": lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[2, 1])),
    "resnet, basic": lambda: ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[1, 2], layer_type="basic")
    ),
}


def _settled(name: str) -> nn.Module:
    """A network in double precision whose BatchNorm statistics are anything but 0 and 1."""
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor += 0.3 * torch.randn_like(tensor)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model.eval()


def _pass(model: nn.Module, pixels: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    output = model(pixels).last_hidden_state
    output.square().mean().backward()
    return output.detach(), {name: tensor.grad for name, tensor in model.named_parameters()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(64, 64), (65, 47), (38, 70)])
def test_equal_in_results_and_gradients(name: str, size: tuple[int, int]) -> None:
    plain = _settled(name)
    fused = copy.deepcopy(plain)
    fuse(fused)
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    (expected, slopes), (output, gradients) = _pass(plain, pixels), _pass(fused, pixels)
    torch.testing.assert_close(output, expected)
    assert gradients.keys() == slopes.keys()
    for parameter, slope in slopes.items():
        torch.testing.assert_close(
            gradients[parameter], slope, msg=lambda text, parameter=parameter: f"{parameter}: {text}"
        )
    with torch.no_grad():
        torch.testing.assert_close(fused(pixels).last_hidden_state, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_names_stay_and_in_training_mode_results_gradients_and_statistics_do(name: str) -> None:
    plain = _settled(name)
    fused = copy.deepcopy(plain)
    fuse(fused)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    pixels = torch.randn(4, 3, 65, 47, dtype=torch.float64)
    (expected, slopes), (output, gradients) = _pass(plain.train(), pixels), _pass(fused.train(), pixels)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients, slopes)
    moved, before = fused.state_dict(), _settled(name).state_dict()
    torch.testing.assert_close(moved, plain.state_dict())
    assert not any(torch.equal(moved[key], before[key]) for key in moved if key.endswith("running_mean"))


def test_what_is_fused_already_stays_as_it_is() -> None:
    model = _settled("resnet")
    fuse(model)
    once = [module.forward for module in model.modules()]
    fuse(model)
    assert all(forward == module.forward for forward, module in zip(once, model.modules(), strict=True))
