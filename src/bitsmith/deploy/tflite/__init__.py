"""From an integer program to a TFLite file of int8 tensors, for Arm Ethos-U (Vela) and everything that runs TFLite.

The schema and the interpreter are LiteRT's (extra `tflite`); what Arm's compiler makes of the file, `vela` says.
"""

from bitsmith.deploy.tflite.file import write_tflite
from bitsmith.deploy.tflite.vela import ACCELERATORS, VelaReport, compile_with_vela, vela_missing
from bitsmith.deploy.tflite.verify import TfliteVerification, verify_tflite
from bitsmith.deploy.tflite.writer import litert_missing

__all__ = [
    "ACCELERATORS",
    "TfliteVerification",
    "VelaReport",
    "compile_with_vela",
    "litert_missing",
    "vela_missing",
    "verify_tflite",
    "write_tflite",
]
