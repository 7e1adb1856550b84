"""Every algorithm on every kind of space: it learns from a batch, or refuses in one line that names another."""

import gymnasium as gym
import matching  # noqa: F401 - registers the environments
import numpy as np
import pytest
import torch
from comparing import fingerprint
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from resuming import batches, go, killed, make_config, text

from rlpipe.errors import ConfigError
from rlpipe.modules import CNN, Encoder, Flatten, MultiCategoricalActor, OneHot, Shared
from rlpipe.pipelines.algorithms import a2c, dqn, policy_gradient, ppo, q_learning, qr_dqn, reinforce, sarsa
from rlpipe.pipelines.build.networks import make_trunk
from rlpipe.pipelines.envs import EnvConfig, make_env

SMALL = {"num_envs": 2, "rollout_steps": 8}
NETWORK = {"hidden": (8,), **SMALL}
DQN = {**NETWORK, "warmup_frames": 8, "buffer_size": 64, "minibatch_size": 8, "updates": 1}
SETTINGS = {ppo: {**NETWORK, "minibatch_size": 8}, a2c: NETWORK, dqn: DQN, qr_dqn: DQN}
SETTINGS[reinforce] = {**NETWORK, "rollout_steps": 10, "baseline": True}
TABULAR = [q_learning, sarsa, policy_gradient]


