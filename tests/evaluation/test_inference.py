"""A model is made ready for inference without a copy that is not needed."""

import copy

import pytest
import torch
from torch import nn

from tests.cxr_model.test_model import PIXELS, make
from trainer.commands.predict import predict
from trainer.cxr_model import CxrImageProcessor
from trainer.inference import for_inference
from trainer.run import Run


@pytest.mark.parametrize("normalised", [True, False])
def test_a_model_is_copied_once_where_it_is_folded_and_else_not_at_all(normalised, monkeypatch):
    model = make()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and not normalised:  # as VGG is
            model.set_submodule(name, nn.Identity())
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    copied = []

    def deepcopy(value, *args):
        copied.append(value)
        return original(value, *args)

    original = copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", deepcopy)
    monkeypatch.setattr("trainer.cxr_model.folding_cxr.deepcopy", deepcopy)
    with torch.inference_mode():
        expected = model(PIXELS).logits
        ready = for_inference(model, CxrImageProcessor(size={"height": 64, "width": 64}))
        assert sum(isinstance(part, type(model)) for part in copied) == normalised
        assert (ready is model) is not normalised
        torch.testing.assert_close(ready(PIXELS.to(ready.device)).logits.cpu(), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(model(PIXELS.to(model.device)).logits.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_predictions_run_folded_layers(run, film, monkeypatch):
    models = []
    monkeypatch.setattr("trainer.inference.predict_image", lambda model, *_: models.append(model) or {"warnings": []})
    assert len(list(predict(Run(run), [str(film)]))) == len(models) == 1
    assert not any(isinstance(module, nn.BatchNorm2d) for module in models[0].modules())
