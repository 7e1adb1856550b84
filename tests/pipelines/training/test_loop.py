"""The training loop: what it counts, when it stops, and that runs repeat to the bit."""

import dataclasses
import functools
import json
import math

import pytest
import torch

from rlpipe.errors import ConfigError, TrainingError
from rlpipe.pipelines.algorithms import dqn, ppo
from rlpipe.pipelines.algorithms.recipes import RECIPES, find_recipe
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs.run import BuiltFrom, Run
from rlpipe.pipelines.stopping import StoppingRule
from rlpipe.pipelines.training.finished_episodes import finished_episodes
from rlpipe.pipelines.training.loop import train

SMALL = {
    "ppo": (ppo, {"num_envs": 4, "rollout_steps": 16, "minibatch_size": 32, "epochs": 2, "total_frames": 640}),
    "dqn": (
        dqn,
        {
            "num_envs": 4,
            "rollout_steps": 8,
            "updates": 4,
            "warmup_frames": 96,
            "total_frames": 640,
            "minibatch_size": 64,
        },
    ),
}


def run_small(folder, algorithm, *, eval_every=None, **options):
    module, settings = SMALL[algorithm]
    fields = {"checkpoint_every", "stopping", "log_every", "progress"}
    loop = {key: options.pop(key) for key in fields & set(options)}
    config = module.Config(**{**settings, **options})
    pipeline = module.build(config)
    run = Run(folder, algorithm, built_from=BuiltFrom(algorithm, config))
    judge = functools.partial(evaluate, pipeline.policy, config.env, episodes=2, seed=9)
    try:
        return train(pipeline, run, evaluate=judge, eval_every=eval_every, **loop), pipeline
    finally:
        run.close()
        pipeline.close()


def lines(folder, name="metrics.jsonl"):
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "frames_per_second")} for row in rows]


def weights(pipeline):
    return torch.cat([parameter.detach().flatten() for parameter in pipeline.policy.parameters()])


@pytest.mark.parametrize("algorithm", SMALL)
def test_same_seed_same_run(tmp_path, algorithm):
    for name in ("first", "second"):
        # the global generators must not matter
        torch.manual_seed(len(name))
        run_small(tmp_path / name, algorithm, eval_every=200)
    assert lines(tmp_path / "first") == lines(tmp_path / "second")
    assert lines(tmp_path / "first", "evaluations.jsonl") == lines(tmp_path / "second", "evaluations.jsonl")
    run_small(tmp_path / "other", algorithm, eval_every=200, seed=1)
    assert lines(tmp_path / "other") != lines(tmp_path / "first")


@pytest.mark.parametrize("algorithm", SMALL)
def test_evaluation_does_not_change_training(tmp_path, algorithm):
    _, often = run_small(tmp_path / "often", algorithm, eval_every=100)
    _, never = run_small(tmp_path / "never", algorithm)
    assert torch.equal(weights(often), weights(never))
    assert lines(tmp_path / "often") == lines(tmp_path / "never")


def test_counts_and_intervals(tmp_path):
    told = []
    result, _ = run_small(
        tmp_path / "run",
        "ppo",
        eval_every=150,
        checkpoint_every=300,
        progress=told.append,
    )
    evaluated = [(now.frames, now.evaluation.returns) for now in told if now.stage == "evaluated"]
    assert [now.frames for now in told if now.stage == "evaluating"] == [frames for frames, _ in evaluated]
    assert evaluated == [(row["frames"], tuple(row["returns"])) for row in lines(tmp_path / "run", "evaluations.jsonl")]
    told = [now for now in told if now.stage == "training"]
    rows = [(row["loss_policy"], row["returns"], row["lengths"]) for row in lines(tmp_path / "run")]
    assert [(now.scalars["loss_policy"], now.returns, now.lengths) for now in told] == rows
    assert (told[-1].updates, told[-1].episodes, told[-1].seconds) == (40, result.episodes, result.seconds)
    told = [now.frames for now in told]
    assert (result.frames, result.updates, result.stopped_by) == (640, 40, "")
    assert told == list(range(64, 641, 64))
    assert [row["frames"] for row in lines(tmp_path / "run")] == told
    # the first batch at or after each multiple
    assert [row["frames"] for row in lines(tmp_path / "run", "evaluations.jsonl")] == [192, 320, 512, 640]
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("frames-*"))
    assert names == ["frames-000000000320", "frames-000000000640"]
    episodes = [value for row in lines(tmp_path / "run") for value in row["returns"]]
    assert result.episodes == len(episodes) > 0


