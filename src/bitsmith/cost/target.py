"""Target: what a device's runtime can hold and what networks cost on it.

It narrows a space before the search and refuses what it can't hold, with the layer and its place in the model; nothing
is rounded up silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

from bitsmith.blueprint import FLOAT, Budget, GridPlan, NetworkGraph, Node, Options, format_cost
from bitsmith.cost.additive import COSTS, Cost
from bitsmith.cost.ebops import ebops
from bitsmith.cost.energy import ENERGY_MODELS, Cycles, PerMac
from bitsmith.cost.latency import LatencyTable, latency_cost
from bitsmith.cost.layout import STORED, fixed_bytes, layer_bytes, operators
from bitsmith.cost.zigzag import ZigZag
from bitsmith.errors import RecipeError

_STRIDED = ("conv", "avg_pool", "max_pool")
_REORDERING, _JOINING = ("concat", "split", "shuffle"), ("add", "multiply")
# All that a target may lack: operators, and what `forms` calls some of them more closely.
FORMS: tuple[str, ...] = (
    *sorted(STORED.keys() - {"input", "flatten", "dropout"}),
    "grouped conv",
    "depthwise conv",
    *(f"{op} at a stride over 3" for op in _STRIDED),
    *(f"{op} of flattened maps" for op in _REORDERING),
    *(f"{op} of flattened maps and others" for op in _JOINING),
    *(f"{mode} pad" for mode in ("zeros", "reflect", "replicate", "circular")),
)


@final
@dataclass(frozen=True, kw_only=True)
class Target:
    """A device and the tools that bring networks to it.

    Args:
        name: as in recipes.
        what: the device in a line.
        weight_bits, activation_bits: the bit-widths that it runs as integers, rising.
        float_layers: whether layers may be excluded from quantization, so that they run in float32 between integers.
        per_channel: whether each output channel may have a scale of its own.
        per_filter: whether the filters of a layer may differ in bits.
        power_of_two: whether all steps must be powers of two.
        lacks: operator, or a form of one as `forms` calls it -> why the target can't hold it.
        memories: "flash" and "ram" in bytes, where the device's are known; they become budgets.
        code: bytes of flash that everything but the network's data takes, or None where nobody knows: with it, the
            target has the cost `flash` = `size` + code + operator_code for each operator.
        operator_code: bytes of flash of an operator's call and geometry, beside its data.
        cycles: its speed by bits: `latency`, and `energy` where its power is known.
        energy: its energy, by a table or a name of `ENERGY_MODELS`; goes before that of `cycles`.
        latency: its measured latency; goes before that of `cycles`.
        zigzag: an accelerator whose energy, and latency where its clock is known, ZigZag estimates; goes before all.
        unrolled: whether every weight has a multiplier of its own, which the cost `ebops` prices.
        streamlines: whether QONNX files have to be such as FINN streamlines without changing a level.
        formats: files that `bitsmith export` writes for it today.
        note: what a user gets today, and what doesn't exist yet.
        sources: where its constants come from.

    Raises:
        RecipeError: float layers beside a price of integers alone.

    Example:
        >>> TARGETS["mpic"].narrow((2, 3, 4, 8), TARGETS["mpic"].weight_bits)
        (2, 4, 8)
    """

    name: str
    what: str
    weight_bits: tuple[int, ...] = tuple(range(1, 9))
    activation_bits: tuple[int, ...] = tuple(range(1, 9))
    float_layers: bool = False
    per_channel: bool = True
    per_filter: bool = False
    power_of_two: bool = False
    lacks: Mapping[str, str] = field(default_factory=dict)
    memories: Mapping[str, int] = field(default_factory=dict)
    code: int | None = None
    operator_code: int = 0
    cycles: Cycles | None = None
    energy: PerMac | str | None = None
    latency: LatencyTable | None = None
    zigzag: ZigZag | None = None
    unrolled: bool = False
    streamlines: bool = False
    formats: tuple[str, ...] = ()
    note: str = ""
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert set(self.memories) <= {"flash", "ram"}, self.memories
        assert set(self.lacks) <= set(FORMS), self.lacks
        assert "flash" not in self.memories or self.code is not None, "nobody could say what takes flash"
        if self.float_layers and self.prices_integers_alone:
            raise RecipeError(
                f"target {self.name!r}: nothing says what a float layer takes where energy or latency are priced by "
                "tables of integers; give float_layers=False beside them, or leave them out"
            )

    @property
    def prices_integers_alone(self) -> bool:
        """Whether a cost of its own has no price for a float layer."""
        return any(own is not None for own in (self.cycles, self.energy, self.latency, self.zigzag))

    @cached_property
    def costs(self) -> Mapping[str, Cost]:
        """What networks cost on it: the general costs and its own."""
        own: dict[str, Cost] = {}
        if self.code is not None:
            own["flash"] = _flash(self.code, self.operator_code)
        if self.unrolled:
            own["ebops"] = ebops()
        if isinstance(self.energy, PerMac):
            own["energy"] = self.energy.energy()
        elif self.energy is not None:
            own["energy"] = ENERGY_MODELS[self.energy]()
        elif self.cycles is not None and self.cycles.watts is not None:
            own["energy"] = self.cycles.energy()
        if self.latency is not None:
            own["latency"] = latency_cost(self.latency)
        elif self.cycles is not None:
            own["latency"] = self.cycles.latency()
        if self.zigzag is not None:
            own["energy"] = self.zigzag.energy()
            if self.zigzag.hertz is not None:
                own["latency"] = self.zigzag.latency()
        return {**COSTS, **own}

    def narrow(self, wanted: Sequence[int], held: Sequence[int]) -> tuple[int, ...]:
        """Of bit-widths that nobody asked for, those that it holds, float among them where it has float layers.

        If it holds none of them, all that it does.
        """
        return tuple(b for b in wanted if b in held or (b == FLOAT and self.float_layers)) or tuple(held)

    def within(self, budgets: Sequence[Budget]) -> tuple[Budget, ...]:
        """Budgets with the device's memories among them; of two limits on a memory, the tighter."""
        kept = [b for b in budgets if b.limit <= self.memories.get(b.cost, float("inf"))]
        limited = {budget.cost for budget in kept}
        return (*kept, *(Budget(cost=c, limit=float(size)) for c, size in self.memories.items() if c not in limited))

    def check(
        self,
        options: Mapping[str, Options],
        graph: NetworkGraph,
        *,
        power_of_two: bool,
        odd_bits: frozenset[int] = frozenset(),
    ) -> None:
        """Refuse a space that holds what the target does not.

        Args:
            options: the bits that each layer may take.
            graph: the network.
            power_of_two: whether the quantizers make steps that are powers of two.
            odd_bits: weight bits above one at which they make odd codes, which have no zero.

        Raises:
            RecipeError: naming the first layer and the bits, the operators with their places, or the quantizer.
        """
        for layer, choice in options.items():
            self._check_bits(layer, "weight", choice.weight, self.weight_bits)
            self._check_bits(layer, "activation", choice.activation, self.activation_bits)
        refused = self.refused(graph)
        if refused:
            raise RecipeError(f"target {self.name!r} can't hold this network: {'; '.join(refused)}")
        if self.power_of_two and not power_of_two:
            raise RecipeError(
                f"target {self.name!r} takes steps that are powers of two; choose quantizer lsq-pow2, which learns them"
            )
        for layer, choice in options.items() if self.streamlines else ():
            odd = sorted(odd_bits.intersection(choice.weight))
            if odd:
                raise RecipeError(
                    f"target {self.name!r} takes weights with a zero point of 0 alone, and this quantizer has none at "
                    f"{', '.join(map(str, odd))} bits (layer {layer!r}); choose quantizer lsq or nice"
                )
        if not self.per_channel:
            raise RecipeError(
                f"target {self.name!r} takes one scale for all channels of a layer, and networks here have one for "
                "each channel (BatchNorm's gain is folded into it); there is no training for it yet"
            )

    def check_filters(self, *, bits: bool, maps: bool, remove: bool) -> None:
        """Refuse filters that differ in bits, where the target has one bit-width for a layer, and what it can't price.

        Args:
            bits: whether the filters of a layer may differ in weight bits.
            maps: whether the maps that a layer reads may differ in bits.
            remove: whether layers may have fewer filters, which makes them other shapes.

        Raises:
            RecipeError: it has; with the way out.
        """
        self._check_table(bits=bits, maps=maps, remove=remove)
        if not bits:
            return
        if not self.per_filter:
            raise RecipeError(
                f"target {self.name!r} has one weight bit-width for each layer, and this method gives filters bits of "
                "their own; take target onnx, or a method that decides whole layers, such as composite"
            )
        whole = "or a method that decides whole layers, such as composite"
        if self.zigzag is not None:
            raise RecipeError(
                f"target {self.name!r} is priced by ZigZag, which knows one bit-width for each layer, and this method "
                f"gives filters bits of their own; take a target without zigzag, {whole}"
            )

    def _check_table(self, *, bits: bool, maps: bool, remove: bool) -> None:
        """`check_filters` of a latency table, which knows layers as they were measured."""
        if self.latency is None:
            return
        measured = f"target {self.name!r} has a measured latency table, and"
        if remove:
            kept = "remove: false (with filters), " if bits else ""
            raise RecipeError(
                f"{measured} layers without some of their filters are of shapes that nobody measured; take {kept}a "
                "target without the table, or a method that decides bits of whole layers, such as composite"
            )
        what = "maps" if maps else "filters" if bits and self.latency.by_weights else None
        if what is not None:
            raise RecipeError(
                f"{measured} layers whose {what} differ in bits have no time there; take a target without the table, "
                "or a method that decides whole layers, such as composite"
            )

    def _check_bits(self, layer: str, what: str, wanted: Sequence[int], held: Sequence[int]) -> None:
        wrong = [bits for bits in wanted if bits not in held and not (bits == FLOAT and self.float_layers)]
        if FLOAT in wrong:
            raise RecipeError(
                f"layer {layer!r} would stay float, and target {self.name!r} runs integers alone: its {what}s "
                f"take {min(held)} to {max(held)} bits; pin it to {max(held)} instead, or choose target onnx, "
                "which takes float layers"
            )
        if wrong:
            raise RecipeError(
                f"target {self.name!r} can't hold {what} bits {wrong} of layer {layer!r}; it takes {list(held)}"
            )

    def refused(self, graph: NetworkGraph) -> list[str]:
        """What of a network it can't hold: one text per kind of operator, with the places of all its nodes."""
        places: dict[str, list[str]] = {}
        for node in graph.nodes:
            for form in forms(graph, node):
                if form in self.lacks:
                    place = f"{node.name!r}" + (f" ({node.source})" if node.source else "")
                    places.setdefault(form, []).append(place)
        return [
            f"{form} at {', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''}: "
            f"{self.lacks[form]}"
            for form, found in places.items()
        ]

    def held(self) -> str:
        """Its memories in words, "" where the description has none."""
        return ", ".join(f"{name} {format_cost(name, size)}" for name, size in self.memories.items())


