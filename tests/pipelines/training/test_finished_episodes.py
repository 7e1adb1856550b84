"""Episodes that are counted: on any TorchRL environment, with successes where the environment tells of them."""

import json

import numpy as np
import pytest
import torch
from goals import Goal
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import (
    Compose,
    EnvBase,
    GymWrapper,
    RenameTransform,
    RewardSum,
    SerialEnv,
    StepCounter,
    TransformedEnv,
)

from rlpipe.errors import ConfigError
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.collectors.worker import WorkerCollector
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.front_door import run_recipe
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs.loggers.loggers import batch_scalars
from rlpipe.pipelines.runs.run import Run
from rlpipe.pipelines.training.finished_episodes import Ended, EpisodeCounter
from rlpipe.pipelines.training.loop import train
from rlpipe.pipelines.training.metrics import Line
from rlpipe.scripts.main import run


class NumpyGoal(Goal):
    says = staticmethod(np.bool_)


class NumberGoal(Goal):
    says = staticmethod(float)


class SilentGoal(Goal):
    says = staticmethod(lambda won: True if won else None)


class TalkativeGoal(NumpyGoal):
    """In each info, as readers of infos want it."""

    def step(self, action):
        *result, info = super().step(action)
        return *result, {"is_success": np.bool_(False), **info}


class OddGoal(Goal):
    says = staticmethod(lambda won: "yes" if won else float("nan"))


def act(seen):
    return torch.zeros(seen.shape[:-1], dtype=torch.int64)


POLICY = TensorDictModule(act, in_keys=["observation"], out_keys=["action"])


def counted(env, kind=SyncDataCollector, frames=24, batches=3, **options):
    """What is counted in each batch, and the lengths of the episodes as the environment itself observes them."""
    env.set_seed(0)
    kept = {"auto_register_policy_transforms": False, "use_buffers": False, **options}
    collector = kind(env, POLICY, frames_per_batch=frames, total_frames=frames * batches, **kept)
    counter, found = EpisodeCounter(collector), []
    counter.begin()
    for batch in collector:
        ended = counter.count(batch)
        done, seen = (batch["next", key].reshape(-1, batch.shape[-1]).T for key in ("done", "observation"))
        found.append((ended, seen[done].int().tolist()))
    collector.shutdown()
    return found


def won(lengths):
    return [float(length % 2 == 0) for length in lengths]


def one():
    return GymWrapper(Goal(), categorical_action_encoding=True)


def counting(env):
    return TransformedEnv(env, Compose(StepCounter(), RewardSum()))


ENVS = {
    "one": one,
    "serial": lambda: SerialEnv(2, one),
    "nested": lambda: SerialEnv(2, lambda: SerialEnv(1, one)),
    "counted": lambda: counting(one()),
    "serial counted": lambda: counting(SerialEnv(2, one)),
    "steps only": lambda: TransformedEnv(SerialEnv(2, one), StepCounter()),
    "returns only": lambda: TransformedEnv(one(), RewardSum()),
    "ours": lambda: make_env(EnvConfig(Goal, 2), seed=0),
}


@pytest.mark.parametrize("options", [{}, {"kind": Collector}, {"kind": Collector, "track_traj_ids": False}])
@pytest.mark.parametrize("name", ENVS)
def test_every_kind_of_environment_is_counted(name, options):
    found = counted(ENVS[name](), **options)
    assert sum(len(lengths) for _, lengths in found) > 12
    for ended, lengths in found:
        assert ended.lengths == lengths
        assert ended.returns == [length / 2 for length in lengths]


@pytest.mark.filterwarnings("ignore:split_trajs=True")
def test_split_trajectories_are_counted_without_their_padding():
    split, whole = (counted(one(), Collector, split_trajs=kind) for kind in (True, False))
    assert [sorted(ended.lengths) for ended, _ in split] == [sorted(lengths) for _, lengths in whole]
    options = {"auto_register_policy_transforms": False, "split_trajs": True}
    collector = Collector(one(), POLICY, frames_per_batch=24, total_frames=24, **options)
    assert train(Pipeline(collector, lambda _: TensorDict(updates=torch.tensor(1)), POLICY)).frames == 24


