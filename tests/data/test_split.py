"""Splits: what one pass yields, in which order, normalized how; the checks on users' loaders."""

import hashlib
import subprocess
import sys
from itertools import chain

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from bitsmith.blueprint import InputContract
from bitsmith.data import Augment, JoinedSplit, LoaderSplit, Split, TensorSplit
from bitsmith.errors import DataError

CONTRACT = InputContract(kind="uint8", mean=(0.25, 0.5), std=(0.5, 0.125))


def _split(n=23, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorSplit(
        images=torch.randint(256, (n, 2, 4, 5), dtype=torch.uint8, generator=generator),
        labels=torch.arange(n) % 4,
        contract=CONTRACT,
    )


def _numbered(n):
    """A split whose image i shows the number i."""
    contract = InputContract(kind="uint8", mean=(0.0,), std=(1.0,))
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2).contiguous()
    return TensorSplit(images=images, labels=torch.arange(n) % 3, contract=contract)


def _numbers(batches):
    return [(x[:, 0, 0, 0] * 255).round().int().tolist() for x, _ in batches]


def _loader(n=7, classes=3, batch=3, **options):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(n, 1, 4, 4, generator=generator), torch.arange(n) % classes)
    return LoaderSplit(loader=DataLoader(data, batch, **options), classes=classes, shape=(1, 4, 4), name="train")


@pytest.mark.parametrize(
    "split", [_split(), _loader(), JoinedSplit(parts=(_split(9), _split(5)))], ids=["tensor", "loader", "joined"]
)
class TestContract:
    """What every split must do."""

    def test_batches_have_the_promised_types_and_sizes(self, split: Split):
        seen = 0
        for x, y in split.batches(batch_size=4):
            assert x.dtype == torch.float32
            assert y.dtype == torch.int64
            assert x.ndim == 4
            assert y.shape == x.shape[:1]
            seen += len(y)
        assert seen == len(split) == len(split.labels)

    def test_fixed_order_follows_labels_and_repeats(self, split: Split):
        first, second = (list(split.batches(batch_size=4)) for _ in range(2))
        assert torch.equal(torch.cat([y for _, y in first]), split.labels)
        for (xa, ya), (xb, yb) in zip(first, second, strict=True):
            assert torch.equal(xa, xb)
            assert torch.equal(ya, yb)

    @pytest.mark.parametrize("seed", [None, 6])
    @pytest.mark.parametrize("start", [0, 1, 2, 3, 99])
    def test_a_pass_that_starts_later_yields_the_rest_of_the_same_pass(
        self, split: Split, start: int, seed: int | None
    ):
        augment = Augment(crop=1, flip=True) if seed is not None and not isinstance(split, LoaderSplit) else None
        whole = list(split.batches(batch_size=4, seed=seed, augment=augment))
        rest = list(split.batches(batch_size=4, seed=seed, augment=augment, start=start))
        assert len(rest) == max(0, len(whole) - start)
        for (x, y), (wanted, labels) in zip(rest, whole[start:], strict=True):
            assert torch.equal(x, wanted)
            assert torch.equal(y, labels)

    def test_a_negative_start_is_refused(self, split: Split):
        with pytest.raises(DataError, match="can't start at batch -1"):
            list(split.batches(batch_size=4, start=-1))

    @pytest.mark.parametrize("limit", [None, 1, 6, 99])
    def test_raw_inputs_are_those_of_the_fixed_order(self, split: Split, limit: int | None):
        inputs, labels = split.raw(limit)
        assert labels.tolist() == split.labels[:limit].tolist()
        x = torch.from_numpy(inputs)
        if x.dtype == torch.uint8:
            mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (CONTRACT.mean, CONTRACT.std))
            x = (x / 255 - mean) / std
        assert torch.equal(x, torch.cat([x for x, _ in split.batches(batch_size=4)])[:limit])

    @pytest.mark.parametrize("batch_size", [1, 2, 4, 11, 100])
    def test_steps_counts_the_batches_of_a_shuffled_pass(self, split: Split, batch_size: int):
        assert split.steps(batch_size=batch_size) == len(list(split.batches(batch_size=batch_size, seed=1)))
        assert split.steps(batch_size=batch_size, shuffled=False) == len(list(split.batches(batch_size=batch_size)))


