"""What a new pipeline takes of another run, and what stays as in a new run."""

import dataclasses
from copy import deepcopy

import pytest
import torch
from torch import nn
from torchrl.data import Bounded, Unbounded
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss as StockDQNLoss

from rlpipe import MLP, CategoricalActor, EnvConfig, Pipeline, make_env, run_recipe
from rlpipe.errors import ConfigError
from rlpipe.modules import DeterministicActor
from rlpipe.pipelines.algorithms.recipes import builder, config_class
from rlpipe.pipelines.build.weights import load_weights
from rlpipe.pipelines.checkpoints.checkpoint import identity, read_components, save_checkpoint
from rlpipe.pipelines.config.run import settings_of
from rlpipe.pipelines.config.start import Start, find_start

SHORT = {"num_envs": 2, "rollout_steps": 8, "total_frames": 32, "eval_every": None, "final_eval_episodes": 1}
SHORT |= {"max_episode_steps": 8}
OPTIONS = {
    "ppo": {**SHORT, "minibatch_size": 8, "epochs": 1, "hidden": (8,)},
    "a2c": {**SHORT, "hidden": (8,), "activation": "relu"},
    "reinforce": {**SHORT, "hidden": (8,), "activation": "relu", "lr": 0.1},
    "dqn": {**SHORT, "buffer_size": 64, "warmup_frames": 8, "minibatch_size": 8, "updates": 2, "hidden": (8,)},
}
BOTH = {"normalize_observation": True, "normalize_reward": True}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Gives the folder of a short run, which is trained once."""
    made = {}

    def get(algorithm, **changes):
        key = (algorithm, str(sorted(changes.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("runs") / "run"
            name = {"q_learning": "q-learning/maze", "sarsa": "sarsa/maze"}.get(algorithm, algorithm)
            run_recipe(name, folder=made[key], seed=7, **{**OPTIONS.get(algorithm, SHORT), **changes})
        return made[key]

    return get


def build(algorithm, **changes):
    config = config_class(algorithm)(**{**OPTIONS.get(algorithm, SHORT), **changes})
    return builder(algorithm)(config), config


def started(folder, algorithm, take=(), **changes):
    """A new pipeline that took parts of a run, the same before it did, and the components of the checkpoint."""
    pipeline, config = build(algorithm, **changes)
    start = find_start(folder, take, config, recipe=algorithm, algorithm=algorithm)
    before = {name: deepcopy(part.state_dict()) for name, part in pipeline.state.items() if name != "environments"}
    load_weights(pipeline, settings_of(config), start)
    return pipeline, before, read_components(start.checkpoint, pipeline.state)


def equal(one, other, prefix=""):
    """Which tensors of two state dicts are equal."""
    keys = [key for key in one if key.startswith(prefix) and isinstance(one[key], torch.Tensor)]
    return {torch.equal(one[key], other[key]) for key in keys}


@pytest.mark.parametrize("take", [("policy",), ("critic",), ("policy", "critic"), ()])
def test_policy_and_critic(trained, take):
    pipeline, before, saved = started(trained("ppo"), "ppo", take)
    now = pipeline.state["loss"].state_dict()
    for part, prefix in (("policy", "actor."), ("critic", "critic.")):
        source = saved if part in take or not take else before
        assert equal(now, source["loss"], prefix) == {True}
        other = before if source is saved else saved
        assert False in equal(now, other["loss"], prefix)
    assert pipeline.state["optimizer"].state_dict()["state"] == {}


def test_another_algorithm_with_the_same_network(trained):
    pipeline, before, saved = started(trained("a2c"), "ppo", ["policy"])
    assert equal(pipeline.policy.state_dict(), saved["policy"]) == {True}
    assert equal(pipeline.state["loss"].state_dict(), before["loss"], "critic.") == {True}
    with pytest.raises(ConfigError, match=r"a run of ppo, has no policy whose tensors have the names"):
        started(trained("ppo"), "dqn", ["policy"], layer_norm=False)


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_a_memory_comes_with_the_policy(trained, algorithm):
    options = {"recurrent": "gru", "recurrent_size": 4}
    options |= {"baseline": True} if algorithm == "reinforce" else {}
    folder = trained(algorithm, **options)
    pipeline, before, saved = started(folder, algorithm, ["policy"], **options)
    assert equal(pipeline.policy.state_dict(), saved["policy"]) == {True}
    assert False in equal(before["policy"], saved["policy"], "module.0.rnn.")
    assert equal(pipeline.state["loss"].state_dict(), before["loss"], "critic.module.1.") == {True}
    pipeline, before, _ = started(folder, algorithm, ["critic"], **options)
    assert equal(pipeline.policy.state_dict(), before["policy"]) == {True}
    for other in ({"recurrent": "lstm"}, {"recurrent": None}, {"recurrent_size": 5}):
        with pytest.raises(ConfigError, match="has no policy whose tensors have the names|does not fit: it has"):
            started(folder, algorithm, ["policy"], **{**options, **other})


def test_a_target_network_equals_the_network_that_was_taken(trained):
    folder = trained("dqn")
    for take in ((), ("policy",)):
        pipeline, _, saved = started(folder, "dqn", take)
        loss = pipeline.state["loss"]
        assert equal(loss.q_network.state_dict(), loss.target_network.state_dict()) == {True}
        # in the other run it was on its way
        behind = {key.removeprefix("target_network."): each for key, each in saved["loss"].items() if "target" in key}
        assert False in equal(loss.q_network.state_dict(), behind)
        assert not any(each.requires_grad for each in loss.target_network.parameters())
    # exploration starts anew
    assert pipeline.policy[1].frames == 0
    with pytest.raises(ConfigError, match="has no critic"):
        started(folder, "dqn", ["critic"])


def test_statistics(trained):
    folder = trained("ppo", **BOTH)
    # a new one has seen the first reset of its two environments
    for take, number in ((("statistics",), 34), (("policy",), 2), ((), 34)):
        pipeline, before, saved = started(folder, "ppo", take, **BOTH)
        norm, rewards = pipeline.transforms[:2]
        assert (norm.each()[0].now.number, rewards.moments.now.number > 0) == (number, number == 34)
        source = before if take == ("statistics",) else saved
        assert equal(pipeline.policy.state_dict(), source["policy"]) == {True}
    with pytest.raises(ConfigError, match="take has statistics, and this run is without normalize_observation"):
        started(folder, "ppo", ["statistics"])
    with pytest.raises(ConfigError, match="was trained without normalize_observation"):
        started(trained("ppo"), "ppo", ["statistics"], **BOTH)
    wrong = r"statistics of .* do not fit: observation_norm: .*0\.moments\.0\.mean has shape \[4\], expected \[6\]"
    with pytest.raises(ConfigError, match=wrong):
        started(folder, "ppo", ["statistics"], env_id="Acrobot-v1", **BOTH)


def test_statistics_of_observations_alone_leave_those_of_rewards_new(trained):
    folder = trained("ppo", normalize_observation=True)
    pipeline, _, _ = started(folder, "ppo", ["policy", "statistics"], **BOTH)
    assert pipeline.transforms[0].each()[0].now.number == 34
    assert pipeline.transforms[1].moments.now.number == 0


def test_a_critic_that_only_one_of_them_has(trained):
    pipeline, before, saved = started(trained("reinforce"), "reinforce", baseline=True)
    assert equal(pipeline.policy.state_dict(), saved["policy"]) == {True}
    assert equal(pipeline.state["loss"].state_dict(), before["loss"], "critic.") == {True}
    with pytest.raises(ConfigError, match="has no critic"):
        started(trained("reinforce"), "reinforce", ["critic"], baseline=True)
    pipeline, _, saved = started(trained("reinforce", baseline=True), "reinforce")
    assert equal(pipeline.policy.state_dict(), saved["policy"]) == {True}


def test_a_shared_trunk_comes_with_the_policy(trained):
    folder = trained("ppo", shared_trunk=True)
    pipeline, before, saved = started(folder, "ppo", ["policy"], shared_trunk=True)
    loss = pipeline.state["loss"]
    assert loss.critic.network[1] is loss.actor.network[1]
    now = loss.critic.state_dict()
    assert torch.equal(now["network.1.weight"], saved["loss"]["critic.network.1.weight"])
    assert torch.equal(now["network.3.weight"], before["loss"]["critic.network.3.weight"])
    pipeline, _, saved = started(folder, "ppo", shared_trunk=True)
    assert equal(pipeline.state["loss"].state_dict(), saved["loss"]) == {True}


@pytest.mark.parametrize(("algorithm", "other"), [("q_learning", "sarsa"), ("sarsa", "q_learning")])
def test_a_table_is_the_policy(trained, algorithm, other):
    table = {"total_frames": 200, "max_episode_steps": 100}
    folder = trained(algorithm, **table)
    pipeline, _, saved = started(folder, other, ["policy"], **table)
    values = pipeline.policy[0].network.values
    assert values.any()
    assert torch.equal(values, saved["policy"]["module.0.network.values"])
    assert pipeline.policy[1].epsilon == 1.0


def test_the_bounds_of_actions_are_those_of_the_new_environment(trained):
    folder = trained("ppo", env_id="tests/IdentityBox-v0", observation_scale=(2.0,))
    narrow = {"env_id": "tests/Scalar-v0", "env_kwargs": {"shape": [1]}, "observation_scale": (2.0,)}
    pipeline, _, saved = started(folder, "ppo", **narrow)
    assert saved["policy"]["low"].tolist() == [-2.0]
    assert pipeline.policy.low.tolist() == [-1.0]
    assert torch.equal(pipeline.policy.log_std, saved["policy"]["log_std"])
    assert torch.equal(pipeline.policy.network[1].weight, saved["policy"]["network.1.weight"])


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ("CartPole-v1", {"env_id": "Acrobot-v1"}, r"reads observations \[4\], and Acrobot-v1 has \[6\]"),
        (
            "tests/Identity-v0",
            {"env_id": "CartPole-v1"},
            r"reads observations Discrete\(3\), and CartPole-v1 has \[4\]",
        ),
        (
            "tests/Identity-v0",
            {"env_id": "tests/Identity-v0", "env_kwargs": {"actions": 4}},
            r"Discrete\(3\), and tests/Identity-v0 with env_kwargs \{'actions': 4\} has Discrete\(4\)",
        ),
        ("MountainCar-v0", {"env_id": "MountainCarContinuous-v0"}, r"gives actions Discrete\(3\), and .* has \[1\]"),
    ],
)
def test_other_spaces(trained, before, now, message):
    with pytest.raises(ConfigError, match=rf"the policy of .* {message}$"):
        started(trained("ppo", env_id=before), "ppo", **now)


def test_an_environment_that_cannot_be_made_again_is_compared_by_tensors(trained, monkeypatch):
    folder = trained("ppo")
    monkeypatch.setattr("rlpipe.pipelines.build.weights._spaces", lambda config: 1 / 0)
    with pytest.raises(ConfigError, match=r"does not fit: it has network.1.weight \[8, 4\], and the new one \[8, 6\]"):
        started(folder, "ppo", env_id="Acrobot-v1")


@dataclasses.dataclass(frozen=True)
class Plain:
    env_id: str = "CartPole-v1"
    seed: int = 0


def composed(loss, policy):
    return Pipeline([], lambda batch: batch, policy, {"policy": policy, "loss": loss})


def saved_as(path, pipeline):
    """What a run of this pipeline's algorithm would start from."""
    config = dataclasses.asdict(Plain())
    checkpoint = path / "frames-000000000001"
    save_checkpoint(checkpoint, pipeline.state, {"frames": 1, "run": identity("mine", config)})
    return Start(str(path), checkpoint, "mine", config)


