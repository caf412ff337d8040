"""Trials on a Ray cluster (extra `ray`): on any machine that sees the run folder under the same path.

Ray only brings trials to machines. What a trial reads and finds lies in files, never in Ray's object store, and its
retries are ours, counted as everywhere. Ray's processes stay for the next trial; when the driver dies, Ray ends them,
and the locks of their folders are free.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, final

from bitsmith.errors import RecipeError, RunError
from bitsmith.executor.executor import Executor
from bitsmith.executor.logged import perform_logged
from bitsmith.executor.work import PATIENCE, Ended, Work


@final
class RayCluster(Executor):
    """A cluster that is there (`ray start`). Every trial takes one CPU of it, and no GPU.

    Args:
        workers: trials at a time; None: as many as the cluster has CPUs now.
        address: HOST:PORT of its head, or "auto", the one that this machine belongs to.

    Raises:
        RecipeError: Ray isn't installed, or fewer than one worker.
        RunError: there is no such cluster, or it has no CPUs.
    """

    def __init__(self, workers: int | None = None, address: str = "auto") -> None:
        if workers is not None and workers < 1:
            raise RecipeError(f"--workers must be at least 1, got {workers}")
        if importlib.util.find_spec("ray") is None:
            raise RecipeError("--executor ray needs Ray: pip install 'bitsmith[ray]'")
        self._ray = _connect(address)
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if not cpus:
            raise RunError(f"the Ray cluster {address} has no CPUs; start its nodes with ray start --num-cpus")
        self._places = workers or cpus
        self._task = self._ray.remote(_perform).options(num_cpus=1, max_retries=0)
        self._tasks: dict[Any, int] = {}  # of what is at work its place

    @property
    def places(self) -> int:
        return self._places

    def begin(self, place: int, work: Work) -> None:
        own = self._task.remote(str(work.folder.absolute()), work.call, dict(work.arguments), os.getcwd())
        self._tasks[own] = place

    def ended(self, seconds: float) -> list[Ended]:
        tasks = list(self._tasks)
        done, _ = self._ray.wait(tasks, timeout=seconds)
        if done:  # and whatever else is
            done, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        return [self._ending(self._tasks.pop(task), task) for task in done]

    def _ending(self, place: int, task: Any) -> Ended:
        errors = self._ray.exceptions
        try:
            return Ended(place=place, reason=self._ray.get(task))
        except errors.RayTaskError as error:  # before the trial began: a node without bitsmith, say
            return Ended(place=place, reason=f"{type(error.cause).__name__}: {error.cause}".splitlines()[0])
        except errors.RayError as error:  # a process or a machine is gone
            return Ended(place=place, reason=f"its process is gone ({type(error).__name__})", died=True)

    def interrupt(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task)
        if self._tasks:
            tasks = list(self._tasks)
            _, left = self._ray.wait(tasks, num_returns=len(tasks), timeout=PATIENCE)
            for task in left:
                self._ray.cancel(task, force=True)
        self._tasks.clear()

    def close(self) -> None:
        self._ray.shutdown()


def _connect(address: str) -> ModuleType:
    """Ray, as a driver of that cluster, and quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what will come
    import ray

    try:
        if address != "auto":  # Ray would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:  # a ConnectionError is an OSError
        raise RunError(
            f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}); start one with ray start --head, "
            "and give its HOST:PORT as --address"
        ) from error
    return ray


def _perform(folder: str, call: str, arguments: dict[str, Any], current: str) -> str:
    """One trial, in a process of Ray's."""
    for path in (folder, current):
        if not Path(path).is_dir():
            return f"the node {os.uname().nodename} has no {path}: all nodes must see the folder under the same path"
    with contextlib.chdir(current):
        if current not in sys.path:
            sys.path.insert(0, current)
        return perform_logged(folder, call, arguments)
