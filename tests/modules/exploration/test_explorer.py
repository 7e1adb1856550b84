"""Schedules of exploration advance in training, whether or not the algorithm does it."""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential

from rlpipe import EnvConfig, EpsilonGreedy, Pipeline, QActor, SyncDataCollector, make_env, train
from rlpipe.modules import MLP, Linear
from rlpipe.modules.exploration.explorer import scheduled


def trained(learn_too=False, schedule=None):
    """Train for four batches of 32 frames; returns the explorer."""
    env = make_env(EnvConfig("CartPole-v1", num_envs=4), seed=0)
    explorer = EpsilonGreedy(env.action_spec, schedule or Linear(1.0, 0.0, frames=256))
    policy = TensorDictSequential(QActor(MLP(4, 2), env.action_spec), explorer)
    episodes = []

    def learn(batch):
        episodes.append(int(batch["next", "done"].sum()))
        if learn_too:
            explorer.advance(batch)
        return TensorDict(updates=torch.tensor(1))

    train(
        Pipeline(SyncDataCollector(env, policy, frames_per_batch=32, total_frames=128), learn, policy), progress=False
    )
    return explorer, sum(episodes)


def test_a_schedule_advances_in_training():
    explorer, episodes = trained()
    assert (explorer.frames, explorer.episodes, explorer.now()) == (128, episodes, 0.5)
    assert episodes > 0


def test_and_only_once_if_the_algorithm_does_it():
    assert trained(learn_too=True)[0].frames == 128


def test_a_number_has_nothing_to_advance():
    explorer, _ = trained(schedule=0.25)
    assert (explorer.frames, explorer.now()) == (0, 0.25)
    assert scheduled(explorer) == []
