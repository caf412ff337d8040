"""The slimmable network: one set of weights of which every choice of widths is a slice.

A network at some widths computes with the first channels of each group: the same convolutions and quantizers with
slices of the same parameters, at the cost of the narrow network, and exactly what `bitsmith.space.cut_state` would cut
out of it. Only BatchNorm can't be shared: what passes has other statistics at every width. So each homogeneous width
has BatchNorms of its own (slimmable networks, Yu et al., ICLR 2019, arXiv 1812.08928). Of a network in between all
channels of a group take scale and offset of the least homogeneous width at which the group is at least as wide, and
channels without a group those of the groups' mean row, rounded; statistics are estimated anew (US-Nets, Yu and Huang,
ICCV 2019, arXiv 1903.05134).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bitsmith.blueprint import PRICED, Blueprint
from bitsmith.quantize import Network, Stepped, build
from bitsmith.search.widths.groups import WidthGroups, Widths
from bitsmith.space import cut_state

SHARES = (0.25, 0.5, 0.75, 1.0)  # homogeneous widths, the whole network last
_LEARNED = ("weight", "bias")
_TRACKED = ("running_mean", "running_var")


class _Norms(nn.Module):
    """The BatchNorms of one layer at the homogeneous widths below the whole one, a row for each.

    A row holds all channels; those beyond its width are never read.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(rows, channels))
        self.bias = nn.Parameter(torch.zeros(rows, channels))
        self.register_buffer("running_mean", torch.zeros(rows, channels))
        self.register_buffer("running_var", torch.ones(rows, channels))


