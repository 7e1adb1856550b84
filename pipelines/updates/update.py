"""Updates: a gradient step on a minibatch, and how a collected batch becomes gradient steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.data import ReplayBuffer
from torchrl.data.replay_buffers import PrioritizedSampler as StockPrioritizedSampler
from torchrl.data.replay_buffers import SamplerWithoutReplacement

from rlpipe.pipelines.devices import REPLAY, Execution, gpu_memory_for
from rlpipe.pipelines.pipeline import Update
from rlpipe.pipelines.replay.prioritized import PrioritizedSampler
from rlpipe.pipelines.updates.recorder import make_gradient

_BATCH = "--num-envs or --rollout-steps"


def gradient_step(
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    max_norm: float | None = None,
    max_value: float | None = None,
    after: Sequence[Callable[[], object]] = (),
    execution: Execution = "eager",
) -> Update:
    """An update: the loss, its gradient, clipping, the optimiser.

    Args:
        loss: a loss module, ours or TorchRL's; the sum of its `loss*` entries is minimised.
        optimizer: over the loss's parameters. Its groups and their `requires_grad` are read at each step; a parameter
            that requires no gradient is left as it is.
        max_norm: scale the gradient down to this norm over all parameters.
        max_value: clamp each element of the gradient to this magnitude, before the norm is taken.
        after: called after each step, such as a `TargetUpdate`.
        execution: how the gradient is computed, see `make_gradient`; `"recorded"` gives the same numbers in less time.

    Returns:
        An update; it returns the loss's entries, detached, and `grad_norm` (after `max_value`, before `max_norm`).
    """
    parameters = _parameters_of(optimizer)
    learned = {id(parameter) for parameter in loss.parameters()}
    if not any(id(parameter) in learned for parameter in parameters):
        raise ValueError(
            f"the optimizer holds no parameter of {type(loss).__name__} that takes a gradient; make it over "
            "loss.parameters()"
        )
    gradient_of = make_gradient(loss, parameters, execution)

    def update(minibatch: TensorDictBase) -> TensorDictBase:
        # in place, because `gradient_of` reads this list; groups may be added at any time
        parameters[:] = _parameters_of(optimizer)
        gradient, terms = gradient_of(minibatch)
        if all(grad is None for grad in gradient):
            losses = [key for key in terms if key.startswith("loss")]
            raise ValueError(
                f"{type(loss).__name__} gives nothing to minimise: none of its entries {list(terms)} whose name begins "
                f"with 'loss' ({losses}) depends on a parameter that the optimizer holds and that takes a gradient"
            )
        if any(parameter._post_accumulate_grad_hooks for parameter in parameters):
            gradient = [_accumulated(parameter, grad) for parameter, grad in zip(parameters, gradient, strict=True)]
        clipped, norm = _clip([grad for grad in gradient if grad is not None], max_norm, max_value)
        for parameter, grad in zip(parameters, gradient, strict=True):
            parameter.grad = None if grad is None else next(clipped)
        optimizer.step()
        for call in after:
            call()
        return TensorDict({**terms, "grad_norm": norm})

    return update


def _parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _accumulated(parameter: nn.Parameter, gradient: Tensor | None) -> Tensor | None:
    """The gradient after the hooks that a backward pass would call on the parameter."""
    hooks = parameter._post_accumulate_grad_hooks
    if gradient is None or not hooks:
        return gradient
    parameter.grad = gradient
    for hook in hooks.values():
        hook(parameter)
    return parameter.grad


def _clip(gradient: list[Tensor], max_norm: float | None, max_value: float | None) -> tuple[Iterator[Tensor], Tensor]:
    """The gradient clipped by value and then by norm, and its norm in between. Not in place: tensors may repeat."""
    if not gradient:
        return iter(()), torch.zeros(())
    if max_value is not None:
        gradient = [each.clamp(-max_value, max_value) for each in gradient]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradient)))
    if max_norm is not None:
        # as PyTorch's clip_grad_norm_ has it
        gradient = list(torch._foreach_mul(gradient, (max_norm / (norm + 1e-6)).clamp_max(1.0)))
    return iter(gradient), norm


def on_policy(
    advantage: Update, buffer: ReplayBuffer, update: Update, *, epochs: int, keys: Sequence[NestedKey]
) -> Update:
    """Learn from a batch: compute its advantages, run epochs of minibatches, then forget it.

    Args:
        advantage: writes `advantage` and `value_target` into a batch `[num_envs, T]`.
        buffer: of the batch's size, with a `SamplerWithoutReplacement`: iterating it is one epoch.
        update: one gradient step.
        epochs: passes over the batch.
        keys: what the update reads; the rest is not copied.
    """
    # iterating any other sampler never ends
    if not isinstance(buffer.sampler, SamplerWithoutReplacement):
        name = type(buffer.sampler).__name__
        raise ValueError(f"on_policy needs a buffer with a SamplerWithoutReplacement, this one has a {name}")

    def learn(batch: TensorDictBase) -> TensorDictBase:
        _check_fits(buffer, batch)
        with gpu_memory_for("the advantages of a batch", _BATCH):
            # even if the buffer has room: what it holds was collected by an older policy
            buffer.empty()
            buffer.extend(advantage(batch).select(*keys).reshape(-1))
        with gpu_memory_for("an update", "--minibatch-size"):
            return mean_of([update(minibatch) for _ in range(epochs) for minibatch in buffer])

    return learn


def once(update: Update, *, keys: Sequence[NestedKey], advantage: Update | None = None) -> Update:
    """Learn from a whole batch in one gradient step, then forget it.

    Args:
        update: one gradient step.
        keys: what it reads.
        advantage: applied to the batch `[num_envs, T]` before.
    """

    def learn(batch: TensorDictBase) -> TensorDictBase:
        with gpu_memory_for("an update with a whole batch", _BATCH):
            batch = batch if advantage is None else advantage(batch)
            return mean_of([update(batch.select(*keys).reshape(-1))])

    return learn


def off_policy(buffer: ReplayBuffer, update: Update, *, updates: int, warmup: int, keys: Sequence[NestedKey]) -> Update:
    """Learn from replay: store each batch, then draw minibatches from everything stored.

    With a `PrioritizedSampler`, minibatches hold importance weights, `priority_weight` `[B]`, and the `priority` `[B]`
    that the update returns (as with `DQNLoss(prioritized=True)`) becomes the samples' priority.

    Args:
        buffer: draws minibatches of its own `batch_size`.
        update: one gradient step.
        updates: gradient steps a collected batch.
        warmup: frames to store before the first update.
        keys: what the update reads; the rest is not stored.

    Raises:
        ValueError: a number out of range, a buffer smaller than the warm-up, or a sampler that does not fit.
    """
    capacity = getattr(buffer.storage, "max_size", math.inf)
    if updates < 1 or warmup < 0 or warmup > capacity:
        raise ValueError(
            f"updates is {updates} and warmup {warmup}; allowed are 1 or more, and 0 to {capacity}, what the "
            "buffer holds"
        )
    if isinstance(buffer.sampler, PrioritizedSampler) and buffer.sampler.capacity < capacity:
        raise ValueError(f"the sampler is for {buffer.sampler.capacity} transitions, and the buffer has {capacity}")
    prioritized = isinstance(buffer.sampler, (PrioritizedSampler, StockPrioritizedSampler))
    if "priority_weight" in keys and not prioritized:
        raise ValueError(
            "the loss reads 'priority_weight', which a buffer with a PrioritizedSampler gives; this one has a "
            f"{type(buffer.sampler).__name__}"
        )
    stored = [key for key in keys if key != "priority_weight"]

    def learn(batch: TensorDictBase) -> TensorDictBase:
        _check_fits(buffer, batch)
        with gpu_memory_for(*REPLAY):
            buffer.extend(batch.select(*stored).reshape(-1))
        if len(buffer) < warmup:
            return mean_of([])
        with gpu_memory_for("an update", "--minibatch-size"):
            if prioritized:
                return mean_of([_update_by_priority(buffer, update) for _ in range(updates)])
            return mean_of([update(buffer.sample()) for _ in range(updates)])

    return learn


def _update_by_priority(buffer: ReplayBuffer, update: Update) -> TensorDictBase:
    """One gradient step on a minibatch drawn by priority, which it updates; returns the other scalars."""
    minibatch, drawn = buffer.sample(return_info=True)
    scalars = update(minibatch.set("priority_weight", drawn["priority_weight"]))
    # TorchRL's losses write theirs into the minibatch
    priority = scalars.pop("priority", minibatch.get("td_error", None))
    if priority is None:
        raise ValueError(
            "the buffer draws by priority, and the loss returns no 'priority': DQNLoss(prioritized=True) does, and so "
            "can a custom loss, [B] and detached"
        )
    buffer.update_priority(drawn["index"], priority)
    return scalars


def _check_fits(buffer: ReplayBuffer, batch: TensorDictBase) -> None:
    capacity = getattr(buffer.storage, "max_size", math.inf)
    if batch.numel() > capacity:
        raise ValueError(
            f"the buffer has room for {capacity} frames, and a batch has {batch.numel()}; make its storage that large"
        )


def mean_of(scalars: Sequence[TensorDictBase]) -> TensorDictBase:
    """The mean of each entry over several updates, with their number as `updates`."""
    mean: TensorDictBase = torch.stack(list(scalars)).mean(0) if scalars else TensorDict()
    return mean.set("updates", torch.tensor(len(scalars)))
