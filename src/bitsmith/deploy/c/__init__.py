"""From an integer program to C99 that any compiler turns into the same numbers, and the proof that it does."""

from bitsmith.deploy.c.device import Device, cortex_m_tools, run_on_cortex_m
from bitsmith.deploy.c.files import CFiles, read_c, write_c
from bitsmith.deploy.c.fixed import run_fixed
from bitsmith.deploy.c.verify import CVerification, verify_c

__all__ = [
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
