"""Numbers that change during training: set before each batch, followed by recordings, exact on resume."""

import contextlib
import json

import pytest
import torch
from comparing import fingerprint
from resuming import batches, go, killed, make_config
from small_losses import ACTIONS, make_network, random_batch
from torch import nn
from torchrl.objectives import ClipPPOLoss as StockClipPPOLoss

from rlpipe import schedule
from rlpipe.errors import ConfigError
from rlpipe.losses import GAE, A2CLoss, ClipPPOLoss, DQNLoss, QRDQNLoss, ReinforceLoss, TargetUpdate
from rlpipe.modules import CategoricalActor, Critic, Exponential, Linear, QActor, QuantileActor
from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.training.loop import train
from rlpipe.pipelines.training.schedules import set_number
from rlpipe.pipelines.updates import compiler
from rlpipe.pipelines.updates.recorder import make_gradient

SMALL = {"total_frames": 512, "num_envs": 4, "rollout_steps": 32, "minibatch_size": 64, "hidden": (16,)}


def make_actor_critic():
    return CategoricalActor(make_network(3, 1), ACTIONS), Critic(make_network(1, 2))


def make_q_loss():
    return DQNLoss(QActor(make_network(3, 1), ACTIONS), gamma=0.9, n_step=False)


def q_batch(size):
    batch = random_batch(size)
    after = random_batch(size, seed=1).select("observation")
    after["reward"], after["terminated"] = torch.ones(size, 1), torch.zeros(size, 1, dtype=torch.bool)
    return batch.set("next", after)


PPO = {"clip": 0.2, "value_clip": 0.3, "value_coefficient": 0.5, "entropy_coefficient": 0.01}
LOSSES = {
    "ppo": (lambda: ClipPPOLoss(*make_actor_critic(), **PPO), list(PPO)),
    "a2c": (lambda: A2CLoss(*make_actor_critic()), ["value_coefficient", "entropy_coefficient"]),
    "reinforce": (lambda: ReinforceLoss(*make_actor_critic()), ["value_coefficient", "entropy_coefficient"]),
    "dqn": (make_q_loss, ["gamma"]),
    "qr-dqn": (lambda: QRDQNLoss(QuantileActor(make_network(6, 1), ACTIONS, 2)), ["gamma", "kappa"]),
}


@pytest.mark.parametrize("execution", ["eager", "recorded", "compiled"])
@pytest.mark.parametrize(("loss", "name"), [(loss, name) for loss, (_, names) in LOSSES.items() for name in names])
def test_a_number_of_a_loss_is_followed_by_its_recording(loss, name, execution, monkeypatch):
    # what is compiled are the operations of the same recording
    monkeypatch.setattr(compiler, "compile_graph", lambda graph, inputs: graph)
    make, _ = LOSSES[loss]
    scheduled, plain = make(), make()
    batch = q_batch(32) if "dqn" in loss else random_batch(32)
    gradients = [
        make_gradient(each, list(each.parameters()), how) for each, how in ((scheduled, execution), (plain, "eager"))
    ]
    changed = set()
    for value in torch.linspace(0.5, 0.05, 40).tolist():
        set_number(scheduled, name, value)
        setattr(plain, name, value)
        (got, terms), (expected, others) = (each(batch.clone()) for each in gradients)
        torch.testing.assert_close(
            [each for each in got if each is not None], [each for each in expected if each is not None]
        )
        torch.testing.assert_close(terms, others)
        changed.add(tuple(term.item() for term in others.values()))
    assert len(changed) > 20
    assert execution == "eager" or len(gradients[0]._recordings) == 1
    # as before, nothing of it is in a checkpoint
    assert scheduled.state_dict().keys() == plain.state_dict().keys()


def test_a_stock_losss_number_is_a_tensor_already():
    actor, critic = make_actor_critic()
    loss = StockClipPPOLoss(actor, critic, clip_epsilon=0.2)
    held = loss.clip_epsilon
    schedule(loss, "clip_epsilon", Linear(0.3, 0.0, frames=10))
    set_number(loss, "clip_epsilon", 0.1)
    assert loss.clip_epsilon is held
    assert held.item() == pytest.approx(0.1)


