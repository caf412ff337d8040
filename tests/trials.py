"""Trials that do as they are told, and what every executor must do with them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bitsmith.executor import Executor, Work, run_all
from bitsmith.executor import executor as loop

# Written to a folder that is the current one, so that every process can import it.
MODULE = """
import os, signal, subprocess, time
from pathlib import Path
from bitsmith.errors import TrainingError
from bitsmith.files import write_text

def note(folder, text):
    with open(Path(folder) / "notes", "a") as file:
        file.write(f"{text} {time.monotonic()}\\n")

def do(watch, say, *, folder, words):
    try:
        note(folder, f"begin:{os.getpid()}")
        say(f"threads {os.environ.get('OMP_NUM_THREADS')} cpus {sorted(os.sched_getaffinity(0))}")
        print("printed", flush=True)
        subprocess.run(["echo", "native"])  # os.system would ignore an interruption meanwhile
        for word in words:
            if word == "fail":
                raise TrainingError("told\\nto")
            if word == "bug":
                raise TypeError("a bug")
            if word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(float(word))
    except KeyboardInterrupt:
        note(folder, "interrupted")
        raise
    note(folder, "end")

def count(watch, say, *, folder, to):
    '''Counts up, a checkpoint after each number.'''
    file = Path(folder) / "count"
    at = int(file.read_text()) if file.exists() else 0
    note(folder, f"begin:{os.getpid()}:{at}")
    for n in range(at, to):
        time.sleep(0.05)
        write_text(file, str(n + 1))
    note(folder, "end")
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A current folder with the module `told` in it."""
    (tmp_path / "told.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def told(name: str, *words: str | float, after: str | None = None) -> Work:
    folder = Path(name)
    return Work(
        title=name,
        folder=folder,
        call="told:do",
        arguments={"folder": str(folder.absolute()), "words": list(map(str, words))},
        after=None if after is None else Path(after),
    )


def counting(name: str, to: int) -> Work:
    folder = Path(name)
    arguments = {"folder": str(folder.absolute()), "to": to}
    return Work(title=name, folder=folder, call="told:count", arguments=arguments)


def notes(name: str | Path) -> dict[str, float]:
    """What a trial noted, each with its time; "begin" is the first one's."""
    lines = [line.split() for line in (Path(name) / "notes").read_text().splitlines()]
    found: dict[str, float] = {}
    for word, when in lines:
        found.setdefault(word.partition(":")[0], float(when))
    return found


def begun(name: str | Path) -> list[list[int]]:
    """[process, and what it counted from] of every time that a trial was begun."""
    words = [line.split()[0] for line in (Path(name) / "notes").read_text().splitlines()]
    return [list(map(int, word.split(":")[1:])) for word in words if word.startswith("begin")]


class ExecutorContract:
    """What holds wherever trials are done. A test class supplies the fixture `executor`."""

    def test_failures_are_told_once_and_stop_only_what_needs_them(self, here, executor: Executor):
        said, states = [], []
        works = [
            told("a", "fail"),
            told("b"),
            told("c", after="a"),
            told("d/f", after="c"),
            told("e", after="b"),
            told("g", after="done-long-ago"),
        ]
        failed = run_all(executor, works, watch=states.append, failed=said.append)
        assert said == failed
        assert {problem.title: problem.reason for problem in failed} == {
            "a": "told to",
            "c": "what it starts from failed; see a",
            "d/f": "what it starts from failed; see c",
        }
        assert str(failed[0]).startswith("a failed: told to")
        assert all("end" in notes(name) for name in ("b", "e", "g"))
        assert notes("e")["begin"] > notes("b")["end"]
        assert not (Path("c") / "notes").exists()
        assert (states[-1].done, states[-1].total) == (6, 6)
        assert len(states[0].at_work) == executor.places
        assert states[0].at_work[0][0] == "a"
        assert run_all(executor, []) == []
        assert run_all(executor, [told("again")]) == []  # it can be used again
        assert "end" in notes("again")

    def test_more_trials_than_places(self, here, executor: Executor):
        works = [told(f"t{n}", "0.01") for n in range(3 * executor.places)]
        assert run_all(executor, works) == []
        spans = [notes(work.folder) for work in works]
        for span in spans:
            at_once = [own for own in spans if own["begin"] <= span["begin"] < own["end"]]
            assert len(at_once) <= executor.places


class ElsewhereContract(ExecutorContract):
    """What holds of processes that aren't ours. The executor has two places."""

    def test_a_log_has_all_that_is_said(self, here, executor: Executor):
        (problem,) = run_all(executor, [told("a", "bug"), told("b")])
        assert problem.reason == "TypeError: a bug"
        assert str(problem) == "a failed: TypeError: a bug; see a/log.txt"
        lines = (Path("a") / "log.txt").read_text().splitlines()
        assert lines[1] == "starting"
        assert lines[2].startswith("threads 1 ")
        assert {"printed", "native", "Traceback (most recent call last):"} <= set(lines)
        assert lines[-1] == "error: TypeError: a bug"

    def test_a_process_that_dies_in_a_trial_is_replaced_and_goes_on_from_the_checkpoint(
        self, here, executor: Executor, monkeypatch, full
    ):
        """What kills it each time is given up."""
        monkeypatch.setattr(loop, "RETRIES", 3 if full else 1)
        killed = []

        def kill(state):
            file = Path("a") / "count"
            if not killed and file.exists() and int(file.read_text()) >= 3:
                killed.append(begun("a")[0][0])
                os.kill(killed[0], signal.SIGKILL)

        (problem,) = run_all(executor, [counting("a", 40), told("b", "die"), told("c")], watch=kill)
        assert problem.title == "b"
        assert problem.reason.startswith("its process ")
        assert problem.reason.endswith(f"({loop.RETRIES + 1} times)")
        assert len(begun("b")) == loop.RETRIES + 1
        (first, zero), (second, later) = begun("a")
        assert [first] == killed
        assert second != first
        assert zero == 0
        assert later >= 3
        assert (Path("a") / "count").read_text() == "40"
        assert "end" in notes("c")

    def test_an_interruption_lets_trials_write_their_checkpoints(self, here, executor: Executor):
        def interrupt(state):
            if (Path("a") / "notes").exists() and (Path("b") / "notes").exists():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_all(executor, [told("a", "60"), told("b", "60"), told("c")], watch=interrupt)
        assert "interrupted" in notes("a")
        assert "interrupted" in notes("b")
        assert not (Path("c") / "notes").exists()
        assert run_all(executor, [told("again")]) == []
