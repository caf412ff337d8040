"""From an integer program to C99, and the proof that it computes the same numbers.

Any C99 compiler will do whose int has 32 bits at least and whose float32 is IEEE 754's, unless `--no-fpu` needs none.
"""

from bitsmith.deploy.c.device import Device, cortex_m_tools, run_on_cortex_m
from bitsmith.deploy.c.files import SELFTEST, CFiles, read_c, write_c
from bitsmith.deploy.c.fixed import run_fixed
from bitsmith.deploy.c.verify import CVerification, verify_c

__all__ = [
    "SELFTEST",
    "CFiles",
    "CVerification",
    "Device",
    "cortex_m_tools",
    "read_c",
    "run_fixed",
    "run_on_cortex_m",
    "verify_c",
    "write_c",
]
