"""What sharing out a trial costs: trials that do nothing, up to 10,000 of them, in each executor.

    python -m benchmarks.executor --workers 2              a Ray cluster of one node is started here, on loopback
    python -m benchmarks.executor --address HOST:PORT      or that one is taken
    python -m benchmarks.executor --quick                  ten times fewer trials

`us_per_trial` is all that a trial takes beside its own work: its folder and its log are made, it is handed to a
process, called, and its end is heard of. The seconds from nothing to the end of one first trial for each place, in
which processes start and import bitsmith, stand beside it as `start_seconds` and are not part of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.result import write_result
from bitsmith.executor import Executor, InProcess, Processes, RayCluster, Work, run_all

NAME = "executor"
COUNTS = (100, 1_000, 10_000)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--address", default=None, help="of a Ray cluster that is there")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    counts = tuple(count // 10 for count in COUNTS) if arguments.quick else COUNTS
    began = time.process_time()
    workers: int = arguments.workers
    rows = measure("inprocess", InProcess, counts) + measure("processes", lambda: Processes(workers), counts)
    with cluster(workers, arguments.address) as address:
        rows += measure("ray", lambda: RayCluster(workers, address), counts)
    ratios = {f"{row['executor']} us_per_trial of {row['trials']}": row["us_per_trial"] for row in rows}
    path = write_result(
        NAME,
        ratios=ratios,
        rows=rows,
        settings={"workers": workers, "processors": len(os.sched_getaffinity(0)), "own_cluster": not arguments.address},
        seed=0,
        core_hours=(time.process_time() - began) / 3600,
        quick=arguments.quick,
    )
    print(path)


def measure(name: str, make: Callable[[], Executor], counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row for each number of trials, all by one executor."""
    rows = []
    began = time.perf_counter()
    with make() as executor:
        share_out(executor, executor.places)
        start = time.perf_counter() - began
        for count in counts:
            seconds = share_out(executor, count)
            rows.append(
                {
                    "executor": name,
                    "places": executor.places,
                    "trials": count,
                    "seconds": round(seconds, 4),
                    "us_per_trial": round(1e6 * seconds / count, 1),
                    "start_seconds": round(start, 2),
                }
            )
            print(f"{name:9} {count:6,} trials: {rows[-1]['us_per_trial']:9,.1f} us each", flush=True)
    return rows


def share_out(executor: Executor, count: int) -> float:
    """Seconds for so many trials that do nothing."""
    with tempfile.TemporaryDirectory() as folder:
        call = "benchmarks.executor:nothing"
        works = [Work(title=str(n), folder=Path(folder) / str(n), call=call) for n in range(count)]
        began = time.perf_counter()
        failed = run_all(executor, works)
        seconds = time.perf_counter() - began
    assert not failed, failed[0]
    return seconds


def nothing(watch: object, say: object) -> None:
    """The trial."""


@contextlib.contextmanager
def cluster(cpus: int, address: str | None) -> Iterator[str]:
    """The address of a Ray cluster: the given one, or that of one node on loopback, ended afterwards."""
    if address is not None:
        yield address
        return
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    node = {"num_cpus": cpus, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
    own = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        assert own.address is not None
        yield own.address
    finally:
        own.shutdown()


if __name__ == "__main__":
    main()
