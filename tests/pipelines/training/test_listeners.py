"""Listeners at the moments of the loop: what they see, change, log and save, and how they end a run."""

import contextlib
import functools
import json
import math

import numpy as np
import pytest
import torch
from comparing import fingerprint
from resuming import go, killed, make_config

from rlpipe import StopTraining
from rlpipe.errors import CheckpointError, ConfigError, TrainingError
from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.checkpoints.checkpoint import read_manifest
from rlpipe.pipelines.checkpoints.names import newest_checkpoint
from rlpipe.pipelines.progress import Evaluation
from rlpipe.pipelines.runs.run import BuiltFrom, Run
from rlpipe.pipelines.training.listeners import Listeners
from rlpipe.pipelines.training.loop import LoopOptions, _Loop, train

SMALL = {"total_frames": 512, "num_envs": 4, "rollout_steps": 32, "minibatch_size": 64, "hidden": (16,)}


def judge():
    return Evaluation((1.0,), (1,))


def trained(folder=None, listeners=(), own=(), resume=False, **options):
    """Train `ppo` for four batches, with the pipeline's `own` listeners and others."""
    config = ppo.Config(**SMALL)
    with contextlib.closing(ppo.build(config)) as pipeline, contextlib.ExitStack() as stack:
        pipeline.listeners = own
        run = None
        if folder is not None:
            run = stack.enter_context(Run(folder, "ppo", built_from=BuiltFrom("ppo", config), resume=resume))
            options = {"checkpoint_every": 256, **options}
        return train(pipeline, run, evaluate=judge, eval_every=256, listeners=listeners, **options)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Counting:
    """Counts moments of a kind, and keeps the count in checkpoints."""

    def __init__(self, stage="learned"):
        self.stage, self.count, self.tensor = stage, 0, torch.zeros(2)

    def __call__(self, moment):
        if moment.stage == self.stage:
            self.count += 1
            self.tensor += self.count
            moment.scalars["count"] = self.count

    def state_dict(self):
        return {"count": self.count, "tensor": self.tensor}

    def load_state_dict(self, state):
        self.count, self.tensor = state["count"], state["tensor"]


def test_they_are_called_at_each_moment(tmp_path):
    told = []

    def tell(moment):
        told.append((moment.stage, moment.frames, moment.updates))
        assert moment.total_frames == 512
        assert moment.run == tmp_path / "run"
        assert (moment.batch is not None) == (moment.stage in ("collected", "learned"))
        assert (moment.evaluation is not None) == (moment.stage == "evaluated")
        assert moment.batch is None or moment.batch.shape == (4, 32)
        assert moment.pipeline.policy.in_keys == ["observation"]

    trained(tmp_path / "run", [tell])
    both = [("collected", 128, 0), ("learned", 128, 8), ("collected", 256, 8), ("learned", 256, 16)]
    due = [("evaluated", 256, 16), ("checkpointed", 256, 16)]
    later = [("collected", 384, 16), ("learned", 384, 24), ("collected", 512, 24), ("learned", 512, 32)]
    end = [("evaluated", 512, 32), ("checkpointed", 512, 32), ("ended", 512, 32)]
    assert told == [("started", 0, 0), *both, *due, *later, *end]


def test_those_of_the_pipeline_come_first():
    told = []
    trained(listeners=[lambda _: told.append("train")], own=(lambda _: told.append("pipeline"),))
    assert told[:4] == ["pipeline", "train"] * 2


def test_without_any_nothing_is_built():
    with contextlib.closing(ppo.build(ppo.Config(**SMALL))) as pipeline:
        loop = _Loop(pipeline, None, LoopOptions())
        assert loop.audience.listeners is None
        assert "listeners" not in loop.state


def test_a_batch_may_be_changed_before_it_is_learned_from():
    seen = []

    def change(moment):
        if moment.stage == "collected":
            moment.batch["next", "reward"].fill_(7.0)
        elif moment.stage == "learned":
            seen.append(moment.batch["next", "reward"].unique().tolist())

    def replace(moment):
        if moment.stage == "collected":
            moment.batch = moment.batch.clone().set(("next", "reward"), torch.full((4, 32, 1), 9.0))

    means = []
    result = trained(listeners=[change], progress=lambda now: means.extend(now.returns))
    assert seen == [[7.0]] * 4
    # returns are the environment's own
    assert sum(means) / len(means) < 100
    assert result.episodes == len(means)
    trained(listeners=[replace, change, replace])
    assert seen[4:] == [[9.0]] * 4


