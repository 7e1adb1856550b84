"""`rlpipe/TorchCartPole-v0`: Gymnasium's CartPole-v1 in tensors, on any device."""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from rlpipe.pipelines.envs.tensor.simulator import Simulator

_MOST_X, _MOST_ANGLE = 2.4, 12 * 2 * math.pi / 360
_GRAVITY, _FORCE, _TIME = 9.8, 10.0, 0.02
_MASS_POLE, _HALF_LENGTH = 0.1, 0.5
_MASS = 1.0 + _MASS_POLE
_SWAY = _MASS_POLE * _HALF_LENGTH / _MASS
_EDGE = np.array([2 * _MOST_X, np.inf, 2 * _MOST_ANGLE, np.inf], np.float32)


class TorchCartPole(Simulator):
    """A state is the observation: cart position, cart velocity, pole angle, pole velocity.

    The equations of motion are Florian's, 2007, as in Gymnasium, with constants multiplied together.
    """

    observation_space = Box(-_EDGE, _EDGE)
    action_space = Discrete(2)
    shortest = 8

    def __init__(self, num_envs: int, device: torch.device) -> None:
        super().__init__(num_envs, device)
        self._inertia = torch.full((), 4 / 3 * _HALF_LENGTH, device=device)
        # a row for each, because a comparison of whole rows is several times as fast as one of columns
        self._most = torch.tensor([_MOST_X, math.inf, _MOST_ANGLE, math.inf]).repeat(num_envs, 1).to(device)

    def draw(self, generator: torch.Generator) -> Tensor:
        return torch.rand(self.num_envs, 4, device=self.device, generator=generator).sub_(0.5).mul_(0.1)

    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta, theta_dot = state[:, 2], state[:, 3]
        cos, sin = theta.cos(), theta.sin()
        push = action.mul(2 * _FORCE / _MASS).sub_(_FORCE / _MASS)
        push.addcmul_(theta_dot * theta_dot, sin, value=_SWAY)
        inertia = torch.addcmul(self._inertia, cos, cos, value=-_HALF_LENGTH * _MASS_POLE / _MASS)
        rates = torch.empty_like(state)
        rates[:, ::2].copy_(state[:, 1::2])
        theta_acc = sin.mul_(_GRAVITY).addcmul_(cos, push, value=-1).div_(inertia)
        rates[:, 3] = theta_acc
        torch.addcmul(push, theta_acc, cos, value=-_SWAY, out=rates[:, 1])
        moved = torch.add(state, rates, alpha=_TIME)
        # the four flags of a row, read as one number
        terminated = (moved.abs() > self._most).view(torch.int32).squeeze(-1) != 0
        return moved, torch.ones_like(sin), terminated
