"""A small record with one of everything; `record(...)` changes fields of it."""

from dataclasses import replace

import pytest

from bitsmith.report import (
    Curve,
    Effect,
    Explained,
    Latency,
    LayerRow,
    LayerSpeed,
    LayerStep,
    Record,
    Requested,
    Row,
    Sensitivities,
    Sensitivity,
    Speed,
    Time,
    Verification,
    advise,
)

LAYERS = ["stem", *(f"stage{s}.{b}.conv{c}" for s in (1, 2, 3) for b in (0,) for c in (1, 2)), "down2", "down3", "fc"]


def make_row(name="composite", kind="found", test=0.912, size=19_900.0, **changes) -> Row:
    budget = "" if kind == "float" else "size=20kB"
    meets = {} if kind == "float" else {"size=20kB": size <= 20_000}
    row = Row(
        name=name, kind=kind, budget=budget, bits="w1-8 a8",
        costs={"params": 78_000.0, "size": size, "bitops": size * 9e3, "avg_bits": 2.5},
        epochs=30.0, seconds=1530.5, seed=0, metric="accuracy", validation=0.915, test=test, source="onnx",
        meets=meets, folder="", trained=True,
    )  # fmt: skip
    row = replace(row, **changes)
    unique = "-".join(text for text in (row.name, row.budget, str(row.seed) if row.seed else "") if text)
    return replace(row, folder=row.folder or unique.replace(" ", "-"))


def make_layers(weight_bits) -> list[LayerRow]:
    return [
        LayerRow(
            name=name, kind="linear" if name == "fc" else "conv", weights=1000 + 900 * i, macs=1_000_000 - 90_000 * i,
            weight_bits=bits, activation_bits=8, shares={"size": (i + 1) / 55, "bitops": (10 - i) / 55},
        )
        for i, (name, bits) in enumerate(zip(LAYERS, weight_bits, strict=True))
    ]  # fmt: skip


def make_effect(value=0.0, margin=0.01) -> Effect:
    return Effect(value=value, margin=margin, noise=abs(value) <= margin)


def make_step(layer="stem", kind="weight", before=4, after=2, score=0.0, loss=0.0, size=None, **changes) -> LayerStep:
    """Margins: 1 point, 0.01 of loss."""
    costs = {"size": float(100 * (after - before)) if size is None else float(size), "bitops": 1e6 * (after - before)}
    step = LayerStep(
        layer=layer, kind=kind, before=before, after=after, score=make_effect(score), loss=make_effect(loss),
        costs=costs, inside=after < before, believed=0.25 * loss,
    )  # fmt: skip
    return replace(step, **changes)


def make_explained(steps=None, **changes) -> Explained:
    if steps is None:
        steps = [make_step(name, after=after, score=0.004 * (i - 4), loss=0.005 * (4 - i))
                 for i, name in enumerate(LAYERS[1:-1]) for after in (2, 8)]  # fmt: skip
    explained = Explained(
        network="composite-size=20kB", metric="accuracy", images=5000, trained_score=0.915, score=0.914, loss=0.3,
        price="size", requested=[make_requested()], steps=steps, words=[],
    )  # fmt: skip
    explained = replace(explained, **changes)
    return replace(explained, words=advise(explained))


def make_speed() -> Speed:
    """Every second layer was asked for two bits, one of them gained time."""
    layers = [
        LayerSpeed(
            name=name, weight_bits=8 - 6 * (i % 2), activation_bits=8, kernel="QLinearConv", weight_type="int8",
            activation_type="uint8", executed_weight_bits=8, executed_activation_bits=8, extra_kernels=i % 3,
            time=Time(asked=4e-5 if i == 3 else 6e-5, asked_spread=1e-6, eight=6e-5, eight_spread=1e-6),
            bytes=1000.0 - 700 * (i % 2), bytes_at_eight=1000.0,
        )
        for i, name in enumerate(LAYERS)
    ]  # fmt: skip
    time = Time(asked=6e-4, asked_spread=1e-5, eight=6e-4, eight_spread=1e-5)
    return Speed(network="composite-size=20kB", setting="onnxruntime 1.31.1", call=time, rest=time, layers=layers)


def make_requested() -> Requested:
    return Requested(network="composite-size=20kB", cost="size", limit=20_000.0, obtained=19_900.0, met=True)


