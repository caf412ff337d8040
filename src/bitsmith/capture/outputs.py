"""Which tensor of what a module returns is the network's output, and what of it is left out at the end."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, final

from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from bitsmith.capture.call import arguments
from bitsmith.capture.draft import batched
from bitsmith.capture.export import schema_of, where
from bitsmith.errors import CaptureError

# Removed where they are the last step.
TAILS = frozenset({"argmax", "log_softmax", "sigmoid", "softmax"})


@contextlib.contextmanager
def selected(module: nn.Module, output: str | None) -> Iterator[list[str]]:
    """Make a module return one tensor in eval mode for a while; the list then holds a note on what is left out.

    In train mode the same entry is taken where there is one.

    Args:
        module: returns a tensor, or tensors in tuples, lists, mappings, dataclasses and named tuples.
        output: key, index or name of the one to take, with dots between those of nested ones ("features.0"); None
            where there is only one.
    """
    notes: list[str] = []

    def pick(_module: nn.Module, _inputs: Any, result: Any) -> Any:
        if isinstance(result, Tensor) and output is None:
            return result
        found = dict(_tensors(result))
        if _module.training:
            named = found.get(output or "")
            return named if named is not None else next(iter(found.values())) if len(found) == 1 else result
        name = _choice(module, result, found, output)
        left = [other for other in found if other != name]
        notes[:] = [f"of the {type(result).__name__} that the module returns, {name!r} is the captured output"]
        notes[0] += f"; left out: {', '.join(map(repr, left))}" if left else ""
        return found[name]

    hook = module.register_forward_hook(pick)
    try:
        yield notes
    finally:
        hook.remove()


def _choice(module: nn.Module, result: Any, found: Mapping[str, Tensor], output: str | None) -> str:
    """The name of the entry to take.

    Raises:
        CaptureError: there is none, or several to choose from.
    """
    returns = f"{type(module).__name__} returns {_described(result)} in eval mode"
    if isinstance(result, Tensor):
        raise CaptureError(f"{returns}, so there is no output {output!r}; leave it out")
    if not found:
        raise CaptureError(f"{returns}; a capture needs a tensor")
    choices = ", ".join(f"{name!r} {batched(tensor.shape[1:])}" for name, tensor in found.items())
    if output is None and len(found) > 1:
        raise CaptureError(f"{returns}; choose one of its tensors with output=: {choices}")
    if output is not None and output not in found:
        raise CaptureError(f"{returns}, without an output {output!r}; there are {choices}")
    return next(iter(found)) if output is None else output


def _tensors(result: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in a result with their dotted names."""
    if isinstance(result, Tensor):
        yield name, result
        return
    entries: Mapping[Any, Any] = {}
    if isinstance(result, Mapping):
        entries = result
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        entries = dict(zip(result._fields, result, strict=True))  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(result, list | tuple):
        entries = dict(enumerate(result))
    elif dataclasses.is_dataclass(result):
        entries = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    for key, value in entries.items():
        yield from _tensors(value, f"{name}.{key}".removeprefix("."))


def _described(result: Any) -> str:
    if result is None:
        return "nothing"
    if isinstance(result, Tensor):
        return "one tensor"
    kind = type(result).__name__
    if isinstance(result, Mapping):
        return f"a {kind} with the keys {', '.join(map(repr, result))}"
    return f"a {kind} of {len(result)}" if isinstance(result, list | tuple) else f"a {kind}"


def single_output(exported: ExportedProgram, module: nn.Module) -> fx.Node:
    """The node that an exported module returns.

    Raises:
        CaptureError: it is no tensor that was computed.
    """
    (output,) = (node for node in exported.graph.nodes if node.op == "output")
    results = output.args[0]
    if len(results) != 1 or not isinstance(results[0], fx.Node):
        raise CaptureError(f"{type(module).__name__} returns no tensor in eval mode")
    return results[0]


def without_tail(output: fx.Node) -> tuple[fx.Node, list[str]]:
    """Step back over a final softmax, log_softmax, sigmoid or argmax; a note for each."""
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


@final
class Tails(TorchFunctionMode):
    """Remembers what softmax, log_softmax, sigmoid and argmax read, to step back over those that came last."""

    def __init__(self) -> None:
        super().__init__()
        self._read: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in TAILS:
            read = args[0] if args else next(iter((kwargs or {}).values()))
            self._read.append((result, read))
        return result

    def before(self, result: Tensor, count: int) -> Tensor:
        """What the last `count` of them read, where the result is what these gave."""
        for _ in range(count):
            result = next((read for made, read in self._read if made is result), result)
        return result