def changed(module):
    with torch.no_grad():
        for each in module.parameters():
            each.normal_()
    return module


def test_a_composed_algorithm(tmp_path):
    spec = make_env(EnvConfig("CartPole-v1"), seed=0).action_spec

    def parts():
        actor, critics = CategoricalActor(MLP(4, 2, (8,)), spec), nn.ModuleList([MLP(4, 1, (8,)) for _ in range(2)])
        # two targets, and random features that nothing trains
        loss = nn.ModuleDict({"actor": actor, "critics": critics})
        loss["targets"] = deepcopy(critics).requires_grad_(False)
        loss["features"] = MLP(4, 8).requires_grad_(False)
        return loss, actor

    loss, actor = parts()
    changed(loss)
    start = saved_as(tmp_path, composed(loss, actor))
    for take in ((), ("policy",), ("critic",)):
        new, new_actor = parts()
        fresh = deepcopy(new)
        load_weights(composed(new, new_actor), settings_of(Plain()), dataclasses.replace(start, take=take))
        critic = loss if "critic" in take or not take else fresh
        assert equal(new["actor"].state_dict(), (fresh if take == ("critic",) else loss)["actor"].state_dict()) == {
            True
        }
        for name in ("critics", "features"):
            assert equal(new[name].state_dict(), critic[name].state_dict()) == {True}
        assert equal(new["targets"].state_dict(), new["critics"].state_dict()) == {True}


