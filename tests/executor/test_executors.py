"""Trials in this process and in processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trials import ElsewhereContract, ExecutorContract, begun, here, notes, told

from bitsmith.errors import RecipeError
from bitsmith.executor import InProcess, Processes, Work, run_all
from bitsmith.train import Event, memory

__all__ = ["here"]


class TestInProcess(ExecutorContract):
    @pytest.fixture
    def executor(self):
        with InProcess() as executor:
            yield executor

    def test_what_watch_raises_gets_out(self, here, executor):
        def stop(state):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run_all(executor, [told("a")], watch=stop)
        assert not (here / "a" / "notes").exists()

    def test_events_and_sentences_come_through(self, here, executor):
        (here / "saying.py").write_text(
            "def do(watch, say, *, event):\n    watch(event)\n    say('a sentence')\n    raise TypeError('a bug')\n"
        )
        events, said = [], []
        event = Event(stage="s", step=1, steps=2, images=3)
        work = Work(title="a", folder=Path("a"), call="saying:do", arguments={"event": event})
        with InProcess(events.append, said.append) as own, pytest.raises(TypeError, match="a bug"):
            run_all(own, [work])
        assert events == [event]
        assert said == ["a sentence"]


class TestProcesses(ElsewhereContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls):
        with Processes(2) as executor:
            yield executor

    def test_processes_stay_and_have_a_thread_and_a_processor_of_their_own(self, here, executor):
        works = [told(name, "0.3") for name in "abcd"]
        assert run_all(executor, works) == []
        assert notes("a")["begin"] < notes("b")["end"]
        assert len({begun(name)[0][0] for name in "abcd"}) == 2
        if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) >= 2:
            said = {(Path(name) / "log.txt").read_text().splitlines()[2] for name in "abcd"}
            assert len(said) == 2
            assert all(line.startswith("threads 1 cpus [") and "," not in line for line in said)


def test_processes_know_their_part_of_the_memory(here, monkeypatch):
    """Of what was free when the first began, however much the others have taken since."""
    (here / "sharing.py").write_text(
        "import torch\nfrom bitsmith.train import memory\n\n"
        "def do(watch, say):\n    say(f'may take {memory.limit(torch.device(\"cpu\")):.0f} bytes')\n"
    )
    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    with Processes(2) as executor:
        works = [Work(title=name, folder=Path(name), call="sharing:do") for name in "ab"]
        assert run_all(executor, works) == []
    assert ["may take 400000000 bytes" in Path(name, "log.txt").read_text() for name in "ab"] == [True, True]


def test_trials_may_read_data_in_processes_of_their_own(here):
    """As image folders are: with the listening thread on sys.stdin the forked process never began."""
    (here / "reading.py").write_text(
        "from torch.utils.data import DataLoader\n\n"
        "def do(watch, say):\n    say(f'read {len(list(DataLoader([1, 2, 3], num_workers=1, timeout=30)))}')\n"
    )
    with Processes(1) as executor:
        assert run_all(executor, [Work(title="a", folder=Path("a"), call="reading:do")]) == []
    assert "read 3" in Path("a/log.txt").read_text()


def test_processes_stop_when_the_one_that_started_them_is_killed(here):
    """kill -9 leaves nobody behind."""
    code = """
from trials import told
from bitsmith.executor import Processes, run_all
run_all(Processes(1), [told("a", "60")])
"""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}) as process:
        while not (here / "a" / "notes").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while "interrupted" not in notes("a"):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_there_must_be_a_worker():
    with pytest.raises(RecipeError, match="at least 1"):
        Processes(0)
