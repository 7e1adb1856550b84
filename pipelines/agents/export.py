"""Exporting a run's policy to a file: safetensors, ONNX, or a `torch.export` program. Each file is checked."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlpipe.errors import ConfigError, RlpipeError, exists_already, first_line
from rlpipe.pipelines.agents.export_check import cases
from rlpipe.pipelines.agents.export_files import Format
from rlpipe.pipelines.agents.greedy_policy import GreedyPolicy, tensors
from rlpipe.pipelines.checkpoints.durable_files import publish, sync
from rlpipe.pipelines.envs.entries import Key, name_of
from rlpipe.version import __version__

if TYPE_CHECKING:
    from rlpipe.pipelines.agents.agent import Agent

Act = Callable[..., Any]
"""From the inputs of a `GreedyPolicy` to its outputs."""


def export(agent: Agent, kind: Format, out: Path) -> dict[str, Any]:
    """Write a file, load it, compare it with the policy, and only then give it its name.

    Returns:
        What was written: `path`, `format`, `bytes`, `inputs` and `outputs` (name, shape and dtype of each), `checked`
        (the number of observations) and `apart` (the largest difference of an action).

    Raises:
        ConfigError: the file exists, or the policy is of a kind that cannot be exported.
        RlpipeError: the file cannot be written, or does not act as the policy does.
    """
    if os.path.lexists(out):
        raise exists_already("out", out)
    greedy = GreedyPolicy(agent).eval()
    stage = out.with_name(f".{out.name}.{os.getpid()}.partial")
    write = {"safetensors": _write_safetensors, "onnx": _write_onnx, "torch": _write_torch}[kind]
    try:
        try:
            with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC), _quiet():
                act = write(greedy, _metadata(agent, greedy), stage)
                checked, apart = _check(agent, greedy, act)
            sync(stage)
            publish(stage, out)
            sync(out.parent)
        except OSError as error:
            raise RlpipeError(f"out {out} cannot be written: {error.strerror or error}") from error
    finally:
        stage.unlink(missing_ok=True)
    example = greedy.example(1)
    given = greedy(*example)
    inputs = dict(zip(_names(greedy.input_keys), example, strict=True))
    outputs = dict(zip(_names(greedy.output_keys), given if isinstance(given, tuple) else (given,), strict=True))
    written = {"path": str(out), "format": kind, "bytes": out.stat().st_size}
    if kind == "safetensors":
        shapes = {"tensors": [_entry(name, value, ()) for name, value in tensors(greedy).items()]}
    else:
        shapes = {
            "inputs": [_entry(name, value[0], ("batch",)) for name, value in inputs.items()],
            "outputs": [_entry(name, value[0], ("batch",)) for name, value in outputs.items()],
        }
    return {**written, **shapes, "checked": checked, "apart": apart}


def _check(agent: Agent, greedy: GreedyPolicy, act: Act) -> tuple[int, float]:
    checked, apart = 0, 0.0
    for case in cases(agent, greedy):
        apart = max(apart, case.check(act(*case.inputs)))
        checked += len(case.inputs[0])
    # a batch of another size than it was made with
    case = next(cases(agent, greedy))
    case.check(act(*[each[:1] for each in case.inputs]), slice(1))
    return checked, apart


def _write_torch(greedy: GreedyPolicy, metadata: dict[str, str], path: Path) -> Act:
    file = io.BytesIO()
    torch.export.save(_program(greedy), file, extra_files={"rlpipe.json": json.dumps(metadata)})
    path.write_bytes(file.getvalue())
    with path.open("rb") as stream:
        return torch.export.load(stream).module()


def _write_onnx(greedy: GreedyPolicy, metadata: dict[str, str], path: Path) -> Act:
    import onnxruntime  # noqa: PLC0415 - an extra

    names, outputs = _names(greedy.input_keys), _names(greedy.output_keys)
    made = torch.onnx.export(_program(greedy), input_names=names, output_names=outputs, dynamo=True, verbose=False)
    if made is None:
        raise RlpipeError("PyTorch made no ONNX program")
    made.model.metadata_props.update(metadata)
    model = made.model_proto.SerializeToString()
    path.write_bytes(model)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def act(*inputs: Tensor) -> tuple[Tensor, ...]:
        fed = dict(zip(names, (each.numpy() for each in inputs), strict=True))
        return tuple(map(torch.from_numpy, session.run(outputs, fed)))

    return act


def _write_safetensors(greedy: GreedyPolicy, metadata: dict[str, str], path: Path) -> Act:
    from safetensors import safe_open  # noqa: PLC0415
    from safetensors.torch import load_file, save  # noqa: PLC0415

    expected = tensors(greedy)
    path.write_bytes(save(expected, metadata))
    with safe_open(path, "pt") as file:
        same = file.metadata() == metadata
    read = load_file(path)
    if not (same and read.keys() == expected.keys() and all(torch.equal(read[name], expected[name]) for name in read)):
        raise RlpipeError(f"{path} does not hold what was written to it")
    return greedy


def _program(greedy: GreedyPolicy) -> torch.export.ExportedProgram:
    example = greedy.example(3)
    shapes = {"observed": tuple({0: torch.export.Dim.DYNAMIC} for _ in example)}
    try:
        return torch.export.export(greedy, example, dynamic_shapes=shapes)
    except Exception as error:
        raise ConfigError(f"the policy cannot be exported as one function of tensors: {first_line(error)}") from error


def _metadata(agent: Agent, greedy: GreedyPolicy) -> dict[str, str]:
    return {
        "recipe": agent.recipe,
        "env_id": agent.settings.env_id,
        "frames": agent.checkpoint.name.removeprefix("frames-").lstrip("0") or "0",
        "rlpipe": __version__,
        "start": json.dumps(greedy.counted_from()),
        "config": json.dumps(asdict(agent.config)),
    }


def _names(keys: Sequence[Key]) -> list[str]:
    return [name_of(key) for key in keys]


def _entry(name: str, value: Tensor, batch: tuple[str, ...]) -> dict[str, Any]:
    return {"name": name, "shape": [*batch, *value.shape], "dtype": str(value.dtype).removeprefix("torch.")}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the log and the warnings of PyTorch's exporter."""
    before = logging.root.manager.disable
    try:
        logging.disable()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