def test_the_bounds_of_a_deterministic_actor(tmp_path):
    def actor(low):
        return DeterministicActor(MLP(1, 2, (8,)), Bounded(low, 1.0, (1, 2)))

    old, new = changed(actor(-1.0)), actor(-3.0)
    start = saved_as(tmp_path, composed(old, old))
    load_weights(composed(new, new), settings_of(Plain()), start)
    assert equal(new.network.state_dict(), old.network.state_dict()) == {True}
    assert new.low.tolist() == [-3.0, -3.0]
    unbounded = DeterministicActor(MLP(1, 2, (8,)), Unbounded((1, 2)))
    with pytest.raises(ConfigError, match=r"low is \[-1.0, -1.0\], and that of the new one \[-inf, -inf\]"):
        load_weights(composed(unbounded, unbounded), settings_of(Plain()), start)


def test_targets_and_coefficients_of_a_loss_of_torchrl(tmp_path):
    spec = make_env(EnvConfig("CartPole-v1"), seed=0).action_spec

    def parts(gamma):
        actor = QValueActor(MLP(4, 2, (8,)), in_keys=["observation"], spec=spec)
        loss = StockDQNLoss(actor, delay_value=True)
        loss.make_value_estimator(gamma=gamma)
        return loss, actor

    loss, actor = parts(0.5)
    changed(actor)
    start = saved_as(tmp_path, composed(loss, actor))
    new, new_actor = parts(0.9)
    load_weights(composed(new, new_actor), settings_of(Plain()), start)
    assert equal(new_actor.state_dict(), actor.state_dict()) == {True}
    state = new.state_dict()
    target = {key.removeprefix("target_"): each for key, each in state.items() if key.startswith("target_")}
    assert target
    assert equal(target, state) == {True}
    assert new.value_estimator.gamma == pytest.approx(0.9)
