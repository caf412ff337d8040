"""The network on a microcontroller: compiled for a Cortex-M4F, run in qemu, its flash and RAM measured.

qemu has Arm's MPS2 board (AN386). What is measured is the linked image: the network, forty lines that start it, and of
the C library memcpy and memset. qemu counts no cycles, so nothing is said of speed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bitsmith.deploy.c.files import CFiles
from bitsmith.errors import VerifyError

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
_PACKAGES = {COMPILER: "gcc-arm-none-eabi libnewlib-arm-none-eabi", EMULATOR: "qemu-system-arm"}
_CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb")
_FPU = {True: ("-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"), False: ("-mfloat-abi=soft",)}


@dataclass(frozen=True, kw_only=True)
class Device:
    """A network on a Cortex-M4F.

    Args:
        differing: images of the self-test whose outputs aren't the embedded ones.
        code: bytes of instructions of the network alone.
        flash: bytes of the image that stay in flash: instructions and constants.
        ram: bytes of the image that lie in RAM, stack aside: the arena and one array of outputs.
        stack: bytes of stack that a run used.
    """

    differing: int
    code: int
    flash: int
    ram: int
    stack: int


def cortex_m_tools() -> str | None:
    """What is missing to compile for a Cortex-M and to run it, with the packages that have it; None if nothing is."""
    missing = [tool for tool in _PACKAGES if shutil.which(tool) is None]
    if not missing:
        return None
    return f"{' and '.join(missing)} missing: apt-get install {' '.join(_PACKAGES[tool] for tool in missing)}"


def run_on_cortex_m(files: CFiles, *, timeout: float = 300) -> Device:
    """Compile the network with -Os for a Cortex-M4F, run its self-test in qemu, measure the image.

    Args:
        timeout: seconds that the self-test may take.

    Raises:
        VerifyError: tools are missing, the compiler refuses, the emulated device doesn't come to an end.
    """
    missing = cortex_m_tools()
    if missing is not None:
        raise VerifyError(missing)
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        _write_start(files, folder)
        firmware, tested = folder / "firmware.elf", folder / "selftest.elf"
        _compile(files, folder, firmware)
        _compile(files, folder, tested, "-DSELFTEST", str(files.folder / "selftest.c"))
        alone = folder / "network.o"
        _run([COMPILER, *_flags(files), "-c", "-o", str(alone), str(files.source)])
        text, data, bss = _sections(firmware)
        said = _emulate(tested, timeout)
        return Device(
            differing=said["differing"],
            code=_code(alone),
            flash=text + data,
            ram=data + bss,
            stack=said["stack"],
        )


def _flags(files: CFiles) -> list[str]:
    return ["-std=c99", "-ffp-contract=off", "-Os", "-Wall", "-Wextra", "-Wconversion", "-Werror", *_CORTEX_M4,
            *_FPU[files.fpu], "-iquote", str(files.folder)]  # fmt: skip


def _write_start(files: CFiles, folder: Path) -> None:
    # C, not HTML; names are escaped by `literals`
    templates = Environment(  # nosec B701
        loader=FileSystemLoader(Path(__file__).parent / "templates"), undefined=StrictUndefined
    )
    values = {
        "name": files.name,
        "macro": files.name.upper(),
        "pixels": files.pixels,
        "output_type": "float" if files.fpu else "int32_t",
    }
    for name in ("cortex_m.c", "cortex_m.ld"):
        (folder / name).write_text(templates.get_template(f"{name}.j2").render(values), encoding="utf-8")


def _compile(files: CFiles, folder: Path, target: Path, *more: str) -> None:
    start = [f"-T{folder / 'cortex_m.ld'}", "-nostartfiles", "-Wl,--gc-sections", str(folder / "cortex_m.c")]
    _run([COMPILER, *_flags(files), *more, *start, str(files.source), "-o", str(target)])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VerifyError(f"{command[0]} refuses: {done.stderr.strip()[:1000]}")
    return done.stdout


def _sections(path: Path) -> tuple[int, int, int]:
    """text (with constants), data, bss."""
    numbers = _run(["arm-none-eabi-size", str(path)]).splitlines()[1].split()
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


def _code(path: Path) -> int:
    lines = _run(["arm-none-eabi-size", "-A", str(path)]).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(".text"))


def _emulate(path: Path, timeout: float) -> dict[str, int]:
    command = [EMULATOR, "-M", "mps2-an386", "-cpu", "cortex-m4", "-nographic", "-monitor", "none", "-serial", "none",
               "-semihosting-config", "enable=on,target=native", "-kernel", str(path)]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise VerifyError(f"the emulated Cortex-M4 didn't end within {timeout} s") from error
    said = dict(re.findall(r"(differing|stack) (\d+)", done.stdout + done.stderr))
    if said.keys() != {"differing", "stack"}:
        raise VerifyError(f"the emulated Cortex-M4 stopped: {(done.stdout + done.stderr).strip()[:1000]}")
    return {name: int(value) for name, value in said.items()}
