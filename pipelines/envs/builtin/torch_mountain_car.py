"""`rlpipe/TorchMountainCar-v0`: Gymnasium's MountainCar-v0 in tensors, on any device."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from rlpipe.pipelines.envs.tensor.simulator import Simulator

_LEAST_X, _MOST_X, _GOAL = -1.2, 0.6, 0.5
_MOST_SPEED, _FORCE, _GRAVITY = 0.07, 0.001, 0.0025
_LOW, _HIGH = np.array([[_LEAST_X, -_MOST_SPEED], [_MOST_X, _MOST_SPEED]], np.float32)


class TorchMountainCar(Simulator):
    """A state is the observation: position and velocity."""

    observation_space = Box(_LOW, _HIGH)
    action_space = Discrete(3)
    # at the highest speed, from the nearest start; in fact it takes several times as many
    shortest = 12

    def draw(self, generator: torch.Generator) -> Tensor:
        place = torch.rand(self.num_envs, device=self.device, generator=generator).mul_(0.2).sub_(0.6)
        return torch.stack((place, torch.zeros_like(place)), -1)

    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        place, speed = state[:, 0], state[:, 1]
        gain = (place * 3).cos_().mul_(-_GRAVITY).sub_(_FORCE).add_(action, alpha=_FORCE)
        speed = gain.add_(speed).clamp_(-_MOST_SPEED, _MOST_SPEED)
        place = torch.add(place, speed).clamp_(_LEAST_X, _MOST_X)
        # the left end stops the car
        speed = torch.where(place <= _LEAST_X, speed.clamp_min(0.0), speed)
        terminated = (place >= _GOAL).logical_and_(speed >= 0.0)
        return torch.stack((place, speed), -1), torch.full_like(place, -1.0), terminated
