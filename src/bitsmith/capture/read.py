"""Walk over the exported graph in execution order and draft a node for every operator.

What makes this more than a table look-up: operators that work in place change every tensor that shares their memory;
reshapes and zero padding become part of a neighbor; numbers at the raw input become a part of it; parameters are known
by the user's names.
"""

from __future__ import annotations

import operator
from dataclasses import replace

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from bitsmith.capture.call import Call
from bitsmith.capture.constants import Constants
from bitsmith.capture.draft import Reading, Refusal, Value, shortened
from bitsmith.capture.drafting import RESHAPED, Drafting, module_of
from bitsmith.capture.export import schema_of, where
from bitsmith.capture.operators import OPERATORS
from bitsmith.capture.outputs import single_output, without_tail
from bitsmith.capture.pixels import ARITHMETIC, scaled
from bitsmith.capture.views import VIEWS, reshape
from bitsmith.errors import CaptureError


def read(exported: ExportedProgram, module: nn.Module, shape: tuple[int, int, int]) -> Reading:
    """Draft the nodes of an exported module; what can't be a node is a draft "refused".

    Raises:
        CaptureError: the module doesn't return a tensor that is computed from its input.
    """
    reader = _Reader(exported, module, shape)
    output, tails = without_tail(single_output(exported, module))
    for node in exported.graph.nodes:
        if node.op in ("call_function", "get_attr"):
            reader.visit(node)
    if output not in reader.values:
        raise CaptureError(f"the output of {type(module).__name__} is not computed from its input")
    settled = reader.settle(output)
    return Reading(
        drafts=tuple(reader.drafting.drafts),
        output=settled,
        tails=len(tails),
        notes=(*tails, *reader.notes, *_training_only(module)),
    )


class _Reader:
    def __init__(self, exported: ExportedProgram, module: nn.Module, shape: tuple[int, int, int]) -> None:
        kinds = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
        held = (InputKind.PARAMETER, InputKind.BUFFER)
        source = next(n for n in placeholders if kinds[n.name].kind == InputKind.USER_INPUT)
        self.drafting = Drafting(source, shape)
        self.values: dict[fx.Node, Value] = {source: self.drafting.input}
        self.notes: list[str] = []
        self._parts: dict[fx.Node, tuple[Value, ...]] = {}  # of the calls with several outputs
        self._tensors = {n: str(kinds[n.name].target) for n in placeholders if kinds[n.name].kind in held}
        self._constants = Constants(exported, module)
        self._batch = str(source.meta["val"].shape[0])

    def visit(self, node: fx.Node) -> None:
        """Draft what one call becomes and remember the tensor it makes, or the tensors."""
        if node.target is operator.getitem and node.all_input_nodes[0] in self._parts:
            self.values[node] = self._parts[node.all_input_nodes[0]][int(str(node.args[1]))]
            return
        made_of = [value for n in node.all_input_nodes for value in self._made(n)]
        count = _outputs(node)
        if not made_of or not count:
            return  # sizes, assertions, and what is computed from parameters alone
        schema = schema_of(node)
        in_place = schema is not None and schema.is_mutable
        name = schema.name.removeprefix("aten::") if schema else ""
        several = isinstance(node.meta["val"], list | tuple)
        try:
            result = self._result(node, name.removesuffix("_") if in_place else name)
            if several and isinstance(result, Value):
                reason = Refusal(f"its {'indices' if 'max_pool' in name else 'further outputs'} are not captured")
                others = (self.drafting.refuse(node, made_of, reason, part=part) for part in range(1, count))
                result = (result, *others)
        except Refusal as refusal:
            refused = self.drafting.refuse(node, made_of, refusal)
            # One message for an operator with many outputs.
            result = tuple(replace(refused, shape=shape) for shape in _rough(node)) if several else refused
        if not isinstance(result, Value):
            self._parts[node] = result
            return
        changed = node.args[0] if in_place else None
        before = self.values.get(changed) if isinstance(changed, fx.Node) else None
        if before is not None:
            result = replace(result, storage=before.storage, region=before.region)
            self._overwrite(node, before, result)
        self.values[node] = result

    def settle(self, node: fx.Node) -> str:
        """The draft whose output is a tensor of the exported graph."""
        value = self.values[node]
        try:
            return self.drafting.settle(value).node
        except Refusal as refusal:
            if refusal.reason == RESHAPED:
                refusal = Refusal("its result is neither (N, C, H, W) nor (N, features)")
            return self.drafting.refuse(value.pending or node, [value], refusal).node

    def _made(self, node: fx.Node) -> tuple[Value, ...]:
        return (self.values[node],) if node in self.values else self._parts.get(node, ())

    def _result(self, node: fx.Node, name: str) -> Value | tuple[Value, ...]:
        if name not in OPERATORS and name not in VIEWS:
            raise Refusal
        call = Call(node, self.values, self._tensors, self._constants, self.drafting)
        if any(batch != self._batch for batch in _batches(node)):
            raise Refusal("it mixes the batch with other dimensions")
        if name in VIEWS:
            return VIEWS[name](call)
        if name in ARITHMETIC and (row := scaled(name, call)):
            fresh = replace(self.drafting.input, storage=self.drafting.storage())
            return replace(fresh, shape=call.shape, pixels=row, pending=node)
        made = OPERATORS[name](call)
        if name == "feature_dropout":
            self.notes.append(f"{_title(node)}: dropout of whole channels is left out of the captured network")
        if isinstance(made, Value):
            # Only dropout hands on its very input; the others copy.
            return made if name.endswith("dropout") else replace(made, storage=self.drafting.storage())
        value = self.drafting.add(node, made)
        if name == "dropout":
            source = call.value(call.first)
            value = replace(value, storage=source.storage, region=source.region)
        return value if value.shape == call.shape else reshape(call, value)

    def _overwrite(self, node: fx.Node, before: Value, result: Value) -> None:
        """After an in-place operator, every name of the changed memory means the new values."""
        reason = "it works in place on memory that is read afterwards through another view (reshape, slice, dropout)"
        for other, value in self.values.items():
            apart = value.region[0] >= before.region[1] or value.region[1] <= before.region[0]
            if value.storage != before.storage or apart:
                continue
            self.values[other] = result if value == before else self.drafting.refuse(node, [value], Refusal(reason))


def _outputs(node: fx.Node) -> int:
    """How many tensors a call makes."""
    value = node.meta.get("val")
    return sum(isinstance(v, Tensor) for v in (value if isinstance(value, list | tuple) else (value,)))


def _rough(node: fx.Node) -> list[tuple[int, ...]]:
    """The shapes of several outputs; 0 where one varies."""
    sizes = [v.shape[1:] if isinstance(v, Tensor) else () for v in node.meta["val"]]
    return [tuple(size if isinstance(size, int) else 0 for size in shape) for shape in sizes]


def _batches(node: fx.Node) -> list[str]:
    value = node.meta["val"]
    return [str(v.shape[0]) if v.dim() else "" for v in (value if isinstance(value, list | tuple) else (value,))]


def _title(node: fx.Node) -> str:
    path, leaf = module_of(node)
    return path if leaf and path else where(node)


def _training_only(module: nn.Module) -> list[str]:
    """Notes on modules that do nothing in eval mode, leave no trace in the graph and are not rebuilt."""
    found: dict[str, list[str]] = {}
    for path, child in module.named_modules():
        if type(child).__name__ in ("StochasticDepth", "DropPath"):
            found.setdefault(type(child).__name__, []).append(path)
    return [f"{shortened(paths)}: {kind} is left out of the captured network" for kind, paths in found.items()]