def test_seconds_are_of_training_only(tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def perf_counter(self):
            self.now += 1.0
            return self.now

    clock = Clock()
    monkeypatch.setattr("rlpipe.pipelines.training.loop.time", clock)
    module, settings = SMALL["ppo"]
    config = module.Config(**settings)
    pipeline, run = module.build(config), Run(tmp_path / "run", "ppo", built_from=BuiltFrom("ppo", config))

    def slow_evaluation():
        clock.now += 1000.0
        return Evaluation((1.0,), (1,))

    monkeypatch.setattr(run, "checkpoint", lambda *_, **options: setattr(clock, "now", clock.now + 1000.0))
    result = train(pipeline, run, evaluate=slow_evaluation, eval_every=100, checkpoint_every=100)
    run.close()
    pipeline.close()
    # ten batches, one tick each
    assert result.seconds == 10.0
    assert result.frames_per_second == 64.0
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["seconds"] == 10.0


def test_stops_at_a_return(tmp_path):
    result, _ = run_small(tmp_path / "run", "ppo", eval_every=64, stopping=StoppingRule(at_return=1.0))
    assert result.frames == 64
    assert result.stopped_by.startswith("an evaluation return of ")
    assert (tmp_path / "run" / "checkpoints" / "frames-000000000064").is_dir()
    result, _ = run_small(tmp_path / "other", "ppo", eval_every=64, stopping=StoppingRule(at_return=501.0))
    assert (result.frames, result.stopped_by) == (640, "")


def test_stops_after_episodes(tmp_path):
    result, _ = run_small(tmp_path / "run", "ppo", stopping=StoppingRule(total_episodes=5))
    assert result.stopped_by == "5 episodes"
    assert result.episodes >= 5
    assert result.episodes - len(lines(tmp_path / "run")[-1]["returns"]) < 5


def test_a_line_of_metrics_may_cover_several_batches(tmp_path):
    told = []
    run_small(tmp_path / "each", "dqn")
    run_small(tmp_path / "few", "dqn", log_every=250, progress=told.append)
    told = [now.frames for now in told if now.stage == "training"]
    each, few = lines(tmp_path / "each"), lines(tmp_path / "few")
    # the first batch at or after each multiple, and the last one
    assert [row["frames"] for row in few] == told == [256, 512, 640]
    assert [value for row in few for value in row["returns"]] == [value for row in each for value in row["returns"]]
    first = [row for row in each if row["frames"] <= 256]
    assert few[0]["updates"] == sum(row["updates"] for row in first) == 24
    learned = [row["loss_td"] for row in first if "loss_td" in row]
    assert 0 < len(learned) < len(first)
    assert few[0]["loss_td"] == pytest.approx(sum(learned) / len(learned))
    assert few[0]["epsilon"] == pytest.approx(sum(row["epsilon"] for row in first) / len(first))


def test_finished_episodes_are_in_the_order_in_which_they_ended():
    module, settings = SMALL["ppo"]
    pipeline = module.build(module.Config(**settings))
    batch = next(iter(pipeline.collector))
    pipeline.close()
    returns, lengths = finished_episodes(batch)
    done = batch["next", "done"].squeeze(-1)
    expected = [batch["next", "episode_reward"][i, t].item() for t in range(16) for i in range(4) if done[i, t]]
    assert returns == expected == [float(length) for length in lengths]


class Poison(torch.nn.Module):
    """Makes the loss NaN once it was called a number of times."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def forward(self, x):
        self.left -= 1
        return x * (math.nan if self.left < 0 else 1.0)


@pytest.mark.parametrize(
    ("checkpoint_every", "kept"),
    [(64, "the last good checkpoint is .*frames-000000000128"), (None, "there is no checkpoint yet")],
)
def test_a_loss_that_becomes_nan_stops_training(tmp_path, checkpoint_every, kept):
    module, settings = SMALL["ppo"]
    config = module.Config(**settings)
    pipeline = module.build(config)
    # two batches of four updates, and in each the advantages' pass before them
    pipeline.state["loss"].critic.network.append(Poison(10))
    run = Run(tmp_path / "run", "ppo", built_from=BuiltFrom("ppo", config))
    with pytest.raises(TrainingError, match=f"training stopped at frame 192: loss_\\w+ is nan; {kept}"):
        train(pipeline, run, checkpoint_every=checkpoint_every)
    run.close()
    pipeline.close()


def test_without_a_run_the_same_is_learned_and_nothing_is_written(tmp_path, monkeypatch):
    result, written = run_small(tmp_path / "run", "ppo", eval_every=150)
    monkeypatch.chdir(tmp_path / "run")
    files, told, judged = sorted(tmp_path.rglob("*")), [], []
    module, settings = SMALL["ppo"]
    built = module.build(module.Config(**settings))
    pipeline = Pipeline(built.collector, built.learn, built.policy)

    def judge():
        judged.append(1)
        return Evaluation((1.0,), (1,))

    alone = train(pipeline, evaluate=judge, eval_every=150, progress=told.append)
    pipeline.close()
    assert torch.equal(weights(pipeline), weights(written))
    assert (alone.frames, alone.updates, alone.episodes) == (result.frames, result.updates, result.episodes)
    assert [now.frames for now in told if now.stage == "training"] == list(range(64, 641, 64))
    assert len(judged) == 4
    assert sorted(tmp_path.rglob("*")) == files


def test_without_a_run_training_stops_and_fails_as_ever():
    module, settings = SMALL["ppo"]
    pipeline = module.build(module.Config(**settings))
    with pytest.raises(ValueError, match="checkpoints are written into a run, and there is none; pass a Run"):
        train(pipeline, checkpoint_every=100)
    assert train(pipeline, stopping=StoppingRule(total_episodes=1)).stopped_by == "1 episodes"
    pipeline.close()
    pipeline = module.build(module.Config(**settings))
    pipeline.state["loss"].critic.network.append(Poison(10))
    with pytest.raises(TrainingError, match=r"training stopped at frame 192: loss_\w+ is nan$"):
        train(pipeline)
    pipeline.close()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_and_learns_from_a_batch(name):
    recipe = find_recipe(name)
    config = recipe.config()
    if name.endswith("/atari"):
        pytest.importorskip("ale_py")
        # its own would take minutes
        small = (
            {"buffer_size": 1000, "warmup_frames": 64} if name == "dqn/atari" else {"rollout_steps": 32, "epochs": 1}
        )
        config = dataclasses.replace(config, **small)
    pipeline = __import__(f"rlpipe.pipelines.algorithms.{recipe.algorithm}", fromlist=["build"]).build(config)
    updates = 0
    for batch, _ in zip(pipeline.collector, range(400), strict=False):
        updates += int(pipeline.learn(batch)["updates"])
        if updates:
            break
    assert updates > 0
    learners = {"change"} if hasattr(recipe.config(), "step_size") else {"loss", "optimizer"}
    assert {"policy", "random"} | learners <= set(pipeline.state)
    pipeline.close()


@pytest.mark.parametrize("module", [ppo, dqn])
def test_cuda_that_is_not_there(module, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device is 'cuda', but PyTorch finds no CUDA device"):
        module.build(module.Config(device="cuda"))


@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")
@pytest.mark.parametrize("env_id", ["tests/Matrix-v0", "tests/Scalar-v0"])
def test_box_actions_of_any_shape(tmp_path, env_id):
    result, pipeline = run_small(tmp_path / "run", "ppo", env_id=env_id, eval_every=300)
    assert result.frames == 640
    assert pipeline.policy.shape == {"tests/Matrix-v0": (2, 2), "tests/Scalar-v0": ()}[env_id]


def test_weights_that_the_last_step_ruins_are_not_saved(tmp_path):
    options = {"lr": 1e38, "max_grad_norm": None, "epochs": 1, "minibatch_size": 64, "env_id": "Pendulum-v1"}
    with pytest.raises(TrainingError, match="training stopped at frame 64: weight .* is not finite; there is no"):
        run_small(tmp_path / "run", "ppo", checkpoint_every=64, **options)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_falling_learning_rate_is_above_zero_in_every_batch_that_learns(tmp_path):
    run_small(tmp_path / "run", "dqn", warmup_frames=100)
    rates = [row["learning_rate"] for row in lines(tmp_path / "run") if row["updates"]]
    assert len(rates) == 17
    assert rates[0] == pytest.approx(2e-3)
    assert rates[-1] == pytest.approx(2e-3 / 17)


def test_dqn_refuses_box_actions():
    with pytest.raises(ConfigError, match="env_id is 'Pendulum-v1', whose actions are a Box; DQN needs Discrete"):
        dqn.build(dqn.Config(env_id="Pendulum-v1"))


@pytest.mark.parametrize(("scale", "message"), [((1.0,), "observation_scale has 1 numbers, expected 4")])
def test_an_observation_scale_that_does_not_fit(scale, message):
    with pytest.raises(ConfigError, match=message):
        ppo.build(ppo.Config(observation_scale=scale))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [("constant", [1.0] * 4), ("linear", [1.0, 0.75, 0.5, 0.25]), ("cosine", [1.0, 0.853553, 0.5, 0.146447])],
)
def test_learning_rate_schedules(tmp_path, schedule, shares):
    run_small(tmp_path / "run", "ppo", total_frames=256, lr=0.01, lr_schedule=schedule)
    rates = [row["learning_rate"] for row in lines(tmp_path / "run")]
    assert rates == pytest.approx([0.01 * share for share in shares], rel=1e-5)


def test_epsilon_follows_its_schedule(tmp_path):
    options = {"epsilon_start": 1.0, "epsilon_end": 0.0, "epsilon_frames": 320}
    run_small(tmp_path / "run", "dqn", **options)
    epsilons = [row["epsilon"] for row in lines(tmp_path / "run")]
    assert epsilons == pytest.approx([max(0.0, 1.0 - frames / 320) for frames in range(32, 641, 32)])


def test_dqn_options_reach_the_parts():
    config = dqn.Config(dueling=True, double=True, kind="mse", tau=0.25, target_every=7, hidden=(10,))
    pipeline = dqn.build(config)
    loss, target = pipeline.state["loss"], pipeline.state["target"]
    assert (loss.double, loss.kind) == (True, "mse")
    assert (target.tau, target.every) == (0.25, 7)
    assert type(pipeline.policy[0].network[-1]).__name__ == "DuelingHead"
    assert any(isinstance(layer, torch.nn.LayerNorm) for layer in pipeline.policy.modules())
    pipeline.close()
    without = dqn.build(dqn.Config(target_network=False, double=False))
    assert without.state["loss"].target_network is None
    without.close()


@pytest.mark.parametrize(("n_steps", "reward"), [(1, 1.0), (4, 1 + 0.5 + 0.25 + 0.125)])
def test_dqn_stores_n_step_returns(n_steps, reward):
    pipeline = dqn.build(dqn.Config(gamma=0.5, n_steps=n_steps, num_envs=2, rollout_steps=8))
    pipeline.learn(next(iter(pipeline.collector)))
    stored = pipeline.state["replay"].buffer[:]["next"]
    assert stored["reward"].max() == reward
    assert stored["discount"].min() == 0.5**n_steps
    pipeline.close()


def test_ppo_shared_trunk():
    apart, shared = ppo.build(ppo.Config()), ppo.build(ppo.Config(shared_trunk=True))
    counts = [len(list(pipeline.state["loss"].parameters())) for pipeline in (apart, shared)]
    assert counts == [8, 6]
    apart.close()
    shared.close()
