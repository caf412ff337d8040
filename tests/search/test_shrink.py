"""Noisy measurements drawn towards those of their kind: against closed forms, and against the truth."""

import numpy as np
import pytest

from bitsmith.search.shrink import shrink

IMAGES = [64] * 10


def measured(true, noise, seed, batches=10):
    """Losses of decisions whose options differ by `true` [decisions, options], every batch with a level of its own."""
    rng = np.random.default_rng(seed)
    level = rng.normal(2, 0.3, size=batches)
    losses = true[:, :, None] + level + noise * rng.normal(size=(*true.shape, batches))
    return {f"d{i}": values for i, values in enumerate(losses)}


def apart(found):
    return np.stack(list(found.values()))


def test_no_noise_is_believed():
    true = np.random.default_rng(0).normal(size=(6, 3))
    losses = measured(true, 0.0, 1)
    found = shrink(losses, dict.fromkeys(losses, "k"), IMAGES)
    np.testing.assert_allclose(apart(found.losses), true - true.mean(1, keepdims=True), atol=1e-12)
    assert found.trust["k"] == pytest.approx(1)


def test_noise_alone_is_not():
    """Equal decisions: each becomes nearly the mean of all, whose error is smaller by the root of their number."""
    true = np.tile([0.3, 0.1, 0.0], (40, 1))
    trusts, errors = [], []
    for seed in range(20):
        losses = measured(true, 0.2, seed)
        found = shrink(losses, dict.fromkeys(losses, "k"), IMAGES)
        trusts.append(found.trust["k"])
        errors.append(np.abs(apart(found.losses) - (true - true.mean(1, keepdims=True))).mean())
    assert np.mean(trusts) < 0.15
    assert np.mean(errors) < 0.4 * 0.2 / np.sqrt(10)


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.6])
def test_nearer_to_the_truth_than_what_was_measured(noise):
    """In the mean over draws, whatever the noise; and trust is the share of the spread that is true."""
    ours, theirs, trusts = [], [], []
    for seed in range(200):
        true = np.array([0.3, 0.1, 0.0]) + 0.05 * np.random.default_rng(seed).normal(size=(12, 3))
        true -= true.mean(1, keepdims=True)
        losses = measured(true, noise, 1000 + seed)
        found = shrink(losses, dict.fromkeys(losses, "k"), IMAGES)
        means = apart(losses).mean(2)
        ours.append(np.square(apart(found.losses) - true).mean())
        theirs.append(np.square(means - means.mean(1, keepdims=True) - true).mean())
        trusts.append(found.trust["k"])
    assert np.mean(ours) < np.mean(theirs)
    wanted = 0.05**2 / (0.05**2 + noise**2 / 10)
    assert np.mean(trusts) == pytest.approx(wanted, abs=0.06)


def test_kinds_do_not_mix():
    """A kind of one decision, and noise that nobody knows, are taken as measured."""
    rng = np.random.default_rng(0)
    losses = {"a": rng.normal(size=(2, 10)), "b": rng.normal(size=(2, 10)), "alone": rng.normal(size=(3, 10))}
    kinds = {"a": "two", "b": "two", "alone": "three"}
    found = shrink(losses, kinds, IMAGES)
    mean = losses["alone"].mean(1)
    np.testing.assert_allclose(found.losses["alone"], mean - mean.mean())
    assert found.trust["three"] == 1
    np.testing.assert_allclose(
        sum(found.losses[n] for n in "ab"), sum(losses[n].mean(1) - losses[n].mean() for n in "ab"), atol=1e-12
    )
    single = shrink({name: values[:, :1] for name, values in losses.items()}, kinds, [64])
    np.testing.assert_allclose(single.losses["a"], losses["a"][:, 0] - losses["a"][:, 0].mean())
    assert set(single.trust.values()) == {1.0}


def test_batches_weigh_by_their_images():
    losses = {"a": np.array([[1.0, 0.0], [0.0, 1.0]])}
    found = shrink(losses, {"a": "k"}, [30, 10])
    np.testing.assert_allclose(found.losses["a"], [0.25, -0.25])
