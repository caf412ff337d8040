"""Files that were damaged, or made to do harm: an error that names them, never a traceback, a hang or a gigabyte.

Readers are called in this process with thousands of inputs, each changed in a few places from a good one. `test-all`
takes a hundred thousand of them.
"""

from __future__ import annotations

import copy
import json
import random
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from bitsmith.blueprint import Bits, Blueprint, InputContract, read_blueprint
from bitsmith.cost import plan_arena, price
from bitsmith.data import open_data
from bitsmith.deploy import lower, write_onnx
from bitsmith.deploy.onnx_file import to_onnx
from bitsmith.deploy.onnx_read import read_onnx
from bitsmith.errors import BitsmithError, DataError, RecipeError, RunError, VerifyError
from bitsmith.models import load_model
from bitsmith.pipeline import exported
from bitsmith.quantize import build, freeze
from bitsmith.recipe import read_recipe
from bitsmith.train import load_checkpoint, load_state, save_checkpoint, save_state

SECONDS, BYTES = 20, 10**9
JUNK = [None, True, -1, 0, 1, 2, 3, 7, 1.5, 10**6, 10**9, 10**30, float("inf"), float("nan"), "", "x", "\x00", "\ud800",
        "../../x", "os:system", [], {}, [[]], ["x"], [1, 2, 3], [1, 1], [0, 0], [-1, -1], [10**6, 10**6]]  # fmt: skip


@contextmanager
def bounded() -> Iterator[None]:
    """Inside, what takes too long or too much memory fails."""

    def stop(*_: object) -> None:
        raise AssertionError(f"it takes more than {SECONDS} seconds")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handler = signal.signal(signal.SIGALRM, stop)
    before_us = signal.setitimer(signal.ITIMER_REAL, SECONDS)  # the timer of pytest-timeout, if it runs
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before_us)
        signal.signal(signal.SIGALRM, handler)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < BYTES, f"it took {grown:,} bytes"


def changed_bytes(rng: random.Random, data: bytes) -> bytes:
    """A few bytes flipped, replaced or cut out, or the end cut off; half of the time near the beginning."""
    if rng.random() < 0.15:
        return data[: rng.randrange(len(data))]
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(min(len(found), 400)) if rng.random() < 0.5 else rng.randrange(len(found))
        what = rng.random()
        if what < 0.5:
            found[at] ^= 1 << rng.randrange(8)
        elif what < 0.85:
            found[at] = rng.choice(b"0123456789-.,:[]{}()'\"\xff\x00&*!")
        else:
            del found[at : at + rng.randint(1, 8)]
        found = found or bytearray(b"\x00")
    return bytes(found)


def places(value: Any, at: tuple = ()) -> Iterator[tuple]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*at, key)
        yield from places(child, (*at, key))


