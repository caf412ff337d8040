"""The benchmark that replays the table: looks that fail count, and no search stumbles over them."""

import math
import zlib

import numpy as np
import pytest

from benchmarks.latent_evaluations import ANY, MOST, STUCK, evaluations, evolution, latent, random, tpe
from benchmarks.latent_table import make_space, make_task, read_table
from bitsmith.search.latent import Proposer


@pytest.fixture(scope="module")
def tabulated():
    return make_space(make_task())


def look(row: np.ndarray) -> float:
    """Three of four networks fail."""
    return math.nan if zlib.crc32(row.tobytes()) % 4 else float(row.sum())


@pytest.mark.parametrize("name", ["random", "evolution", "tpe"])
def test_failures_count_and_stop_nobody(tabulated, name):
    search = {
        "random": lambda: random(tabulated, 1),
        "evolution": lambda: evolution(tabulated, look, 1),
        "tpe": lambda: tpe(tabulated, look, 1),
    }[name]
    met = [row.tobytes() for row, _ in zip(search(), range(60), strict=False)]
    different = list(dict.fromkeys(met))
    failed = sum(math.isnan(look(np.frombuffer(key, np.int64))) for key in different)
    assert 0 < failed < len(different)
    assert evaluations(search(), {different[-1]}) == len(different)


def test_latent_goes_on_behind_failures(space, model):
    """12 evaluations, of which every second one fails."""
    told: list[float] = []

    def score(row: np.ndarray) -> float:
        told.append(math.nan if len(told) % 2 else -float(row.sum()))
        return told[-1]

    rows = [row for row, _ in zip(latent(Proposer(space, model, (ANY,)), score, 0), range(12), strict=False)]
    assert len({row.tobytes() for row in rows}) == 12


def test_nobody_looks_for_ever(tabulated):
    assert evaluations(random(tabulated, 0), set()) == MOST


def test_the_table_is_of_this_space(tabulated):
    table = read_table()
    assert table.losses.shape == table.metrics.shape == (tabulated.count(), 3)
    assert np.isnan(table.loss).mean() < 0.03
    assert np.nanmax(table.metrics) <= 1


def test_a_search_that_comes_back_for_ever_is_given_up_on():
    row = np.zeros(3, np.int64)
    assert evaluations(iter([row] * (STUCK + 2)), {(row + 1).tobytes()}) == MOST
    assert evaluations(iter([row] * STUCK + [row + 1]), {(row + 1).tobytes()}) == 2
