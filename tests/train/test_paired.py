"""Differences of two networks on the same images, against closed forms and resampling."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.errors import RunError
from bitsmith.train import accuracy, auc, f1, paired


def decided(right):
    """Logits of two classes, and labels of zeros, right where asked."""
    right = torch.as_tensor(right)
    return torch.stack([right.float(), 1 - right.float()], 1)


def mean_loss(logits, labels):
    return float(F.cross_entropy(logits.double(), labels))


@given(st.integers(2, 400), st.data())
def test_accuracy_is_the_closed_form(n, data):
    before = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    after = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    found = paired(accuracy, decided(before), decided(after), torch.zeros(n, dtype=torch.long))
    steps = after.astype(float) - before.astype(float)
    assert found.value == pytest.approx(steps.mean(), abs=1e-12)
    # Agresti and Min: half an image in each of the four cells, then the plain paired standard error.
    padded = np.append(steps, [1.0, -1.0, 0.0, 0.0])
    weights = np.append(np.ones(n), np.full(4, 0.5))
    mean = np.average(padded, weights=weights)
    error = np.sqrt(np.average((padded - mean) ** 2, weights=weights) / (n + 2))
    assert found.error == pytest.approx(error, rel=1e-9)


def test_the_example():
    before, after = np.ones(100, bool), np.ones(100, bool)
    before[:3], after[3] = False, False
    found = paired(accuracy, decided(before), decided(after), torch.zeros(100, dtype=torch.long))
    assert (found.value, round(found.error, 4)) == (0.02, 0.0218)


def test_networks_that_never_differ_still_have_an_error():
    same = decided(np.ones(50, bool))
    found = paired(accuracy, same, same, torch.zeros(50, dtype=torch.long))
    assert found.value == 0
    assert 0 < found.error < 0.03


def test_a_mean_over_images_has_its_plain_paired_error():
    """With as many groups as images the jackknife of a mean is the paired standard error exactly."""
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 90, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (90,), generator=generator)
    each = F.cross_entropy(after, labels, reduction="none") - F.cross_entropy(before, labels, reduction="none")
    found = paired(mean_loss, before, after, labels)
    assert found.value == pytest.approx(float(each.mean()), rel=1e-9)
    assert found.error == pytest.approx(float(each.std(correction=1)) / 90**0.5, rel=1e-9)


@pytest.mark.parametrize("measure", [mean_loss, f1, auc])
def test_other_measures_agree_with_a_bootstrap(measure):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(2, (300,), generator=generator)
    before = F.one_hot(labels, 2) + torch.randn(300, 2, generator=generator)
    after = before + 0.7 * torch.randn(300, 2, generator=generator)
    drawn = [torch.randint(300, (300,), generator=generator) for _ in range(250)]
    spread = np.std([measure(after[i], labels[i]) - measure(before[i], labels[i]) for i in drawn])
    found = paired(measure, before, after, labels)
    assert found.value == pytest.approx(measure(after, labels) - measure(before, labels))
    assert found.error == pytest.approx(spread, rel=0.25)


def test_noise_is_called_significant_no_more_often_than_promised(full):
    """Two networks that are right equally often, differing on few images: the hardest case for a standard error."""
    generator = np.random.default_rng(3)
    repeats, n, labels = 2000 if full else 400, 300, torch.zeros(300, dtype=torch.long)
    for share in (0.005, 0.03, 0.2):
        beyond = 0
        for _ in range(repeats):
            draw = generator.random(n)
            before, after = decided(draw > share), decided((draw < share) | (draw > 2 * share))
            found = paired(accuracy, before, after, labels)
            beyond += abs(found.value) > 1.96 * found.error
        assert beyond / repeats < 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5


def test_what_can_not_be_told_is_an_error():
    labels = torch.tensor([0] * 120 + [1])
    logits = torch.randn(121, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RunError, match="without a hundredth of them"):
        paired(auc, logits, logits + 1, labels)
    with pytest.raises(RunError, match="a single validation image"):
        paired(mean_loss, logits[:1], logits[:1], labels[:1])
