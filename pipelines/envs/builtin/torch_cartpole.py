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

    def draw(self, generator: torch.Generator) -> Tensor:
        return torch.rand(self.num_envs, 4, device=self.device, generator=generator).sub_(0.5).mul_(0.1)

    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta, theta_dot = state[:, 2], state[:, 3]
        cos, sin = theta.cos(), theta.sin()
        push = (theta_dot * theta_dot).mul_(sin).mul_(_SWAY).sub_(_FORCE / _MASS)
        push = push.add_(action, alpha=2 * _FORCE / _MASS)
        inertia = (cos * cos).mul_(-_HALF_LENGTH * _MASS_POLE / _MASS).add_(4 / 3 * _HALF_LENGTH)
        rates = torch.empty_like(state)
        rates[:, ::2].copy_(state[:, 1::2])
        theta_acc = sin.mul_(_GRAVITY).addcmul_(cos, push, value=-1).div_(inertia)
        rates[:, 3] = theta_acc
        torch.addcmul(push, theta_acc, cos, value=-_SWAY, out=rates[:, 1])
        moved = torch.add(state, rates, alpha=_TIME)
        terminated = (moved[:, 0].abs() > _MOST_X).logical_or_(moved[:, 2].abs() > _MOST_ANGLE)
        return moved, torch.ones_like(sin), terminated
