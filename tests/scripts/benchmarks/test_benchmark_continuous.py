"""The update benchmark of SAC and TD3: each arm makes its updates, with minibatches drawn from the same transitions."""

import gymnasium as gym
import pytest
import torch

from rlpipe.scripts.baselines.sb3 import sb3_replay_updates
from rlpipe.scripts.benchmarks import update_continuous
from rlpipe.scripts.benchmarks.update_continuous import ENV_ID, arms, make_transitions, run


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_the_arms_of_stable_baselines3_make_the_updates_that_they_are_asked_for(algorithm, monkeypatch):
    sb3 = pytest.importorskip("stable_baselines3", reason="needs the extra rlpipe[benchmark]")
    models = []
    kind = getattr(sb3, algorithm.upper())
    monkeypatch.setattr(sb3, algorithm.upper(), lambda *args, **given: models.append(kind(*args, **given)) or models[0])
    stored = make_transitions(40, 0)
    sb3_replay_updates(algorithm, ENV_ID, stored, minibatch=8, updates=3, seed=0)()
    (model,) = models
    assert model._n_updates == 3
    assert model.replay_buffer.size() == 40
    assert (model.replay_buffer.actions[:, 0] * 2 == stored["action"].numpy()).all()
    assert model.actor.net_arch == [256, 256]


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_rlpipes_arm_learns_from_a_full_buffer(algorithm, monkeypatch):
    monkeypatch.setattr(update_continuous, "TRANSITIONS", 400)
    built = []
    build = update_continuous._build
    monkeypatch.setattr(update_continuous, "_build", lambda *given: built.append(build(*given)) or built[0])
    made = arms(algorithm, against=[], seed=0, updates=2)
    assert set(made) == {"rlpipe", "rlpipe, drawing alone"}
    critic = built[0].state["loss"].critics[0]
    before = [each.detach().clone() for each in critic.parameters()]
    assert made["rlpipe"]()["updates"] == 2
    made["rlpipe, drawing alone"]()
    assert len(built[0].state["replay"].buffer) == 400 + 16
    assert not all(torch.equal(one, two) for one, two in zip(before, critic.parameters(), strict=True))
    assert [each.shape for each in before] == [(256, 4), (256,), (256, 256), (256,), (1, 256), (1,)]


def test_transitions_fit_the_environment():
    stored, env = make_transitions(100, 0), gym.make(ENV_ID)
    assert stored["observation"].shape[1:] == env.observation_space.shape
    assert (stored["action"].abs() <= env.action_space.high.item()).all()
    assert (stored == make_transitions(100, 0)).all()
    env.close()


def test_it_measures_a_row_for_each(monkeypatch):
    monkeypatch.setattr(update_continuous, "TRANSITIONS", 400)
    rows = list(run(against=[], seed=0, repeats=1, updates=1))
    assert [row.case for row in rows] == [f"{name}, 256-256, minibatch 256 from replay" for name in ("sac", "td3")]
    assert all(set(row.samples) == {"rlpipe", "rlpipe, drawing alone"} for row in rows)