class Team(EnvBase):
    """Two agents with a reward each; an episode is three steps."""

    def __init__(self):
        super().__init__(batch_size=[])
        self.observation_spec = Composite(observation=Unbounded((1,)))
        self.action_spec = Categorical(2, ())
        self.reward_spec = Composite(agents=Composite(reward=Unbounded((2, 1)), shape=(2,)))
        self._steps = 0

    def _reset(self, tensordict=None, **_):
        self._steps = 0
        return TensorDict(observation=torch.zeros(1))

    def _step(self, tensordict):
        self._steps += 1
        done = torch.tensor([self._steps == 3])
        agents = TensorDict(reward=torch.ones(2, 1), batch_size=[2])
        return TensorDict(observation=torch.zeros(1), agents=agents, done=done, terminated=done)

    def _set_seed(self, seed):
        pass


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (
            lambda: TransformedEnv(one(), RenameTransform(["reward"], ["gain"])),
            r"\('next', 'reward'\) of shape \[24, 1\]",
        ),
        (
            lambda: TransformedEnv(one(), RenameTransform(["done"], ["over"])),
            r"episodes by \('next', 'done'\) of shape",
        ),
        (Team, r"a batch has none, but \('next', 'agents', 'reward'\); add transforms to the environment that write"),
        (
            lambda: TransformedEnv(
                Team(), Compose(RewardSum([("agents", "reward")], ["episode_reward"]), StepCounter())
            ),
            r"\('next', 'episode_reward'\) of shape \[24, 1\], and a batch has one of shape \[24, 2, 1\]",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused_in_a_line(env, words):
    with pytest.raises(ConfigError, match=words) as caught:
        counted(env(), Collector)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [Goal, NumpyGoal, NumberGoal])
@pytest.mark.parametrize("collector", [SyncDataCollector, Collector])
def test_successes_of_environments_of_ours(kind, collector):
    for ended, lengths in counted(make_env(EnvConfig(kind, 2), seed=0), collector):
        assert ended.successes == won(lengths)
        assert len(lengths) > 2


def test_successes_of_workers():
    def make():
        return make_env(EnvConfig("tests/Goal-v0", 2), seed=0)

    worker = WorkerCollector(make, POLICY, frames_per_batch=24, total_frames=48)
    batches = worker.iterator()
    for _ in range(2):
        batch = next(batches)
        done = batch["next", "done"].squeeze(-1).T
        assert [each for *_, each in worker.report()["infos"].successes] == won(
            batch["next", "step_count"].squeeze(-1).T[done]
        )
    worker.shutdown()


def test_only_what_is_told_counts():
    for ended, lengths in counted(make_env(EnvConfig(SilentGoal), seed=0)):
        assert ended.successes == [1.0 for length in lengths if length % 2 == 0]
    for env_id in (OddGoal, "CartPole-v1"):
        assert all(ended.successes == [] for ended, _ in counted_only(make_env(EnvConfig(env_id), seed=0)))


def counted_only(env):
    collector = SyncDataCollector(env, POLICY, frames_per_batch=24, total_frames=48)
    counter = EpisodeCounter(collector)
    counter.begin()
    return [(counter.count(batch), None) for batch in collector]


def test_successes_in_a_batch_of_torchrl():
    env = GymWrapper(TalkativeGoal(), categorical_action_encoding=True)
    env.auto_register_info_dict()
    for ended, lengths in counted(env):
        assert ended.successes == won(lengths)


def test_evaluations_tell_successes():
    found = evaluate(POLICY, EnvConfig(Goal), episodes=9, seed=0)
    assert found.successes == tuple(won(found.lengths))
    assert found.success_rate == found.summary()["success_rate"] == sum(found.successes) / 9
    assert found == evaluate(POLICY, EnvConfig(Goal), episodes=9, seed=0, num_envs=9)
    silent = evaluate(POLICY, EnvConfig(SilentGoal), episodes=9, seed=0)
    assert silent.successes == tuple(success or None for success in found.successes)
    assert silent.success_rate == 1.0
    assert evaluate(POLICY, EnvConfig("CartPole-v1"), episodes=2, seed=0).successes == ()
    assert "success_rate" not in Evaluation((1.0,), (1,)).summary()


