"""Commands started by torchrun: one run, one writer, one message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SEARCH = ("search", "--model", "ownnet:make", "--data", "digits", "--limit", "200", "--budget", "weights=1.6kB",
          "--out", "run", "--epochs", "2", "--train-epochs", "1", "--compile", "none", "--device", "cpu")  # fmt: skip


def start(*arguments: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bitsmith"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | variables
    return subprocess.Popen(
        [*command, *arguments], cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(*arguments: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    process = start(*arguments, cwd=cwd, **variables)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def test_two_processes_search_one_run(own, full):
    code, stdout, stderr = finish(*SEARCH, cwd=own)
    assert code == 0, stderr
    assert stdout.count("Next: bitsmith train run") == 1
    assert stderr.count("search composite at weights=1.6kB: about") == 1
    entry = json.loads((own / "run/composite-weights_1.6kB/entry.json").read_text())
    assert entry["memory"]["batch"] == 128
    if not full:
        return
    code, stdout, stderr = finish("train", "run", cwd=own)
    assert code == 0, stderr
    assert len((own / "run/trials.jsonl").read_text().splitlines()) == len(list((own / "run").glob("*/training.json")))


def test_other_commands_are_refused(bitsmith, own, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    refused = bitsmith("export", "run", cwd=own, check=1)
    assert "bitsmith export is done by one process: start it without torchrun" in refused.stderr
    monkeypatch.setenv("RANK", "1")
    assert not bitsmith("export", "run", cwd=own, check=1).stderr


def test_a_failure_in_one_process_ends_all_with_one_message(own, full):
    if not full:
        pytest.skip("full tier: it starts four processes")
    net = own / "ownnet.py"
    net.write_text(net.read_text() + "\nimport os\nif os.environ['RANK'] == '1':\n    raise OSError('broken here')\n")
    code, _, stderr = finish(*SEARCH, cwd=own)
    assert code != 0
    assert stderr.count("error:") == 1
    assert "broken here" in stderr
    assert stderr.count("Traceback") <= 1  # torchrun's own


def test_a_killed_process_ends_all_and_the_run_goes_on(own, full):
    if not full:
        pytest.skip("full tier: it starts four processes")
    process = start(*SEARCH, "--epochs", "2000", cwd=own)
    checkpoint = own / "run/composite-weights_1.6kB/search.checkpoint"
    while not checkpoint.exists():
        time.sleep(0.2)
        assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    second = next(p for p in children if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{p}/environ").read_bytes())
    os.kill(int(second), signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode != 0
    assert stderr.count("error: another process of this run has ended") <= 1  # torchrun may be faster
    assert checkpoint.exists()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_search_one_run(own):
    code, stdout, stderr = finish(*SEARCH[:-1], "cuda", cwd=own)
    assert code == 0, stderr
    assert stdout.count("Next: bitsmith train run") == 1