def changed_values(rng: random.Random, value: Any) -> Any:
    """One to three places of a JSON value replaced by junk or left out."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        *path, last = rng.choice(list(places(value)) or [(0,)])
        part = value
        for key in path:
            part = part[key]
        if rng.random() < 0.15 and last in (part if isinstance(part, dict) else range(len(part))):
            del part[last]
        elif isinstance(part, dict) or last in range(len(part)):
            part[last] = copy.deepcopy(rng.choice(JUNK))
    return value


def each_is_read_or_refused(path: Path, contents: Iterator[bytes], read: Callable[[], object]) -> dict[str, int]:
    counts = {"read": 0, "refused": 0}
    for content in contents:
        path.write_bytes(content)
        try:
            with bounded():
                read()
            counts["read"] += 1
        except BitsmithError as error:
            counts["refused"] += bool(str(error))
        except Exception as error:
            raise AssertionError(f"{path.name} with {content[:2000]!r}") from error
    return counts


def many(full: bool, few: int) -> int:
    return 75 * few if full else few


BLUEPRINTS = [json.loads(graphs.blueprint(make()).to_json()) for make in (graphs.every_operator, graphs.modern)]


def use(path: Path) -> None:
    """Read a blueprint, price it, and build what is small enough to be built here by the hundred."""
    found = read_blueprint(path, "x")
    found.to_json()
    price(found.graph, found.bits)
    plan_arena(found.graph)
    if sum(layer.weights for layer in found.graph.layers) < 10**5:
        build(found)


def test_blueprints(tmp_path, full):
    """Whatever is read can be priced and built."""
    rng, path = random.Random(1), tmp_path / "blueprint.json"
    texts = (json.dumps(changed_values(rng, rng.choice(BLUEPRINTS))).encode() for _ in range(many(full, 250)))
    counts = each_is_read_or_refused(path, texts, lambda: use(path))
    assert counts["read"] > 2
    assert counts["refused"] > 100
    data = json.dumps(BLUEPRINTS[1]).encode()
    each_is_read_or_refused(path, (changed_bytes(rng, data) for _ in range(many(full, 100))), lambda: use(path))


def test_a_blueprint_larger_than_its_weights(tmp_path):
    """A size that nobody meant is refused before memory is taken for it."""
    graph = graphs.chain()
    wide = graphs.Sketch((3, 8, 8))
    huge = wide.graph(wide.linear("fc", wide.flatten("flat", wide.conv("conv0", "x", 100_000)), 40))
    save_state(build(graphs.blueprint(graph)).state_dict(), tmp_path / "network.safetensors")
    (tmp_path / "blueprint.json").write_text(graphs.blueprint(huge).to_json())
    with (
        bounded(),
        pytest.raises(RunError, match=r"network\.safetensors holds .* numbers, and .* has 258,700,000 weights"),
    ):
        exported.load(tmp_path)


RECIPE = {
    "name": "r",
    "model": {"spec": "resnet8"},
    "data": {"source": "digits", "shape": [1, 8, 8], "limit": 100},
    "task": {"metric": "accuracy", "class_weights": [1.0] * 10},
    "space": {"weight_bits": [2, 4], "activation_bits": [8], "ends": 8, "pins": {"fc": "w4a8"}},
    "budgets": [["size=20kB", "ram=10kB"], ["size=10kB"]],
    "method": {"name": "composite", "plan": {"epochs": 2}, "temperature": [1.0, 0.3]},
    "baselines": ["uniform"],
    "float_plan": {"epochs": 1},
    "train": {"epochs": 2, "lr": 0.1},
}


def test_recipes(tmp_path, full):
    rng, path = random.Random(2), tmp_path / "recipe.yaml"
    values = (yaml.safe_dump(changed_values(rng, RECIPE)).encode() for _ in range(many(full, 70)))
    counts = each_is_read_or_refused(path, values, lambda: read_recipe(path))
    assert counts["read"] > 3
    assert counts["refused"] > 15
    data = yaml.safe_dump(RECIPE).encode()
    each_is_read_or_refused(path, (changed_bytes(rng, data) for _ in range(many(full, 70))), lambda: read_recipe(path))


def test_yaml_that_multiplies(tmp_path):
    """Ten aliases of ten aliases ... of ten: a few hundred bytes that would become 10^9 values; and one in itself."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    for name, text in (
        ("laughs", "\n".join(lines)),
        ("itself", "a: &a [*a]"),
        ("long", "a: " + "x" * 3_000_000),
        ("deep", "[" * 1200),
        ("code", "a: !!python/object/apply:os.system ['true']"),
    ):
        (tmp_path / "recipe.yaml").write_text(text)
        with bounded(), pytest.raises(RecipeError, match=r"recipe\.yaml is not YAML that can be read"):
            read_recipe(tmp_path / "recipe.yaml")
        assert name


TENSORS = {"a.weight": torch.arange(600.0).view(20, 30), "n": torch.tensor(3), "h": torch.ones(7, dtype=torch.bfloat16)}
VALUES = {"settings": {"seed": 1}, "learner": {"network": TENSORS}, "curves": {"loss": [1.5, 0.5]}}


