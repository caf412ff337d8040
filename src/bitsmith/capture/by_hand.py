"""hard_sigmoid and hard_swish written out: relu6(x + 3) / 6 and x * relu6(x + 3) / 6."""

from __future__ import annotations

from dataclasses import replace

from bitsmith.capture.call import Call
from bitsmith.capture.draft import Made, Value

# What Value.formula goes through.
SHIFTED, CLIPPED, GATED = "x + 3", "relu6(x + 3)", "x * relu6(x + 3)"
_WHOLE = {CLIPPED: "hard_sigmoid", GATED: "hard_swish"}


def shifted(call: Call) -> Value | None:
    """x + 3, or None."""
    return replace(call.read(), formula=SHIFTED, pending=call.node) if call["other"] == 3 else None


def clipped(call: Call) -> Value | None:
    """relu6 of x + 3, or None."""
    value = call.value(call.first)
    return replace(value, formula=CLIPPED, pending=call.node) if value.formula == SHIFTED else None


def gated(call: Call) -> Value | None:
    """x times relu6(x + 3), or None."""
    if call.is_constant("self") or call.is_constant("other"):
        return None
    x, y = call.value("self"), call.value("other")
    if x.formula == CLIPPED:
        x, y = y, x
    same = y.formula == CLIPPED and x.pending is None and x.node == y.node
    return replace(y, formula=GATED, pending=call.node) if same else None


def divided(call: Call, number: float) -> Made | None:
    """The whole function, or None: relu6(x + 3) or x * relu6(x + 3), divided by 6."""
    value = call.value("self")
    if value.formula not in _WHOLE or abs(number - 6) > 1e-6:
        return None
    return Made(op=_WHOLE[value.formula], inputs=(value.node,), shape=call.shape)
