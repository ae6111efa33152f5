"""Folding changes no answer; where it would, it is not done."""

import pytest
import torch
from torch import nn

from trainer.cxr_model.folding_cxr import fold_batch_norm


class Network(nn.Module):
    """Convolution and normalisation; with `shared`, the convolution feeds the output, too."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.shared = shared
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        nn.init.normal_(self.norm.bias)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, values):
        made = self.first(values)
        normed = self.norm(made)
        features = self.second(normed.relu() + made if self.shared else normed.relu())
        return {"logits": features.mean(dim=(2, 3)), "feature_map": features}


@pytest.mark.parametrize("shared", [False, True])
def test_the_answer_stays(shared):
    torch.manual_seed(0)
    model = Network(shared).eval()
    values, others = torch.rand(1, 3, 16, 16), torch.rand(4, 3, 16, 16)
    weight = model.first.weight.clone()
    folded = fold_batch_norm(model, values)
    kinds = [type(module) for module in folded.modules()]
    assert (nn.BatchNorm2d in kinds) is shared
    assert torch.equal(model.first.weight, weight)  # what was given stays as it was
    torch.testing.assert_close(folded(others)["logits"], model(others)["logits"], rtol=1e-4, atol=1e-5)


def test_the_networks_that_are_served_lose_their_normalisation(run):
    from trainer.cxr_model import CxrForImageClassification

    model = CxrForImageClassification.from_pretrained(run).eval()
    assert not [
        module
        for module in fold_batch_norm(model, torch.rand(1, 3, 64, 64)).backbone.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    assert [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("side", [64, 96, 75])
def test_tensorflows_padding_stays(side):
    from transformers import MobileNetV2Config, MobileNetV2Model

    torch.manual_seed(0)

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = MobileNetV2Model(MobileNetV2Config(tf_padding=True, depth_multiplier=0.35))

        def forward(self, values):
            features = self.backbone(values).last_hidden_state
            return {"logits": features.mean(dim=(2, 3)), "feature_map": features}

    model = Padded().eval()
    values = torch.rand(2, 3, side, side)
    folded = fold_batch_norm(model, values[:1])
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]  # folded at every size
    kernels = [module.kernel_size for module in folded.modules() if isinstance(module, nn.Conv2d)]
    assert ((4, 4) in kernels) is (side % 32 == 0)
    torch.testing.assert_close(folded(values)["logits"], model(values)["logits"], rtol=1e-4, atol=1e-5)


def test_a_model_without_normalisation_is_as_before():
    layer = nn.Conv2d(3, 4, 3)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, values):
            features = self.layer(values)
            return {"logits": features.mean(dim=(2, 3)), "feature_map": features}

    values = torch.rand(1, 3, 8, 8)
    model = Plain().eval()
    torch.testing.assert_close(fold_batch_norm(model, values)(values)["logits"], model(values)["logits"])
