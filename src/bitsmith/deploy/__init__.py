"""From a frozen network to files that run as integers, and the proof that they compute what was trained."""

from bitsmith.deploy.arithmetic import spoken_arithmetic
from bitsmith.deploy.lower import lower
from bitsmith.deploy.onnx_file import export_onnx, write_onnx
from bitsmith.deploy.program import IntegerProgram
from bitsmith.deploy.reference import run, trace
from bitsmith.deploy.runtime import LEVELS, kernels
from bitsmith.deploy.verify import Verification, verify_onnx

__all__ = [
    "LEVELS",
    "IntegerProgram",
    "Verification",
    "export_onnx",
    "kernels",
    "lower",
    "run",
    "spoken_arithmetic",
    "trace",
    "verify_onnx",
    "write_onnx",
]
