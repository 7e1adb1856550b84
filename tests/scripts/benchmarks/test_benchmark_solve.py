"""The solve benchmark: its clock, what counts as solved, its order of runs, and real runs of every arm, cut short."""

from types import SimpleNamespace

import pytest
import torch

from rlpipe.scripts.benchmarks import solve
from rlpipe.scripts.benchmarks.measure import Row
from rlpipe.scripts.benchmarks.outcomes import SOLVED, Checked, Outcome, summarize, to_rows
from rlpipe.scripts.benchmarks.report import describe
from rlpipe.scripts.benchmarks.solve import Race, make_runners, race, recipe_config, run


def curve(*means):
    """Evaluations every 2500 frames and every 1.5 seconds."""
    return tuple(Checked(2_500 * number, 1.5 * number, mean) for number, mean in enumerate(means, 1))


def outcome(seed, *means):
    return Outcome(seed, 2_500 * len(means), 1.5 * len(means), curve(*means))


@pytest.mark.parametrize(
    ("means", "lasts_from", "touched_at"),
    [
        ([100, 475, 500, 480], 5_000, 5_000),
        ([500, 126, 475, 476], 7_500, 2_500),
        ([500, 500, 474.99], None, 2_500),
        ([100, 200, 475], 7_500, 7_500),
        ([475], 2_500, 2_500),
        ([100, 474], None, None),
        ([500, float("nan"), 500], 7_500, 2_500),
        ([500, float("nan")], None, 2_500),
        ([], None, None),
    ],
)
def test_solved_is_what_lasts_and_first_touch_has_its_own_name(means, lasts_from, touched_at):
    run = outcome(0, *means)
    for found, expected in ((run.lasting, lasts_from), (run.touched, touched_at)):
        assert (found and found.frames) == expected
        assert (found and found.seconds) == (expected and 1.5 * expected / 2_500)


def test_an_outcome_says_how_it_went():
    assert str(outcome(0, 100, 500, 480)) == "lasting from 5000 frames, 3.00 s; first touch at 5000 frames, 3.00 s"
    fell = outcome(0, 500, 126, 480, 300)
    assert fell.lowest == 126
    assert str(fell) == "not lasting in 10000 frames, 6.00 s; first touch at 2500 frames, 1.50 s, then down to 126"
    assert str(outcome(0, 100, 200)) == "not solved in 5000 frames, 3.00 s"
    assert (outcome(0, 100, 200).lowest, outcome(0, 100, 500).lowest) == (None, None)


