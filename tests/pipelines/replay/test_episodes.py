"""Whole episodes, wherever batches cut them."""

import pytest
import torch

from rlpipe.pipelines.algorithms import policy_gradient
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.replay.episodes import EpisodeBuffer

KEYS = ["observation", "action", ("next", "reward")]
ALL_KEYS = {*KEYS, ("next", "done")}


@pytest.fixture(scope="module")
def steps():
    """Sixty steps of three environments."""
    config = policy_gradient.Config(env_id="FrozenLake-v1", num_envs=3, rollout_steps=60, total_frames=180)
    pipeline = policy_gradient.build(config)
    batch = next(iter(pipeline.collector))
    pipeline.close()
    return batch


def cut(steps, *widths):
    """The steps as batches of these widths, the last width again and again."""
    batches, start = [], 0
    while start < steps.shape[1]:
        width = widths[min(len(batches), len(widths) - 1)]
        batches.append(steps[:, start : start + width])
        start += width
    return batches


def whole_episodes(steps):
    """Environment, first and last step of each episode that ended, in the order in which they ended."""
    done = steps["next", "done"].squeeze(-1).tolist()
    first, found = [0] * len(done), []
    for time in range(len(done[0])):
        for index, row in enumerate(done):
            if row[time]:
                found.append((index, first[index], time))
                first[index] = time + 1
    return found


def equal(episode, expected):
    assert episode.batch_size == expected.batch_size
    for key in ALL_KEYS:
        assert torch.equal(episode[key], expected[key]), key


@pytest.mark.parametrize("widths", [(60,), (1,), (2,), (7,), (59, 1), (1, 59), (3, 1, 20, 2)])
def test_episodes_are_put_together_in_the_order_in_which_they_ended(steps, widths):
    buffer = EpisodeBuffer(KEYS)
    given = [episode.clone() for batch in cut(steps, *widths) for episode in buffer.extend(batch)]
    expected = whole_episodes(steps)
    assert len(expected) > 10
    assert len({index for index, _, _ in expected}) == 3
    assert len(given) == len(expected)
    for episode, (index, first, last) in zip(given, expected, strict=True):
        equal(episode, steps[index, first : last + 1])


@pytest.mark.parametrize("width", [1, 4, 60])
def test_an_unfinished_episode_is_never_given_out(steps, width):
    buffer = EpisodeBuffer(KEYS)
    given = 0
    for number, batch in enumerate(cut(steps, width), start=1):
        finished = buffer.extend(batch)
        given += sum(len(episode) for episode in finished)
        for episode in finished:
            done = episode["next", "done"].squeeze(-1)
            assert done[-1]
            assert not done[:-1].any()
        waiting = sum(len(entry) for entry in buffer.state_dict()["unfinished"] if entry is not None)
        assert given + waiting == 3 * min(60, number * width)


def test_two_episodes_of_an_environment_in_one_batch(steps):
    ends = whole_episodes(steps)
    index = ends[0][0]
    (_, start, middle), (_, after, end) = [each for each in ends if each[0] == index][:2]
    first, second = EpisodeBuffer(KEYS).extend(steps[index : index + 1, start : end + 1])
    equal(first, steps[index, start : middle + 1])
    equal(second, steps[index, after : end + 1])


def test_steps_that_wait_do_not_change_with_the_batch(steps):
    buffer = EpisodeBuffer(KEYS)
    (_, _, last), *_ = [each for each in whole_episodes(steps) if each[0] == 0]
    batch = steps[:1, :last].clone()
    assert buffer.extend(batch) == []
    batch.zero_()
    (episode,) = buffer.extend(steps[:1, last : last + 1])
    equal(episode, steps[0, : last + 1])


def test_only_the_keys_and_done_are_kept_and_the_batch_is_untouched(steps):
    before = set(steps.keys(True, True))
    episode, *_ = EpisodeBuffer([*KEYS, "action"]).extend(steps)
    assert set(episode.keys(True, True)) == ALL_KEYS
    assert set(steps.keys(True, True)) == before


def test_a_buffer_from_a_checkpoint_gives_the_same_episodes(steps, tmp_path):
    batches = cut(steps, 6)
    for number in range(len(batches)):
        buffer, other = EpisodeBuffer(KEYS), EpisodeBuffer(KEYS)
        for batch in batches[:number]:
            buffer.extend(batch)
        # what it held before is forgotten
        other.extend(steps[:, :1])
        save_checkpoint(tmp_path / str(number), {"episodes": buffer}, {})
        load_checkpoint(tmp_path / str(number), {"episodes": other})
        rest = [episode for batch in batches[number:] for episode in buffer.extend(batch)]
        again = [episode for batch in batches[number:] for episode in other.extend(batch)]
        assert len(again) == len(rest)
        for episode, expected in zip(again, rest, strict=True):
            equal(episode, expected)


def test_a_saved_state_does_not_grow_with_its_buffer(steps):
    buffer, other = EpisodeBuffer(KEYS), EpisodeBuffer(KEYS)
    (_, _, last), *_ = [each for each in whole_episodes(steps) if each[0] == 0]
    buffer.extend(steps[:1, :last])
    other.load_state_dict(buffer.state_dict())
    (ours,), (theirs,) = buffer.extend(steps[:1, last : last + 1]), other.extend(steps[:1, last : last + 1])
    equal(theirs, ours)