def test_each_batch_has_its_value_in_the_metrics():
    config = ppo.Config(**SMALL)
    with contextlib.closing(ppo.build(config)) as pipeline:
        loss, optimizer = pipeline.state["loss"], pipeline.state["optimizer"]
        gae, seen = GAE(loss.critic), []
        listeners = [
            schedule(loss, "clip", Linear(0.2, 0.0, frames=512)),
            schedule(optimizer, "lr", lambda frames, episodes: 1e-3 if frames < 256 else 1e-4, label="rate"),
            schedule(gae, "gamma", Exponential(0.9, 0.99, decay=200)),
            lambda now: seen.append(dict(now.scalars)) if now.stage == "learned" else None,
        ]
        train(pipeline, listeners=listeners)
    assert [each["clip"] for each in seen] == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert [each["rate"] for each in seen] == [1e-3, 1e-3, 1e-4, 1e-4]
    # what the algorithm itself says is that of the update, too
    assert [each["learning_rate"] for each in seen] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert seen[0]["gamma"] == pytest.approx(0.9)
    assert gae.gamma == pytest.approx(0.99 - 0.09 * 2.718281828 ** (-512 / 200))
    assert loss.clip.item() == 0.0


def test_whole_numbers_are_rounded_and_groups_change_together():
    network = nn.Linear(2, 1)
    update = TargetUpdate(network, nn.Linear(2, 1), tau=0.5, every=2)
    set_number(update, "tau", 0.25)
    assert update.tau == 0.25
    moments = iter([("started", 0), ("learned", 10)])
    tell = schedule(update, "every", lambda frames, _: 3.7 if frames else 1.2)

    class Now:
        scalars = {}
        episodes = 0

    for Now.stage, Now.frames in moments:
        tell(Now)
    assert update.every == 4
    assert Now.scalars == {"every": 1}
    # what learning has returned under this name stays, such as `epochs` with `target_kl`
    tell(Now)
    assert Now.scalars == {"every": 1}
    optimizer = torch.optim.Adam([{"params": [network.weight]}, {"params": [network.bias], "lr": torch.tensor(1.0)}])
    set_number(optimizer, "lr", 0.5)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.5, 0.5]


def test_a_run_resumes_to_the_bit_with_its_schedules(tmp_path):
    config = make_config("ppo", "cartpole")

    def during(pipeline):
        loss, optimizer = pipeline.state["loss"], pipeline.state["optimizer"]
        pipeline.listeners = [
            schedule(loss, "clip", Linear(0.3, 0.0, frames=config.total_frames)),
            schedule(optimizer, "eps", lambda frames, episodes: 1e-5 * (1 + episodes)),
        ]

    go(tmp_path / "whole", "ppo", config, during=during)
    killed(tmp_path / "killed", "ppo", config, "learn", int(0.7 * batches(config)), during=during)
    go(tmp_path / "killed", "ppo", config, during=during)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
    last = json.loads((tmp_path / "whole/metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["clip"] < 0.1


def test_what_has_no_such_number_is_refused():
    loss = ClipPPOLoss(*make_actor_critic())
    with pytest.raises(ConfigError, match="ClipPPOLoss has no number 'clipp'; did you mean clip?"):
        schedule(loss, "clipp", Linear(0.2, 0.0, 10))
    with pytest.raises(ConfigError, match="ClipPPOLoss has value_clip None; make it with the first value"):
        schedule(loss, "value_clip", Linear(0.2, 0.0, 10))
    with pytest.raises(ConfigError, match="Adam has no number 'learning_rate'; there are lr, "):
        schedule(torch.optim.Adam(loss.parameters()), "learning_rate", Linear(0.2, 0.0, 10))
    with contextlib.closing(ppo.build(ppo.Config(**SMALL))) as pipeline:
        tell = schedule(pipeline.state["loss"], "clip", lambda frames, _: float("nan"))
        with pytest.raises(ConfigError, match="the schedule of clip gives nan at frame 0"):
            train(pipeline, listeners=[tell])
