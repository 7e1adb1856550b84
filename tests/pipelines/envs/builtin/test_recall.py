"""The task of memory: what it shows and rewards, its seeds, and its state."""

import gymnasium as gym
import numpy as np
import pytest

from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.envs.builtin.recall import Recall
from rlpipe.pipelines.envs.builtin.register import register

register()


def episode(env, answer, seed=None):
    """The observations and rewards of an episode whose last action depends on the cue."""
    seen, rewards, ended = [env.reset(seed=seed)[0]], [], False
    cue = int(seen[0].argmax())
    while not ended:
        observation, reward, ended, truncated, _ = env.step(answer(cue) if seen[-1][-1] else 0)
        assert observation in env.observation_space
        assert not truncated
        seen.append(observation)
        rewards.append(reward)
    return cue, np.stack(seen), rewards


@pytest.mark.parametrize(("cues", "wait"), [(2, 0), (4, 8), (3, 1)])
def test_a_cue_then_a_wait_then_the_answer(cues, wait):
    env = Recall(cues=cues, wait=wait)
    assert (env.observation_space.shape, env.action_space.n) == ((cues + 1,), cues)
    for seed in range(10):
        cue, seen, rewards = episode(env, lambda cue: cue, seed)
        expected = np.zeros((wait + 3, cues + 1), np.float32)
        expected[0, cue] = expected[wait + 1, -1] = 1.0
        np.testing.assert_array_equal(seen, expected)
        assert rewards == [0.0] * (wait + 1) + [1.0]
        assert episode(env, lambda cue: (cue + 1) % cues)[2] == [0.0] * (wait + 2)


def test_its_id_has_its_arguments():
    env = gym.make("rlpipe/Recall-v0")
    assert env.action_space.n == 4
    assert len(episode(env, lambda cue: cue, 0)[1]) == 11
    assert gym.make("rlpipe/Recall-v0", cues=3, wait=2).action_space.n == 3


def test_seeds_make_the_cues_and_all_of_them_come():
    def cues(seed):
        env = Recall()
        return [episode(env, lambda cue: cue, seed if number == 0 else None)[0] for number in range(30)]

    assert cues(0) == cues(0) != cues(1)
    assert set(cues(0)) == {0, 1, 2, 3}


def test_its_state_is_the_episode():
    env, other = Recall(), Recall()
    env.reset(seed=0)
    env.step(0)
    other.set_state(env.get_state())
    for _ in range(9):
        (one, *rest), (two, *others) = env.step(env.get_state()["cue"]), other.step(env.get_state()["cue"])
        np.testing.assert_array_equal(one, two)
        assert rest == others
    assert rest[:2] == [1.0, True]
    Recall(wait=0).set_state({"cue": 3, "step": 2})
    for state in ({"cue": 4, "step": 0}, {"cue": 0, "step": 11}, {"cue": -1, "step": 0}, {"cue": None, "step": 0}):
        with pytest.raises(ValueError, match="which is no state of this task"):
            env.set_state(state)


def test_it_is_captured_in_the_middle_of_episodes():
    env = make_env(EnvConfig("rlpipe/Recall-v0", 3), seed=0)
    env.reset()
    assert env.base_env.can_capture()


@pytest.mark.parametrize("options", [{"cues": 1}, {"wait": -1}])
def test_what_is_no_task_is_refused(options):
    with pytest.raises(ValueError, match="allowed are 2 or more, and 0 or more"):
        Recall(**options)
