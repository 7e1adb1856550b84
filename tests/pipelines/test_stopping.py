"""When a run stops, and what it says."""

import pytest

from rlpipe.errors import CheckpointError
from rlpipe.pipelines.algorithms import q_learning
from rlpipe.pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rlpipe.pipelines.stopping import StoppingRule


def told(rule, *batches, **scalars):
    """Tell a rule of batches of returns one by one, and give the number of the first after which it stops."""
    for number, returns in enumerate(batches, start=1):
        rule.after_batch(returns, scalars)
        if rule.reason:
            return number
    return None


def test_without_conditions_nothing_stops():
    rule = StoppingRule()
    assert told(rule, [1e9] * 1000, change=0.0) is None
    rule.after_evaluation(1e9)
    assert rule.reason == ""
    assert rule.episodes == 1000


def test_total_episodes():
    rule = StoppingRule(total_episodes=3)
    assert told(rule, [1.0], [], [2.0], [], [3.0, 4.0]) == 5
    assert rule.reason == "3 episodes"
    assert rule.episodes == 4


@pytest.mark.parametrize(("mean", "reason"), [(4.99, ""), (5.0, "an evaluation return of 5.00")])
def test_the_mean_return_of_an_evaluation(mean, reason):
    rule = StoppingRule(at_return=5.0)
    assert told(rule, [100.0]) is None
    rule.after_evaluation(mean)
    assert rule.reason == reason


def test_the_mean_of_the_last_episodes():
    rule = StoppingRule(at_mean=4.0, window=3)
    # the first two are no window yet; the mean of -9, 5, 7 is 1, that of 5, 7, 0 is 4
    assert told(rule, [100.0, 100.0], [-200.0, -9.0], [5.0, 7.0], [0.0]) == 4
    assert rule.reason == "a mean training return of 4.00 over 3 episodes"


def test_a_window_counts_in_the_middle_of_a_batch():
    rule = StoppingRule(at_mean=4.0, window=2)
    assert told(rule, [0.0, 4.0, 4.0, -100.0]) == 1


def test_successes_in_a_row():
    rule = StoppingRule(successes=3, success_return=10.0)
    assert told(rule, [10.0, 11.0], [9.9], [10.0], [12.0], [], [10.0]) == 6
    assert rule.reason == "3 successes in a row"
    assert (rule.streak, rule.longest_streak) == (3, 3)


def test_a_failure_ends_the_streak_but_not_the_longest_one():
    rule = StoppingRule(success_return=1.0)
    told(rule, [1.0, 1.0, 1.0, 0.0, 1.0], [0.0, 2.0])
    assert (rule.streak, rule.longest_streak) == (1, 3)


def test_a_streak_that_a_batch_goes_beyond_stops_all_the_same():
    rule = StoppingRule(successes=2, success_return=1.0)
    assert told(rule, [1.0, 1.0, 0.0]) == 1
    assert rule.reason == "2 successes in a row"


def test_a_change_below_the_limit():
    rule = StoppingRule(at_change=0.5)
    rule.after_batch([], {})
    rule.after_batch([1.0], {"change": 0.5})
    assert rule.reason == ""
    rule.after_batch([], {"change": 0.00012})
    assert rule.reason == "a change of 1.2e-04"


def test_the_first_reason_is_kept():
    rule = StoppingRule(total_episodes=2, successes=2, at_return=0.0, at_change=1.0)
    rule.after_batch([0.0, 0.0], {"change": 0.0})
    rule.after_evaluation(1.0)
    assert rule.reason == "2 episodes"
    rule = StoppingRule(total_episodes=2, at_return=0.0)
    rule.after_evaluation(1.0)
    rule.after_batch([0.0, 0.0], {})
    assert rule.reason == "an evaluation return of 1.00"


def test_within_a_batch_the_first_episode_that_stops_gives_the_reason():
    rule = StoppingRule(total_episodes=3, successes=2, success_return=1.0)
    rule.after_batch([1.0, 1.0, 1.0], {})
    assert rule.reason == "2 successes in a row"


@pytest.mark.parametrize("returns", [[], [3.0], [3.0, 4.0, -1.0, 5.0, 6.0]])
def test_a_rule_from_a_checkpoint_goes_on_where_it_was(tmp_path, returns):
    settings = {"at_mean": 5.0, "window": 3, "successes": 4, "success_return": 3.0}
    rule, other = StoppingRule(**settings), StoppingRule(**settings)
    rule.after_batch(returns, {})
    save_checkpoint(tmp_path / "checkpoint", {"stopping": rule}, {})
    other.after_batch([100.0, 100.0], {})
    load_checkpoint(tmp_path / "checkpoint", {"stopping": other})
    assert other.state_dict() == rule.state_dict()
    for value in (5.0, 3.0, 8.0, 1.0):
        rule.after_batch([value], {})
        other.after_batch([value], {})
        assert other.state_dict() == rule.state_dict()
    assert rule.reason


def test_a_loaded_rule_keeps_its_own_conditions():
    rule, other = StoppingRule(total_episodes=2, at_mean=1.0, window=2), StoppingRule(at_mean=9.0, window=3)
    rule.after_batch([0.0, 0.0], {})
    other.load_state_dict({**rule.state_dict(), "reason": ""})
    assert told(other, [9.0], [9.0], [9.0]) == 3
    assert other.reason == "a mean training return of 9.00 over 3 episodes"


def test_a_checkpoint_without_a_rule_is_refused(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", {}, {})
    with pytest.raises(CheckpointError, match="has no component 'stopping'"):
        load_checkpoint(tmp_path / "checkpoint", {"stopping": StoppingRule()})


def test_every_field_of_a_config_reaches_its_rule():
    config = q_learning.Config(
        total_episodes=1,
        stop_at_return=2.0,
        stop_at_mean=3.0,
        stop_window=4,
        stop_after_successes=5,
        success_return=6.0,
        stop_at_change=7.0,
    )
    assert config.stopping == StoppingRule(1, 2.0, 3.0, 4, 5, 6.0, 7.0)
