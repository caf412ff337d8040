"""The filters method: the contract of every method, and what is its own."""

import dataclasses

import pytest

from bitsmith.blueprint import Budget
from bitsmith.cost import TARGETS, exact, fits
from bitsmith.errors import BudgetError, RecipeError
from bitsmith.search import Found, Method, Problem
from bitsmith.search.filters import Filters
from bitsmith.search.filters import method as implementation
from bitsmith.testing import MethodContract
from bitsmith.train import TrainPlan

PLAN = TrainPlan(epochs=3, batch_size=64, lr=0.05, device="cpu", compile="none")


class TestFilters(MethodContract):
    @staticmethod
    def make() -> Method:
        return Filters(plan=PLAN, norm_batches=2)

    def test_result_is_inside_every_budget(self, found: Found, problem: Problem) -> None:
        """Its networks have filters of their own, so that the space of bits alone doesn't hold them."""
        assert fits(found.best.graph, found.best.bits, problem.budgets, problem.space.costs)
        assert max(found.costs[budget.cost] / budget.limit for budget in problem.budgets) > 0.9  # one of them binds
        assert any(not isinstance(bits.weight, int) for bits in found.best.bits.values())
        options = problem.space.options
        for name, bits in found.best.bits.items():
            assert set(bits.weight_widths) <= set(options[name].weight)
            assert bits.activation in options[name].activation
        for old, new in zip(problem.space.template.graph.layers, found.best.graph.layers, strict=True):
            told = found.details["filters"][old.name]
            assert sum(told.values()) == old.out_channels
            assert told.get("0", 0) == old.out_channels - new.out_channels

    def test_a_tight_budget_leaves_the_least_blueprint(self, method: Method, problem: Problem) -> None:
        """One channel in every layer but the last, one bit inside: 9 B, four times ceil(9 / 8) B, 10 B."""
        found = method.search(dataclasses.replace(problem, budgets=[Budget.parse("weights=27B")]))
        assert found.costs["weights"] == 9 + 4 * 2 + 10
        assert [layer.out_channels for layer in found.best.graph.layers] == [1, 1, 1, 1, 1, 10]
        assert [bits.weight for bits in found.best.bits.values()] == [8, 1, 1, 1, 1, 8]
        with pytest.raises(BudgetError, match="weights is at least 27 B"):
            method.check(problem.space, [Budget.parse("weights=26B")], trained=True)

    def test_a_cost_that_no_bits_change(self, method: Method, problem: Problem) -> None:
        with pytest.raises(RecipeError, match=r"can't be led to avg_bits=4.*budget one of these"):
            method.check(problem.space, [Budget.parse("avg_bits=4")], trained=True)

    def test_memories_of_a_target(self, problem: Problem) -> None:
        """Flash leads the search as size does; RAM is held where the whole network meets it."""
        device = dataclasses.replace(TARGETS["c"], code=1000, operator_code=0, memories={"flash": 4000, "ram": 1600})
        method = Filters(plan=PLAN, norm_batches=2)
        board = dataclasses.replace(
            problem, space=dataclasses.replace(problem.space, costs=device.costs), budgets=device.within([])
        )
        found = method.search(board).best
        flash, ram = (exact(cost, found.graph, found.bits, device.costs) for cost in ("flash", "ram"))
        assert 3900 < flash <= 4000
        assert ram <= 1600
        little = dataclasses.replace(device, memories={"ram": 1500})
        needed = r"ram=1.5kB \(a budget, or the memory of the target\), and the network takes 1.536 kB before"
        with pytest.raises(RecipeError, match=rf"can't be led to {needed}.*, or a target with more ram"):
            method.check(board.space, little.within([]), trained=True)

    def test_nothing_is_compiled(self, problem: Problem) -> None:
        for compiled in ("quantizers", "network"):
            with pytest.raises(
                RecipeError, match=rf"compiles nothing, so it can't take compile: {compiled}; take none"
            ):
                Filters(plan=dataclasses.replace(PLAN, compile=compiled))
        opened = []

        def stop(method: Filters, *_: object, **__: object) -> None:
            opened.append(method.plan.compile)
            raise InterruptedError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(implementation, "open_loop", stop)
            with pytest.raises(InterruptedError):
                Filters(plan=dataclasses.replace(PLAN, compile="auto")).search(problem)
        assert opened == ["none"]

    def test_expected_costs_come_to_the_limit(self, problem: Problem) -> None:
        """From twice the budgets and more; without the penalty they stay there."""
        budgets = [Budget(cost=budget.cost, limit=0.4 * budget.limit) for budget in problem.budgets]
        plan = dataclasses.replace(PLAN, epochs=8)
        method = Filters(plan=plan, norm_batches=2, architecture_lr=0.1, multiplier_step=0.1)
        curves = method.search(dataclasses.replace(problem, budgets=budgets)).curves
        for budget in budgets:
            expected, limit = (curves[f"{what} {budget.cost}"] for what in ("expected", "limit"))
            assert expected[0] > 1.8 * budget.limit
            assert limit[-1] == budget.limit
            assert expected[-1] < 1.2 * budget.limit

    def test_without_removal_every_filter_stays(self, problem: Problem) -> None:
        graph = problem.space.template.graph
        found = Filters(plan=PLAN, remove=False, norm_batches=2).search(problem)
        assert found.best.graph == graph
        assert fits(found.best.graph, found.best.bits, problem.budgets)
        assert exact("macs", found.best.graph, found.best.bits) == exact(
            "macs", graph, problem.space.uniform(8, 8).bits
        )


def test_settings_out_of_range():
    with pytest.raises(RecipeError, match="no bits of filters would be learned"):
        Filters(plan=TrainPlan(epochs=1), weights_first=1)
    with pytest.raises(RecipeError, match="final training"):
        Filters(plan=TrainPlan(epochs=4, ema=0.99))
    with pytest.raises(RecipeError, match="temperature of method 'filters' must be positive"):
        Filters(temperature=(1.0, 0.0))
