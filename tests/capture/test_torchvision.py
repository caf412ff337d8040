"""Thirteen of torchvision's networks: parameters as in the module, operations as published, outputs by the check."""

import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from bitsmith.capture import capture
from bitsmith.capture.assemble import assemble
from bitsmith.capture.export import export
from bitsmith.capture.read import read

# name -> the smallest input that it takes. vgg11_bn pools to 7x7, which must divide its last map.
NETWORKS = {
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnet50": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "vgg11_bn": 224,
}
# Together they have all the operators; resnet18 and mobilenet_v2 run in test_networks too.
REDUCED = {"densenet121", "googlenet", "mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_1"}


@pytest.fixture(params=NETWORKS)
def name(request, full) -> str:
    if request.param not in REDUCED and not full:
        pytest.skip("in the full tier")
    return request.param


def network(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "transform_input": True, "init_weights": False}
    return get_model(name, weights=None, **options).eval()


def test_captured(name):
    size = NETWORKS[name]
    module = network(name, num_classes=10)
    if name == "vgg11_bn":
        module.classifier = nn.Sequential(nn.Flatten(), nn.Linear(512 * 7 * 7, 10))  # 1 GB of weights less
    captured = capture(module, (3, size, size))
    assert sum(captured.state[key].numel() for key in captured.state if _learned(key)) == sum(
        p.numel() for p in module.parameters()
    )
    assert captured.graph.output_shape == (10,)
    assert all("compared in eval mode alone" not in note for note in captured.notes)
    scaled = captured.graph.nodes[0].gain != ()
    assert scaled == (name in ("googlenet", "inception_v3"))


# 10^9 multiply-accumulates of one image, the published number of each network (its weights' meta data), to the digit.
def test_operations_and_parameters_as_published(name):
    meta = next(iter(get_model_weights(name))).meta
    module = network(name)
    size = 299 if name == "inception_v3" else 224
    assembled = assemble(read(export(module, (3, size, size)), module, (3, size, size)), module)
    macs = sum(layer.macs for layer in assembled.graph.layers)
    assert round(macs / 1e9, 3) == meta["_ops"]
    parameters = sum(assembled.state[key].numel() for key in assembled.state if _learned(key))
    # The published number of inception_v3 has its auxiliary classifier.
    auxiliary = 3_326_696 if name == "inception_v3" else 0
    assert parameters == meta["num_params"] - auxiliary


def _learned(key: str) -> bool:
    return not key.endswith(("running_mean", "running_var", "num_batches_tracked"))


@pytest.mark.parametrize("kind", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_left_out(kind, full):
    if kind == "inception_v3" and not full:
        pytest.skip("in the full tier")
    torch.manual_seed(0)
    module = get_model(kind, weights=None, init_weights=False, num_classes=10, aux_logits=True)
    captured = capture(module, (3, 75, 75))
    assert not any("aux" in key.lower() for key in captured.state)
    assert any(note.startswith("parameters that eval mode does not use are left out: ") for note in captured.notes)
    assert any("with the BatchNorms alone in it" in note for note in captured.notes)