def make_record(**changes) -> Record:
    epochs = [float(e) for e in range(1, 31)]
    record = Record(
        title="ResNet-8 on CIFAR-10",
        created="2026-11-20T14:03:00+00:00",
        verdict="Inside size=20kB composite reaches 91.20 % against 90.80 % for uniform+fill: +0.40 points.",
        network={"name": "resnet8", "layers": 10, "weights": 77_360},
        data={"name": "cifar10", "test_images": 10_000},
        rows=[
            make_row("float", "float", 0.9302, 310_000.0, bits="float", source="torch"),
            make_row("uniform 8", "baseline", 0.9254, 80_400.0, bits="w8a8", budget=""),
            make_row("uniform 2", "baseline", 0.897, 19_850.0, bits="w2a8"),
            make_row("uniform+fill", "baseline", 0.908, 19_990.0),
            make_row("random", "baseline", 0.899, 18_100.0),
            make_row(),
        ],
        chosen=["composite-size=20kB"],
        layers={
            "uniform-2-size=20kB": make_layers((8, 2, 2, 2, 2, 2, 2, 2, 2, 8)),
            "composite-size=20kB": make_layers((8, 4, 2, 2, 1, 2, 1, 4, 4, 8)),
        },
        sensitivities={
            "composite-size=20kB": Sensitivities(
                decisions=[
                    Sensitivity(layer=name, kind="weight", bits=[1, 2, 4], loss=[loss / i for loss in (1.2, 1.05, 1)])
                    for i, name in enumerate(LAYERS[1:-1], start=1)
                ],
                images=4096, steps=16, within=5, standard_error=0.004,
            )
        },
        curves=[
            Curve(
                name="Training", x_label="epoch", x=epochs,
                series={"train": [2.3 / e for e in epochs], "validation": [2.4 / e + 0.1 for e in epochs]},
            ),
            Curve(
                name="Search: expected size", x_label="step", x=epochs, limits={"size=20kB": 20_000.0},
                series={"size": [max(19_800.0, 60_000.0 - 2_200.0 * e) for e in epochs]},
            ),
        ],
        explained={"composite-size=20kB": make_explained()},
        latencies=[
            Latency(
                network="composite-size=20kB", predicted=1.6e-4, measured=1.65e-4, spread=4e-6, known=False,
                setting="onnxruntime 1.31.1, 1 thread",
            )
        ],
        speeds=[make_speed()],
        requested=[make_requested()],
        verification=[
            Verification(
                artefact="model.onnx", images=10_000, score=0.912,
                equal_outputs={"DISABLE_ALL": 10_000, "BASIC": 10_000, "EXTENDED": 10_000, "ALL": 10_000},
                integer_layers=10, float_layers=0, first_difference=None, ok=True, level="bit-identical",
            )
        ],
        environment={"bitsmith": "0.1.0", "torch": "2.14.1", "cpu": "2 cores, AVX-512", "seed": "0"},
        notes=["One seed: the comparison is indicative."],
        command="bitsmith run cifar10.yaml --budget size=20kB --seed 0",
    )  # fmt: skip
    # What speaks of a row that is not there any more goes too.
    folders = {row.folder for row in changes.get("rows", record.rows)}
    kept = {
        "chosen": [folder for folder in record.chosen if folder in folders],
        "layers": {folder: layers for folder, layers in record.layers.items() if folder in folders},
        "sensitivities": {folder: it for folder, it in record.sensitivities.items() if folder in folders},
        "explained": {folder: it for folder, it in record.explained.items() if folder in folders},
        "latencies": [line for line in record.latencies if line.network in folders],
        "speeds": [line for line in record.speeds if line.network in folders],
        "requested": [line for line in record.requested if line.network in folders],
    }
    return replace(record, **(kept | changes))


def make_hostile(text) -> Record:
    """The sample with every free text replaced."""
    sample = make_record()
    return replace(
        sample,
        title=text, verdict=text, network={text: text}, data={text: text, "test_images": 100}, chosen=[f"{text}5"],
        rows=[replace(r, name=text, bits=text, metric=text, folder=f"{text}{i}") for i, r in enumerate(sample.rows)],
        layers={f"{text}5": [replace(layer, name=text, kind=text) for layer in sample.layers["composite-size=20kB"]]},
        sensitivities={
            f"{text}5": replace(measured, decisions=[replace(decision, layer=text) for decision in measured.decisions])
            for measured in sample.sensitivities.values()
        },
        explained={
            f"{text}5": replace(
                it, network=text, metric=text, words=[text], steps=[replace(step, layer=text) for step in it.steps]
            )
            for it in sample.explained.values()
        },
        latencies=[replace(line, network=f"{text}5", setting=text) for line in sample.latencies],
        speeds=[
            replace(
                line, network=f"{text}5", setting=text,
                layers=[
                    replace(layer, name=text, kernel=text, weight_type=text, activation_type=text)
                    for layer in line.layers
                ],
            )
            for line in sample.speeds
        ],
        requested=[replace(line, network=f"{text}5") for line in sample.requested],
        curves=[Curve(name=text, x_label=text, x=[1.0, 2.0], series={text: [1.0, 2.0]}, limits={text: 1.5})],
        verification=[
            replace(v, artefact=text, level=text, equal_outputs={text: 1}, first_difference=text, ok=False)
            for v in sample.verification
        ],
        environment={text: text}, notes=[text], command=text,
    )  # fmt: skip


@pytest.fixture
def row():
    return make_row


@pytest.fixture
def record():
    return make_record


@pytest.fixture
def hostile():
    return make_hostile


@pytest.fixture(scope="session")
def explained():
    return make_explained


@pytest.fixture(scope="session")
def step():
    return make_step
