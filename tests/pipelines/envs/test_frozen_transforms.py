"""Transforms with a state in evaluations, against single environments stepped and transformed by hand."""

import copy
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import Unbounded
from torchrl.envs import (
    CatFrames,
    Compose,
    ExcludeTransform,
    FrameSkipTransform,
    InitTracker,
    NoopResetEnv,
    ObservationNorm,
    RandomTruncationTransform,
    RewardScaling,
    RewardSum,
    StepCounter,
    TensorDictPrimer,
    TimeMaxPool,
    TrajCounter,
    Transform,
    VecNorm,
    VecNormV2,
)
from torchrl.modules import GRUModule, LSTMModule

from rlpipe.errors import ConfigError
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.collectors.worker import shares
from rlpipe.pipelines.envs import EnvConfig, make_env
from rlpipe.pipelines.pipeline import Pipeline
from rlpipe.pipelines.render.player import Player

SEED, TRAINED_IN = 11, 3
SIZES = (1, 3, 7)


class Drift(gym.Env):
    """Two numbers wander, an episode takes 4 to 11 steps, and the reward is the one that the action names."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(4, 12))
        self.place = self.np_random.normal(3.0, 2.0, 2).astype(np.float32)
        return self.place.copy(), {}

    def step(self, action):
        reward = float(self.place[action])
        self.left -= 1
        self.place = self.place + self.np_random.normal(0.1 * action, 1.0, 2).astype(np.float32)
        return self.place.copy(), reward, self.left == 0, False, {}

    def render(self):
        return np.zeros((40, 40, 3), np.uint8)


CONFIG = EnvConfig(Drift, TRAINED_IN)


def seeds(num_envs):
    words = np.random.SeedSequence(SEED).generate_state(2 * num_envs)
    return [int(word) for word in dict.fromkeys(words)][:num_envs]


def by_hand(episodes, see, choose, most=1_000, num_envs=None):
    """Returns of the first episodes of single environments.

    Args:
        see: makes, for the environment of this index, what turns an episode's observations into what is seen.
        choose: from what is seen to an action.
        most: steps of an episode.
        num_envs: one for each episode, or this many for all.
    """
    returns = []
    for index, seed in enumerate(seeds(num_envs or episodes)):
        env = Drift()
        for number in range(1 if num_envs is None else episodes):
            observation, _ = env.reset(seed=seed if number == 0 else None)
            seen, total, done, steps = see(index), 0.0, False, 0
            while not done and steps < most:
                action = choose(seen(torch.from_numpy(observation)))
                observation, reward, done, _, _ = env.step(int(action))
                total, steps = total + reward, steps + 1
            returns.append(total)
    return returns


class ArgMax(nn.Module):
    def forward(self, scores):
        return scores.argmax(-1)


def make_policy(features):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, 2), ArgMax())
    return TensorDictModule(network, in_keys=["observation"], out_keys=["action"])


def train_in(transforms, policy, config=CONFIG, frames=240):
    env = make_env(config, seed=0, transforms=transforms)
    collector = SyncDataCollector(env, policy, frames_per_batch=60, total_frames=frames)
    return collector, iter(collector)


def stacked(number, become, start=None):
    """Makes what `become` says of the last observations `[number, ...]`, filled up by the first of an episode."""

    def see(_):
        kept = deque(maxlen=number)

        def seen(observation):
            kept.extend([observation if start is None else start] * (0 if kept else number - 1))
            kept.append(observation)
            return become(torch.stack(list(kept)))

        return seen

    return see


def normalised(loc, scale):
    return lambda index: lambda observation: (observation - loc(index)) / scale(index)


def of_vecnorm(transform):
    (total, squares, count) = (transform._td[f"observation_{name}"] for name in ("sum", "ssq", "count"))
    mean = (total / count).clone()
    std = (squares / count - mean**2).clamp_min(transform.eps).sqrt().clone()
    return normalised(lambda _: mean, lambda _: std)


def of_vecnorm2(transform):
    mean, std = transform.loc["observation"].clone(), transform.scale["observation"].clone()
    row = (lambda each, index: each) if mean.ndim == 1 else (lambda each, index: each[index % TRAINED_IN])
    return normalised(lambda index: row(mean, index), lambda index: row(std, index))


LOC, SCALE = torch.tensor([[0.0, 2.0], [5.0, -1.0], [3.0, 3.0]]), torch.tensor([[1.0, 2.0], [0.5, 1.0], [3.0, 1.0]])

# transforms, numbers seen at a time, and what is seen by hand given the first transform after training
KINDS = {
    "VecNorm": (lambda: [VecNorm(in_keys=["observation", "reward"])], 2, of_vecnorm),
    "VecNormV2": (lambda: [VecNormV2(["observation", "reward"], reduce_batch_dims=True)], 2, of_vecnorm2),
    "VecNormV2 for each": (lambda: [VecNormV2(["observation"], decay=0.9)], 2, of_vecnorm2),
    "CatFrames": (
        lambda: [CatFrames(N=3, dim=-1, in_keys=["observation"])],
        6,
        lambda _: stacked(3, torch.flatten),
    ),
    "TimeMaxPool": (
        lambda: [TimeMaxPool(in_keys=["observation"], T=3)],
        2,
        lambda _: stacked(3, lambda last: last.amax(0), torch.zeros(2)),
    ),
    "ObservationNorm for each": (
        lambda: [ObservationNorm(LOC.clone(), SCALE.clone(), in_keys=["observation"], standard_normal=True)],
        2,
        lambda _: normalised(lambda index: LOC[index % TRAINED_IN], lambda index: SCALE[index % TRAINED_IN]),
    ),
    "rewards": (
        lambda: [
            RewardScaling(torch.zeros(3, 1), torch.full((3, 1), 0.1)),
            RewardSum(),
            ObservationNorm(0.0, 2.0, in_keys=["reward"], standard_normal=True),
            TrajCounter(),
            RandomTruncationTransform(2, 3),
            StepCounter(),
            ExcludeTransform("episode_reward"),
        ],
        2,
        lambda _: lambda index: lambda each: each,
    ),
    "composed": (
        lambda: [Compose(ObservationNorm(1.0, 2.0, ["observation"]), CatFrames(2, -1, in_keys=["observation"]))],
        4,
        lambda _: stacked(2, lambda last: (last * 2.0 + 1.0).flatten()),
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*experimental:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_evaluations_of_any_size_are_those_of_single_environments(kind):
    make, features, describe = KINDS[kind]
    transforms, policy = make(), make_policy(features)
    _, batches = train_in(transforms, policy)
    next(batches)
    see, before = describe(transforms[0]), copy.deepcopy(transforms[0].state_dict())
    choose = policy.module
    for episodes in SIZES:
        expected = by_hand(episodes, see, choose)
        evaluation = evaluate(policy, CONFIG, episodes=episodes, seed=SEED, transforms=transforms)
        assert evaluation.returns == pytest.approx(expected, abs=1e-4)
    played = Player(EnvConfig(Drift), policy, SEED, transforms, episodes=3, max_steps=9).play(lambda _: True)
    assert [each.earned for each in played] == pytest.approx(by_hand(3, see, choose, 9, num_envs=1), abs=1e-4)
    assert str(transforms[0].state_dict()) == str(before)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*experimental:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_as_if_there_had_been_no_evaluation(kind):
    make, features, _ = KINDS[kind]
    later = []
    for evaluated in (False, True):
        torch.manual_seed(4)
        transforms, policy = make(), make_policy(features)
        _, batches = train_in(transforms, policy)
        next(batches)
        if evaluated:
            evaluate(policy, CONFIG, episodes=2, seed=1, transforms=transforms)
        later.append(next(batches).exclude("collector"))
    assert (later[0] == later[1]).all()


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("kind", [GRUModule, LSTMModule])
def test_recurrent_policies_begin_each_episode_anew(kind, given):
    torch.manual_seed(0)
    states = ["state"] if kind is GRUModule else ["state", "cell"]
    recurrent = kind(
        input_size=2,
        hidden_size=4,
        in_keys=["observation", *states, "is_init"],
        out_keys=["features", *[("next", name) for name in states]],
    )
    head = nn.Sequential(nn.Linear(4, 2), ArgMax())
    policy = TensorDictSequential(recurrent, TensorDictModule(head, in_keys=["features"], out_keys=["action"]))
    transforms = [InitTracker(), recurrent.make_tensordict_primer()]
    _, batches = train_in(transforms, policy)
    next(batches)
    network = recurrent.gru if kind is GRUModule else recurrent.lstm

    def see(_):
        kept = [None]

        def seen(observation):
            output, kept[0] = network(observation[None, None], kept[0])
            return output[0, 0]

        return seen

    for episodes in SIZES:
        expected = by_hand(episodes, see, head)
        given_transforms = transforms if given else ()
        evaluation = evaluate(policy, CONFIG, episodes=episodes, seed=SEED, transforms=given_transforms)
        assert evaluation.returns == pytest.approx(expected, abs=1e-4)
    player = Player(EnvConfig(Drift), policy, SEED, transforms if given else (), episodes=2)
    assert [each.earned for each in player.play(lambda _: True)] == pytest.approx(by_hand(2, see, head, num_envs=1))


def test_a_transform_that_ends_episodes_ends_those_of_an_evaluation():
    policy = make_policy(2)
    expected = by_hand(3, lambda _: lambda each: each, policy.module, most=5)
    evaluation = evaluate(policy, CONFIG, episodes=3, seed=SEED, transforms=[StepCounter(max_steps=5)])
    assert evaluation.returns == pytest.approx(expected, abs=1e-4)
    assert max(evaluation.lengths) == 5


class Before(Transform):
    """Shows the observation before the present one; custom, and with a row for each of training's environments."""

    def __init__(self):
        super().__init__(in_keys=["observation"], out_keys=["observation"])
        self.kept, self.steps = None, [0]

    def _call(self, after):
        now = after["observation"].clone()
        self.steps[0] += 1
        after["observation"] = self.kept.clone()
        self.kept[:] = now
        return after

    def _reset(self, tensordict, after):
        mask = tensordict.get("_reset", torch.ones(after.shape, dtype=torch.bool)).reshape(-1, 1)
        if self.kept is None:
            self.kept = after["observation"].clone()
        self.kept[:] = torch.where(mask, after["observation"], self.kept)
        return after


