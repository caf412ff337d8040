"""Tables from a clock whose answer is known, from onnxruntime for shape and sanity, and what is refused."""

import os
from collections import Counter
from dataclasses import replace

import graphs
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bitsmith.blueprint import Bits, Blueprint, InputContract
from bitsmith.cost.latency import network_works, read_latency_table
from bitsmith.deploy.onnx_file import to_onnx
from bitsmith.deploy.profile import Measured, measure, time_calls, typical
from bitsmith.errors import RecipeError, RunError
from bitsmith.pipeline import profile as profiling
from bitsmith.pipeline.profile import (
    check,
    check_random,
    covering,
    other_setting_note,
    predict,
    present_setting,
    profile,
    sample_program,
)
from bitsmith.space import precision

FULL = os.environ.get("BITSMITH_TESTS") == "full"
CALL, PROFILE_COST = 7e-6, 2.75e-6


def truth(key: str) -> float:
    """Seconds that a work takes on an imagined machine: whole nanoseconds, different for every key."""
    return (3000 + sum(key.encode()) % 5000) * 1e-9


class Clock:
    """A stopwatch that knows the answer, with what the profile adds to every kernel."""

    def __init__(self, blueprints, slower=1.0, stop_after=None):
        # Programs don't know their blueprint: by the bits that they carry.
        self.works = {repr(sorted(b.bits.items(), key=str)): network_works(b) for b in blueprints}
        self.slower, self.stop_after, self.programs = slower, stop_after, 0

    def __call__(self, programs, tick):
        found = []
        for program in programs:
            self.programs += 1
            works = self.works[repr(sorted(program.bits.items(), key=str))]
            kernels = Counter({(w.operator, w.part): 1 + len(w.key) % 3 for w in works})
            parts = {(w.operator, w.part): truth(w.key) + PROFILE_COST * kernels[w.operator, w.part] for w in works}
            whole = CALL + sum(truth(w.key) for w in works)
            found.append(
                Measured(
                    calls=np.full(40, whole * self.slower),
                    parts={at: np.full(40, seconds) for at, seconds in parts.items()},
                    kernels={at: ("kernel",) * count for at, count in kernels.items()},
                )
            )
        if self.stop_after is not None and self.programs > self.stop_after:
            raise KeyboardInterrupt
        tick()
        return np.full(40, CALL), found


def space_of(graph, activation_bits=(1, 2, 4, 8), contract="uint8"):
    channels = graph.input_shape[0]
    pixels = InputContract(kind="uint8", mean=(0.5,) * channels, std=(0.5,) * channels)
    template = replace(graphs.blueprint(graph), input=pixels if contract == "uint8" else InputContract())
    return precision(template, (1, 2, 8), activation_bits, ends=None)


@pytest.mark.parametrize("graph", [graphs.residual(), graphs.every_operator(), graphs.modern()])
def test_a_table_from_a_known_clock_predicts_every_network_of_the_space(tmp_path, graph):
    space = space_of(graph)
    clock = Clock(covering(space))
    table = profile(covering(space), tmp_path / "latency.json", measuring=clock)
    assert clock.programs == 3  # a byte, less than a byte, signs: 4 and 2 bits are alike
    for seed in range(20):
        blueprint = space.sample(np.random.default_rng(seed))
        expected = CALL + sum(truth(work.key) for work in network_works(blueprint))
        assert predict(table, blueprint) == pytest.approx(expected, abs=1e-9 * len(network_works(blueprint)))


def test_what_occurs_often_is_one_entry_and_nothing_is_measured_twice(tmp_path):
    space, file = space_of(graphs.residual()), tmp_path / "latency.json"
    table = profile(covering(space), file, measuring=Clock(covering(space)))
    keys = {work.key for blueprint in covering(space) for work in network_works(blueprint)}
    assert set(table.entries) == keys
    again = Clock([])
    assert profile(covering(space), file, measuring=again).entries == table.entries
    assert again.programs == 0


def test_a_stopped_measurement_keeps_what_is_done_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "_TOGETHER", 1)
    space, file = space_of(graphs.residual()), tmp_path / "latency.json"
    with pytest.raises(KeyboardInterrupt):
        profile(covering(space), file, measuring=Clock(covering(space), stop_after=1))
    kept = read_latency_table(file)
    assert kept.entries
    assert kept.missing_keys(covering(space)[1])
    clock = Clock(covering(space))
    whole = profile(covering(space), file, measuring=clock)
    assert clock.programs == 2
    assert not any(whole.missing_keys(blueprint) for blueprint in covering(space))
    assert kept.entries.items() <= whole.entries.items()


