"""Noise of Box actions: how strong, how it lasts, when it begins anew, and what it leaves alone."""

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torchrl.data import Bounded, Categorical, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import AdditiveGaussianModule, OrnsteinUhlenbeckProcessModule

from rlpipe.modules import MLP, DeterministicActor, GaussianNoise, Linear, OrnsteinUhlenbeck
from rlpipe.pipelines.collectors.collector import SyncDataCollector
from rlpipe.pipelines.collectors.evaluation import evaluate
from rlpipe.pipelines.envs import EnvConfig, make_env

MANY = 20_000
WIDE = Bounded(-100.0, 100.0, (MANY, 1))
KINDS = {"gaussian": GaussianNoise, "lasting": OrnsteinUhlenbeck}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def steps(module, action, counts, kind=ExplorationType.RANDOM):
    """What becomes of an action at each count of steps, `[T, *B, *D]`."""
    batch = action.shape[: action.ndim - len(module.shape)]
    with set_exploration_type(kind):
        each = []
        for count in counts:
            step = torch.as_tensor(count).expand(batch).unsqueeze(-1)
            each.append(module(TensorDict({"action": action, "step_count": step}, batch))["action"])
    return torch.stack(each)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_in_units_of_half_the_range(kind):
    spec = Bounded(
        torch.tensor([[-2.0, 0.0, -torch.inf, 0.0, 3.0]] * 2),
        torch.tensor([[2.0, 8.0, torch.inf, torch.inf, 3.0]] * 2),
        (2, 5),
    )
    action = torch.tensor([0.0, 4.0, 0.0, 9.0, 3.0]).expand(MANY, 5)
    one_step = {"gaussian": {}, "lasting": {"dt": 0.25}}[kind]
    noise = steps(KINDS[kind](spec, 0.1, seeded(), **one_step), action, [0])[0] - action
    factor = {"gaussian": 1.0, "lasting": 0.5}[kind]
    # five standard errors
    torch.testing.assert_close(noise.std(0), factor * torch.tensor([0.2, 0.4, 0.1, 0.1, 0.0]), rtol=0.025, atol=1e-9)
    assert (noise.mean(0).abs() <= 5 * noise.std(0) / math.sqrt(MANY)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_noisy_actions_stay_within_bounds_and_in_their_type(kind):
    for dtype, low in ((torch.float32, -1.0), (torch.float64, 1e9)):
        spec = Bounded(low, low + 2, (MANY, 2), dtype=dtype)
        action = torch.full((MANY, 2), low + 1.5, dtype=dtype)
        noisy = steps(KINDS[kind](spec, 5.0, seeded()), action, [0])[0]
        assert spec.is_in(noisy)
        assert (noisy == low + 2).any()
        assert len(noisy.unique()) > MANY / 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exploration", [ExplorationType.DETERMINISTIC, ExplorationType.MODE, ExplorationType.MEAN])
def test_there_is_none_unless_it_explores(kind, exploration):
    module = KINDS[kind](WIDE, 0.5, seeded())
    state = module.generator.get_state()
    action = torch.zeros(MANY, 1)
    assert torch.equal(steps(module, action, [0, 1], exploration), torch.zeros(2, MANY, 1))
    assert torch.equal(module.generator.get_state(), state)
    assert getattr(module, "carried", None) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (4,), (4, 5)])
def test_any_shape_of_batch_and_action(kind, shape, batch):
    spec = Bounded(-1.0, 1.0, (7, *shape))
    action = torch.zeros((*batch, *shape))
    noisy = steps(KINDS[kind](spec, 0.1, seeded()), action, [0, 1, 2])
    assert noisy.shape == (3, *batch, *shape)
    assert len(noisy.unique()) == noisy.numel()


def test_gaussian_noise_is_that_of_torchrl():
    ours = steps(GaussianNoise(WIDE, 0.003, seeded()), torch.zeros(MANY, 1), range(4))
    stock = AdditiveGaussianModule(WIDE, sigma_init=0.3, sigma_end=0.3, annealing_num_steps=10, device="cpu")
    torch.manual_seed(0)
    theirs = steps_of_stock(stock, 4)
    for noise in (ours, theirs):
        assert noise.std() == pytest.approx(0.3, rel=0.02)
        assert correlation(noise[0], noise[1]) == pytest.approx(0.0, abs=5 / math.sqrt(MANY))


