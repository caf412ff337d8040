"""onnxruntime: sessions at every optimization level, and which kernels it really ran."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from bitsmith.deploy.silent import onnxruntime as ort
from bitsmith.errors import VerifyError

LEVELS: dict[str, ort.GraphOptimizationLevel] = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# Kernels that sum with weights, by what they compute in.
INTEGER_KERNELS = frozenset(
    {"QLinearConv", "ConvInteger", "MatMulInteger", "QLinearMatMul", "QGemm", "NhwcQLinearConv", "QLinearConvTranspose"}
)
FLOAT_KERNELS = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "NhwcConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
    | {"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"}
)


def session(
    model: Path | str | bytes, level: str = "all", *, threads: int = 1, profile: str | None = None
) -> ort.InferenceSession:
    """An onnxruntime CPU session.

    Args:
        model: a file or its bytes.
        level: a key of LEVELS.
        threads: within one operator.
        profile: prefix of the profile file, or None.

    Raises:
        VerifyError: onnxruntime can't load the model.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    name = "the model" if isinstance(model, bytes) else str(model)
    try:
        # As bytes, so that no path has to be UTF-8 and nothing beside the file is read.
        source = model if isinstance(model, bytes) else Path(model).read_bytes()
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise VerifyError(f"onnxruntime can't load {name} at level {level!r}: {_first_line(error)}") from error


def infer(
    running: ort.InferenceSession, images: np.ndarray, outputs: list[str] | None = None, *, batch: int = 100
) -> list[np.ndarray]:
    """The outputs (all, or those named) for images (N, ...), batch by batch.

    Raises:
        VerifyError: onnxruntime fails on the images.
    """
    feed = running.get_inputs()[0].name
    try:
        parts = [running.run(outputs, {feed: images[i : i + batch]}) for i in range(0, len(images), batch)]
    except Exception as error:  # as above
        raise VerifyError(f"onnxruntime can't run the model: {_first_line(error)}") from error
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def kernel_nodes(path: Path | str, level: str = "all", *, threads: int = 1) -> list[tuple[str, str]]:
    """(node, kernel) for every kernel of one run on zeros, from onnxruntime's own profile.

    Raises:
        VerifyError: onnxruntime can't load or run the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        running = session(path, level, threads=threads, profile=str(Path(folder) / "profile"))
        read = running.get_inputs()[0]
        shape = [size if isinstance(size, int) else 1 for size in read.shape]
        infer(running, np.zeros(shape, np.uint8 if read.type == "tensor(uint8)" else np.float32))
        events = json.loads(Path(running.end_profiling()).read_text())
    suffix = "_kernel_time"
    return [
        # Layout changes rename a node to "name_token_7".
        (re.sub(r"_token_\d+$", "", event["name"].removesuffix(suffix)), event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(suffix)
    ]


def kernels(path: Path | str, level: str = "all", *, threads: int = 1) -> Counter[str]:
    """How often onnxruntime ran which kernel in one inference.

    Example:
        >>> kernels("network.onnx")  # doctest: +SKIP
        Counter({'QLinearConv': 10, 'QLinearAdd': 3, 'Cast': 2, 'MatMulInteger': 1, ...})

    Raises:
        VerifyError: onnxruntime can't load or run the file.
    """
    return Counter(kernel for _, kernel in kernel_nodes(path, level, threads=threads))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
