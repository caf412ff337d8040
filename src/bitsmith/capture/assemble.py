"""From drafts to a NetworkGraph: drop what nobody reads, attach BatchNorm, give names, collect the state."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bitsmith.blueprint import JOINING, OPERATORS, PRICED, NetworkGraph, Node
from bitsmith.capture.draft import Draft, Reading, shortened
from bitsmith.capture.export import tensor_of
from bitsmith.capture.gates import without_unflatten
from bitsmith.capture.pixels import resolve
from bitsmith.capture.sharing import with_norms, with_shared
from bitsmith.errors import CaptureError
from bitsmith.quantize import build, float_blueprint


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A graph with its state.

    Args:
        sources: key of the state -> the user's name of the parameter or buffer.
        tails: number of final steps that the module has and the graph has not.
    """

    graph: NetworkGraph
    state: dict[str, Tensor]
    sources: dict[str, str]
    tails: int
    notes: tuple[str, ...]


def assemble(reading: Reading, module: nn.Module) -> Assembled:
    """Make the graph and the state of a reading.

    Raises:
        CaptureError: a refused operator leads to the output (all are listed), parameters are shared by anything
            but uses of one layer, or the input is scaled in two ways.
    """
    drafts = _reachable(reading.drafts, reading.output)
    _raise_refused(drafts, module)
    drafts, output = resolve(drafts, reading.output)
    drafts, output, converted = without_unflatten(drafts, output)
    drafts = _reachable(drafts, output)
    drafts, output = with_norms(_joined(drafts, output), output, module)
    drafts = with_shared(drafts, module)
    names = _names(drafts)
    nodes = tuple(_node(draft, names) for draft in drafts)
    sources = {f"{names[d.name]}.{key}": name for d in drafts for key, name in d.tensors.items()}
    state = {key: tensor_of(module, name).detach().cpu().clone() for key, name in sources.items()}
    for node in nodes:
        if node.op == "conv" and not node.shares and state[f"{node.name}.weight"].ndim == 2:  # see `gates`
            state[f"{node.name}.weight"] = state[f"{node.name}.weight"][:, :, None, None]
    notes = [*converted, *_complete_norms(nodes, state, sources, module), *_left_out(module, sources)]
    graph = NetworkGraph(nodes=nodes, output=names[output])
    return Assembled(graph=graph, state=state, sources=sources, tails=reading.tails, notes=tuple(notes))


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
        f"{type(module).__name__} can't be captured, because of\n"
        + "\n".join(lines)
        + f"\n(what can be captured: {', '.join(sorted(OPERATORS))})"
    )


def _joined(drafts: Sequence[Draft], output: str) -> list[Draft]:
    """Make a chain of sums, or of concatenations, one: a + b + c, where nobody else reads a + b."""
    readers = Counter(name for draft in drafts for name in draft.inputs)
    readers[output] += 1
    kept: dict[str, Draft] = {}
    for draft in drafts:
        inputs: list[str] = []
        for name in draft.inputs:
            alone = draft.op in JOINING and kept[name].op == draft.op and readers[name] == 1
            inputs += kept.pop(name).inputs if alone else [name]
        kept[draft.name] = replace(draft, inputs=tuple(inputs))
    return list(kept.values())


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
        base = bases[draft.name]
        # What a layer's module does beside the layer, as the padding of Conv2d(padding_mode="reflect").
        base = f"{base}.{draft.op}" if base in paths and draft.op not in PRICED else base
        names[draft.name] = _unique(base, set(names.values()))
    return names


def _unique(base: str, taken: Set[str]) -> str:
    candidates = itertools.chain([base], (f"{base}_{count}" for count in itertools.count(1)))
    return next(name for name in candidates if name not in taken)


def _base(draft: Draft) -> str:
    """The path of the module that a node came from, else that of the module around it and the operator."""
    tensor = draft.tensors.get("weight") or draft.tensors.get("norm.weight") or draft.tensors.get("norm.running_mean")
    if tensor is not None and not draft.leaf:  # a leaf's path is the user's name where parameters have several
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
    fields = dict(draft.fields)
    if "shares" in fields:
        fields["shares"] = names[fields["shares"]]
    return Node(
        name=names[draft.name],
        op=draft.op,  # pyright: ignore[reportArgumentType]
        inputs=tuple(names[name] for name in draft.inputs),
        shape=draft.shape,
        source=draft.source,
        **fields,
    )


def _complete_norms(
    nodes: Sequence[Node], state: dict[str, Tensor], sources: dict[str, str], module: nn.Module
) -> list[str]:
    """Add what a BatchNorm of the rebuilt network has and the user's may lack; say so where it changes training."""
    notes = []
    for node in nodes:
        if node.norm is None or node.shares:
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
    return [f"parameters that eval mode does not use are left out: {shortened(names)}"]
