"""ZigZag's estimates: by a stand-in for its one entry point always, by ZigZag itself where it is installed."""

import importlib.metadata
import importlib.util
import json
import math
from pathlib import Path

import graphs
import numpy as np
import pytest

from bitsmith.blueprint import Bits, Budget
from bitsmith.cost import exact, find_target, read_description, tabulate
from bitsmith.cost.zigzag import ZigZag
from bitsmith.errors import RecipeError, RunError
from bitsmith.search.baselines import largest_uniform
from bitsmith.space import precision

INSTALLED = importlib.util.find_spec("zigzag") is not None

# Energy and cycles in closed form; what it was asked is written down; it is as noisy as the real one.
FAKE = """
import json, logging, os
from pathlib import Path

def get_hardware_performance_zigzag(workload, accelerator, mapping, *, opt, dump_folder, pickle_filename, **others):
    print("this is no answer")
    logging.warning("nor is this")
    (layer,) = workload
    sizes = dict(zip(layer["loop_dims"], layer["loop_sizes"]))
    bits = layer["operand_precision"]
    with open(Path(accelerator).parent / "asked.jsonl", "a") as file:
        file.write(json.dumps(layer) + "\\n")
    open(pickle_filename, "w").close()
    assert opt == "energy" and os.path.isfile(mapping)
    weights = sizes["G"] * sizes["K"] * sizes["C"] * sizes["FY"] * sizes["FX"]
    macs = weights * sizes["OY"] * sizes["OX"]
    if sizes["K"] == 13:
        raise ValueError("13 filters don't go onto this array\\nat all")
    if sizes["K"] == 17:
        os._exit(3)
    return macs * 0.25 + weights * bits["W"] * 0.5, macs / 8 + 0.5, [None]
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder with an accelerator and its mapping, and a `zigzag` that answers in closed form."""
    packages = tmp_path / "packages"
    (packages / "zigzag").mkdir(parents=True)
    (packages / "zigzag" / "__init__.py").write_text("")
    (packages / "zigzag" / "api.py").write_text(FAKE)
    (packages / "zigzag_dse-0.1.dist-info").mkdir()
    (packages / "zigzag_dse-0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: zigzag-dse\nVersion: 0.1\n"
    )
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tpu.yaml").write_text("name: tpu\n")
    (tmp_path / "mapping.yaml").write_text("- name: default\n")
    return tmp_path


def described(folder, **fields) -> ZigZag:
    return ZigZag(accelerator=folder / "tpu.yaml", mapping=folder / "mapping.yaml", **fields)


def asked(folder) -> list[dict]:
    file = folder / "asked.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def femtojoules(layer, weight: int) -> int:
    return round(1000 * (layer.macs * 0.25 + layer.weights * weight * 0.5))


def test_energy_and_latency_are_sums_over_layers(fake):
    graph = graphs.resnet8()
    costs = {"energy": described(fake).energy(), "latency": described(fake, hertz=200e6).latency()}
    bits = graphs.uniform_bits(graph, 2, 8) | {"a.conv1": Bits(weight=4, activation=3)}
    expected = sum(femtojoules(layer, bits[layer.name].weight) for layer in graph.layers)
    assert exact("energy", graph, bits, costs) == expected / 1e15
    cycles = sum(math.ceil(layer.macs / 8 + 0.5) for layer in graph.layers)
    assert exact("latency", graph, bits, costs) == pytest.approx(cycles / 200e6, rel=1e-12)


def test_tables_and_one_hot_agree_with_exact(fake):
    space = precision(graphs.blueprint(graphs.chain()), (2, 4, 8), (4, 8), costs={"energy": described(fake).energy()})
    tables = tabulate("energy", space.template.graph, space.options, space.costs)
    for seed in range(5):
        blueprint = space.sample(np.random.default_rng(seed))
        total = tables.total(space.encode(blueprint))
        assert total / 1e15 == exact("energy", blueprint.graph, blueprint.bits, space.costs)


def test_what_zigzag_is_told(fake):
    s = graphs.Sketch((3, 9, 8))
    y = s.window("conv", "strided", "x", 8, 3, 2, padding=(0, 1, 2, 1))
    y = s.conv("depth", y, 8, groups=8)
    graph = s.graph(s.linear("fc", s.flatten("flat", y), 5))
    described(fake, accumulator_bits=24).ahead(
        graph, precision(graphs.blueprint(graph), (2,), (3,), ends=None).options, quiet
    )
    strided, depth, linear = asked(fake)
    assert dict(zip(strided["loop_dims"], strided["loop_sizes"], strict=True)) == {
        "B": 1, "G": 1, "K": 8, "C": 3, "OY": 5, "OX": 4, "FY": 3, "FX": 3
    }  # fmt: skip
    assert strided["dimension_relations"] == ["ix=2*ox+1*fx", "iy=2*oy+1*fy"]
    assert (strided["pr_loop_sizes"], strided["padding"]) == ([8, 9], [[1, 1], [0, 2]])
    assert strided["operand_precision"] == {"W": 2, "I": 3, "O": 24, "O_final": 8}
    assert depth["loop_sizes"][1:4] == [8, 1, 1]
    assert dict(zip(linear["loop_dims"], linear["loop_sizes"], strict=True)) == {
        "B": 1, "G": 1, "K": 5, "C": 160, "OY": 1, "OX": 1, "FY": 1, "FX": 1
    }  # fmt: skip


