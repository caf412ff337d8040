"""Target: what a device's runtime can hold. It narrows a space before the search; nothing is rounded up silently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitsmith.blueprint import FLOAT, Options
from bitsmith.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device.

    Args:
        name: as in recipes.
        weight_bits, activation_bits: the bit-widths that it runs as integers.
        exporter: the file format that it takes.
    """

    name: str
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    exporter: str

    def check(self, options: Mapping[str, Options]) -> None:
        """Refuse a space that holds bit-widths the target does not.

        Raises:
            RecipeError: naming the first layer and the bits.
        """
        for layer, choice in options.items():
            for what, wanted, held in (
                ("weight", choice.weight, self.weight_bits),
                ("activation", choice.activation, self.activation_bits),
            ):
                wrong = [bits for bits in wanted if bits not in held]
                if FLOAT in wrong:
                    raise RecipeError(
                        f"layer {layer!r} would stay float, and target {self.name!r} runs integers alone: its {what}s "
                        f"take {min(held)} to {max(held)} bits; pin it to {max(held)} instead"
                    )
                if wrong:
                    raise RecipeError(
                        f"target {self.name!r} can't hold {what} bits {wrong} of layer {layer!r}; it takes {list(held)}"
                    )


TARGETS: dict[str, Target] = {
    "onnx": Target(name="onnx", weight_bits=tuple(range(1, 9)), activation_bits=tuple(range(1, 9)), exporter="onnx"),
}
