"""Vela's estimates as a latency table: of whole networks to the cycle, of mixed ones nearly, and what is refused."""

from dataclasses import replace

import graphs
import pytest

from bitsmith.blueprint import InputContract
from bitsmith.cost.latency import read_latency_table
from bitsmith.deploy.tflite import VelaReport
from bitsmith.errors import ExportError, RecipeError, RunError
from bitsmith.pipeline import vela as estimating
from bitsmith.pipeline.profile import predict, profile
from bitsmith.pipeline.vela import check_vela, covering_weights, profile_vela
from bitsmith.space import precision

ACCELERATOR = "ethos-u55-128"


def space_of(graph, weights=(2, 8), activations=(8,)):
    channels = graph.input_shape[0]
    pixels = InputContract(kind="uint8", mean=(0.5,) * channels, std=(0.5,) * channels)
    return precision(replace(graphs.blueprint(graph), input=pixels), weights, activations, ends=None)


def report(layers, hertz=5e8):
    cycles = sum(layers.values())
    return VelaReport(
        accelerator=ACCELERATOR, vela="0", flash=0, sram=0, cycles=cycles, seconds=cycles / hertz, macs=0,
        cpu_operators=0, layers=layers,
    )  # fmt: skip


class TestEntries:
    def test_a_networks_prediction_is_velas_own_figure(self, tmp_path, monkeypatch):
        """Of layers alike the mean; what Vela names after an intermediate result belongs to its operator."""
        space = space_of(graphs.residual())
        works = estimating.network_works(space.uniform(8, 8))
        names = [work.operator for work in works]
        taken: dict[str, int] = {}

        def compiled(blueprint, accelerator, seed):
            bits = next(iter(blueprint.bits.values())).weight
            layers = {work.operator: 37 * i + 1000 * (bits if work.weights else 1) for i, work in enumerate(works)}
            layers[f"{names[1]}.sums"] = 5
            taken[f"{bits}"] = sum(layers.values())
            return report(layers)

        monkeypatch.setattr(estimating, "_compiled", compiled)
        table = profile_vela(covering_weights(space), tmp_path / "vela.json", ACCELERATOR)
        for bits in (2, 8):
            assert predict(table, space.uniform(bits, 8)) == pytest.approx(taken[f"{bits}"] / 5e8, abs=2e-8)
        assert read_latency_table(tmp_path / "vela.json").by_weights
        rows = check_vela(table, space, 3)
        assert [row.known for row in rows] == [False] * 3
        with pytest.raises(AssertionError, match="of no operator"):
            estimating._operator("somebody.else", dict.fromkeys(names))

    def test_what_the_table_has_is_not_compiled_again(self, tmp_path, monkeypatch):
        space = space_of(graphs.chain())
        asked = []

        def compiled(blueprint, accelerator, seed):
            asked.append(blueprint)
            return report({work.operator: 100 for work in estimating.network_works(blueprint)})

        monkeypatch.setattr(estimating, "_compiled", compiled)
        file = tmp_path / "vela.json"
        first = profile_vela(covering_weights(space)[:1], file, ACCELERATOR)
        assert first.missing_keys(covering_weights(space)[1])
        whole = profile_vela(covering_weights(space), file, ACCELERATOR)
        assert len(asked) == 2
        assert not whole.missing_keys(covering_weights(space)[1])
        with pytest.raises(RunError, match="cpu: ethos-u55-128 there, ethos-u65-256 here"):
            profile_vela(covering_weights(space), file, "ethos-u65-256")
        with pytest.raises(RunError, match="another setting"):
            profile(covering_weights(space), file, measuring=lambda programs, tick: pytest.fail("measured"))


@pytest.mark.skipif(estimating.vela_missing() is not None, reason="Vela isn't installed")
def test_vela_itself(tmp_path):
    space = space_of(graphs.residual())
    table = profile_vela(covering_weights(space), tmp_path / "vela.json", ACCELERATOR)
    for row in check_vela(table, space, 2):
        assert row.measured is not None
        assert row.predicted == pytest.approx(row.measured, rel=0.05)
    with pytest.raises(ExportError, match="unknown accelerator 'ethos-u99'"):
        profile_vela(covering_weights(space), tmp_path / "other.json", "ethos-u99")


def test_fewer_bits_than_an_ethos_u_reads_are_refused():
    with pytest.raises(RecipeError, match=r"may read fewer than 8 bits.*--activation-bits 8"):
        covering_weights(space_of(graphs.chain(), activations=(4, 8)))


def test_without_vela_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(estimating, "vela_missing", lambda: "Vela isn't installed: pip install it")
    with pytest.raises(RunError, match="pip install"):
        profile_vela(covering_weights(space_of(graphs.chain())), tmp_path / "vela.json", ACCELERATOR)
