"""`--watch`: what the view shows at any size, its fallback, and that it leaves the terminal as it was."""

import fcntl
import io
import json
import math
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from forked import Python
from rich.console import Console

from rlpipe.errors import ConfigError
from rlpipe.pipelines.algorithms import ppo
from rlpipe.pipelines.progress import Evaluation, Progress
from rlpipe.pipelines.training.signals import Interruption
from rlpipe.scripts.display.layout import View
from rlpipe.scripts.display.live_view import PER_SECOND, history, watching
from rlpipe.scripts.display.progress_bar import PlainLines, display
from rlpipe.scripts.display.run_stats import RunStats, Speed, clock, format_return
from rlpipe.scripts.display.sparkline import BLOCKS, Series, resample, sparkline
from rlpipe.scripts.main import run

SCALARS = {
    "loss_policy": -0.00414,
    "loss_value": 57.66,
    "loss_entropy": -0.00626,
    "entropy": 0.6257,
    "approx_kl": 0.000775,
    "clip_fraction": 0.05,
    "explained_variance": -0.0988,
    "grad_norm": 31.37,
    "learning_rate": 0.00075,
    "updates": 32,
    "seconds": 3.0,
    "frames_per_second": 1000.0,
}


def facts(folder="runs/ppo/0-20261121-120000", total=10_000, past=lambda *_: ()):
    return RunStats("ppo on CartPole-v1, seed 0", Path(folder), total, window=100, began=0.0, past=past)


