"""The processes of a comparison, with a worker that does as it is told."""

import os
import signal
import subprocess
import sys
import time

import pytest

from bitsmith.errors import RecipeError
from bitsmith.pipeline import compare_pool
from bitsmith.pipeline.compare_pool import LOG, Work, run_all

WORKER = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)

def parent():
    while os.read(0, 10):
        pass
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=parent, daemon=True).start()
folder, words = sys.argv[1], sys.argv[2:]
def note(text):
    with open(folder + "/notes", "a") as file:
        file.write(f"{text} {time.monotonic()}\\n")
note("begin")
cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
print("threads", os.environ["OMP_NUM_THREADS"], "cpus", *cpus, flush=True)
try:
    for word in words:
        if word == "fail":
            print("error: told to", flush=True)
            sys.exit(1)
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(word))
except KeyboardInterrupt:
    note("interrupted")
    sys.exit(130)
note("end")
"""


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Runs works given as name -> (words, after); returns the failures."""
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(compare_pool, "COMMAND", (sys.executable, str(tmp_path / "worker.py")))

    def run(workers, watch=lambda state: None, **works):
        made = [
            Work(title=name, folder=tmp_path / name, arguments=tuple(words), after=after and tmp_path / after)
            for name, (words, after) in works.items()
        ]
        return run_all(made, workers, watch, lambda failed: None)

    return run


def notes(folder):
    return {line.split()[0]: float(line.split()[1]) for line in (folder / "notes").read_text().splitlines()}


def test_two_at_a_time_and_what_comes_after_waits(pool, tmp_path):
    states = []
    assert pool(2, states.append, a=(["0.5"], None), b=(["0.5"], None), c=([], "a"), d=([], "b")) == []
    a, b, c, d = (notes(tmp_path / name) for name in "abcd")
    assert a["begin"] < b["end"]
    assert b["begin"] < a["end"]
    assert c["begin"] > a["end"]
    assert d["begin"] > b["end"]
    assert (states[-1].done, states[-1].total) == (4, 4)
    assert any(at and at[0] == "a" for state in states for at in state.at_work)


def test_one_worker_does_one_at_a_time(pool, tmp_path):
    assert pool(1, a=(["0.2"], None), b=([], None)) == []
    assert notes(tmp_path / "b")["begin"] > notes(tmp_path / "a")["end"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no such system call")
def test_workers_have_one_thread_and_a_processor_of_their_own(pool, tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor")
    pool(2, a=(["0.3"], None), b=(["0.3"], None))
    said = {(tmp_path / name / LOG).read_text().split("threads ")[1].strip() for name in "ab"}
    assert len(said) == 2
    assert all(text.startswith("1 cpus ") and len(text.split()) == 3 for text in said)


def test_a_failure_stops_only_what_needs_it(pool, tmp_path):
    failed = pool(2, a=(["fail"], None), b=(["0.3"], None), c=([], "a"), d=(["die"], None), e=([], "b"))
    assert {problem.title: problem.reason.split(";")[0] for problem in failed} == {
        "a": "error: told to",
        "c": "the float network that it starts from failed",
        "d": (tmp_path / "d" / LOG).read_text().strip().splitlines()[-1],
    }
    assert "end" in notes(tmp_path / "b")
    assert "end" in notes(tmp_path / "e")
    assert not (tmp_path / "c" / "notes").exists()


def test_what_was_done_before_is_not_waited_for(pool, tmp_path):
    assert pool(1, c=([], "done-long-ago")) == []
    assert "end" in notes(tmp_path / "c")


def test_an_interruption_stops_the_workers_and_lets_them_finish_writing(pool, tmp_path):
    def interrupt(state):
        if (tmp_path / "a" / "notes").exists() and (tmp_path / "b" / "notes").exists():
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool(2, interrupt, a=(["60"], None), b=(["60"], None), c=([], None))
    assert time.monotonic() - started < 30
    assert "interrupted" in notes(tmp_path / "a")
    assert "interrupted" in notes(tmp_path / "b")
    assert not (tmp_path / "c").exists()


def test_workers_stop_when_the_comparison_is_killed(tmp_path):
    """kill -9 leaves nobody behind."""
    (tmp_path / "worker.py").write_text(WORKER)
    code = f"""
import sys
from pathlib import Path
from bitsmith.pipeline import compare_pool
compare_pool.COMMAND = (sys.executable, {str(tmp_path / "worker.py")!r})
work = compare_pool.Work(title="a", folder=Path({str(tmp_path / "a")!r}), arguments=("60",))
compare_pool.run_all([work], 1, lambda state: None, lambda failed: None)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not (tmp_path / "a" / "notes").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while "interrupted" not in notes(tmp_path / "a"):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_there_must_be_a_worker(pool):
    with pytest.raises(RecipeError, match="at least 1"):
        pool(0)
