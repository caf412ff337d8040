"""Stratified draws."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitsmith.data.stratify import allot, stratified_draw

counts = st.lists(st.integers(0, 200), min_size=1, max_size=12).filter(any).map(np.array)


@given(counts, st.floats(0, 1))
def test_allotment_adds_up_and_keeps_the_shares(given_counts, part):
    n = round(part * given_counts.sum())
    got = allot(given_counts, n)
    assert got.sum() == n
    assert (got >= 0).all()
    assert (got <= given_counts).all()
    present = np.count_nonzero(given_counts)
    if n >= present:
        assert (got[given_counts > 0] >= 1).all()
    # Largest remainder stays within one of the exact share, but for the classes lifted to one sample.
    exact = given_counts * n / given_counts.sum()
    assert (got <= np.maximum(np.ceil(exact), 1)).all()
    if (exact[given_counts > 0] >= 1).all():
        assert (np.abs(got - exact) < 1).all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data(), st.integers(0, 2**40))
def test_a_draw_splits_the_indices_in_two(labels, data, seed):
    labels = torch.tensor(labels)
    n = data.draw(st.integers(0, len(labels)))
    drawn, rest = stratified_draw(labels, n, seed, "x")
    assert len(drawn) == n
    assert torch.equal(torch.cat([drawn, rest]).sort().values, torch.arange(len(labels)))
    assert torch.equal(drawn, drawn.sort().values)
    assert torch.equal(
        torch.bincount(labels[drawn], minlength=5), torch.from_numpy(allot(np.bincount(labels, minlength=5), n))
    )


def test_every_sample_of_a_class_is_drawn_equally_often():
    labels = torch.tensor([0] * 6 + [1] * 3)
    hits = torch.zeros(9)
    for seed in range(600):
        hits[stratified_draw(labels, 3, seed)[0]] += 1
    # 2 of 6 and 1 of 3: each with probability 1/3; 200 +- 11.5, four deviations.
    assert ((hits - 200).abs() < 46).all()
