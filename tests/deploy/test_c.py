"""C99: compiled with every warning an error, it gives the reference's numbers to the bit, in exactly the priced RAM."""

import re
import shutil
import subprocess
from fractions import Fraction

import graphs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.cost import TARGETS, exact, plan_arena
from bitsmith.deploy import LEVELS, run, write_onnx
from bitsmith.deploy.c import cortex_m_tools, run_fixed, run_on_cortex_m, verify_c, write_c
from bitsmith.deploy.c.factors import Factor, fixed_bias
from bitsmith.deploy.c.files import pixels_in_memory
from bitsmith.deploy.c.fixed import output_step
from bitsmith.deploy.c.literals import comment, number, string
from bitsmith.deploy.c.verify import STRICT, compile_harness, run_harness
from bitsmith.deploy.runtime import infer, session
from bitsmith.errors import ExportError, VerifyError

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc isn't installed: apt-get install gcc")


def export(case, folder, **settings):
    arena = plan_arena(case.blueprint.graph)
    return write_c(case.program, arena, folder, **settings), arena


def check(case, folder, *, fpu=True, flags=("-O0",)):
    files, arena = export(case, folder, fpu=fpu)
    found = verify_c(files, case.program, arena, case.images, case.labels, flags=(*STRICT, *flags))
    assert found.problems == ()
    assert found.equal_images == len(case.images)
    assert found.differing_outputs == 0
    assert files.arena == exact("ram", case.blueprint.graph, case.blueprint.bits)
    return files


@pytest.fixture
def small(residual, case_of):
    return case_of(residual, [(8, 8), *[(3, 4)] * (len(residual.layers) - 2), (8, 8)])


@pytest.mark.parametrize("fpu", [True, False])
@pytest.mark.parametrize("graph", [graphs.modern(), graphs.every_operator()], ids=["modern", "classic"])
def test_every_operator(graph, fpu, case_of, tmp_path):
    sanitized = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    check(case_of(graph, (3, 5), images=8), tmp_path, fpu=fpu, flags=sanitized)


@pytest.mark.parametrize("flags", [("-O2",), ("-O1", "-U__SSE2__", "-DMODEL_COLUMNS=1200", "-DMODEL_TILE=7")])
def test_windows_that_take_over_from_the_one_before(flags, case_of, tmp_path):
    """Narrowed inputs at every stride, beside windows that share nothing, dilated ones and groups."""
    s = graphs.Sketch((3, 11, 9))
    y = s.same("relu", "relu", s.conv("stem", "x", 5))
    y = s.same("add", "sum", s.conv("again", y, 5), y)  # a stream, which all of these narrow
    windows = {
        "two": (5, 2, (1, 2, 2, 1)),
        "three": (3, 3, (1, 1, 1, 1)),
        "far": (2, 3, (0, 0, 0, 0)),
        "one": (1, 1, (0,) * 4),
    }
    ends = [s.window("conv", name, y, 6, kernel, stride, padding=p) for name, (kernel, stride, p) in windows.items()]
    ends.append(s.window("conv", "dilated", y, 7, 3, 1, padding=(2, 2, 2, 2), dilation=(2, 2)))
    ends.append(s.put("conv", "grouped", (10, 11, 9), y, groups=5, kernel=(3, 3), padding=(1,) * 4))
    y = s.concat("cat", *(s.global_pool(f"pool{i}", s.same("relu", f"r{i}", end)) for i, end in enumerate(ends)))
    check(case_of(s.graph(s.linear("fc", s.flatten("flat", y), 4)), (3, 4), images=8), tmp_path, flags=flags)


def test_it_is_the_onnx_file_on_every_image(small, tmp_path):
    path = write_onnx(small.program, tmp_path / "n.onnx")
    files, _ = export(small, tmp_path)
    images = np.random.default_rng(1).integers(0, 256, (1000, *small.program.input_shape), np.uint8)
    harness = compile_harness(files, tmp_path / "harness", flags=("-O3", "-march=native"))
    got = np.frombuffer(run_harness(harness, images), np.float32).reshape(1000, -1)
    assert np.array_equal(got, infer(session(path, list(LEVELS)[-1]), images)[0])