def test_a_custom_transform_gets_as_many_environments_as_it_has_room_for():
    transform, policy = Before(), make_policy(2)
    # by which the number is known, while it is there
    training, _ = train_in([transform], policy)
    before = transform.kept.clone()
    for episodes in (1, 2):
        expected = by_hand(TRAINED_IN, stacked(2, lambda last: last[0]), policy.module)[:episodes]
        evaluation = evaluate(policy, CONFIG, episodes=episodes, seed=SEED, transforms=[transform])
        assert evaluation.returns == pytest.approx(expected, abs=1e-4)
    assert len(Player(EnvConfig(Drift), policy, SEED, [transform]).play(lambda _: True)) == 1
    assert torch.equal(transform.kept, before)
    assert transform.steps == [0]
    training.shutdown()


def test_a_custom_transform_is_told_not_to_learn():
    class Count(Transform):
        def __init__(self):
            super().__init__(in_keys=["observation"], out_keys=["observation"])
            self.register_buffer("seen", torch.zeros(()))
            self.frozen = False

        def freeze(self):
            self.frozen = True

        def _apply_transform(self, obs):
            self.seen += not self.frozen
            return obs + self.seen

        def _reset(self, tensordict, after):
            return self._call(after)

    transform = Count()
    policy = TensorDictModule(lambda each: seen.append(each) or each.argmax(-1), ["observation"], ["action"])
    seen = []
    evaluate(policy, CONFIG, episodes=1, seed=SEED, transforms=[transform])
    drift = Drift()
    assert seen[0].flatten().tolist() == drift.reset(seed=seeds(1)[0])[0].tolist()
    assert not transform.frozen
    assert transform.seen == 0


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*experimental:UserWarning")
@pytest.mark.parametrize("make", [lambda: VecNorm(["observation"]), lambda: VecNormV2(["observation"])])
def test_a_normalisation_without_statistics_is_refused(make):
    with pytest.raises(ConfigError, match=r"has no statistics yet; give the evaluation the one of the environment"):
        evaluate(make_policy(2), CONFIG, episodes=1, seed=0, transforms=[make()])


