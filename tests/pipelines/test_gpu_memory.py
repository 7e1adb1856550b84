"""A GPU that runs out of memory, wherever it does: one line that says what to make smaller, and what was kept."""

import itertools

import pytest
import torch
from torchrl.data import LazyTensorStorage

from rlpipe.errors import GPUMemoryError
from rlpipe.losses import GAE, A2CLoss, ClipPPOLoss, DQNLoss, ReinforceLoss
from rlpipe.modules import Categorical
from rlpipe.pipelines import session
from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.checkpoints.names import checkpoints
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.runs.run import Run
from rlpipe.pipelines.training.loop import train
from rlpipe.scripts.main import run

SMALL = ["--num-envs", "2", "--rollout-steps", "8", "--total-frames", "96", "--hidden", "4", "--max-episode-steps", "8"]
SMALL += ["--checkpoint-every", "32", "--eval-every", "1000", "--final-eval-episodes", "2", "--quiet"]
PPO = ["ppo", *SMALL, "--minibatch-size", "16"]
DQN = ["dqn", *SMALL, "--minibatch-size", "8", "--updates", "1", "--warmup-frames", "16", "--buffer-size", "64"]


def full(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of")


def from_the(number, call):
    """`call`, which from the `number`th time on finds the memory full."""
    count = itertools.count(1)

    def counted(*arguments, **options):
        if next(count) >= number:
            full()
        return call(*arguments, **options)

    return counted


def told(capfd, code, *arguments):
    """The line that a command ends with."""
    assert run([*arguments]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("rlpipe: error: the GPU ran out of memory for ")
    return err.removeprefix("rlpipe: error: the GPU ran out of memory for ").rstrip("\n")


BATCH = "lower --num-envs or --rollout-steps"
# the arguments; whose method, and at which call; what is told
CASES = {
    "collect": (PPO, SyncDataCollector, "_rollout", 4, f"the collection of a batch; {BATCH}"),
    "buffer": (DQN, LazyTensorStorage, "_init", 1, "the replay buffer; lower --buffer-size"),
    "advantage": (PPO, GAE, "forward", 4, f"the advantages of a batch; {BATCH}"),
    "ppo": (PPO, ClipPPOLoss, "forward", 9, "an update; lower --minibatch-size"),
    "dqn": (DQN, DQNLoss, "forward", 4, "an update; lower --minibatch-size"),
    "a2c": (["a2c", *SMALL], A2CLoss, "forward", 4, f"an update with a whole batch; {BATCH}"),
    "reinforce": (["reinforce", *SMALL], ReinforceLoss, "forward", 4, f"an update with whole episodes; {BATCH}"),
    # in a call whose own errors are told as the action's
    "actor": (["a2c", *SMALL], Categorical, "log_prob", 1, f"the collection of a batch; {BATCH}"),
    "evaluate": ([*PPO, "--eval-every", "48"], session, "evaluate", 1, "an evaluation; lower --eval-episodes"),
    "final": (PPO, session, "evaluate", 1, "the final evaluation; lower --final-eval-episodes"),
    "elsewhere": (
        PPO,
        Run,
        "checkpoint",
        2,
        "training; lower --num-envs, --rollout-steps, --minibatch-size or --hidden",
    ),
}
NOTHING_YET = ("buffer", "actor")


@pytest.mark.parametrize("name", CASES)
def test_training_ends_with_one_line(name, tmp_path, monkeypatch, capfd):
    arguments, owner, method, number, expected = CASES[name]
    monkeypatch.setattr(owner, method, from_the(number, getattr(owner, method)))
    line = told(capfd, 1, "train", *arguments, "--run-dir", str(tmp_path / "run"))
    what, _, kept = line.rpartition("; ")
    assert what == expected
    newest = checkpoints(tmp_path / "run")
    assert bool(newest) == (name not in NOTHING_YET)
    assert kept == (f"the last good checkpoint is {newest[0]}" if newest else "there is no checkpoint yet")


def test_the_loss_tells_of_memory_and_not_of_the_action(tmp_path, monkeypatch, capfd):
    log_prob = Categorical.log_prob

    def while_learning(self, value):
        return full() if torch.is_grad_enabled() else log_prob(self, value)

    monkeypatch.setattr(Categorical, "log_prob", while_learning)
    line = told(capfd, 1, "train", *PPO, "--run-dir", str(tmp_path / "run"))
    assert line == "an update; lower --minibatch-size; there is no checkpoint yet"


def test_networks_that_are_too_large_leave_nothing_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(ppo, "make_critic", full)
    assert told(capfd, 1, "train", *PPO, "--run-dir", str(tmp_path / "run")) == "the networks; lower --hidden"
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_be_loaded_keeps_its_checkpoints(tmp_path, monkeypatch, capfd):
    assert run(["train", *DQN, "--run-dir", str(tmp_path / "run")]) == 0
    capfd.readouterr()
    before = checkpoints(tmp_path / "run")
    monkeypatch.setattr(LazyTensorStorage, "_init", full)
    line = told(capfd, 1, "resume", str(tmp_path / "run"), "--total-frames", "200", "--quiet")
    assert line == f"the replay buffer; lower --buffer-size; the last good checkpoint is {before[0]}"
    # taken for one that does not fit, a checkpoint would be put aside
    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", full)
    line = told(capfd, 1, "resume", str(tmp_path / "run"), "--total-frames", "200", "--quiet")
    assert line.startswith("training; lower --num-envs, ")
    assert line.endswith(f"; the last good checkpoint is {before[0]}")
    assert checkpoints(tmp_path / "run") == before


def test_without_a_run_there_is_no_checkpoint_to_tell_of(monkeypatch):
    pipeline = ppo.build(ppo.Config(num_envs=2, rollout_steps=8, minibatch_size=8, total_frames=32))
    monkeypatch.setattr(ClipPPOLoss, "forward", full)
    with pytest.raises(
        GPUMemoryError, match="^the GPU ran out of memory for an update; lower --minibatch-size$"
    ) as kept:
        train(pipeline)
    pipeline.close()
    assert isinstance(kept.value.__cause__, torch.OutOfMemoryError)
