"""Pins: bits of single layers that a search must not vary, by name or pattern."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

from bitsmith.blueprint import FLOAT, Bits
from bitsmith.errors import RecipeError, RunError

Pin = int | str | Bits
# What one pin fixes: weight bits and activation bits, None = left as it is.
_Pinned = tuple[int | None, int | None]
_SIDES = re.compile(r"(?=.)(?:w([0-9]+))?(?:a([0-9]+))?")


def resolve_pins(names: Sequence[str], pins: Mapping[str, Pin]) -> dict[str, _Pinned]:
    """The pinned weight and activation bits of every layer that a pin names, None where a pin leaves one free.

    A pin is a number (weights and activations), "w4a8", "w4" or "a8" (one of them alone), or "float" (32 bits: the
    layer is excluded from quantization). A name may hold `*`, which stands for any text; a layer's own name goes
    before patterns.

    Args:
        names: of the network's priced layers.
        pins: name or pattern -> pin.

    Raises:
        RecipeError: no layer of that name, a pin that can't be read, a bit-width out of range, or two patterns that
            give one layer different bits.

    Example:
        >>> resolve_pins(["stem", "body.0", "body.1"], {"body.*": "w2", "body.1": 8})
        {'body.1': (8, 8), 'body.0': (2, None)}
    """
    found: dict[str, _Pinned] = {}
    exact = [name for name in pins if name in names]
    for name in exact:
        found[name] = _read(name, pins[name])
    by: dict[tuple[str, int], str] = {}  # (layer, side) -> the pattern that pinned it
    for pattern in (name for name in pins if name not in exact):
        matched = [name for name in names if _matches(pattern, name)]
        if not matched:
            raise RecipeError(_unknown(pattern, names))
        for name in (name for name in matched if name not in exact):
            old, new = found.get(name, (None, None)), _read(pattern, pins[pattern])
            for side in (0, 1):
                if None not in (old[side], new[side]) and old[side] != new[side]:
                    raise RecipeError(
                        f"the pins {by[name, side]!r} and {pattern!r} give {name!r} different "
                        f"{('weight', 'activation')[side]} bits, {old[side]} and {new[side]}; pin {name!r} by its own "
                        "name, which goes before patterns"
                    )
                if new[side] is not None:
                    by[name, side] = pattern
            found[name] = (old[0] if new[0] is None else new[0], old[1] if new[1] is None else new[1])
    return found


def blame(pins: Mapping[str, Pin], fine: Callable[[dict[str, Pin]], bool]) -> str:
    """Of pins with which something can't be done, those that are in its way, in words; "" where it isn't the pins.

    Args:
        fine: whether it could be done with these pins alone.

    Example:
        >>> blame({"stem": 8, "body.*": "float"}, lambda pins: "body.*" not in pins)
        "the pin 'body.*=float' is in the way"
    """
    alone = [name for name in pins if fine({other: pin for other, pin in pins.items() if other != name})]
    if not alone and (len(pins) < 2 or not fine({})):
        return ""
    texts = [repr(f"{name}={pins[name]}") for name in alone or pins]
    if len(texts) == 1:
        return f"the pin {texts[0]} is in the way"
    return f"the pins {', '.join(texts)} are in the way" + (", one of them is enough" if alone else " together")


def _read(name: str, pin: Pin) -> _Pinned:
    if isinstance(pin, Bits):
        return pin.pair(name)
    text = str(pin).strip()
    if text == "float":
        return FLOAT, FLOAT
    if text.isdecimal():
        weight = activation = int(text)
    else:
        match = _SIDES.fullmatch(text)
        if match is None:
            raise RecipeError(f"can't read the pin {name}={text}; write 8, w4a8, w4, a8 or float")
        weight, activation = (int(bits) if bits else None for bits in match.groups())
    try:
        Bits(weight=FLOAT if weight is None else weight, activation=FLOAT if activation is None else activation)
    except RunError as error:
        raise RecipeError(f"the pin {name}={text}: {error}") from error
    return weight, activation


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None


def _unknown(pattern: str, names: Sequence[str]) -> str:
    if "*" in pattern:
        return f"can't pin {pattern!r}: it matches no layer; the network has {_some(names)}"
    near = difflib.get_close_matches(pattern, names)
    hint = f"did you mean {', '.join(near)}?" if near else f"it has {_some(names)}"
    return f"can't pin {pattern!r}: the network has no such layer; {hint}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