def test_a_normalisation_that_keeps_its_statistics_in_batches_is_refused():
    transform = VecNormV2(["observation"], stateful=False)
    with pytest.raises(ConfigError, match=r"VecNormV2\(stateful=False\) keeps its statistics in the batches"):
        evaluate(make_policy(2), CONFIG, episodes=1, seed=0, transforms=[transform])


@pytest.mark.parametrize("transform", [FrameSkipTransform(4), NoopResetEnv(3)])
def test_transforms_that_step_environments_are_refused(transform):
    said = f"{type(transform).__name__} steps the environments itself, past the end of an episode"
    with pytest.raises(ConfigError, match=said):
        make_env(CONFIG, transforms=[transform])
    with pytest.raises(ConfigError, match=said):
        evaluate(make_policy(2), CONFIG, episodes=1, seed=0, transforms=[Compose(transform)])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*experimental:UserWarning")
@pytest.mark.parametrize("make", [lambda: VecNorm(["observation"]), lambda: VecNormV2(["observation"])])
def test_collectors_in_processes_refuse_a_running_normalisation(make):
    env = make_env(CONFIG, seed=0, transforms=[make()])
    with pytest.raises(ConfigError, match="would have other statistics in each collector process"):
        shares(CONFIG, env, 3)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*experimental:UserWarning")