def test_a_run_writes_them(tmp_path, capsys):
    folder = tmp_path / "run"
    options = {"num_envs": 2, "rollout_steps": 14, "minibatch_size": 28, "total_frames": 56, "eval_every": 28}
    summary = run_recipe(
        "ppo", env_id="tests/Goal-v0", folder=folder, eval_episodes=2, final_eval_episodes=3, **options
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["success_rate"] == pytest.approx(np.mean(won(row["lengths"])))
    evaluations = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert [row["successes"] for row in evaluations] == [won(row["lengths"]) for row in evaluations]
    rate = summary["evaluation"]["success_rate"]
    assert rate == pytest.approx(np.mean(won(evaluations[-1]["lengths"])))
    assert run(["evaluate", str(folder), "--episodes", "3", "--eval-envs", "1"]) == 0
    assert f"success {rate:.1%}" in capsys.readouterr().out
    assert run(["resume", str(folder)]) == 0
    assert f"success     {rate:.1%} of them" in capsys.readouterr().out


def rows_of(folder, name="metrics"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("log_every", [1, 1000])
def test_a_run_logs_numbers_of_its_infos(tmp_path, log_every, caplog):
    keys = ("steps", "steps:last", "reward.forward", "nothing")
    options = {"num_envs": 2, "rollout_steps": 14, "minibatch_size": 28, "total_frames": 84, "log_every": log_every}
    kept = {"final_eval_episodes": 2, "eval_every": None, "env_id": "tests/Runner-v0", **options}
    run_recipe("ppo", folder=tmp_path / "run", log_info=keys, **kept)
    lengths, rows = [], rows_of(tmp_path / "run")
    for row in rows:
        lengths += row["lengths"]
        assert row["info/steps_last"] == pytest.approx(np.mean(row["lengths"]))
        assert row["info/reward.forward"] == pytest.approx(2 * row["info/steps"])
        assert "info/nothing" not in row
    if log_every > 1:
        # of all steps together, whatever the lengths of batches; but for two episodes that have not ended
        (row,) = rows
        whole = sum(length * (length + 1) / 2 for length in lengths)
        assert 0 <= row["info/steps"] * 84 - whole <= 20
    (words,) = [each for each in caplog.messages if "log_info" in each]
    assert words.endswith("no info has had a number for info/nothing so far; an info has the numbers is_success, steps")
    # what is logged changes nothing
    run_recipe("ppo", folder=tmp_path / "silent", **kept)
    drop = ("info/steps", "info/steps_last", "info/reward.forward", "seconds", "frames_per_second")
    silent, logged = (
        [{key: value for key, value in row.items() if key not in drop} for row in rows_of(tmp_path / name)]
        for name in ("silent", "run")
    )
    assert silent == logged


def test_loggers_get_numbers_of_infos_in_a_group_of_their_own():
    assert batch_scalars({"info/speed": 2.0, "loss_td": 1.0}, [], []) == {"info/speed": 2.0, "loss/td": 1.0}


def test_a_line_continues_with_the_numbers_of_a_checkpoint():
    line, other = Line(), Line()
    line.add({"updates": 1}, Ended([], [], [], {"info/a": (3.0, 2), "info/b": (0.0, 0)}))
    other.load_state_dict(json.loads(json.dumps(line.state_dict())))
    other.add({"updates": 1}, Ended([], [], [], {"info/a": (5.0, 2), "info/b": (1e400, 1)}))
    assert other.means() == {"info/a": 2.0, "updates": 2}
    with pytest.raises(ValueError, match="info/a is not a list of numbers"):
        line.load_state_dict({**line.state_dict(), "infos": [{"info/a": "x"}]})


def test_a_line_has_the_rate_of_its_episodes(tmp_path):
    env = make_env(EnvConfig(Goal), seed=0)
    collector = SyncDataCollector(env, POLICY, frames_per_batch=5, total_frames=40)
    with Run(tmp_path / "run", "mine", settings={"env_id": "Goal-v0", "seed": 0}, loggers=()) as written:
        pipeline = Pipeline(collector, lambda _: TensorDict(updates=torch.tensor(1)), POLICY, {"policy": POLICY})
        train(pipeline, written, log_every=1000)
    (row,) = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert row["success_rate"] == pytest.approx(np.mean(won(row["lengths"])))
    assert len(row["lengths"]) > 5
