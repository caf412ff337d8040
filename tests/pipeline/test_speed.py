"""Honest speed: whose time a kernel is, what is called faster, and what is kept of a file."""

import shutil
from collections import Counter
from dataclasses import replace

import graphs
import numpy as np
import pytest
import torch

from bitsmith.blueprint import FLOAT, Bits, Blueprint, InputContract
from bitsmith.data import TensorSplit
from bitsmith.deploy.profile import Measured, measure
from bitsmith.errors import RunError
from bitsmith.pipeline import exported
from bitsmith.pipeline.folder import Entry, RunFolder
from bitsmith.pipeline.profile import sample_program
from bitsmith.pipeline.speed import FILE, at_eight, measure_speeds, owner, read_speeds
from bitsmith.quantize import build
from bitsmith.recipe import parse_recipe
from bitsmith.report import LayerSpeed, Speed, Time
from bitsmith.train import calibrate


def low(graph):
    bits = {layer.name: Bits(weight=2, activation=4) for layer in graph.layers}
    contract = InputContract(kind="uint8", mean=(0.5,) * graph.input_shape[0], std=(0.25,) * graph.input_shape[0])
    return Blueprint(graph=graph, bits=bits, input=contract)


def test_every_kernel_is_of_a_layer_or_of_the_rest():
    """Narrowings and clips are of the layer that asked for them."""
    blueprint = low(graphs.residual())
    for program, less in ((sample_program(blueprint), True), (sample_program(at_eight(blueprint)), False)):
        _, [measured] = measure([program], rounds=1, threads=1)
        owners = Counter(owner(program, *key) for key in measured.parts)
        assert set(owners) <= {"", *program.bits}
        assert set(program.bits) <= set(owners)
        extra = [key for key in measured.parts if key[1] == "clip" or key[0].endswith(":narrow")]
        assert bool(extra) == less
        assert all(owner(program, *key) in program.bits for key in extra)


@pytest.mark.parametrize(
    ("asked", "eight", "spread", "change"),
    [
        (80e-6, 100e-6, 1e-6, "faster"),
        (96e-6, 100e-6, 0.0, "the same"),  # within 5 %
        (80e-6, 100e-6, 12e-6, "the same"),  # within both spreads
        (2.1e-6, 3e-6, 0.0, "the same"),  # within a microsecond
        (130e-6, 100e-6, 5e-6, "slower"),
    ],
)
def test_what_is_called_faster(asked, eight, spread, change):
    assert Time(asked=asked, asked_spread=spread, eight=eight, eight_spread=spread).change == change


def test_bytes_alone_are_said_to_be_bytes_alone():
    time = Time(asked=1e-4, asked_spread=0.0, eight=1e-4, eight_spread=0.0)
    layer = LayerSpeed(
        name="a", weight_bits=2, activation_bits=8, kernel="QLinearConv", weight_type="int8", activation_type="uint8",
        executed_weight_bits=8, executed_activation_bits=8, extra_kernels=0, time=time, bytes=250, bytes_at_eight=1000,
    )  # fmt: skip
    speed = Speed(network="n", setting="here", call=time, rest=time, layers=[layer])
    assert "which saves 0.75 kB; 1 of these gained no time" in speed.words
    assert layer.bought == "bytes"
    assert replace(layer, bytes=1100).bought == "nothing"  # a table of narrowing takes bytes, too
    fast = replace(layer, time=replace(time, asked=5e-5))
    assert fast.bought == "bytes and time"
    assert "saves 0.75 kB; all of these gained time" in replace(speed, layers=[fast]).words
    assert "No layer was asked" in replace(speed, layers=[replace(layer, weight_bits=8)]).words
    with pytest.raises(RunError, match="without layers"):
        replace(speed, layers=[])


class Clock:
    """A stopwatch on which every kernel takes 10 us, of which the profile is 2, and a call 5 us more."""

    asked = 0

    def __call__(self, programs, tick):
        self.asked += 1
        _, measured = measure(programs, rounds=1, threads=1)
        tick()
        return np.full(40, 5e-6), [
            Measured(
                calls=np.full(40, 5e-6 + 8e-6 * sum(map(len, m.kernels.values()))),
                parts={key: np.full(10, 1e-5 * len(kernels)) for key, kernels in m.kernels.items()},
                kernels=m.kernels,
            )
            for m in measured
        ]


def exported_run(folder, blueprint, **options):
    """A run folder with one network, calibrated on noise and exported."""
    network = build(blueprint)
    images = torch.randint(0, 256, (4, *blueprint.graph.input_shape), dtype=torch.uint8)
    labels = torch.zeros(4, dtype=torch.int64)
    calibrate(network, TensorSplit(images=images, labels=labels, contract=blueprint.input), batches=1, batch_size=4)
    made = {"model": {"spec": "resnet8"}, "data": {"source": "digits"}, "budgets": ["size=20kB"], "start": "scratch"}
    run = RunFolder.create(folder, parse_recipe(made, "the test"))
    exported.export(network.eval(), folder / "made", **options)
    run.write_entry(Entry(name="made", kind="found", budgets=()), blueprint)
    return run


@pytest.mark.parametrize("vnni", [False, True])
def test_weights_of_8_bits_are_int8_where_the_file_is_for_vnni(tmp_path, vnni):
    [speed] = measure_speeds(exported_run(tmp_path, at_eight(low(graphs.residual())), vnni=vnni), measuring=Clock())
    assert {layer.weight_type for layer in speed.layers} == {"int8" if vnni else "uint8"}


def test_parts_make_up_the_call_and_are_kept_until_the_file_is_another(tmp_path):
    blueprint = low(graphs.residual())
    run = exported_run(tmp_path, blueprint)
    clock = Clock()
    [speed] = measure_speeds(run, measuring=clock)
    for of in ("asked", "eight"):
        parts = sum(getattr(layer.time, of) for layer in speed.layers) + getattr(speed.rest, of)
        assert parts == pytest.approx(getattr(speed.call, of), rel=1e-6)
    assert {layer.kernel for layer in speed.layers} == {"QLinearConv", "MatMulInteger"}
    assert all(layer.executed_weight_bits == 8 for layer in speed.layers)
    assert {layer.bought for layer in speed.layers} == {"bytes", "nothing"}  # each kernel takes the same
    assert any(layer.extra_kernels and layer.time.asked > layer.time.eight for layer in speed.layers)
    assert measure_speeds(run, measuring=clock) == [speed]
    assert clock.asked == 1
    floats = {name: Bits(weight=FLOAT, activation=FLOAT) for name in blueprint.bits}
    run.write_entry(Entry(name="float", kind="baseline", budgets=()), replace(blueprint, bits=floats))
    said: list[str] = []
    assert measure_speeds(run, measuring=clock, say=said.append) == [speed]
    assert said == ["float: no speed, as it is no integer layer"]
    shutil.rmtree(tmp_path / "float")

    file = tmp_path / "made" / "model.onnx"
    data = file.read_bytes()
    file.write_bytes(data + b"\x08\x0a")  # the same field once more
    assert read_speeds(run) == []
    file.write_bytes(data.replace(b"conv1.weight", b"conv9.weight"))
    with pytest.raises(RunError, match="export again"):
        measure_speeds(run, measuring=clock)
    file.write_bytes(data)
    (tmp_path / "made" / FILE).write_text("[]")
    with pytest.raises(RunError, match="damaged"):
        read_speeds(run)
