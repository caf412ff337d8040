"""One pass over a tensor for a whole mixture of learned-step quantizers, forward and backward.

    y = sum_i p_i s_i q_i,    q_i = round(clip(x / s_i, lo_i, hi_i))    (or sign(x) where binary)

with the straight-through gradients of LSQ (arXiv 1902.08153, eqs. 2 and 3), m_i = [lo_i < x / s_i < hi_i]:

    dx = g sum_i p_i m_i,    ds_i = p_i sum g (q_i - m_i x / s_i),    dp_i = s_i sum g q_i.

Only x is kept for backward, where automatic differentiation keeps four tensors for every bit-width. On a CPU the sums
run in one of two ways, on a GPU as they are:

- in blocks that fit a core's cache, operator by operator: needs no compiler and is 5 times as fast as automatic
  differentiation (14.5 against 73 ms for three bit-widths of 2 million numbers, one thread, measured);
- as one compiled kernel each for forward and backward: 5.3 ms, and some ten seconds once to compile.

In a network that is compiled as a whole the forward formula is left to torch.compile, which fuses it with what stands
around it; backward stays one operator of torch (`torch.library`), since what torch.compile makes of that by itself
passes over the tensor once for every sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

_BLOCK = 1 << 16  # numbers: a few blocks of float32 fit the level-2 cache
_RECOMPILES = 64  # one graph per number of candidates, type and granularity; torch's default of 8 gives up too soon


class Range(NamedTuple):
    """The integers of a candidate: lo..hi, or only -1 and +1 where binary."""

    lo: int
    hi: int
    binary: bool = False


def levels(
    x: Tensor, steps: Tensor, ranges: Sequence[Range], shares: Tensor | None = None, *, compiled: bool = False
) -> Tensor:
    """The mixture of quantized versions of x; see the module's text.

    Args:
        x: any shape; filters first where steps are per filter.
        steps: positive (candidates, rows); rows is 1, or the number of filters.
        ranges: one per candidate.
        shares: p, (candidates,); None for one candidate alone, whose result is then exactly on its grid.
        compiled: whether to use compiled kernels; the first call of each kind then takes seconds.

    Example:
        >>> levels(torch.tensor([0.24, 0.26, 9.0]), torch.tensor([[0.5]]), [Range(-1, 1)])
        tensor([0.0000, 0.5000, 0.5000])
    """
    assert steps.shape[0] == len(ranges)
    assert shares is not None or len(ranges) == 1
    assert steps.shape[1] in (1, len(x)), f"{steps.shape[1]} steps for {len(x)} filters"
    numbers = tuple(number for span in ranges for number in span)
    if torch.compiler.is_compiling():
        return cast(Tensor, _Traced.apply(x, steps, shares, numbers))
    return cast(Tensor, _Levels.apply(x, steps, shares, numbers, compiled))


class _Levels(torch.autograd.Function):
    """`levels` as it is run outside compiled networks, where an operator of torch would only take longer."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, steps: Tensor, shares: Tensor | None, ranges: tuple[int, ...], compiled: bool
    ) -> Tensor:
        ctx.save_for_backward(x, steps, shares)
        ctx.ranges, ctx.compiled = ranges, compiled
        flat, spans = _flat(x, steps.shape[1]), _spans(ranges)
        if compiled:
            y = _run_compiled(_forward, flat, steps, shares, spans)
        elif flat.is_cpu and len(flat) == 1:
            y = _blocked_forward(flat, steps, shares, spans)
        else:
            y = _forward(flat, steps, shares, spans)
        return _shaped(y, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        return *_gradients(ctx, grads[0], _sums), None, None


def _sums(
    g: Tensor, x: Tensor, steps: Tensor, shares: Tensor | None, ranges: Sequence[int], compiled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, sum g q_i and sum g m_i x / s_i, the sums (candidates, rows)."""
    flat = _flat(x, steps.shape[1])
    if not _same_order(g, x):
        g = torch.empty_like(x, dtype=g.dtype).copy_(g)
    slope = _flat(g, steps.shape[1])
    spans = _spans(ranges)
    if compiled:
        dx, power, inside = _run_compiled(_backward, slope, flat, steps, shares, spans)
    elif flat.is_cpu and len(flat) == 1:
        dx, power, inside = _blocked_backward(slope, flat, steps, shares, spans)
    else:
        dx, power, inside = _backward(slope, flat, steps, shares, spans)
    return _shaped(dx, x), power, inside


_levels_backward = torch.library.custom_op("bitsmith::levels_backward", _sums, mutates_args=())


@_levels_backward.register_fake
def _(
    g: Tensor, x: Tensor, steps: Tensor, shares: Tensor | None, ranges: Sequence[int], compiled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(steps), torch.empty_like(steps)


def _gradients(ctx: Any, g: Tensor, sums: Callable[..., Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    x, steps, shares = ctx.saved_tensors
    dx, power, inside = sums(g, x, steps, shares, list(ctx.ranges), ctx.compiled)
    if shares is None:
        return dx, power - inside, None
    return dx, shares[:, None] * (power - inside), (steps * power).sum(1).to(shares.dtype)


class _Traced(torch.autograd.Function):
    """`levels` as torch.compile sees it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: Tensor, shares: Tensor | None, ranges: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x, steps, shares)
        ctx.ranges, ctx.compiled = ranges, True
        column = (-1, *[1] * (x.ndim - 1))
        wide = x.to(steps.dtype)
        y = torch.zeros_like(wide)
        for i, span in enumerate(_spans(ranges)):
            step = steps[i].reshape(column) if steps.shape[1] > 1 else steps[i, 0]
            if shares is None:
                y = step * _codes(wide / step, span)
            else:
                y = y + shares[i] * step * _codes(wide * step.reciprocal(), span)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        return *_gradients(ctx, grads[0], _levels_backward), None


def _spans(ranges: Sequence[int]) -> tuple[Range, ...]:
    return tuple(Range(ranges[i], ranges[i + 1], bool(ranges[i + 2])) for i in range(0, len(ranges), 3))


def _flat(x: Tensor, rows: int) -> Tensor:
    """x as (rows, numbers); without a copy whatever the memory format, unless its memory has gaps."""
    if _dense(x) and (rows == 1 or x.stride(0) * len(x) == x.numel()):
        return torch.as_strided(x, (rows, x.numel() // rows), (x.numel() // rows, 1))
    return x.reshape(rows, -1)


def _shaped(y: Tensor, x: Tensor) -> Tensor:
    """The inverse of `_flat` for a tensor like x, in the memory format that torch gives to tensors like x."""
    if _dense(x) and (len(y) == 1 or x.stride(0) * len(x) == x.numel()):
        return torch.as_strided(y, x.shape, x.stride())
    return torch.empty_like(x).copy_(y.reshape(x.shape))


def _dense(x: Tensor) -> bool:
    return torch.ops.aten.is_non_overlapping_and_dense(x)


def _same_order(g: Tensor, x: Tensor) -> bool:
    return g.stride() == x.stride() if _dense(x) else g.is_contiguous()


# lo and hi are numbers, or in a compiled kernel tensors, so that one kernel serves all bit-widths.
Span = tuple[Any, Any, bool]


def _codes(u: Tensor, span: Span) -> Tensor:
    lo, hi, binary = span
    return torch.where(u >= 0, 1.0, -1.0).to(u.dtype) if binary else torch.round(torch.clamp(u, lo, hi))


def _scaled(x: Tensor, step: Tensor, shares: Tensor | None) -> Tensor:
    """x / s; in a mixture, where no level has to be met exactly, times 1 / s: that takes a tenth of the time."""
    return x / step if shares is None else x * step.reciprocal()


def _forward(x: Tensor, steps: Tensor, shares: Tensor | None, spans: Sequence[Span]) -> Tensor:
    """y of x (rows, numbers)."""
    wide = x.to(steps.dtype)
    y = torch.zeros_like(wide)
    for i, span in enumerate(spans):
        step = steps[i][:, None]
        codes = _codes(_scaled(wide, step, shares), span)
        y = step * codes if shares is None else y + shares[i] * step * codes
    return y.to(x.dtype)


def _backward(
    g: Tensor, x: Tensor, steps: Tensor, shares: Tensor | None, spans: Sequence[Span]
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, sum g q_i and sum g m_i x / s_i; x and g are (rows, numbers), the sums (candidates, rows)."""
    wide, slope = x.to(steps.dtype), g.to(steps.dtype)
    dx = torch.zeros_like(wide)
    power, inside = [], []
    for i, span in enumerate(spans):
        u = _scaled(wide, steps[i][:, None], shares)
        passed = torch.where((u > span[0]) & (u < span[1]), slope, 0.0)
        power.append((slope * _codes(u, span)).sum(1))
        inside.append((passed * u).sum(1))
        dx = passed if shares is None else dx + shares[i] * passed
    return dx.to(x.dtype), torch.stack(power), torch.stack(inside)


def _blocked_forward(x: Tensor, steps: Tensor, shares: Tensor | None, spans: Sequence[Range]) -> Tensor:
    """`_forward` for one row."""
    scale = _factors(steps, shares)
    gain = steps[:, 0].tolist() if shares is None else (steps[:, 0] * shares).tolist()
    y = torch.empty_like(x)
    scratch = torch.empty(2, _BLOCK, dtype=steps.dtype)
    for start in range(0, x.shape[1], _BLOCK):
        source, target = x[0, start : start + _BLOCK], y[0, start : start + _BLOCK]
        q, total = scratch[:, : len(source)]
        total = target if target.dtype == q.dtype else total
        for i, span in enumerate(spans):
            _codes_into(q, _scaled_into(q, source, scale[i], shares), span)
            torch.mul(q, gain[i], out=total) if i == 0 else total.add_(q, alpha=gain[i])
        if total is not target:
            target.copy_(total)
    return y


def _blocked_backward(
    g: Tensor, x: Tensor, steps: Tensor, shares: Tensor | None, spans: Sequence[Range]
) -> tuple[Tensor, Tensor, Tensor]:
    """`_backward` for one row."""
    scale = _factors(steps, shares)
    gain = [1.0] if shares is None else shares.tolist()
    dx = torch.empty_like(x)
    scratch = torch.empty(5, _BLOCK, dtype=steps.dtype)
    blocks = -(-x.shape[1] // _BLOCK)
    power = torch.empty(len(spans), blocks, dtype=steps.dtype)
    inside = torch.empty_like(power)
    plain = x.dtype == g.dtype == steps.dtype
    for block in range(blocks):
        part = slice(block * _BLOCK, (block + 1) * _BLOCK)
        source, slope, target = x[0, part], g[0, part], dx[0, part]
        u, q, total, wide, wide_slope = scratch[:, : len(source)]
        if not plain:
            source, slope = wide.copy_(source), wide_slope.copy_(slope)
        total = target if plain else total
        for i, span in enumerate(spans):
            _scaled_into(u, source, scale[i], shares)
            torch.dot(slope, _codes_into(q, u, span), out=power[i, block])
            # g where lo < u < hi, else 0: the gradient of a clip.
            passed = torch.ops.aten.hardtanh_backward.grad_input(slope, u, span.lo, span.hi, grad_input=q)
            torch.dot(passed, u, out=inside[i, block])
            torch.mul(passed, gain[i], out=total) if i == 0 else total.add_(passed, alpha=gain[i])
        if total is not target:
            target.copy_(total)
    return dx, power.sum(1, keepdim=True), inside.sum(1, keepdim=True)


def _factors(steps: Tensor, shares: Tensor | None) -> list[float]:
    """What `_scaled_into` divides by, or multiplies with."""
    return (steps if shares is None else steps.reciprocal())[:, 0].tolist()


def _scaled_into(out: Tensor, x: Tensor, factor: float, shares: Tensor | None) -> Tensor:
    """`_scaled`, written to `out`."""
    source = x if x.dtype == out.dtype else out.copy_(x)
    return (torch.div if shares is None else torch.mul)(source, factor, out=out)


def _codes_into(out: Tensor, u: Tensor, span: Range) -> Tensor:
    """`_codes`, written to `out`."""
    if span.binary:
        return torch.ge(u, 0, out=out).mul_(2).sub_(1)
    return torch.clamp(u, span.lo, span.hi, out=out).round_()


def _run_compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run `_forward` or `_backward` as a compiled kernel."""
    *tensors, spans = arguments
    bounds = _bounds(spans, tensors[-2].dtype, tensors[-2].device)
    binary = tuple(span.binary for span in spans)
    with torch._dynamo.config.patch(recompile_limit=_RECOMPILES):
        return _kernel(function)(*(None if t is None else _bare(t) for t in tensors), bounds, binary)


def _bare(x: Tensor) -> Tensor:
    """The same memory as a tensor that is no view and needs no gradient: a kernel is compiled anew for either."""
    bare = torch.empty(0, dtype=x.dtype, device=x.device)
    return bare.set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride())


@cache
def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    def with_bounds(*arguments: Any) -> Any:
        *tensors, bounds, binary = arguments
        return function(*tensors, [(*row.unbind(), sign) for row, sign in zip(bounds.unbind(), binary, strict=True)])

    return torch.compile(with_bounds, dynamic=True)


@cache
def _bounds(spans: tuple[Range, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([span[:2] for span in spans], dtype=dtype, device=device)
