"""What people are told who compose something that does not fit: what was found, what was expected, what to do."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Composite, LazyTensorStorage, NonTensor, OneHot, ReplayBuffer, Unbounded
from torchrl.data.replay_buffers import SamplerWithoutReplacement

from rlpipe.errors import ConfigError
from rlpipe.losses import GAE, A2CLoss, ClipPPOLoss, DQNLoss
from rlpipe.modules import (
    MLP,
    ActionValueTable,
    CategoricalActor,
    Critic,
    EpsilonGreedy,
    GaussianActor,
    QActor,
    encoder,
    make_schedule,
)
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.updates.learning import off_policy, on_policy, once
from rlpipe.pipelines.updates.update import gradient_step

CART = make_env(EnvConfig("CartPole-v1", 2), seed=0)
PENDULUM = make_env(EnvConfig("Pendulum-v1", 2), seed=0)
ACTOR, Q = (kind(MLP(4, 2, (4,)), CART.action_spec) for kind in (CategoricalActor, QActor))
CRITIC = Critic(MLP(4, 1, (4,)))
SCHEDULE = make_schedule("linear", 1.0, 0.1, frames=10, factor=1.0)


def batch(**entries):
    """Three samples, with other entries."""
    sound = {key: torch.zeros(3, 1) for key in ("advantage", "value_target")}
    sound |= {"observation": torch.zeros(3, 4), "action": torch.zeros(3, dtype=torch.int64)}
    after = {"observation": torch.zeros(3, 4), "reward": torch.zeros(3, 1), "terminated": torch.zeros(3, 1).bool()}
    entries = {**sound, "action_log_prob": torch.zeros(3), "next": after, **entries}
    return TensorDict({key: value for key, value in entries.items() if value is not None}, [3])


def collect(policy, env=CART):
    options = {"frames_per_batch": 4, "total_frames": 4, "auto_register_policy_transforms": False}
    return list(SyncDataCollector(env, policy, **options))


def buffer(size, **options):
    return ReplayBuffer(storage=LazyTensorStorage(size), batch_size=2, **options)


def writes(value):
    return TensorDictModule(lambda _: value, ["observation"], ["action"])


class NoLoss(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name, self.layer = name, nn.Linear(4, 1)

    def forward(self, minibatch):
        # one entry that is a loss by its name alone, or one that is a loss but by its name
        value = self.layer(minibatch["observation"]).mean()
        return TensorDict({self.name: value.detach() if self.name.startswith("loss") else value})


def step(loss, parameters=None):
    return gradient_step(loss, torch.optim.SGD(parameters or loss.parameters(), lr=0.1))(batch())


def table():
    return QActor(ActionValueTable(4, 2), CART.action_spec)(CART.reset())


DISCRETE = "needs Discrete actions (a Categorical spec), got "
MESSAGES = {
    "q on box": (
        lambda: QActor(MLP(3, 1), PENDULUM.action_spec),
        ValueError,
        [f"QActor {DISCRETE}Bounded", "GaussianActor"],
    ),
    "q on one-hot": (
        lambda: QActor(MLP(3, 1), OneHot(2)),
        ValueError,
        ["got OneHot", "categorical_action_encoding=True"],
    ),
    "q on all": (
        lambda: QActor(MLP(4, 2), CART.full_action_spec),
        ValueError,
        ["got Composite", "pass env.action_spec"],
    ),
    "categorical": (lambda: CategoricalActor(MLP(3, 1), PENDULUM.action_spec), ValueError, ["there is GaussianActor"]),
    "gauss": (
        lambda: GaussianActor(MLP(4, 2), CART.action_spec),
        ValueError,
        ["got Categorical", "is CategoricalActor"],
    ),
    "integers": (
        lambda: GaussianActor(MLP(4, 2), Unbounded((2, 1), dtype=torch.int64)),
        ValueError,
        ["got Unbounded", "of torch.int64", "pass env.action_spec"],
    ),
    "epsilon": (
        lambda: EpsilonGreedy(PENDULUM.action_spec, SCHEDULE),
        ValueError,
        [f"EpsilonGreedy {DISCRETE}", "its own"],
    ),
    "schedule": (
        lambda: make_schedule("x", 1, 0, frames=1, factor=1),
        ValueError,
        ["kind is 'x'; allowed are 'linear', "],
    ),
    "activation": (
        lambda: MLP(4, 2, activation="gelu"),
        ValueError,
        ["activation is 'gelu'; allowed are 'relu', 'tanh'"],
    ),
    "initialization": (
        lambda: MLP(4, 2, initialization="x"),
        ValueError,
        ["initialization is 'x'; allowed are 'default'"],
    ),
    "encoder": (
        lambda: encoder(Composite(told=NonTensor((2,)), shape=(2,))),
        ValueError,
        ["encoder takes Box, Discrete, MultiDiscrete and MultiBinary", "'told' is text", "leave it out by a wrapper"],
    ),
    "inputs": (
        lambda: collect(CategoricalActor(MLP(5, 2), CART.action_spec)),
        ValueError,
        [
            "the network of CategoricalActor cannot take key 'observation' of shape [2, 4] and dtype torch.float32",
            "encoder",
        ],
    ),
    "logits": (
        lambda: collect(CategoricalActor(MLP(4, 3), CART.action_spec)),
        ValueError,
        ["the network of CategoricalActor gives 3 numbers, expected 2: one an action"],
    ),
    "values": (
        lambda: collect(QActor(MLP(4, 3), CART.action_spec)),
        ValueError,
        ["QActor gives 3 numbers, expected 2"],
    ),
    "means": (
        lambda: collect(GaussianActor(MLP(3, 1), PENDULUM.action_spec, state_dependent_std=True), PENDULUM),
        ValueError,
        ["GaussianActor gives 1 numbers, expected 2 for actions of shape [1] with a standard deviation each"],
    ),
    "no observation": (
        lambda: ACTOR(TensorDict({"pixels": torch.zeros(2, 4)}, [2])),
        KeyError,
        ["CategoricalActor reads key 'observation', and the TensorDict has only ['pixels']"],
    ),
    "table": (table, ValueError, ["a table needs Discrete observations, got dtype torch.float32", "BinObservation"]),
    "in_keys": (
        lambda: collect(TensorDictModule(nn.Linear(4, 2), ["pixels"], ["action"])),
        ConfigError,
        [
            "the policy TensorDictModule reads ['pixels'], which the environment does not have; it has [",
            "'observation'",
        ],
    ),
    "unmasked": (
        lambda: collect(CategoricalActor(MLP(4, 2), CART.action_spec, masked=True)),
        ConfigError,
        ["reads ['action_mask'], which the environment does not have"],
    ),
    "no env": (lambda: collect(ACTOR, EnvConfig("CartPole-v1")), ConfigError, ["got a EnvConfig; pass make_env(...)"]),
    "action shape": (
        lambda: collect(writes(torch.zeros(2, 1, dtype=torch.int64))),
        ConfigError,
        ["the policy's action has shape [2, 1], expected [2]: one of Discrete(2) for each of 2 environments"],
    ),
    "column": (
        lambda: A2CLoss(ACTOR, CRITIC)(batch(advantage=torch.zeros(3))),
        ValueError,
        ["key 'advantage' has shape [3], expected [3, 1] in a batch of shape [3]", "unsqueeze(-1)"],
    ),
    "log_prob": (
        lambda: ClipPPOLoss(ACTOR, CRITIC)(batch(action_log_prob=torch.zeros(3, 1))),
        ValueError,
        ["key 'action_log_prob' has shape [3, 1], expected [3]: one number a sample"],
    ),
    "no action": (
        lambda: DQNLoss(Q)(batch(action=None)),
        KeyError,
        ["the batch has no key 'action'; it has ", "next.reward"],
    ),
    "unobserved": (
        lambda: DQNLoss(Q)(batch(observation=None)),
        KeyError,
        ["the batch has no key 'observation'; it has "],
    ),
    "blind actor": (
        lambda: A2CLoss(ACTOR, CRITIC)(batch(observation=None)),
        KeyError,
        ["no key 'observation'; it has "],
    ),
    "no values": (
        lambda: DQNLoss(CRITIC)(batch()),
        KeyError,
        ["no key 'action_value'; it has observation, state_value"],
    ),
    "float action": (
        lambda: A2CLoss(ACTOR, CRITIC)(batch(action=torch.zeros(3))),
        ValueError,
        ["key 'action' of shape [3] and dtype torch.float32 has no log-probability under CategoricalActor: "],
    ),
    "no actor": (lambda: A2CLoss(Q, CRITIC)(batch()), TypeError, ["the actor is a QActor, which has no get_dist"]),
    "gae": (lambda: GAE(CRITIC)(batch()), KeyError, ["GAE reads key ('next', 'done'), which the batch does not have"]),
    "gae column": (
        lambda: GAE(CRITIC)(
            batch(
                next=TensorDict(
                    observation=torch.zeros(3, 4),
                    reward=torch.zeros(3),
                    done=torch.zeros(3, 1),
                    terminated=torch.zeros(3, 1),
                )
            )
        ),
        ValueError,
        ["key 'reward' has shape [3], expected [3, 1]"],
    ),
    "optimizer": (
        lambda: step(DQNLoss(Q), nn.Linear(1, 1).parameters()),
        ValueError,
        ["the optimizer holds no parameter of DQNLoss that takes a gradient; make it over loss.parameters()"],
    ),
    "no loss": (
        lambda: step(NoLoss("td")),
        ValueError,
        ["NoLoss gives nothing to minimise: none of its entries ['td']"],
    ),
    "sampler": (
        lambda: on_policy(GAE(CRITIC), buffer(4), step, epochs=1, keys=["action"]),
        ValueError,
        ["needs a buffer with a SamplerWithoutReplacement, this one has a RandomSampler"],
    ),
    "small buffer": (
        lambda: on_policy(GAE(CRITIC), buffer(2, sampler=SamplerWithoutReplacement()), step, epochs=1, keys=[])(
            batch()
        ),
        ValueError,
        ["the buffer has room for 2 frames, and a batch has 3; make its storage that large"],
    ),
    "keys": (
        lambda: once(lambda batch: batch),
        ValueError,
        ["once cannot tell what to keep of a batch, because <lambda> has no in_keys; name what it reads: keys=[...]"],
    ),
    "lacking key": (
        lambda: once(gradient_step(DQNLoss(Q), torch.optim.SGD(Q.parameters(), lr=0.1)))(batch(action=None)),
        KeyError,
        ["DQNLoss reads key 'action', which the batch does not have; it has ["],
    ),
    "small replay": (
        lambda: off_policy(buffer(2), step, updates=1, warmup=0, keys=["action"])(batch()),
        ValueError,
        ["the buffer has room for 2 frames, and a batch has 3"],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_says_what_was_found_and_what_was_expected(name):
    compose, kind, words = MESSAGES[name]
    with pytest.raises(kind) as kept:
        compose()
    message = kept.value.args[0]
    for part in words:
        assert part in message
