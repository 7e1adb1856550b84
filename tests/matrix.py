"""Whether rlpipe works with the newest, the pinned and the lowest versions of what it needs: `make matrix`.

Each is installed into an empty environment under `build/matrix`, trains `ppo` there, and runs the quick
tests. Prints a table, and fails if one of them did.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "matrix"
KINDS = ("newest", "pinned", "lowest")
PACKAGES = ("torch", "torchrl", "tensordict", "gymnasium", "numpy", "safetensors", "matplotlib")
# need no extra but pytest, xdist and hypothesis
TESTS = (
    "tests/losses",
    "tests/modules",
    "tests/pipelines/checkpoints/test_checkpoint.py",
    "tests/pipelines/collectors/test_collector.py",
    "tests/pipelines/collectors/test_evaluation.py",
    "tests/pipelines/updates/test_recorder.py",
    "tests/pipelines/runs/test_resume.py",
    "tests/pipelines/test_session.py",
    "tests/pipelines/algorithms/test_tabular.py",
    "tests/scripts/test_table.py",
)
_VERSIONS = f"""
import platform
from rlpipe.pipelines.runs.versions import version_of
print(platform.python_version(), *map(version_of, {PACKAGES}))
"""


def main(kinds: list[str]) -> int:
    """Try each kind; the exit code."""
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        print(f"matrix: {unknown[0]!r} is unknown; allowed are {', '.join(KINDS)}", file=sys.stderr)
        return 2
    shutil.rmtree(BUILD, ignore_errors=True)
    rows = [try_out(kind) for kind in kinds or KINDS]
    columns = ["versions", "Python", *PACKAGES, "`rlpipe train ppo`", "quick tests"]
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return int(any("failed" in cell for row in rows for cell in row))


def try_out(kind: str) -> list[str]:
    """Install one kind and use it; its row of the table."""
    folder = BUILD / kind
    folder.mkdir(parents=True)
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    constraints = folder / "constraints.txt"
    constraints.write_text(constraints_of(kind))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints]
    if run(*pip, ROOT, "pytest", "pytest-xdist", "hypothesis"):
        return [kind, *["failed to install"], *["" for _ in PACKAGES], "", ""]
    for each in ("tests", "scripts", "setup.cfg"):
        (folder / each).symlink_to(ROOT / each)
    versions = subprocess.run([python, "-c", _VERSIONS], cwd=folder, check=True, capture_output=True, text=True)
    trained = run(folder / "venv" / "bin" / "rlpipe", "train", "ppo", "--quiet", cwd=folder)
    tested = run(python, "-m", "pytest", "-n", "auto", "--dist", "loadfile", *TESTS, cwd=folder)
    return [kind, *versions.stdout.split(), *("failed" if code else "passed" for code in (trained, tested))]


def constraints_of(kind: str) -> str:
    """What pip is held to: nothing, the pins, or the lower limit of each of rlpipe's own requirements."""
    if kind == "newest":
        return ""
    if kind == "pinned":
        return (ROOT / "constraints.txt").read_text()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    limits = re.findall(r"^([\w-]+)(?:\[.*\])?>=([\d.]+)", setup["options"]["install_requires"], re.MULTILINE)
    return "".join(f"{name}=={version}\n" for name, version in limits)


def run(*command: object, cwd: Path = ROOT) -> int:
    """Run a command, shown, without what this process was told of packages; its exit code."""
    words = list(map(str, command))
    print("$", *words, flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(words, cwd=cwd, check=False, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
