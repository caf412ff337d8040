"""fold(): the stored integers of a layer against the real numbers that they round."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.errors import ExportError
from bitsmith.quantize import ACCUMULATOR, Folded, Grid
from bitsmith.quantize.fold import fold

GRIDS = [Grid(step=0.02, lo=0, hi=255), Grid(step=1.5, lo=0, hi=3), Grid(step=0.1, lo=-128, hi=127)]


def make(
    *, seed: int, bits: int, odd: bool, inputs: int, step: list[float], bias: list[float], grid: Grid
) -> tuple[np.ndarray, Folded]:
    rng = np.random.default_rng(seed)
    if odd or bits == 1:
        codes = 2 * rng.integers(0, 2**bits, (len(step), inputs)) - (2**bits - 1)
    else:
        bound = 2 ** (bits - 1) - 1
        codes = rng.integers(-bound, bound + 1, (len(step), inputs))
    folded = fold(
        "layer", codes=codes.astype(float), step=np.array(step), bits=bits, odd=odd, bias=np.array(bias), input=grid
    )
    return codes, folded


def largest_input(grid: Grid) -> int:
    return max(-grid.lo, grid.hi)


@st.composite
def layers(draw: st.DrawFn):
    bits = draw(st.integers(1, 8))
    channels = draw(st.integers(1, 6))
    size = draw(st.sampled_from([1e-9, 1e-3, 1.0, 1e4]))
    steps = st.one_of(st.floats(-1.0, 1.0), st.sampled_from([0.0, -0.0, 1e-7, 1e-12, -1e-3, 1.0]))
    biases = st.one_of(st.floats(-100.0, 100.0), st.sampled_from([0.0, 1e-9, 1e6, -1e6]))
    return {
        "seed": draw(st.integers(0, 99)),
        "bits": bits,
        "odd": bits < 8 and draw(st.booleans()),
        "inputs": draw(st.sampled_from([1, 9, 27, 600, 9000])),
        "step": [size * draw(steps) for _ in range(channels)],
        "bias": [draw(biases) for _ in range(channels)],
        "grid": draw(st.sampled_from(GRIDS)),
    }


@given(layers())
def test_every_number_fits_its_type(layer):
    codes, folded = make(**layer)
    assert (folded.codes.dtype, folded.half.dtype, folded.stored_bias.dtype) == (np.int16, np.float16, np.int16)
    assert folded.weight.dtype == np.int8
    assert np.array_equal(folded.weight.astype(int), folded.codes.astype(int) * 2**folded.shift)
    assert (folded.half > 0).all()
    assert (folded.half <= 1).all()
    assert folded.scale.dtype == np.float32
    assert np.isfinite(folded.scale).all()
    assert (folded.scale > 0).all()
    assert np.log2(folded.granule) == round(np.log2(folded.granule))
    reach = np.abs(folded.weight.astype(np.int64)).sum(1) * largest_input(layer["grid"])
    largest = int((reach + np.abs(folded.bias)).max())
    assert largest < 2**31
    if folded.shift:
        assert largest < ACCUMULATOR
        # Two products of stored u8 inputs and shifted weights fit 16 bits.
        assert 2 * int(np.abs(folded.weight.astype(int)).max()) * (layer["grid"].hi - layer["grid"].lo) <= 32767
    assert folded.codes.shape == codes.shape


@given(layers())
def test_scales_and_biases_are_near_the_real_ones(layer):
    codes, folded = make(**layer)
    step, bias, grid = np.array(layer["step"]), np.array(layer["bias"]), layer["grid"]
    kept = (folded.codes != 0).any(1)
    signs = np.where(step < 0, -1, 1)[:, None]
    assert np.array_equal(folded.codes[kept], (codes * signs)[kept])
    real = folded.scale.astype(np.float64) * 2**folded.shift
    assert np.allclose(real[kept], np.abs(step)[kept], rtol=2**-10, atol=0)
    # A bias is off by half an accumulator unit and half a granule, and by float32's rounding.
    unit = folded.scale.astype(np.float64) * grid.step
    granule = float(folded.granule) * float(folded.layer_scale) * grid.step
    written = folded.bias * unit
    assert (np.abs(written - bias) <= 0.5001 * (unit + granule) + 2**-21 * np.abs(bias)).all()
    assert granule <= 2 * max(np.abs(bias).max() / 32767, 2.0**-40 * float(folded.layer_scale) * grid.step)


@given(layers())
def test_only_channels_without_effect_are_frozen_constant(layer):
    codes, folded = make(**layer)
    step, bias, grid = np.abs(layer["step"]), np.abs(layer["bias"]), layer["grid"]
    constant = (folded.codes == 0).all(1) & (codes != 0).any(1)
    top = float(folded.layer_scale) * 2**folded.shift
    reach = np.abs(codes).sum(1) * largest_input(grid) * step * grid.step
    does_nothing = (bias >= ACCUMULATOR * step * grid.step) & (reach <= 1.001 * 2**-10 * bias)
    too_far = bias >= 2**30 * step * grid.step
    too_small = step <= top * 2**-14
    assert (does_nothing | too_far | too_small)[constant].all()
    certain = (bias >= 1.001 * ACCUMULATOR * step * grid.step) & (reach <= 0.999 * 2**-10 * bias)
    assert not ((certain | too_far) & (codes != 0).any(1) & ~constant).any()
    assert (folded.half[constant] == 1).all()


@given(layers())
def test_the_shift_is_the_largest(layer):
    _, folded = make(**layer)
    codes = np.abs(folded.codes.astype(np.int64))
    if not codes.any():
        return
    more = folded.shift + 1
    reach = codes.sum(1) * largest_input(layer["grid"])
    doubled = reach * 2**more + 2.0 * np.abs(folded.bias)
    pair = 2 * codes.max() * 2**more * (layer["grid"].hi - layer["grid"].lo)
    assert codes.max() * 2**more > 127 or pair > 32767 or doubled.max() >= ACCUMULATOR * (1 - 2**-9)


@given(layers(), st.integers(0, 99))
def test_the_layer_computes_what_it_did(layer, seed):
    """y of random integer inputs, with the stored numbers against the real ones."""
    codes, folded = make(**layer)
    step, bias, grid = np.array(layer["step"]), np.array(layer["bias"]), layer["grid"]
    x = np.random.default_rng(seed).integers(grid.lo, grid.hi + 1, (layer["inputs"], 20))
    expected = step[:, None] * (codes @ x) * grid.step + bias[:, None]
    got = (folded.weight.astype(np.int64) @ x + folded.bias[:, None]) * (folded.scale * np.float64(grid.step))[:, None]
    top = float(folded.layer_scale) * 2**folded.shift
    kept = (folded.codes != 0).any(1)
    unit = folded.scale.astype(np.float64) * grid.step
    granule = float(folded.granule) * float(folded.layer_scale) * grid.step
    slack = 2**-10 * np.abs(step)[:, None] * np.abs(codes @ x) * grid.step + (0.51 * (unit + granule))[:, None]
    slack += 2**-20 * np.abs(bias)[:, None]
    assert (np.abs(got - expected) <= slack)[kept].all()
    # A constant channel is off by no more than its inputs could do: small against its bias or the layer's scale.
    lost = np.abs(step)[:, None] * np.abs(codes).sum(1)[:, None] * largest_input(grid) * grid.step
    assert (np.abs(got - expected) <= slack + lost)[~kept].all()
    reach = np.abs(codes).sum(1)[:, None] * largest_input(grid)
    bound = np.maximum(np.abs(bias)[:, None] * np.maximum(2**-10, reach / 2**30), top * 2**-14 * grid.step * reach)
    assert (lost <= 1.01 * bound)[~kept].all()


def one(step: float, bias: float, *, bits: int = 2, inputs: int = 9, grid: Grid = GRIDS[0]) -> Folded:
    codes = np.ones((1, inputs))
    return fold("layer", codes=codes, step=np.array([step]), bits=bits, odd=False, bias=np.array([bias]), input=grid)


def test_by_hand():
    """Nine weights of one, step 1/2, inputs 0..3 in steps of 3/2, bias 3: one unit is 3/4, at shift 6 it is 3/256."""
    folded = one(0.5, 3.0, grid=GRIDS[1])
    assert folded.shift == 6
    assert folded.weight.tolist() == [[64] * 9]
    assert folded.half.tolist() == [1.0]
    assert folded.scale.tolist() == [0.5 / 64]
    assert folded.bias.tolist() == [256]


def test_negative_gamma_flips_the_filter():
    folded, mirrored = one(0.5, 1.0), one(-0.5, 1.0)
    assert np.array_equal(mirrored.codes, -folded.codes)
    assert np.array_equal(mirrored.scale, folded.scale)
    assert np.array_equal(mirrored.bias, folded.bias)


@pytest.mark.parametrize("bias", [0.0, 0.7, -5.0])
def test_gamma_zero_is_a_constant(bias):
    codes = np.ones((2, 9))
    folded = fold(
        "layer", codes=codes, step=np.array([0.0, 0.1]), bits=2, odd=False, bias=np.array([bias, 0.3]), input=GRIDS[0]
    )
    assert not folded.weight[0].any()
    assert folded.weight[1].all()
    assert folded.bias[0] * folded.scale[0] * 0.02 == pytest.approx(bias, abs=0.1 * 0.02 / 2**folded.shift)


def test_a_layer_of_constants_alone():
    folded = fold(
        "layer", codes=np.ones((2, 9)), step=np.zeros(2), bits=2, odd=False, bias=np.array([0.5, -7.0]), input=GRIDS[0]
    )
    assert not folded.weight.any()
    assert folded.bias * folded.scale * 0.02 == pytest.approx(np.array([0.5, -7.0]), abs=1e-3)


def test_a_constant_beside_tiny_scales_stays_in_the_accumulator():
    """A bias of 5 in units of 1e-9 * .02 would be 2.5e11: far beyond int32."""
    folded = fold(
        "layer", codes=np.ones((2, 9)), step=np.array([1e-9, 0.0]), bits=2, odd=False, bias=np.array([0.0, 5.0]),
        input=GRIDS[0],
    )  # fmt: skip
    assert np.abs(folded.bias).max() < ACCUMULATOR
    assert folded.bias[1] * folded.scale[1] * 0.02 == pytest.approx(5, rel=1e-4)


def test_huge_bias_is_a_constant():
    passes, fits = one(1e-6, 1.0), one(1e-6, 0.3)  # 2^24 units of 1e-6 * .02 are .336
    assert not passes.weight.any()
    assert fits.weight.all()
    assert fits.shift == 0
    assert not one(1e-12, 3.0, inputs=9000).weight.any()  # 1.5e14 units leave nothing of an int32


def test_a_wide_filter_that_matters_is_none():
    """A bias of -2.5e7 units, which the weights overcome: 15,000 x 60 x 255 are 2.3e8."""
    codes = np.stack([np.full(15_000, 60.0), np.full(15_000, 1.0), np.eye(1, 15_000)[0]])
    folded = fold(
        "layer", codes=codes, step=np.full(3, 1e-6), bits=8, odd=False, bias=np.array([-0.5, 0.1, -0.5]), input=GRIDS[0]
    )
    assert np.array_equal(folded.codes.any(1), [True, True, False])
    assert folded.shift == 0
    assert ACCUMULATOR < -folded.bias[0] < 2**25
    assert folded.bias * folded.scale * 0.02 == pytest.approx(np.array([-0.5, 0.1, -0.5]), abs=1e-5)
    assert folded.scale[:2] == pytest.approx(1e-6, rel=2**-11)


def test_wide_sums_and_their_bias_must_fit_32_bits_together():
    with pytest.raises(ExportError, match=r"'conv7'.*32 bits"):
        fold(
            "conv7", codes=np.full((1, 50_000), 127.0), step=np.ones(1), bits=8, odd=False, bias=np.array([1e9 * 0.02]),
            input=GRIDS[0],
        )  # fmt: skip


def test_full_eight_bit_layers_have_no_shift():
    folded = fold(
        "layer", codes=np.full((1, 5000), 127.0), step=np.array([0.01]), bits=8, odd=False, bias=np.array([0.1]),
        input=GRIDS[0],
    )  # fmt: skip
    assert folded.shift == 0


@pytest.mark.parametrize("where", ["step", "bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(where, value):
    numbers = {"step": np.array([0.1, 0.2]), "bias": np.array([0.0, 1.0])}
    numbers[where][1] = value
    with pytest.raises(ExportError, match=r"'conv7'.*not finite"):
        fold("conv7", codes=np.ones((2, 3)), bits=2, odd=False, input=GRIDS[0], **numbers)


def test_too_wide_for_32_bits():
    with pytest.raises(ExportError, match=r"'conv7'.*32 bits"):
        fold(
            "conv7", codes=np.full((1, 70_000), 127.0), step=np.array([0.1]), bits=8, odd=False, bias=np.zeros(1),
            input=GRIDS[0],
        )  # fmt: skip
