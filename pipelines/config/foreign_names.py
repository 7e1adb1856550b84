"""Option names of Stable-Baselines3, CleanRL, rl-zoo3 and TorchRL, and the option or the advice here for each.

Names are written as on the command line, with dashes. `docs/coming-from.md` lists the usual ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from rlpipe.spelling import nearest

RENAMED: dict[str, str] = {
    "env-kwargs": "env-args environment-kwargs env-config make-kwargs env-arguments",
    "wrapper": "env-wrapper wrappers wrapper-class env-wrappers",
    "frame-stack": "n-stack num-stack framestack stack num-frames-stack frame-stacking stack-size",
    "action-repeat": "frame-skip frameskip action-repeats n-repeat-action",
    "time-aware": "time-feature time-feature-wrapper time-aware-observation",
    "env-id": "env env-name environment gym-id task game",
    "num-envs": "n-envs n-env nenvs num-env",
    "total-frames": "total-timesteps -n n-timesteps num-timesteps timesteps total-steps frames num-frames",
    "total-episodes|episodes": "num-episodes n-episodes max-episodes",
    "rollout-steps": "n-steps num-steps rollout-length",
    "minibatch-size": "batch-size mini-batch-size",
    "epochs": "n-epochs num-epochs update-epochs noptepochs",
    "lr|step-size": "learning-rate alpha",
    "adam-eps": "optimizer-eps adam-epsilon rms-prop-eps",
    "optimizer": "optimizer-class",
    "gamma": "discount discount-factor",
    "lmbda": "gae-lambda lambda lam",
    "clip": "clip-range clip-coef cliprange clip-epsilon clip-param",
    "value-clip": "clip-range-vf cliprange-vf",
    "entropy-coefficient|alpha": "ent-coef entropy-coef ent-coeff entropy-coeff",
    "value-coefficient": "vf-coef value-coef vf-coeff critic-coef critic-coeff",
    "normalize-observation": "norm-obs normalize-obs",
    "normalize-reward": "norm-reward",
    "clip-observation": "clip-obs",
    "normalize-advantage": "norm-adv normalize-advantages",
    "hidden": "net-arch hidden-sizes hidden-size hidden-dim hidden-layers",
    "activation": "activation-fn",
    "warmup-frames": "learning-starts learning-start start-steps start-timesteps",
    "learn-alpha": "autotune auto-alpha automatic-entropy-tuning",
    "policy-delay": "policy-frequency policy-freq actor-delay",
    "target-noise": "target-policy-noise policy-noise",
    "target-noise-clip": "noise-clip target-clip",
    "noise-std": "exploration-noise action-noise-std explore-noise",
    "epsilon-start": "exploration-initial-eps start-e eps-start epsilon-initial epsilon",
    "epsilon-end": "exploration-final-eps end-e eps-end epsilon-final",
    "double": "double-q double-dqn",
    "quantiles": "n-quantiles num-quantiles",
    "kappa": "huber-kappa huber-threshold",
    "dueling": "dueling-dqn dueling-network",
    "eval-episodes|episodes": "n-eval-episodes num-eval-episodes",
    "eval-env-id": "eval-env",
    "max-episode-steps|max-steps": "max-episode-length max-ep-len episode-length time-limit",
    "stop-at-return": "reward-threshold target-reward stop-reward",
    "end-at-life-loss": "terminal-on-life-loss episodic-life",
    "curve-window": "stats-window-size",
    "recurrent": "use-lstm use-rnn recurrent-policy rnn-type",
    "threads": "num-threads n-threads torch-threads",
    "run-dir|out": "exp-name run-name log-folder log-dir logdir output-dir save-path -f",
    "start-from": "trained-agent pretrained load-model -i",
}
"""Our option (of several, the first that a command has), and its names in other libraries."""

CHANGED: dict[str, tuple[str, str]] = {
    "num-minibatches": ("minibatch-size", "the size of one: {num-envs} * {rollout-steps} / num-minibatches"),
    "nminibatches": ("minibatch-size", "the size of one: {num-envs} * {rollout-steps} / nminibatches"),
    "num-iterations num-updates": ("total-frames", "iterations * {num-envs} * {rollout-steps}"),
    "train-freq train-frequency": (
        "rollout-steps",
        "steps of each environment before each round of updates",
    ),
    "frames-per-batch": ("rollout-steps", "of each environment: {num-envs} * {rollout-steps} frames are a batch"),
    "gradient-steps": ("updates", "after each batch of {num-envs} * {rollout-steps} frames"),
    "q-lr policy-lr actor-lr critic-lr": ("lr", "one for all networks"),
    "action-noise noise-type": ("noise-std", "Gaussian, and Ornstein-Uhlenbeck with {noise-steps} above 1"),
    "anneal-lr": ("lr-schedule linear", "or constant"),
    "clip-vloss": ("value-clip", "a distance in units of return; none is off"),
    "exploration-fraction": ("epsilon-frames", "in frames: the fraction times {total-frames}"),
    "epsilon-decay eps-decay": ("epsilon-frames", "frames to {epsilon-end}; {epsilon-schedule} has other ways down"),
    "target-update-interval target-network-frequency": (
        "target-every",
        "in gradient steps, not in frames; {tau} 1 copies",
    ),
    "polyak": ("tau", "1 - polyak"),
    "log-std-init": ("initial-std", "the exponential of it"),
    "optimize-memory-usage": ("replay-storage frames", "for stacked pixels"),
    "weight-decay": ("optimizer adamw", "with a decay of 0.01"),
    "use-rms-prop": ("optimizer", "adam or adamw; there is no RMSprop"),
    "ortho-init": ("initialization orthogonal", "or default"),
    "lstm": ("recurrent lstm", "or gru"),
    "lstm-hidden-size rnn-hidden-size rnn-hidden-dim lstm-size": ("recurrent-size", "with {recurrent} lstm or gru"),
    "policy-kwargs": ("hidden", "beside {activation}, {initialization} and {layer-norm}"),
    "normalize vec-normalize": ("normalize-observation", "beside {normalize-reward}"),
    "normalize-frames": ("normalize-observation", "by running statistics in place of those of random frames"),
    "clip-rewards": ("reward-shaping clip", ""),
    "gym-packages": ("env-id", "with the module in front of it: module:Env-v0"),
    "vec-env vec-env-cls": ("backend", "auto for dummy, async for subproc"),
    "num-workers num-cpu": ("num-collectors", "with {collector} processes"),
    "cuda num-gpus use-cuda": ("device cuda", "or cpu, the default"),
    "eval-freq": ("eval-every", "in frames of all environments together"),
    "save-freq checkpoint-freq": ("checkpoint-every", "in frames of all environments together"),
    "log-interval log-freq": ("log-every", "in frames of all environments together"),
    "info-keywords": ("log-info", "KEY:last for the end of episodes, or KEY for the mean over steps"),
    "track use-wandb": ("logger wandb", ""),
    "tensorboard-log tensorboard -tb": ("logger tensorboard", "the default; it writes into the run folder"),
    "capture-video record-video": ("gif", "an episode after training; rlpipe render draws more"),
    "verbose": ("quiet", "and --watch"),
    "progress progress-bar -P": ("quiet", "which hides the bar that is shown by default"),
    "deterministic": ("eval-stochastic|stochastic", "the other way round: greedy is the default"),
    "n-jobs": ("jobs", "beside --seeds"),
}
"""Options that work differently here: ours, with its value where that is fixed, and the difference."""

_OPTUNA = "examples/optuna_search.py searches hyperparameters with Optuna"
ABSENT: dict[str, str] = {
    "use-sde sde-sample-freq": "there is no state-dependent exploration (gSDE)",
    "policy": "layers or convolutions follow from the observation",
    "steps": "{total-frames} are the steps of all environments, {rollout-steps} those of each in a batch",
    "algo": "the recipe comes before the options: rlpipe train ppo",
    "config hyperparams hyperparameters params conf-file yaml-file": (
        "rlpipe train --config FILE, or rlpipe.train(FILE), reads options from a file"
    ),
    "vec-env-wrapper vec-env-kwargs": "{wrapper} wraps each environment; {num-envs} of them step together",
    "reward-scale": "rewards are not scaled by a fixed number; {normalize-reward} divides them by a running one",
    "prioritized-replay": "recipes draw uniformly; examples/dueling_double_dqn.py has prioritised replay",
    "noisy-net": "examples/noisy_dqn.py has it",
    "n-eval-envs num-eval-envs": "an evaluation chooses the number of environments itself",
    "save-replay-buffer": "checkpoints hold the replay buffer",
    "save-model": "every run keeps checkpoints; rlpipe export writes the policy of a run",
    "upload-model hf-entity": "nothing is uploaded; rlpipe export writes the policy of a run",
    "torch-deterministic": "on the CPU the same seed and versions give the same run to the bit",
    "uuid": "run folders get unique names by default",
    "wandb-project-name wandb-project": "the environment variable WANDB_PROJECT names it, with {logger} wandb",
    "wandb-entity": "the environment variable WANDB_ENTITY names it, with {logger} wandb",
    "wandb-tags": "the environment variable WANDB_TAGS names them, with {logger} wandb",
    "optimize optimize-hyperparameters n-trials n-startup-trials sampler pruner study-name storage": _OPTUNA,
    "n-lstm-layers": "a recurrent policy has one layer",
    "shared-lstm enable-critic-lstm": "actor and critic of a recurrent policy share its memory",
    "callback": "rlpipe.train calls the function progress with every event",
    "render render-mode": "rlpipe render draws episodes of a run, and rlpipe train --watch shows the training",
}
"""Options that do not exist here, and what to use instead."""

_TRAINS = "num-envs"
"""An option that only training commands have."""
_OF_THE_COMMAND = ("seeds", "jobs", "json", "quiet", "watch")
"""Options of `rlpipe train` that `rlpipe.train` does not have."""
_IN_PYTHON = {"run-dir": "folder", "logger": "loggers", "wrapper": "wrappers"}
"""Options of `rlpipe train` that `rlpipe.train` has under another name."""
_RENAMED = {theirs: ours for ours, names in RENAMED.items() for theirs in names.split()}
_CHANGED = {theirs: how for names, how in CHANGED.items() for theirs in names.split()}
_ABSENT = {theirs: why for names, why in ABSENT.items() for theirs in names.split()}
_ALL = (*_RENAMED, *_CHANGED, *_ABSENT)


def explain(
    option: str,
    names: Collection[str],
    owners: Callable[[str], Sequence[str]] = lambda _: (),
    *,
    python: bool = False,
) -> str:
    """Explain what to use in place of an unknown option.

    Args:
        option: as given, without the leading `--`.
        names: the existing options; those that are on by default begin with `no-`.
        owners: gives the algorithms that have an option.
        python: whether they are keyword arguments of `rlpipe.train`.

    Returns:
        The part of a message that follows "no option is called ...;", empty if nothing is known.
    """
    say = _Options({_dashed(name) for name in names}, python=python)
    name = _dashed(option)
    bare = name.removeprefix("no-")
    for each in (name, bare):
        if answer := say.about(each):
            return answer
    if python and bare in _OF_THE_COMMAND:
        return f"only the command has it, rlpipe train --{bare}"
    if others := owners(bare):
        listed = " and ".join(filter(None, [", ".join(others[:-1]), others[-1]]))
        return f"only {listed} {'has' if len(others) == 1 else 'have'} it"
    if near := nearest(name, say.names) or nearest(bare, say.names):
        return f"did you mean {say.spell(near)}?"
    if near := nearest(bare, [theirs for theirs in _ALL if len(theirs) > 2 and say.about(theirs)]):
        return f"if that is {near.replace('-', '_') if python else f'--{near}'}: {say.about(near)}"
    return ""


class _Options:
    """The existing options, and how they are written."""

    def __init__(self, names: set[str], *, python: bool) -> None:
        self._python, self._trains = python, _TRAINS in names
        self.names = names | {ours for ours, keyword in _IN_PYTHON.items() if python and keyword in names}

    def about(self, theirs: str) -> str:
        """Describe our counterpart of another library's option; empty if it is unknown."""
        if f"no-{theirs}" in self.names:
            return f"it is on here; {self.spell(f'no-{theirs}')} switches it off"
        if theirs in _ABSENT:
            return self._fill(_ABSENT[theirs]) if self._trains else ""
        target, remark = _CHANGED.get(theirs, (_RENAMED.get(theirs, ""), ""))
        ours = target.split("|") if target else []
        here = next((each for each in ours if self.names & {each.split()[0], f"no-{each.split()[0]}"}), None)
        if here is None:
            return self._missing(ours[0].split()[0]) if ours and self._trains else ""
        if (name := here.split()[0]) not in self.names:
            return f"it is {name} here, and on; {self.spell(f'no-{name}')} switches it off"
        return f"it is {self.spell(here)} here{f', {self._fill(remark)}' if remark else ''}"

    def _missing(self, name: str) -> str:
        if name == "quiet":
            return "a bar is shown by default, and nothing with progress=False; a function is called with every event"
        if name in _OF_THE_COMMAND:
            return f"only the command has it, rlpipe train --{name}"
        return f"other recipes have {self.spell(name)} for it, this one has no such option"

    def spell(self, option: str) -> str:
        """Write an option, with its value if it has one, as a user types it."""
        name, _, value = option.partition(" ")
        if not self._python:
            return f"--{option}"
        name = _IN_PYTHON.get(name, name).replace("-", "_")
        return f"{name}={value if value.isdigit() else repr(value)}" if value else name

    def _fill(self, text: str) -> str:
        def spelled(found: re.Match[str]) -> str:
            # what is on by default has only the option that switches it off
            off = f"no-{found[1]}"
            return self.spell(off if off in self.names else found[1])

        return re.sub(r"\{([a-z-]+)\}", spelled, text)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
