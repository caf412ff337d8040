"""Honest speed: what every layer was asked to compute in, what it really runs in, and what fewer bits brought in time.

Part of a record, and a file of its own beside each network (speed.json).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitsmith.errors import RunError
from bitsmith.report.parts import STRICT, Amount, BitWidth, Count, MeanBits

Change = Literal["faster", "slower", "the same"]
_LEAST = 0.05  # of the time at 8 bits; less is never called a difference
_RESOLUTION = 1e-6  # seconds; of onnxruntime's profile


@dataclass(frozen=True, kw_only=True, slots=True)
class Time:
    """Seconds of the network as it is, and of the same network with 8 bits everywhere, measured in turns.

    Args:
        asked, eight: typical seconds of a call.
        asked_spread, eight_spread: half the range of the middle half of the calls.
    """

    asked: Amount
    asked_spread: Amount
    eight: Amount
    eight_spread: Amount

    __pydantic_config__ = STRICT

    @property
    def change(self) -> Change:
        """What the asked bits did to the time; "the same" within 5 %, a microsecond, or both spreads together."""
        margin = max(_LEAST * self.eight, _RESOLUTION, self.asked_spread + self.eight_spread)
        if abs(self.asked - self.eight) <= margin:
            return "the same"
        return "faster" if self.asked < self.eight else "slower"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpeed:
    """One priced layer in onnxruntime.

    Args:
        weight_bits, activation_bits: asked; means where filters or maps differ, 32 = float.
        kernel: what onnxruntime ran, as its profile calls it.
        weight_type, activation_type: what that kernel multiplies: "int8", "uint8", "float32".
        executed_weight_bits, executed_activation_bits: of these.
        extra_kernels: kernels that only bring numbers onto the layer's grid: narrowings and clips.
        time: with those.
        bytes, bytes_at_eight: of the layer's part of `size`, at the asked bits and at 8.
    """

    name: str
    weight_bits: MeanBits
    activation_bits: MeanBits
    kernel: str
    weight_type: str
    activation_type: str
    executed_weight_bits: BitWidth
    executed_activation_bits: BitWidth
    extra_kernels: Count
    time: Time
    bytes: Amount
    bytes_at_eight: Amount

    __pydantic_config__ = STRICT

    @property
    def asked_less(self) -> bool:
        """Whether fewer bits were asked than are executed."""
        return self.weight_bits < self.executed_weight_bits or self.activation_bits < self.executed_activation_bits

    @property
    def bought(self) -> str:
        """What fewer bits bought: "bytes", "time", "bytes and time", "nothing"; "-" where none fewer were asked."""
        if not self.asked_less:
            return "-"
        bytes_, time = self.bytes < self.bytes_at_eight, self.time.change == "faster"
        return "bytes and time" if bytes_ and time else "bytes" if bytes_ else "time" if time else "nothing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """One exported network.

    Args:
        network: folder of its row.
        setting: under what was measured, in words.
        call: a whole call.
        rest: the time of what is no priced layer: input, sums, pools, functions, and the call itself.
        layers: in order of execution.

    Raises:
        RunError: a network without layers.
    """

    network: str
    setting: str
    call: Time
    rest: Time
    layers: list[LayerSpeed]

    __pydantic_config__ = STRICT

    def __post_init__(self) -> None:
        if not self.layers:
            raise RunError(f"network {self.network!r}: a speed without layers")

    @property
    def words(self) -> str:
        """What fewer bits bought, in a sentence.

        Example:
            "8 of 10 layers were asked for fewer bits than they run in, which saves 14.2 kB; 8 of these gained no time;
            a call takes 312 us, and 309 us with 8 bits everywhere: the same."
        """
        less = [layer for layer in self.layers if layer.asked_less]
        slow = [layer for layer in less if layer.time.change != "faster"]
        saved = sum(layer.bytes_at_eight - layer.bytes for layer in less)
        times = _microseconds(self.call.asked), _microseconds(self.call.eight)
        call = f"a call takes {times[0]}, and {times[1]} with 8 bits everywhere"
        if not less:
            return f"No layer was asked for fewer bits than it runs in; {call}."
        gained = f"{len(slow)} of these gained no time" if slow else "all of these gained time"
        return (
            f"{len(less)} of {len(self.layers)} layers were asked for fewer bits than they run in, which saves "
            f"{saved / 1000:.4g} kB; {gained}; {call}: {self.call.change}."
        )


def _microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:,.3g} us" if seconds < 1e-3 else f"{1e3 * seconds:,.3g} ms"
