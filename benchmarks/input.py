"""What reading the data costs: seconds of the loader for a batch, as a share of the training step that uses it.

    python -m benchmarks.input             about ten minutes
    python -m benchmarks.input --quick     fewer repeats, smaller images in files

One thread and CPU time of one process, loader and step by turns, the median of each: other load on the machine slows
both alike. Image files are decoded in the same process, without the worker processes that hide it in practice, so that
their share is what it would be on a machine with a single core. Steps are those of float networks, the shortest there
are: low-precision ones take longer, and the share of the loader is smaller there. Wanted: under 5 %.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.result import write_result
from bitsmith.blueprint import InputContract
from bitsmith.capture import capture
from bitsmith.data import Augment, FileSplit, Split, TensorSplit, open_data
from bitsmith.models import load_model
from bitsmith.quantize import build, float_blueprint
from bitsmith.seeding import numpy_generator, torch_generator
from bitsmith.train import TrainPlan, make_optimizer

WANTED = 0.05
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A loader and the networks that it feeds.

    Args:
        source: what the loader reads, for the table.
        networks: as `load_model` takes them.
    """

    source: str
    split: Split
    augment: Augment
    shape: tuple[int, int, int]
    batch_size: int
    networks: tuple[str, ...]


def main() -> None:
    """Measure every case and write the result."""
    torch.set_num_threads(1)
    quick = "--quick" in sys.argv[1:]
    started = time.process_time()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in _cases(Path(folder), quick):
            for network in case.networks:
                loader, step = measure(case, network, repeats=3 if quick else 15)
                rows.append(
                    {
                        "source": case.source,
                        "network": network,
                        "batch_size": case.batch_size,
                        "loader_seconds": round(loader, 6),
                        "step_seconds": round(step, 4),
                        "share": round(loader / step, 5),
                    }
                )
                print(f"{case.source:45} {network:22} {1e3 * loader:8.2f} ms of {1e3 * step:8.1f} ms", flush=True)
    path = write_result(
        "input",
        ratios={f"{row['source']}, {row['network']}": row["share"] for row in rows},
        rows=rows,
        settings={"wanted": WANTED, "threads": 1, "time": "CPU time, median, by turns", "networks": "float32, eager"},
        seed=SEED,
        core_hours=(time.process_time() - started) / 3600,
        quick=quick,
    )
    print(path)


def measure(case: Case, network: str, *, repeats: int) -> tuple[float, float]:
    """CPU seconds of (one batch from the loader, one training step on it), each the median of `repeats`."""
    module, _ = load_model(network, classes=10, shape=case.shape, seed=SEED)
    trained = build(float_blueprint(capture(module, case.shape).graph))
    optimizer = make_optimizer(trained, TrainPlan())
    batches = _endless(case)
    loading, stepping = [], []
    for _ in range(repeats + 1):
        times = [time.process_time()]
        x, y = next(batches)
        times.append(time.process_time())
        _step(trained, optimizer, x, y)
        times.append(time.process_time())
        loading.append(times[1] - times[0])
        stepping.append(times[2] - times[1])
    return median(loading[1:]), median(stepping[1:])


def _endless(case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    epoch = 0
    while True:
        yield from case.split.batches(batch_size=case.batch_size, seed=epoch, augment=case.augment)
        epoch += 1


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    network.train()
    loss = F.cross_entropy(network(x), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _cases(folder: Path, quick: bool) -> Iterator[Case]:
    crop = Augment(crop=4, flip=True)
    for side, batch_size, networks in (
        (32, 128, ("resnet8", "resnet20")),
        (64, 64, ("torchvision:resnet18",)),
    ):
        yield Case(
            source=f"memory, 3x{side}x{side}, crop and flip",
            split=_pixels(2000 if quick else 10_000, side),
            augment=crop,
            shape=(3, side, side),
            batch_size=batch_size,
            networks=networks,
        )
    side = 96 if quick else 224
    _photos(folder, 20 if quick else 40)
    data = open_data(f"imagenet:{folder}", shape=(3, side, side))
    assert isinstance(data.training, FileSplit)
    yield Case(
        source=f"JPEG files of 500x375, resized crop 3x{side}x{side}",
        split=replace(data.training, workers=0),
        augment=Augment(resized=(0.08, 1.0), flip=True),
        shape=(3, side, side),
        batch_size=32,
        networks=("torchvision:resnet18",),
    )


def _pixels(count: int, side: int) -> TensorSplit:
    generator = torch_generator(SEED, "benchmark", side)
    return TensorSplit(
        images=torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator),
        labels=torch.arange(count) % 10,
        contract=InputContract(kind="uint8", mean=(0.5,) * 3, std=(0.25,) * 3),
    )


def _photos(folder: Path, per_class: int) -> None:
    """Ten classes of smooth noise as JPEG, 500x375 pixels and about 100 kB each, as ImageNet's are."""
    generator = numpy_generator(SEED, "photos")
    for part in ("train", "val"):
        for label in range(10):
            (folder / part / str(label)).mkdir(parents=True)
            for i in range(per_class if part == "train" else 1):
                coarse = Image.fromarray(generator.integers(0, 256, (75, 100, 3), dtype=np.uint8))
                photo = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
                photo = (photo + generator.integers(-8, 9, photo.shape)).clip(0, 255).astype(np.uint8)
                Image.fromarray(photo).save(folder / part / str(label) / f"{i}.jpg", quality=90)


if __name__ == "__main__":
    main()
