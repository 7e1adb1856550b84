"""Each example learns what it says, by the command that it says."""

import pytest
from example_files import load, train

pytestmark = pytest.mark.learning
# means of 100 greedy episodes, below the worst of seeds 0 to 4
THRESHOLDS = {
    "c51": 150.0,
    "curriculum": 0.99,
    "dueling_double_dqn": 200.0,
    "noisy_dqn": 100.0,
    "pixel_grid": 0.9,
    "ppo_kl": 200.0,
    "rnd": 0.99,
    "shared_encoder": 300.0,
}


@pytest.mark.parametrize(
    "name", [name if name == "rnd" else pytest.param(name, marks=pytest.mark.slow) for name in THRESHOLDS]
)
def test_it_learns(name, tmp_path):
    assert train(name, tmp_path / "run")["evaluation"]["mean"] >= THRESHOLDS[name]


@pytest.mark.slow
def test_plain_ppo_does_not_solve_the_lake_of_rnd(tmp_path):
    assert train("rnd", tmp_path / "run", "--curiosity", "0")["evaluation"]["max"] == 0


@pytest.mark.slow
def test_the_whole_way_from_the_beginning_is_not_learned(tmp_path):
    assert train("curriculum", tmp_path / "run", "--distance", "30")["evaluation"]["max"] == 0


@pytest.mark.slow
def test_the_search_finds_the_learning_rate_that_learns(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    search = load("optuna_search")
    means = search.main(seeds=2, rates=(1e-6, 1e-3))
    assert means[1e-3] > 250
    assert "best is lr 0.001" in capsys.readouterr().out
    # once more into a folder of its own
    search.main(seeds=1, rates=(1e-3,), total_frames=1024)
    assert len(list((tmp_path / "runs" / "optuna").iterdir())) == 2