@pytest.mark.parametrize("kind", ["VecNorm", "VecNormV2", "VecNormV2 for each"])
def test_a_checkpoint_holds_the_statistics(kind, tmp_path):
    make, features, _ = KINDS[kind]
    evaluations = []
    for number in range(2):
        transforms, policy = make(), make_policy(features)
        collector, batches = train_in(transforms, policy, frames=600)
        pipeline = Pipeline(collector, lambda _: TensorDict(), policy, {"policy": policy}, transforms)
        assert pipeline.statistics() == {"transforms"}
        if number == 0:
            for _ in batches:
                pass
            save_checkpoint(tmp_path / "saved", pipeline.state, {})
        else:
            load_checkpoint(tmp_path / "saved", pipeline.state)
        evaluations.append(evaluate(policy, CONFIG, episodes=7, seed=2, transforms=transforms))
    assert evaluations[0] == evaluations[1]


@pytest.mark.parametrize("rows", [1, 3])
def test_a_primer_with_a_value_for_each_environment(rows):
    spec = Unbounded((2,) if rows == 1 else (rows, 2))
    primer = TensorDictPrimer(extra=spec, default_value=1.5, expand_specs=rows == 1)
    policy = TensorDictModule(lambda each, extra: (each + extra).argmax(-1), ["observation", "extra"], ["action"])
    make_env(CONFIG, seed=0, transforms=[primer]).reset()
    evaluation = evaluate(policy, CONFIG, episodes=5, seed=SEED, transforms=[primer])
    assert evaluation.returns == pytest.approx(by_hand(5, lambda _: lambda each: each, ArgMax()), abs=1e-4)
