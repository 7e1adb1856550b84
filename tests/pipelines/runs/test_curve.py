"""The curve of a run: evaluation returns in front, training returns behind."""

import json

import numpy as np
import pytest

from rlpipe.pipelines.runs.curve import draw_curve, make_figure, moving_mean

EVALUATION = "evaluation return: mean, and 10 to 90 % of its episodes"
TRAINING = "training return, with exploration: each episode, and the mean of the last 2"


def write(folder, episodes, evaluations):
    config = {"recipe": "ppo", "config": {"env_id": "CartPole-v1", "seed": 0}}
    (folder / "config.json").write_text(json.dumps(config))
    for name, rows in (("metrics.jsonl", episodes), ("evaluations.jsonl", evaluations)):
        lines = [json.dumps({"frames": frames, "returns": returns}) + "\n" for frames, returns in rows]
        (folder / name).write_text("".join(lines))
    return folder


def said(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_evaluations_are_in_front_and_strong(tmp_path):
    figure = make_figure(write(tmp_path, [(10, [1.0, 3.0]), (20, [5.0])], [(10, [2.0, 4.0]), (20, [500.0])]), 2)
    assert said(figure) == [EVALUATION, TRAINING]
    (axes,) = figure.axes
    evaluated, (dots, mean) = axes.containers[0][0], axes.lines[-2:]
    assert evaluated.get_ydata().tolist() == [3.0, 500.0]
    bars = axes.containers[0][2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[2.2, 3.8], [500.0, 500.0]])
    assert dots.get_ydata().tolist() == [1.0, 3.0, 5.0]
    assert mean.get_ydata().tolist() == [1.0, 2.0, 4.0]
    assert evaluated.zorder > mean.zorder > dots.zorder
    assert evaluated.get_linewidth() > mean.get_linewidth()
    assert evaluated.get_color() != mean.get_color() == dots.get_color()
    assert axes.get_xlim()[0] == 0


@pytest.mark.parametrize(
    ("episodes", "evaluations", "names"),
    [
        ([(10, [-1.0])], [], [TRAINING]),
        ([], [(10, [-200.0, -200.0])], [EVALUATION]),
        ([], [], []),
        ([(10, [-1e30])], [(10, [1e30])], [EVALUATION, TRAINING]),
    ],
)
def test_little_to_draw(tmp_path, episodes, evaluations, names):
    assert said(make_figure(write(tmp_path, episodes, evaluations), 2)) == names
    assert draw_curve(tmp_path, 2).read_bytes().startswith(b"\x89PNG")


def test_moving_mean():
    np.testing.assert_allclose(moving_mean(np.array([1.0, 3.0, 5.0, 9.0]), 2), [1.0, 2.0, 4.0, 7.0])
