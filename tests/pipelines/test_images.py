"""Images of bytes go through the convolutions of the DQN papers; everything else does not."""

import pytest
import torch
from images import IMAGES
from torch import nn

from rlpipe.errors import ConfigError
from rlpipe.modules import CNN, Flatten
from rlpipe.pipelines import dqn, ppo
from rlpipe.pipelines.build import make_trunk
from rlpipe.pipelines.envs import EnvConfig, make_env

SMALL = {"env_id": IMAGES, "num_envs": 2, "rollout_steps": 4, "minibatch_size": 8, "hidden": (16, 12)}


def trunk(config):
    env = make_env(EnvConfig(config.env_id, num_envs=2), seed=0)
    made = make_trunk(config, env)
    features = made(env.reset()["observation"])
    env.close()
    assert features.shape == (2, 12)
    return made


def test_images_go_through_convolutions():
    config = dqn.Config(**SMALL, warmup_frames=8, n_steps=2)
    first, *layers = trunk(config)
    assert (type(first), first.features) == (CNN, 64)
    assert [type(each) for each in layers] == [nn.Linear, nn.LayerNorm, nn.ReLU] * 2
    assert first[0].bias.abs().sum() > 0
    first, *_ = trunk(ppo.Config(**SMALL, initialization="orthogonal"))
    assert first[0].bias.abs().sum() == 0


@pytest.mark.parametrize("kind", ["Low", "Last", "Grey", "Float"])
def test_others_are_flattened(kind):
    config = ppo.Config(**{**SMALL, "env_id": f"tests/Images{kind}-v0"})
    assert type(trunk(config)[0]) is Flatten


def test_images_have_a_scale_already():
    with pytest.raises(ConfigError, match=r"observation_scale is given, and .* an image, \[2, 36, 36\]"):
        ppo.build(ppo.Config(**SMALL, observation_scale=(255.0,) * (2 * 36 * 36)))


def test_more_weights_than_memory(monkeypatch):
    monkeypatch.setattr("rlpipe.pipelines.memory._memory", lambda device: 1e6)
    weights = 2 * 64 * 32 + 32 + 32 * 16 * 64 + 64 + 64 * 9 * 64 + 64 + 65 * 16 + 17 * 12
    with pytest.raises(ConfigError, match=f"hidden has {weights:,} weights, which to learn take 0.00 GB"):
        trunk(ppo.Config(**SMALL))
    assert sum(each.numel() for each in CNN((2, 36, 36)).parameters()) == weights - 65 * 16 - 17 * 12
    assert torch.get_default_dtype().itemsize * 4 * weights > 1e6
