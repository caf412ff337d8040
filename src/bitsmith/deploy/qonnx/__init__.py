"""From an integer program to QONNX, which tools for FPGAs read, and the proof that it computes the same numbers."""

from bitsmith.deploy.qonnx.exactness import all_exact
from bitsmith.deploy.qonnx.file import to_qonnx, write_qonnx
from bitsmith.deploy.qonnx.finn import check_streamlining
from bitsmith.deploy.qonnx.verify import QonnxVerification, verify_qonnx

__all__ = ["QonnxVerification", "all_exact", "check_streamlining", "to_qonnx", "verify_qonnx", "write_qonnx"]