def quiet(done: int, steps: int) -> None:
    pass


def test_nothing_is_estimated_twice(fake):
    graph = graphs.residual()
    space = precision(graphs.blueprint(graph), (2, 4, 8), (8,))
    steps = []
    described(fake).ahead(graph, space.options, lambda done, of: steps.append((done, of)))
    first = len(asked(fake))
    # 5 inner layers of 4 different shapes at 3 widths, and the ends at 8 bits.
    assert first == 3 * 4 + 2
    assert steps == [(done, first) for done in range(1, first + 1)]
    again = described(fake)  # another process would read the same file
    again.ahead(graph, space.options, pytest.fail)
    for weight in (2, 4, 8):
        exact("energy", graph, space.uniform(weight, 8).bits, {"energy": again.energy()})
    assert len(asked(fake)) == first
    # Other hardware is another matter.
    (fake / "tpu.yaml").write_text("name: bigger\n")
    described(fake).ahead(graph, space.options, quiet)
    assert len(asked(fake)) == 2 * first


def test_one_question_answers_those_beside_it(fake):
    """Starting ZigZag takes seconds: the first layer at some bits brings all layers at these bits."""
    graph = graphs.chain((4, 6, 8))
    costs = {"energy": described(fake).energy()}
    exact("energy", graph, graphs.uniform_bits(graph, 3, 5), costs)
    assert len(asked(fake)) == 4
    assert len(list((fake / "cache" / "bitsmith" / "zigzag").glob("*.json"))) == 1


def test_what_a_stopped_run_has_learned_stays(fake):
    graph = graphs.chain((4, 6, 8))

    def stop(done: int, steps: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    options = precision(graphs.blueprint(graph), (2,), (8,)).options
    with pytest.raises(KeyboardInterrupt):
        described(fake).ahead(graph, options, stop)
    before, seen = len(asked(fake)), []
    described(fake).ahead(graph, options, lambda done, of: seen.append(of))
    assert seen == [2, 2]
    assert before >= 2


def test_a_layer_used_twice_counts_twice(fake):
    s = graphs.Sketch()
    y = s.conv("twice", s.conv("stem", "x", 4), 4)
    graph = s.graph(s.conv("last", s.shared("again", y, "twice"), 2))
    costs = {"energy": described(fake).energy()}
    bits = graphs.uniform_bits(graph, 4, 8)
    parts = [femtojoules(layer, 4) for layer in graph.layers]
    once = round(1000 * (144 * 64 * 0.25 + 144 * 4 * 0.5))  # of "twice"
    whole = exact("energy", graph, bits, costs) * 1e15
    assert whole == pytest.approx(parts[0] + 2 * once + parts[2], abs=1)


def test_a_layer_that_does_not_fit_is_named(fake):
    graph = graphs.chain((4, 13))
    costs = {"energy": described(fake).energy()}
    with pytest.raises(RecipeError, match=r"can't map layer 'conv1' \(B1 G1 K13 .* ValueError: 13 filters don't go"):
        exact("energy", graph, graphs.uniform_bits(graph, 4, 8), costs)
    options = precision(graphs.blueprint(graph), (2,), (8,)).options
    with pytest.raises(RecipeError, match="can't map layer 'conv1'"):
        described(fake).ahead(graph, options, quiet)


def test_zigzag_that_dies(fake):
    graph = graphs.chain((4, 17))
    with pytest.raises(RecipeError, match=r"ZigZag 0\.1 stopped: .*nor is this"):
        exact("energy", graph, graphs.uniform_bits(graph, 4, 8), {"energy": described(fake).energy()})


def test_float_layers_have_no_price(fake):
    graph = graphs.chain()
    with pytest.raises(RecipeError, match="'conv0' is float"):
        exact("energy", graph, graphs.uniform_bits(graph, 32, 32), {"energy": described(fake).energy()})


def test_a_damaged_file_is_an_error(fake):
    graph = graphs.chain((4,))
    costs = {"energy": described(fake).energy()}
    exact("energy", graph, graphs.uniform_bits(graph, 4, 8), costs)
    (file,) = (fake / "cache" / "bitsmith" / "zigzag").glob("*.json")
    for text in ("{", '{"key": 3}', "[]"):
        file.write_text(text)
        with pytest.raises(RunError, match=r"is damaged.*delete it"):
            exact("energy", graph, graphs.uniform_bits(graph, 4, 8), {"energy": described(fake).energy()})


def test_without_zigzag_the_command_is_told(fake, monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    graph = graphs.chain()
    with pytest.raises(RecipeError, match=r"pip install 'bitsmith\[zigzag\]'"):
        exact("energy", graph, graphs.uniform_bits(graph, 4, 8), {"energy": described(fake).energy()})


def test_a_target_of_ones_own(fake):
    (fake / "board.yaml").write_text("zigzag: {accelerator: tpu.yaml, mapping: mapping.yaml, clock: 200MHz}\n")
    target = find_target(str(fake / "board.yaml"))
    assert target.zigzag == described(fake, hertz=200e6)
    graph = graphs.resnet8()
    space = precision(graphs.blueprint(graph), (2, 4, 8), (8,), costs=target.costs)
    dear = exact("energy", graph, space.uniform(8, 8).bits, target.costs)
    limit = Budget(cost="energy", limit=exact("energy", graph, space.uniform(4, 8).bits, target.costs))
    assert limit.limit < dear
    found = largest_uniform(space, [limit])
    assert found is not None
    assert found.bits["a.conv1"].weight == 4


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("zigzag: {accelerator: tpu.yaml, mapping: mapping.yaml}\nenergy: bitops\n", "energy"),
        ("zigzag: {accelerator: tpu.yaml}\n", r"zigzag\.mapping"),
        ("zigzag: {accelerator: tpu.yaml, mapping: mapping.yaml, clock: 3kB}\n", r"zigzag\.clock"),
        ("zigzag: {accelerator: tpu.yaml, mapping: mapping.yaml, speed: 3}\n", "zigzag: there is no setting 'speed'"),
    ],
)
def test_descriptions_that_contradict_themselves(fake, lines, reason):
    (fake / "board.yaml").write_text(lines)
    with pytest.raises(RecipeError, match=reason):
        find_target(str(fake / "board.yaml"))


