"""Run torch.export on a user's module, and say in one sentence what went wrong where it does."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim, ExportedProgram

from bitsmith.errors import CaptureError

BATCH = 4
# With a slash at the end: "torchvision" starts with "torch".
_TORCH = f"{Path(torch.__file__).parent}/"
_PACKAGES = tuple(f"{sysconfig.get_path(name)}/" for name in ("purelib", "platlib", "stdlib"))
_OURS = f"{Path(__file__).parent}/"
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def export(module: nn.Module, shape: tuple[int, int, int]) -> ExportedProgram:
    """The module's aten graph in eval mode at a free batch size; the module's training flags are put back.

    Raises:
        CaptureError: torch can't export the module; with the file and line where there is one.
    """
    sample = torch.zeros(BATCH, *shape, dtype=dtype_of(module), device=device_of(module))
    with in_mode(module, training=False), _quiet():
        try:
            return torch.export.export(module, (sample,), dynamic_shapes=({0: Dim("batch", min=2)},), strict=False)
        except CaptureError:
            raise
        except Exception as error:  # torch.export raises whatever the user's code and torch's tracers raise
            raise CaptureError(_explain(error, module, shape)) from error


def forget(exported: ExportedProgram) -> None:
    """Let go of an exported program, whose symbols torch would keep until the process ends.

    Two things hold them, a quarter of a megabyte for a small network: a tensor that belongs to its own symbols through
    C++, where the garbage collector doesn't look, and caches of all programs, some of them without a limit. An export
    that failed has no program, and leaves its symbols.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    for node in exported.graph.nodes:
        if isinstance(value := node.meta.get("val"), FakeTensor) and value.fake_mode.shape_env is not None:
            value.fake_mode.shape_env.tracked_fakes = []
    for method in vars(ShapeEnv).values():
        while method is not None:  # caches lie below other decorators
            if clear := getattr(method, "cache_clear", None):
                clear()
            method = getattr(method, "__wrapped__", None)


@contextlib.contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a module and its children in train or eval mode, and each back to its own afterwards."""
    before = {child: child.training for child in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for child, flag in before.items():
            child.training = flag


def dtype_of(module: nn.Module) -> torch.dtype:
    """The type of the module's first floating parameter, float32 where there is none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def device_of(module: nn.Module) -> torch.device:
    """The device of the module's first parameter, the CPU where there is none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """A module's parameter or buffer by its dotted name."""
    owner, _, last = name.rpartition(".")
    return getattr(module.get_submodule(owner), last)


def schema_of(node: fx.Node) -> torch.FunctionSchema | None:
    """The schema of an aten operator, None for anything else."""
    if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
        return node.target._schema
    return None


def where(node: fx.Node) -> str:
    """ "file:line" of the call in the user's model that made an operator; "" where torch recorded none."""
    return _pick([(file, int(line)) for file, line in _FRAME.findall(node.meta.get("stack_trace") or "")])


def _pick(frames: list[tuple[str, int]]) -> str:
    """The innermost frame outside of all packages, else the innermost outside of torch, else the innermost."""

    def user(frame: tuple[str, int]) -> bool:
        return not frame[0].startswith((_TORCH, *_PACKAGES)) and "site-packages" not in frame[0]

    outside = [f for f in frames if user(f)] or [f for f in frames if not f[0].startswith(_TORCH)] or frames
    return f"{_short(outside[-1][0])}:{outside[-1][1]}" if outside else ""


def _short(file: str) -> str:
    path = Path(file)
    if path.is_relative_to(Path.cwd()) and "site-packages" not in path.parts:
        return str(path.relative_to(Path.cwd()))
    return "/".join(path.parts[-2:])


def _explain(error: Exception, module: nn.Module, shape: tuple[int, int, int]) -> str:
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # takes half a second

    name = type(module).__name__
    text = str(error)
    own = [(f.filename, f.lineno or 0) for f in traceback.extract_tb(error.__traceback__)]
    own = [frame for frame in own if not frame[0].startswith((_OURS, _TORCH, *_PACKAGES))]
    # An error that torch raises after the trace has no frame of the user's, but its text may quote one.
    own = own or [frame for frame in _quoted(text) if not frame[0].startswith(_TORCH)]
    at = f" at {_pick(own)}" if own else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    if "specialized it to be a constant" in text:
        return (
            f"{name} fixes the batch size{at}; write the forward for any batch, "
            "such as x.flatten(1) or x.view(x.shape[0], -1)"
        )
    if isinstance(error, GuardOnDataDependentSymNode):
        reason = reason.split(" (unhinted")[0]
        return (
            f"{name} decides by the values of a tensor{at}, so it has no fixed graph: {reason}; "
            "control flow may depend on shapes and arguments only"
        )
    if symbol := re.search(r"\bs\d+\b", reason):
        reason += f" ({symbol[0]} is the batch size, which must stay free)"
    return f"{name} can't be exported at input shape {shape}{at}: {reason}"


def _quoted(text: str) -> list[tuple[str, int]]:
    return [(file, int(line)) for file, line in _FRAME.findall(text)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's own report of a failed export off the terminal: ours says it in one sentence."""
    logger = logging.getLogger("torch")
    silence = logging.Filter()
    silence.filter = lambda record: False
    handlers = [*logger.handlers]
    for handler in handlers:
        handler.addFilter(silence)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(silence)
