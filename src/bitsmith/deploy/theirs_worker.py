"""Runs an ONNX file that others made; a program of its own.

A file can ask for endless memory or time, or bring onnxruntime down: here that ends this process and no other. In: one
JSON value {model, images, outputs, level, batch, fixed, memory, results}, where `images` is an .npy file and `fixed`
says that the file takes exactly `batch` images at once. Out: {} and the outputs, in order, in the .npz file `results`,
or {error}.
"""

from __future__ import annotations

import json
import os
import resource
import sys

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as `bitsmith.deploy.silent`, which would import torch, too

import onnxruntime as ort


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed meanwhile is no answer
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        outputs = _run(asked)
        np.savez(asked["results"], *outputs)
        answer = {}
    except Exception as error:  # onnxruntime's exceptions share no base class
        answer = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0]}
    print(json.dumps(answer), file=answers, flush=True)


def _run(asked: dict) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, asked["level"])
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    running = ort.InferenceSession(asked["model"], options, providers=["CPUExecutionProvider"])
    feed = next(read.name for read in running.get_inputs())
    images, batch = np.load(asked["images"], mmap_mode="r", allow_pickle=False), asked["batch"]
    parts: list[list[np.ndarray]] = []
    for start in range(0, len(images), batch):
        given = images[start : start + batch]
        count = len(given)
        if asked["fixed"] and count < batch:
            given = np.concatenate([given, np.repeat(given[:1], batch - count, 0)])
        found = [np.asarray(values) for values in running.run(asked["outputs"], {feed: given})]
        for name, values in zip(asked["outputs"], found, strict=True):
            if values.ndim == 0 or len(values) != len(given) or values.dtype.kind not in "fiub":
                raise ValueError(f"its tensor {name!r} is {values.dtype}{list(values.shape)} for {len(given)} images")
        parts.append([values[:count] for values in found])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


if __name__ == "__main__":
    main()
