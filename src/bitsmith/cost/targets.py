"""The targets that bitsmith knows; your own are described in YAML (`bitsmith.cost.described`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from bitsmith.blueprint import FUNCTIONS, Budget
from bitsmith.cost.additive import Cost
from bitsmith.cost.energy import Cycles
from bitsmith.cost.target import Target
from bitsmith.errors import BudgetError

_ONNX_BESIDE = "bitsmith export writes the ONNX file, which checks the network on a PC; "

# MACs per cycle by (activation bits, weight bits).
_MPIC = {
    (2, 2): 6.5, (2, 4): 4.0, (2, 8): 2.2,
    (4, 2): 3.9, (4, 4): 3.5, (4, 8): 2.1,
    (8, 2): 2.5, (8, 4): 2.3, (8, 8): 2.1,
}  # fmt: skip


def _without(operators: Sequence[str], why: str) -> dict[str, str]:
    return dict.fromkeys(operators, why)


_NO_THRESHOLDS = "FINN turns ReLU and identity into thresholds, and no other function"
_NO_KERNEL = "FINN's streaming dataflow has no kernel for it here"
_NO_THRESHOLDS_ABOVE = "FINN takes a ReLU before its thresholds, and no Clip with an upper bound"
_NO_HANDLER = "hls4ml's QONNX front end has no handler for it"
_NO_BOUND = "hls4ml's QONNX front end reads a Clip from 0 as a ReLU and forgets its upper bound"
_NO_ORDER = "its files keep flattened maps by row, column and channel; flatten after it"
_NO_INT8 = "the TFLite file has no int8 operator of the same numbers for it"

TARGETS: dict[str, Target] = {
    "onnx": Target(
        name="onnx",
        what="ONNX Runtime on a CPU",
        float_layers=True,
        per_filter=True,
        formats=("onnx",),
        note="Files that store exactly b bits per weight and run as integers, verified bit for bit; layers pinned to "
        "float run in float32 between them, verified layer by layer.",
        sources=("design and measurements of bitsmith",),
    ),
    "c": Target(
        name="c",
        what="C99 on a microcontroller",
        per_filter=True,
        code=10_000,
        operator_code=100,
        lacks={
            **_without([f"{op} of flattened maps" for op in ("concat", "split", "shuffle")], _NO_ORDER),
            **_without([f"{op} of flattened maps and others" for op in ("add", "multiply")], _NO_ORDER),
        },
        formats=("onnx", "c"),
        note="bitsmith export --to c writes C99 that computes the same numbers; its static arena is exactly the priced "
        "ram, and the kernels need about 2.5 kB of stack beside it.",
        sources=(
            "ram: the static arena of bitsmith.cost.memory",
            "flash: size as bitsmith.cost.layout stores it, 10 kB for code, which is an allowance (ResNet-8's kernels "
            "take 2 to 3 kB on a Cortex-M4 with gcc -Os), and 100 bytes for the geometry and call of each operator",
        ),
    ),
    "mpic": Target(
        name="mpic",
        what="MPIC, a RISC-V core with mixed-precision dot products",
        per_filter=True,
        weight_bits=(2, 4, 8),
        activation_bits=(2, 4, 8),
        cycles=Cycles(rates=_MPIC, hertz=250e6, watts=5.38e-3),
        note=_ONNX_BESIDE + "nothing writes code for MPIC. Energy and latency are those of MACs alone.",
        sources=(
            "MACs per cycle: G. Ottavi et al., A mixed-precision RISC-V processor for extreme-edge DNN inference, "
            "arXiv 2010.04073, as tabulated by the cost model mpic of PLiNIO",
            "250 MHz and 5.38 mW: PLiNIO's too, which averages 5.30, 5.39, 5.46 and 5.38 mW (5.3825) and takes that at "
            "all bits; not checked against the paper",
        ),
    ),
    "bitops-energy": Target(
        name="bitops-energy",
        what="any chip, its energy estimated from bit-widths in 45 nm",
        per_filter=True,
        energy="bitops-energy",
        formats=("onnx",),
        note="Files as for onnx; the energy compares networks with each other and is no device's.",
        sources=(
            "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, fig. 1.1.9: 8-bit "
            "multiply 0.2 pJ, 32-bit add 0.1 pJ, 64 bits of an 8 kB SRAM 10 pJ",
            "multipliers scaled by the product of bit-widths, one price for every memory: ours",
        ),
    ),
    "finn": Target(
        name="finn",
        what="FINN, dataflow on AMD FPGAs",
        lacks={
            **_without(sorted(FUNCTIONS), _NO_THRESHOLDS),
            **_without(("relu6",), _NO_THRESHOLDS_ABOVE),
            **_without(("multiply", "shuffle", "split", "grouped conv"), _NO_KERNEL),
            **_without(("reflect pad", "replicate pad", "circular pad"), _NO_KERNEL),
        },
        streamlines=True,
        formats=("onnx", "qonnx"),
        note="bitsmith export --to qonnx writes what FINN reads, if every node keeps its levels when FINN streamlines "
        "it; FINN itself has not been run on it, and nothing estimates its logic.",
        sources=(
            "any bits; its FAQ: above 4 bits the hardware isn't typically practical",
            "activations: FINN's conversion of QONNX Quant nodes to MultiThreshold takes Relu, Selu and identity; "
            "thresholds absorb any scale per channel, so steps need not be powers of two",
        ),
    ),
    "hls4ml": Target(
        name="hls4ml",
        what="hls4ml, high-level synthesis for FPGAs",
        power_of_two=True,
        lacks={
            **_without(("hard_swish", "hard_sigmoid", "silu", "gelu"), _NO_HANDLER),
            **_without(("relu6",), _NO_BOUND),
            **_without(("shuffle", "split", "grouped conv"), _NO_HANDLER),
            **_without(("reflect pad", "replicate pad", "circular pad"), _NO_HANDLER),
        },
        unrolled=True,
        formats=("onnx", "qonnx"),
        note="bitsmith export --to qonnx writes what hls4ml reads; of its logic there is the count ebops, no estimate.",
        sources=(
            "steps: hls4ml turns Quant nodes with power-of-two scales into fixed-point types; others get "
            "multiplications of their own, which are not exact",
            "ebops: effective bit operations, Sun et al., arXiv 2405.00645, at the bits of layers",
            "operators: the handlers of its ONNX front end (Relu, Tanh, Sigmoid, LeakyRelu, Clip as Relu; convolutions "
            "plain or depthwise)",
        ),
    ),
    "ethos-u": Target(
        name="ethos-u",
        what="Arm Ethos-U55/U65, compiled by Vela",
        activation_bits=(8,),
        per_filter=True,
        lacks={
            **_without(sorted(FUNCTIONS), _NO_INT8),
            **_without(("shuffle", "split", "grouped conv"), _NO_INT8),
            **_without(("reflect pad", "replicate pad", "circular pad"), _NO_INT8),
            **_without([f"{op} of flattened maps" for op in ("concat", "split", "shuffle")], _NO_ORDER),
            **_without([f"{op} of flattened maps and others" for op in ("add", "multiply")], _NO_ORDER),
            **_without(
                ("conv at a stride over 3", "max_pool at a stride over 3", "avg_pool at a stride over 3"),
                "Vela leaves it to the CPU",
            ),
        },
        formats=("onnx", "tflite"),
        note="bitsmith export --to tflite writes int8 tensors, in which weights of fewer bits are numbers of few "
        "values; size and ram are bitsmith's own. Vela compresses weights and plans its own SRAM: export and verify "
        "report what it says of a file where it is installed (extra ethos-u).",
        sources=("tflite_supported_operators.py of ethos-u-vela 5.2.0; int8 activations",),
    ),
}


def check_budgets(target: Target, budgets: Sequence[Budget], costs: Mapping[str, Cost] | None = None) -> None:
    """Refuse budgets on what a target has no cost of.

    Args:
        costs: what is priced, where that is more than the target's own.

    Raises:
        BudgetError: naming the budget and the targets that have it.
    """
    known = target.costs if costs is None else costs
    for budget in budgets:
        if budget.cost not in known:
            having = [name for name, other in TARGETS.items() if budget.cost in other.costs]
            others = f"target {' or '.join(having)} has it" if having else "no built-in target has it"
            raise BudgetError(
                f"target {target.name!r} can't meet {budget}, since nothing says what {budget.cost} a network takes on "
                f"it; {others}, or describe your own in YAML and give its path as the target"
            )


def bits_of(table: Mapping[tuple[int, int], float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The weight and the activation bits of a table by (activation bits, weight bits).

    Raises:
        ValueError: a pair of them is missing.
    """
    activations, weights = sorted({a for a, _ in table}), sorted({w for _, w in table})
    missing = [f"a{a} w{w}" for a, w in product(activations, weights) if (a, w) not in table]
    if missing:
        raise ValueError(f"has no entry for {', '.join(missing)}; give every pair of its bits")
    return tuple(weights), tuple(activations)
