"""Runs forking_parallel.py: torch can't go backward in a fork of a process that has gone backward itself."""

from pathlib import Path

import pytest
from together import in_a_fresh_process


@pytest.mark.timeout(600)
def test_in_a_fresh_process():
    in_a_fresh_process(Path(__file__).with_name("forking_parallel.py"))
