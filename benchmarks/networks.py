"""Thirteen of torchvision's networks through the whole chain: captured, searched, exported as integers, verified.

    python -m benchmarks.networks                 all of them
    python -m benchmarks.networks --quick         those that take seconds
    python -m benchmarks.networks resnet50 ...    some of them; the rows of the others stay as they are

Each network has random weights, five classes and the smallest input that it takes. One search step moves weights and
architecture parameters, an integer program chooses 2, 4 or 8 bits for the weights and 4 or 8 for the activations of
each layer inside a size half-way between the least and the greatest, and what is built from that choice is calibrated
on the very images that it is verified on. Nothing is learned: what is shown is that each network passes.
`size_vs_ideal` is the file over the priced size.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.result import RESULTS, write_result
from benchmarks.sample import CONTRACT
from bitsmith.blueprint import Blueprint, Budget
from bitsmith.capture import capture
from bitsmith.cost import ExpectedCost, price
from bitsmith.data import TensorSplit
from bitsmith.deploy import Verification, lower, verify_onnx, write_onnx
from bitsmith.models import load_model
from bitsmith.quantize import Network, build, float_blueprint, freeze
from bitsmith.search.allocate import allocate
from bitsmith.search.feasible import reachable
from bitsmith.search.mixed import build_mixed, inherit, probabilities
from bitsmith.seeding import derive
from bitsmith.space import Precision, precision
from bitsmith.train import calibrate

SEED = 0
CLASSES = 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, the side of its input, whether that takes seconds; of large classifiers, fewer units."""

    name: str
    pixels: int
    quick: bool = False
    hidden: int | None = None


CASES = (
    Case(name="resnet18", pixels=32, quick=True),
    Case(name="resnet50", pixels=32),
    Case(name="googlenet", pixels=32),
    Case(name="inception_v3", pixels=75),
    Case(name="vgg11_bn", pixels=224, hidden=64),
    Case(name="mobilenet_v2", pixels=32, quick=True),
    Case(name="mobilenet_v3_small", pixels=32, quick=True),
    Case(name="squeezenet1_1", pixels=32, quick=True),
    Case(name="densenet121", pixels=32),
    Case(name="shufflenet_v2_x0_5", pixels=32, quick=True),
    Case(name="mnasnet0_5", pixels=32, quick=True),
    Case(name="efficientnet_b0", pixels=32),
    Case(name="regnet_y_400mf", pixels=32, quick=True),
)


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What came out at the end of the chain.

    Args:
        layers: priced layers.
        operators: of the captured network.
        size: priced, in bytes.
        file: bytes of the exported file.
    """

    blueprint: Blueprint
    layers: int
    operators: tuple[str, ...]
    size: float
    file: int
    verification: Verification


def bring_case(case: Case, folder: Path) -> Passed:
    """One of torchvision's networks, with fresh weights."""
    shape = (3, case.pixels, case.pixels)
    module, _ = load_model(f"torchvision:{case.name}", classes=CLASSES, shape=shape, seed=SEED)
    if case.hidden is not None:
        shrink(cast(nn.Sequential, module.classifier), case.hidden)
    return bring_through(module, shape, folder / f"{case.name}.onnx")


def shrink(classifier: nn.Sequential, hidden: int) -> None:
    """Fewer units between the linear layers of a classifier, with weights of torch's own."""
    places = [i for i, layer in enumerate(classifier) if isinstance(layer, nn.Linear)]
    read = cast(nn.Linear, classifier[places[0]]).in_features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(SEED, "shrunk"))
        for place in places:
            units = CLASSES if place == places[-1] else hidden
            classifier[place] = nn.Linear(read, units)
            read = units


