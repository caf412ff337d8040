"""Many trials through one small interface: in this process, in processes of this machine, on a Ray cluster."""

from bitsmith.executor.cluster import RayCluster
from bitsmith.executor.executor import Executor, run_all
from bitsmith.executor.inprocess import InProcess
from bitsmith.executor.logged import Teller
from bitsmith.executor.processes import Processes
from bitsmith.executor.work import LOG, PATIENCE, Ended, Failed, State, Work

__all__ = [
    "LOG",
    "PATIENCE",
    "Ended",
    "Executor",
    "Failed",
    "InProcess",
    "Processes",
    "RayCluster",
    "State",
    "Teller",
    "Work",
    "run_all",
]
