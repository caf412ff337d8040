"""ONNX files that others made: read without trust, fed as they want to be, run in a process of their own.

A classifier of images has one input and outputs with a row per image. Weights outside the file are refused, as it could
name any file of the reader's. What the file doesn't say (what its numbers mean) has to be told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, TensorProto, helper, inliner

from bitsmith.blueprint import InputContract
from bitsmith.deploy import theirs_worker
from bitsmith.deploy.runtime import LEVELS
from bitsmith.errors import VerifyError

_PATIENCE = 120.0  # seconds, and one more for every image
Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What a file of others takes for an image; None is read from the file.

    Args:
        values: "pixels", 0 to 255 as they are (less 128 where the input is int8); "unit", pixels / 255; "normalized",
            (pixels / 255 - mean) / std of the run's data; "MEAN/STD", the same with numbers of its own, one or one
            per channel: "0.485,0.456,0.406/0.229,0.224,0.225".
        layout: the order of channels, height and width; of a flat input, the order in which it is flattened.
        output: the output to take where the file gives several.
    """

    values: str | None = None
    layout: Layout | None = None
    output: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Theirs:
    """A file of others, and how images are given to it.

    Args:
        model: without model-local functions.
        output: the tensor to take.
        values: as of `Feed`, or "given" for float inputs that are fed as they are.
        shape: of one image.
        batch: images that it takes at once; 0 for any number.
    """

    path: Path
    model: ModelProto
    output: str
    kind: np.dtype
    values: str
    layout: Layout
    shape: tuple[int, ...]
    batch: int
    contract: InputContract

    @property
    def reads(self) -> str:
        """What it is fed, in words."""
        values = {
            "pixels": "pixels - 128" if self.kind == np.int8 else "pixels",
            "unit": "pixels / 255",
            "normalized": "pixels / 255, normalized as the run's data are",
            "given": "inputs as they are",
        }.get(self.values, f"pixels / 255, normalized by {self.values}")
        flat = ", flat" if len(self.shape) == 1 else ""
        return f"{values}, {self.kind}, {self.layout}{flat}"

    def feed(self, images: np.ndarray) -> np.ndarray:
        """(N, C, H, W) of the run's data, as this file takes them."""
        x = np.asarray(images)
        if self.values == "pixels":
            x = x.astype(np.int16) - 128 if self.kind == np.int8 else x
        elif self.values != "given":
            mean, std = _mean_and_std(self.values, self.contract, x.shape[1])
            x = (x.astype(np.float32) / np.float32(255) - mean) / std
        x = x.astype(self.kind)
        x = x.transpose(0, 2, 3, 1) if self.layout == "NHWC" else x
        return np.ascontiguousarray(x.reshape(len(x), *self.shape))

    def run(
        self,
        images: np.ndarray,
        outputs: Sequence[str] | None = None,
        *,
        model: bytes | None = None,
        level: str = "all",
    ) -> list[np.ndarray]:
        """The outputs for images (N, C, H, W), from onnxruntime in a process of its own.

        Args:
            outputs: names; by default this file's one.
            model: a variant of the file to run in its place.
            level: of onnxruntime's optimizer.

        Raises:
            VerifyError: the file can't be loaded or run, takes longer than two minutes and a second per image, or more
                memory than half of the machine's.
        """
        with tempfile.TemporaryDirectory() as folder:
            asked = {
                "model": str(Path(folder) / "model.onnx"),
                "images": str(Path(folder) / "images.npy"),
                "results": str(Path(folder) / "results.npz"),
                "outputs": [self.output] if outputs is None else list(outputs),
                "level": LEVELS[level].name,
                "batch": self.batch or 50,
                "fixed": bool(self.batch),
                "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2,
            }
            Path(asked["model"]).write_bytes(self.model.SerializeToString() if model is None else model)
            np.save(asked["images"], self.feed(images))
            _work(asked, self.path, _PATIENCE + len(images))
            with np.load(asked["results"], allow_pickle=False) as found:
                return [found[f"arr_{i}"] for i in range(len(found.files))]


def read_theirs(
    path: Path | str,
    shape: tuple[int, ...],
    contract: InputContract,
    feed: Feed = Feed(),
) -> Theirs:
    """A file of others as a classifier of the run's images.

    Args:
        shape: (C, H, W) of the run's images.
        contract: what these mean.
        feed: what the file doesn't say itself.

    Raises:
        VerifyError: the file can't be read, keeps weights outside itself, is no classifier of such images, or something
            has to be told that wasn't.
    """
    path = Path(path)
    model = _read(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise VerifyError(f"{path} takes {len(inputs)} inputs; a classifier of images takes one")
    tensor = inputs[0].type.tensor_type
    names = [value.name for value in model.graph.output]
    if feed.output is None and len(names) != 1:
        raise VerifyError(f"{path} gives {len(names)} outputs ({', '.join(names[:8])}); say which one: --their-output")
    if feed.output is not None and feed.output not in names:
        raise VerifyError(f"{path} has no output {feed.output!r}; it gives {', '.join(names[:8])}")
    output = names[0] if feed.output is None else feed.output
    if not next(value for value in model.graph.output if value.name == output).type.HasField("tensor_type"):
        raise VerifyError(f"output {output!r} of {path} is not a tensor; export the classifier without it (no ZipMap)")
    try:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, TypeError, ValueError) as error:
        raise VerifyError(f"{path}: its input is of no element type that ONNX knows") from error
    dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
    if not tensor.HasField("shape") or not dims:
        raise VerifyError(f"{path} doesn't say the shape of its input; write it into the file")
    layout, per_image = _layout(path, dims, shape, feed.layout)
    return Theirs(
        path=path,
        model=model,
        output=output,
        kind=kind,
        values=_values(path, kind, contract, shape[0], feed.values),
        layout=layout,
        shape=per_image,
        batch=dims[0],
        contract=contract,
    )


