"""Whatever a search may return, through every exporter: no output differs from the reference's, or the target refuses.

One generator (`drawn`) makes small networks over the whole vocabulary, mobile and sequence spaces, bits of layers,
filters and maps, removed filters, float layers, quantizers and inputs. What an exporter refuses, its target has to
refuse too, from what is known before a search.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import drawn
import graphs
import numpy as np
import pytest
from hypothesis import given, settings

from bitsmith.blueprint import FLOAT, Options
from bitsmith.cost import TARGETS, costs_at_streams, exact, plan_arena
from bitsmith.deploy import run, verify_onnx, write_onnx
from bitsmith.deploy.c import run_fixed, write_c
from bitsmith.deploy.c.layout import lay_out
from bitsmith.deploy.c.verify import STRICT, compile_harness, run_harness
from bitsmith.deploy.qonnx import verify_qonnx, write_qonnx
from bitsmith.deploy.runtime import infer, session
from bitsmith.errors import ExportError, RecipeError
from bitsmith.quantize import find_quantizers

FULL = os.environ.get("BITSMITH_TESTS") == "full"
COUNT, IMAGES = (300, 8) if FULL else (40, 2)
AT_ONCE = 5  # networks of one test
GCC = shutil.which("gcc") is not None
QONNX = find_spec("qonnx") is not None


def refused(target: str, blueprint) -> str | None:
    """Why a target would not let a search for this network begin."""
    held = TARGETS[target]
    options = {
        name: Options(weight=bits.weight_widths, activation=bits.activation_widths)
        for name, bits in blueprint.bits.items()
    }
    steps = find_quantizers(blueprint.quantizer)
    try:
        held.check(options, blueprint.graph, power_of_two=steps.power_of_two, odd_bits=steps.odd_bits())
        if any(
            not isinstance(width, int) for bits in blueprint.bits.values() for width in (bits.weight, bits.activation)
        ):
            held.check_filters(bits=True, maps=False, remove=False)
    except RecipeError as error:
        return str(error)
    return None


def largest_file(blueprint) -> float:
    """What the README promises of an ONNX file, beside the names of its classes."""
    graph, bits = blueprint.graph, blueprint.bits
    layers, nodes = len(graph.layers), len(graph.nodes)
    size = exact("size", graph, bits, costs_at_streams(blueprint.stream_bits))
    further = sum(len(of.weight_widths) - 1 for of in bits.values())
    return 1.03 * size + 2000 + 1300 * layers + 900 * (nodes - layers) + 250 * further


def onnx_file(case, folder: Path, wanted: np.ndarray) -> None:
    """Integer files at the lowest and the highest level of optimization; in full, and with float layers, `verify`."""
    path = write_onnx(case.program, folder / "network.onnx")
    assert path.stat().st_size - sum(map(len, case.program.classes)) <= largest_file(case.blueprint)
    if FULL or not case.program.exact:
        levels = ("disabled", "basic", "extended", "all") if FULL else ("all",)
        found = verify_onnx(path, case.frozen, case.program, case.images, case.labels, levels=levels)
        assert found.problems == ()
        assert found.exact == case.program.exact
        if found.exact:
            assert not any(found.differing_outputs.values())
            assert (found.integer_layers, found.float_layers) == (len(case.program.summing), 0)
        return
    for level in ("disabled", "all"):
        assert np.array_equal(infer(session(path, level), case.images)[0], wanted), level


def c_code(case, folder: Path, wanted: np.ndarray, *, fpu: bool, flags: tuple[str, ...]) -> None:
    """With every warning an error, in the priced RAM."""
    program = case.program
    arena = plan_arena(case.blueprint.graph)
    files = write_c(program, arena, folder, fpu=fpu)
    assert files.arena == exact("ram", case.blueprint.graph, case.blueprint.bits)
    if not GCC:
        return
    harness = compile_harness(files, folder / "harness", flags=(*STRICT, "-O1", *flags))
    if not fpu:
        wanted = run_fixed(program, case.images)
    values = np.frombuffer(run_harness(harness, case.images), wanted.dtype)
    got = lay_out(program, arena).to_features(program.output, values, program.shapes[program.output])
    assert np.ascontiguousarray(got).tobytes() == wanted.tobytes()


def qonnx_file(case, folder: Path, *, clean: bool) -> None:
    """To the bit with steps that are powers of two, else every operator at most one level beside the reference.

    One level carried on through a few bits of fresh weights may end anywhere, so that outputs are not compared then.
    """
    path = write_qonnx(case.program, case.blueprint.graph, folder / "network.qonnx.onnx")
    if not QONNX:
        return
    found = verify_qonnx(path, case.program, case.images, case.labels, clean=clean)
    assert [what for what in found.problems if found.exact or "qonnx and reference" not in what] == []
    assert not found.exact or found.differing_outputs == 0


def draw(seeds: Iterable[int]) -> list[dict[str, Any]]:
    """A network for each seed. Independent ones: hypothesis by itself makes variants of those that it has already."""
    found: list[dict[str, Any]] = []

    @given(drawn.networks(presets=FULL))
    @settings(database=None)
    def take(network: dict[str, Any]) -> None:
        found.append(network)

    for seed in seeds:
        assert take.hypothesis.fuzz_one_input(np.random.default_rng(seed).bytes(2**16)) is not None
    return found


def test_everything_is_drawn():
    """Every operator of the vocabulary, filters and maps that differ, float layers; C refuses at most one in ten."""
    networks = draw(range(COUNT))
    vocabulary = {node.op for graph in (graphs.modern(), graphs.every_operator()) for node in graph.nodes}
    assert vocabulary <= {node.op for network in networks for node in network["graph"].nodes}
    seen: Counter[str] = Counter()
    for network in networks:
        floats = network["stream_bits"] == FLOAT or any(FLOAT in pair for pair in network["bits"])
        seen["float"] += floats
        seen["filters"] += any(not isinstance(weight, int) for weight, _ in network["bits"])
        seen["maps"] += any(not isinstance(activation, int) for _, activation in network["bits"])
        seen["powers of two"] += not floats and network["quantizer"] == "lsq-pow2"
        seen["refused by c"] += not floats and bool(TARGETS["c"].refused(network["graph"]))
    assert min(seen[what] for what in ("float", "filters", "maps", "powers of two")) >= COUNT // 10
    assert seen["refused by c"] <= (COUNT - seen["float"]) // 10


def test_zeros_have_no_sign_in_qonnx(case_of, tmp_path):
    """Its outputs are maps, some of them -0 in the file and 0 in the reference."""
    [network] = draw([227])
    case = case_of(**network, images=IMAGES)
    assert case.program.exact
    assert (run(case.program, case.images) == 0).any()
    qonnx_file(case, tmp_path, clean=False)


@pytest.mark.parametrize("first", range(0, COUNT, AT_ONCE))
def test_random_networks(first, case_of, tmp_path):
    for number, network in enumerate(draw(range(first, first + AT_ONCE)), first):
        case = case_of(**network, images=IMAGES)
        graph, wanted = case.blueprint.graph, run(case.program, case.images)
        assert refused("onnx", case.blueprint) is None
        onnx_file(case, tmp_path, wanted)
        if case.program.exact:
            qonnx_file(case, tmp_path, clean=FULL or number % 4 == 0)
        else:  # targets that read QONNX let no search begin that leaves layers float
            assert all("stay float" in (refused(target, case.blueprint) or "") for target in ("finn", "hls4ml"))
            with pytest.raises(ExportError, match="computes in float32, and QONNX files"):
                write_qonnx(case.program, graph, tmp_path / "network.qonnx.onnx")
        if refused("c", case.blueprint) is None:
            fpu = network["kind"] == "float" or number % 3 > 0  # only pixels go without floating point
            c_code(case, tmp_path, wanted, fpu=fpu, flags=("-U__SSE2__",) if number % 2 else ())
            continue
        with pytest.raises(ExportError):
            write_c(case.program, plan_arena(graph), tmp_path)
