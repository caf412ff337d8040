"""The Python face, as a user with a module and loaders of their own would use it."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bitsmith as bs
from bitsmith.errors import BudgetError, ExportError, RecipeError, RunError
from bitsmith.pipeline.artefacts import describe
from bitsmith.search import Composite, Found
from bitsmith.train import accuracy


class Own(nn.Module):
    """A user's network in functional style, with a residual add."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.classifier(torch.relu(self.norm(self.second(x)) + x).mean((2, 3)))


@pytest.fixture(scope="module")
def digits():
    return bs.open_data("digits")


@pytest.fixture(scope="module")
def space(digits):
    torch.manual_seed(0)
    return bs.precision_space(Own(), digits, weight_bits=(2, 4, 8), activation_bits=(4, 8))


def test_the_whole_job_in_python(digits, space, tmp_path):
    task = bs.Task(data=digits)
    plan = bs.TrainPlan(epochs=2, batch_size=64, lr=0.1)
    method = Composite(plan=plan, norm_batches=2, loss_batches=1)
    found = bs.search(task, space, method, budgets=["weights=500B", "bitops=2M"])
    assert found.costs["weights"] <= 500
    assert found.costs["bitops"] <= 2e6
    net = bs.train(task, found.best, plan, state=found.state)
    files = bs.export(net, tmp_path)
    checked = bs.verify(files, digits.test)
    assert checked.ok, checked.problems
    assert checked.agreement_trained is not None
    assert checked.agreement_trained > 0.95  # freezing rounds
    assert checked.accuracy_trained == pytest.approx(checked.accuracy_reference, abs=0.02)
    assert "predicted as by the trained network" in describe(checked)
    again = bs.load(tmp_path)
    x, _ = next(digits.test.batches(batch_size=64))
    assert torch.equal(again(x), net(x))


def test_quantizing_without_training(digits, tmp_path):
    """Of a trained float network: 8 bits keep what it knows, fewer bits cost more, and the file computes the same."""
    torch.manual_seed(0)
    net = Own()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for epoch in range(8):
        for x, y in digits.training.batches(batch_size=64, seed=epoch):
            loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    captured, task = bs.capture(net, digits.shape), bs.Task(data=digits)
    space = bs.precision_space(captured, digits, weight_bits=(1, 2, 8), ends=None)
    x = torch.cat([x for x, _ in digits.test.batches(batch_size=500)])
    y = torch.cat([y for _, y in digits.test.batches(batch_size=500)])
    right = {bits: accuracy(bs.quantize(task, space.uniform(bits, 8), captured.state)(x), y) for bits in (1, 8)}
    assert accuracy(net.eval()(x), y) > 0.7
    assert abs(right[8] - accuracy(net(x), y)) < 0.03
    assert right[1] < right[8] - 0.1
    limits = bs.fronts("weights=250,600B", "ram=4kB")
    found = [
        bs.search(task, space, bs.Sensitivity(loss_batches=2), line, float_state=captured.state) for line in limits
    ]
    assert [result.costs["weights"] <= limit for result, limit in zip(found, (250, 600), strict=True)] == [True, True]
    assert found[0].costs["weights"] < found[1].costs["weights"]
    checked = bs.verify(bs.export(bs.quantize(task, found[1].best, captured.state), tmp_path), digits.test)
    assert checked.ok, checked.problems


def test_a_search_takes_one_budget_of_a_front(digits, space):
    with pytest.raises(BudgetError, match=r"bitsmith\.fronts"):
        bs.search(bs.Task(data=digits), space, bs.Uniform(), budgets=["size=10,20kB"])


def test_an_own_training_loop_and_own_loaders(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 3, 8, 8, generator=generator)
    y = (x.mean((1, 2, 3)) > 0).long()
    loader = DataLoader(TensorDataset(x, y), batch_size=32)
    data = bs.from_loaders(train=loader, validation=loader, test=loader, classes=["low", "high"])
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
    space = bs.precision_space(module, data, weight_bits=(3,), activation_bits=(8,))
    net = bs.build(space.uniform(3, 8))
    bs.calibrate(net, data.train)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(3):
        for batch, labels in loader:
            loss = nn.functional.cross_entropy(net(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    checked = bs.verify(bs.export(net, tmp_path), data.test)
    assert checked.ok, checked.problems
    assert checked.accuracy_reference > 0.8


def test_searches_can_not_read_the_test_split(digits, space):
    class Peeking:
        name, epochs = "peeking", 0

        def check(self, space, budgets, *, trained):
            pass

        def search(self, problem):
            return len(problem.task.data.test)

    with pytest.raises(ValueError, match="only for the final evaluation"):
        bs.search(bs.Task(data=digits), space, Peeking(), budgets=["size=20kB"])


def test_what_a_method_returns_is_checked(digits, space):
    """A method of one's own is not believed: outside a budget is an error, not a result."""

    class Greedy:
        name, epochs = "greedy", 0

        def check(self, space, budgets, *, trained):
            pass

        def search(self, problem):
            return Found(best=problem.space.uniform(8, 8), method="greedy") if problem.seed else None

    with pytest.raises(BudgetError, match="'greedy' returned a network outside weights=500B"):
        bs.search(bs.Task(data=digits), space, Greedy(), ["weights=500B"], seed=1)
    with pytest.raises(RecipeError, match="'greedy' returned a NoneType"):
        bs.search(bs.Task(data=digits), space, Greedy(), ["weights=500B"])


def test_a_search_without_a_choice_is_refused(digits):
    fixed = bs.precision_space(Own(), digits, weight_bits=(4,))
    with pytest.raises(RecipeError, match="nothing to search"):
        bs.search(bs.Task(data=digits), fixed, Composite(), ["size=20kB"])


def test_refusals(digits, space, tmp_path):
    task = bs.Task(data=digits)
    with pytest.raises(BudgetError, match="at least"):
        bs.search(task, space, bs.Uniform(), budgets=["weights=10B"])
    with pytest.raises(BudgetError, match="at least one budget"):
        bs.search(task, space, bs.Uniform(), budgets=[])
    with pytest.raises(RecipeError, match="unknown target"):
        bs.search(task, space, bs.Uniform(), budgets=["size=20kB"], target="toaster")
    colored = bs.Task(data=dataclasses.replace(digits, shape=(3, 8, 8)))
    with pytest.raises(RecipeError, match=r"inputs of \(1, 8, 8\) .* and the data has images of \(3, 8, 8\)"):
        bs.search(colored, space, bs.Uniform(), budgets=["size=20kB"])
    fewer = bs.Task(data=dataclasses.replace(digits, classes=digits.classes[:7]))
    for use in (lambda: bs.train(fewer, space.template), lambda: bs.quantize(fewer, space.template, {})):
        with pytest.raises(RecipeError, match=r"to outputs of \(10,\), .* and 7 classes"):
            use()
    with pytest.raises(ExportError, match="unknown format"):
        bs.export(bs.build(space.template), tmp_path, formats=["hex"])
    with pytest.raises(RunError, match="search or export first"):
        bs.verify(tmp_path / "nothing", digits.test)
    floats = bs.precision_space(Own(), digits, weight_bits=(32,), activation_bits=(32,), ends=32)
    with pytest.raises(RecipeError, match="would stay float"):
        bs.search(task, floats, bs.Uniform(), budgets=["size=20kB"], target="c")


def test_public_names_are_there_and_no_others():
    assert all(hasattr(bs, name) for name in bs.__all__)
    assert sorted(bs.__all__) == bs.__all__
