"""DataSet: training, the sealed test split, users' loaders, the default augmentation."""

from copy import copy
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from bitsmith.blueprint import InputContract
from bitsmith.data import Augment, DataSet, TensorSplit, choose_augment, default_augment, from_loaders, open_data
from bitsmith.data.loader import LoaderSplit
from bitsmith.data.split import JoinedSplit
from bitsmith.errors import DataError


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def _loader(n, start=0, classes=3):
    x = torch.arange(start, start + n, dtype=torch.float32).view(n, 1, 1, 1).expand(n, 1, 4, 6)
    return DataLoader(TensorDataset(x, torch.arange(n) % classes), 4)


def _user(**options):
    return from_loaders(train=_loader(9), validation=_loader(4), test=_loader(5), classes=("a", "b", "c"), **options)


def _named(name, shape, contract="uint8"):
    C = shape[0]
    uint8 = InputContract(kind="uint8", mean=(0.5,) * C, std=(0.5,) * C)
    split = TensorSplit(
        images=torch.zeros(2, *shape, dtype=torch.uint8), labels=torch.zeros(2, dtype=torch.int64), contract=uint8
    )
    parts = dict.fromkeys(("train", "search", "validation", "test"), split)
    return DataSet(
        name=name, classes=("x",), input=uint8 if contract == "uint8" else InputContract(), shape=shape, **parts
    )


def test_training_is_train_and_search_together(digits):
    assert len(digits.training) == len(digits.train) + len(digits.search)
    assert torch.equal(digits.training.images, torch.cat([digits.train.images, digits.search.images]))
    assert torch.equal(digits.training.labels, torch.cat([digits.train.labels, digits.search.labels]))
    assert digits.training is digits.training


def test_reading_test_of_a_search_copy_is_an_error(digits):
    bare = digits.without_test()
    with pytest.raises(DataError, match="the test split is only for the final evaluation"):
        bare.test  # noqa: B018 - reading it is the test
    with pytest.raises(DataError, match="only for the final evaluation"):
        bare.without_test().test  # noqa: B018 - reading it is the test
    with pytest.raises(DataError, match="only for the final evaluation"):
        copy(bare).test  # noqa: B018 - reading it is the test
    assert bare.train is digits.train
    assert bare.search is digits.search
    assert bare.validation is digits.validation
    assert (bare.name, bare.classes, bare.input, bare.shape) == (
        digits.name,
        digits.classes,
        digits.input,
        digits.shape,
    )
    assert bare.training is not None
    assert len(digits.test) == 359  # the original keeps it
    with pytest.raises(AttributeError, match="has no attribute 'tset'"):
        bare.tset  # noqa: B018 - reading it is the test


def test_a_data_set_is_frozen(digits):
    with pytest.raises(FrozenInstanceError):
        digits.without_test().test = digits.validation


def test_loaders_of_the_user():
    data = _user(search=_loader(4, start=100))
    assert data.shape == (1, 4, 6)
    assert data.input == InputContract(kind="float")
    assert data.classes == ("a", "b", "c")
    assert [len(part) for part in (data.train, data.search, data.validation, data.test)] == [9, 4, 4, 5]
    values = torch.cat([x[:, 0, 0, 0] for x, _ in data.training.batches(batch_size=1, seed=0)])
    assert values.tolist() == [*range(9), *range(100, 104)]
    assert len(data.training) == 13
    with pytest.raises(DataError, match="only for the final evaluation"):
        data.without_test().test  # noqa: B018 - reading it is the test


def test_without_a_search_loader_train_serves_for_both():
    data = _user()
    assert data.search is data.train
    assert data.training is data.train


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, "at least one class name"),
        ({"classes": "abc"}, "sequence of at least one class name, got 'abc'"),
        ({"train": []}, "train loader yields no batch"),
        ({"train": [torch.zeros(2, 1, 4, 6)]}, r"batch 0 of the train loader must be a pair"),
        ({"train": [(torch.zeros(2, 4), torch.zeros(2).long())]}, r"shape \(N, C, H, W\), got \(2, 4\)"),
        ({"test": iter([])}, "test loader is a list_iterator, which can't be read several times"),
        ({"train": iter([])}, "train loader is a list_iterator"),
    ],
)
def test_wrong_loaders_are_refused(change, message):
    good = {"train": _loader(9), "validation": _loader(4), "test": _loader(5), "classes": ("a", "b", "c")}
    with pytest.raises(DataError, match=message):
        from_loaders(**{**good, **change})


