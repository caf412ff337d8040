"""What is left of a run folder where the run is refused."""

import fcntl

import pytest

from bitsmith import pipeline
from bitsmith.errors import BudgetError, RunError
from bitsmith.recipe import parse_recipe

RECIPE = parse_recipe({"model": {"spec": "resnet8"}, "data": {"source": "digits"}, "budgets": "size=20kB"}, "the test")


def refuse(path, *, before=(), error=BudgetError):
    """A run that writes some files and is refused then."""
    with pytest.raises(error), pipeline.begun(path, RECIPE) as run:  # noqa: PT012
        assert run.recipe_file.exists()
        for name in before:
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text("x")
        raise error("out of reach")


def test_a_folder_that_was_made_here_goes_away(tmp_path):
    refuse(tmp_path / "a")
    refuse(tmp_path / "b", before=["graph.json", "captured.safetensors", "float/.lock"])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_there_keeps_what_was_in_it(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    refuse(tmp_path, before=["graph.json", "captured.safetensors"])
    assert {file.name for file in tmp_path.iterdir()} - {".lock"} == {"notes.txt"}


@pytest.mark.parametrize("error", [RunError, KeyboardInterrupt])
def test_what_was_learned_stays(tmp_path, error):
    refuse(tmp_path / "a", before=["float/train.checkpoint"], error=error)
    assert (tmp_path / "a" / "recipe.yaml").exists()
    assert (tmp_path / "a" / "float" / "train.checkpoint").exists()


def test_an_interrupted_run_stays(tmp_path):
    """The same command goes on with it."""
    refuse(tmp_path / "a", before=["graph.json"], error=KeyboardInterrupt)
    assert (tmp_path / "a" / "graph.json").exists()
    refuse(tmp_path / "a")  # a run that was there before
    assert (tmp_path / "a" / "recipe.yaml").exists()


def test_a_run_in_use_by_another_is_left_alone(tmp_path):
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="is in use by"), pipeline.begun(tmp_path, RECIPE):
            pytest.fail("two are in it")
    assert (tmp_path / "recipe.yaml").exists()
