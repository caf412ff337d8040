"""Accept a capture only if the rebuilt network computes what the user's module does, forward and backward."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from bitsmith.blueprint import NetworkGraph
from bitsmith.capture.assemble import Assembled
from bitsmith.capture.export import BATCH, device_of, dtype_of, in_mode, tensor_of
from bitsmith.capture.outputs import Tails
from bitsmith.errors import CaptureError
from bitsmith.quantize import build, float_blueprint
from bitsmith.seeding import derive, torch_generator

# Largest difference allowed, relative to the largest value of the tensor (see `_difference`).
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
# A gradient that is zero but for rounding, as that of a bias before BatchNorm, is measured against this
# fraction of the largest gradient.
FLOOR = 1e-4


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The user's module (a copy where it can be copied) and the rebuilt network, of one type on one device."""

    theirs: nn.Module
    ours: nn.Module
    sources: Mapping[str, str]
    tails: int
    x: Tensor
    seed: int


def check(module: nn.Module, assembled: Assembled, *, seed: int) -> tuple[str, ...]:
    """Compare outputs, gradients and BatchNorm statistics; notes say what could not be compared.

    Raises:
        CaptureError: the first tensor that differs, and by how much.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(derive(seed, "capture"))
        pair, notes = _pair(module, assembled, seed)
        with in_mode(pair.theirs, training=False):
            _compare(pair, training=False)
        if pair.theirs is module:
            return (*notes, "compared in eval mode alone: a step in train mode would change the module's statistics")
        note = _compare_training(pair)
    return (*notes, note) if note else tuple(notes)


def _pair(module: nn.Module, assembled: Assembled, seed: int) -> tuple[_Pair, list[str]]:
    """In float64 where that runs; else in the module's own type."""
    try:
        double = copy.deepcopy(module).cpu().double()
        pair = _paired(double, assembled, seed)
        with in_mode(double, training=False), torch.no_grad():
            double(pair.x.clone())
        return pair, []
    except Exception as error:  # the user's own code, which may hold tensors that can't be copied or cast types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    note = f"compared in {dtype_of(module)}".replace("torch.", "") + f", not in float64 ({reason})"
    try:
        theirs = copy.deepcopy(module)
    except Exception:
        theirs = module
    return _paired(theirs, assembled, seed), [f"{note}, to {TOLERANCE[dtype_of(module)]:g}"]


def _paired(theirs: nn.Module, assembled: Assembled, seed: int) -> _Pair:
    dtype, device = dtype_of(theirs), device_of(theirs)
    ours = build(float_blueprint(_without_dropout(assembled.graph))).to(device, dtype)
    ours.load_state_dict(assembled.state, strict=True)
    first = assembled.graph.nodes[0]
    for buffer, numbers in ((ours.gain, first.gain), (ours.offset, first.offset)):
        buffer.copy_(torch.tensor(numbers, dtype=torch.float64).reshape(buffer.shape))  # not by way of float32
    x = torch.randn(BATCH, *assembled.graph.input_shape, dtype=torch.float64, generator=torch_generator(seed, "batch"))
    return _Pair(
        theirs=theirs,
        ours=ours,
        sources=assembled.sources,
        tails=assembled.tails,
        x=x.to(device, dtype),
        seed=seed,
    )


def _without_dropout(graph: NetworkGraph) -> NetworkGraph:
    """The same network with dropout that drops nothing, so that train mode can be compared."""
    return replace(graph, nodes=tuple(replace(node, rate=0.0) for node in graph.nodes))


def _compare_training(pair: _Pair) -> str:
    """Compare in train mode; the note where that says nothing about the capture."""
    theirs = pair.theirs
    theirs.train()
    for child in theirs.modules():
        if isinstance(child, _DropoutNd) or type(child).__name__ in ("StochasticDepth", "DropPath"):
            child.eval()
    note = _cannot_train(pair)
    if note:
        if not _puts_norms_in_train_mode(pair):
            return f"compared in eval mode alone: {note}"
        if failed := _cannot_train(pair):
            return f"compared in eval mode alone: {failed}"
        note = f"compared in train mode with the BatchNorms alone in it: {note}"
    _compare(pair, training=True)
    return note


