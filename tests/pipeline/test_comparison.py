"""What a comparison is, and the runs that it means."""

from pathlib import Path

import pytest
import yaml

from bitsmith.cost import price
from bitsmith.errors import BudgetError, RecipeError, RunError
from bitsmith.pipeline import RunFolder, prepare
from bitsmith.pipeline.compare_plan import create, plan
from bitsmith.pipeline.comparison import change, dump_comparison, parse_comparison, read_comparison

VALUES = {
    "name": "few",
    "model": {"spec": "resnet8_slim"},
    "data": {"source": "digits"},
    "space": {"weight_bits": [2, 4, 8], "activation_bits": [8]},
    "budgets": ["weights=8kB", "weights=12kB"],
    "methods": [{"name": "composite", "plan": {"epochs": 3, "batch_size": 64}}, "sensitivity"],
    "seeds": [0, 1],
    "float_plan": {"epochs": 4},
    "train": {"epochs": 5},
}


def comparison(**changes):
    values = {key: value for key, value in (VALUES | changes).items() if value is not None}
    return parse_comparison(values, "the test")


def labels(found):
    return [entrant.label for entrant in found.entrants()]


def test_baselines_are_always_added():
    assert labels(comparison(methods=["composite"])) == [
        "composite",
        "uniform",
        "uniform+fill",
        "random",
        "sensitivity",
    ]
    assert labels(comparison(methods=["random", "composite"]))[:2] == ["random", "composite"]
    # Without float weights there is nothing whose sensitivity could be measured.
    assert labels(comparison(methods=["composite"], float_plan=None)) == [
        "composite",
        "uniform",
        "uniform+fill",
        "random",
    ]


def test_no_method_takes_the_place_of_a_baseline():
    for label in ("uniform", "random"):
        with pytest.raises(RecipeError, match=f"{label} is the name of a baseline, and this is composite"):
            comparison(methods=[{"name": "composite", "label": label}])
    with pytest.raises(RecipeError, match=r"uniform is the name of a baseline, and this is uniform\+fill"):
        comparison(methods=[{"name": "uniform", "fill": True, "label": "uniform"}])
    with pytest.raises(RecipeError, match="'narrowed w2': labels that start so are those of narrowed"):
        comparison(methods=[{"name": "composite", "label": "narrowed w2"}])
    assert labels(comparison(methods=[{"name": "random", "tries": 5}]))[0] == "random"


def test_a_plain_recipe_is_a_comparison():
    plain = {key: VALUES[key] for key in VALUES if key not in ("methods", "seeds")}
    found = parse_comparison(plain | {"method": {"name": "composite"}, "baselines": ["random"], "fixed": ["w2a8"]}, "x")
    assert labels(found) == ["composite", "random", "uniform", "uniform+fill", "sensitivity"]
    assert found.seeds == [0, 1, 2]
    assert parse_comparison(plain | {"seed": 7}, "x").seeds == [7, 8, 9]


SHIPPED = Path(__file__).parents[2] / "recipes"
RECIPES = sorted([*SHIPPED.glob("*.yaml"), *SHIPPED.glob("comparisons/*.yaml")])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_along_can_be_compared(recipe):
    found = read_comparison(recipe)
    assert found.total_epochs(found.entrants()) > 0


MOBILE = {
    "kind": "mobile",
    "description": {
        "stem": {"channels": 4},
        "stages": [{"channels": [4, 8], "blocks": [1, 2], "kernels": 3, "expansions": [1, 2]}],
    },
}
SEARCH = {"name": "supernet", "plan": {"epochs": 6, "batch_size": 64}, "norm_batches": 1, "loss_batches": 1}
ARENAS = {
    "slim": {"model": "resnet8_slim", "methods": ["composite", "uniform", "uniform+fill"]},
    "two or eight": {"weight_bits": [2, 8], "methods": ["uniform"]},
    "other": {"model": {"spec": "resnet8"}, "methods": ["uniform+fill"]},
    "whole": {**MOBILE, "methods": ["supernet", "random", "random (2)"]},
}
SEVERAL = {"methods": [SEARCH, VALUES["methods"][0], {"name": "random", "draws": 2}], "budgets": ["size=40kB"]}


