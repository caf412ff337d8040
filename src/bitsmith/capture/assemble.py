"""From drafts to a NetworkGraph: drop what nobody reads, attach BatchNorm, give names, collect the state."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bitsmith.blueprint import OPERATORS, PRICED, NetworkGraph, Node
from bitsmith.capture.draft import Draft, Reading
from bitsmith.errors import CaptureError
from bitsmith.quantize import build, float_blueprint


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A graph with its state.

    Args:
        sources: key of the state -> the user's name of the parameter or buffer.
    """

    graph: NetworkGraph
    state: dict[str, Tensor]
    sources: dict[str, str]
    notes: tuple[str, ...]


def assemble(reading: Reading, module: nn.Module) -> Assembled:
    """Make the graph and the state of a reading.

    Raises:
        CaptureError: a refused operator leads to the output (all are listed), or two nodes share a parameter.
    """
    drafts = _reachable(reading.drafts, reading.output)
    _raise_refused(drafts, module)
    _raise_shared(drafts, module)
    drafts, output = _with_norms(drafts, reading.output)
    names = _names(drafts)
    nodes = tuple(_node(draft, names) for draft in drafts)
    sources = {f"{names[d.name]}.{key}": name for d in drafts for key, name in d.tensors.items()}
    state = {key: tensor_of(module, name).detach().cpu().clone() for key, name in sources.items()}
    notes = [*_complete_norms(nodes, state, sources, module), *_left_out(module, sources)]
    graph = NetworkGraph(nodes=nodes, output=names[output])
    return Assembled(graph=graph, state=state, sources=sources, notes=tuple(notes))


def _reachable(drafts: Sequence[Draft], output: str) -> list[Draft]:
    wanted = {output}
    kept = []
    for draft in reversed(drafts):
        if draft.name in wanted or draft.op == "input":
            wanted.update(draft.inputs)
            kept.append(draft)
    return kept[::-1]


def _raise_refused(drafts: Sequence[Draft], module: nn.Module) -> None:
    refused = Counter((d.operator, d.source, d.reason) for d in drafts if d.op == "refused")
    if not refused:
        return
    lines = []
    for (operator, source, reason), count in refused.items():
        times = f", {count} times" if count > 1 else ""
        lines.append(f"  {operator} at {source or 'an unknown line'}{times}" + (f": {reason}" if reason else ""))
    raise CaptureError(
        f"{type(module).__name__} can't be captured; these operators are outside the vocabulary "
        f"({', '.join(sorted(OPERATORS))}):\n" + "\n".join(lines)
    )


def _raise_shared(drafts: Sequence[Draft], module: nn.Module) -> None:
    readers: dict[int, list[tuple[str, str]]] = {}
    for draft in drafts:
        for name in draft.tensors.values():
            readers.setdefault(id(tensor_of(module, name)), []).append((name, draft.source))
    for found in readers.values():
        if len(found) > 1:
            lines = " and ".join(dict.fromkeys(source for _, source in found))
            raise CaptureError(
                f"{found[0][0]} is used {len(found)} times (at {lines}); layers that share weights can't be captured "
                "yet: give each use a module of its own"
            )


def _with_norms(drafts: Sequence[Draft], output: str) -> tuple[list[Draft], str]:
    """Make a BatchNorm that alone reads a conv or linear layer the norm of that layer."""
    readers = Counter(name for draft in drafts for name in draft.inputs)
    readers[output] += 1
    kept: dict[str, Draft] = {}
    merged: dict[str, str] = {}
    for draft in drafts:
        inputs = tuple(merged.get(name, name) for name in draft.inputs)
        source = kept[inputs[0]] if inputs else None
        # A layer that has its norm was read by that norm alone, under the same name.
        alone = bool(inputs) and draft.inputs[0] == inputs[0] and readers[inputs[0]] == 1
        if draft.op == "affine" and source is not None and source.op in PRICED and alone:
            fields, tensors = {**source.fields, **draft.fields}, {**source.tensors, **draft.tensors}
            kept[source.name] = replace(source, fields=fields, tensors=tensors)
            merged[draft.name] = source.name
        else:
            kept[draft.name] = replace(draft, inputs=inputs)
    return list(kept.values()), merged.get(output, output)