def test_a_loader_of_another_shape_is_named_on_use():
    data = from_loaders(
        train=_loader(9),
        validation=[(torch.zeros(1, 3, 4, 6), torch.tensor([0]))],
        test=_loader(5),
        classes=("a", "b", "c"),
    )
    with pytest.raises(DataError, match=r"batch 0 of the validation loader.*\(N, 1, 4, 6\), got \(1, 3, 4, 6\)"):
        len(data.validation)


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("digits", (1, 8, 8), None),
        ("fashion-mnist", (1, 28, 28), Augment(crop=2, flip=True)),
        ("npy:cifar10", (3, 32, 32), Augment(crop=4, flip=True)),
        ("npy:other", (1, 40, 40), None),
        ("cifar100", (3, 32, 32), Augment(crop=4, flip=True)),
        ("stl10", (3, 96, 96), Augment(crop=12, flip=True)),
        ("elpv", (1, 64, 64), Augment(crop=4, flip=True)),
        ("imagenet:x", (3, 224, 224), Augment(resized=(0.08, 1.0), flip=True)),
        ("folder:photos", (3, 64, 48), Augment(crop=8, flip=True)),
        ("folder:cells", (1, 24, 24), Augment(crop=3, flip=True)),
    ],
)
def test_default_augmentation(name, shape, wanted):
    assert default_augment(_named(name, shape)) == wanted


@pytest.mark.parametrize(
    ("name", "words", "wanted"),
    [
        ("folder:photos", "default", Augment(crop=8, flip=True)),
        ("folder:photos", "none", None),
        ("folder:photos", "crop", Augment(crop=8)),
        ("folder:photos", "flip", Augment(flip=True)),
        ("folder:photos", "crop+flip", Augment(crop=8, flip=True)),
        ("npy:other", "default", None),
        ("npy:other", "crop", Augment(crop=8)),
        ("npy:other", "flip", Augment(flip=True)),
        ("imagenet:x", "crop", Augment(resized=(0.08, 1.0))),
        ("imagenet:x", "flip", Augment(flip=True)),
    ],
)
def test_augmentation_in_words(name, words, wanted):
    assert choose_augment(_named(name, (3, 64, 48)), words) == wanted


def test_words_that_mean_no_augmentation_are_refused():
    with pytest.raises(DataError, match="unknown augmentation 'rotate'; known are default, none, crop, flip, crop"):
        choose_augment(_named("npy:x", (3, 8, 8)), "rotate")
    with pytest.raises(DataError, match="your own loaders augment by themselves"):
        choose_augment(_user(), "flip")
    assert choose_augment(_user(), "none") is choose_augment(_user(), "default") is None


def test_loaders_get_no_default_augmentation():
    assert default_augment(_named("folder:x", (3, 32, 32), contract="float")) is None
    assert default_augment(_user()) is None


def test_shown_in_a_line():
    data = open_data("digits", limit=100)
    for shown in (repr(data), repr(data.train), repr(data.without_test())):
        assert len(shown) < 400


def test_fingerprints_tell_data_apart():
    first, same = (open_data("digits", limit=200) for _ in range(2))
    assert first.training.fingerprint() == same.training.fingerprint()
    assert first.train.fingerprint() != first.search.fingerprint()
    changed = first.train.take(torch.arange(len(first.train)))
    changed.images[0, 0, 0, 0] += 1
    assert changed.fingerprint() != first.train.fingerprint()
    joined = JoinedSplit(parts=(first.train, first.search))
    assert joined.fingerprint() != JoinedSplit(parts=(first.search, first.train)).fingerprint()
    loaders = [
        LoaderSplit(
            loader=DataLoader(TensorDataset(torch.zeros(6, 1, 2, 2), y), batch_size=2, shuffle=True),
            classes=2,
            shape=(1, 2, 2),
            name="train",
        )
        for y in (torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([1, 1, 1, 1, 0, 0]), torch.tensor([0] * 6))
    ]
    prints = [loader.fingerprint() for loader in loaders]
    assert prints[0] == prints[1] != prints[2]