def bring_through(module: nn.Module, shape: tuple[int, int, int], path: Path, *, images: int = 4) -> Passed:
    """Capture, search one step, allocate, rebuild, calibrate, freeze, price, export and verify one network."""
    captured = capture(module.eval(), shape)
    rng = np.random.default_rng(derive(SEED, "images"))
    pixels = torch.from_numpy(rng.integers(0, 256, (images, *shape), np.uint8))
    labels = torch.from_numpy(rng.integers(0, CLASSES, images))
    split = TensorSplit(images=pixels, labels=labels, contract=CONTRACT)
    template = Blueprint(graph=captured.graph, bits=float_blueprint(captured.graph).bits, input=CONTRACT)
    space = precision(template, weight_bits=(2, 4, 8), activation_bits=(4, 8))
    searched = build_mixed(space)
    searched.load_float(captured.state)
    calibrate(searched, split, batches=1, batch_size=images, seed=SEED)
    blueprint = search_step(space, searched, split)
    network = build(blueprint)
    network.load_state_dict(inherit(space, searched, blueprint))
    del searched
    calibrate(network, split, batches=1, batch_size=images, seed=SEED)
    frozen = freeze(network.eval(), blueprint)
    program = lower(frozen, blueprint)
    write_onnx(program, path)
    return Passed(
        blueprint=blueprint,
        layers=len(captured.graph.layers),
        operators=tuple(sorted({node.op for node in captured.graph.nodes})),
        size=price(blueprint.graph, blueprint.bits)["size"],
        file=path.stat().st_size,
        verification=verify_onnx(path, frozen, program, pixels.numpy(), labels.numpy()),
    )


def search_step(space: Precision, network: Network, split: TensorSplit) -> Blueprint:
    """One gradient step of weights and architecture parameters, then the most likely bits inside half the size."""
    x, y = next(split.batches(batch_size=len(split)))
    least, greatest = reachable(space, ["size"])["size"]
    expected = ExpectedCost("size", space.template.graph, space.options)
    network.train()
    loss = F.cross_entropy(network(x), y) + expected(*probabilities(network)) / greatest
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    torch.optim.SGD(network.parameters(), lr=1e-3).step()
    weight, activation = probabilities(network)
    penalty = {name: -(weight[name].log()[:, None] + activation[name].log()).detach().numpy() for name in space.options}
    return allocate(space, penalty, [Budget(cost="size", limit=(least + greatest) // 2)])


def main() -> None:
    """Bring networks through and write the result."""
    wanted = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    quick = "--quick" in sys.argv[1:]
    torch.set_num_threads(1)
    stored = RESULTS / "networks.json"
    old = json.loads(stored.read_text())["rows"] if wanted and stored.exists() else []
    rows: dict[str, dict[str, Any]] = {row["network"]: row for row in old}
    print(_LINE.format("network", "input", "captured", "exported", "verified", "file bytes", "priced size", "ratio"))
    for case in CASES:
        if case.name in wanted or (not wanted and (case.quick or not quick)):
            rows[case.name] = row = measure(case)
            print(_LINE.format(*(str(row[key]) for key in _COLUMNS)), *row["problems"], flush=True)
    found = [rows[case.name] for case in CASES if case.name in rows]
    path = write_result(
        "networks",
        ratios={f"{row['network']} size_vs_ideal": row["size_vs_ideal"] for row in found},
        rows=found,
        settings={"weight_bits": [2, 4, 8], "activation_bits": [4, 8], "classes": CLASSES, "images": 4, "threads": 1},
        seed=SEED,
        core_hours=sum(row["seconds"] for row in found) / 3600,
        quick=quick,
    )
    print(path)


_LINE = "{:20} {:>6} {:>9} {:>9} {:>9} {:>11} {:>12} {:>7}"
_COLUMNS = ("network", "pixels", "captured", "exported", "verified", "file_bytes", "size_bytes", "size_vs_ideal")


def measure(case: Case) -> dict[str, Any]:
    """The row of one network; what can't be captured or exported ends the program with its error."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        passed = bring_case(case, Path(folder))
    found = passed.verification
    return {
        "network": case.name,
        "pixels": case.pixels,
        "layers": passed.layers,
        "operators": list(passed.operators),
        "captured": True,
        "exported": True,
        "verified": found.ok,
        "differing_outputs": dict(found.differing_outputs),
        "problems": list(found.problems),
        "file_bytes": passed.file,
        "size_bytes": int(passed.size),
        "size_vs_ideal": round(passed.file / passed.size, 4),
        "seconds": round(time.process_time() - began, 1),
    }


if __name__ == "__main__":
    main()
