"""Environments that are made anew with other arguments while training."""

import contextlib
from types import SimpleNamespace

import pytest
from comparing import fingerprint
from forked import spawning_quickly
from resuming import batches, go, killed, make_config

from rlpipe import EnvConfig, SyncDataCollector, make_env
from rlpipe.errors import ConfigError
from rlpipe.modules import MLP, CategoricalActor
from rlpipe.pipelines.algorithms.recipes import builder, config_class
from rlpipe.pipelines.collectors.multi import RemoteEnvState
from rlpipe.pipelines.collectors.processes import AsyncProcesses, SyncProcesses
from rlpipe.pipelines.envs import VectorEnv
from rlpipe.pipelines.envs.normalization.moments import moments_of
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.replay.episodes import EpisodeBuffer
from rlpipe.pipelines.training.loop import train

SIZED = {"env_id": "sized:Sized", "num_envs": 2, "rollout_steps": 8, "hidden": (4,), "env_kwargs": {"reward": 1.0}}


class Harder:
    """Changes an argument at the first moment of a stage after every so many frames."""

    def __init__(self, stage, every, name, values):
        self.stage, self.every, self.name, self.values, self.level = stage, every, name, values, 0

    def __call__(self, moment):
        if moment.stage == self.stage and moment.frames >= self.every * (self.level + 1):
            self.level += 1
            moment.pipeline.change_env(**{self.name: self.values[self.level % len(self.values)]})

    def state_dict(self):
        return {"level": self.level}

    def load_state_dict(self, state):
        self.level = state["level"]


def built(algorithm="a2c", **options):
    return builder(algorithm)(config_class(algorithm)(**{**SIZED, "total_frames": 160, **options}))


