"""The search as a method: hard budgets, exact resume, failures told to the surrogate, ladder and front."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch

from bitsmith.blueprint import Budget
from bitsmith.cost import fits
from bitsmith.errors import BudgetError, RecipeError, RunError, TrainingError
from bitsmith.quantize import build
from bitsmith.recipe import make_method
from bitsmith.search import Latent, Method, Score
from bitsmith.search.latent import ladder
from bitsmith.search.latent import method as method_module
from bitsmith.testing.methods import example_problem
from bitsmith.train import TrainPlan, evaluate


def latent(kept_model, **changes) -> Latent:
    settings = {"plan": TrainPlan(epochs=2, compile="none"), "initial": 5, "evaluations": 4, "rungs": (3, 5), "eta": 3}
    return Latent(**(settings | {"pretrained": kept_model} | changes))


def budgets(every, share=0.5):
    return [Budget(cost="params", limit=float(np.quantile(every[1], share)))]


class _StoppedError(RuntimeError):
    pass


def same(a, b):
    assert a.best == b.best
    assert a.curves == b.curves
    assert a.details == b.details
    assert a.epochs == b.epochs


def test_searches_inside_budgets_and_climbs(space, kept_model, problem, scored, every, tmp_path):
    method = latent(kept_model)
    assert isinstance(method, Method)
    limits = budgets(every)
    found = method.search(problem(budgets=limits, folder=tmp_path))
    assert fits(found.best.graph, found.best.bits, limits)
    assert [epochs for _, epochs in scored] == [2] * 9 + [3] * 3 + [5]
    networks = [name for name, epochs in scored if epochs == 2]
    assert len(set(networks)) == 9
    assert found.epochs == method.epochs == 9 * 2 + 3 * 3 + 5
    assert found.seconds >= 13 * 0.5
    assert found.details["ladder"] == [{"networks": n, "epochs": e} for n, e in ((9, 2), (3, 3), (1, 5))]
    assert space.key(found.best) == scored[-1][0]
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()[1:]]
    assert [(line["network"], line["epochs"]) for line in lines] == scored
    assert all(line["costs"]["params"] <= limits[0].limit for line in lines)
    assert json.loads(json.dumps(found.details)) == found.details
    assert len({len(values) for values in found.curves.values()}) == 1


def test_goes_on_to_the_same_proposals(kept_model, problem, scored, every, tmp_path):
    """Stopped anywhere, within batches too; nothing that is kept is evaluated again; more evaluations go on."""
    method = latent(kept_model, batch=2, evaluations=3)
    limits = budgets(every)
    whole = method.search(problem(budgets=limits))
    networks = list(scored)
    scored.clear()
    stops = iter([2, 6, 7])
    stop_at = next(stops)

    def stop(event):
        if event.stage == "search latent" and event.step == stop_at:
            raise _StoppedError

    for _ in range(3):
        with pytest.raises(_StoppedError):
            method.search(problem(budgets=limits, folder=tmp_path, watch=stop))
        stop_at = next(stops, None)
    same(method.search(problem(budgets=limits, folder=tmp_path)), whole)
    assert scored == networks
    scored.clear()
    same(method.search(problem(budgets=limits, folder=tmp_path)), whole)
    assert scored == []
    more = dataclasses.replace(method, evaluations=4).search(problem(budgets=limits, folder=tmp_path))
    assert more.details["evaluations"] == 9
    with pytest.raises(RunError, match="trials of another search"):
        method.search(problem(budgets=budgets(every, 0.4), folder=tmp_path))


def test_hands_on_what_the_best_network_has_learned(kept_model, problem, every, tmp_path):
    """The weights of the highest rung, to the score; it goes on with them, and says so where they are lost."""
    method = latent(kept_model, initial=3, evaluations=0, rungs=(3,), eta=2)
    posed = problem(budgets=budgets(every), folder=tmp_path)
    found = method.search(posed)
    assert found.state is not None
    network = build(found.best)
    network.load_state_dict(found.state)
    metric, loss = evaluate(network.eval(), posed.task.data.validation, posed.task)
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()[1:]]
    (line,) = (line for line in lines if line["rung"] == 1 and line["network"] == posed.space.key(found.best))
    assert (metric, loss) == pytest.approx((line["metric"], line["loss"]))
    assert (tmp_path / "learned" / f"1-{line['number']}.safetensors").exists()
    assert len(list((tmp_path / "learned").iterdir())) == 2
    again = method.search(posed)
    assert again.best == found.best
    assert again.state is not None
    assert all(torch.equal(again.state[name], value) for name, value in found.state.items())
    assert dataclasses.replace(method, evaluations=1).search(posed).state is not None
    shutil.rmtree(tmp_path / "learned")
    notes = []
    lost = method.search(dataclasses.replace(posed, watch=lambda event: notes.append(event.note)))
    assert (lost.best, lost.state) == (found.best, None)
    assert sum("what the best network has learned is lost" in note for note in notes) == 1
    assert method.search(problem(budgets=budgets(every))).state is None


def test_failures_are_told_and_not_repeated(kept_model, problem, scored, every, monkeypatch):
    """Every separable network fails; the search ends with one that doesn't, and no failed one climbs."""
    well = ladder.evaluate_blueprint

    def fail(problem, blueprint, plan, **settings):
        score = well(problem, blueprint, plan, **settings)
        if "separable" in problem.space.key(blueprint):
            raise TrainingError("the loss became nan")
        return score

    monkeypatch.setattr(ladder, "evaluate_blueprint", fail)
    notes = []
    found = latent(kept_model, initial=8, rungs=(3,)).search(
        problem(budgets=budgets(every), watch=lambda event: notes.append(event.note))
    )
    assert len({name for name, epochs in scored if epochs == 2}) == 12
    failed = [name for name, _ in scored if "separable" in name]
    assert 0 < len(failed) < 12
    assert list(found.details["failed"].values()) == ["TrainingError: the loss became nan"] * len(failed)
    assert sum("failed: TrainingError" in note for note in notes) == len(failed)
    assert len(found.curves["step"]) == 12 - len(failed)
    assert all("separable" not in name for name, epochs in scored if epochs == 3)

    def always(*_, **__):
        raise TrainingError("the loss became nan")

    monkeypatch.setattr(ladder, "evaluate_blueprint", always)
    with pytest.raises(TrainingError, match=r"all 5 first networks failed.*the loss became nan"):
        latent(kept_model).search(problem(budgets=budgets(every)))


