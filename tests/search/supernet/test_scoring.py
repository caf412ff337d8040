"""Measured options against networks fixed by hand, and penalties against losses that add up."""

import copy
from typing import Literal

import numpy as np
import pytest
import torch
from spaces import mobile

from bitsmith.data import open_data
from bitsmith.search.supernet import Scoring, SharedNetwork
from bitsmith.search.supernet.scoring import OptionLosses, measure_options, to_penalties
from bitsmith.space import Mobile, MobileSpace, Stage, Stem
from bitsmith.train import Task, calibrate, reestimate_norms

SCORING = Scoring(norm_batches=2, loss_batches=3, batch_size=32, seed=3)
PLAIN = {"squeeze_excite": (False,), "activations": ("relu",)}


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(data=open_data("digits", limit=400).without_test())


def space_of(task: Task, bits: Literal["block", "layer"]) -> Mobile:
    """Up to three blocks in its second stage, with and without an expanding convolution."""
    stages = (
        Stage(channels=(4, 8), expansions=(1.0,), kernels=(3,), **PLAIN),
        Stage(channels=(8,), blocks=(1, 3), stride=2, expansions=(1.0, 2.0), kernels=(3, 5), **PLAIN),
    )
    description = MobileSpace(
        stem=Stem(channels=4), stages=stages, weight_bits=(2, 8), activation_bits=(4, 8), divisor=2, bits=bits
    )
    data = task.data
    return mobile(description, input_shape=data.shape, outputs=10, input=data.input, classes=data.classes)


def mixed(space: Mobile, seed: int) -> dict[str, torch.Tensor]:
    """Probabilities of all options, none of them small."""
    torch.manual_seed(seed)
    return {d.name: torch.softmax(torch.randn(len(d.options)), 0) for d in space.decisions.decisions}


@pytest.fixture(scope="module")
def measured(task) -> tuple[SharedNetwork, OptionLosses]:
    """A network of fresh weights, mixed, and the losses of all its options."""
    space = space_of(task, "layer")
    torch.manual_seed(0)
    network = SharedNetwork(space)
    network.present = mixed(space, 1)
    calibrate(network, task.data.train, batches=1, batch_size=32)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    losses = measure_options(network, network.present, task, SCORING, stage="options")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert losses.images == (32, 32, 8)
    return network, losses


@pytest.mark.parametrize(
    ("name", "option", "given"),
    [
        ("stage1.channels", 0, {}),
        ("stage2.blocks", 1, {}),
        ("stage2.block1.depthwise.weight_bits", 1, {}),
        ("stage2.block2.kernel", 0, {"stage2.blocks": (1, 2)}),
        ("stage2.block3.project.weight_bits", 1, {"stage2.blocks": (2,)}),
        ("stage2.block3.expand.activation_bits", 0, {"stage2.blocks": (2,), "stage2.block3.expansion": (1,)}),
    ],
)
def test_an_option_is_measured_where_it_is_made(task, measured, name, option, given):
    """All else mixed, but the numbers of blocks and expansions at which the option counts, by their shares."""
    network, found = measured
    p = network.present
    present = dict(p)
    for parent, options in given.items():
        kept = torch.tensor([float(p[parent][i]) if i in options else 0.0 for i in range(len(p[parent]))])
        present[parent] = kept / kept.sum()
    present[name] = torch.eye(len(p[name]))[option]
    trial = copy.deepcopy(network)
    trial.present = present
    reestimate_norms(trial, task.data.train, batches=2, batch_size=32, seed=3)
    with torch.no_grad():
        batches = list(task.data.search.batches(batch_size=32, seed=3))[:3]
        losses = [float(task.compute_loss(trial.eval()(x), y, smooth=False)) for x, y in batches]
    assert found.losses[name][option] == pytest.approx(losses, rel=1e-5)


def test_what_is_all_but_never_there_is_measured_all_the_same(task):
    """A number of blocks whose probability is 0 in single precision."""
    space = space_of(task, "block")
    network = SharedNetwork(space)
    p = mixed(space, 2) | {"stage2.blocks": torch.tensor([1.0, 0.0, 0.0])}
    network.present = p
    calibrate(network, task.data.train, batches=1, batch_size=32)
    losses = measure_options(network, p, task, SCORING, stage="options").losses["stage2.block3.weight_bits"]
    assert np.isfinite(losses).all()
    assert not np.allclose(losses[0], losses[1])


@pytest.mark.parametrize("bits", ["block", "layer"])
@pytest.mark.parametrize("seed", range(3))
def test_penalties_add_up_to_the_loss_where_losses_do(task, bits, seed):
    """Every option adds to the loss where it is made: networks' penalties are their losses but for a constant."""
    space = space_of(task, bits)
    decisions, rng = space.decisions.decisions, np.random.default_rng(seed)
    p = {name: torch.softmax(values.double().log(), 0).numpy() for name, values in mixed(space, seed).items()}
    effects = {}
    for d in decisions:  # with more of it never worse, also where what hangs on it comes on top
        steep = {"blocks": 1000.0, "expansion": 50.0}.get(d.name.rpartition(".")[2], 1.0)
        effects[d.name] = steep * rng.uniform(0.5, 1.5, len(d.options)).cumsum()[::-1]

    def behind(name: str, option: int) -> float:
        children = [d for d in decisions if d.parent == name and option in d.when]
        return sum(
            sum(p[c.name][o] * (effects[c.name][o] + behind(c.name, o)) for o in range(len(c.options)))
            for c in children
        )

    losses = {
        d.name: np.array([effects[d.name][o] + behind(d.name, o) for o in range(len(d.options))]) + rng.normal()
        for d in decisions
        if len(d.options) > 1
    }
    penalties = to_penalties(space, losses, p)
    differences = []
    for _ in range(100):
        indices = space.decisions.sample(rng)
        chosen = [d for d, active in zip(decisions, space.decisions.active(indices), strict=True) if active]
        at = {d.name: int(indices[space.decisions.index[d.name]]) for d in chosen}
        loss = sum(effects[name][o] for name, o in at.items() if name in losses)
        alone = sum(effects[name][0] for name in at if name not in losses)  # an only option is measured with its parent
        differences.append(sum(penalties[name][o] for name, o in at.items()) - loss - alone)
    assert np.ptp(differences) == pytest.approx(0, abs=1e-8)


def test_what_losses_leave_equal_goes_to_more(task):
    """Ties go to more bits, channels and blocks; what is told apart stays as it is."""
    space = space_of(task, "block")
    p = {name: values.double().numpy() for name, values in mixed(space, 0).items()}
    flat = {d.name: np.zeros(len(d.options)) for d in space.decisions.decisions}
    for name, penalty in to_penalties(space, flat, p).items():
        assert p[name] @ penalty == pytest.approx(0, abs=1e-12)
        assert (np.diff(penalty) < 0).all()
    told = flat | {"stage2.blocks": np.array([2.0, 1.0, 1.0])}
    steps = np.diff(to_penalties(space, told, p)["stage2.blocks"])
    assert steps == pytest.approx([-1, -0.005])  # a hundredth of the largest difference, shared out to two steps
    worse = flat | {"stage1.channels": np.array([0.0, 1.0])}
    assert np.diff(to_penalties(space, worse, p)["stage1.channels"]) < 0