def line(frames, returns=(), lengths=None, **scalars):
    lengths = [int(each) for each in returns] if lengths is None else lengths
    return Progress("training", frames, frames // 32, 12, frames / 1000, scalars or SCALARS, returns, lengths)


def told(known, *news):
    for at, each in enumerate(news):
        known.add(each, float(at))
    return known


def drawn(known, width, height, now=65.0, **options):
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(View(known, **options).render(width, height, now))
    return console.file.getvalue().splitlines()


def usual():
    evaluations = [Evaluation((90.0, 110.0), (90, 110)), Evaluation((40.0, 60.0), (40, 60))]
    news = [Progress("starting", 0)]
    for step in range(1, 9):
        news.append(line(step * 1000, [step * 10.0, step * 20.0]))
        if step % 4 == 0:
            news.append(Progress("evaluated", step * 1000, 250, 12, 8.0, evaluation=evaluations[step // 4 - 1]))
    return told(facts(), *news)


@pytest.mark.parametrize(("width", "height"), [(60, 15), (80, 24), (120, 30), (200, 50)])
def test_all_facts_are_shown_at_any_size_and_nothing_is_wider(width, height):
    rows = drawn(usual(), width, height)
    assert len(rows) <= height
    assert max(map(len, rows)) == width
    shown = " ".join(" ".join(rows).split())
    for fact in (
        "ppo on CartPole-v1, seed 0",
        "training",
        "run runs/ppo/0-20261121-120000",
        "frames 8,000 of 10,000 (80%)",
        "a second 1,000",
        "elapsed 1:05",
        "left 0:02",
        "episodes 12",
        "updates 250",
        "training return 67.5 over 16 episodes",
        "length 67.5",
        "scale 15.0 to 100.0",
        "evaluation return 50.0 +- 10.0",
        "range 40.0 to 60.0",
        "at frame 8,000",
        "best 100.0 at frame 4,000",
    ):
        assert fact in shown
    for key, value in list(SCALARS.items())[:-3]:
        assert re.search(rf"\b{key} +{re.escape(f'{value:.3g}')}( |$)", shown), key
    assert "frames_per_second" not in shown
    # half of the way to the second evaluation, the curve falls
    assert any("█" in row for row in rows)


def test_an_evaluation_says_how_often_it_succeeded(capsys):
    evaluation = Progress("evaluated", 1000, evaluation=Evaluation((1.0, 3.0), (2, 2), (1.0, None)))
    assert "success 100.0%" in " ".join(drawn(told(facts(), evaluation), 80, 24))
    assert "success" not in " ".join(drawn(usual(), 80, 24))
    lines = PlainLines("ppo", facts(), lambda: 0.0)
    lines(evaluation)
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "ppo: evaluation return 2.00 +- 1.00 (1.00 to 3.00), success 100.0% at frame 1,000"


def test_the_curves_grow_with_the_terminal():
    heights = [sum(any(mark in row for mark in BLOCKS) for row in drawn(usual(), 80, rows)) for rows in (15, 24, 50)]
    # that of the evaluations has 2, 4 and 8 rows; the other one does not reach the top of their scale
    assert heights == [4, 7, 13]


def test_the_curves_have_one_scale():
    rows = drawn(usual(), 80, 24)

    def height(above, column):
        return sum((" " + BLOCKS).index(row.ljust(80)[column]) for row in rows[above : above + 4])

    # of 32 levels: the last training return, 67.5 on a scale from 15 to 100, and the evaluations, 100 and 50
    assert [height(7, 79), height(14, 50), height(14, 79)] == [20, 32, 14]


def test_what_is_too_low_for_everything_keeps_the_counts():
    known = usual()
    for height in range(1, 15):
        rows = drawn(known, 60, height)
        assert len(rows) <= height
        assert height < 4 or "frames 8,000" in " ".join(rows)


def test_before_anything_is_known():
    shown = " ".join(drawn(facts(), 60, 15))
    assert all(each in shown for each in ("starting", "frames 0 of 10,000 (0%)", "a second -", "left -:--"))
    assert "no episode has ended yet" in shown
    assert "evaluation return none yet" in shown


def test_an_evaluation_that_is_being_made_is_told_with_its_time():
    known = told(facts(), line(1000, [1.0]), Progress("evaluating", 1000))
    assert drawn(known, 80, 24, now=8.0)[0].endswith("evaluating 0:07")
    known = told(facts(), line(1000, [1.0]), Progress("evaluating", 1000, final=True))
    assert drawn(known, 80, 24, now=8.0)[0].endswith("final evaluation 0:07")
    known.ended = "stopped"
    assert drawn(known, 80, 24)[0].endswith("stopped")


@pytest.mark.parametrize("returns", [[math.nan], [math.inf, -math.inf], [1e308, -1e308], [5.0], [0.0, math.nan, 3.0]])
def test_any_returns_and_scalars_are_shown(returns):
    known = told(facts(), *(line(index + 1, [value], [3], loss_td=value) for index, value in enumerate(returns)))
    known.add(Progress("evaluated", 9, evaluation=Evaluation(tuple(returns[:1]), (3,))), 0.0)
    for width, height in [(60, 15), (200, 50)]:
        rows = drawn(known, width, height)
        assert max(map(len, rows)) == width
        assert "loss_td" in " ".join(rows)


def test_what_a_name_holds_does_not_control_the_terminal():
    known = facts(folder="runs/" + "长" * 60 + "/\x1b[2J-end")
    known.title = "ppo on [bold]\x1b[31mx"
    rows = drawn(known, 60, 15)
    assert "\x1b" not in "".join(rows)
    assert "[bold]?[31mx" in rows[0]
    assert rows[1].startswith("run …长")
    assert rows[1].endswith("/?[2J-end")


def test_a_terminal_without_unicode_gets_none():
    assert "".join(drawn(usual(), 60, 15, ascii_only=True)).isascii()
    assert "".join(drawn(facts(folder="x" * 90), 60, 15, ascii_only=True)).isascii()


def test_sparkline_goes_from_the_lowest_mark_to_the_highest():
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == [BLOCKS]
    assert sparkline([-1e308, 1e308]) == ["▁█"]
    assert sparkline([0.0, 15.0], rows=2) == [" █", "▁█"]
    assert sparkline([0.0, 9.0, 15.0], rows=2) == [" ▂█", "▁██"]
    assert sparkline([3.0]) == sparkline([-7.0]) == ["▅"]
    assert sparkline([math.nan, 1.0, math.inf, 2.0]) == [" ▁ █"]
    assert sparkline([]) == [""]
    assert sparkline([0.0, 15.0], rows=2, ends=(-15.0, 30.0)) == [" ▃", "▆█"]


def test_resampling_keeps_the_ends_and_takes_means_between():
    points = [(index, float(index)) for index in range(1, 101)]
    # ten points a span, and the ends as they are
    assert resample(points, 10, 100) == [1.0, 15.5, 25.5, 35.5, 45.5, 55.5, 65.5, 75.5, 85.5, 100.0]
    # nothing before the first point, and the value before where a span has none
    assert resample([(50, 1.0), (100, 3.0)], 4, 100)[1:] == [1.0, 1.0, 3.0]
    assert math.isnan(resample([(50, 1.0), (100, 3.0)], 4, 100)[0])
    assert resample([(10, 2.0)], 3, 10)[-1] == 2.0
    assert all(map(math.isnan, resample([], 3, 10)))


def test_a_series_is_bounded_and_keeps_its_ends_and_extremes():
    series = Series(at_most=8)
    for index in range(1000):
        series.add(index, 1e6 if index == 500 else float(index))
    points = series.points()
    assert len(points) <= 8
    assert points[0] == (0, 0.0)
    assert points[-1] == (999, 999.0)
    assert [frames for frames, _ in points] == sorted(frames for frames, _ in points)
    assert (series.low, series.high) == (0.0, 1e6)
    series = Series()
    assert series.points() == []
    series.add(3, 7.0)
    assert series.points() == [(3, 7.0)]


def test_speed_leaves_out_the_first_line_and_forgets_what_is_long_ago():
    speed = Speed()
    assert speed.now is None
    speed.add(0, 0.0)
    speed.add(100, 10.0)
    assert speed.now == 10.0
    speed.add(200, 11.0)
    assert speed.now == 100.0
    for second in range(12, 40):
        speed.add(200 + 7 * (second - 11), float(second))
    assert speed.now == 7.0


def test_numbers_and_times_for_people():
    assert [format_return(each) for each in (0.5, -12.34, 1234.5, 2e9, math.nan)] == [
        "0.50",
        "-12.3",
        "1,234.5",
        "2.00e+09",
        "nan",
    ]
    assert [clock(each) for each in (None, math.inf, 0.4, 65, 3661)] == ["-:--", "-:--", "0:00", "1:05", "1:01:01"]


def test_a_resumed_run_shows_what_was_before(tmp_path):
    rows = [{"frames": frames, "returns": [frames / 100], "lengths": [3]} for frames in (1000, 2000, 9000)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluated = {"frames": 1000, "final": False, "returns": [4.0, 6.0], "lengths": [1, 1]}
    (tmp_path / "evaluations.jsonl").write_text(json.dumps(evaluated) + "\n")
    known = told(facts(tmp_path, past=history), Progress("starting", 2000, 60, 40, 5.0))
    assert known.returns.points() == [(1000, 10.0), (2000, 15.0)]
    assert known.best == (1000, 5.0)


DAMAGED = [
    "{}",
    "[]",
    "{",
    '{"frames": 1500, "returns": [1.0, 2.0], "lengths": [3]}',
    '{"frames": 1500, "returns": [1.0], "lengths": [Infinity]}',
    '{"frames": 1500, "returns": [1.0], "lengths": [-3]}',
    '{"frames": 1500, "returns": [NaN], "lengths": [3]}',
    f'{{"frames": 1500, "returns": [{10**400}], "lengths": [3]}}',
    f'{{"frames": 1500, "returns": [1.0], "lengths": [{10**400}]}}',
    '{"frames": 1500.5, "returns": [1.0], "lengths": [3]}',
    '{"frames": -1, "returns": [1.0], "lengths": [3]}',
    '{"frames": 1500, "final": false, "returns": [], "lengths": []}',
]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_damaged_rows_of_a_resumed_run_are_left_out(tmp_path, damaged):
    rows = [json.dumps({"frames": at, "returns": [at / 100], "lengths": [3]}) for at in (1000, 2000)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([rows[0], damaged, rows[1]]) + "\n")
    (tmp_path / "evaluations.jsonl").write_text(f"{damaged}\n")
    known = told(facts(tmp_path, past=history), Progress("starting", 2000, 60, 40, 5.0))
    assert known.returns.points() == [(1000, 10.0), (2000, 15.0)]
    assert drawn(known, 80, 24)


def broken(*_):
    raise ZeroDivisionError("of all things")


@pytest.mark.parametrize("where", ["rlpipe.scripts.display.layout.View.render", "rich.live.Live.start"])
def test_a_view_that_breaks_ends_in_one_line_and_not_the_run(monkeypatch, where):
    screen, interruption, told_later = io.StringIO(), Interruption(), []
    interruption.announce = usual_way = told_later.append
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(where, broken)
    console = Console(stderr=True, force_terminal=True, width=80, height=24)
    with watching(facts(), console, interruption) as watch:
        watch(line(1000, [1.0]))
        until = time.monotonic() + 120.0
        while "stopped" not in screen.getvalue():
            assert time.monotonic() < until
            time.sleep(0.01)
        interruption.announce("a signal came")
        watch(line(2000, [1.0]))
    assert interruption.announce == usual_way
    assert told_later == ["a signal came"]
    assert sys.stderr is screen
    assert (
        screen.getvalue().count("progress display stopped (ZeroDivisionError: of all things); the run continues\n") == 1
    )
    assert "Traceback" not in screen.getvalue()


def test_a_last_view_that_breaks_is_no_failure_of_the_run(monkeypatch, capsys):
    with watching(facts(), Console(file=io.StringIO(), force_terminal=True), Interruption()):
        monkeypatch.setattr("rlpipe.scripts.display.live_view.Watch._draw", broken)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_view_that_is_interrupted_as_it_begins_gives_back_what_it_took(monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rich.live.Live.start", interrupt)
    interruption = Interruption()
    usual_way = interruption.announce
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(KeyboardInterrupt), watching(facts(), console, interruption):
        pass
    assert interruption.announce is usual_way


def test_lines_that_break_are_no_failure_of_the_run(capsys):
    plain = PlainLines("ppo", facts(past=broken))
    plain(Progress("starting", 1000))
    plain(line(2000, [1.0]))
    plain.close()
    assert capsys.readouterr().err.splitlines() == [
        "rlpipe: progress display stopped (ZeroDivisionError: of all things); the run continues"
    ]


def test_the_final_evaluation_is_named_and_in_no_curve():
    known = usual()
    known.add(Progress("evaluated", 8000, evaluation=Evaluation((900.0, 900.0), (9, 9)), final=True), 0.0)
    assert known.best == (4000, 100.0)
    assert known.evaluations.points() == [(4000, 100.0), (8000, 50.0)]
    shown = " ".join(" ".join(drawn(known, 80, 24)).split())
    assert "final evaluation return 900.0 +- 0.0" in shown
    assert "best 100.0 at frame 4,000" in shown
    only = told(facts(), Progress("evaluated", 8000, evaluation=Evaluation((900.0,), (9,)), final=True))
    shown = " ".join(drawn(only, 80, 24))
    assert "final evaluation return 900.0" in shown
    assert "best" not in shown


def test_plain_lines_come_every_five_seconds_and_with_each_evaluation(capsys):
    now = [0.0]
    plain = PlainLines("ppo", facts(), lambda: now[0])
    for batch in range(1, 111):
        now[0] = batch / 10
        plain(line(batch * 50, [float(batch)]))
        if batch == 70:
            plain(Progress("evaluating", 3500))
            plain(Progress("evaluated", 3500, evaluation=Evaluation((90.0, 110.0), (90, 110))))
    plain.close()
    plain.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "ppo: 2,500 of 10,000 frames, training return 25.5, 1,000 frames a second, 0:08 left",
        "ppo: evaluation return 100.0 +- 10.0 (90.0 to 110.0) at frame 3,500",
        "ppo: 5,000 of 10,000 frames, training return 50.5, 1,000 frames a second, 0:05 left",
        # the end, which the run's own rule may have brought early
        "ppo: 5,500 of 10,000 frames, training return 60.5, 1,000 frames a second",
    ]


def test_redraws_do_not_depend_on_the_number_of_batches():
    assert 4 <= PER_SECOND <= 10
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    frames = []
    with watching(facts(total=50_000), console, Interruption()) as watch:
        begun, since = console.file.getvalue().count("elapsed"), time.monotonic()
        for step in range(1, 20_001):
            watch(line(step, [1.0]))
        frames.append(console.file.getvalue().count("elapsed") - begun)
        # one more may be under way
        most = (time.monotonic() - since) * PER_SECOND + 2
    assert frames[0] <= most
    assert "frames 20,000 of 50,000" in re.sub(r"\x1b\[[\d;?]*\w", "", console.file.getvalue())


def test_a_warning_and_a_signal_are_told_above_the_view(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    console, interruption = Console(stderr=True, force_terminal=True, width=80, height=24), Interruption()
    usual_way = interruption.announce
    with watching(facts(), console, interruption) as watch:
        watch(line(1000, [1.0]))
        sys.stderr.write("a warning [bold]of somebody\n")
        interruption.announce("rlpipe: a signal came")
    assert interruption.announce is usual_way
    assert sys.stderr is screen
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    for told_above in ("a warning [bold]of somebody", "rlpipe: a signal came"):
        assert re.search(rf"(^|[\r\n]){re.escape(told_above)} *\r?\n", shown)
        assert shown.rindex("frames 1,000 of 10,000") > shown.rindex(told_above)


def test_watch_and_quiet_are_refused_together(capsys, tmp_path):
    with pytest.raises(ConfigError, match="--watch shows the training and --quiet shows nothing"):
        display("ppo", ppo.Config(), watch=True, quiet=True)
    folder = tmp_path / "run"
    assert run(["train", "ppo", "--watch", "--quiet", "--run-dir", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not folder.exists()


SIZES = "--num-envs 4 --rollout-steps 32 --minibatch-size 64 --total-frames 2048 --eval-every 1024"
SHORT = ["ppo", *SIZES.split()]


@pytest.mark.parametrize("terminal", [False, True])
def test_without_a_terminal_that_can_draw_there_are_lines(monkeypatch, capsys, tmp_path, terminal):
    if terminal:
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    options = [*SHORT, "--watch", "--json", "--final-eval-episodes", "2", "--run-dir", str(tmp_path / "run")]
    assert run(["train", *options]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["frames"] == 2048
    assert "\x1b" not in err
    assert re.search(r"^ppo: evaluation .* at frame 1,024$", err, re.MULTILINE)
    assert re.search(r"^ppo: final evaluation .* at frame 2,048$", err, re.MULTILINE)
    assert re.search(r"^ppo: 2,048 of 2,048 frames, training return \d", err, re.MULTILINE)


class Terminal:
    """A command on a terminal of 60 columns and 15 rows, and everything that it wrote there."""

    def __init__(self, *arguments):
        keyboard, screen = pty.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 15, 60, 0, 0))
        self._screen, self._before, self._pieces = screen, termios.tcgetattr(screen), []
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
        self.process = Python("-m", "rlpipe", *arguments, stdin=screen, stdout=screen, stderr=screen, env=environment)
        self._reader = threading.Thread(target=self._read, args=[keyboard], daemon=True)
        self._reader.start()

    def _read(self, keyboard):
        try:
            while piece := os.read(keyboard, 65536):
                self._pieces.append(piece)
        except OSError:
            pass

    def end(self):
        """The exit code and what was written."""
        code = self.process.wait(timeout=300)
        assert termios.tcgetattr(self._screen) == self._before
        os.close(self._screen)
        self._reader.join(10.0)
        return code, b"".join(self._pieces).decode()


def assert_shows_the_cursor(text):
    assert text.rfind("\x1b[?25l") < text.rfind("\x1b[?25h")
    # nor is it hidden while it runs
    hidden, _, after = text.partition("\x1b[?25l")
    assert after.startswith("\x1b[?25h") or "\x1b[?25l" not in hidden + after


def test_a_run_on_a_terminal_and_one_that_is_interrupted(tmp_path):
    whole = Terminal("train", *SHORT, "--watch", "--final-eval-episodes", "2", "--run-dir", str(tmp_path / "whole"))
    longer = [*SHORT, "--total-frames", "10000000", "--watch", "--run-dir", str(tmp_path / "cut")]
    cut = Terminal("train", *longer)
    metrics, until = tmp_path / "cut" / "metrics.jsonl", time.monotonic() + 300.0
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 20:
        assert time.monotonic() < until
        assert cut.process.poll() is None
        time.sleep(0.02)
    cut.process.send_signal(signal.SIGINT)
    for (code, text), end in [(whole.end(), "finished"), (cut.end(), "stopped")]:
        assert_shows_the_cursor(text)
        plain = re.sub(r"\x1b\[[\d;?]*\w", "", text).replace("\r", "")
        assert code == (0 if end == "finished" else 130)
        last = plain[plain.rindex("ppo on CartPole-v1, seed 0  ") if end == "stopped" else plain.rindex(end) - 60 :]
        assert end in last.splitlines()[0]
        assert "evaluation" in last
        if end == "finished":
            assert "frames 2,048 of 2,048 (100%)" in last
            assert "\nppo on CartPole-v1, seed 0\n  evaluation  return " in last
            assert "\n  frames      2,048 in " in last
        else:
            assert "rlpipe: interrupted: finishing the batch and writing a" in plain
            assert re.search(r"\nrlpipe: interrupted at frame \d+; what was written is in ", last)
            assert "Traceback" not in plain
