"""Images of bytes go through the convolutions of the DQN papers; everything else does not."""

import pytest
import torch
from images import IMAGES
from torch import nn

from rlpipe.errors import ConfigError
from rlpipe.modules import CNN, Flatten
from rlpipe.pipelines.algorithms import dqn, ppo
from rlpipe.pipelines.build.networks import make_trunk
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


SCALES = {
    "Last": 255,
    "Grey": 255,
    "Stacked": 255,
    "Float": 255,
    "Unit": 1,
    "Open": 1,
    "Signed": 1,
    "Depth": 1000,
    "Map": 1,
}


@pytest.mark.parametrize("kind", SCALES)
def test_images_may_lie_and_be_scaled_in_many_ways(kind):
    first = trunk(ppo.Config(**{**SMALL, "env_id": f"tests/Images{kind}-v0"}))[0]
    assert type(first) is CNN
    assert first.scale == SCALES[kind]


@pytest.mark.parametrize(("kind", "scale"), [("Low", 255), ("Small", 255), ("Vector", None), ("Table", None)])
def test_others_are_flattened_and_bytes_of_small_images_divided(kind, scale):
    first = trunk(ppo.Config(**{**SMALL, "env_id": f"tests/Images{kind}-v0"}))[0]
    assert type(first) is Flatten
    assert first.scale is None if scale is None else (first.scale == scale).all()


@pytest.mark.parametrize("kind", ["Last", "Stacked", "Small"])
@pytest.mark.parametrize("build", [ppo.build, dqn.build])
def test_channels_last_train(kind, build):
    config = {ppo.build: ppo.Config, dqn.build: dqn.Config}[build]
    more = {} if build is ppo.build else {"warmup_frames": 8, "n_steps": 2, "buffer_size": 100, "updates": 1}
    pipeline = build(config(**{**SMALL, "env_id": f"tests/Images{kind}-v0"}, **more))
    scalars = pipeline.learn(next(iter(pipeline.collector)))
    assert all(value.isfinite().all() for value in scalars.values())
    pipeline.close()


def test_frames_are_kept_of_channels_first_alone():
    options = {"env_id": "tests/ImagesLast-v0", "replay_storage": "frames", "warmup_frames": 8, "n_steps": 2}
    with pytest.raises(ConfigError, match=r"needs observations \[C, H, W\] .* these are \[40, 40, 3\]"):
        dqn.build(dqn.Config(**{**SMALL, **options}))


def test_an_observation_of_no_numbers_is_refused():
    with pytest.raises(ConfigError, match=r"the observation has shape \[0\], which holds no numbers"):
        ppo.build(ppo.Config(**{**SMALL, "env_id": "tests/ImagesNone-v0"}))


def test_images_have_a_scale_already():
    with pytest.raises(ConfigError, match=r"observation_scale is given, and .* an image, \[2, 36, 36\]"):
        ppo.build(ppo.Config(**SMALL, observation_scale=(255.0,) * (2 * 36 * 36)))


def test_more_weights_than_memory(monkeypatch):
    monkeypatch.setattr("rlpipe.pipelines.devices._memory", lambda device: 1e6)
    weights = 2 * 64 * 32 + 32 + 32 * 16 * 64 + 64 + 64 * 9 * 64 + 64 + 65 * 16 + 17 * 12
    with pytest.raises(ConfigError, match=f"hidden has {weights:,} weights; training them needs 0.00 GB"):
        trunk(ppo.Config(**SMALL))
    assert sum(each.numel() for each in CNN((2, 36, 36)).parameters()) == weights - 65 * 16 - 17 * 12
    assert torch.get_default_dtype().itemsize * 4 * weights > 1e6
