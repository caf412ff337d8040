"""Several processes that learn together, forked from this one; so nothing has to be imported anew."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def in_a_fresh_process(tests: Path) -> None:
    """Run a file of tests in a process of its own, and fail with what it says."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(tests)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-5000:]


def together(folder: Path, work: Callable[[], Any], count: int = 2) -> list[Any]:
    """What `work` returns in each of `count` processes, by rank; an exception where it raises one."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_child, args=(folder, work, rank, count)) for rank in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(200)
    return [pickle.loads((folder / f"{rank}").read_bytes()) for rank in range(count)]


def _child(folder: Path, work: Callable[[], Any], rank: int, count: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=count)
    try:
        result = work()
    except Exception as error:
        result = error
    (folder / f"{rank}").write_bytes(pickle.dumps(result))
    dist.barrier()
    os._exit(0)  # pytest's own ends are not for a child
