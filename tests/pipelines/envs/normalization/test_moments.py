"""Running moments by hand, against NumPy, merged, and loaded."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlpipe.pipelines.envs.normalization.moments import Moments, RunningMoments


def test_by_hand():
    moments = RunningMoments((2,))
    assert [each.tolist() for each in moments.now[:2]] == [[0.0, 0.0], [1.0, 1.0]]
    moments.update(np.array([[1.0, 10.0], [3.0, 10.0]]))
    assert [each.tolist() for each in moments.now[:2]] == [[2.0, 10.0], [1.0, 0.0]]
    # 1, 3, 5: mean 3, squares 4 + 0 + 4; 10, 10, 40: mean 20, squares 100 + 100 + 400
    moments.update(np.array([[5.0, 40.0]]))
    np.testing.assert_allclose(moments.now.mean, [3.0, 20.0], rtol=1e-15)
    np.testing.assert_allclose(moments.now.var, [8 / 3, 200.0], rtol=1e-15)
    assert moments.now.number == 3
    np.testing.assert_allclose(moments.std(), np.sqrt([8 / 3 + 1e-8, 200.0 + 1e-8]), rtol=1e-15)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.sampled_from([(), (3,), (2, 2)]),
    st.sampled_from([0.0, 1e3, 1.7e9]),
)
def test_they_are_numpys_of_all_rows(sizes, shape, at):
    draw, moments = np.random.default_rng(0), RunningMoments(shape)
    rows = [at + draw.normal(size=(size, *shape)) for size in sizes]
    for each in rows:
        moments.update(each)
    whole = np.concatenate(rows)
    np.testing.assert_allclose(moments.now.mean, whole.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.now.var, whole.var(0), rtol=1e-6, atol=1e-6)
    assert moments.now.number == len(whole)


def test_batches_of_numbers_give_the_bits_of_one_after_the_other():
    batches = np.random.default_rng(0).normal(size=(20, 7))
    at_once, one_by_one = RunningMoments(()), RunningMoments(())
    stds = at_once.update_each(batches)
    assert stds.tolist() == [float(one_by_one.update_each(each[None])[0]) for each in batches]
    assert at_once.now == one_by_one.now


def test_news_are_what_was_seen_since_they_were_taken():
    rows = np.random.default_rng(0).normal(size=(9, 2))
    worker, learner = RunningMoments((2,)), RunningMoments((2,))
    worker.keep_news()
    worker.update(rows[:4])
    learner.add(worker.take_news())
    assert not worker.take_news().number
    assert [each.tolist() for each in learner.now[:2]] == [each.tolist() for each in worker.now[:2]]
    worker.update(rows[4:])
    # what was loaded lacks them
    worker.load(learner.now)
    worker.add_news()
    np.testing.assert_allclose(worker.now.var, rows.var(0), rtol=1e-12)
    learner.add(worker.take_news())
    np.testing.assert_allclose(learner.now.mean, rows.mean(0), rtol=1e-12)


def test_a_state_is_kept_to_the_bit_and_one_of_another_shape_is_refused():
    first, second = RunningMoments((2,)), RunningMoments((2,))
    first.update(np.random.default_rng(0).normal(size=(5, 2)))
    second.load_state_dict(first.state_dict())
    for one, other in zip(first.now, second.now, strict=True):
        assert np.array_equal(one, other)
    second.update(np.ones((3, 2)))
    assert first.now.number == 5
    with pytest.raises(RuntimeError, match=r"mean has shape \[2\], expected \[3\]"):
        RunningMoments((3,)).load_state_dict(first.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        RunningMoments((2,)).load_state_dict({"mean": torch.zeros(2)})


def test_nothing_added_changes_nothing():
    moments = RunningMoments(())
    moments.add(Moments(5.0, 5.0, 0.0))
    assert moments.now.number == 0
    assert float(moments.std()) == pytest.approx(1.0)
