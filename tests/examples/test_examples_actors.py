"""The examples with custom losses, with TorchRL's parts and with Optuna: each learns as it says."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from rlpipe.modules import MLP, ActionValueCritic, CategoricalActor, Critic, GaussianActor
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.updates.update import gradient_step

FOLDER = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sac_batch(size=16):
    draw = torch.Generator().manual_seed(0)
    observation, after, action = (torch.randn(size, n, generator=draw) for n in (3, 3, 1))
    reward, terminated = torch.randn(size, 1, generator=draw), torch.rand(size, 1, generator=draw) < 0.5
    following = TensorDict(observation=after, reward=reward, terminated=terminated, batch_size=[size])
    return TensorDict(observation=observation, action=action.clamp(-2, 2), next=following, batch_size=[size])


def make_sac_loss():
    torch.manual_seed(0)
    spec = make_env(EnvConfig("Pendulum-v1", 4), seed=0).action_spec
    actor = GaussianActor(MLP(3, 2, (16,)), spec, state_dependent_std=True)
    critics = torch.nn.ModuleList(ActionValueCritic(MLP(4, 1, (16,)), spec) for _ in range(2))
    return load("sac").SACLoss(actor, critics)


def test_each_of_the_three_losses_reaches_its_own_parameters_only():
    loss = make_sac_loss()
    owners = {"loss_q": "critics.", "loss_actor": "actor.", "loss_alpha": "log_alpha"}
    for term, owner in owners.items():
        loss.zero_grad()
        loss(sac_batch())[term].backward()
        reached = {name for name, each in loss.named_parameters() if each.grad is not None and each.grad.any()}
        assert reached == {name for name, _ in loss.named_parameters() if name.startswith(owner)}, term


def test_the_target_of_q_by_hand():
    """What is terminal has no value; a truncation has, since nothing but `terminated` is read."""
    loss, batch = make_sac_loss(), sac_batch()
    with torch.no_grad():
        loss.log_alpha.fill_(-1.0)
        torch.manual_seed(1)
        action, log_prob = loss.actor.get_dist(batch["next"]).rsample_and_log_prob()
        values = [each.compute(batch["next", "observation"], action)[0].squeeze(-1) for each in loss.targets]
        soft = torch.minimum(*values) - torch.tensor(-1.0).exp() * log_prob
        reward, terminated = (batch["next", key].squeeze(-1) for key in ("reward", "terminated"))
        target = torch.where(terminated, reward, reward + 0.99 * soft)
        errors = [each.compute(batch["observation"], batch["action"])[0].squeeze(-1) - target for each in loss.critics]
        torch.manual_seed(1)
        torch.testing.assert_close(loss(batch)["loss_q"], sum(error.square().mean() for error in errors))


def test_one_optimizer_on_the_sum_is_three_optimizers():
    together, apart = make_sac_loss(), make_sac_loss()
    update = gradient_step(together, torch.optim.Adam(together.parameters(), lr=0.01))
    parts = {"loss_q": [*apart.critics.parameters()], "loss_actor": [*apart.actor.parameters()]}
    parts = {**parts, "loss_alpha": [apart.log_alpha]}
    optimizers = {term: torch.optim.Adam(parameters, lr=0.01) for term, parameters in parts.items()}
    for seed in range(3):
        torch.manual_seed(seed)
        update(sac_batch())
        torch.manual_seed(seed)
        terms = apart(sac_batch())
        for term, optimizer in optimizers.items():
            optimizer.zero_grad()
            terms[term].backward()
        for optimizer in optimizers.values():
            optimizer.step()
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["sac", "ppo_kl"])
def test_a_recorded_loss_is_the_same_to_the_bit(name):
    ends = []
    for execution in ("eager", "recorded"):
        if name == "sac":
            loss, batch = make_sac_loss(), sac_batch()
        else:
            loss, batch = make_kl_loss()
        update = gradient_step(loss, torch.optim.Adam(loss.parameters(), lr=0.01), execution=execution)
        torch.manual_seed(1)
        for number in range(30):
            if name == "ppo_kl" and number % 5 == 0:
                loss.adapt(batch)
            update(batch)
        ends.append(torch.cat([each.detach().flatten() for each in loss.state_dict().values()]))
    assert torch.equal(*ends)


def make_kl_loss():
    torch.manual_seed(0)
    spec = make_env(EnvConfig("CartPole-v1", 4), seed=0).action_spec
    actor, critic = CategoricalActor(MLP(4, 2, (16,)), spec), Critic(MLP(4, 1, (16,)))
    batch = TensorDict(observation=torch.randn(16, 4), batch_size=[16])
    batch = actor(batch).detach().update({"advantage": torch.randn(16, 1), "value_target": torch.randn(16, 1)})
    return load("ppo_kl").KLPenaltyPPOLoss(actor, critic), batch


@pytest.mark.parametrize(("share", "beta"), [(1.6, 2.0), (1.4, 1.0), (1 / 1.4, 1.0), (1 / 1.6, 0.5)])
def test_the_coefficient_doubles_above_its_target_and_halves_below(share, beta):
    """Section 4 of the paper: by 1.5 times the target, and by its share of 1.5."""
    loss, batch = make_kl_loss()
    batch["action_log_prob"] -= 0.1
    kl = torch.tensor(0.1).expm1() - 0.1
    assert loss.adapt(batch, float(kl) / share) == beta


def test_the_page_about_them_shows_what_runs(own_ids):
    page = (FOLDER.parent / "docs" / "compose.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(block, {"__name__": "page"})
    block = next(each for each in blocks if "    def forward" in each)
    forward = block[block.index("    def forward") :].strip()
    assert forward in (FOLDER / "ppo_kl.py").read_text()


def test_without_optuna_its_example_says_so_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match=r'optuna_search.py needs optuna: pip install "rlpipe\[optuna\]"'):
        load("optuna_search")


@pytest.mark.slow
@pytest.mark.learning
def test_sac_learns_pendulum():
    assert load("sac").main().mean > -220


@pytest.mark.learning
def test_ppo_with_a_kl_penalty_learns_cartpole():
    assert load("ppo_kl").main().mean > 400


@pytest.mark.slow
@pytest.mark.learning
# TorchRL's trainer about its own hook
@pytest.mark.filterwarnings("ignore:The 'post_loss' hook stage:FutureWarning")
def test_losses_exchanged_with_torchrl_learn_cartpole():
    inside, outside = load("torchrl_exchange").main()
    assert inside.mean > 150
    assert outside.mean > 150


@pytest.mark.slow
@pytest.mark.learning
def test_the_search_finds_the_learning_rate_that_learns(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    search = load("optuna_search")
    means = search.main(seeds=2, rates=(1e-6, 1e-3))
    assert means[1e-3] > 250
    assert "best is lr 0.001" in capsys.readouterr().out
    # once more into a folder of its own
    search.main(seeds=1, rates=(1e-3,), total_frames=1024)
    assert len(list((tmp_path / "runs" / "optuna").iterdir())) == 2