@pytest.mark.parametrize("dt", [0.01, 0.5])
def test_lasting_noise_is_that_of_torchrl(dt):
    last = 40
    ours = OrnsteinUhlenbeck(WIDE, 0.002, seeded(), dt=dt, theta=0.3)
    stock = OrnsteinUhlenbeckProcessModule(
        WIDE, theta=0.3, sigma=0.2, dt=dt, eps_init=1.0, eps_end=1.0, annealing_num_steps=10**9, device="cpu"
    )
    torch.manual_seed(0)
    pairs = zip(steps(ours, torch.zeros(MANY, 1), range(last)), steps_of_stock(stock, last), strict=True)
    kept, earlier = 1 - 0.3 * dt, None
    for step, (one, other) in enumerate(pairs, 1):
        # the sum of a geometric series
        std = 0.2 * math.sqrt(dt * (1 - kept ** (2 * step)) / (1 - kept**2))
        assert one.std() == pytest.approx(std, rel=0.03)
        assert other.std() == pytest.approx(std, rel=0.03)
        if step == last // 2:
            earlier = (one, other)
    # of the middle with the end
    variance = [(1 - kept ** (2 * n)) / (1 - kept**2) for n in (last // 2, last)]
    expected = kept ** (last // 2) * math.sqrt(variance[0] / variance[1])
    for early, late in zip(earlier, (one, other), strict=True):
        assert correlation(early, late) == pytest.approx(expected, abs=0.03)


def correlation(one, other):
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].item()


def steps_of_stock(module, number):
    """What TorchRL's module makes of zeros, `[T, MANY, 1]`."""
    data, each = TensorDict({"is_init": torch.ones(MANY, 1, dtype=torch.bool)}, [MANY]), []
    with set_exploration_type(ExplorationType.RANDOM):
        for _ in range(number):
            data = module(data.set("action", torch.zeros(MANY, 1)))
            each.append(data["action"].clone())
            data["is_init"] = torch.zeros(MANY, 1, dtype=torch.bool)
    return torch.stack(each)


def test_long_after_the_noise_has_the_std_and_the_memory_that_are_said():
    module = OrnsteinUhlenbeck(WIDE, 0.002, seeded(), dt=1.0, theta=0.15)
    noise = steps(module, torch.zeros(MANY, 1), range(60))
    assert noise[-1].std() == pytest.approx(0.2 / math.sqrt(1 - 0.85**2), rel=0.02)
    assert correlation(noise[-1], noise[-2]) == pytest.approx(0.85, abs=0.02)


@pytest.mark.parametrize("entry", ["step_count", "is_init"])
def test_lasting_noise_begins_anew_with_each_episode_of_each_environment(entry):
    spec = Bounded(-100.0, 100.0, (3, 2))
    keys = {} if entry == "step_count" else {"in_keys": ["action", "is_init"]}
    module = OrnsteinUhlenbeck(spec, 0.01, seeded(), dt=1.0, theta=0.25, **keys)
    fresh = GaussianNoise(spec, 0.01, seeded())
    counts = torch.tensor([[0, 5, 1], [1, 0, 2], [2, 1, 3], [0, 2, 0]])
    expected = torch.zeros(3, 2)
    with set_exploration_type(ExplorationType.RANDOM):
        for count in counts:
            step = count.unsqueeze(-1) if entry == "step_count" else (count == 0).unsqueeze(-1)
            (noisy,) = module.compute(torch.zeros(3, 2), step)
            (drawn,) = fresh.compute(torch.zeros(3, 2))
            expected = torch.where((count == 0).unsqueeze(-1), 0.0, 0.75 * expected) + drawn
            torch.testing.assert_close(noisy, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_its_strength_follows_a_schedule_of_frames(kind):
    module = KINDS[kind](WIDE, Linear(0.4, 0.1, frames=100), seeded())
    name = {"gaussian": "std", "lasting": "sigma"}[kind]
    assert getattr(module, name) == 0.4
    first = steps(module, torch.zeros(MANY, 1), [0]).std()
    done = torch.zeros(50, 1, dtype=torch.bool)
    module.advance(TensorDict({"next": {"done": done}}, [50]))
    assert getattr(module, name) == pytest.approx(0.25)
    assert steps(module, torch.zeros(MANY, 1), [0]).std() == pytest.approx(0.625 * first.item(), rel=0.03)
    other = KINDS[kind](WIDE, Linear(0.4, 0.1, frames=100), seeded())
    other.load_state_dict(module.state_dict())
    assert other.frames == 50


def test_a_loaded_state_goes_on_to_the_bit():
    spec = Bounded(-1.0, 1.0, (3, 2))
    module, other = (OrnsteinUhlenbeck(spec, 1.0, seeded()) for _ in range(2))
    action = torch.zeros(3, 2)
    steps(module, action, [0, 1, 2])
    other.load_state_dict(module.state_dict())
    other.generator.set_state(module.generator.get_state())
    assert torch.equal(steps(other, action, [3, 4]), steps(module, action, [3, 4]))
    for carried in (torch.zeros(3, 4), 3.0):
        with pytest.raises(ValueError, match="carried of exploration is expected to be a tensor"):
            other.set_extra_state({"frames": 0, "episodes": 0, "carried": carried})


def make_policy(kind, env, **options):
    torch.manual_seed(0)
    noise = KINDS[kind](env.action_spec, 0.3, seeded(5), **options)
    return TensorDictSequential(DeterministicActor(MLP(3, 1, (8,)), env.action_spec), noise)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_does_not_change_the_noise_of_training(kind):
    config, batches = EnvConfig("Pendulum-v1", 3, max_episode_steps=20), []
    for stochastic in (None, False, True):
        env = make_env(config, seed=0)
        policy = make_policy(kind, env)
        collector = SyncDataCollector(env, policy, frames_per_batch=3 * 8, total_frames=3 * 16)
        assert collector.is_lean()
        each = iter(collector)
        next(each)
        if stochastic is not None:
            returns = [evaluate(policy, config, episodes=4, seed=1, stochastic=stochastic).returns for _ in range(2)]
            assert returns[0] == returns[1]
        batches.append(next(each)["action"])
        collector.shutdown()
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])


def test_noise_lasts_from_batch_to_batch_and_ends_with_an_episode():
    env = make_env(EnvConfig("Pendulum-v1", 2, max_episode_steps=10), seed=0)
    policy = make_policy("lasting", env, dt=1e-9)
    collector = SyncDataCollector(env, policy, frames_per_batch=2 * 6, total_frames=2 * 30)
    noise, actor = [], policy[0]
    # next to nothing is drawn, so what is there can only have lasted; the action is far from its bounds
    policy[0].network[-1].weight.data.zero_()
    for number, batch in enumerate(collector):
        (greedy,) = actor.compute(batch["observation"])
        noise.append((batch["action"] - greedy).detach())
        if number == 0:
            policy[1].carried = torch.tensor([[0.25], [-0.25]])
    whole = torch.cat(noise, 1).squeeze(-1)
    torch.testing.assert_close(whole[:, 6:10], torch.tensor([[0.5], [-0.5]]).expand(2, 4), rtol=0, atol=1e-3)
    assert (whole[:, 10:].abs() < 1e-3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_through_noise(kind):
    action = torch.zeros(2, 1, requires_grad=True)
    spec = Unbounded((2, 1))
    steps(KINDS[kind](spec, 0.1, seeded()), action, [0, 1]).sum().backward()
    assert (action.grad == 2).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_is_refused(kind):
    with pytest.raises(ValueError, match=f"{KINDS[kind].__name__} needs Box actions .* there is EpsilonGreedy"):
        KINDS[kind](Categorical(3, (2,)), 0.1)
    for strength in (-0.1, math.inf, math.nan):
        with pytest.raises(
            ValueError, match=f"the noise of {KINDS[kind].__name__} is {strength}; allowed is 0 or more"
        ):
            KINDS[kind](WIDE, strength)


@pytest.mark.parametrize("wrong", [{"theta": 0.0}, {"dt": 0.0}, {"theta": 20.0, "dt": 0.1}, {"dt": math.nan}])
def test_a_process_that_would_not_return_to_0_is_refused(wrong):
    with pytest.raises(ValueError, match="theta is .* and dt is .*; both must be above 0"):
        OrnsteinUhlenbeck(WIDE, 0.1, **wrong)
