"""The reference interpreter, against torch's double-precision operators and hand-worked numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bitsmith.deploy import run, trace
from bitsmith.deploy.operators import Conv, Logits, StoredGrid, Sums
from bitsmith.deploy.reference import requantize
from bitsmith.errors import ExportError, VerifyError

UNIT = np.ones(1, np.float32)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    ("stride", "dilation", "padding"), [((1, 1), (1, 1), (1, 0, 2, 1)), ((2, 1), (1, 2), (0,) * 4)]
)
def test_sums_are_torchs_in_double(groups, stride, dilation, padding):
    from bitsmith.deploy.reference import _total

    rng = np.random.default_rng(groups)
    x = rng.integers(0, 256, (3, 4, 9, 8), dtype=np.uint8)
    weight = rng.integers(-127, 128, (8, 4 // groups, 3, 2)).astype(np.int8)
    bias = rng.integers(-(10**6), 10**6, 8)
    sums = Sums(weight=weight, scale=UNIT, bias=bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    grid = StoredGrid(step=np.float32(1), zero_point=128, top=255)
    up, left, down, right = padding
    centered = F.pad(torch.from_numpy(x).double() - 128, (left, right, up, down))
    args = (stride, 0, dilation, groups)
    expected = F.conv2d(centered, torch.from_numpy(weight).double(), torch.from_numpy(bias).double(), *args)
    assert np.array_equal(_total(sums, x, grid), expected.numpy().reshape(3, 8, -1))


def test_requantization_rounds_half_to_even_and_saturates():
    sums = Sums(weight=np.ones((1, 1, 1, 1), np.int8), scale=UNIT, bias=np.zeros(1, np.int64))
    source = StoredGrid(step=np.float32(0.5), zero_point=0, top=255)
    total = np.array([[[1, 3, 5, -1, -3, 100, -100]]], np.float64)
    signed = StoredGrid(step=np.float32(1), zero_point=8, top=15)
    assert requantize(total, sums, source, signed, 15).tolist() == [[[8, 10, 10, 8, 6, 15, 0]]]
    assert requantize(total, sums, source, signed, 9).tolist() == [[[8, 9, 9, 8, 6, 9, 0]]]
    sign = StoredGrid(step=np.float32(1), zero_point=1, top=2)
    assert requantize(total, sums, source, sign, 2).tolist() == [[[2, 2, 2, 0, 0, 2, 0]]]
    assert requantize(total * 0, sums, source, sign, 2).tolist() == [[[2] * 7]]  # sign(0) = +1


def test_every_tensor_stays_in_its_grid_and_batches_do_not_matter(case_of, residual, monkeypatch):
    case = case_of(residual, (3, 5))
    outputs = run(case.program, case.images)
    values = trace(case.program, case.images)
    assert np.array_equal(values[case.program.output], outputs)
    for name, grid in case.program.grids.items():
        assert values[name].dtype == np.uint8
        assert values[name].max() <= grid.top
    monkeypatch.setattr("bitsmith.deploy.reference._SCRATCH", 1)  # one image at a time
    assert np.array_equal(run(case.program, case.images), outputs)


def test_no_images_give_no_outputs(case_of, residual):
    case = case_of(residual)
    assert run(case.program, case.images[:0]).shape == (0, 5)


def test_images_of_another_kind_are_refused(case_of, residual):
    case = case_of(residual)
    with pytest.raises(VerifyError, match=r"uint8 and shape \(N, 3, 12, 12\), got float32"):
        run(case.program, case.images.astype(np.float32))


def test_integers_follow_the_simulation_layer_by_layer(case_of, residual):
    """The frozen torch network, layer by layer: the same integers but for sums that float32 rounds across a half."""
    case = case_of(residual, (4, 4), images=100)
    values = trace(case.program, case.images)
    mean, std = (torch.tensor(v)[:, None, None] for v in (case.blueprint.input.mean, case.blueprint.input.std))
    x = (torch.from_numpy(case.images).float() / 255 - mean) / std
    seen = {}
    for name, layer in case.frozen.named_modules():
        if name in values and name != "":
            layer.register_forward_hook(lambda module, args, y, name=name: seen.__setitem__(name, y))
    case.frozen(x)
    checked = 0
    for operator in case.program.weighted:
        if operator.sums.folded is None:
            continue
        y = seen[operator.name].numpy()
        if isinstance(operator, Logits):
            np.testing.assert_allclose(values[operator.name], y, rtol=0, atol=1e-4 * np.abs(y).max())
        elif isinstance(operator, Conv):
            stored = np.minimum(case.program.grids[operator.name].store(y), operator.top)
            assert (stored != values[operator.name]).mean() < 1e-4
        checked += 1
    assert checked == len(residual.layers)


def test_a_float_layer_cannot_be_lowered(case_of, residual):
    from bitsmith.deploy import lower

    case = case_of(residual)
    with pytest.raises(ExportError, match="is not frozen; call freeze"):
        lower(case.trained, case.blueprint)
