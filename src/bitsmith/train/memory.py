"""Memory: what a training takes at its peak, foretold from steps on a few images, and how large a part of a batch fits.

A step on n images is tried for two or more n and the peak of the process's resident memory is read (on CUDA: of what
torch has reserved). Tensors that are kept for the backward pass grow with n, weights, gradients and the optimizer's
state don't:

    peak(n) = held + per_image n

by the two largest n tried, which grow until the images alone take 128 MB. Counting the tensors instead, which is exact,
foretold 31 % too little for ResNet-20 at batch 256: what the allocator and oneDNN take beside them is only seen from
outside. Whole processes are compared, so that what the data and the libraries hold is counted too.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from bitsmith.errors import TrainingError
from bitsmith.train.parallel import ALONE, Processes

_ENOUGH = 128e6  # bytes that images take: from 32 MB on lines were up to 71 % too steep (measured)
_LEAP = 32  # times as many images as the try before at most
USABLE = 0.8  # of what is free: slopes were up to 10 % off, and others take some too (measured)
WORKER_MEMORY = "BITSMITH_WORKER_MEMORY"  # in a worker's environment: the bytes that it may take in all
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a process takes at its peak in a step.

    Args:
        held: bytes, whatever the batch.
        per_image: bytes.

    Example:
        >>> Forecast(held=9e8, per_image=2e6).of(128)
        1156000000
    """

    held: float
    per_image: float

    def of(self, images: int) -> int:
        """Bytes at the peak of a step on so many images at once."""
        return round(self.held + self.per_image * images)

    def part(self, batch: int, least: int, limit: float, processes: int = 1) -> int | None:
        """The largest of batch, batch / 2, batch / 4, ... down to `least` whose peak stays within; None if none does.

        Args:
            least: images that can be computed at once.
            limit: bytes that the process may take.
            processes: that share a batch.
        """
        size = batch
        while self.of(-(-size // processes)) > limit:
            if size <= least:
                return None
            size = max(least, -(-size // 2))
        return size


def foretell(step: Callable[[int], object], *, least: int, most: int, device: torch.device) -> Forecast | None:
    """The forecast of a step, by trying it; None where this machine doesn't let its memory be measured.

    Args:
        step: a step on so many images, as often as it is called.
        least, most: images that it can be tried on.
    """
    if not restart_peak(device):
        return None
    tried: list[tuple[int, int]] = []
    size = least
    while True:
        restart_peak(device)
        now = in_use(device)
        step(size)
        tried.append((size, peak(device)))
        grown = max(1.0, tried[-1][1] - now)
        if size == most or (len(tried) > 2 and grown >= _ENOUGH):  # the first also makes what is made once
            break
        leap = int(min(_LEAP, max(2, _ENOUGH / grown * 2)))
        room = limit(device) - in_use(device)
        if grown * leap > room:  # from below: a part of what grew is held whatever the images
            leap = 2
        if grown * leap > room:
            break
        size = min(most, size * leap)
    n, top = tried[-1]
    if len(tried) == 1:
        return Forecast(held=top, per_image=0.0) if n == most else Forecast(held=now, per_image=grown / n)
    fewer, lower = tried[-2]
    slope = max(0.0, (top - lower) / (n - fewer))
    return Forecast(held=max(top, lower) - slope * n, per_image=slope)


def fitting_part(
    found: Forecast, batch: int, least: int, device: torch.device, what: str, among: Processes = ALONE
) -> int:
    """How many images of a batch can pass at once on this machine now: all, a half, a quarter, ...

    Args:
        least: images that can pass at once.
        what: is to be computed, for the message.
        among: the processes that share a batch; those of one machine share what is free.

    Raises:
        TrainingError: not even the least.
    """
    share = 1 if device.type == "cuda" else among.here
    part = found.part(batch, least, limit(device, share), among.count)
    if part is None:
        raise TrainingError(
            f"{what}: even {least} images at once take about {in_words(found.of(least))} of memory, where "
            f"{in_words(in_use(device))} are in use and {free_in_words(device)}; free some, or take "
            + ("fewer workers, " if _worker_memory(device) else "")
            + "a smaller input or a narrower network"
        )
    return part


def limit(device: torch.device, share: int = 1) -> float:
    """Bytes that this process may take in all: what it has, and USABLE of what is free or of its share in that.

    A worker may take no more than its part of what was free when its executor began: of those that begin together none
    sees what the others will take.
    """
    free = in_use(device) + USABLE * available(device) / share
    return min(free, _worker_memory(device) or free)


def worker_memory(workers: int) -> int:
    """Bytes for each of so many processes of this machine, by what is free now; 0 where it doesn't say."""
    try:
        return round(USABLE * available(torch.device("cpu")) / workers)
    except OSError:  # other systems have no /proc; nothing is foretold there either
        return 0


def _worker_memory(device: torch.device) -> int:
    return 0 if device.type == "cuda" else int(os.environ.get(WORKER_MEMORY, "0"))


def free_in_words(device: torch.device) -> str:
    """ "19.4 GB are free", or "19.4 GB are free, 7.8 GB in all for this worker"."""
    own = _worker_memory(device)
    return f"{in_words(available(device))} are free" + (f", {in_words(own)} in all for this worker" if own else "")


def in_use(device: torch.device) -> int:
    """Bytes that this process has now."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else _status("VmRSS")


def peak(device: torch.device) -> int:
    """The most bytes that it has had since `restart_peak`."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _status("VmHWM")


def restart_peak(device: torch.device) -> bool:
    """Give back what is not in use and let the peak begin anew; False where the machine knows no such thing."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others give back by themselves
    if trim is not None:
        trim(0)
    try:
        (_PROC / "self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def available(device: torch.device) -> int:
    """Bytes that are free for this process: on the GPU; else of the machine and of every control group that it is in.

    Memory of files that the kernel can drop counts as free. Swap doesn't: a training that swaps is no use to anyone.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_field(_PROC / "meminfo", "MemAvailable")]
    for line in (_PROC / "self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            free += _free_in_groups(controllers, path)
    return max(0, min(free))


def _free_in_groups(controllers: str, path: str) -> list[int]:
    """What each group on the way to the root has left; inside a container the way may begin at its own root."""
    root = _CGROUPS / controllers
    files = ("memory.max", "memory.current") if not controllers else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    droppable = "inactive_file" if not controllers else "total_inactive_file"
    here, found = root / path.lstrip("/"), []
    for group in dict.fromkeys([here, *here.parents, root]):
        if not group.is_relative_to(root) or not (group / files[0]).exists() or not (group / files[1]).exists():
            continue
        most = (group / files[0]).read_text(encoding="utf-8").strip()
        if most != "max":
            used = int((group / files[1]).read_text(encoding="utf-8"))
            statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
            found.append(int(most) - used + int(statistics.get(droppable, 0)))
    return found


def _status(name: str) -> int:
    return _field(_PROC / "self/status", name)


def _field(file: Path, name: str) -> int:
    """A line "NAME: 123 kB" in bytes."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def in_words(size: float) -> str:
    """Bytes for people.

    Example:
        >>> in_words(1_234_000_000), in_words(56_000_000)
        ('1.23 GB', '56 MB')
    """
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
