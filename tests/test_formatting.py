"""Returns, times and shares as text: literals, and the report's JavaScript beside them."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest

from rlpipe.formatting import column, duration, figure, rate, share, statistics
from rlpipe.scripts.display.run_stats import summary_of

SCRIPT = Path(__file__).parents[1] / "scripts" / "reports" / "numbers.js"

COLUMNS = [
    # as they have always been
    ([500.0, 500.0, 494.0], ["500.0", "500.0", "494.0"]),
    ([-84.3], ["-84.3"]),
    ([1.0, 0.0], ["1.00", "0.00"]),
    ([0.0], ["0.00"]),
    ([-0.0, 500.0], ["0.0", "500.0"]),
    ([1234.5, -2.0], ["1,234.5", "-2.0"]),
    ([0.75], ["0.75"]),
    ([-9.994], ["-9.99"]),
    # small ones
    ([0.0009], ["0.000900"]),
    ([4e-4, 1e-4, -2.5e-4], ["0.000400", "0.000100", "-0.000250"]),
    ([-0.004], ["-0.00400"]),
    ([0.0123, 0.0004], ["0.0123", "0.0004"]),
    ([5e-5, 1.2e-5, 0.0], ["5.00e-05", "1.20e-05", "0"]),
    ([1e-300], ["1.00e-300"]),
    # large ones
    ([1e6], ["1,000,000"]),
    ([1e7], ["1.00e+07"]),
    ([-1e8, 2.25e7, 5.0, 0.0], ["-1.00e+08", "2.25e+07", "5", "0"]),
    ([1.7e308, -1.7e308], ["1.70e+308", "-1.70e+308"]),
    # small ones among large ones, and roundings of float64, which are zero
    ([500.0, 0.0009], ["500.0", "0.000900"]),
    ([1e8, -0.4], ["1.00e+08", "-0.40"]),
    ([1.0, -1e-17], ["1.00", "0.00"]),
    # those that would look equal
    ([1.00042, 1.00073], ["1.00042", "1.00073"]),
    ([499.98, 500.0], ["499.980", "500.000"]),
    ([1.0, 1.0 + 1e-9], ["1.00", "1.00"]),
    ([1.00001e8, 1.00002e8], ["1.000010e+08", "1.000020e+08"]),
]


@pytest.mark.parametrize(("values", "texts"), COLUMNS)
def test_returns_have_significant_digits(values, texts):
    assert column(values, ",") == texts


def test_the_report_writes_the_same():
    if (node := shutil.which("node")) is None:
        pytest.skip("needs Node.js")
    code = f"{SCRIPT.read_text()}\nconsole.log(JSON.stringify({json.dumps([each for each, _ in COLUMNS])}.map(column)))"
    done = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [texts for _, texts in COLUMNS]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stays_what_it_is_and_the_rest_readable(value):
    assert column([value, 4e-4]) == [str(value), "0.000400"]
    assert figure(value) == str(value)


def test_thousands_are_set_apart_as_asked_for():
    assert (figure(-12345.67), figure(-12345.67, ","), figure(-12345.67, " ")) == ("-12345.7", "-12,345.7", "-12 345.7")


STATISTICS = [
    ((500.0, 0.0, 500.0, 500.0), "500.0 +- 0.0 (500.0 to 500.0)"),
    ((-84.3, 12.04, -130.0, -62.0), "-84.3 +- 12.0 (-130.0 to -62.0)"),
    ((9.1e-4, 2.24e-4, 5e-4, 1.3e-3), "0.00091 +- 0.00022 (0.00050 to 0.00130)"),
    ((9e-4, 0.0, 9e-4, 9e-4), "0.000900 +- 0.000000 (0.000900 to 0.000900)"),
    ((1.00042, 3.1e-4, 1.0, 1.0012), "1.00042 +- 0.00031 (1.00000 to 1.00120)"),
    ((1e8, 2.2e7, 5e7, 1.4e8), "1.00e+08 +- 2.20e+07 (5.00e+07 to 1.40e+08)"),
    ((1e-18, 1.0, -1.0, 1.0), "0.00 +- 1.00 (-1.00 to 1.00)"),
    # returns are summed in float32
    ((500.0, 2e-5, 500.0, 500.00003), "500.0 +- 0.0 (500.0 to 500.0)"),
    ((math.nan, math.nan, 1.0, math.inf), "nan +- nan (1.00 to inf)"),
]


@pytest.mark.parametrize(("values", "text"), STATISTICS)
def test_a_mean_and_its_deviation_have_the_same_decimals(values, text):
    found = statistics(dict(zip(("mean", "std", "min", "max"), values, strict=True)))
    assert f"{found['mean']} +- {found['std']} ({found['min']} to {found['max']})" == text


def test_an_evaluation_of_infinite_returns_has_words():
    from rlpipe.pipelines.progress import Evaluation

    assert summary_of(Evaluation((math.inf, 1.0), (1, 1))) == {"mean": "inf", "std": "nan", "min": "1.00", "max": "inf"}


def test_times_rates_and_shares():
    assert [duration(each) for each in (0.0, 0.0213, 0.35, 1.0, 312.44)] == ["0.0", "0.021", "0.35", "1.0", "312.4"]
    assert [rate(each) for each in (0.0, 0.042, 9.4, 10.2, 1234567.8)] == ["0", "0.042", "9.4", "10", "1,234,568"]
    # 100 % is all of it, and a run may collect more than was asked for
    assert [share(*each) for each in ((0, 9), (999, 1000), (50_176, 50_000))] == ["0%", "99%", "100%"]
