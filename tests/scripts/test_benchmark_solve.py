"""The solve benchmark: its clock, its order of runs, and real runs of every arm, cut short."""

from types import SimpleNamespace

import pytest
import torch

from rlpipe.scripts.benchmarks import solve
from rlpipe.scripts.benchmarks.solve import Outcome, Race, make_runners, race, recipe_config, run, to_row


def test_the_clock_stands_still_while_it_evaluates(monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr(solve, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def solved_by(policy):
        asked.append(policy)
        now[0] += 1_000.0
        return len(asked) == 2

    def train(frames):
        now[0] += 1.0
        return clock("policy", frames)

    clock = Race(solved_by, every=100)
    now[0] += 500.0
    clock.start()
    assert [train(frames) for frames in (60, 120, 180, 199)] == [False] * 4
    assert len(asked) == 1
    assert train(420)
    clock.stop()
    assert (clock.frames, clock.solved, len(asked)) == (420, True, 2)
    assert clock.seconds == 5.0


def test_runs_take_turns_by_seed_after_one_that_does_not_count():
    order, told = [], []

    def runner(name):
        def train(algorithm, seed, clock):
            order.append((name, seed, clock.every))
            for frames in (1_000, 2_000):
                if clock(None, frames):
                    return

        return train

    outcomes = race("ppo", {"a": runner("a"), "b": runner("b")}, [7, 8], told.append)
    warm, every = solve._WARM_FRAMES, solve.EVAL_EVERY
    assert order[:2] == [("a", 7, warm), ("b", 7, warm)]
    assert order[2:] == [("a", 7, every), ("b", 7, every), ("a", 8, every), ("b", 8, every)]
    assert [(each.seed, each.frames, each.solved) for each in outcomes["a"]] == [(7, 2_000, False), (8, 2_000, False)]
    assert len(told) == 4


def test_a_row_keeps_the_runs_and_counts_the_solved():
    runs = [Outcome(0, 5_000, 2.0, True), Outcome(1, 50_000, 9.0, False), Outcome(2, 7_500, 3.0, True)]
    row = to_row("dqn", {"rlpipe": runs, "sb3": runs[1:]})
    assert row.samples == {"rlpipe": [2.0, 9.0, 3.0], "sb3": [9.0, 3.0]}
    assert row.medians["rlpipe"] == 3.0
    assert row.extra["solved"] == {"rlpipe": 2, "sb3": 1}
    assert row.extra["frames"] == {"rlpipe": 7_500, "sb3": 28_750}
    assert row.extra["runs"]["rlpipe"][1] == {"seed": 1, "frames": 50_000, "seconds": 9.0, "solved": False}
    assert "rlpipe 2 of 3 at 7,500 frames" in row.extra["note"]


def test_arms_by_what_is_compared_against():
    assert list(make_runners("ppo", [])) == ["rlpipe"]
    assert list(make_runners("ppo", ["torchrl", "sb3"])) == ["rlpipe", "torchrl", "torchrl trainer", "sb3"]
    assert list(make_runners("ppo", ["torchrl"], trainers=False)) == ["rlpipe", "torchrl"]
    assert "sb3" not in make_runners("reinforce", ["sb3"])


def test_recipes_are_run_with_the_seed():
    config = recipe_config("a2c", 4)
    assert (config.seed, config.env_id) == (4, "CartPole-v1")
    assert config.total_frames > 100_000


@pytest.mark.parametrize("name", ["rlpipe", "torchrl", "torchrl trainer", "sb3"])
@pytest.mark.parametrize("algorithm", ["ppo", "dqn", "a2c"])
def test_every_arm_is_judged_and_stops(algorithm, name):
    if name == "sb3":
        pytest.importorskip("stable_baselines3", reason="needs the extra rlpipe[benchmark]")
    judged = []

    def solved_by(policy):
        judged.append(solve.evaluate(policy, solve.EnvConfig("CartPole-v1"), episodes=2, seed=0).mean)
        return len(judged) == 2

    clock = Race(solved_by, every=300)
    make_runners(algorithm, ["torchrl", "sb3"])[name](algorithm, 0, clock)
    assert clock.solved
    assert len(judged) == 2
    # the first two batches are of up to 1024 frames
    assert 600 <= clock.frames <= 2_048
    assert clock.seconds > 0


def test_quick_runs_ppo_on_one_seed(monkeypatch):
    monkeypatch.setattr(solve, "solves", lambda policy: True)
    told = []
    rows = run(against=[], quick=True, seeds=[2, 3], progress=told.append)
    assert [row.case for row in rows] == ["ppo"]
    assert len(rows[0].samples["rlpipe"]) == 1
    assert rows[0].extra["runs"]["rlpipe"][0]["seed"] == 2
    assert len(told) == 2


def test_solves_asks_for_475():
    assert not solve.solves(build_untrained())


def build_untrained():
    return solve.builder("ppo")(recipe_config("ppo", 0)).policy


def test_every_run_has_one_thread(monkeypatch):
    seen = []

    def greedy(algorithm, seed, clock):
        seen.append(torch.get_num_threads())
        torch.set_num_threads(2)

    before = torch.get_num_threads()
    solve.race("ppo", {"one": greedy, "other": greedy}, [0, 1], lambda line: None)
    assert seen == [1] * 6
    assert torch.get_num_threads() == before