@pytest.mark.parametrize("kind", ["weights", "checkpoint"])
def test_one_flipped_bit_is_noticed(tmp_path, full, kind):
    """Or means nothing: other numbers are never read."""
    path, rng = tmp_path / "file", random.Random(3)
    save, load, value = {
        "weights": (save_state, load_state, TENSORS),
        "checkpoint": (save_checkpoint, load_checkpoint, VALUES),
    }[kind]
    save(value, path)
    whole, refused = path.read_bytes(), 0
    for _ in range(many(full, 150)):
        spoiled = bytearray(whole)
        spoiled[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(spoiled)
        try:
            found = load(path)
        except RunError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
            continue
        tensors = found if kind == "weights" else found["learner"]["network"]  # type: ignore[index]
        assert {name: tensor.dtype for name, tensor in tensors.items()} == {k: v.dtype for k, v in TENSORS.items()}
        assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert refused > many(full, 150) // 2


def test_weights_of_before_there_were_digests(tmp_path):
    save_file(TENSORS, tmp_path / "old.safetensors")
    loaded = load_state(tmp_path / "old.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())


def test_archives_that_unpack_to_more(tmp_path, monkeypatch):
    """Small files that unpack to much: here megabytes in place of the quarter of a gigabyte that is let pass."""
    monkeypatch.setattr("bitsmith.files.FEW_BYTES", 10**6)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as file:
        for _ in range(3):
            file.write(bytes(10**6))
    data = bomb.read_bytes()
    assert len(data) < 10**4
    for name in ("train.checkpoint", "weights.pt", "arrays.npz"):
        (tmp_path / name).write_bytes(data)
    with bounded(), pytest.raises(RunError, match="unpack to 3,000,000"):
        load_checkpoint(tmp_path / "train.checkpoint")
    with bounded(), pytest.raises(RecipeError, match="unpack to 3,000,000"):
        load_model("resnet8", classes=10, shape=(3, 32, 32), weights=tmp_path / "weights.pt")
    with bounded(), pytest.raises(DataError, match="unpack to 3,000,000"):
        open_data(f"npz:{tmp_path / 'arrays.npz'}")


def test_arrays(tmp_path, full):
    """.npy and .npz files: headers that claim any size, labels that make any number of classes."""
    rng, draw = random.Random(4), np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"{part}_images"] = draw.integers(0, 256, (60, 8, 8), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(60) % 3
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez_compressed(tmp_path / "all.npz", **arrays)
    for name in ("train_images.npy", "train_labels.npy", "all.npz"):
        path = tmp_path / name
        good, spec = path.read_bytes(), f"npz:{path}" if name == "all.npz" else f"npy:{tmp_path}"
        contents = (changed_bytes(rng, good) for _ in range(many(full, 150)))
        counts = each_is_read_or_refused(path, contents, lambda spec=spec: open_data(spec))
        assert counts["refused"] > 20
        path.write_bytes(good)
    np.save(tmp_path / "train_labels.npy", np.where(np.arange(60) == 7, 2**60, arrays["train_labels"]))
    with bounded(), pytest.raises(DataError, match="of 60 images; labels count classes from 0"):
        open_data(f"npy:{tmp_path}")


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    graph = graphs.residual()
    blueprint = Blueprint(
        graph=graph,
        bits=graphs.uniform_bits(graph, 3, 4) | {"fc": Bits(weight=4, activation=8)},
        input=InputContract(kind="uint8", mean=(0.5,) * 3, std=(0.25,) * 3),
        classes=tuple("abcde"),
    )
    network = build(blueprint)
    network(torch.randn(8, 3, 8, 8))
    return lower(freeze(network.eval(), blueprint), blueprint)


def test_onnx_files(program, tmp_path, full):
    path, right = write_onnx(program, tmp_path / "model.onnx"), to_onnx(program)
    rng, good = random.Random(5), path.read_bytes()
    assert read_onnx(path, right).graph.node
    contents = (changed_bytes(rng, good) for _ in range(many(full, 150)))
    counts = each_is_read_or_refused(path, contents, lambda: read_onnx(path, right))
    assert counts["refused"] > 30


@pytest.mark.parametrize("harm", ["loop", "size", "doubling", "outside", "bytes"])
def test_onnx_files_that_would_take_everything(program, tmp_path, harm):
    """What our files never hold is refused before anything runs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    path = write_onnx(program, tmp_path / "model.onnx")
    model = onnx.load(path)
    graph, first = model.graph, model.graph.node[0].input[0]
    if harm == "loop":
        body = helper.make_graph([], "body", [], [])
        graph.node.insert(0, helper.make_node("Loop", ["", "true"], [], body=body))
    elif harm == "size":
        graph.initializer.append(numpy_helper.from_array(np.array([10**6, 10**6]), "size"))
        graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["zeros"]))
    elif harm == "doubling":
        for step in range(40):
            last = f"twice{step - 1}" if step else first
            graph.node.insert(step, helper.make_node("Concat", [last, last], [f"twice{step}"], axis=0))
    elif harm == "outside":
        tensor = graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../../etc/passwd")
    else:
        graph.initializer.append(numpy_helper.from_array(np.zeros(10**6), "much"))
    path.write_bytes(model.SerializeToString())
    with bounded(), pytest.raises(VerifyError, match=r"model\.onnx is (not a file of bitsmith|of another network)"):
        read_onnx(path, to_onnx(program))