def _names(drafts: Sequence[Draft]) -> dict[str, str]:
    """Final names: layers with parameters first, because these are attribute paths of the rebuilt network."""
    bases = {draft.name: _base(draft) for draft in drafts}
    paths = {bases[draft.name] for draft in drafts if draft.tensors}
    names: dict[str, str] = {}
    for draft in (d for d in drafts if d.tensors):
        base = bases[draft.name]
        others = (paths - {base}) | set(names.values())
        # "a" can't be a layer and hold the layer "a.b".
        if any(other.startswith(f"{base}.") for other in others):
            base = f"{base}.{draft.op}"
        names[draft.name] = _unique(base, others)
    for draft in (d for d in drafts if not d.tensors):
        names[draft.name] = _unique(bases[draft.name], set(names.values()))
    return names


def _unique(base: str, taken: Set[str]) -> str:
    candidates = itertools.chain([base], (f"{base}_{count}" for count in itertools.count(1)))
    return next(name for name in candidates if name not in taken)


def _base(draft: Draft) -> str:
    """The path of the module that a node came from, else that of the module around it and the operator."""
    tensor = draft.tensors.get("weight") or draft.tensors.get("norm.weight") or draft.tensors.get("norm.running_mean")
    if tensor is not None:
        owner, _, last = tensor.rpartition(".")
        path = owner if last in ("weight", "running_mean") else tensor
    else:
        path = draft.path if draft.leaf else f"{draft.path}.{draft.op}".removeprefix(".")
    first, dot, rest = (path or draft.op).partition(".")
    return f"{first}_{dot}{rest}" if first in _reserved() else f"{first}{dot}{rest}"


@functools.cache
def _reserved() -> frozenset[str]:
    """Names that the rebuilt network and its containers use themselves."""
    empty = NetworkGraph(nodes=(Node(name="input", op="input", shape=(1, 1, 1)),), output="input")
    return frozenset(dir(build(float_blueprint(empty)))) | frozenset(dir(nn.ModuleDict()))


def _node(draft: Draft, names: Mapping[str, str]) -> Node:
    assert draft.op in OPERATORS
    return Node(
        name=names[draft.name],
        op=draft.op,  # pyright: ignore[reportArgumentType]
        inputs=tuple(names[name] for name in draft.inputs),
        shape=draft.shape,
        source=draft.source,
        **draft.fields,
    )


def _complete_norms(
    nodes: Sequence[Node], state: dict[str, Tensor], sources: dict[str, str], module: nn.Module
) -> list[str]:
    """Add what a BatchNorm of the rebuilt network has and the user's may lack; say so where it changes training."""
    notes = []
    for node in nodes:
        if node.norm is None:
            continue
        mean = state[f"{node.name}.norm.running_mean"]
        if f"{node.name}.norm.weight" not in state or f"{node.name}.norm.bias" not in state:
            notes.append(f"{node.name}: its BatchNorm has no weight or bias; the captured one learns them from 1 and 0")
        state.setdefault(f"{node.name}.norm.weight", torch.ones_like(mean))
        state.setdefault(f"{node.name}.norm.bias", torch.zeros_like(mean))
        owner = sources[f"{node.name}.norm.running_mean"].rpartition(".")[0]
        count = getattr(module.get_submodule(owner), "num_batches_tracked", None)
        count = count.detach().cpu().clone() if isinstance(count, Tensor) else torch.tensor(0)
        state[f"{node.name}.norm.num_batches_tracked"] = count
    return notes


def _left_out(module: nn.Module, sources: Mapping[str, str]) -> list[str]:
    used = {id(tensor_of(module, name)) for name in sources.values()}
    names = [name for name, parameter in module.named_parameters() if id(parameter) not in used]
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [f"parameters that eval mode does not use are left out: {shown}"]


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """A module's parameter or buffer by its dotted name."""
    owner, _, last = name.rpartition(".")
    return getattr(module.get_submodule(owner), last)
