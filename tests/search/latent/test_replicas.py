"""The table's networks trained side by side come to what each comes to alone."""

import json
from dataclasses import replace

import pytest

from benchmarks.latent_table import PLAN, make_space, make_task, topologies
from benchmarks.replicas import train_replicas
from bitsmith.blueprint import Budget
from bitsmith.search import Problem, evaluate_blueprint
from bitsmith.space.sequence_space import Token


def test_replicas_train_as_alone():
    """Depthwise and plain layers, adds, both bit-widths; the first steps agree to the rounding of float32."""
    task = make_task()
    space, plan = make_space(task), replace(PLAN, epochs=1, lr=0.05)
    layers = (
        Token(operator="conv", kernel=3, channels=8, stride=2, weight_bits=8, activation_bits=8),
        Token(operator="separable", kernel=3, channels=8, skip=1, weight_bits=2, activation_bits=8),
    )
    blueprints = [space.build((layers[0], replace(layers[1], weight_bits=bits))) for bits in (8, 2)]
    together = train_replicas(task, blueprints, (0, 5), plan)
    for blueprint, outcomes in zip(blueprints, together, strict=True):
        for seed, outcome in zip((0, 5), outcomes, strict=True):
            problem = Problem(task=task, space=space, budgets=[Budget.parse("macs=1G")], seed=seed)
            alone = evaluate_blueprint(problem, blueprint, plan)
            assert outcome.loss == pytest.approx(alone.loss, rel=1e-3)
            assert outcome.metric == pytest.approx(alone.metric, abs=0.005)
    assert len({round(outcome.loss, 4) for outcomes in together for outcome in outcomes}) == 4


def test_topologies_hold_every_network_once():
    space = make_space(make_task())
    groups = topologies(space)
    assert sorted(number for group in groups for number in group) == list(range(space.count()))
    assert all(len({json.dumps(b.graph.to_dict()) for b in group.values()}) == 1 for group in groups[::50])
