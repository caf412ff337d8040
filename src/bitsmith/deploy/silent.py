"""onnxruntime, told to keep to itself: the one place that imports it.

Its official builds since 1.29 report about the process, the sessions and the models to their makers over the network,
unless this variable is set before they are loaded; later it is too late for the first report
(github.com/microsoft/onnxruntime, pull request 27379 and docs/Privacy.md). bitsmith uses no network that nobody asked
for. Who wants to report sets the variable to 0.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

__all__ = ["onnxruntime"]