def test_spaces_may_have_models_and_methods_of_their_own(tmp_path):
    """Equal training: whoever has no float network to start from trains for its epochs too."""
    several = comparison(spaces=ARENAS, **SEVERAL)
    found = plan(several)
    runs = {(run.space, run.method): run for run in found.runs if run.seed == 0}
    assert set(runs) == {(space, method) for space, arena in ARENAS.items() for method in arena["methods"]}
    assert found.left_out == ()
    assert {space: run.recipe.model.spec for (space, _), run in runs.items()} == {
        "slim": "resnet8_slim", "two or eight": "resnet8_slim", "other": "resnet8", "whole": "mobile",
    }  # fmt: skip
    assert (found.epochs, found.float_epochs, found.head_start, found.from_scratch) == (11, 4, 4, ("whole",))
    assert {run.epochs for run in found.runs if run.space != "whole"} == {11}
    assert {run.epochs for run in found.runs if run.space == "whole"} == {15}
    assert runs["whole", "supernet"].recipe.train.epochs == 9
    assert runs["whole", "supernet"].recipe.start == "search"
    assert {run.floats for run in found.runs if run.space in ("slim", "two or eight")} == set(
        map(Path, ("float/seed0", "float/seed1"))
    )
    assert runs["other", "uniform+fill"].floats == Path("float/other/seed0")
    assert runs["whole", "random"].floats is None
    assert {path.as_posix(): recipe.model.spec for path, recipe in found.floats.items()} == {
        "float/seed0": "resnet8_slim", "float/seed1": "resnet8_slim",
        "float/other/seed0": "resnet8", "float/other/seed1": "resnet8",
    }  # fmt: skip
    assert [runs["whole", name].recipe.method["index"] for name in ("random", "random (2)")] == [0, 1]
    assert {run.method: run.kind for run in found.runs if run.space == "whole"} == {
        "supernet": "found", "random": "baseline", "random (2)": "baseline",
    }  # fmt: skip
    assert found.all_epochs == 2 * (3 * 11 + 11 + 11 + 3 * 15) + 4 * 4
    (tmp_path / "c.yaml").write_text(dump_comparison(several))
    assert read_comparison(tmp_path / "c.yaml") == several


def test_where_nobody_starts_from_float_weights_nobody_trains_for_their_epochs():
    """They are trained all the same, as the recipe says, and counted."""
    found = plan(comparison(spaces=ARENAS, start="scratch", **SEVERAL))
    assert {run.epochs for run in found.runs} == {11}
    assert (found.float_epochs, found.head_start, found.from_scratch) == (4, 0, ())
    assert found.all_epochs == 2 * (3 + 1 + 1 + 3) * 11 + len(found.floats) * 4
    assert len(found.floats) == 4


def test_only_a_method_that_runs_sets_the_total():
    """The supernet's 6 epochs are nobody's where it can't search; asked for in no space at all, it is refused."""
    methods = {"methods": [SEARCH, VALUES["methods"][0]]}
    found = plan(comparison(**methods, seeds=[0]))
    assert "supernet" in {line.method for line in found.left_out}
    assert (found.epochs, {run.epochs for run in found.runs}) == (8, {8})
    few = {"bits": {"methods": ["composite", "uniform", "uniform+fill", "random"]}}
    with pytest.raises(RecipeError, match="methods: no space compares supernet; add it to a space's methods"):
        comparison(**methods, spaces=few)