def test_normalization_is_exact_in_float32():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 2, 16, 16).contiguous()
    split = TensorSplit(
        images=pixels,
        labels=torch.zeros(1, dtype=torch.int64),
        contract=InputContract(kind="uint8", mean=(0.49139968, 0.2860406), std=(0.24703233, 0.35302424)),
    )
    ((x, _),) = split.batches(batch_size=1)
    for channel in range(2):
        mean, std = (torch.tensor(v[channel], dtype=torch.float32) for v in (split.contract.mean, split.contract.std))
        # One scalar at a time: nothing vectorized, nothing fused.
        table = [((torch.tensor(float(p)) / 255 - mean) / std).item() for p in range(256)]
        assert x[0, channel].flatten().tolist() == table


def test_normalization_takes_each_channel_by_its_own_numbers():
    split = TensorSplit(
        images=torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1),
        labels=torch.zeros(1, dtype=torch.int64),
        contract=CONTRACT,
    )
    ((x, _),) = split.batches(batch_size=1)
    assert x.flatten().tolist() == [-0.5, 4.0]


def test_without_a_seed_nothing_is_dropped_or_moved():
    assert _numbers(_numbered(7).batches(batch_size=3)) == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"), [(7, 3, [3, 3]), (8, 3, [3, 3, 2]), (3, 1, [1, 1, 1]), (2, 9, [2])]
)
def test_a_shuffled_pass_drops_only_a_lone_last_sample(n, batch_size, sizes):
    got = _numbers(_numbered(n).batches(batch_size=batch_size, seed=5))
    assert [len(batch) for batch in got] == sizes
    flat = list(chain(*got))
    assert len(set(flat)) == len(flat)


def test_shuffling_keeps_images_with_their_labels_and_follows_the_seed():
    split = _numbered(60)
    for x, y in split.batches(batch_size=8, seed=3):
        assert torch.equal((x[:, 0, 0, 0] * 255).round().long() % 3, y)
    first, again, other = (_numbers(split.batches(batch_size=8, seed=s)) for s in (3, 3, 4))
    assert first == again
    assert first != other
    assert sorted(chain(*first)) == list(range(60))
    assert list(chain(*first)) != list(range(60))


def test_augmentation_acts_on_raw_pixels_before_normalization():
    split = TensorSplit(
        images=torch.full((64, 1, 2, 2), 255, dtype=torch.uint8),
        labels=torch.zeros(64, dtype=torch.int64),
        contract=InputContract(kind="uint8", mean=(0.5,), std=(0.5,)),
    )
    ((x, _),) = split.batches(batch_size=64, seed=0, augment=Augment(crop=1))
    assert set(x.flatten().tolist()) == {-1.0, 1.0}  # the border is black: pixel 0, not the mean


def test_augmentation_needs_a_seed():
    with pytest.raises(DataError, match="give batches\\(\\) a seed"):
        _split().batches(batch_size=2, augment=Augment(flip=True))


def test_batch_size_is_checked_at_the_call():
    with pytest.raises(DataError, match="batch size must be at least 1, got 0"):
        _split().batches(batch_size=0)


_HASH = """
import hashlib, torch
from bitsmith.data import Augment, open_data
data = open_data("digits", seed=7, limit=400)
h = hashlib.sha256()
for x, y in data.train.batches(batch_size=32, seed=11, augment=Augment(crop=1, flip=True)):
    h.update(x.numpy().tobytes() + y.numpy().tobytes())
print(h.hexdigest())
"""


def test_the_same_seed_gives_the_same_batches_in_another_process():
    run = subprocess.run([sys.executable, "-c", _HASH], capture_output=True, text=True, check=True)
    from bitsmith.data import open_data

    digest = hashlib.sha256()
    for x, y in open_data("digits", seed=7, limit=400).train.batches(
        batch_size=32, seed=11, augment=Augment(crop=1, flip=True)
    ):
        digest.update(x.numpy().tobytes() + y.numpy().tobytes())
    assert run.stdout.strip() == digest.hexdigest()


