"""C99 as others compile it: what the preprocessor refuses, little scratch, no vectors, sanitizers; and odd networks."""

import dataclasses
import shutil
import subprocess

import graphs
import numpy as np
import pytest

from bitsmith.cost import TARGETS, exact, plan_arena
from bitsmith.deploy import run
from bitsmith.deploy.c import cortex_m_tools, run_fixed, run_on_cortex_m, verify_c, write_c
from bitsmith.deploy.c.files import pixels_in_memory
from bitsmith.deploy.c.fixed import output_step, trace_fixed
from bitsmith.deploy.c.verify import STRICT
from bitsmith.deploy.reference import evaluate
from bitsmith.errors import ExportError, VerifyError

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc isn't installed: apt-get install gcc")

SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
LITTLE = ("-DMODEL_CHUNK=16", "-DMODEL_COLUMNS=96", "-DMODEL_TILE=5")
UNSAFE = "needs float32 as IEEE 754 has it"
SCRATCH = "MODEL_CHUNK has to be a multiple of LANES"


def export(case, folder, **settings):
    arena = plan_arena(case.blueprint.graph)
    return write_c(case.program, arena, folder, **settings), arena


def check(case, folder, *, fpu, flags):
    files, arena = export(case, folder, fpu=fpu)
    found = verify_c(files, case.program, arena, case.images, case.labels, flags=(*STRICT, *flags))
    assert found.problems == ()
    assert found.differing_outputs == 0


@pytest.fixture(scope="module")
def sources(tmp_path_factory, case_of):
    """Source files with floating point and without."""
    case = case_of(graphs.chain((4,)), (4, 4), images=2)
    folders = {fpu: tmp_path_factory.mktemp(f"fpu{fpu}") for fpu in (True, False)}
    return {fpu: export(case, folder, fpu=fpu)[0].source for fpu, folder in folders.items()}