def test_the_float_epochs_are_those_of_a_method_of_that_space():
    """Sensitivity has weights in its own space alone, so its recipe can't be made in the first one."""
    given = {"model": {"spec": "resnet8", "weights": "w.safetensors"}, "methods": ["sensitivity"]}
    spaces = {"a": {"methods": ["uniform", "uniform+fill", "random"]}, "given": given}
    assert comparison(methods=["sensitivity"], spaces=spaces, float_plan=None).float_epochs() == 0


def test_a_model_may_be_its_spec_alone(tmp_path):
    found = comparison(model="resnet8_slim")
    assert found == comparison(model={"spec": "resnet8_slim"})
    (tmp_path / "c.yaml").write_text(dump_comparison(found))
    assert read_comparison(tmp_path / "c.yaml") == found


def test_what_a_kind_of_space_does_not_take_is_left_out_with_the_way_out():
    found = plan(comparison(spaces={"bits": {}, "whole": MOBILE}, **SEVERAL))
    reasons = {(line.method, line.space): line.reason for line in found.left_out if line.space}
    assert "search with method: composite" in reasons["supernet", "bits"]
    assert "a mobile space holds many networks; search it with method: supernet" in reasons["composite", "whole"]
    runs = {(run.method, run.space) for run in found.runs}
    assert runs >= {(m, s) for m in ("uniform", "uniform+fill", "random", "random (2)") for s in ("bits", "whole")}
    assert runs >= {("supernet", "whole"), ("composite", "bits"), ("sensitivity", "bits")}
    assert ("sensitivity", "whole") not in runs | set(reasons)


def test_a_recipe_of_a_mobile_space_is_a_comparison():
    found = parse_comparison({"data": {"source": "digits"}, "space": MOBILE, "budgets": ["size=20kB"]}, "x")
    assert labels(found) == ["supernet", "uniform", "uniform+fill", "random"]
    assert found.float_epochs() == 0
    with pytest.raises(RecipeError, match="a mobile space has no model and no float_plan: its networks are trained"):
        change(found, float_epochs=3)
    # As the recipe of its run folder says it.
    assert parse_comparison({**found.base, "model": {"spec": "mobile"}, "float_plan": None}, "x").float_epochs() == 0


def test_it_comes_back_unchanged(tmp_path):
    first = comparison(narrowed={"weight_bits": [2], "budgets": ["weights=8000B"]}, spaces={"a": {}, "b": {"ends": 4}})
    (tmp_path / "c.yaml").write_text(dump_comparison(first))
    assert read_comparison(tmp_path / "c.yaml") == first


def test_the_command_line_changes_it():
    changed = change(comparison(), seeds=[5], data="npy:there", epochs=9, float_epochs=2, limit=None)
    assert changed.seeds == [5]
    assert changed.base["data"]["source"] == "npy:there"
    assert changed.total_epochs(changed.entrants()) == 12
    assert changed.recipe(changed.methods[0], "all", 5).float_plan.epochs == 2
    assert changed.recipe(changed.methods[0], "all", 5).data.limit is None