def test_take_and_subset():
    split = _numbered(30)
    assert _numbers(split.take(torch.tensor([4, 1])).batches(batch_size=9)) == [[4, 1]]
    part = split.subset(12, seed=1)
    assert torch.bincount(part.labels).tolist() == [4, 4, 4]
    (numbers,) = _numbers(part.batches(batch_size=12))
    assert numbers == sorted(numbers)
    assert numbers == _numbers(split.subset(12, seed=1).batches(batch_size=12))[0]
    assert numbers != _numbers(split.subset(12, seed=2).batches(batch_size=12))[0]
    assert len(split.subset(99, seed=0)) == 30
    with pytest.raises(DataError, match="at least one sample, got 0"):
        split.subset(0, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(3, 2, 4, 4)}, r"must be uint8 \(N, C, H, W\), got torch.float32"),
        ({"images": torch.zeros(3, 2, 4, dtype=torch.uint8)}, r"got torch.uint8 \(3, 2, 4\)"),
        ({"labels": torch.zeros(3)}, r"labels must be int64 \(N,\), got torch.float32"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, "3 images but 2 labels"),
        ({"labels": torch.tensor([0, -1, 0])}, "labels count from 0, got -1"),
        (
            {"images": torch.zeros(0, 2, 4, 4, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)},
            "at least one",
        ),
        ({"contract": InputContract()}, "kind 'uint8' with 2 means and deviations, got kind 'float' with 0 and 0"),
        ({"contract": InputContract(kind="uint8", mean=(0.5,), std=(1.0,))}, "with 1 and 1"),
        ({"contract": InputContract(kind="uint8", mean=(0.5, 0.5), std=(1.0, 0.0))}, "must be positive"),
    ],
)
def test_a_malformed_tensor_split_is_refused(change, message):
    good = {
        "images": torch.zeros(3, 2, 4, 4, dtype=torch.uint8),
        "labels": torch.zeros(3, dtype=torch.int64),
        "contract": CONTRACT,
    }
    with pytest.raises(DataError, match=message):
        TensorSplit(**{**good, **change})


def test_loader_batches_are_those_of_the_loader():
    split = _loader(n=7, batch=3)
    assert [len(y) for _, y in split.batches(batch_size=100, seed=4)] == [3, 3, 1]
    assert len(split) == 7
    assert split.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert split.steps(batch_size=1) == 3


def test_loader_values_pass_unchanged_and_become_float32():
    x, y = torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1], dtype=torch.int32)
    split = LoaderSplit(loader=[(x, y)], classes=2, shape=(1, 3, 3), name="test")
    ((got, labels),) = split.batches(batch_size=2)
    assert got.dtype == torch.float32
    assert torch.equal(got, x.float())
    assert labels.dtype == torch.int64


def test_loaders_take_no_augmentation():
    with pytest.raises(DataError, match="train loader is your own"):
        _loader().batches(batch_size=2, seed=0, augment=Augment(flip=True))


def test_a_loader_that_can_be_read_only_once_is_refused():
    with pytest.raises(DataError, match="val loader is a generator, which can't be read several times"):
        LoaderSplit(loader=(b for b in []), classes=2, shape=(1, 2, 2), name="val")
    with pytest.raises(DataError, match="val loader is a int"):
        LoaderSplit(loader=3, classes=2, shape=(1, 2, 2), name="val")  # pyright: ignore[reportArgumentType]


X, Y = torch.zeros(2, 1, 3, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, r"must be a pair \(x, y\) of tensors, got a Tensor"),
        ({"x": X, "y": Y}, "got a dict"),
        ((X,), r"got a tuple of \(Tensor\)"),
        ((X, [0, 1]), r"got a tuple of \(Tensor, list\)"),
        ((X.to(torch.uint8), Y), "x must be float, got torch.uint8"),
        ((X[:, 0], Y), r"must have the shape \(N, 1, 3, 3\), got \(2, 3, 3\)"),
        ((X[..., :2], Y), r"got \(2, 1, 3, 2\)"),
        ((X.clone().fill_(float("nan")), Y), "x holds NaN or infinity"),
        ((X / 0 + float("inf"), Y), "x holds NaN or infinity"),
        ((X, Y.float()), "labels must be integers, got torch.float32"),
        ((X, Y[:1]), r"labels must have the shape \(2,\), got \(1,\)"),
        ((X, Y[:, None]), r"labels must have the shape \(2,\), got \(2, 1\)"),
        ((X, Y + 1), r"label 2 is outside 0..1 \(2 classes\)"),
        ((X, Y - 1), "label -1 is outside 0..1"),
    ],
)
def test_a_wrong_batch_is_named_when_it_is_used(batch, message):
    split = LoaderSplit(loader=[(X, Y), batch], classes=2, shape=(1, 3, 3), name="search")
    with pytest.raises(DataError, match="batch 1 of the search loader.*" + message):
        list(split.batches(batch_size=2))


def test_an_empty_loader_is_refused_on_use():
    with pytest.raises(DataError, match="train loader yields no batch"):
        len(LoaderSplit(loader=[], classes=2, shape=(1, 3, 3), name="train"))
