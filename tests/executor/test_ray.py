"""Trials on a local Ray cluster of two nodes, started here on loopback: the contract, and the driver killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trials import ElsewhereContract, begun, counting, here, told

from bitsmith.errors import RecipeError, RunError
from bitsmith.executor import RayCluster, run_all

ray = pytest.importorskip("ray")

__all__ = ["here"]
MEMORY = 80 * 2**20  # bytes of each node's object store, which is hardly used


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """HOST:PORT of a cluster of two nodes with a CPU each, all of it on loopback."""
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as on a laptop: no address but 127.0.0.1
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # 15 by default: on a busy machine its processes hardly ran
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in quiet.items():
            patch.setenv(name, value)
        patch.setattr(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False)
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": MEMORY, "node_ip_address": "127.0.0.1"}
        cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        try:
            cluster.add_node(**node)
            yield cluster.address
        finally:
            ray.shutdown()
            cluster.shutdown()


class TestRay(ElsewhereContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, address):
        with RayCluster(address=address) as executor:
            assert executor.places == 2
            yield executor

    def test_an_interruption_lets_trials_write_their_checkpoints(self, here, executor, full):
        if not full:
            pytest.skip("in the full tier: a minute")
        super().test_an_interruption_lets_trials_write_their_checkpoints(here, executor)

    def test_both_nodes_work(self, here, executor):
        assert run_all(executor, [told(name, "0.5") for name in "abcd"]) == []
        assert len({begun(name)[0][0] for name in "abcd"}) >= 2

    def test_a_folder_that_a_node_does_not_see_is_named(self, here, executor, monkeypatch):
        monkeypatch.setattr("os.getcwd", lambda: "/no/such/folder")
        (problem,) = run_all(executor, [told("a")])
        assert "has no /no/such/folder/a: all nodes must see" in problem.reason


def test_a_driver_that_was_killed_goes_on(here, address, full):
    """kill -9 of the driver: Ray ends its processes, and the next driver's go on from their checkpoints."""
    if not full:
        pytest.skip("in the full tier: half a minute")
    code = f"""
from trials import counting
from bitsmith.executor import RayCluster, run_all
with RayCluster(address={address!r}) as executor:
    print(run_all(executor, [counting("a", 40), counting("b", 40)]))
"""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-W", "error", "-c", code]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}) as process:
        while not all((here / name / "count").exists() for name in "ab"):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    wait_until_dead([pid for name in "ab" for pid, _ in begun(name)])
    left = [int((here / name / "count").read_text()) for name in "ab"]
    assert all(0 < at < 40 for at in left)
    with RayCluster(2, address) as executor:
        assert run_all(executor, [counting("a", 40), counting("b", 40)]) == []
    for name, at in zip("ab", left, strict=True):
        assert [start for _, start in begun(name)] == [0, at]
        assert (here / name / "count").read_text() == "40"


def wait_until_dead(pids):
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_no_cluster(monkeypatch):
    for address in ("127.0.0.1:9", "nowhere", "nowhere:port"):
        with pytest.raises(RunError, match=rf"no Ray cluster answers at '{address}' .*ray start --head"):
            RayCluster(address=address)
    with pytest.raises(RecipeError, match="at least 1"):
        RayCluster(0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"needs Ray: pip install 'bitsmith\[ray\]'"):
        RayCluster()