def forms(graph: NetworkGraph, node: Node) -> list[str]:
    """What a target may lack of a node: its operator, and more closely what it is.

    Example:
        A 3x3 convolution of 8 channels in 2 groups at stride 4: ["conv", "grouped conv", "conv at a stride over 3"]
    """
    found = [node.op]
    if node.op == "conv" and node.groups > 1:
        depthwise = node.groups == graph[node.inputs[0]].shape[0]
        found.append("depthwise conv" if depthwise else "grouped conv")
    if node.op in _STRIDED:
        # A single output takes no stride; a whole convolution may be folded along its rows.
        rows, columns = (stride if size > 1 else 1 for stride, size in zip(node.stride, node.shape[1:], strict=True))
        if (rows if node.op == "conv" and node.groups == 1 else max(rows, columns)) > 3:
            found.append(f"{node.op} at a stride over 3")
    if node.op == "pad":
        found.append(f"{node.mode} pad")
    if len(node.shape) == 1 and node.op in (*_REORDERING, *_JOINING):
        read = [_flattened(graph, name) for name in node.inputs]
        if node.op in _REORDERING and any(read):
            found.append(f"{node.op} of flattened maps")
        elif node.op in _JOINING and len(set(read)) > 1:
            found.append(f"{node.op} of flattened maps and others")
    return found


def _flattened(graph: NetworkGraph, name: str) -> tuple[int, ...]:
    """(channels, positions) of the maps whose numbers features are, or () where they are features of their own.

    What holds one number for each map, or one map, is in order however maps are laid out.
    """
    node = graph[name]
    while len(node.shape) == 1 and node.inputs:
        if node.op in ("linear", "conv") and node.groups == 1:
            break
        before = graph[node.inputs[0]]
        if node.op == "flatten" and len(before.shape) == 3:
            channels, height, width = before.shape
            return () if channels == 1 or height * width == 1 else (channels, height * width)
        node = before
    return ()


def _flash(code: int, operator_code: int) -> Cost:
    def fixed(graph: NetworkGraph, plan: GridPlan) -> float:
        return code + operator_code * operators(graph, plan) + fixed_bytes(graph, plan)

    return Cost(name="flash", entry=lambda graph, plan, layer, bits: layer_bytes(layer, plan, bits), fixed=fixed)
