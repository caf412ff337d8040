"""Several processes that learn one thing together: each computes its samples of every batch.

All of them run the same program on the same seeds. Of every batch (or part of one) process r of R takes the samples
N r / R .. N (r + 1) / R; BatchNorm's statistics are those of all samples (`bitsmith.quantize.shared_norm`), outputs are
gathered, so that every process computes the loss of the whole batch, whatever it is, and gradients are summed once per
step. So a run in R processes is the run in one, up to float rounding, and all processes hold the same numbers, which is
checked at the end of every epoch. What takes no gradients (calibration, scoring, sensitivities, allocation) every
process does by itself, with equal results.

accelerate starts the processes' group (`join`); its DistributedDataParallel isn't used: that averages gradients over
processes that each have a loss of their own, which is another number where classes are weighed or batches are uneven,
and it knows neither of architecture parameters learned from other batches nor of BatchNorm's statistics on CPUs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bitsmith.errors import RecipeError, TrainingError
from bitsmith.quantize import Own

_FAILED = f"bitsmith/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"  # torchrun's store outlives a restart


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """Which process of how many this is.

    Args:
        rank: 0 is the one that writes files and talks.
        count: of them all.
        here: of them on this machine.
    """

    rank: int = 0
    count: int = 1
    here: int = 1

    def own(self, samples: int) -> Own | None:
        """This process's of so many samples; None where all processes compute them all: one process, or too few."""
        if self.count == 1 or samples < self.count:
            return None
        start, stop = (samples * r // self.count for r in (self.rank, self.rank + 1))
        return Own(start=start, stop=stop, total=samples)


ALONE = Processes()


def processes() -> Processes:
    """Those of torch's process group; one where there is none."""
    if not dist.is_available() or not dist.is_initialized():
        return ALONE
    count = dist.get_world_size()
    return Processes(rank=dist.get_rank(), count=count, here=int(os.environ.get("LOCAL_WORLD_SIZE", count)))


def asked_for() -> int:
    """How many processes a launcher such as torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> Processes:
    """Join the group of the processes that torchrun has started: nccl where there are GPUs, else gloo."""
    if asked_for() > 1 and not dist.is_initialized():
        from accelerate import PartialState  # only here, as it takes half a second

        PartialState(cpu=not torch.cuda.is_available())
    return processes()


def refuse_processes(what: str, reason: str) -> None:
    """Refuse what can't be done by several processes.

    Raises:
        RecipeError: there are several.
    """
    if processes().count > 1:
        raise RecipeError(f"{what} can't be done by several processes yet: {reason}; start it without torchrun")


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their sums over all processes, in one message for each type of number."""
    found = [p.grad for p in parameters if p.grad is not None]
    for dtype in dict.fromkeys(g.dtype for g in found):
        some = [g for g in found if g.dtype == dtype]
        flat = torch.cat([g.reshape(-1) for g in some])
        dist.all_reduce(flat)
        for gradient, summed in zip(some, flat.split([g.numel() for g in some]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def gather(outputs: Tensor, own: Own) -> Tensor:
    """The outputs of all samples of a batch, of which this process's alone carry gradients."""
    every = outputs.new_zeros(own.total, *outputs.shape[1:])
    every[own.start : own.stop] = outputs.detach()
    dist.all_reduce(every)
    return torch.cat([every[: own.start], outputs, every[own.stop :]])


def least(number: int, device: torch.device) -> int:
    """The least of a number over all processes."""
    if processes().count == 1:
        return number
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


def agree(values: Mapping[str, Any], what: str) -> None:
    """Make sure that all processes hold the same; values are tensors or JSON-able, mappings and lists of them too.

    Raises:
        TrainingError: naming the first that differs.
    """
    if processes().count == 1:
        return
    own = {name: _digest(value) for name, value in _flat(values, "").items()}
    every: list[Any] = [None] * processes().count
    dist.all_gather_object(every, own)
    for rank, other in enumerate(every):
        for name in dict.fromkeys([*every[0], *other]):
            if every[0].get(name) != other.get(name):
                raise TrainingError(
                    f"{what}: process {rank} has another {name} than process 0, so they no longer learn one network; "
                    "are all on machines of one kind, with the same files, data and versions?"
                )


def broadcast(value: Any) -> Any:
    """What process 0 gives, for all; it may be anything that can be pickled."""
    if processes().count == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def first_to_fail() -> bool:
    """Whether this is the first process that reports a failure: one message is enough. True where there is one."""
    if not dist.is_available() or not dist.is_initialized():
        return True
    try:
        store = dist.distributed_c10d._get_default_store()
        mine = f"process {dist.get_rank()}"
        return store.compare_set(_FAILED, "", mine).decode() == mine
    except (RuntimeError, ValueError):  # the process that kept it is gone, so that one was the first
        return False


def is_lost(error: BaseException) -> bool:
    """Whether an error means that another process has gone."""
    told = str(error)
    return isinstance(error, dist.DistError) or any(word in told for word in ("gloo", "NCCL", "onnection closed"))


def _flat(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for key, part in value.items() for k, v in _flat(part, f"{name}.{key}" if name else key).items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {k: v for i, part in enumerate(value) for k, v in _flat(part, f"{name}.{i}").items()}
    return {name: value}


def _digest(value: Any) -> str:
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return hashlib.sha256(data).hexdigest()
    return json.dumps(value, default=str)
