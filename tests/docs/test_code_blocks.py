"""Each code block in the documents: Python is run, commands are parsed, and the fast ones are run too.

`total_frames=N` of a page becomes 2048 here. Two kinds of blocks are not run: those under a line
`<!-- not run: why -->`, and excerpts, whose first line is a comment with the name of the source that must contain them.
"""

from __future__ import annotations

import configparser
import importlib.util
import re
import shlex
import shutil
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro
from page_files import write_files

from rlpipe.scripts.main import COMMANDS, run

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    )
    if page.is_file()
]
FRAMES = 2048
# the others take longer, or open a window
CHEAP = {"recipes", "table", "evaluate", "resume"}
FENCE = re.compile(r"\s*(`{3,})\s*(\w*)")
EXCERPT = re.compile(r"# ([\w/]+\.py)$")
COMMAND = re.compile(r"(\w+=\S* )*(rlpipe|make|python3?|pip|for) ")
PROSE_COMMAND = re.compile(rf"(?<!`)`(rlpipe (?:{'|'.join(COMMANDS)})\b[^`]*)`(?!`)")
OPERATORS = {";", "|", "&", "&&", "||", ">", ">>", "<", "do", "done", "(", ")"}


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    line: int
    language: str
    text: str
    above: str

    @property
    def is_run(self) -> bool:
        return not self.above.startswith("<!-- not run: ")


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, including those in lists."""
    lines = page.read_text().splitlines()
    found, begun = [], None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if begun is None and fence:
            # GitHub accepts any indentation in a list
            assert fence.start(1) % 4 == 0, f"{page}: line {number + 1}: MkDocs needs four spaces per level"
            begun, ticks, language = number, fence[1], fence[2]
        elif begun is not None and line.strip() == ticks:
            text = textwrap.dedent("\n".join(lines[begun + 1 : number]))
            found.append(Block(begun + 1, language, text, lines[begun - 1].strip() if begun else ""))
            begun = None
    assert begun is None, f"{page}: the block in line {begun + 1} has no end"
    return found


def commands_of(page: Path) -> list[list[str]]:
    """Return the commands in the blocks of a page."""
    lines = [
        line.removeprefix("$ ")
        for block in blocks_of(page)
        if block.language != "python" and block.is_run
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    return [words for line in lines if COMMAND.match(line) for words in words_of(line)]


def commands_in_prose(page: Path) -> list[list[str]]:
    """Return the rlpipe commands in `code` outside blocks, without those that have a word in CAPITALS."""
    prose = page.read_text()
    for block in blocks_of(page):
        prose = prose.replace(block.text, "")
    found = [" ".join(code.split()) for code in PROSE_COMMAND.findall(prose)]
    return [words for code in found if not re.search(r"\b[A-Z]+\b|\.\.\.", code) for words in words_of(code)]


def words_of(line: str) -> list[list[str]]:
    """Return the simple commands of a line of shell as words; a variable becomes 0."""
    commands: list[list[str]] = [[]]
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in lexer:
        if word in OPERATORS:
            commands.append([])
        else:
            commands[-1].append(re.sub(r"\$\{?\w+\}?", "0", word))
    return [words for words in commands if words]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    quick = ["--final-eval-episodes", "2", "--eval-every", str(FRAMES), "--quiet"]
    assert run(["train", "ppo", "--total-frames", str(FRAMES), *quick, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # a page's algorithm has the name of another page's
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("rlpipe.user_files._LOADED", {})
    before = set(sys.modules)
    yield
    for path in tmp_path.rglob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


class EnoughError(Exception):
    """Raised once the options of a command are parsed, to stop there."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_runs(page, own_ids):
    names = {"__name__": "__main__"}
    for block in blocks_of(page):
        excerpt = EXCERPT.match(block.text.split("\n")[0])
        if block.language != "python" or not block.is_run:
            continue
        if excerpt is not None:
            check_excerpt(page, excerpt[1], block.text)
            continue
        code = re.sub(r"\btotal_frames=[\d_]+", f"total_frames={FRAMES}", block.text)
        # so that a traceback has the line of the page
        exec(compile("\n" * block.line + code, str(page), "exec"), names)


def check_excerpt(page, source, text):
    wanted, there = ([line.strip() for line in each.splitlines()] for each in (text, (ROOT / source).read_text()))
    wanted = wanted[1:]
    places = range(len(there) - len(wanted) + 1)
    # test_algorithm_pages.py checks those of the algorithms
    assert page.parent.name == "algorithms" or any(there[at : at + len(wanted)] == wanted for at in places), (
        f"{page.name}: the excerpt of {source} is not in it"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_parsed(page, trained, monkeypatch, capsys):
    monkeypatch.setattr(tyro, "cli", stop_after(tyro.cli))
    commands = commands_of(page) + commands_in_prose(page)
    write_files(blocks_of(page), commands)
    for words in commands:
        name = " ".join(words)
        program, *rest = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
        if program == "rlpipe":
            try:
                code = run(rest)
            except EnoughError:
                code = 0
            assert code == 0, f"{page.name}: {name}: {capsys.readouterr().err}"
        elif program == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {word for word in rest if "=" not in word} <= set(targets), f"{page.name}: {name}"
        elif program in ("python", "python3") and rest[0] == "-c":
            compile(rest[1], name, "exec")
        elif program in ("python", "python3") and rest[0] != "-m":
            assert (ROOT / rest[0]).is_file(), f"{page.name}: {name}: there is no such file"
        elif program in ("python", "python3") and rest[1] not in ("pip", "venv"):
            assert importlib.util.find_spec(rest[1]) is not None, f"{page.name}: {name}: there is no such module"
        elif program == "pip":
            assert extras_in(rest) <= extras(), f"{page.name}: {name}: there is no such extra"


def stop_after(cli):
    def parse(*arguments, **options):
        cli(*arguments, **options)
        raise EnoughError

    return parse


def extras_in(words):
    return {each for word in words for found in re.findall(r"\[(.*)\]", word) for each in found.split(",")}


def extras():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return set(settings["options.extras_require"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_cheap_commands_run(page, trained, capsys):
    write_files(blocks_of(page), commands_of(page))
    for program, *rest in commands_of(page):
        if program != "rlpipe" or rest[0] not in CHEAP or "--help" in rest:
            continue
        words = ["2" if before == "--episodes" else word for before, word in zip(["", *rest], rest, strict=False)]
        if "--total-frames" in words:
            words[words.index("--total-frames") + 1] = str(2 * FRAMES)
        # create the paths that the page names
        for word in words[1:]:
            if re.match(r"runs|RUN", word) and not Path(word).exists():
                shutil.copytree(trained, Path(word, "ppo/0") if word == "runs" else word)
            elif Path(word).suffix == ".png":
                Path(word).parent.mkdir(parents=True, exist_ok=True)
                Path(word).unlink(missing_ok=True)
        assert run(words) == 0, f"{page.name}: {' '.join(words)}: {capsys.readouterr().err}"
