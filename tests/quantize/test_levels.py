"""Three ways to compute one mixture against automatic differentiation of its formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitsmith.quantize import levels as room
from bitsmith.quantize.levels import Range, levels

RANGES = {
    "activations": [Range(0, 3), Range(0, 7), Range(0, 15)],
    "weights": [Range(-1, 1, True), Range(-1, 1), Range(-3, 3), Range(-7, 7)],
    "one": [Range(-8, 7)],
    "sign": [Range(-1, 1, True)],
}


def by_autograd(x: Tensor, steps: Tensor, ranges: list[Range], shares: Tensor | None) -> Tensor:
    y = torch.zeros_like(x)
    for i, span in enumerate(ranges):
        step = steps[i].reshape(-1, *[1] * (x.ndim - 1))
        u = x / step
        clipped = torch.nn.functional.hardtanh(u, span.lo, span.hi)  # its gradient is 0 at the bounds, as in LSQ
        codes = torch.where(u >= 0, 1.0, -1.0).to(u.dtype) if span.binary else torch.round(clipped)
        part = step * (clipped + (codes - clipped).detach())
        y = part if shares is None else y + shares[i] * part
    return y


def inputs(kind: str, rows: int, shape: tuple[int, ...], seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    ranges = RANGES[kind]
    steps = torch.rand(len(ranges), rows, generator=generator, dtype=torch.float64) * 0.5 + 0.1
    shares = torch.softmax(torch.randn(len(ranges), generator=generator, dtype=torch.float64), 0)
    return x, steps, ranges, shares if len(ranges) > 1 else None


def gradients(function, x: Tensor, steps: Tensor, ranges: list[Range], shares: Tensor | None, g: Tensor, **options):
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, steps)]
    share = None if shares is None else shares.clone().requires_grad_()
    y = function(leaves[0], leaves[1], ranges, share, **options)
    y.backward(g)
    return [y.detach(), *(leaf.grad for leaf in leaves), *([] if share is None else [share.grad])]


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("layout", ["plain", "channels_last", "gaps", "other gradient"])
def test_against_autograd(kind, rows, layout, monkeypatch):
    monkeypatch.setattr(room, "_BLOCK", 64)  # several blocks and a rest
    x, steps, ranges, shares = inputs(kind, rows, (6, 4, 5, 3))
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    if layout == "channels_last":
        x, g = x.contiguous(memory_format=torch.channels_last), g.contiguous(memory_format=torch.channels_last)
    elif layout == "other gradient":
        g = g.contiguous(memory_format=torch.channels_last)
    wanted = gradients(by_autograd, x, steps, ranges, shares, g)
    if layout == "gaps":
        wide = torch.zeros(6, 4, 5, 6, dtype=x.dtype)
        wide[..., ::2] = x
        leaf = wide.requires_grad_()
        y = levels(leaf[..., ::2], steps, ranges, shares)
        y.backward(g)
        assert torch.allclose(y, wanted[0], rtol=1e-12)
        assert leaf.grad is not None
        assert torch.allclose(leaf.grad[..., ::2], wanted[1])
        return
    found = gradients(levels, x, steps, ranges, shares, g)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert found[0].stride() == x.stride()


@given(seed=st.integers(0, 2**31), bits=st.integers(1, 8), signed=st.booleans(), scale=st.floats(1e-6, 1e6))
def test_one_candidate_lies_exactly_on_its_grid(seed, bits, signed, scale):
    x = torch.randn(300, generator=torch.Generator().manual_seed(seed)) * scale
    step = torch.tensor([[scale / 3]])
    lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    assert torch.equal(levels(x, step, [Range(lo, hi)]), step[0] * torch.round((x / step[0]).clamp(lo, hi)))


@pytest.mark.parametrize("kind", RANGES)
def test_bf16_computes_in_float32(kind):
    x, steps, ranges, shares = inputs(kind, 1, (40, 50))
    x, steps, shares = x.bfloat16(), steps.float(), None if shares is None else shares.float()
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = gradients(levels, x, steps, ranges, shares, g)
    wanted = gradients(by_autograd, x.float(), steps, ranges, shares, g.float())
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    assert torch.equal(found[0], wanted[0].bfloat16())
    for a, b in zip(found[2:], wanted[2:], strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-2)


def test_a_fresh_network_compiled_as_a_whole_calls_the_operator(full):
    """torch.compile sees one operator; the fake kernel agrees with the real one in shape, type and layout."""
    x, steps, ranges, shares = inputs("activations", 1, (2, 3, 4, 4))
    flat = [number for span in ranges for number in span]
    tests = ("test_schema", "test_faketensor", *(("test_aot_dispatch_dynamic",) if full else ()))
    for layout in (torch.contiguous_format, torch.channels_last):
        x = x.clone(memory_format=layout)
        torch.library.opcheck(room._levels_backward, (x, x, steps, shares, flat, False), test_utils=tests)


def test_compiled_kernels(full):
    """The kernels of `compile: quantizers`; one kind in the reduced tier, since compiling takes seconds."""
    for kind in RANGES if full else ("activations",):
        for rows in (1, 6) if full else (1,):
            x, steps, ranges, shares = inputs(kind, rows, (6, 4, 5, 3))
            g = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
            wanted = gradients(by_autograd, x, steps, ranges, shares, g)
            for a, b in zip(gradients(levels, x, steps, ranges, shares, g, compiled=True), wanted, strict=True):
                assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_steps_must_fit():
    with pytest.raises(AssertionError, match="5 steps for 6 filters"):
        levels(torch.zeros(6, 2), torch.ones(1, 5), [Range(0, 1)])
