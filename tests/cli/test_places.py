"""Where `train` and `run` train, by their options."""

import pytest

from bitsmith.cli.executors import choose_executor, pool_bars, shared_out, training_place
from bitsmith.errors import RecipeError
from bitsmith.executor import InProcess, Processes, State


def test_here_unless_workers_are_asked_for():
    for options in ((None, None, None), ("inprocess", None, None), ("inprocess", 1, None)):
        with shared_out(*options) as where, training_place(where, quiet=True) as at:
            assert at.executor is None
    for options in ((None, 2, None), ("processes", 2, None)):
        with shared_out(*options) as where, training_place(where, quiet=True) as at:
            assert isinstance(at.executor, Processes)
            assert at.executor.places == 2
    with shared_out("processes", None, None) as where, training_place(where, quiet=True) as at:
        assert at.executor is not None
        assert at.executor.places == 1


def test_comparisons_have_a_process_by_default():
    with choose_executor("processes", None, None) as executor:
        assert isinstance(executor, Processes)
        assert executor.places == 1
    assert isinstance(choose_executor("inprocess", None, None), InProcess)
    with pytest.raises(RecipeError, match="add --executor ray"):
        choose_executor("processes", None, "head:6379")


def test_bars_show_what_is_at_work(capsys):
    with pool_bars(False) as show:
        show(State(done=1, total=3, at_work=(("a", "step 1 of 2"), None)))
    assert "1/3" in capsys.readouterr().err
