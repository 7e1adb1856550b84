"""Compiles a tape with PyTorch's compiler, once for all runs of a user."""

from __future__ import annotations

import logging
import operator
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.utils._pytree import tree_leaves, tree_map

from rlpipe.errors import first_line
from rlpipe.pipelines.updates.replay import Replay, below_autograd, snapshot
from rlpipe.pipelines.updates.tape import Tape

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_OPTIONS = {
    # one function in C++, without Python between its kernels
    "cpp_wrapper": True,
    # a single function gives other processes nothing to do, and several runs may share the machine
    "compile_threads": 1,
    # they take longer than they save, and 140 MB among the temporary files
    "cpp_cache_precompile_headers": False,
    # takes a second at each start; should the compiler not know the processor's instructions, it fails
    "cpp.vec_isa_ok": True,
}
_MOST_OPERATIONS = 2_000
"""Of more, compiling takes minutes."""


class CompilerError(Exception):
    """An update could not be compiled; the message is one line."""


def compiled(tape: Tape, inputs: Sequence[Tensor], outputs: Sequence[Tensor], state: Sequence[Tensor]) -> Replay:
    """The tape, compiled; `state` are tensors that it may write into, which trying it out changes back.

    Raises:
        CompilerError: there is no working C++ compiler, or it cannot compile an operation.
    """
    if len(tape.operations) > _MOST_OPERATIONS:
        raise CompilerError(f"they have {len(tape.operations)} operations, of which compiling takes too long")
    graph, constants = _graph(tape, inputs, outputs)
    restore = snapshot([*state, *inputs])
    try:
        with torch.no_grad():
            function = compile_graph(graph, [each.detach() for each in (*inputs, *constants)])
        replay = below_autograd(lambda *others: function(*others, *constants))
        replay(*inputs)
    except Exception as error:
        # anything may fail in a compiler
        missing = "InvalidCxxCompiler" in str(error)
        raise CompilerError(
            "there is no C++ compiler; install g++ or set CXX" if missing else first_line(error)
        ) from error
    finally:
        restore()
    return replay


def compile_graph(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """The graph as a function of tensors like `inputs`, by PyTorch's compiler or from its cache."""
    _keep_cache()
    with warnings.catch_warnings():
        # PyTorch warns of parts of its own
        warnings.simplefilter("ignore")
        # not above, because it takes a second
        from torch._inductor import config, standalone_compile  # noqa: PLC0415

        on_cpu = all(each.device.type == "cpu" for each in inputs)
        # code is made for a number of threads, which then tells it from others in the cache
        options = {**_OPTIONS, "cpp.threads": torch.get_num_threads()} if on_cpu else {}
        # draws are those of the eager update
        options["fallback_random"] = True
        # other versions of PyTorch have other options
        with config.patch({name: value for name, value in options.items() if hasattr(config, name)}):
            return standalone_compile(graph, list(inputs), dynamic_shapes="from_example_inputs")


def _keep_cache() -> None:
    """Have PyTorch's compiler keep its cache; its own default is a folder for temporary files."""
    # importing PyTorch's compiler sets the variable to its default
    if os.environ.get(_CACHE, default_cache_dir()) != default_cache_dir():
        return
    home = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(home) if home else Path.home() / ".cache") / "rlpipe" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logging.getLogger("rlpipe").warning("what is compiled is not kept for later runs: %s", error)
    else:
        os.environ[_CACHE] = str(folder)


def _graph(tape: Tape, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[fx.GraphModule, list[Tensor]]:
    """The tape as a graph, and the tensors to pass after its inputs."""
    known, constants = set(map(id, inputs)), []
    for _, args, kwargs, results in [*tape.operations, (None, outputs, {}, ())]:
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor) and id(each) not in known:
                constants.append(each)
                known.add(id(each))
        known.update(map(id, tree_leaves(results)))
    graph = fx.Graph()
    nodes = {id(each): graph.placeholder(f"x{index}") for index, each in enumerate((*inputs, *constants))}

    def node(value: Any) -> Any:
        return nodes[id(value)] if isinstance(value, Tensor) else value

    for function, args, kwargs, results in tape.operations:
        result = graph.call_function(function, tree_map(node, args), tree_map(node, kwargs))
        if isinstance(results, (tuple, list)):
            nodes.update(
                (id(each), graph.call_function(operator.getitem, (result, i))) for i, each in enumerate(results)
            )
        else:
            nodes[id(results)] = result
    graph.output(tuple(map(node, outputs)))
    return fx.GraphModule(torch.nn.Module(), graph), constants