def _read(path: Path) -> ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise VerifyError(f"can't read {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise VerifyError(f"{path} is truncated or not an ONNX file") from error
    if not model.graph.node:
        raise VerifyError(f"{path} is not an ONNX file of a network: its graph has no node")
    outside = next(_outside(model), None)
    if outside is not None:
        raise VerifyError(
            f"{path} keeps the tensor {outside!r} outside itself, which isn't read; write all into one file: "
            "onnx.save(onnx.load(FILE), NEW)"
        )
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # its exceptions share no base class
        raise VerifyError(f"{path} is damaged: {(str(error).splitlines() or ['its functions'])[0]}") from error


def _outside(message: Any) -> Iterator[str]:
    """Names of tensors whose values lie in other files, wherever the file has them."""
    if isinstance(message, TensorProto):
        if message.data_location == TensorProto.EXTERNAL or message.external_data:
            yield message.name
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from _outside(part)


def _layout(path: Path, dims: list[int], shape: tuple[int, ...], told: Layout | None) -> tuple[Layout, tuple[int, ...]]:
    """How the image's numbers are ordered, and the shape that they are given in; a size of 0 fits any."""
    C, H, W = shape
    orders: dict[Layout, tuple[int, ...]] = {"NCHW": (C, H, W), "NHWC": (H, W, C)}
    rest = dims[1:]
    fitting: dict[Layout, tuple[int, ...]] = {}
    for layout, order in orders.items():
        whole = (order, (H, W), (C * H * W,)) if C == 1 else (order, (C * H * W,))
        for form in whole:
            if len(form) == len(rest) and all(a in (0, b) for a, b in zip(rest, form, strict=True)):
                fitting[layout] = form
    takes = "x".join(str(size or "?") for size in dims)
    if not fitting or (told and told not in fitting):
        as_told = f" in {told}" if told else ""
        raise VerifyError(f"{path} takes {takes}, and the run's images are {C}x{H}x{W}{as_told} behind their number")
    alike = C == 1 and len(set(fitting.values())) == 1  # the same numbers in the same order
    if told is None and len(fitting) > 1 and not alike:
        raise VerifyError(f"{path} takes {takes}, which can be either order of {C}x{H}x{W}; say --layout NCHW or NHWC")
    layout = told or next(iter(fitting))
    return layout, fitting[layout]


def _values(path: Path, kind: np.dtype, contract: InputContract, channels: int, told: str | None) -> str:
    """What its numbers mean."""
    if kind.kind not in "fiu":
        raise VerifyError(f"{path} takes {kind} numbers, which images aren't")
    if contract.kind == "float":
        if told is not None or kind.kind != "f":
            raise VerifyError(
                f"{path} takes {kind}; the run's inputs are float32 numbers of your own loaders, given as they are"
            )
        return "given"
    if kind.kind != "f":
        if told not in (None, "pixels"):
            raise VerifyError(f"{path} takes {kind} numbers, so that it can be fed pixels alone, not {told!r}")
        if told is None and kind != np.uint8:
            raise VerifyError(f"{path} takes {kind} numbers; say --feed pixels if these are pixels")
        return "pixels"
    if told is None:
        raise VerifyError(
            f"{path} takes {kind} numbers and doesn't say what they mean; say --feed pixels (0 to 255), unit (0 to 1), "
            "normalized (by the mean and std of the run's data) or MEAN/STD"
        )
    if told not in ("pixels", "unit"):
        _mean_and_std(told, contract, channels)
    return told


def _mean_and_std(values: str, contract: InputContract, channels: int) -> tuple[np.ndarray, np.ndarray]:
    if values == "unit":
        return np.zeros((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32)
    try:
        texts = [values] * 2 if values == "normalized" else values.split("/")
        given = [contract.mean, contract.std] if values == "normalized" else [part.split(",") for part in texts]
        mean, std = (np.array([float(number) for number in part], np.float32).reshape(-1, 1, 1) for part in given)
    except ValueError as error:
        raise VerifyError(
            f"can't feed {values!r}; give pixels, unit, normalized or MEAN/STD, such as 0.5/0.25, of pixels / 255"
        ) from error
    if len(mean) not in (1, channels) or len(std) not in (1, channels) or not (std > 0).all():
        raise VerifyError(f"{values!r} is not one number, or {channels}, of mean and of a std above 0")
    return mean, std


def _work(asked: dict, path: Path, patience: float) -> None:
    # -P: our own folder is not on its path.
    command = [sys.executable, "-P", theirs_worker.__file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as worker:
        try:
            said, _ = worker.communicate(json.dumps(asked), timeout=patience)
        except subprocess.TimeoutExpired as error:
            raise VerifyError(f"{path} did not answer in {patience:.0f} s") from error
        finally:
            worker.kill()
    if not said.strip():
        code = worker.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        raise VerifyError(f"onnxruntime can't run {path}: its process {how}")
    answer = json.loads(said)
    if "error" in answer:
        raise VerifyError(f"onnxruntime can't run {path}: {answer['error']}")