def test_screened_by_synaptic_flow(kept_model, problem, scored, every, monkeypatch):
    """Of four networks that could be trained the one with the most flow is, here the one with the most nodes."""
    looked: list[int] = []

    def flow(graph):
        looked.append(len(graph.nodes))
        return float(len(graph.nodes))

    monkeypatch.setattr(method_module, "synflow", flow)
    latent(kept_model, initial=3, evaluations=0, rungs=(), screen=4).search(problem(budgets=budgets(every)))
    assert len(looked) == 12
    layers = [name.count("|") + 1 for name, _ in scored]
    assert len(layers) == 3
    assert min(layers) >= 2


def test_fronts(space, kept_model, problem, scored, every):
    found = latent(kept_model, traded=("params",), evaluations=2, rungs=(3,), eta=2).search(
        problem(budgets=budgets(every, 0.9))
    )
    front = found.details["front"]
    assert front
    for a in front:
        assert not any(b["metric"] >= a["metric"] and b["params"] <= a["params"] and a != b for b in front)
    assert max(point["metric"] for point in front) == pytest.approx(
        max(point["metric"] for point in front if point["network"] == space.key(found.best))
    )


def test_loss_as_score(kept_model, problem, monkeypatch):
    """The least loss is the best, whatever the metric says."""
    losses = iter([0.5, 0.2, 0.9])
    monkeypatch.setattr(
        ladder,
        "evaluate_blueprint",
        lambda *_, **__: Score(metric=(loss := next(losses)), loss=loss, epochs=2, seconds=0.1),
    )
    method = latent(kept_model, initial=3, evaluations=0, rungs=(), score="loss")
    found = method.search(problem(budgets=[Budget.parse("macs=1G")]))
    assert found.curves["best_score"] == pytest.approx([-math.log(0.5), -math.log(0.2), -math.log(0.2)])
    assert found.curves["validation_loss"] == [0.5, 0.2, 0.9]


def test_refusals(kept_model, problem, space, every):
    method = latent(kept_model)
    with pytest.raises(RecipeError, match="whole networks of a sequence space"):
        method.check(example_problem().space, [Budget.parse("weights=1kB")], trained=True)
    with pytest.raises(RecipeError, match="start without"):
        method.check(space, budgets(every), trained=True)
    with pytest.raises(BudgetError, match="params is at least"):
        method.check(space, [Budget.parse("params=10")], trained=False)
    with pytest.raises(RecipeError, match=r"no cost .prams. .did you mean .params."):
        latent(kept_model, traded=("prams",)).check(space, budgets(every), trained=False)
    with pytest.raises(RunError, match="is missing"):
        latent("nowhere").check(space, budgets(every), trained=False)
    for changes, reason in (
        ({"rungs": (2,)}, "rise from above the plan's 2"),
        ({"rungs": (9, 5)}, "rise from above"),
        ({"initial": 1}, "at least 2"),
        ({"eta": 1}, "at least 2"),
        ({"score": "flops"}, "metric or loss"),
        ({"traded": ("macs", "macs")}, "each once"),
        ({"seconds": 0.0}, "positive"),
    ):
        with pytest.raises(RecipeError, match=reason):
            latent(kept_model, **changes)


def test_in_recipes():
    method = make_method({"name": "latent", "plan": {"lr": 0.05}, "rungs": [], "autoencoder": {"steps": 9}})
    assert isinstance(method, Latent)
    assert (method.plan.epochs, method.plan.lr, method.autoencoder.steps) == (6, 0.05, 9)
    assert hash(method) == hash(dataclasses.replace(method))
