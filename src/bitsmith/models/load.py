"""load_model: from a short text to a network that fits the data."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bitsmith.errors import RecipeError
from bitsmith.files import check_unpacked
from bitsmith.models.edmips import edmips_resnet18
from bitsmith.models.importing import FAILURES, import_users
from bitsmith.models.mobilenet import mobilenet_v2_small
from bitsmith.models.resnet import resnet8, resnet20

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": resnet8,
    "resnet8_slim": partial(resnet8, width=8),  # a quarter of the work: for demos
    "resnet20": resnet20,
    "mobilenet_v2_small": mobilenet_v2_small,
    "edmips_resnet18": edmips_resnet18,
}

FRESH = "newly initialized"  # how the note of a replaced classifier ends

# torchvision networks with auxiliary classifiers, and the names of these: they serve training alone, and a network in
# training mode would hand back several outputs, so we build without them.
_AUXILIARY = {"torchvision:googlenet": ("aux1.", "aux2."), "torchvision:inception_v3": ("AuxLogits.",)}


def load_model(
    spec: str,
    *,
    classes: int | None,
    shape: tuple[int, int, int],
    weights: Path | None = None,
    output: str | None = None,
    seed: int = 0,
) -> tuple[nn.Module, list[str]]:
    """Build a network, load its weights, and give it as many outputs as the data has classes.

    Args:
        spec: a name in MODELS; "torchvision:NAME", one of torchvision's classification networks; or
            "package.module:function", imported with the current directory on the path and called without arguments,
            with `classes` if it takes that (it may also be an nn.Module itself, of which a copy is used).
        classes: outputs wanted; None takes the network as it comes. Where the network has another number and ends in
            a Linear layer, that layer is replaced by a fresh one, after the weights are loaded.
        shape: (C, H, W) of the input.
        weights: a .safetensors file or a saved state_dict (also as {"state_dict": ...}, also with "module." before
            each name); names and shapes must match.
        output: which of several outputs counts: key, index or attribute name, dotted for nested ones.
        seed: of the initial weights; the global random state is left alone.

    Returns:
        The network in training mode and notes for the user.

    Raises:
        RecipeError: an unknown spec, code of the user that fails, weights that don't fit, an input shape that the
            network can't take, an output that is not (N, classes) and can't be made so.

    Example:
        >>> net, notes = load_model("resnet8", classes=10, shape=(3, 32, 32))
        >>> sum(p.numel() for p in net.parameters() if p.ndim > 1), notes
        (77360, [])
    """
    notes: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = _builder(spec, shape[0], notes)
        torch.manual_seed(seed)  # again: a user's module may have drawn while it was imported for the first time
        model = build(classes)
        if weights is not None:
            state = _read_weights(weights)
            state = {k: v for k, v in state.items() if not k.startswith(_AUXILIARY.get(spec, ()))}
            outputs, head = _probe(model, spec, shape, output)
            stored = state.get(f"{head}.weight")
            if stored is not None and stored.ndim and len(stored) != outputs:
                model = build(len(stored))  # with as many outputs as the file has; they are adapted below
            _load(model, state, weights)
        outputs, head = _probe(model, spec, shape, output)
        if classes is not None and outputs != classes:
            notes.append(_replace_head(model, head, outputs, classes, spec))
            try:
                replaced, _ = _probe(model, spec, shape, output)
            except RecipeError as error:
                raise RecipeError(f"{notes[-1]}, but what follows it can't take that: {error}") from error
            assert replaced == classes
    return model.train(), notes


def _builder(spec: str, channels: int, notes: list[str]) -> Callable[[int | None], nn.Module]:
    """A function from the number of classes (None: the network's own) to a new network."""
    kind, colon, name = spec.partition(":")
    if spec in MODELS:
        return lambda classes: MODELS[spec](channels=channels, **_given(classes=classes))
    if kind == "torchvision":
        return _torchvision(name, notes)
    if colon and kind and name:
        return _users(spec, kind, name)
    known = ", ".join(MODELS)
    raise RecipeError(f"unknown model {spec!r}; known are {known}, torchvision:NAME and package.module:function")


def _given(**values: int | None) -> dict[str, int]:
    """The arguments that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _torchvision(name: str, notes: list[str]) -> Callable[[int | None], nn.Module]:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise RecipeError(f"torchvision has no classification network called {name!r}{hint}")
    options: dict[str, bool] = {}
    if f"torchvision:{name}" in _AUXILIARY:
        options = {"aux_logits": False, "init_weights": True}
        notes.append(f"{name}: built without its auxiliary classifiers")
    return lambda classes: models.get_model(name, weights=None, **_given(num_classes=classes), **options)


def _users(spec: str, module_name: str, attribute: str) -> Callable[[int | None], nn.Module]:
    try:
        module = import_users(module_name)
    except FAILURES as error:
        raise RecipeError(f"model {spec!r}: importing {module_name} failed: {_reason(error)}") from error
    found = getattr(module, attribute, None)
    if isinstance(found, nn.Module):
        return lambda classes: copy.deepcopy(found)
    if not callable(found):
        what = "has no attribute" if found is None else f"holds a {type(found).__name__}, not a function, called"
        raise RecipeError(f"model {spec!r}: {module_name} ({module.__file__}) {what} {attribute!r}")

    def build(classes: int | None) -> nn.Module:
        try:
            takes_classes = classes is not None and "classes" in inspect.signature(found).parameters
            model = found(classes=classes) if takes_classes else found()
        except FAILURES as error:
            raise RecipeError(f"model {spec!r}: calling {attribute} failed: {_reason(error)}") from error
        if not isinstance(model, nn.Module):
            raise RecipeError(f"model {spec!r} must give a torch.nn.Module, but gave a {type(model).__name__}")
        return model

    return build


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.exists():
            check_unpacked(path, times=1)  # torch compresses nothing
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RecipeError(f"the weights {path} don't exist") from error
    except Exception as error:  # of a file that is no weights, torch's unpickler raises nearly anything
        raise RecipeError(f"the weights {path} can't be read: {_reason(error)}; save a plain state_dict") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())
    ):
        raise RecipeError(f"{path} holds no state_dict (names of tensors); save model.state_dict()")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def _load(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    wrong = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    infinite = [name for name, value in state.items() if not value.isfinite().all()]
    # num_batches_tracked counts batches and doesn't change what a network computes; old files lack it.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    problems = [
        f"{what}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", wrong),
            ("NaN or infinite", infinite),
        )
        if names
    ]
    if problems:
        raise RecipeError(f"the weights {path} don't fit the network; {'; '.join(problems)}")
    model.load_state_dict(state, strict=False)


def _probe(model: nn.Module, spec: str, shape: tuple[int, int, int], output: str | None) -> tuple[int, str]:
    """Run zeros through the network in eval mode: (number of outputs, name of the layer with weights called last)."""
    called: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    model.eval()
    try:
        with torch.no_grad():
            y = _chosen(model(torch.zeros(2, *shape)), output)
    except Exception as error:  # torch raises many kinds, and the forward is the user's code
        raise RecipeError(
            f"model {spec!r} can't take an input of shape {shape} (channels, height, width): {_reason(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(y, Tensor) or y.ndim != 2 or len(y) != 2:
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        choose = "" if isinstance(y, Tensor) else "; choose one of its outputs with --output KEY (recipe: model.output)"
        raise RecipeError(f"model {spec!r} must give one tensor (N, classes) for a batch of 2, got {got}{choose}")
    return y.shape[1], called[-1] if called else ""


def _chosen(result: Any, output: str | None) -> Any:
    """One of several outputs: the named one, else the only tensor that there is, else the result as it is."""
    for part in output.split(".") if output else ():
        if isinstance(result, Mapping):
            result = result[part]
        elif part.lstrip("-").isdigit():
            result = result[int(part)]
        else:
            result = getattr(result, part)
    if output is None and isinstance(result, Mapping | tuple | list):
        tensors = [value for value in (result.values() if isinstance(result, Mapping) else result) if value is not None]
        return tensors[0] if len(tensors) == 1 else result
    return result


def _replace_head(model: nn.Module, head: str, outputs: int, classes: int, spec: str) -> str:
    last = model.get_submodule(head)
    if not isinstance(last, nn.Linear) or last.out_features != outputs or not head:
        raise RecipeError(
            f"model {spec!r} gives {outputs} outputs, the data has {classes} classes, and the network doesn't end in a "
            f"Linear layer that could be replaced; build it with {classes} outputs, for example by a function of your "
            "own that takes classes="
        )
    parent, _, name = head.rpartition(".")
    fresh = nn.Linear(last.in_features, classes, bias=last.bias is not None)
    setattr(model.get_submodule(parent), name, fresh)
    return f"classifier {head}: {outputs} -> {classes} classes, {FRESH}"


def _reason(error: BaseException) -> str:
    """The first line of an exception, with its kind."""
    first = next(iter(str(error).splitlines()), "")
    if first.startswith("Weights only load failed"):  # torch goes on with advice to load what may run code
        first = "it holds something else than tensors, or is damaged"
    return f"{type(error).__name__}: {first}"