@pytest.mark.parametrize("options", [{}, {"backend": "async"}], ids=["sync", "async"])
def test_the_next_batch_is_of_the_changed_environments(options):
    with contextlib.closing(built(**options)) as pipeline:
        seen = []

        def tell(moment):
            if moment.stage == "collected":
                seen.append(moment.batch["next", "reward"].unique().item())
                assert moment.batch["step_count"][:, 0].eq(0).all() == (len(seen) in (1, 3, 6, 9))
            if moment.stage == "learned" and len(seen) == 2:
                moment.pipeline.change_env(reward=5.0)
                assert moment.pipeline.env_kwargs == {"reward": 5.0}

        result = train(pipeline, listeners=[tell])
        assert seen == [1.0] * 2 + [5.0] * 8
        # of six steps each; two environments took 16 steps before, and 64 afterwards
        assert result.episodes == 2 * (16 // 6) + 2 * (64 // 6)


def test_resets_have_new_seeds_each_time():
    config = EnvConfig("CartPole-v1", num_envs=3)
    with contextlib.closing(builder("a2c")(config_class("a2c")(env_id="CartPole-v1", num_envs=3))) as pipeline:
        base = pipeline.collector.env
        starts, infos = [base.base_env.root["observation"]], base.base_env.infos
        for value in (True, False, True, False):
            pipeline.change_env(sutton_barto_reward=value)
            starts.append(base.base_env.root["observation"])
        assert len({each.tobytes() for each in starts}) == 5
        # which training reads
        assert base.base_env.infos is infos
        again = contextlib.closing(builder("a2c")(config_class("a2c")(env_id="CartPole-v1", num_envs=3)))
        with again as other:
            other.change_env(sutton_barto_reward=True)
            assert other.collector.env.base_env.root["observation"].tobytes() == starts[1].tobytes()
    assert config.kwargs == {}


def test_what_does_not_fit_is_refused_and_changes_nothing():
    with contextlib.closing(built()) as pipeline:
        before = pipeline.collector.env.base_env
        with pytest.raises(ConfigError, match=r"sized:Sized takes no argument 'rewards'; .*did you mean reward\?"):
            pipeline.change_env(rewards=2.0)
        with pytest.raises(ConfigError, match=r"change_env: with size=4 the observations are Box.*\(4,\).*, and were"):
            pipeline.change_env(size=4)
        with pytest.raises(ConfigError, match="change_env sets 'notes' to a set, which a checkpoint cannot hold"):
            pipeline.change_env(notes={1})
        assert pipeline.collector.env.base_env is before
        assert pipeline.env_kwargs == {"reward": 1.0}
    with contextlib.closing(built(env_id="FrozenLake-v1", env_kwargs={})) as pipeline:
        with pytest.raises(ConfigError, match="observations are Discrete.64., and were Discrete.16."):
            pipeline.change_env(map_name="8x8")
        assert pipeline.environments.state_dict().get("changes") is None


def test_a_collector_that_cannot_says_so():
    env = make_env(EnvConfig("CartPole-v1", num_envs=2))
    policy = CategoricalActor(MLP(4, 2, ()), env.action_spec)
    own = SyncDataCollector(VectorEnv(env.base_env.envs), policy, frames_per_batch=4, total_frames=4)
    with pytest.raises(ConfigError, match="SyncDataCollector cannot change the arguments of its environments"):
        Pipeline(own, lambda batch: batch, policy).change_env(length=2.0)
    env.close()


def test_transforms_keep_what_they_know():
    options = {"env_id": "CartPole-v1", "env_kwargs": {}, "normalize_observation": True, "normalize_reward": True}
    with contextlib.closing(built("ppo", minibatch_size=16, **options)) as pipeline:
        counts = []

        def tell(moment):
            if moment.stage == "collected":
                counts.append(moments_of(moment.pipeline.state["observation_norm"])[0].now.number)
                assert moment.batch["next", "reward"].isfinite().all()
            if moment.stage == "learned":
                moment.pipeline.change_env(sutton_barto_reward=len(counts) % 2 == 1)

        train(pipeline, listeners=[tell])
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("stage", ["collected", "learned"])
def test_no_episode_is_glued_to_one_that_was_abandoned(stage, monkeypatch):
    # each is of six steps
    lengths, extend = [], EpisodeBuffer.extend

    def noted(self, batch):
        finished = extend(self, batch)
        lengths.extend(len(each) for each in finished)
        return finished

    monkeypatch.setattr(EpisodeBuffer, "extend", noted)
    with contextlib.closing(built("reinforce")) as pipeline:
        train(pipeline, listeners=[Harder(stage, 32, "reward", [1.0, 5.0])])
    assert set(lengths) == {6}
    assert len(lengths) == 20


CHANGES = {
    ("ppo", "cartpole"): ("learned", "sutton_barto_reward", [False, True]),
    ("reinforce", "frozen-lake"): ("collected", "is_slippery", [True, False]),
    ("sarsa", "frozen-lake"): ("evaluated", "is_slippery", [True, False]),
    ("a2c", "mujoco"): ("collected", "healthy_reward", [10.0, 5.0, 2.0]),
}


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [pytest.param(*key, marks=[pytest.mark.slow] if key[1] == "mujoco" else []) for key in CHANGES],
)
def test_a_resumed_run_continues_to_the_bit(algorithm, kind, tmp_path):
    config = make_config(algorithm, kind)
    stage, name, values = CHANGES[algorithm, kind]

    def during(pipeline):
        pipeline.listeners = [Harder(stage, config.total_frames // 5, name, values)]

    go(tmp_path / "whole", algorithm, config, during=during)
    killed(tmp_path / "killed", algorithm, config, "learn", int(0.65 * batches(config)), during=during)
    go(tmp_path / "killed", algorithm, config, during=during)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")


@pytest.mark.slow
def test_two_collectors_change_theirs(tmp_path):
    config = make_config("ppo", "cartpole", collector="processes", num_collectors=2, total_frames=2000)

    def during(pipeline):
        pipeline.listeners = [Harder("learned", 600, "sutton_barto_reward", [False, True]), told.append]

    told = []
    with spawning_quickly():
        go(tmp_path / "whole", "ppo", config, during=during)
        killed(tmp_path / "killed", "ppo", config, "learn", 6, during=during)
        go(tmp_path / "killed", "ppo", config, during=during)
    rewards = [float(each.batch["next", "reward"].max()) for each in told[:20] if each.stage == "collected"]
    assert sorted(set(rewards)) == [0.0, 1.0]
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")


def test_asynchronous_collectors_cannot():
    assert SyncProcesses.remakes
    assert not AsyncProcesses.remakes
    collectors = SimpleNamespace(asynchronous=True, remakes=False)
    with pytest.raises(
        ConfigError, match="cannot change the arguments .* 'local' and 'processes' can, if they are not"
    ):
        RemoteEnvState(collectors).change({"reward": 2.0})
