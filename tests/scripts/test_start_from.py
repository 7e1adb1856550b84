"""`--start-from` and `--take`: from the options to the run folder, the table and another try."""

import json
from pathlib import Path

import pytest

from rlpipe import run_recipe, trained
from rlpipe.errors import ConfigError
from rlpipe.scripts.main import run

SHORT = ["--num-envs", "2", "--rollout-steps", "8", "--total-frames", "32", "--eval-every", "none", "--quiet"]
SHORT += ["--final-eval-episodes", "1", "--max-episode-steps", "8", "--hidden", "8"]
PPO = ["train", "ppo", *SHORT, "--minibatch-size", "8", "--epochs", "1"]
OWN = '''
"""A policy gradient of its own."""

from dataclasses import dataclass

import torch
from rlpipe import MLP, CategoricalActor, TrainConfig, gradient_step, make_pipeline, once, set_up
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase
from torchrl.objectives import LossModule


@dataclass(frozen=True)
class Config(TrainConfig):
    lr: float = 0.1


class Loss(LossModule):
    def __init__(self, actor, critic):
        super().__init__()
        self.actor, self.critic = actor, critic
        self.in_keys = ["observation", "action"]

    def forward(self, batch):
        log_prob = self.actor.get_dist(batch).log_prob(batch["action"])
        return TensorDict(loss_policy=-log_prob.mean(), loss_value=self.critic(batch["observation"]).square().mean())


def build(config):
    device, seeds, env = set_up(config)
    with seeds.torch_seeded("initialization"):
        actor = CategoricalActor(MLP(4, 2, (8,)), env.action_spec, seeds.generator("exploration"))
        loss = Loss(actor, MLP(4, 1, (8,)))
    learn = once(gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=config.lr)), keys=loss.in_keys)
    return make_pipeline(config, env, actor, learn, seeds)
'''


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def first():
    assert run([*PPO, "--run-dir", "first"]) == 0


def noted(folder):
    described = json.loads(Path(folder, "config.json").read_text())
    return described["start_from"], described.get("take")


def refused(capsys, *options):
    """What is said in one line; no folder is left."""
    before = sorted(Path().iterdir())
    capsys.readouterr()
    assert run([*PPO, "--run-dir", "new/run", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sorted(Path().iterdir()) == before
    return line


def test_what_does_not_fit_leaves_no_folder(first, capsys):
    told = refused(capsys, "--start-from", "first", "--env-id", "Acrobot-v1")
    assert told == "rlpipe: error: the policy of first reads observations [4], and Acrobot-v1 has [6]"
    assert "take is policy, which needs start-from" in refused(capsys, "--take", "policy")
    assert "take is 'policies'; there are" in refused(capsys, "--start-from", "first", "--take", "policies")
    assert "this run is without normalize_observation" in refused(
        capsys, "--start-from", "first", "--take", "policy", "statistics"
    )


def test_another_environment_and_another_of_evaluations(first, capsys):
    other = ["--env-id", "rlpipe/TorchCartPole-v0", "--eval-env-id", "CartPole-v0", "--start-from", "first@best"]
    assert run([*PPO, "--run-dir", "second", *other]) == 0
    assert noted("second") == ("first@best", None)


def test_the_parts_are_noted_and_make_a_row_of_the_table(first, capsys):
    start = ["--start-from", "first"]
    assert run([*PPO, "--run-dir", "whole", *start]) == 0
    assert run([*PPO, "--run-dir", "part", *start, "--take", "critic", "policy"]) == 0
    runs = ["first", "whole", "part"]
    assert [noted(each) for each in runs] == [(None, None), ("first", None), ("first", ["policy", "critic"])]
    capsys.readouterr()
    assert run(["table", *runs, "--json"]) == 0
    ends = [row["label"].rpartition("--epochs 1")[2].strip() for row in json.loads(capsys.readouterr().out)["rows"]]
    assert sorted(ends) == ["", "--start-from first", "--start-from first --take policy critic"]


def test_a_run_with_parts_is_resumed_and_keeps_them(first):
    assert run([*PPO, "--run-dir", "second", "--start-from", "first", "--take", "policy"]) == 0
    assert run(["resume", "second", "--total-frames", "64", "--quiet"]) == 0
    assert noted("second") == ("first", ["policy"])
    described = json.loads(Path("second/config.json").read_text())
    assert described["start_digest"]


def test_from_python(first):
    options = {"num_envs": 2, "rollout_steps": 8, "total_frames": 32, "eval_every": None, "final_eval_episodes": 1}
    options |= {"max_episode_steps": 8, "hidden": (8,), "minibatch_size": 8, "epochs": 1}
    summary = run_recipe("ppo", folder="second", start_from="first", take=("policy",), seed=1, **options)
    assert noted(summary["run"]) == ("first", ["policy"])
    with pytest.raises(ConfigError, match=r"reads observations \[4\], and Acrobot-v1 has \[6\]"):
        run_recipe("ppo", folder="third", start_from=Path("first"), env_id="Acrobot-v1", **options)
    with pytest.raises(ConfigError, match="take is policy, which needs start-from"):
        run_recipe("ppo", folder="third", take="policy", **options)
    assert not Path("third").exists()


@pytest.mark.slow
def test_seeds_take_the_parts_of_one_checkpoint(first, capsys):
    options = ["--seeds", "1,2", "--run-dir", "many", "--start-from", "first@best", "--take", "policy", "--json"]
    assert run([*PPO, *options]) == 0
    assert "--start-from first@best --take policy" in json.loads(capsys.readouterr().out)["row"]["label"]
    digests = {json.loads(Path("many", seed, "config.json").read_text())["start_digest"] for seed in "12"}
    assert len(digests) == 1
    assert noted("many/1") == noted("many/2") == ("first@best", ["policy"])


def test_an_algorithm_of_the_user(capsys):
    Path("own.py").write_text(OWN)
    short = ["--num-envs", "2", "--total-frames", "16", "--eval-every", "none", "--final-eval-episodes", "1", "--quiet"]
    assert run(["train", "own.py", *short, "--run-dir", "first"]) == 0
    start = ["--env-id", "rlpipe/TorchCartPole-v0", "--start-from", "first", "--lr", "1e-30"]
    assert run(["train", "own.py", *short, *start, "--run-dir", "second", "--take", "policy"]) == 0
    capsys.readouterr()
    assert run(["train", "own.py", *short, *start, "--env-id", "Acrobot-v1", "--run-dir", "third"]) == 2
    assert "the policy of first reads observations [4], and Acrobot-v1 has [6]" in capsys.readouterr().err
    assert noted("second") == ("first", ["policy"])
    states = []
    for folder in ("first", "second"):
        with trained(folder, trusted=["own.py"]) as agent:
            states.append(agent.policy.state_dict()["network.0.weight"])
    assert states[0].equal(states[1])
