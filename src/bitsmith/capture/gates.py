"""Squeeze and excitation written with linear layers: features that become the (C, 1, 1) operand of a product again.

No node makes a map of features. So the layers between such an operand and the flatten before them become maps of one
row and one column: a linear layer is a 1x1 convolution there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from bitsmith.blueprint import CLIPS, FUNCTIONS, JOINING
from bitsmith.capture.draft import Draft
from bitsmith.errors import CaptureError

# Work on (C, 1, 1) as they do on (C,).
_ALIKE = FUNCTIONS | CLIPS | JOINING | {"affine", "dropout", "multiply", "split"}


def without_unflatten(drafts: Sequence[Draft], output: str) -> tuple[list[Draft], str, list[str]]:
    """Drafts and output without "unflatten", and a note on each linear layer that became a convolution.

    Raises:
        CaptureError: what is unflattened was not made of (C, 1, 1) by layers that work on maps too.
    """
    converter = _Converter(drafts)
    for draft in drafts:
        if draft.op == "unflatten":
            converter.want(draft)
    return converter.converted(), converter.as_map(output), converter.notes


@final
class _Converter:
    def __init__(self, drafts: Sequence[Draft]) -> None:
        self.notes: list[str] = []
        self._drafts = {draft.name: draft for draft in drafts}
        self._maps: dict[str, str] = {}  # features -> the map of them
        self._unflattened: dict[str, str] = {}  # "unflatten" -> the features it reads

    def want(self, unflatten: Draft) -> None:
        """Mark the features that are unflattened, and what they are made of, to become maps."""
        self._unflattened[unflatten.name] = unflatten.inputs[0]
        todo = [unflatten.inputs[0]]
        while todo:
            draft = self._drafts[todo.pop()]
            if draft.name in self._maps:
                continue
            source = self._drafts[draft.inputs[0]]
            if draft.op == "flatten" and source.shape == (*draft.shape, 1, 1):
                self._maps[draft.name] = source.name
            elif draft.op in _ALIKE | {"linear"}:
                self._maps[draft.name] = f"{draft.name}/map"
                todo += draft.inputs
            else:
                raise CaptureError(
                    f"features become a map again (at {unflatten.source}), but they were made by {draft.op} at "
                    f"{draft.source} of more than one row and column; pool to (N, C, 1, 1) first"
                )

    def converted(self) -> list[Draft]:
        """All drafts; features are flattened behind their map for those that read them as such."""
        kept: list[Draft] = []
        for draft in self._drafts.values():
            if draft.name in self._unflattened:
                continue
            if self._maps.get(draft.name) == f"{draft.name}/map":
                mapped = replace(
                    draft,
                    name=self._maps[draft.name],
                    op="conv" if draft.op == "linear" else draft.op,
                    inputs=tuple(self.as_map(self._maps[name]) for name in draft.inputs),
                    shape=(*draft.shape, 1, 1),
                )
                if draft.op == "linear":
                    self.notes.append(f"{draft.path}: a linear layer between maps is captured as a 1x1 convolution")
                kept.append(mapped)
                kept.append(replace(draft, op="flatten", inputs=(mapped.name,), fields={}, tensors={}, leaf=False))
            else:
                kept.append(replace(draft, inputs=tuple(self.as_map(name) for name in draft.inputs)))
        return kept

    def as_map(self, name: str) -> str:
        """The draft itself, or where it is features unflattened, their map."""
        while name in self._unflattened:
            name = self._maps[self._unflattened[name]]
        return name