def _cannot_train(pair: _Pair) -> str:
    """Why the module in its present modes can't be compared; copies of it run, so that its statistics stay."""
    try:
        first, again = (copy.deepcopy(pair.theirs)(pair.x.clone()) for _ in range(2))
    except Exception as error:  # the user's own code
        return f"train mode fails ({(str(error).splitlines() or [''])[0]})"
    if not isinstance(first, Tensor):
        return f"train mode returns a {type(first).__name__}; what only training computes is left out"
    return "" if torch.equal(first, again) else "the module draws random numbers in train mode"


def _puts_norms_in_train_mode(pair: _Pair) -> bool:
    """Everything in eval mode but the BatchNorms; False where some are functions that obey another module's flag."""
    owners = {name.rpartition(".")[0] for key, name in pair.sources.items() if key.endswith("norm.running_mean")}
    norms = [pair.theirs.get_submodule(owner) for owner in sorted(owners)]
    if not norms or not all(isinstance(norm, _BatchNorm) for norm in norms):
        return False
    pair.theirs.eval()
    for norm in norms:
        norm.train()
    return True


def _compare(pair: _Pair, *, training: bool) -> None:
    pair.ours.train(training)
    mode = "train" if training else "eval"
    parameters = {key: p for key, p in pair.ours.named_parameters() if key in pair.sources}
    own = {key: tensor_of(pair.theirs, pair.sources[key]) for key in parameters}
    try:
        y, grads = _run(pair.theirs, pair.x, own, pair.seed, tails=pair.tails)
    except Exception as error:  # the user's own code
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        kind = type(pair.theirs).__name__
        raise CaptureError(f"{kind} can't be run forward and backward in {mode} mode: {reason}") from error
    z, found = _run(pair.ours, pair.x, parameters, pair.seed, tails=0)
    if y.shape != z.shape:
        raise CaptureError(f"the captured network returns shape {tuple(z.shape)}, the module {tuple(y.shape)}: {_BUG}")
    tolerance = TOLERANCE[pair.x.dtype]
    _assert_close("outputs", z, y, 0.0, tolerance, mode)
    largest = max(float(g.abs().max()) for g in grads.values())
    for key, gradient in grads.items():
        name = "the gradient of " + pair.sources.get(key, "the input")
        _assert_close(name, found[key].reshape(gradient.shape), gradient, FLOOR * largest, tolerance, mode)
    if training:
        buffers = dict(pair.ours.named_buffers())
        for key, source in pair.sources.items():
            if key in buffers:
                # A mean can be zero but for rounding (behind another BatchNorm): its scale is the deviation.
                spread = key.removesuffix("running_mean") + "running_var"
                floor = float(buffers[spread].max().sqrt()) if spread in buffers and spread != key else 0.0
                _assert_close(source, buffers[key], tensor_of(pair.theirs, source), floor, tolerance, mode)


def _run(network: nn.Module, x: Tensor, parameters: Mapping[str, Tensor], seed: int, *, tails: int):
    """Output before its last `tails` steps, and gradients of a random linear loss with respect to the input ("") and
    the parameters.
    """
    leaf = x.clone().requires_grad_()
    frozen = [p for p in parameters.values() if not p.requires_grad]
    for p in frozen:
        p.requires_grad_()
    try:
        with Tails() as steps:
            y = steps.before(network(leaf.clone()), tails)  # a copy: the first operator may work in place
        weights = torch.randn(y.shape, dtype=torch.float64, generator=torch_generator(seed, "loss")).to(y)
        wanted = {"": leaf, **parameters}
        gradients = torch.autograd.grad((y * weights).sum(), list(wanted.values()), allow_unused=True)
    finally:
        for p in frozen:
            p.requires_grad_(False)
    filled = {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(wanted.items(), gradients, strict=True)}
    return y.detach(), filled


def _assert_close(name: str, found: Tensor, wanted: Tensor, floor: float, tolerance: float, mode: str) -> None:
    scale = max(float(wanted.abs().max()), floor)
    difference = float((found - wanted).abs().max()) / scale if scale else float(found.abs().max())
    if not difference <= tolerance:  # NaN is a difference
        raise CaptureError(
            f"the captured network is not the same: {name} differ by {difference:.2g} relative to the largest value "
            f"in {mode} mode (allowed: {tolerance:g}); {_BUG}"
        )


_BUG = (
    "the module may do something in its forward pass that its exported graph does not show "
    "(detach, a branch on self.training)"
)