def preprocess(source, *flags):
    command = ["gcc", "-E", "-o", "/dev/null", *flags, str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def macro(name, value):
    return (f"-U{name}", f"-D{name}={value}")


@pytest.mark.parametrize(
    ("flags", "why", "both"),
    [
        (macro("__INT_MAX__", 32767), "an int of 32 bits at least", True),
        (("-ffast-math",), UNSAFE, False),
        (("-Ofast",), UNSAFE, False),
        (("-funsafe-math-optimizations",), UNSAFE, False),
        (("-freciprocal-math",), UNSAFE, False),
        (macro("__FLT_EVAL_METHOD__", 2), "needs float32 computed as float32", False),
        (macro("__FLT_EVAL_METHOD__", -1), "needs float32 computed as float32", False),
        (("-DMODEL_CHUNK=24",), SCRATCH, True),
        (("-DMODEL_CHUNK=0",), SCRATCH, True),
        (("-DMODEL_CHUNK=32", "-DMODEL_COLUMNS=16"), SCRATCH, True),
        (("-DMODEL_TILE=0",), SCRATCH, True),
    ],
)
def test_what_the_preprocessor_refuses(flags, why, both, sources):
    assert why in preprocess(sources[True], *flags)
    assert (why in preprocess(sources[False], *flags)) == both


@pytest.mark.parametrize(
    "flags",
    [
        (),
        LITTLE,
        ("-DMODEL_CHUNK=16",),
        ("-DMODEL_COLUMNS=2048",),
        ("-DMODEL_TILE=5",),
        ("-U__SSE2__", "-DMODEL_CHUNK=4", "-DMODEL_COLUMNS=4", "-DMODEL_TILE=1"),
        macro("__FLT_EVAL_METHOD__", 16),
    ],
)
def test_what_it_takes(flags, sources):
    """Each macro of the scratch by itself, and chips that compute half precision too."""
    for source in sources.values():
        assert preprocess(source, *flags) == ""


@pytest.mark.parametrize(("fpu", "flags"), [(True, SANITIZED), (False, ("-O0", "-U__SSE2__"))], ids=["sse2", "plain"])
def test_filters_longer_than_the_scratch(fpu, flags, case_of, tmp_path):
    """Summed piece by piece; a last piece of less than a vector, kernels of several rows, groups, narrowing tables."""
    case = case_of(graphs.modern(), (3, 5), images=4)
    assert max(operator.sums.weight[0].size for operator in case.program.weighted) > 2 * 16
    check(case, tmp_path, fpu=fpu, flags=(*flags, *LITTLE))


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_a_last_layer_of_zeros(kind, case_of, tmp_path):
    """Nothing reaches the outputs, whose step the bound of the sums gives."""

    def silence(network):
        _, layer = list(network.priced())[-1]
        layer.weight.zero_()
        layer.bias.zero_()

    case = case_of(graphs.chain((4,)), (4, 4), images=4, change=silence, kind=kind)
    assert case.program.accumulator_bound(case.program.weighted[-1]) == 0
    if kind == "uint8":
        assert output_step(case.program) > 0
        check(case, tmp_path, fpu=False, flags=("-O0",))
    check(case, tmp_path, fpu=True, flags=("-O0",))


def test_the_fixed_reference_takes_images_as_the_other_does(case_of, monkeypatch):
    case = case_of(graphs.residual(), (3, 4), images=5)
    program, whole = case.program, run_fixed(case.program, case.images)
    monkeypatch.setattr("bitsmith.deploy.reference._SCRATCH", 1)  # one image at a time
    assert np.array_equal(run_fixed(program, case.images), whole)
    assert run_fixed(program, case.images[:0]).shape == (0, *program.shapes[program.output])
    for compute in (run_fixed, trace_fixed):
        with pytest.raises(VerifyError, match="takes images of type uint8"):
            compute(program, case.images.astype(np.float32))
        with pytest.raises(VerifyError, match="of shape"):
            compute(program, case.images[:, :, 1:])
    assert len(trace_fixed(program, case.images)) == len(program.operators)


def test_tensors_go_after_their_last_reader(case_of):
    program = (case := case_of(graphs.residual(), (3, 4), images=2)).program
    alive = []

    def watch(program, operator, inputs):
        alive.append(operator.name)
        return np.zeros((len(case.images), *program.shapes[operator.name]), np.uint8)

    assert set(evaluate(program, case.images, watch)) == {program.output}
    assert alive == [operator.name for operator in program.operators]


def test_an_example_without_class_names_says_the_number(case_of, tmp_path):
    case = case_of(graphs.chain((4,)), (4, 4), images=3)
    program = dataclasses.replace(case.program, classes=())
    write_c(program, plan_arena(case.blueprint.graph), tmp_path)
    subprocess.run(["make", "-s", "example", "CFLAGS=-O0 -Werror"], cwd=tmp_path, check=True)
    for image, output in zip(case.images, run(program, case.images), strict=True):
        (tmp_path / "image").write_bytes(pixels_in_memory(image[None]).tobytes())
        said = subprocess.run([tmp_path / "example", tmp_path / "image"], capture_output=True, text=True, check=True)
        assert said.stdout == f"output {output.argmax()}\n"
    assert "LABELS" not in (tmp_path / "model.h").read_text()


@pytest.mark.parametrize("name", ["selftest", "example"])
def test_names_of_files_beside_it_are_refused(name, case_of, tmp_path):
    with pytest.raises(ExportError, match=f"can't be called '{name}'"):
        export(case_of(graphs.chain((4,)), (4, 4), images=2), tmp_path, name=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(cortex_m_tools() is not None, reason=str(cortex_m_tools()))
def test_a_deep_chain_is_inside_its_priced_flash(case_of, tmp_path):
    """Each layer takes geometry and a call, which are most of a network of many small layers."""
    case = case_of(graphs.chain((4,) * 130, side=4), (4, 4), images=4)
    files, _ = export(case, tmp_path, images=case.images)
    flash = exact("flash", case.blueprint.graph, case.blueprint.bits, TARGETS["c"].costs)
    device = run_on_cortex_m(files)
    assert device.differing == 0
    assert flash - 132 * 100 < device.flash <= flash
