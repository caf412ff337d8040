"""What differs between training and evaluation, and what capturing leaves alone: modes, types, state, randomness."""

import copy

import torch
import torchvision
from rebuilt import outputs_agree, randomize, rebuild
from torch import nn

from bitsmith.capture import capture
from bitsmith.quantize import build, float_blueprint


def test_final_steps_are_removed():
    torch.manual_seed(0)

    class Label(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Softmax(dim=1))

        def forward(self, x):
            return self.net(x).sigmoid().argmax(1)

    captured = capture(Label(), (3, 2, 2))
    assert captured.graph.output == "net.1"
    assert [note.split(" (")[0] for note in captured.notes] == [
        "the final softmax",
        "the final sigmoid",
        "the final argmax",
    ]


def test_only_in_eval_softmax_agrees_in_train_mode_too():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 4)

        def forward(self, x):
            x = self.fc(x.flatten(1))
            return x if self.training else x.softmax(1)

    assert len(capture(Head(), (3, 2, 2)).notes) == 1


def test_what_is_random_in_training_is_kept_or_noted():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.maps = nn.Dropout2d(0.2)
            self.depth = torchvision.ops.StochasticDepth(0.5, "row")
            self.drop = nn.Dropout(0.5, inplace=True)
            self.never = nn.Dropout(0.0)

        def forward(self, x):
            return self.never(self.drop(self.depth(self.maps(self.conv(x)))))

    module = Net()
    captured = capture(module, (3, 8, 8))
    assert [node.name for node in captured.graph.nodes] == ["input", "conv", "drop"]
    # Both random modules are held still for the comparison, so there is no third note.
    assert [note.split(":")[0] for note in captured.notes] == ["maps", "depth"]
    network = rebuild(captured).train()
    y = network(torch.randn(2, 3, 8, 8))
    assert 0.3 < (y == 0).float().mean() < 0.7


def test_auxiliary_heads_are_left_out_with_a_note():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.aux = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.conv(x)
            return (x, self.aux(x)) if self.training else x

    captured = capture(Net(), (3, 4, 4))
    assert [node.name for node in captured.graph.nodes] == ["input", "conv"]
    assert captured.notes == (
        "parameters that eval mode does not use are left out: aux.weight, aux.bias",
        "compared in eval mode alone: train mode returns a tuple; what only training computes is left out",
    )


def test_float64_frozen_parameters_and_the_state_are_kept():
    torch.manual_seed(0)
    module = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).double()
    module[0].weight.requires_grad_(False)
    module[1].num_batches_tracked.fill_(7)
    captured = capture(module, (3, 6, 6))
    assert captured.state["0.weight"].dtype == torch.float64
    assert torch.equal(captured.state["0.weight"], module[0].weight)
    assert captured.state["0.norm.num_batches_tracked"] == 7
    assert set(captured.state) == set(build(float_blueprint(captured.graph)).state_dict())
    outputs_agree(module, captured, torch.float64)


def test_the_module_and_the_global_generator_are_left_alone():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 2))
    module.train()
    module[1].eval()
    module[0].weight.requires_grad_(False)
    flags = [child.training for child in module.modules()]
    before = copy.deepcopy(module.state_dict())
    generator = torch.get_rng_state()
    first, second = capture(module, (3, 6, 6)), capture(module, (3, 6, 6))
    assert [child.training for child in module.modules()] == flags
    assert [p.requires_grad for p in module.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    # A captured state is a copy, and capturing is a function of the module.
    assert first.state["0.weight"].data_ptr() != module[0].weight.data_ptr()
    assert first.graph == second.graph
    assert all(torch.equal(first.state[key], second.state[key]) for key in second.state)


def test_a_module_that_casts_is_compared_in_its_own_type():
    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.conv(x.float())

    captured = capture(Casting(), (3, 4, 4))
    (note,) = captured.notes
    assert note.startswith("compared in float32, not in float64")