def test_without_floating_point_classes_are_the_same(small, tmp_path):
    """99.9 %, and no operation of floating point in the source."""
    images = np.random.default_rng(2).integers(0, 256, (1000, *small.program.input_shape), np.uint8)
    wanted, got = run(small.program, images), run_fixed(small.program, images)
    assert (wanted.argmax(1) == got.argmax(1)).mean() >= 0.999
    near = np.abs(got * output_step(small.program) - wanted).max() / np.ptp(wanted)
    assert near < 0.05
    files = check(small, tmp_path, fpu=False)
    text = re.sub(r"/\*.*?\*/", "", files.source.read_text(), flags=re.DOTALL)
    assert not re.search(r"\b(float|double)\b|\d\.\d", text)


@pytest.mark.parametrize("fpu", [True, False])
def test_a_flipped_weight_bit_is_found_in_its_layer(fpu, small, tmp_path):
    files, arena = export(small, tmp_path, fpu=fpu)
    text = files.source.read_text()
    arrays = re.findall(r"uint8_t weights(\d+)\[\d+\] = \{\n\s*(\d+)", text)
    assert len(arrays) == sum(operator.sums.folded is not None for operator in small.program.weighted)
    for place, first in (arrays[0], arrays[len(arrays) // 2], arrays[-1]):
        flipped = re.sub(rf"(weights{place}\[\d+\] = \{{\n\s*){first}", rf"\g<1>{int(first) ^ 1}", text)
        assert flipped != text
        files.source.write_text(flipped)
        found = verify_c(files, small.program, arena, small.images, small.labels, flags=("-O0",))
        assert found.first_difference == small.program.operators[int(place)].layer
        assert "1 of its" in found.problems[0]
        assert "weights are wrong" in found.problems[0]


def test_a_wrong_table_is_found_where_it_is_first_read(small, tmp_path):
    files, arena = export(small, tmp_path)
    text = re.sub(r"(input_table\[\d+\] = \{\n)\s*(\d+)", r"\g<1>    99", files.source.read_text())
    files.source.write_text(text)
    dark = np.zeros_like(small.images)
    found = verify_c(files, small.program, arena, dark, small.labels, flags=("-O0",))
    assert found.first_difference == "x"
    assert not found.ok


@pytest.mark.parametrize("fpu", [True, False])
def test_make_is_silent_and_the_self_test_passes(fpu, small, tmp_path):
    export(small, tmp_path, fpu=fpu, images=small.images)
    done = subprocess.run(["make", "test", "CFLAGS=-O1"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "self-test: 0 images differ" in done.stdout
    assert done.stderr == ""  # not one warning
    (tmp_path / "image").write_bytes(pixels_in_memory(small.images[:1]).tobytes())
    said = subprocess.run([tmp_path / "example", tmp_path / "image"], capture_output=True, text=True, check=True)
    outputs = run(small.program, small.images[:1]) if fpu else run_fixed(small.program, small.images[:1])
    assert said.stdout.strip() == f"class {outputs.argmax()}"
    text = (tmp_path / "selftest.c").read_text()
    (tmp_path / "selftest.c").write_text(re.sub(r"(outputs\[10\].*\n\s*\{)", r"\g<1>1 + ", text))
    done = subprocess.run(["make", "test", "CFLAGS=-O1"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "self-test: 1 images differ" in done.stdout


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind isn't installed: apt-get install valgrind")
def test_valgrind_finds_nothing(draft, case_of, tmp_path):
    case = case_of(graphs.modern(), (3, 4), images=2)
    files, _ = export(case, tmp_path, images=case.images)
    harness = compile_harness(files, tmp_path / "harness", flags=("-O1", "-g"))
    done = subprocess.run(
        ["valgrind", "-q", "--error-exitcode=9", harness], input=pixels_in_memory(case.images).tobytes(),
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == run(case.program, case.images).tobytes()


@pytest.mark.skipif(cortex_m_tools() is not None, reason=str(cortex_m_tools()))
@pytest.mark.parametrize("fpu", [True, False])
def test_a_cortex_m4_gives_the_same_outputs_in_the_priced_ram(fpu, small, tmp_path):
    files, arena = export(small, tmp_path, fpu=fpu, images=small.images)
    device = run_on_cortex_m(files)
    assert device.differing == 0
    assert device.code < 10_000
    outputs = 4 * small.program.shapes[small.program.output][0]
    assert arena.total + outputs <= device.ram <= arena.total + outputs + 8
    assert files.data < device.flash <= exact("flash", small.blueprint.graph, small.blueprint.bits, TARGETS["c"].costs)
    assert 500 < device.stack < 4000


def test_refusals(residual, draft, case_of, tmp_path):
    floats = case_of(residual, [(32, 32), *[(4, 4)] * (len(residual.layers) - 1)])
    with pytest.raises(ExportError, match=r"computes in float32, and C code runs integers alone"):
        export(floats, tmp_path)
    numbers = case_of(residual, (4, 4), kind="float")
    with pytest.raises(ExportError, match="takes float32 numbers, which --no-fpu can't"):
        export(numbers, tmp_path, fpu=False)
    with pytest.raises(ExportError, match="can't begin names in C"):
        export(numbers, tmp_path, name="a b")
    d = draft(3, 6, 6)
    d.conv(4)
    d.same("relu")
    flat = d.flatten()
    d.put("split", (50,), flat, start=7)
    d.linear(3)
    with pytest.raises(ExportError, match="has no split of them; flatten after it"):
        export(case_of(d.graph(), (4, 4)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_compiler_and_broken_code_are_said(small, tmp_path):
    files, arena = export(small, tmp_path)
    with pytest.raises(VerifyError, match="'no-such-cc' isn't installed"):
        verify_c(files, small.program, arena, small.images, small.labels, compiler="no-such-cc")
    files.source.write_text(files.source.read_text() + "int unused(int x) { return 0; }\n")
    assert verify_c(files, small.program, arena, small.images, small.labels, flags=("-Wall", "-Wextra")).ok
    with pytest.raises(VerifyError, match="gcc refuses"):
        verify_c(files, small.program, arena, small.images, small.labels, flags=STRICT)


def test_flattened_maps_and_outputs_that_are_maps(draft, case_of, tmp_path):
    d = draft(3, 8, 8)
    d.conv(5)
    d.same("relu")
    d.flatten()
    d.same("affine")
    d.same("relu6")
    d.linear(6)
    check(case_of(d.graph(), (3, 4)), tmp_path)
    d = draft(3, 8, 8)
    d.conv(4)
    d.pool("max_pool", 2, 2)
    d.flatten()
    check(case_of(d.graph(), (3, 4)), tmp_path)


def test_a_network_of_one_channel_leaves_no_kernel_unused(case_of, tmp_path):
    """Its layers are all depthwise, with and without floating point."""
    s = graphs.Sketch((1, 8, 8))
    graph = s.graph(s.linear("fc", s.flatten("flat", s.global_pool("pool", s.conv("stem", "x", 1))), 1))
    check(case_of(graph, (1, 1), images=2), tmp_path)
    check(case_of(graph, (8, 8), images=2), tmp_path, fpu=False)


def test_literals():
    values = np.random.default_rng(0).integers(0, 2**32, 500, dtype=np.uint32).view(np.float32)
    for x in values[np.isfinite(values)]:
        assert np.float32(number(x)[:-1]) == x
    assert string('a"\\?\n') == '"a\\042\\134\\077\\012"'
    assert comment("a */ b\n/* c") == "a * / b / * c"


@given(st.floats(1e-12, 1e6), st.integers(-(2**31) + 1, 2**31 - 1))
def test_factors_round_as_fractions_do(value, total):
    factor = Factor.of(value)
    exact_value = Fraction(factor.mantissa) / Fraction(2) ** factor.shift
    assert abs(exact_value / Fraction(value) - 1) <= Fraction(1, 2**29)
    if factor.shift > 0:
        assert int(factor.of_sums(np.array([total]))[0]) == round(total * exact_value)


@given(st.integers(-32767, 32767), st.integers(-30, 12), st.floats(2.0**-14, 1.0, width=16))
def test_fixed_biases_are_within_a_float_rounding(stored, power, half):
    found = int(fixed_bias(np.array([stored]), np.float32(2.0**power), np.array([half], np.float16))[0])
    right = Fraction(stored) * Fraction(2) ** power / Fraction(half)
    assert abs(found - right) <= Fraction(1, 2)
