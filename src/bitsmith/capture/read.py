"""Walk over the exported graph in execution order and draft a node for every operator.

What makes this more than a table look-up: operators that work in place change every tensor that shares their memory;
reshapes and zero padding become part of a neighbor; parameters are known by the user's names.
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import replace

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from bitsmith.capture.call import Call, arguments, schema_of, shape_of
from bitsmith.capture.draft import NONE, Draft, Made, Reading, Refusal, Value
from bitsmith.capture.export import where
from bitsmith.capture.operators import ALIASES, COPIES, OPERATORS, TAILS, VIEWS, fold_pad
from bitsmith.errors import CaptureError


def read(exported: ExportedProgram, module: nn.Module, shape: tuple[int, int, int]) -> Reading:
    """Draft the nodes of an exported module; what can't be a node is a draft "refused".

    Raises:
        CaptureError: the module doesn't return one tensor that is computed from its input.
    """
    reader = _Reader(exported, shape)
    output, tail_notes = _without_tail(_single_output(exported, module))
    for node in exported.graph.nodes:
        if node.op in ("call_function", "get_attr"):
            reader.visit(node)
    if output not in reader.values:
        raise CaptureError(f"the output of {type(module).__name__} is not computed from its input")
    settled = reader.settle(output)
    return Reading(
        drafts=tuple(reader.drafts),
        output=settled,
        notes=(*tail_notes, *reader.notes, *_training_only(module)),
    )


class _Reader:
    def __init__(self, exported: ExportedProgram, shape: tuple[int, int, int]) -> None:
        self.drafts: list[Draft] = []
        self.values: dict[fx.Node, Value] = {}
        self.notes: list[str] = []
        self._refused: set[str] = set()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._storages = itertools.count()
        kinds = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        placeholders = [node for node in exported.graph.nodes if node.op == "placeholder"]
        held = (InputKind.PARAMETER, InputKind.BUFFER)
        self._tensors = {n: str(kinds[n.name].target) for n in placeholders if kinds[n.name].kind in held}
        source = next(n for n in placeholders if kinds[n.name].kind == InputKind.USER_INPUT)
        self._batch = str(source.meta["val"].shape[0])
        self.values[source] = self._add(source, Made(op="input", inputs=(), shape=shape))

    def visit(self, node: fx.Node) -> None:
        """Draft what one call becomes and remember the tensor it makes."""
        made_of = [self.values[n] for n in node.all_input_nodes if n in self.values]
        if not made_of or not _makes_tensors(node):
            return  # sizes, assertions, and what is computed from parameters alone
        if node.target is operator.getitem and made_of[0].node in self._refused:
            # One message for an operator with many outputs.
            self.values[node] = replace(made_of[0], shape=_rough_shape(node))
            return
        schema = schema_of(node)
        in_place = schema is not None and schema.is_mutable
        name = schema.name.removeprefix("aten::") if schema else ""
        try:
            result = self._result(node, name.removesuffix("_") if in_place else name)
        except Refusal as refusal:
            result = self._refuse(node, made_of, refusal)
        changed = node.args[0] if in_place else None
        before = self.values.get(changed) if isinstance(changed, fx.Node) else None
        if before is not None:
            result = replace(result, storage=before.storage)
            self._overwrite(node, before, result)
        self.values[node] = result

    def settle(self, node: fx.Node) -> str:
        """The draft whose output is a tensor of the exported graph."""
        value = self.values[node]
        if value.pending is None:
            return value.node
        refusal = Refusal("its result is neither (N, C, H, W) nor (N, features)")
        return self._refuse(value.pending, [value], refusal).node

    def _result(self, node: fx.Node, name: str) -> Value:
        known = name in OPERATORS or name in ALIASES | COPIES | VIEWS or name == "pad"
        if not known:
            raise Refusal
        call = Call(node, self.values, self._tensors)
        batch = node.meta["val"].shape[:1]
        if not batch or str(batch[0]) != self._batch:
            raise Refusal("it mixes the batch with other dimensions")
        if name in OPERATORS:
            made = OPERATORS[name](call)
            if name == "feature_dropout":
                self.notes.append(f"{_title(node)}: dropout of whole channels is left out of the captured network")
            if isinstance(made, Value):
                # Only dropout hands on its very input; the others copy.
                return made if name.endswith("dropout") else replace(made, storage=next(self._storages))
            value = self._add(node, made)
            if name == "dropout":
                value = replace(value, storage=call.read().storage)
            return value if value.shape == call.shape else self._reshape(node, value)
        value = self.values[call["self"]]
        if name == "pad":
            value = call.read(rank=3, padded=True)
            pad = fold_pad(call, value.pad)
            fresh = next(self._storages)
            return Value(node=value.node, shape=call.shape, storage=fresh, pad=pad, pending=node)
        if name in VIEWS:
            return self._reshape(node, value)
        if node.meta["val"].dtype != call["self"].meta["val"].dtype:
            raise Refusal("it changes the data type")
        return value if name in ALIASES else replace(value, storage=next(self._storages))

    def _reshape(self, node: fx.Node, value: Value) -> Value:
        if value.pad != NONE:
            raise Refusal("only zeros directly before a conv2d can be padded", at=value.pending)
        shape, base = shape_of(node), self._shapes[value.node]
        if shape == base or value.node in self._refused:
            return replace(value, shape=shape, pending=None)
        if shape == (math.prod(base),):
            flat = self._add(node, Made(op="flatten", inputs=(value.node,), shape=shape))
            return replace(flat, storage=value.storage)
        return replace(value, shape=shape, pending=node)

    def _overwrite(self, node: fx.Node, before: Value, result: Value) -> None:
        """After an in-place operator, every name of the changed memory means the new values."""
        for other, value in self.values.items():
            if value.storage != before.storage:
                continue
            if value == before:
                self.values[other] = result
            else:
                reason = "it works in place on a tensor that is read afterwards through a reshape or dropout"
                self.values[other] = self._refuse(node, [value], Refusal(reason))

    def _add(self, node: fx.Node, made: Made) -> Value:
        path, leaf = _module_of(node)
        draft = Draft(
            name=self._fresh(node),
            op=made.op,
            inputs=made.inputs,
            shape=made.shape,
            fields=made.fields,
            tensors=made.tensors,
            path=path,
            leaf=leaf,
            source=where(node),
        )
        return self._keep(draft)

    def _refuse(self, node: fx.Node, reads: list[Value], refusal: Refusal) -> Value:
        blamed = refusal.at or node
        draft = Draft(
            name=self._fresh(node),
            op="refused",
            inputs=tuple(v.node for v in reads),
            shape=_rough_shape(node),
            operator=_operator(blamed),
            reason=refusal.reason,
            source=where(blamed),
        )
        self._refused.add(draft.name)
        return self._keep(draft)

    def _keep(self, draft: Draft) -> Value:
        self.drafts.append(draft)
        self._shapes[draft.name] = draft.shape
        return Value(node=draft.name, shape=draft.shape, storage=next(self._storages))

    def _fresh(self, node: fx.Node) -> str:
        taken = sum(1 for draft in self.drafts if draft.name.split("#")[0] == node.name)
        return f"{node.name}#{taken}"


def _operator(node: fx.Node) -> str:
    return str(node.target) if not callable(node.target) or schema_of(node) else getattr(node.target, "__name__", "?")


def _rough_shape(node: fx.Node) -> tuple[int, ...]:
    """The shape behind a refused operator, so that its readers are judged by themselves; 0 where it varies."""
    value = node.meta.get("val")
    sizes = value.shape[1:] if isinstance(value, Tensor) else ()
    return tuple(size if isinstance(size, int) else 0 for size in sizes)


def _makes_tensors(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value))


def _module_of(node: fx.Node) -> tuple[str, bool]:
    """Path of the innermost module around a call, and whether it is one of torch's own layers."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", False
    path, kind = stack[-1]
    return path.split("@")[0], str(kind).startswith("torch.nn.modules.")


