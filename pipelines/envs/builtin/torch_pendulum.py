"""`rlpipe/TorchPendulum-v0`: Gymnasium's Pendulum-v1 in tensors, on any device."""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from rlpipe.pipelines.envs.tensor.simulator import Simulator

_TURN = 2 * math.pi
_MOST_SPEED, _MOST_TORQUE = 8.0, 2.0
_GRAVITY, _TIME = 10.0, 0.05
_EDGE = np.array([1.0, 1.0, _MOST_SPEED], np.float32)


class TorchPendulum(Simulator):
    """A state is the observation and the angle: cosine, sine, angular velocity, angle in [-pi, pi].

    Gymnasium's angle counts the turns, and loses digits by that; here it does not.
    """

    observation_space = Box(-_EDGE, _EDGE)
    action_space = Box(-_MOST_TORQUE, _MOST_TORQUE, (1,))
    shortest = None

    def draw(self, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(2, self.num_envs, device=self.device, generator=generator).mul_(2).sub_(1)
        return _with_angle(drawn[0] * math.pi, drawn[1])

    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, None]:
        sin, speed, angle = state[:, 1], state[:, 2], state[:, 3]
        torque = action.reshape(-1).float().clamp(-_MOST_TORQUE, _MOST_TORQUE)
        cost = (angle * angle).addcmul_(speed, speed, value=0.1).addcmul_(torque, torque, value=0.001)
        # mass and length are 1
        gain = (sin * (1.5 * _GRAVITY)).add_(torque, alpha=3.0)
        speed = torch.add(speed, gain, alpha=_TIME).clamp_(-_MOST_SPEED, _MOST_SPEED)
        angle = torch.add(angle, speed, alpha=_TIME)
        angle = angle.sub_((angle / _TURN).round_(), alpha=_TURN)
        return _with_angle(angle, speed), cost.neg_(), None

    def observe(self, state: Tensor) -> Tensor:
        return state[:, :3]


def _with_angle(angle: Tensor, speed: Tensor) -> Tensor:
    return torch.stack((angle.cos(), angle.sin(), speed, angle), -1)
