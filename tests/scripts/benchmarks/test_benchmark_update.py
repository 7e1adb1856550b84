"""The update benchmark: every arm makes the same update."""

from dataclasses import replace

import pytest
import torch

from rlpipe.pipelines.updates import update as updating
from rlpipe.scripts.benchmarks import update_continuous
from rlpipe.scripts.benchmarks.update import CONFIGS, EAGER, arms, make_minibatch, make_networks, run


def weights(name, arm):
    networks = arm.networks
    if name == "sb3":
        (policy,) = networks
        parts = policy.mlp_extractor
        networks = (parts.policy_net, policy.action_net, parts.value_net, policy.value_net)
    return torch.cat([parameter.detach().flatten() for network in networks for parameter in network.parameters()])


def made(algorithm, config, updates):
    pytest.importorskip("stable_baselines3", reason="needs the extra rlpipe[benchmark]")
    made = arms(algorithm, config, 64, against=["torchrl", "sb3"], seed=4, updates=updates)
    start = {name: weights(name, arm) for name, arm in made.items()}
    for arm in made.values():
        arm.call()
    return start, {name: weights(name, arm) for name, arm in made.items()}


# Without normalised advantages, for which the arms have different standard deviations. rlpipe's update is recorded
# after ten, and has to stay the same.
@pytest.mark.parametrize("updates", [1, 20])
@pytest.mark.parametrize("algorithm", list(CONFIGS))
def test_all_arms_reach_the_same_weights(algorithm, updates):
    config = CONFIGS[algorithm]
    if algorithm == "ppo":
        config = replace(config, normalize_advantage=False)
    start, end = made(algorithm, config, updates)
    assert set(end) == {"rlpipe", EAGER, "torchrl", "plain"} | ({"sb3"} if algorithm == "ppo" else set())
    for name in end:
        assert torch.equal(start[name], start["rlpipe"]), name
        assert not torch.equal(end[name], start[name]), name
        torch.testing.assert_close(end[name], end["rlpipe"], atol=1e-5, rtol=0, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("algorithm", list(CONFIGS))
def test_recorded_and_eager_updates_end_with_equal_weights(monkeypatch, algorithm):
    asked = []
    make = updating.make_gradient
    monkeypatch.setattr(updating, "make_gradient", lambda *given: asked.append(given[2]) or make(*given))
    made = arms(algorithm, CONFIGS[algorithm], 64, against=[], seed=4, updates=20)
    assert asked == ["recorded", "eager"]
    start = weights("rlpipe", made["rlpipe"])
    for arm in made.values():
        arm.call()
    assert not torch.equal(weights("rlpipe", made["rlpipe"]), start)
    assert torch.equal(weights("rlpipe", made["rlpipe"]), weights(EAGER, made[EAGER]))


def test_normalised_advantages_make_nearly_the_same_update():
    start, end = made("ppo", CONFIGS["ppo"], 1)
    step = (end["rlpipe"] - start["rlpipe"]).abs().max()
    for name in end:
        assert (end[name] - end["rlpipe"]).abs().max() < 0.05 * step, name


def test_the_clip_is_in_force_and_double_learning_matters():
    """What the arms agree on is no trivial update."""
    fast = replace(CONFIGS["dqn"], lr=0.02)
    _, single = made("dqn", replace(fast, double=False), 10)
    torch.testing.assert_close(single["torchrl"], single["rlpipe"], atol=1e-5, rtol=0)
    _, double = made("dqn", fast, 10)
    assert not torch.allclose(double["rlpipe"], single["rlpipe"], atol=1e-3)
    _, clipped = made("a2c", replace(CONFIGS["a2c"], max_grad_norm=1e-6), 1)
    assert (clipped["rlpipe"] - clipped["torchrl"]).abs().max() < 1e-5


def test_minibatch_and_networks_come_from_the_seed():
    first, again, other = (make_minibatch("ppo", 8, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert not (first == other).all()
    assert torch.equal(make_networks("dqn", 0)[0][0].weight, make_networks("dqn", 0)[0][0].weight)


def test_run_measures_each_algorithm_and_minibatch(monkeypatch):
    monkeypatch.setattr("rlpipe.scripts.benchmarks.update.CONFIGS", {name: CONFIGS[name] for name in ("dqn", "ppo")})
    # test_benchmark_continuous.py
    monkeypatch.setattr(update_continuous, "ALGORITHMS", {})
    rows = list(run(against=["torchrl"], quick=True, seeds=[0], minibatches=[8, 16]))
    assert [row.case for row in rows] == [
        f"{algorithm}, minibatch {size}" for algorithm in ("dqn", "ppo") for size in (8, 16)
    ]
    for row in rows:
        assert set(row.samples) == {"rlpipe", EAGER, "torchrl", "plain"}
        assert {len(samples) for samples in row.samples.values()} == {5}
        assert all(sample > 0 for samples in row.samples.values() for sample in samples)
    alone = next(run(against=[], quick=True, seeds=[0], minibatches=[8]))
    assert set(alone.samples) == {"rlpipe", EAGER, "plain"}
