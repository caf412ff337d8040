"""Reference networks: published counts of weights, MACs and costs; shapes; structure."""

import pytest
import torch
import torchvision
from torch import nn

from bitsmith.models import MODELS, edmips_resnet18, mobilenet_v2_small, resnet8, resnet20


def _weights(net):
    """Weights of convolutions and linear layers, biases left out."""
    return sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def _layers(net, shape):
    """(name, module, input shape, output shape) of each convolution and linear layer, as they run."""
    seen = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda m, x, y, name=name: seen.append((name, m, tuple(x[0].shape[1:]), tuple(y.shape[1:])))
            )
    with torch.no_grad():
        net.eval()(torch.zeros(1, *shape))
    return seen


def _macs(net, shape):
    total = 0
    for _, module, _, out in _layers(net, shape):
        positions = out[1] * out[2] if len(out) == 3 else 1
        total += module.weight.numel() * positions
    return total


def test_resnet8_has_the_published_size():
    net = resnet8()
    assert _weights(net) == 77360  # MLPerf Tiny, counted without biases
    assert _macs(net, (3, 32, 32)) == 12_501_632  # "12.5 M"
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert sum(m.out_channels for m in convs) == 336


def test_resnet8_skips_have_a_bias_and_no_norm_as_the_reference():
    named = dict(resnet8().named_modules())
    for skip in ("layer2.0.skip", "layer3.0.skip"):
        conv = named[skip]
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        assert (conv.kernel_size, conv.stride) == ((1, 1), (2, 2))
    assert isinstance(named["layer1.0.skip"], nn.Identity)
    threes = [m for m in named.values() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(threes) == 7
    assert all(m.bias is None for m in threes)


def test_resnet20_has_the_published_size():
    net = resnet20()
    # He et al.: .27 M parameters, here with option B; 40.81 M MACs stands in public tables for option B.
    assert sum(p.numel() for p in net.parameters()) == 272_474
    assert _macs(net, (3, 32, 32)) == 40_813_184
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len([m for m in convs if m.kernel_size == (3, 3)]) + 1 == 20


def test_edmips_resnet18_has_the_convolutions_of_torchvisions():
    ours, theirs = edmips_resnet18(), torchvision.models.resnet18(weights=None)
    assert _weights(ours) == _weights(theirs)
    published = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["_ops"]  # 1.814 G, multiply-accumulates
    assert _macs(ours, (3, 224, 224)) / 1e9 == pytest.approx(published, abs=5e-4)


def test_edmips_layer_costs_add_up_to_the_published_ratio():
    costs = {}
    for name, m, (cin, height, width), _ in _layers(edmips_resnet18(), (3, 224, 224))[:-1]:
        costs[name] = cin * m.out_channels * m.kernel_size[0] ** 2 * height * width / m.stride[0] ** 2
    assert costs.pop("conv1") > 0  # not quantized in the publication, nor is the classifier
    assert len(costs) == 19
    assert next(iter(costs)) == "layer1.0.conv1"
    assert sum(costs.values()) / costs["layer1.0.conv1"] == pytest.approx(14.667, abs=5e-4)


def test_edmips_block_quantizable_convolutions_read_relu_and_skips_read_what_the_code_says():
    """Against the block written out by hand with functional calls on the same parameters."""
    torch.manual_seed(0)
    net = edmips_resnet18(classes=5, width=4)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    net.eval()
    p = net.state_dict()
    f = nn.functional

    def norm(x, name):
        mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
        shape = (1, -1, 1, 1)
        scale = p[f"{name}.weight"] / (var + 1e-5).sqrt()
        return (x - mean.view(shape)) * scale.view(shape) + p[f"{name}.bias"].view(shape)

    x = torch.randn(2, 3, 40, 40)
    y = norm(f.max_pool2d(f.conv2d(x, p["conv1.weight"], stride=2, padding=3), 3, 2, 1), "bn1")
    for stage in range(1, 5):
        for block in range(2):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            a = norm(y, f"{at}.bn0").clamp(min=0)
            b = norm(f.conv2d(a, p[f"{at}.conv1.weight"], stride=stride, padding=1), f"{at}.bn1").clamp(min=0)
            c = norm(f.conv2d(b, p[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            if stride == 2:
                y = norm(f.conv2d(a, p[f"{at}.downsample.0.weight"], stride=2), f"{at}.downsample.1")
            y = y + c
    wanted = y.clamp(min=0).mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]
    with torch.no_grad():
        torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 33, 47), (2, 5, 9)])
def test_networks_take_any_size_and_pass_gradients(name, shape):
    torch.manual_seed(0)
    net = MODELS[name](classes=7, channels=shape[0], width=8)
    y = net(torch.randn(4, *shape))
    assert y.shape == (4, 7)
    y.logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(("build", "factor"), [(resnet8, 4), (resnet20, 4), (edmips_resnet18, 8)])
def test_width_scales_every_stage(build, factor):
    narrow = build(classes=10, width=8)
    assert narrow.conv1.out_channels == 8
    assert narrow.fc.in_features == 8 * factor
    wide = build(classes=10, width=16)
    pairs = zip(narrow.modules(), wide.modules(), strict=True)
    assert all(2 * a.out_channels == b.out_channels for a, b in pairs if isinstance(a, nn.Conv2d))


@pytest.mark.parametrize("name", MODELS)
def test_the_start_follows_the_global_seed(name):
    def start(seed):
        torch.manual_seed(seed)
        return MODELS[name](width=8).state_dict()

    first, same, other = start(0), start(0), start(1)
    assert all(torch.equal(first[k], same[k]) for k in first)
    stem = next(iter(first))
    assert not torch.equal(first[stem], other[stem])


def test_weights_start_with_kaimings_deviation():
    torch.manual_seed(0)
    for net, fan in ((resnet8(width=32), "in"), (resnet20(width=32), "out"), (edmips_resnet18(width=32), "out")):
        conv = net.layer3[0].conv1
        n = (conv.in_channels if fan == "in" else conv.out_channels) * 9
        assert conv.weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=0.02)


def test_mobilenet_v2_small_has_torchvisions_blocks():
    rows = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 2, 2]]
    theirs = torchvision.models.MobileNetV2(num_classes=10, inverted_residual_setting=rows)
    net = mobilenet_v2_small()
    assert _weights(net) == 124_096
    assert _macs(net, (3, 32, 32)) == 9_154_432

    def shapes(layers):
        found = [m for layer in layers for m in layer.modules() if isinstance(m, nn.Conv2d)]
        return [(tuple(m.weight.shape), m.stride, m.padding, m.groups) for m in found]

    # Rows 2 to 4; the first reads another stem. And as many residuals.
    assert shapes(list(net.blocks)[1:]) == shapes(list(theirs.features)[2:8])
    assert [block.adds for block in net.blocks][1:] == [block.use_res_connect for block in theirs.features[2:8]]
