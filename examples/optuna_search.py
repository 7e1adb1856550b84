"""A grid of learning rates and seeds with Optuna, each trial a run of a recipe: `pip install "rlpipe[optuna]"`.

A learning rate's score is its mean return over seeds, since one seed says little (Henderson et al. 2018).
CartPole-v1, seeds 0 to 2: 116 with 1e-4, 467 with 1e-3, 347 with 3e-3; 20 s for all nine. Each trial has a run folder.
"""

from datetime import datetime
from pathlib import Path

import torch

import rlpipe

try:
    import optuna
except ImportError:
    raise SystemExit('optuna_search.py needs optuna: pip install "rlpipe[optuna]"') from None


def main(seed=0, total_frames=20_480, seeds=3, rates=(1e-4, 1e-3, 3e-3), folder=None):
    folder = Path(folder or f"runs/optuna/{datetime.now():%Y%m%d-%H%M%S-%f}")
    grid = {"lr": rates, "seed": range(seed, seed + seeds)}

    def objective(trial):
        options = {name: trial.suggest_categorical(name, values) for name, values in grid.items()}
        run = rlpipe.train("ppo", folder=folder / f"trial-{trial.number}", total_frames=total_frames, **options)
        return run.evaluation.mean

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GridSampler(grid, seed=seed))
    study.optimize(objective)

    trials = sorted(study.trials, key=lambda trial: trial.params["seed"])
    returns = {lr: [trial.value for trial in trials if trial.params["lr"] == lr] for lr in rates}
    means = {lr: sum(values) / len(values) for lr, values in returns.items()}
    print("lr          mean   of the seeds' returns")
    for lr, values in returns.items():
        print(f"{lr:<8g} {means[lr]:7.1f}  ", *(f"{value:6.1f}" for value in values))
    best = max(means, key=means.get)
    print(f"best is lr {best:g}: {means[best]:.1f} on CartPole-v1 after {total_frames} frames; runs in {folder}")
    return means


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
