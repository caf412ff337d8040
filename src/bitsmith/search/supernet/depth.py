"""Root mean squares by depth: what every layer reads, and the gradient of its weights, while a supernet learns.

They show whether activations and gradients vanish from layer to layer. What a layer *reads* is recorded: it has been
masked, blended and quantized, while what it gives has just been normalized and tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor, nn

from bitsmith.quantize import present
from bitsmith.search.supernet.parts import Shared

READ, GRADIENT = "rms ", "gradient rms "
_STEPS = 4  # at the end of every epoch: each draws its own mixture


@final
class DepthRms:
    """The mean squares of the last steps of an epoch, per layer in execution order.

    Example:
        A layer that reads values of mean square 1 and 9 in two steps: sqrt(5) = 2.236.
    """

    def __init__(self, network: nn.Module, steps_per_epoch: int) -> None:
        self._layers = [module for module in network.modules() if isinstance(module, Shared)]
        self._steps_per_epoch = steps_per_epoch
        self.squares: dict[str, list[float]] = {}

    def wanted(self, step: int) -> bool:
        """Whether a step is one of those recorded."""
        return step % self._steps_per_epoch >= self._steps_per_epoch - _STEPS

    @contextmanager
    def reading(self, step: int) -> Iterator[None]:
        """Records what layers read in the forward pass inside."""
        if not self.wanted(step):
            yield
            return
        handles = [layer.register_forward_pre_hook(self._keep_input) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def gradients(self, step: int) -> None:
        """Records the gradients that the weights have now."""
        if self.wanted(step):
            for layer in self._layers:
                if layer.weight.grad is not None:
                    self._add(GRADIENT + layer.node.name, layer.weight.grad.float().square().mean())

    def end_epoch(self) -> dict[str, float]:
        """The roots, which the next epoch begins anew: "rms LAYER" and "gradient rms LAYER"."""
        found = {name: math.sqrt(sum(values) / len(values)) for name, values in self.squares.items()}
        self.squares = {}
        return found

    def restore(self, squares: Mapping[str, list[float]]) -> None:
        """Goes on from what `squares` was."""
        self.squares = {name: list(values) for name, values in squares.items()}

    def _keep_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, Shared)
        part, square = present(), inputs[0].detach().float().square().mean()
        self._add(READ + module.node.name, square if part is None else part.average(square))

    def _add(self, name: str, square: Tensor) -> None:
        self.squares.setdefault(name, []).append(float(square))
