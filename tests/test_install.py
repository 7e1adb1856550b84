"""How rlpipe is found and what it needs, where it is not installed in the usual way."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from matrix import constraints_of

from rlpipe.pipelines.runs.versions import version_of

ROOT = Path(__file__).resolve().parent.parent


def test_a_checkout_is_found_from_its_folder_before_what_is_installed():
    # without the finder of an editable install, as after `pip install .`
    code = (
        "import sys; sys.meta_path = [each for each in sys.meta_path if 'editable' not in str(each).lower()]; "
        "from rlpipe import MLP; import rlpipe.losses, rlpipe.scripts.main as main; "
        "print(rlpipe.losses.__file__); print(main.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    expected = [str(ROOT / "losses" / "__init__.py"), str(ROOT / "scripts" / "main.py")]
    assert (done.returncode, done.stdout.split()) == (0, expected), done.stderr


def test_the_version_of_a_distribution_with_another_name(monkeypatch):
    def without_torchrl(name):
        if name == "torchrl":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    import torchrl

    monkeypatch.setattr(importlib.metadata, "version", without_torchrl)
    assert version_of("torchrl") == torchrl.__version__
    assert version_of("torch") == "1.0"


def test_the_version_of_what_is_not_installed():
    assert version_of("no_such_package") is None


def test_lowest_versions_are_those_of_setup_cfg():
    lowest = constraints_of("lowest").splitlines()
    setup = (ROOT / "setup.cfg").read_text()
    assert "numpy==2" in lowest
    assert "torchrl==0.14.1" in lowest
    assert all(line.replace("==", ">=") in setup.replace("[classic-control]", "") for line in lowest)


@pytest.mark.parametrize("kind", ["newest", "pinned"])
def test_other_kinds_of_constraints(kind):
    assert constraints_of(kind) == ("" if kind == "newest" else (ROOT / "constraints.txt").read_text())