@final
class SlimNetwork(Stepped):
    """The network of a blueprint at all widths of its groups.

    Args:
        blueprint: of the whole network, one pair of bits per layer.
        start: first value of each group's logit.

    Attributes:
        network: the whole one; its BatchNorms are those of the greatest homogeneous width.
        homogeneous: the widths of the homogeneous networks, rising.
        logits: alpha of each group's binomial, [groups].
    """

    def __init__(self, blueprint: Blueprint, groups: WidthGroups, *, start: float = 2.0) -> None:
        super().__init__()
        self.blueprint, self.groups = blueprint, groups
        self.homogeneous: tuple[Widths, ...] = tuple(groups.scaled(share) for share in SHARES)
        self.network = build(blueprint)
        self.logits = nn.Parameter(torch.full((len(groups.groups),), start))
        self._normed = {
            node.name: groups.coupling.units[node.name]
            for node in blueprint.graph.nodes
            if node.norm is not None and not node.shares
        }
        self.norms = nn.ModuleDict(
            {_key(name): _Norms(len(SHARES) - 1, len(units)) for name, units in self._normed.items()}
        )
        self._graphs = [groups.network(widths) for widths in self.homogeneous]

    @torch.no_grad()
    def load_float(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights and BatchNorms of the whole float network; every width starts from the same ones."""
        self.network.load_float(state)
        for name in self._normed:
            own, whole = cast(_Norms, self.norms[_key(name)]), self.network.layer(name).norm
            for part in (*_LEARNED, *_TRACKED):
                getattr(own, part).copy_(getattr(whole, part).expand_as(getattr(own, part)))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the whole network."""
        return self.network(x)

    def at_share(self, x: Tensor, k: int) -> Tensor:
        """Outputs of the k-th homogeneous network, by its own BatchNorms; training moves their statistics."""
        if k == len(SHARES) - 1:
            return self.network(x)
        kept = self.groups.kept(self.homogeneous[k])
        sliced = self._slices(kept, self._rows_of(k))
        y = self._call(x, self._graphs[k], sliced)
        if self.training:
            with torch.no_grad():
                for name, units in self._normed.items():
                    own, left = cast(_Norms, self.norms[_key(name)]), torch.from_numpy(np.flatnonzero(kept[units]))
                    for part in _TRACKED:
                        getattr(own, part)[k, left.to(x.device)] = sliced[f"{name}.norm.{part}"]
        return y

    def at_widths(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        """Outputs at any widths; in training mode, by the statistics of the batch, which are kept nowhere."""
        kept = self.groups.kept(widths)
        return self._call(x, self.groups.network(widths), self._slices(kept, self._rows(widths)))

    def extract(self, widths: Sequence[int]) -> Network:
        """A copy of the network at some widths, whose state loads into `build` of its blueprint.

        Its BatchNorm statistics are those of homogeneous networks: estimate them anew before it is scored.
        """
        return self._copy(widths, self._rows(widths))

    def extract_share(self, k: int) -> Network:
        """A copy of the k-th homogeneous network, with its own BatchNorms."""
        return self._copy(self.homogeneous[k], self._rows_of(k))

    @torch.no_grad()
    def _copy(self, widths: Sequence[int], rows: Mapping[str, np.ndarray]) -> Network:
        found = copy.deepcopy(self.network)
        for name, value in self._slices(self.groups.kept(widths), rows).items():
            path, _, last = name.rpartition(".")
            module = found.get_submodule(path)
            if last in module._parameters:
                module._parameters[last] = nn.Parameter(value.detach().clone())
            else:
                module._buffers[last] = value.detach().clone()
        found.blueprint = self.groups.blueprint(self.blueprint, widths)
        found.graph = found.blueprint.graph
        return found

    def _call(self, x: Tensor, graph: object, sliced: Mapping[str, Tensor]) -> Tensor:
        whole = self.network.graph
        self.network.graph = graph  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return functional_call(self.network, dict(sliced), (x,))
        finally:
            self.network.graph = whole

    def _rows_of(self, k: int) -> dict[str, np.ndarray]:
        """One homogeneous width for each channel of each BatchNorm."""
        return {name: np.full(len(units), k) for name, units in self._normed.items()}

    def _rows(self, widths: Sequence[int]) -> dict[str, np.ndarray]:
        """For each channel of each BatchNorm the homogeneous width that it takes its own from."""
        chosen = [
            next(k for k, each in enumerate(self.homogeneous) if each[d] >= width) for d, width in enumerate(widths)
        ]
        # Channels without a width of their own follow the others.
        of_unit = np.full(len(self.groups.coupling.pinned), round(float(np.mean(chosen))))
        for group, k in zip(self.groups.groups, chosen, strict=True):
            for units in group.sets:
                of_unit[units] = k
        return {name: of_unit[units] for name, units in self._normed.items()}

    def _slices(self, kept: np.ndarray, rows: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """What differs from the whole network's parameters and buffers, with gradients to the shared ones."""
        device, coupling = self.logits.device, self.groups.coupling
        whole = dict(self.network.named_parameters()) | dict(self.network.named_buffers())
        state = dict(whole)
        for name, chosen in rows.items():
            own, row = cast(_Norms, self.norms[_key(name)]), torch.from_numpy(chosen).to(device)
            for part in (*_LEARNED, *_TRACKED):
                every = torch.cat([getattr(own, part), whole[f"{name}.norm.{part}"][None]])
                state[f"{name}.norm.{part}"] = every[row, torch.arange(len(chosen), device=device)]
        for node in self.blueprint.graph.nodes:
            if node.op not in PRICED or node.shares:
                continue
            stays = kept[coupling.units[node.name]]
            if stays.all():
                continue
            left = torch.from_numpy(np.flatnonzero(stays)).to(device)
            for name, value in state.items():  # what weight quantizers hold for each filter
                if name.startswith(f"{node.name}.quantize_weight.") and value.ndim and len(value) == len(stays):
                    state[name] = value[left]
        cut = cut_state(coupling.graph, partial(coupling.left, kept), state)
        return {name: value for name, value in cut.items() if value is not whole[name]}


def _key(layer: str) -> str:
    return layer.replace(".", "/")