def test_the_clock_stands_still_while_it_evaluates_and_runs_to_the_budget(monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr(solve, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def judge(policy):
        asked.append(policy)
        now[0] += 1_000.0
        return 500.0

    def train(frames):
        now[0] += 1.0
        return clock("policy", frames)

    clock = Race(judge, frames=400, every=100)
    now[0] += 500.0
    clock.start()
    assert [train(frames) for frames in (60, 120, 180, 199)] == [False] * 4
    assert len(asked) == 1
    assert train(420)
    clock.stop()
    assert clock.outcome(3) == Outcome(3, 420, 5.0, (Checked(120, 2.0, 500.0), Checked(420, 5.0, 500.0)))


def test_runs_take_turns_by_seed_after_one_that_does_not_count():
    order, told = [], []

    def runner(name):
        def train(algorithm, seed, clock):
            order.append((name, seed, clock.budget))
            for frames in (1_000, 2_000):
                if clock(None, frames):
                    return

        return train

    outcomes = race("ppo", {"a": runner("a"), "b": runner("b")}, [7, 8], 2_000, told.append)
    warm = solve._WARM_FRAMES
    assert order[:2] == [("a", 7, warm), ("b", 7, warm)]
    assert order[2:] == [("a", 7, 2_000), ("b", 7, 2_000), ("a", 8, 2_000), ("b", 8, 2_000)]
    assert [(each.seed, each.frames, each.lasting) for each in outcomes["a"]] == [(7, 2_000, None), (8, 2_000, None)]
    assert len(told) == 4


def test_rows_keep_the_runs_and_tell_lasting_from_first_touch():
    runs = [outcome(4, 100, 500, 500), outcome(9, 500, 126, 480), outcome(2, 475, 500, 474)]
    rows = list(to_rows("dqn", {"rlpipe": runs, "sb3": runs[2:]}, 7_500))
    assert [(row.case, row.unit) for row in rows] == [
        ("dqn, lasting", "s of training"),
        ("dqn, first touch", "s of training"),
        ("dqn, training", "us a frame"),
    ]
    # the run that did not last counts with all its seconds
    assert rows[0].samples == {"rlpipe": [3.0, 4.5, 4.5], "sb3": [4.5]}
    assert rows[1].samples == {"rlpipe": [3.0, 1.5, 1.5], "sb3": [1.5]}
    assert rows[2].samples["rlpipe"] == [pytest.approx(600.0)] * 3
    extra = rows[0].extra
    assert extra["budget"] == 7_500
    kept = extra["runs"]["rlpipe"][1]
    assert (kept["seed"], kept["frames"], kept["seconds"]) == (9, 7_500, 4.5)
    assert kept["checks"][1] == {"frames": 5_000, "seconds": 3.0, "mean": 126}
    assert kept["lasting"] == {"frames": 7_500, "seconds": 4.5, "mean": 480}
    assert kept["first_touch"] == {"frames": 2_500, "seconds": 1.5, "mean": 500}
    assert extra["runs"]["sb3"][0]["lasting"] is None


def test_the_summary_shows_the_worst_seed_and_what_did_not_last():
    good, fell = outcome(4, 100, 500, 500), outcome(9, 500, 126, 480)
    lost, never = outcome(2, 475, 500, 474), outcome(5, 9, 9, 9)
    told = summarize({"rlpipe": [good, fell, good], "torchrl": [good, fell, lost], "sb3": [lost, never], "none": []})
    assert told == {
        "rlpipe": {
            "lasted": "3 of 3",
            "median": "3.00 s, 5 000 frames",
            "worst": "4.50 s, 7 500 frames (seed 9)",
            "first touch": "3.00 s, 5 000 frames",
            "worst first touch": "3.00 s, 5 000 frames (seed 4)",
            "lowest after it": "126 (seed 9)",
        },
        "torchrl": {
            "lasted": "2 of 3",
            "median": "4.50 s, 7 500 frames",
            "worst": "not within the budget (seed 2)",
            "first touch": "1.50 s, 2 500 frames",
            "worst first touch": "3.00 s, 5 000 frames (seed 4)",
            "lowest after it": "126 (seed 9)",
        },
        "sb3": {
            "lasted": "0 of 2",
            "median": "more than 4.50 s, 7 500 frames",
            "worst": "not within the budget (seeds 2, 5)",
            "first touch": "more than 3.00 s, 5 000 frames",
            "worst first touch": "not within the budget (seed 5)",
            "lowest after it": "474 (seed 2)",
        },
    }
    printed = describe([Row("dqn, lasting", "s", {"rlpipe": [3.0]}, {"summary": told})])
    assert "| case | arm | lasted | median | worst | first touch | worst first touch | lowest after it |" in printed
    assert "| dqn | torchrl | 2 of 3 | 4.50 s, 7 500 frames | not within the budget (seed 2) |" in printed


def test_arms_by_what_is_compared_against():
    assert list(make_runners("ppo", [])) == ["rlpipe"]
    assert list(make_runners("ppo", ["sb3", "torchrl"])) == ["rlpipe", "torchrl", "sb3"]
    assert list(make_runners("ppo", ["torchrl serial", "torchrl trainer"]))[1:] == ["torchrl trainer", "torchrl serial"]
    assert "sb3" not in make_runners("reinforce", ["sb3"])


def test_recipes_are_run_with_the_seed_and_have_frames_enough():
    config = recipe_config("a2c", 4)
    assert (config.seed, config.env_id) == (4, "CartPole-v1")
    for algorithm, frames in solve.BUDGETS.items():
        assert recipe_config(algorithm, 0).total_frames >= frames
        assert solve.ZOO.get(algorithm, {}).get("n_timesteps", frames) >= frames


@pytest.mark.parametrize("name", ["rlpipe", "torchrl", "torchrl trainer", "torchrl serial", "sb3"])
@pytest.mark.parametrize("algorithm", ["ppo", "dqn", "a2c"])
def test_every_arm_is_judged_and_stops(algorithm, name):
    if name == "sb3":
        pytest.importorskip("stable_baselines3", reason="needs the extra rlpipe[benchmark]")

    def judge(policy):
        return solve.evaluate(policy, solve.EnvConfig("CartPole-v1"), episodes=2, seed=0).mean

    clock = Race(judge, frames=600, every=300)
    make_runners(algorithm, [name])[name](algorithm, 0, clock)
    assert 1 <= len(clock.checks) <= 2
    # batches are of up to 1024 frames
    assert 600 <= clock.frames <= 1_024
    assert clock.seconds >= clock.checks[-1].seconds > 0
    assert all(check.mean > 1 for check in clock.checks)


@pytest.mark.parametrize("name", ["rlpipe", "torchrl", "torchrl trainer", "sb3"])
def test_no_arm_is_built_on_the_clock(name, monkeypatch):
    """What was built when the clock begins: environments, networks, and whatever trains them."""
    if name == "sb3":
        pytest.importorskip("stable_baselines3", reason="needs the extra rlpipe[benchmark]")
    order = []

    class Clock(Race):
        def start(self):
            order.append("start")
            super().start()

    for each in ("builder", "build_stock", "build_trainer", "build_sb3"):
        make = getattr(solve, each)

        def noted(*args, each=each, make=make):
            made = make(*args)
            order.append(each)
            return (lambda config: noted(config, make=made)) if callable(made) else made

        monkeypatch.setattr(solve, each, noted)
    make_runners("ppo", [name])[name]("ppo", 0, Clock(lambda policy: 0.0, frames=300, every=10_000))
    assert order[-1] == "start"
    assert order.count("start") == 1
    assert len(order) > 1


def test_quick_runs_ppo_on_one_seed_for_half_its_frames(monkeypatch):
    monkeypatch.setattr(solve, "greedy_mean", lambda policy: 500.0)
    monkeypatch.setattr(solve, "BUDGETS", {"ppo": 4_000, "dqn": 4_000})
    told = []
    rows = list(run(against=["torchrl trainer"], quick=True, seeds=[2, 3], progress=told.append))
    assert [row.case for row in rows] == ["ppo, lasting", "ppo, first touch", "ppo, training"]
    assert list(rows[0].samples) == ["rlpipe"]
    (only,) = rows[0].extra["runs"]["rlpipe"]
    assert (only["seed"], only["frames"]) == (2, 2_048)
    assert len(told) == 1


def test_the_greedy_mean_of_a_policy_that_has_learned_nothing():
    assert 1 < solve.greedy_mean(solve.builder("ppo")(recipe_config("ppo", 0)).policy) < SOLVED


def test_every_run_has_one_thread(monkeypatch):
    seen = []

    def greedy(algorithm, seed, clock):
        seen.append(torch.get_num_threads())
        clock(None, 100)
        torch.set_num_threads(2)

    before = torch.get_num_threads()
    solve.race("ppo", {"one": greedy, "other": greedy}, [0, 1], 100, lambda line: None)
    assert seen == [1] * 6
    assert torch.get_num_threads() == before
