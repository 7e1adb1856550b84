"""Environments of TorchRL's own kind, as a user would write them."""

import torch
from tensordict import TensorDict
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, GymEnv


class Walk(EnvBase):
    """A place on a line for each environment, which ends beyond 1; batched, and it reuses its tensors.

    It has no flag for truncation and no counters. Episodes end after different numbers of steps.
    """

    def __init__(self, num_envs=4, device="cpu", goal=1.0):
        super().__init__(device=device, batch_size=[num_envs])
        columns, flag = (num_envs, 1), Categorical(2, (num_envs, 1), dtype=torch.bool, device=device)
        seen = {"observation": Unbounded((num_envs, 2)), "is_success": Unbounded(columns)}
        self.observation_spec = Composite(**seen, shape=(num_envs,), device=device)
        self.action_spec = Categorical(2, (num_envs,), device=device)
        self.reward_spec = Unbounded(columns, device=device)
        self.done_spec = Composite(done=flag, terminated=flag.clone(), shape=(num_envs,), device=device)
        self.place = torch.zeros(num_envs, 2, device=device)
        self.goal, self.generator = goal, torch.Generator(device)

    def _reset(self, tensordict=None, **options):
        mask = None if tensordict is None else tensordict.get("_reset", None)
        drawn = torch.rand(self.place.shape, generator=self.generator, device=self.device) - 0.5
        self.place.copy_(drawn if mask is None else torch.where(mask, drawn, self.place))
        return self._told({})

    def _step(self, tensordict):
        self.place += (tensordict["action"] * 2 - 1).unsqueeze(-1) * 0.3
        return self._told({"reward": self.place[:, :1].clone()}, self.place.abs() > self.goal)

    def _told(self, entries, beyond=None):
        done = torch.zeros(*self.batch_size, 1, dtype=torch.bool, device=self.device)
        if beyond is not None:
            done = beyond.any(-1, keepdim=True)
        told = {"observation": self.place, "is_success": (self.place[:, :1] > 0).float()}
        return TensorDict({**told, "done": done, "terminated": done.clone(), **entries}, self.batch_size)

    def _set_seed(self, seed):
        self.generator.manual_seed(seed)


class SavedWalk(Walk):
    """The same, with a state that can be saved."""

    def get_state(self):
        return {"place": self.place.clone(), "random": self.generator.get_state()}

    def set_state(self, state):
        self.place.copy_(state["place"])
        self.generator.set_state(state["random"])


def one_cartpole():
    """A single environment, which is not batched."""
    return GymEnv("CartPole-v1", categorical_action_encoding=True)


def one_hot_cartpole():
    """TorchRL's default."""
    return GymEnv("CartPole-v1")
