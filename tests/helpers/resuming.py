"""Small runs of every algorithm on every kind of environment, and kills at chosen places in them."""

import contextlib
import importlib.util
import itertools
import shutil
import signal
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

from rlpipe.errors import InterruptedRunError
from rlpipe.pipelines.algorithms.recipes import builder, config_class
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.config.json_form import config_from_json
from rlpipe.pipelines.runs.run import BuiltFrom, Run
from rlpipe.pipelines.seeding import GlobalRandom, Seeds
from rlpipe.pipelines.training.loop import LoopOptions, run_loop
from rlpipe.pipelines.training.signals import Interruption

_RUN = {"checkpoint_every": 1000, "eval_every": 700, "eval_episodes": 2, "log_every": 300, "max_episode_steps": 60}
_LONG = {**_RUN, "total_frames": 3000, "num_envs": 8, "hidden": (16, 16)}
_TABLE = {**_RUN, "total_frames": 600, "checkpoint_every": 200, "eval_every": 150, "log_every": 40, "eval_episodes": 1}
_REPLAY = {"buffer_size": 1200, "warmup_frames": 200, "minibatch_size": 32, "updates": 2, "target_every": 3}
_BOX = {**_RUN, "total_frames": 640, "checkpoint_every": 200, "eval_every": 150, "log_every": 60, "hidden": (16, 16)}
_BOX |= {"warmup_frames": 100, "minibatch_size": 32, "updates": 3, "buffer_size": 300, "n_steps": 2}
ALGORITHMS = {
    "sac": _BOX,
    "td3": {**_BOX, "noise_steps": 5.0},
    "dqn": {**_LONG, **_REPLAY, "epsilon_frames": 2000},
    "qr_dqn": {**_LONG, **_REPLAY, "epsilon_frames": 2000, "quantiles": 5},
    "ppo": {**_LONG, "rollout_steps": 32, "minibatch_size": 64, "epochs": 2},
    "a2c": {**_LONG, "rollout_steps": 16},
    "reinforce": {**_LONG, "rollout_steps": 32},
    "q_learning": _TABLE,
    "sarsa": _TABLE,
    "policy_gradient": _TABLE,
}
CONTINUOUS = ("sac", "td3")
TABLES = ("q_learning", "sarsa", "policy_gradient")


@dataclass(frozen=True)
class Kind:
    """A kind of environment, how a checkpoint keeps it, and what must be installed."""

    env_id: str
    keeps: str
    options: dict[str, Any]
    module: str = ""


_SHORT = {"num_envs": 4}
_GRU = {
    "recurrent": "gru",
    "recurrent_size": 8,
    "num_envs": 4,
    "total_frames": 900,
    "checkpoint_every": 300,
    "eval_every": 350,
    "log_every": 100,
    "max_episode_steps": 20,
}
_NORMALIZED = {"normalize_observation": True, "normalize_reward": True}
_PIXELS = {
    "from_pixels": True,
    "num_envs": 2,
    "total_frames": 320,
    "checkpoint_every": 96,
    "eval_every": 150,
    "log_every": 64,
    "max_episode_steps": 10,
}
KINDS = {
    "cartpole": Kind("CartPole-v1", "captured", {}),
    "family": Kind("rlpipe/CartPoleInstances-v0", "captured", {}),
    "tensors": Kind("rlpipe/TorchCartPole-v0", "captured", {}),
    "pendulum": Kind("Pendulum-v1", "synchronised", {}),
    "walk": Kind("tensor_envs:Walk", "synchronised", {}),
    "maze": Kind("rlpipe/Maze-v0", "captured", {}),
    "frozen-lake": Kind("FrozenLake-v1", "synchronised", {}),
    "acrobot": Kind("Acrobot-v1", "synchronised", {}),
    "box2d": Kind("LunarLander-v3", "synchronised", {}, "Box2D"),
    "mujoco": Kind("InvertedDoublePendulum-v5", "synchronised", {**_SHORT, **_NORMALIZED}, "mujoco"),
    "normalized": Kind("CartPole-v1", "captured", _NORMALIZED),
    "workers": Kind(
        "CartPole-v1",
        "synchronised",
        {"num_envs": 2, "backend": "async", "rollout_steps": 64, "eval_every": 1400, "total_frames": 2000},
    ),
    "pixels-maze": Kind("rlpipe/Maze-v0", "captured", _PIXELS),
    "pixels-lake": Kind("FrozenLake-v1", "synchronised", _PIXELS),
    "envpool": Kind("CartPole-v1", "synchronised", {"backend": "envpool"}, "envpool"),
    "gru": Kind("rlpipe/CartPolePositions-v0", "captured", _GRU),
    "lstm": Kind("rlpipe/CartPolePositions-v0", "captured", {**_GRU, "recurrent": "lstm"}),
    "gru-lake": Kind("FrozenLake-v1", "synchronised", _GRU),
    "lstm-acrobot": Kind("Acrobot-v1", "synchronised", {**_GRU, "recurrent": "lstm"}),
}


def fits(algorithm: str, kind: str) -> bool:
    """Whether the algorithm learns on it, as the recipes' environments go."""
    if algorithm in TABLES:
        return kind in ("maze", "frozen-lake")
    if kind == "pendulum" or algorithm in CONTINUOUS:
        return kind == "pendulum" and algorithm in CONTINUOUS
    if "recurrent" in KINDS[kind].options:
        return algorithm in ("ppo", "a2c", "reinforce")
    return kind not in ("mujoco", "normalized") or algorithm not in ("dqn", "qr_dqn")