def test_another_machine_is_refused_for_measuring_and_named_for_predicting(tmp_path):
    space, file = space_of(graphs.chain()), tmp_path / "latency.json"
    table = profile(covering(space)[:1], file, measuring=Clock(covering(space)))
    assert other_setting_note(table, "uint8") is None
    moved = replace(table, setting=replace(table.setting, cpu="an abacus"))
    moved.write(file)
    with pytest.raises(RunError, match=r"another setting \(cpu: an abacus there"):
        profile(covering(space), file, measuring=Clock(covering(space)))
    blueprint = covering(space)[0]
    with pytest.raises(RunError, match="another setting"):
        check(moved, {"a": (blueprint, to_onnx(sample_program(blueprint)).SerializeToString())})
    assert "cpu: an abacus there" in (other_setting_note(moved, "uint8") or "")
    assert predict(moved, blueprint) == predict(table, blueprint)
    table.write(file)
    with pytest.raises(RunError, match="threads: 1 there, 2 here"):
        profile(covering(space), file, threads=2, measuring=Clock(covering(space)))
    with pytest.raises(RunError, match="input: uint8 there, float here"):
        profile(covering(space_of(graphs.chain(), contract="float")), file, measuring=Clock([]))


def test_a_network_with_float_layers_is_refused(tmp_path):
    space = precision(graphs.blueprint(graphs.chain()), (8,), (8,), pins={"conv1": "float"})
    with pytest.raises(RecipeError, match="layer 'conv1' stays float"):
        profile(covering(space), tmp_path / "latency.json")
    assert not list(tmp_path.iterdir())


@settings(max_examples=60 if FULL else 8, phases=[Phase.generate, Phase.reuse])
@given(data=st.data())
def test_every_kernel_that_onnxruntime_runs_is_of_a_known_work(data):
    """The works are worked out from the graph alone; here against what is written and run, operator by operator."""
    graph = data.draw(graphs.random_graphs())
    bits = {layer.name: Bits(weight=4, activation=data.draw(st.sampled_from([1, 3, 8]))) for layer in graph.layers}
    blueprint = Blueprint(graph=graph, bits=bits)
    program = sample_program(blueprint)
    works = network_works(blueprint)
    assert len({(work.operator, work.part) for work in works}) == len(works)
    assert {work.operator for work in works} == {operator.name for operator in program.operators}
    _, [measured] = measure([program], rounds=1, threads=1)
    assert {operator for operator, _ in measured.parts} <= {work.operator for work in works}
    assert len(measured.calls) == 8
    assert sum(map(len, measured.kernels.values())) >= 1


def test_onnxruntime_measures_a_table_that_sums_to_the_whole_call(tmp_path):
    space, ticks = space_of(graphs.residual(side=32), (4, 8)), []
    file = tmp_path / "latency.json"
    table = profile(covering(space), file, rounds=6, watch=lambda *event: ticks.append(event))
    assert read_latency_table(file).entries == table.entries
    assert table.setting == present_setting(1, "uint8")
    assert ticks[-1][1:] == (6, 6)
    assert table.call.nanoseconds > 0
    heavy = next(timing for key, timing in table.entries.items() if key.startswith("conv 4x32x32 to 4x32x32"))
    assert heavy.nanoseconds > 0
    rows = check_random(table, space, 2, rounds=3)
    assert [row.network for row in rows] == ["random 1", "random 2"]
    assert all(row.predicted > 0 and row.measured and row.spread is not None for row in rows)
    blueprint = covering(space)[0]
    [row] = check(table, {"same": (blueprint, to_onnx(sample_program(blueprint)).SerializeToString())}, rounds=3)
    assert row.known


def test_files_are_timed_in_turns_and_the_process_is_free_again():
    before = os.sched_getaffinity(0)
    models = {
        name: to_onnx(sample_program(graphs.blueprint(graphs.chain(side=side)))).SerializeToString()
        for name, side in (("small", 8), ("large", 64))
    }
    seconds = time_calls(models, rounds=4, threads=1)
    assert {name: len(values) for name, values in seconds.items()} == {"small": 32, "large": 32}
    assert typical(seconds["large"]) > typical(seconds["small"])  # 64 times the pixels
    assert os.sched_getaffinity(0) == before
    with pytest.raises(RunError, match="can't measure 100000 threads"):
        time_calls(models, rounds=1, threads=100_000)


def test_the_typical_time_leaves_out_what_others_took():
    times = np.concatenate([np.full(60, 1e-1), np.full(40, 1e-3)])
    assert typical(times) == pytest.approx(1e-3)
    assert typical(np.array([2.0])) == 2.0


def test_sampled_steps_differ_so_that_nothing_is_computed_once_for_two_layers():
    """In `residual` two layers read one stream; equal narrowings would be merged, as in no trained network."""
    program = sample_program(graphs.blueprint(graphs.residual(side=16), 8, 4))
    _, [measured] = measure([program], rounds=1, threads=1)
    assert {("b.conv1:narrow", "main"), ("b.down:narrow", "main")} <= set(measured.parts)