class Other(gym.Env):
    """Spaces as they are given; the mask, if there is one, forbids value 0 of each part of the action."""

    def __init__(self, observation, action):
        self.observation_space, self.action_space = observation, action
        self._mask = None
        if isinstance(observation, Dict) and "action_mask" in observation.spaces:
            self._mask = np.concatenate([np.arange(n) > 0 for n in action.nvec.flatten()]).astype(np.int8)

    def _observe(self):
        seen = self.observation_space.sample()
        return seen if self._mask is None else {**seen, "action_mask": self._mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        assert self._mask is None or (action > 0).all()
        return self._observe(), 1.0, False, False, {}


class Film(Other):
    """The two newest images, beside other entries."""

    def _observe(self):
        seen = super()._observe()
        self._newest = getattr(self, "_newest", seen["observation"][0]), seen["observation"][1]
        self._newest, stack = self._newest[1], np.stack(self._newest)
        return {**seen, "observation": stack}


NUMBERS, CHOICES = Box(-1.0, 1.0, (3,), np.float32), MultiDiscrete([3, 2, 3])
IMAGE = Box(0, 255, (2, 36, 36), np.uint8)
MASKED = Dict({"observation": NUMBERS, "action_mask": MultiBinary(8)})
OTHERS = {
    "Masked": (MASKED, CHOICES),
    "MaskedTable": (Dict({"observation": MultiDiscrete([2, 2]), "action_mask": MultiBinary(8)}), CHOICES),
    "Many": (NUMBERS, MultiDiscrete([10] * 4)),
    "ManyBits": (NUMBERS, MultiBinary(11)),
    "State": (Discrete(4), MultiDiscrete([2, 2])),
    "Goal": (Dict({"observation": Discrete(4), "goal": Discrete(4)}), Discrete(2)),
    "Film": (Dict({"observation": IMAGE, "speed": NUMBERS}), Discrete(2)),
    "Empty": (Dict({"a": Box(0, 1, (0,)), "b": Box(0, 1, (2, 0))}), Discrete(2)),
}
for name, (observation, action) in OTHERS.items():
    kwargs = {"observation": observation, "action": action}
    gym.register(f"tests/Other{name}-v0", Film if name == "Film" else Other, max_episode_steps=10, kwargs=kwargs)


def built(module, env_id, **options):
    return module.build(module.Config(env_id=env_id, **{**SETTINGS.get(module, SMALL), **options}))


def learned(module, env_id, **options):
    """The first batch, and what is learned from it."""
    pipeline = built(module, env_id, **options)
    batch = next(iter(pipeline.collector))
    before = [each.clone() for each in pipeline.policy.parameters()]
    scalars = pipeline.learn(batch)
    pipeline.close()
    assert all(value.isfinite().all() for value in scalars.values())
    assert not all(map(torch.equal, before, pipeline.policy.parameters()))
    return pipeline, batch


@pytest.mark.parametrize("module", [ppo, a2c, reinforce])
@pytest.mark.parametrize("spaces", ["dict-dict", "tuple-tuple", "multi_discrete-matrix", "multi_binary-multi_binary"])
def test_policy_gradients_take_every_kind(module, spaces):
    _, batch = learned(module, f"tests/Match-{spaces}-v0")
    assert batch["action_log_prob"].shape == batch.shape


@pytest.mark.parametrize("module", [dqn, qr_dqn])
@pytest.mark.parametrize("acted", ["multi_discrete", "matrix", "multi_binary"])
def test_dqn_takes_several_choices(acted, module):
    pipeline, batch = learned(module, f"tests/Match-dict-{acted}-v0")
    assert batch["action_value"].shape[-1] == (12 if acted == "multi_discrete" else 8)
    assert pipeline.state["loss"].q_network.joint is not None


@pytest.mark.parametrize("module", [ppo, dqn, qr_dqn])
def test_a_flat_mask_is_respected(module):
    _, batch = learned(module, "tests/OtherMasked-v0")
    assert (batch["action"] > 0).all()
    assert batch["action_mask"].shape == (*batch.shape, 8)


def test_a_masked_actor_reads_the_mask_after_the_entries():
    pipeline = built(ppo, "tests/OtherMaskedTable-v0")
    assert isinstance(pipeline.policy, MultiCategoricalActor)
    assert pipeline.policy.in_keys == ["observation", "action_mask"]
    pipeline.close()


@pytest.mark.parametrize("shared", [True, False])
def test_images_in_a_dict_go_through_convolutions_which_may_be_shared(shared):
    env = make_env(EnvConfig("tests/Match-camera-box-v0", num_envs=2), seed=0)
    trunk = make_trunk(ppo.Config(hidden=(8,)), env, shared=shared)
    first = trunk[0][0] if shared else trunk[0]
    assert isinstance(trunk[0], Shared) == shared
    assert isinstance(first, Encoder)
    assert [type(layer) for layer in first.layers] == [CNN, OneHot, Flatten]
    assert first.layers[0][0].bias.abs().sum() == 0
    step = env.reset()
    assert trunk(*[step[key] for key in trunk.in_keys]).shape == (2, 8)
    env.close()
    learned(ppo, "tests/Match-camera-box-v0", shared_trunk=shared)


def test_frames_of_one_entry_may_be_kept_beside_others():
    for module in (dqn, qr_dqn):
        learned(module, "tests/OtherFilm-v0", replay_storage="frames", n_steps=1)


FEW = "MultiDiscrete actions have 10,000 combinations; a network that values each of them takes at most 1,024; try ppo"
SEVERAL = r"observation_scale is for an observation that is one Box; this one has the entries \['a', .*--observation-sc"


@pytest.mark.parametrize(
    ("module", "env_id", "options", "message"),
    [
        (dqn, "Match-box-box", {}, "whose actions are a Box; DQN needs Discrete actions, try ppo"),
        (dqn, "Match-box-dict", {}, "whose actions are a Dict or Tuple; DQN needs Discrete actions, try ppo"),
        (dqn, "Match-box-tuple", {}, "whose actions are a Dict or Tuple; DQN needs Discrete actions, try ppo"),
        (dqn, "OtherMany", {}, f"env_id is 'tests/OtherMany-v0': the {FEW}"),
        (dqn, "OtherManyBits", {}, "the MultiBinary actions have 2,048 combinations; .*; try ppo"),
        (dqn, "Match-dict-matrix", {"replay_storage": "frames"}, "these have no entry 'observation'; --replay-storage"),
        (ppo, "Match-dict-dict", {"observation_scale": (1.0,)}, SEVERAL),
        (ppo, "OtherEmpty", {}, r"the observation has shape \[0\] and \[2, 0\], which holds no numbers"),
    ],
)
def test_what_does_not_fit_is_refused(module, env_id, options, message):
    with pytest.raises(ConfigError, match=message) as refused:
        built(module, f"tests/{env_id}-v0", **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("module", TABULAR)
@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        (
            "Match-multi_discrete-box",
            "whose observation is MultiDiscrete; a table needs a Discrete one, try ppo",
        ),
        ("Match-multi_binary-box", "whose observation is MultiBinary; a table needs a Discrete one, try ppo or dqn"),
        ("Match-tuple-box", "whose observation is a Dict or Tuple; a table needs a Discrete one, try ppo or dqn"),
        ("OtherGoal", "whose observation is a Dict or Tuple; a table needs a Discrete one, try ppo or dqn"),
        ("OtherState", "whose actions are MultiDiscrete; a table needs Discrete ones, try ppo"),
    ],
)
def test_tables_refuse_all_but_discrete(module, env_id, message):
    with pytest.raises(ConfigError, match=message):
        built(module, f"tests/{env_id}-v0")


@pytest.mark.parametrize(
    ("algorithm", "spaces"),
    [
        ("ppo", "dict-dict"),
        pytest.param("dqn", "tuple-matrix", marks=pytest.mark.slow),
        pytest.param("reinforce", "dict-tuple", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_to_the_bit(algorithm, spaces, tmp_path):
    changes = {
        "env_id": f"tests/Match-{spaces}-v0",
        "max_episode_steps": None,
        "eval_every": 1000,
        "total_frames": 1600,
    }
    config = make_config(algorithm, "cartpole", **changes, checkpoint_every=600, eval_episodes=1)
    go(tmp_path / "whole", algorithm, config)
    killed(tmp_path / "killed", algorithm, config, "learn", int(0.7 * batches(config)))
    go(tmp_path / "killed", algorithm, config)
    assert text(tmp_path / "killed", "resumes").count("\n") == 1
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
