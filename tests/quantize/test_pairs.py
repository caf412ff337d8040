"""Quantizers by name: bitsmith's own from a float network to a verified file, and those of somebody else."""

from __future__ import annotations

import sys
import types

import graphs
import numpy as np
import pytest
import torch

from bitsmith.blueprint import Bits, Blueprint, InputContract
from bitsmith.data import open_data
from bitsmith.deploy import lower, verify_onnx, write_onnx
from bitsmith.errors import BitsmithError, RecipeError
from bitsmith.pipeline.verbs import precision_space
from bitsmith.quantize import QUANTIZERS, GaussianWeight, LsqActivation, QuantizerPair, build, find_quantizers, freeze
from bitsmith.recipe import parse_recipe


@pytest.mark.parametrize("bits", [1, 2, 6, 7, 8])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_what_every_quantizer_trains_is_what_its_file_computes(quantizer, bits, tmp_path, full):
    """Bit for bit, on both kinds of edges, signed and unsigned; at all bit-widths where kinds of codes change."""
    if bits not in (2, 7) and not full:
        pytest.skip("full tier")
    graph = graphs.residual()
    layers = {layer.name: Bits(weight=bits, activation=8 if bits == 8 else max(bits, 2)) for layer in graph.layers}
    contract = InputContract(kind="uint8", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    torch.manual_seed(bits)
    network = build(Blueprint(graph=graph, bits=layers, quantizer=quantizer, input=contract))
    pixels = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (contract.mean, contract.std))
    x = (pixels.float() / 255 - mean) / std
    for module in network.calibrated():
        module.begin()
    network.train()(x)
    for module in network.calibrated():
        module.end()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
    assert network.blueprint is not None
    frozen = freeze(network.eval(), network.blueprint)
    program = lower(frozen, network.blueprint)
    path = write_onnx(program, tmp_path / "model.onnx")
    checked = verify_onnx(path, frozen, program, pixels.numpy(), np.arange(16) % 5)
    assert checked.ok, checked.problems


def mine() -> QuantizerPair:
    return QuantizerPair(
        weight=lambda bits, shape, per_filter: GaussianWeight(bits),
        activation=lambda bits, signed: LsqActivation(bits, signed=signed),
    )


def test_quantizers_of_somebody_else(monkeypatch):
    name = "somebody_elses:MINE"
    graph = graphs.chain()
    bits = {layer.name: Bits(weight=3, activation=4) for layer in graph.layers}
    blueprint = Blueprint.from_json(Blueprint(graph=graph, bits=bits, quantizer=name).to_json())
    with pytest.raises(BitsmithError, match="import somebody_elses first, if you trust it"):
        build(blueprint)
    module = types.ModuleType("somebody_elses")
    module.MINE, module.OTHER = mine(), GaussianWeight  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebody_elses", module)
    network = build(blueprint)
    assert {type(layer.quantize_weight) for _, layer in network.priced()} == {GaussianWeight}
    with pytest.raises(BitsmithError, match=r"must be a bitsmith\.quantize\.QuantizerPair"):
        find_quantizers("somebody_elses:OTHER")
    with pytest.raises(BitsmithError, match="unknown quantizer 'lsqq'; known are lsq, lsq-pow2, pact"):
        find_quantizers("lsqq")


def recipe(quantizer: str) -> dict:
    return {
        "model": {"spec": "resnet8"},
        "data": {"source": "digits"},
        "budgets": ["size=9kB"],
        "space": {"quantizer": quantizer},
    }


def test_a_recipe_imports_what_it_names(tmp_path, monkeypatch):
    (tmp_path / "my_quantizers.py").write_text(
        "from bitsmith.quantize import QUANTIZERS\nMINE = QUANTIZERS['pact']\nWRONG = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert parse_recipe(recipe("my_quantizers:MINE"), "here").space.quantizer == "my_quantizers:MINE"
    assert find_quantizers("my_quantizers:MINE") is QUANTIZERS["pact"]
    for wrong, message in (
        ("my_quantizers:WRONG", "space.quantizer: .*must be a bitsmith.quantize.QuantizerPair"),
        ("my_quantizers:NONE", "space.quantizer: the quantizer 'my_quantizers:NONE' can't be imported"),
        ("no_such_module:X", "can't be imported: No module named"),
        ("pactt", "space.quantizer: unknown quantizer 'pactt'; known are"),
    ):
        with pytest.raises(RecipeError, match=message):
            parse_recipe(recipe(wrong), "here")


def test_the_quantizers_of_a_space():
    data = open_data("digits", limit=400)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    assert precision_space(network, data, quantizer="pact").template.quantizer == "pact"
    with pytest.raises(BitsmithError, match="unknown quantizer 'pac'"):
        precision_space(network, data, quantizer="pac")
