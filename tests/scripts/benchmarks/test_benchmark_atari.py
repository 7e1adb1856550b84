"""The benchmark on Atari games: every arm collects and learns, with networks of one size."""

import pytest

from rlpipe.scripts.benchmarks import atari

SMALL = {
    "ppo": {"num_envs": 2, "rollout_steps": 4, "minibatch_size": 8, "epochs": 1},
    "dqn": {"num_envs": 2, "updates": 1, "buffer_size": 64, "warmup_frames": 32},
}


@pytest.mark.parametrize("algorithm", SMALL)
def test_all_arms_are_measured(algorithm, monkeypatch):
    pytest.importorskip("ale_py")
    pytest.importorskip("stable_baselines3", reason="needs the extra rlpipe[benchmark]")
    monkeypatch.setitem(atari.CHANGES, algorithm, SMALL[algorithm])
    monkeypatch.setitem(atari.BATCHES, algorithm, 2)
    monkeypatch.setattr(atari.importlib.util, "find_spec", lambda name: None)
    rows = atari.measure(algorithm, True, repeats=2, seed=0)
    frames = 2 * 4
    assert [row.case.split(", ", 1)[1] for row in rows] == [
        f"collecting {frames} frames",
        f"learning from {frames} frames",
        f"both, {frames} frames",
    ]
    collecting, learning, both = rows
    for arm in ("rlpipe", "sb3"):
        assert len(both.samples[arm]) == 2
        for parts in zip(collecting.samples[arm], learning.samples[arm], both.samples[arm], strict=True):
            assert min(parts) > 0
            assert sum(parts[:2]) == pytest.approx(parts[2])


def test_both_have_as_many_weights():
    pytest.importorskip("ale_py")
    pytest.importorskip("stable_baselines3", reason="needs the extra rlpipe[benchmark]")
    from stable_baselines3 import PPO

    from rlpipe.pipelines.algorithms import ppo
    from rlpipe.pipelines.algorithms.recipes import find_recipe
    from rlpipe.scripts.baselines.sb3_atari import SharedGames

    pipeline = ppo.build(find_recipe("ppo/atari").config())
    env = SharedGames("ALE/Pong-v5", 2, 0)
    policy = PPO("CnnPolicy", env, n_steps=8, batch_size=16, device="cpu").policy
    loss = pipeline.state["loss"]
    assert sum(each.numel() for each in loss.parameters()) == sum(each.numel() for each in policy.parameters())
    pipeline.close()
    env.close()
