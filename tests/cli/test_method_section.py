"""What --method, --as-published and --epochs mean in a recipe."""

import numpy as np
import pytest

from bitsmith.cli.method_options import method_section, require_storage, require_trials
from bitsmith.cli.options import preset_section
from bitsmith.errors import RecipeError
from bitsmith.recipe import METHODS, make_method


def test_as_published():
    supernet = make_method(method_section("supernet", True, None))
    assert (supernet.name, supernet.epochs) == ("supernet-as-published", 90)
    for steps in (100, 3600):  # of an epoch: choices follow the last step of the eleventh first
        assert 10 * steps <= round(supernet.weights_first * 90 * steps) < 11 * steps - 1
    for widths in ("binomial", "block-binomial"):
        published = make_method(method_section(widths, True, None))
        assert published == make_method({"name": widths, "as_published": True})
        assert (published.taken_lr, make_method({"name": widths}).taken_lr) == (1e-4, 0.05)
    assert make_method(method_section("composite", True, 3)).epochs == 3
    assert make_method(method_section("supernet", False, 7)).epochs == 7
    with pytest.raises(RecipeError, match=r"--as-published belongs to --method composite, supernet, .*, not to"):
        method_section("uniform", True, None)
    with pytest.raises(RecipeError, match="epochs of a training must be at least 1"):
        make_method(method_section("composite", True, 0))


@pytest.mark.parametrize("name", METHODS)
def test_epochs_are_those_of_every_method_that_trains(name):
    if hasattr(make_method({"name": name}), "plan"):
        assert make_method(method_section(name, False, 3)).plan.epochs == 3
    else:
        with pytest.raises(RecipeError, match=f"--epochs belongs to .*composite, filters, .*; '{name}'"):
            method_section(name, False, 3)


def test_a_name_of_tables_is_a_method():
    assert make_method(method_section("uniform+fill", False, None)).name == "uniform+fill"


def test_what_nobody_knows_of_the_published_multinomial_search():
    with pytest.raises(RecipeError, match="the bops_weight and the architecture_lr"):
        make_method(method_section("multinomial", True, None))


def test_spaces_and_storages():
    """Whole networks in place of a model; a storage for the one method that shares its work."""
    assert preset_section("resnet8", None) == {}
    assert preset_section(None, "sequence-28") == {"kind": "sequence", "preset": "sequence-28"}
    assert preset_section(None, "mobile-32") == {"kind": "mobile", "preset": "mobile-32"}
    with pytest.raises(RecipeError, match=r"no 'sequence28' .did you mean 'sequence-28'"):
        preset_section(None, "sequence28")
    for model, space in ((None, None), ("resnet8", "mobile-32")):
        with pytest.raises(RecipeError, match=r"give --model, .* or --space"):
            preset_section(model, space)
    require_storage("sqlite:///study.db", {"name": "latent"})
    require_storage(None, {"name": "grid"})
    with pytest.raises(RecipeError, match="--storage belongs to --method latent, not to 'grid'"):
        require_storage("sqlite:///study.db", {"name": "grid"})


def test_options_of_a_shared_search(bitsmith, tmp_path):
    """They reach the recipe, which needs a database that can be talked to before anything is trained."""
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), dtype=np.uint8)
    labels = np.arange(60) % 4
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    options = ["search", "--space", "sequence-28", "--data", f"npz:{tmp_path}/set.npz", "--budget", "size=20kB"]
    said = bitsmith(*options, "--method", "latent", "--storage", "study.db", "--out", tmp_path / "run", check=1).stderr
    assert "'study.db' can't be used" in said
    assert not (tmp_path / "run").exists()


def test_batches_are_of_networks():
    assert method_section("latent", False, None, 4) == {"name": "latent", "batch": 4}
    with pytest.raises(RecipeError, match="--batch belongs to --method latent"):
        method_section("composite", False, None, 4)


def test_workers_are_for_searches_that_evaluate_networks():
    require_trials(2, None, {"name": "latent"})
    require_trials(None, None, {"name": "composite"})
    with pytest.raises(RecipeError, match="a search by 'composite' is one training"):
        require_trials(2, None, {"name": "composite"})
    with pytest.raises(RecipeError, match="--storage shares the networks"):
        require_trials(None, "ray", {"name": "latent", "storage": "sqlite:///study.db"})