def make_config(algorithm: str, kind: str, **changes: Any) -> Any:
    """The config of a small run; skips what is not installed."""
    chosen = KINDS[kind]
    if chosen.module and importlib.util.find_spec(chosen.module) is None:
        pytest.skip(f"{chosen.module} is not installed")
    options = dict(chosen.options)
    if algorithm == "reinforce" and kind in ("mujoco", "workers"):
        options["rollout_steps"] = 64
    return config_class(algorithm)(**{**ALGORITHMS[algorithm], "env_id": chosen.env_id, **options, **changes})


def batches(config: Any) -> int:
    """In the whole run."""
    return -(-config.total_frames // (config.num_envs * config.rollout_steps))


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it on the way."""


def killed_at(number, call):
    """`call`, in place of which the run is killed at the `number`th time."""
    count = itertools.count(1)

    def counted(*arguments, **options):
        if next(count) == number:
            raise Killed
        return call(*arguments, **options)

    return counted


def _remove(path, **options):
    if path.name.endswith(".removed"):
        raise Killed
    _RMTREE(path, **options)


_RMTREE = shutil.rmtree
# places in the code, and what is there when the run is killed
WRITING = ("rlpipe.pipelines.checkpoints.checkpoint.write_synced", "all files of a checkpoint but the last")
MOVING = ("rlpipe.pipelines.checkpoints.checkpoint.os.replace", "a whole checkpoint under another name")
WRITTEN = ("rlpipe.pipelines.runs.run.remove_old", "a checkpoint too many")


def go(folder, algorithm, config, kill=("", 0), *, interruption=None, make=None, during=None, start_from=None):
    """Train, or go on where there is a folder.

    Args:
        folder: of the run.
        algorithm: of `config`.
        config: of the run.
        kill: where (`collect`, `learn`, `evaluate`, `removing`, or a place in the code), and the how-manieth time.
        interruption: of `run_loop`.
        make: builds the pipeline.
        during: called with the pipeline before training.
        start_from: of the run.
    """
    place, number = kill
    resume = folder.exists()
    pipeline = (make or builder(algorithm))(config)

    def judge(episodes=config.eval_episodes):
        seed = Seeds(config.seed).integer("evaluation")
        return evaluate(pipeline.policy, config.eval_env, episodes=episodes, seed=seed, transforms=pipeline.transforms)

    with contextlib.ExitStack() as stack:
        stack.callback(pipeline.close)
        # as a session does; a loss may draw from the global generators
        stack.enter_context(GlobalRandom().kept(config.seed))
        kind = pipeline.environments and pipeline.environments.kind
        built_from = BuiltFrom(algorithm, config, environments=kind, start_from=start_from)
        run = stack.enter_context(contextlib.closing(Run(folder, "small", built_from=built_from, resume=resume)))
        inner = judge
        if place == "learn":
            pipeline.learn = killed_at(number, pipeline.learn)
        elif place == "collect":
            pipeline.collector._rollout = killed_at(number, pipeline.collector._rollout)
        elif place == "evaluate":
            inner = killed_at(number, judge)
        elif place == "removing":
            stack.enter_context(patch("rlpipe.pipelines.runs.best.shutil.rmtree", _remove))
        elif place:
            owner, _, name = place.rpartition(".")
            original = getattr(_find(owner), name)
            stack.enter_context(patch(place, killed_at(number, original)))
        if during is not None:
            during(pipeline)
        options = LoopOptions(
            evaluate=inner,
            eval_every=config.eval_every,
            checkpoint_every=config.checkpoint_every,
            stopping=config.stopping,
            log_every=config.log_every,
        )
        result = run_loop(pipeline, run, options, interruption)
        run.log_evaluation(result.frames, judge(3), seconds=result.seconds, final=True)
        return result


def _find(dotted):
    """A module, or a class in one."""
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        owner, _, name = dotted.rpartition(".")
        return getattr(_find(owner), name)


def killed(folder, algorithm, config, *kill, **options):
    """Train until the kill."""
    with pytest.raises(Killed):
        go(folder, algorithm, config, kill, **options)


def lengthened(config: Any, **changes: Any) -> Any:
    """The same config, but for some fields."""
    return config_from_json(type(config), {**vars(config), **changes})


class Whole:
    """Uninterrupted runs, each made once.

    Args:
        paths: pytest's `tmp_path_factory`.
    """

    def __init__(self, paths):
        self._paths, self._made = paths, {}

    def __call__(self, algorithm, config):
        """The folder of a run of a config."""
        if config not in self._made:
            self._made[config] = self._paths.mktemp("whole") / "run"
            go(self._made[config], algorithm, config)
        return self._made[config]


def text(folder, name):
    """What is in a journal."""
    return (folder / f"{name}.jsonl").read_text()


def interrupted(folder, algorithm, config, batch):
    """Train until the signal that comes while it learns from a batch."""
    interruption = Interruption()

    def during(pipeline):
        learn = pipeline.learn
        count = iter(range(1, 10_000))

        def learn_and_signal(batch_):
            if next(count) == batch:
                interruption.signal = signal.SIGTERM
            return learn(batch_)

        pipeline.learn = learn_and_signal

    with pytest.raises(InterruptedRunError, match="terminated at frame") as kept:
        go(folder, algorithm, config, interruption=interruption, during=during)
    assert kept.value.exit_code == 143