def test_a_missing_accelerator(fake):
    (fake / "tpu.yaml").unlink()
    graph = graphs.chain()
    with pytest.raises(RecipeError, match=r"can't read ZigZag's description .*tpu\.yaml: No such file"):
        exact("energy", graph, graphs.uniform_bits(graph, 4, 8), {"energy": described(fake).energy()})


def test_a_run_keeps_to_its_files(fake):
    made_with = described(fake).digest()
    (fake / "board.yaml").write_text("zigzag: {accelerator: tpu.yaml, mapping: mapping.yaml}\n")
    pinned = read_description(fake / "board.yaml").pinned()
    assert pinned.target().zigzag == described(fake, sha256=made_with)
    graph = graphs.chain()
    bits = graphs.uniform_bits(graph, 4, 8)
    exact("energy", graph, bits, {"energy": described(fake, sha256=made_with).energy()})
    (fake / "mapping.yaml").write_text("- name: other\n")
    with pytest.raises(RunError, match="not those any more that this run was made with"):
        exact("energy", graph, bits, pinned.pinned().target().costs)


@pytest.mark.skipif(not INSTALLED, reason="zigzag-dse is not installed: pip install 'bitsmith[zigzag]'")
def test_zigzag_itself(tmp_path, monkeypatch):
    """Its own TPU-like example: fewer bits take less energy; a small network is priced as its layers are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = importlib.util.find_spec("zigzag")
    assert found is not None
    assert found.origin is not None
    inputs = Path(found.origin).parent / "inputs"
    zigzag = ZigZag(
        accelerator=inputs / "hardware" / "tpu_like.yaml", mapping=inputs / "mapping" / "tpu_like.yaml", hertz=200e6
    )
    s = graphs.Sketch((3, 4, 4))
    y = s.conv("depth", s.conv("strided", "x", 8, stride=2), 8, groups=8)
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", y)), 10))  # the array takes fc whole
    costs = {"energy": zigzag.energy(), "latency": zigzag.latency()}
    found = {w: exact("energy", graph, graphs.uniform_bits(graph, w, a), costs) for w, a in ((8, 8), (2, 8))}
    assert 0 < found[2] < found[8] < 1e-3
    both = exact("energy", graph, graphs.uniform_bits(graph, 2, 2), costs)
    assert both < found[2]
    assert 0 < exact("latency", graph, graphs.uniform_bits(graph, 8, 8), costs) < 1e-2
