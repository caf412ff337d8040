"""IntegerProgram: a frozen network as a short list of operators, integer but where layers were left float.

Exporters, the reference interpreter and `verify` all read this list and nothing else; `operators` and
`float_operators` define what each of them computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bitsmith.blueprint import Bits, InputContract
from bitsmith.deploy.float_operators import FloatComputing, FloatSums
from bitsmith.deploy.operators import Average, Conv, Logits, Operator, StoredGrid
from bitsmith.errors import ExportError


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerProgram:
    """A network as operators in execution order; the last one's tensor is the output, in float32.

    All operators are integer but those of layers that were excluded from quantization (`float_sums`) and what leads to
    and from these.

    Args:
        operators: each writes one tensor, called by the operator's name; `layer` is the node of the graph it is of.
        grids: tensor -> how it is stored; a tensor without a grid is float32.
        shapes: tensor -> shape without batch.
        input: what the input means. "uint8": pixels, "float": float32.
        input_shape: (channels, height, width).
        classes: names of the outputs, where known.
        bits: of the priced layers.
        float_streams: whether what lies between the layers stays float too.
        vnni: whether its ONNX file is for x86 CPUs with VNNI, which sum int8 weights exactly.
    """

    operators: tuple[Operator, ...]
    grids: Mapping[str, StoredGrid]
    shapes: Mapping[str, tuple[int, ...]]
    input: InputContract
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    bits: Mapping[str, Bits]
    float_streams: bool = False
    vnni: bool = False

    def __post_init__(self) -> None:
        names = [operator.name for operator in self.operators]
        assert len(set(names)) == len(names), "operator names must be unique"

    @property
    def output(self) -> str:
        """The tensor that is the network's output."""
        return self.operators[-1].name

    @property
    def weighted(self) -> tuple[Conv | Logits, ...]:
        """The operators that sum with weights."""
        return tuple(operator for operator in self.operators if isinstance(operator, Conv | Logits))

    @property
    def summing(self) -> tuple[Conv | Logits | Average, ...]:
        """The operators that sum windows, with weights or ones."""
        return tuple(operator for operator in self.operators if isinstance(operator, Conv | Logits | Average))

    @property
    def float_sums(self) -> tuple[FloatSums, ...]:
        """The operators that sum with float32 weights."""
        return tuple(operator for operator in self.operators if isinstance(operator, FloatSums))

    @property
    def exact(self) -> bool:
        """Whether every operator is of the integer arithmetic, which every runtime computes to the same bits."""
        return not any(isinstance(operator, FloatComputing) for operator in self.operators)

    def accumulator_bound(self, operator: Conv | Logits) -> int:
        """Largest |acc| + |bias| that any input can cause."""
        grid = self.grids[operator.inputs[0]]
        reach = max(grid.zero_point, grid.top - grid.zero_point)
        rows = np.abs(operator.sums.weight.astype(np.int64)).reshape(len(operator.sums.weight), -1).sum(1)
        return int((rows * reach + np.abs(operator.sums.bias)).max())

    @cached_property
    def unsigned(self) -> frozenset[str]:
        """The layers whose weights the ONNX file has as uint8 with zero point 128.

        Two neighboring products of theirs can pass int16, where x86 machines without VNNI saturate silently if the
        weights are int8. With uint8 weights they are slower and exact; all others take both types alike. None with
        `vnni`.
        """
        if self.vnni:
            return frozenset()
        return frozenset(operator.sums.owner for operator in self.weighted if self._passes_16_bits(operator))

    def _passes_16_bits(self, operator: Conv | Logits) -> bool:
        largest = int(np.abs(operator.sums.weight.astype(np.int64)).max(initial=0))
        return 2 * largest * self.grids[operator.inputs[0]].top > 32767


def check_accumulators(program: IntegerProgram) -> None:
    """Refuse a program whose sums don't fit 32 bits.

    Raises:
        ExportError: names the layer and how large its sums can become.
    """
    for operator in program.weighted:
        bound = program.accumulator_bound(operator)
        if bound >= 2**31:
            raise ExportError(
                f"layer {operator.layer!r}: its sums can reach {bound}, beyond 32 bits; "
                "use fewer weight or activation bits there, or train without a BatchNorm gain near zero"
            )