def _title(node: fx.Node) -> str:
    path, leaf = _module_of(node)
    return path if leaf and path else where(node)


def _single_output(exported: ExportedProgram, module: nn.Module) -> fx.Node:
    (output,) = (node for node in exported.graph.nodes if node.op == "output")
    spec = exported.call_spec.out_spec
    results = output.args[0]
    if spec is None or not spec.is_leaf() or len(results) != 1 or not isinstance(results[0], fx.Node):
        found = f"{type(module).__name__} returns {_describe(spec)} in eval mode"
        raise CaptureError(f"{found}; a capture needs one tensor: wrap the module")
    return results[0]


def _describe(spec) -> str:
    if spec is None or spec.is_leaf():
        return "no tensor"
    kind = spec.type.__name__
    if kind == "dict":
        return f"a dict with the keys {', '.join(map(repr, spec.context))}"
    return f"a {kind} of {spec.num_children}"


def _without_tail(output: fx.Node) -> tuple[fx.Node, list[str]]:
    """Step back over a final softmax, log_softmax, sigmoid or argmax."""
    notes: list[str] = []
    while (schema := schema_of(output)) is not None and (name := schema.name.removeprefix("aten::")) in TAILS:
        given = arguments(output)
        source = given["self"]
        if not isinstance(source, fx.Node) or ("dim" in given and not _over_classes(given["dim"], source)):
            break
        notes.append(f"the final {name} ({where(output)}) is left out: the captured network returns its input")
        output = source
    return output, notes[::-1]


def _over_classes(dim: int | None, source: fx.Node) -> bool:
    return dim is not None and dim % source.meta["val"].dim() == 1


def _training_only(module: nn.Module) -> list[str]:
    """Notes on modules that do nothing in eval mode, leave no trace in the graph and are not rebuilt."""
    return [
        f"{path}: {type(child).__name__} is left out of the captured network"
        for path, child in module.named_modules()
        if type(child).__name__ in ("StochasticDepth", "DropPath")
    ]
