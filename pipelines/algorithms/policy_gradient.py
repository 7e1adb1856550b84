"""Tabular policy gradient (REINFORCE), Williams 1992, with the gradient of a softmax policy written out.

Collect `rollout_steps` steps of each environment, and keep unfinished episodes for the next batch.
Compute for each episode that ended the gradient of `R / T * sum_t log pi(a_t|s_t)`, R its return and T its length.
Update: add `step_size` times each gradient to the table of preferences; `pi(a|s) = softmax(beta * theta(s, .))_a`.
Nothing is minimised by an optimiser: `policy_gradient` is the derivative in closed form.
"""

from __future__ import annotations

from functools import partial

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlpipe.modules import CategoricalActor, PreferenceTable, only_allowed
from rlpipe.pipelines.algorithms.configs.policy_gradient import Config
from rlpipe.pipelines.algorithms.tabular import ChangeMeter, make_tabular_env, steps_of, table_shape
from rlpipe.pipelines.build.networks import is_masked
from rlpipe.pipelines.build.pipeline import make_pipeline
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.replay.episodes import EpisodeBuffer
from rlpipe.pipelines.replay.state import transition_kinds
from rlpipe.pipelines.seeding import Seeds


def build(config: Config) -> Pipeline:
    """Build the tabular policy gradient.

    Raises:
        ConfigError: the environment is not available, or its spaces are not Discrete.
    """
    seeds = Seeds(config.seed)
    env = make_tabular_env(config, seeds)
    table = PreferenceTable(*table_shape(env), beta=config.beta)
    policy = CategoricalActor(table, env.action_spec, seeds.generator("exploration"), is_masked(env))
    meter = ChangeMeter(table, len(table.values), lambda scores: scores.softmax(-1))
    kinds = partial(transition_kinds, env)
    episodes = EpisodeBuffer([*policy.in_keys, "action", ("next", "reward")], kinds=kinds, num_envs=config.num_envs)

    def learn(batch: TensorDictBase) -> TensorDictBase:
        for step in steps_of(batch):
            meter.note(step)
        finished = episodes.extend(batch)
        # theta <- theta + step_size * R / T * sum_t grad log pi(a_t|s_t) / beta, all gradients at the same theta
        for gradient in [policy_gradient(table, episode) for episode in finished]:
            table.values += config.step_size * gradient
        scalars = TensorDict(updates=torch.tensor(len(finished)))
        return meter.report(scalars) if finished else scalars

    return make_pipeline(config, env, policy, learn, seeds, change=meter, episodes=episodes)


def policy_gradient(table: PreferenceTable, episode: TensorDictBase) -> Tensor:
    """`R * (N_ij - pi_ij * N_i) / T` of one episode `[T]`, as `[states, actions]`.

    N counts how often action j was taken in state i, R is the episode's return. This is the gradient of
    `R / T * sum_t log pi(a_t|s_t)` without the factor `beta`.
    """
    state, action = episode.get("observation"), episode.get("action")
    policy = only_allowed(table(state), episode.get("action_mask", None)).softmax(-1)
    taken = torch.nn.functional.one_hot(action, policy.shape[-1])
    gradient = torch.zeros_like(table.values).index_add_(0, state, taken - policy)
    return gradient * episode.get(("next", "reward")).sum().item() / len(episode)
