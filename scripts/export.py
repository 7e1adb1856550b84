"""`rlpipe export RUN`: write a trained policy to a file that can be used without rlpipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpipe.pipelines.agents.export_files import SUFFIXES, Format, check_new, format_of
from rlpipe.pipelines.checkpoints.names import frames_of
from rlpipe.pipelines.runs.read import read_run
from rlpipe.scripts.cli.options import RUN, RunOptions, parse_run
from rlpipe.scripts.cli.text import printable
from rlpipe.scripts.display.starting import meanwhile, starting
from rlpipe.scripts.main import run


@dataclass(frozen=True)
class Options(RunOptions):
    """Options of `rlpipe export`."""

    format: Format | None = None
    """onnx and torch write the greedy policy as a program, safetensors its weights; by default the format follows from
    the suffix of --out (.onnx, .pt2 or .safetensors), or is safetensors."""
    out: Path | None = None
    """The new file; by default RECIPE-SEED-FRAMES with the format's suffix, in the current folder."""


def main(arguments: Sequence[str]) -> int:
    """Export, and print what was written."""
    path, options = parse_run(
        Options, arguments, "export", f"Write the policy of a run to a file that can be used without rlpipe. {RUN}"
    )
    # fails fast, before heavy imports
    described, checkpoint = read_run(path, options.trust_module)
    kind = format_of(options.out, options.format)
    out = options.out or _default_name(described, checkpoint, SUFFIXES[kind])
    check_new(out, kind)

    with starting(str(path)):
        from rlpipe.pipelines.agents.load import load

        # the checkpoint found above, even if a newer one appears meanwhile
        agent = load(checkpoint, trust=options.trust_module)

    with meanwhile(f"{path}: writing and checking {printable(str(out))}"):
        written = agent.export(out, kind)
    print(json.dumps(written) if options.json else _describe(written))
    return 0


def _default_name(described: dict[str, Any], checkpoint: Path, suffix: str) -> Path:
    recipe, seed = (_plain(str(each)) for each in (described["recipe"], described["config"].get("seed", 0)))
    return Path(f"{recipe}-{seed}-{frames_of(checkpoint)}{suffix}")


def _plain(text: str) -> str:
    """Make a text safe as part of a file name."""
    return "".join(each if each.isalnum() or each in "-_" else "-" for each in text)[:80]


def _describe(written: dict[str, Any]) -> str:
    lines = [f"{printable(written['path'])}, {written['bytes']:,} bytes, {written['format']}"]
    for what in ("inputs", "outputs", "tensors"):
        for each in written.get(what, []):
            shape = ", ".join(map(str, each["shape"]))
            lines.append(f"  {what.removesuffix('s'):<8} {each['name']} [{shape}] {each['dtype']}")
    if written["format"] == "safetensors":
        lines.append("  checked  read back: every tensor is the policy's")
    else:
        lines.append(f"  checked  acts as the policy does on {written['checked']} observations")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(["export", *sys.argv[1:]]))