def test_numbers_that_are_added_are_logged(tmp_path):
    values = iter([1, np.float32(2.5), torch.tensor([3.0]), True] * 4)

    def add(moment):
        if moment.stage == "learned":
            moment.scalars["mine"] = next(values)
            moment.scalars.pop("entropy")

    trained(tmp_path / "run", [add])
    found = rows(tmp_path / "run")
    assert [row["mine"] for row in found] == [1.0, 2.5, 3.0, 1.0]
    assert all("entropy" in row for row in found)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"mine": "high"}, r"the listener add sets scalars\['mine'\] to 'high'; expected a number"),
        ({"mine": torch.zeros(3)}, r"the listener add sets scalars\['mine'\] to tensor.*; expected a number"),
        ({"updates": 3}, r"the listener add sets scalars\['updates'\], a name that lines of metrics use themselves"),
        ({7: 1.0}, r"the listener add sets scalars\[7\], a name"),
    ],
)
def test_what_is_no_number_is_refused_after_a_checkpoint(tmp_path, value, message):
    def add(moment):
        if moment.stage == "learned" and moment.frames == 384:
            moment.scalars.update(value)

    with pytest.raises(ConfigError, match=message):
        trained(tmp_path / "run", [add])
    assert newest_checkpoint(tmp_path / "run").name == "frames-000000000384"
    assert trained(tmp_path / "run", [add], resume=True).frames == 512


def test_a_number_that_is_not_finite_stops_training():
    def add(moment):
        moment.scalars["mine"] = math.nan

    with pytest.raises(TrainingError, match="training stopped at frame 128: mine is nan"):
        trained(listeners=[add])


@pytest.mark.parametrize("answer", [False, StopTraining("enough"), StopTraining()], ids=repr)
@pytest.mark.parametrize(
    ("stage", "frames"), [("started", 0), ("collected", 128), ("learned", 128), ("evaluated", 256)]
)
def test_a_run_ends_by_choice(tmp_path, stage, frames, answer):
    told = []

    def choose(moment):
        told.append(moment.stage)
        if moment.stage == stage:
            if isinstance(answer, Exception):
                raise answer
            return answer
        return None

    # what another one answers does not matter
    result = trained(tmp_path / "run", [choose, lambda _: None])
    assert (result.frames, result.stopped_by) == (frames, str(answer) if str(answer) == "enough" else "choose")
    assert told[-2:] == ["checkpointed", "ended"]
    assert newest_checkpoint(tmp_path / "run").name == f"frames-{frames:012d}"


@pytest.mark.parametrize("stage", ["started", "collected", "learned", "evaluated", "checkpointed", "ended"])
def test_what_one_raises_is_raised_after_a_checkpoint(tmp_path, stage):
    def fail(moment):
        if moment.stage == stage:
            raise KeyError("mine")

    told = []
    with pytest.raises(KeyError, match="mine"):
        trained(tmp_path / "run", [fail, lambda moment: told.append(moment.stage)])
    # the others are still called
    assert stage in told
    assert newest_checkpoint(tmp_path / "run") is not None


def test_states_resume_to_the_bit(tmp_path):
    config, kept = make_config("ppo", "cartpole"), []

    def during(pipeline):
        kept.append(Counting())
        pipeline.listeners = [kept[-1], functools.partial(print, end="")]

    go(tmp_path / "whole", "ppo", config, during=during)
    killed(tmp_path / "killed", "ppo", config, "learn", 8, during=during)
    go(tmp_path / "killed", "ppo", config, during=during)
    assert (kept[0].count, kept[1].count, kept[2].count) == (12, 7, 12)
    assert torch.equal(kept[0].tensor, kept[2].tensor)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
    held = read_manifest(newest_checkpoint(tmp_path / "whole"))["components"]["listeners"]
    assert "Counting" in json.dumps(held)
    assert "print" in json.dumps(held)


def test_other_listeners_are_named(tmp_path):
    def first(_):
        return None

    def other(_):
        return None

    trained(tmp_path / "run", [first, Counting()])
    for listeners, message in (
        (
            [other, Counting()],
            "does not fit: the run had the listeners first, Counting; now other, Counting",
        ),
        ([Counting()], "the run had the listeners first, Counting; now Counting"),
        ([], r"was written by a run with listeners, and there are none now; give the same ones to train"),
    ):
        with pytest.raises(CheckpointError, match=message):
            trained(tmp_path / "run", listeners, resume=True)
    trained(tmp_path / "without", [])
    with pytest.raises(CheckpointError, match="by a run without listeners, and there are some now"):
        trained(tmp_path / "without", [first], resume=True)


def test_what_is_no_listener_is_refused():
    class Half:
        def __call__(self, moment):
            return None

        def state_dict(self):
            return {}

    with pytest.raises(ConfigError, match="a listener is 'print'; expected a function of one argument, the moment"):
        trained(listeners=["print"])
    with pytest.raises(ConfigError, match="the listener Half needs both of state_dict and load_state_dict, or neither"):
        trained(listeners=[Half()])


def test_a_state_that_cannot_be_saved_is_refused_before_training(tmp_path):
    listener = Counting()
    listener.count = object()
    with pytest.raises(CheckpointError, match="component 'listeners' cannot be saved"):
        trained(tmp_path / "run", [listener])
    assert Listeners([Counting()]).state_dict()["names"] == ["Counting"]