NO_NETWORK = {"model": None, "float_plan": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": []}, "methods"),
        ({"methods": ["best"]}, "unknown method 'best'"),
        ({"methods": [{"name": "random", "tries": 0.5}]}, "method 'random': tries"),
        ({"methods": ["random", {"name": "random", "tries": 5}]}, "two methods are called random"),
        ({"methods": [{"name": "random", "label": "../x"}]}, "label"),
        ({"seeds": [1, 1]}, "a seed is given twice"),
        ({"seeds": []}, "seeds"),
        ({"spaces": {}}, "spaces"),
        ({"spaces": {"..": {}}}, "spaces"),
        ({"spaces": {"a": {"bits": 3}}}, "space: there is no setting 'bits'; it takes kind"),
        ({"spaces": {"a b": {}, "c": {}, "a_b": {}}}, "spaces: a b and a_b would share the folder a_b; rename one"),
        (
            {"model": 3, "float_plan": None, "methods": ["random"]},
            r"test: model: write a name, or \{spec: ...\}; got",
        ),
        ({"methods": ["random+fill"]}, r"unknown method 'random\+fill' \(did you mean"),
        ({"spaces": {"a": MOBILE}, "methods": ["random"]}, "a mobile space has no model and no float_plan"),
        ({"spaces": {"a": MOBILE}, "methods": ["random"], "float_plan": None}, "a mobile space has no model"),
        ({"spaces": {"a": {"methods": ["best"]}}}, "spaces.a.methods: best is none of the methods composite, sens"),
        ({"spaces": {"a": {"methods": ["uniform"]}}}, r"spaces: uniform\+fill is compared in none of them"),
        ({"spaces": {"a": {**MOBILE, "model": "resnet8"}}}, "a mobile space has no model"),
        (
            {"spaces": {"a": MOBILE}, "methods": ["random"], **NO_NETWORK, "narrowed": [2]},
            "every space here is a mobile",
        ),
        ({"methods": [{"name": "composite", "draws": 2}]}, "draws belongs to"),
        ({"methods": [{"name": "random", "label": "random (2)"}]}, "the name of a baseline, and this is random"),
        ({"narrowed": [9]}, "narrowed"),
        ({"narrowed": {"weight_bits": [2], "budgets": ["size=1kB"]}}, "size=1kB is none of the budgets"),
        ({"budgets": ["size=1"]}, "can't be in 'a bare number'"),
        ({"modle": {}}, r"there is no setting 'modle' \(did you mean 'model'\?\); it takes"),
        ({"method": {"name": "random"}}, "not both"),
        ({"float_plan": None}, "sensitivity measures a trained float network"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(RecipeError, match=message):
        comparison(**changes)


@pytest.mark.parametrize("text", ["- 1", "a: [", ""])
def test_what_is_no_comparison_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"c\.yaml"):
        read_comparison(tmp_path / "c.yaml")
    with pytest.raises(RecipeError, match="can't read"):
        read_comparison(tmp_path / "d.yaml")


def test_all_runs_get_equal_totals():
    found = plan(comparison())
    assert found.epochs == 8
    for run in found.runs:
        assert run.search_epochs + run.recipe.train.epochs == 8
        assert run.recipe.baselines == run.recipe.fixed == []
        assert run.floats == Path("float") / f"seed{run.seed}"
    assert {(run.method, run.recipe.train.epochs) for run in found.runs} >= {("composite", 5), ("random", 8)}
    assert [run.seed for run in found.runs] == [0] * 5 + [1] * 5  # one seed is a whole comparison
    assert found.networks == 20
    assert found.all_epochs == 20 * 8 + 2 * 4
    assert {run.method: run.kind for run in found.runs} == {
        "composite": "found", "sensitivity": "baseline", "uniform": "baseline", "uniform+fill": "baseline",
        "random": "baseline",
    }  # fmt: skip


def test_what_a_method_cannot_meet_is_left_out_with_the_reason():
    # All inner layers at 2 bits take more than 5.5 kB; the first at 8 bits is what mixed bits could not do either.
    found = plan(comparison(budgets=["weights=1kB", "weights=12kB"], narrowed=[2, 4]))
    assert {line.method for line in found.left_out} >= {"composite", "random", "uniform"}
    assert all("weights" in line.reason for line in found.left_out if line.budget == "weights=1kB")
    assert {tuple(map(tuple, run.recipe.budgets)) for run in found.runs if run.method == "random"} == {
        (("weights=12kB",),)
    }
    with pytest.raises(BudgetError, match="there is nothing to compare: weights=1kB: "):
        plan(comparison(budgets=["weights=1kB"]))


def test_a_method_whose_networks_the_target_cannot_hold_is_left_out():
    found = plan(comparison(target="hls4ml", methods=["filters", "sensitivity"]))
    assert {line.method for line in found.left_out if "has one weight bit-width for each layer" in line.reason} == {
        "filters"
    }
    assert {run.method for run in found.runs} >= {"sensitivity", "random"}


def test_where_only_mixed_bits_fit_uniform_is_left_out_and_narrowed_networks_come_in(tmp_path):
    """4-bit activations cost narrowing tables, 8-bit ones bit-operations: in between lies what mixed bits can meet."""
    space = {"weight_bits": [2], "activation_bits": [4, 8], "ends": 8}
    sample = comparison(space=space, methods=["random"], budgets=["size=1MB"])
    job = prepare(RunFolder.create(tmp_path, sample.recipe(sample.methods[0], "all", 0)))
    four, eight = (price(job.graph, job.space.uniform(2, a).bits) for a in (4, 8))
    assert four["size"] > eight["size"]
    budget = [f"size={four['size'] - 1:.0f}B", f"bitops={eight['bitops'] - 1:.0f}"]
    found = plan(comparison(space=space, methods=["random"], budgets=[budget]))
    assert {run.method for run in found.runs} == {"random", "uniform+fill", "sensitivity", "narrowed w2", "narrowed w4"}
    assert [(line.method, line.reason.startswith("no uniform bits meet size=")) for line in found.left_out] == [
        ("uniform", True)
    ]


def test_narrowed_networks_that_the_target_cannot_hold_are_left_out():
    values = {"target": "mpic", "methods": ["random"], "budgets": ["weights=6kB"]}
    lines = plan(comparison(narrowed=[3], **values)).left_out
    assert [line.method for line in lines if "target 'mpic' can't hold weight bits [3]" in line.reason] == [
        "narrowed w3"
    ]


def test_narrowed_networks_are_uniform_runs_of_a_width():
    found = plan(comparison(narrowed={"weight_bits": [2, 4], "budgets": ["weights=8kB"]}))
    narrow = [run for run in found.runs if run.method.startswith("narrowed")]
    told = [line for line in found.left_out if line.method.startswith("narrowed")]
    assert {run.method for run in narrow} | {line.method for line in told} == {"narrowed w2", "narrowed w4"}
    for line in told:
        assert "fit without narrowing" in line.reason
    for run in narrow:
        assert 0 < run.recipe.model.width < 1
        assert run.recipe.method == {"name": "uniform"}
        assert run.recipe.space.weight_bits == (int(run.method[-1]),)
        assert run.recipe.budgets == [["weights=8kB"]]
        assert run.recipe.train.epochs == 8
        assert run.floats is None
        assert run.kind == "baseline"


def test_spaces_change_what_they_say(tmp_path):
    found = plan(comparison(spaces={"all": {}, "w2,8": {"weight_bits": [2, 8]}}, methods=["random"]))
    bits = {run.space: run.recipe.space for run in found.runs}
    assert bits["all"].weight_bits == (2, 4, 8)
    assert bits["w2,8"].weight_bits == (2, 8)
    assert bits["w2,8"].activation_bits == (8,)
    paths = [run.path for run in found.runs]
    assert len(set(paths)) == len(paths)
    assert all(path.parts[0] == "runs" and ".." not in path.parts for path in paths)


def test_a_run_folder_can_be_done_again_by_its_own_recipe(tmp_path):
    run = plan(comparison()).runs[0]
    folder = create(run, tmp_path / "out")
    recipe = RunFolder(path=folder.path).recipe()
    assert recipe.command == f"bitsmith run {folder.path}/recipe.yaml --out {folder.path}"
    assert yaml.safe_load(folder.recipe_file.read_text())["seed"] == run.seed
    create(run, tmp_path / "out")
    (folder.path / "float").mkdir()
    (folder.path / "float" / "training.json").write_text("{}")
    other = plan(comparison(train={"epochs": 6})).runs[0]
    with pytest.raises(RunError, match="another recipe"):
        create(other, tmp_path / "out")
