"""--width on the command line."""

import json

from bitsmith.recipe import read_recipe


def test_cost_of_a_narrower_network(bitsmith):
    options = ("cost", "--model", "resnet8", "--input", "3x32x32", "--json")
    whole, half, same = (
        json.loads(bitsmith(*options, *more).stdout) for more in ((), ("--width", 0.5), ("--width", 1))
    )
    assert (whole["weight_bytes"], half["weight_bytes"]) == (77_360, 19_608)
    assert same == whole
    said = bitsmith(*options[:-1], "--width", 0.5).stdout
    assert "note: narrowed to 0.5: 16 -> 8, 32 -> 16, 64 -> 32 channels" in said
    assert "must be above 0 and at most 1" in bitsmith(*options, "--width", 1.5, check=1).stderr


def test_search_and_run_write_it_into_the_recipe(bitsmith, own):
    options = ("--model", "ownnet:make", "--data", "digits", "--method", "uniform", "--budget", "size=2kB")
    said = bitsmith("search", *options, "--width", 0.5, "--out", "a", cwd=own).stderr
    assert "narrowed to 0.5: 8 -> 4, 12 -> 6, 16 -> 8 channels" in said
    recipe = read_recipe(own / "a" / "recipe.yaml")
    assert recipe.model.width == 0.5
    (own / "whole.yaml").write_text(
        "model: {spec: 'ownnet:make'}\ndata: {source: digits, limit: 200}\nbudgets: size=2kB\n"
        "method: {name: uniform}\nbaselines: []\ntrain: {epochs: 1}\n"
    )
    done = json.loads(bitsmith("run", "whole.yaml", "--width", 0.5, "--out", "b", "--json", cwd=own).stdout)
    assert any(note.startswith("narrowed to 0.5") for note in done["notes"])
    assert read_recipe(own / "b" / "recipe.yaml").model.width == 0.5


def test_check_knows_what_is_left(bitsmith):
    options = ("check", "--model", "resnet8", "--data", "digits", "--budget", "size=5kB", "--json")
    assert not json.loads(bitsmith(*options, check=1).stdout)["ok"]
    assert json.loads(bitsmith(*options, "--width", 0.3).stdout)["ok"]
    alone = json.loads(bitsmith("check", "--model", "resnet8", "--input", "3x8x8", "--json", "--width", 0.5).stdout)
    assert any(note.startswith("narrowed to 0.5") for note in alone["notes"])
