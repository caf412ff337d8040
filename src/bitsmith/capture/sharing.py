"""Which drafts share parameters: BatchNorms join the layer they follow, a layer used again names its first use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from bitsmith.blueprint import PRICED
from bitsmith.capture.draft import Draft
from bitsmith.capture.export import tensor_of
from bitsmith.errors import CaptureError


def with_norms(drafts: Sequence[Draft], output: str, module: nn.Module) -> tuple[list[Draft], str]:
    """Make a BatchNorm that alone reads a conv or linear layer the norm of that layer.

    Of a layer that is used several times only where the same BatchNorm follows every use; else they stay affine.
    """
    readers = Counter(name for draft in drafts for name in draft.inputs)
    readers[output] += 1
    layers = {draft.name for draft in drafts if draft.op in PRICED}
    norms = {
        draft.inputs[0]: draft
        for draft in drafts
        if draft.op == "affine" and draft.inputs[0] in layers and readers[draft.inputs[0]] == 1
    }
    merged: dict[str, Draft] = {}
    for uses in _uses(drafts, module).values():
        kinds = {_identity(norms[d.name], module) if d.name in norms else None for d in uses}
        if len(kinds) == 1 and None not in kinds:
            merged |= {d.name: norms[d.name] for d in uses}
    renamed = {norm.name: name for name, norm in merged.items()}
    kept = []
    for draft in drafts:
        if draft.name in renamed:
            continue
        norm = merged.get(draft.name)
        if norm is not None:
            draft = replace(draft, fields={**draft.fields, **norm.fields}, tensors={**draft.tensors, **norm.tensors})
        kept.append(replace(draft, inputs=tuple(renamed.get(name, name) for name in draft.inputs)))
    return kept, renamed.get(output, output)


def with_shared(drafts: Sequence[Draft], module: nn.Module) -> list[Draft]:
    """Let every further use of a layer hold no parameters but the name of the first.

    Raises:
        CaptureError: parameters are shared by anything but uses of one layer.
    """
    first: dict[str, Draft] = {}
    for uses in _uses(drafts, module).values():
        for use in uses[1:]:
            if _identity(use, module) == _identity(uses[0], module):
                first[use.name] = uses[0]
    kept = [
        replace(draft, fields={**draft.fields, "shares": first[draft.name].name}, tensors={})
        if draft.name in first
        else draft
        for draft in drafts
    ]
    _raise_shared(kept, module)
    return kept


def _uses(drafts: Sequence[Draft], module: nn.Module) -> Mapping[int, list[Draft]]:
    """The layers by their weight."""
    found: dict[int, list[Draft]] = {}
    for draft in drafts:
        if draft.op in PRICED:
            found.setdefault(id(tensor_of(module, draft.tensors["weight"])), []).append(draft)
    return found


def _identity(draft: Draft, module: nn.Module) -> tuple[Any, ...]:
    """What two uses of one layer have in common; their strides, paddings and dilations may differ."""
    tensors = {key: id(tensor_of(module, name)) for key, name in draft.tensors.items()}
    return (draft.op, draft.fields.get("groups"), draft.fields.get("norm"), *sorted(tensors.items()))


def _raise_shared(drafts: Sequence[Draft], module: nn.Module) -> None:
    readers: dict[int, list[tuple[str, str]]] = {}
    for draft in drafts:
        for name in draft.tensors.values():
            readers.setdefault(id(tensor_of(module, name)), []).append((name, draft.source))
    for found in readers.values():
        if len(found) > 1:
            names = " and ".join(dict.fromkeys(name for name, _ in found))
            lines = " and ".join(dict.fromkeys(source for _, source in found))
            raise CaptureError(
                f"{names} is used {len(found)} times (at {lines}), but not as a whole layer: a convolution or linear "
                "layer can be used again only with the same bias and groups, and a BatchNorm only behind every use "
                "of one such layer; give each use a BatchNorm or bias of its own"
            )
