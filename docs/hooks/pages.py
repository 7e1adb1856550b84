"""Hooks of MkDocs: add pages from outside docs/, translate links, lay out the packages.

Links in the documents are paths in the repository, as on GitHub. In the site each leads to the page of the same file; a
source file has a page if something links to it. The start page takes sections of README.md, which GitHub shows instead.
"""

from __future__ import annotations

import configparser
import posixpath
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "examples.md": "examples/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
"""Pages of the site and their files outside docs/; a link to the folder of such a file leads to its page too."""

START, README = "index.md", "README.md"
_SECTION = re.compile(rf"<!-- {README}: (.+?) -->")
_CACHES = shutil.ignore_patterns("__pycache__")
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")


def on_startup(*, command: str, dirty: bool) -> None:
    """Copy the packages as a wheel has them; mkdocstrings reads their source there, and needs an existing folder."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    stage = ROOT / "build" / "package"
    shutil.rmtree(stage, ignore_errors=True)
    for line in settings["options"]["package_dir"].split("\n"):
        if line:
            package, folder = line.split(" = ")
            shutil.copytree(ROOT / folder, stage.joinpath(*package.split(".")), ignore=_CACHES, dirs_exist_ok=True)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, and a page for each source file or folder that a page links to."""
    for uri, source in OUTSIDE.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    linked = {
        source
        for page in files.documentation_pages()
        for prose in _prose(_with_sections(page.content_string))
        for target, _ in _LINK.findall(prose)
        if (source := _in_repository(page.src_uri, target)) is not None
    }
    for source in sorted(linked):
        uri = _page_of(source)
        if files.get_file_from_path(uri) is None:
            content = _listing(source) if (ROOT / source).is_dir() else _code(source)
            files.append(File.generated(config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links in the repository into links in the site."""
    folder = posixpath.dirname(page.file.src_uri)
    markdown = _with_sections(markdown)

    def in_site(link: re.Match[str]) -> str:
        source = _in_repository(page.file.src_uri, link[1])
        return link[0] if source is None else posixpath.relpath(_page_of(source), folder) + (link[2] or "")

    for prose in set(_prose(markdown)):
        # GitHub has two notations for inline equations
        markdown = markdown.replace(prose, re.sub(r"\$`([^`]+)`\$", r"$\1$", _LINK.sub(in_site, prose)))
    return markdown


def _with_sections(markdown: str) -> str:
    """Put sections of README.md in the place of comments that name them."""

    def section(found: re.Match[str]) -> str:
        text = (ROOT / README).read_text().split(f"\n## {found[1]}\n")[1].split("\n## ")[0]
        return _LINK.sub(lambda link: posixpath.relpath(link[1], "docs") + (link[2] or ""), text)

    return _SECTION.sub(section, markdown)


def _in_repository(uri: str, target: str) -> str | None:
    """Return the path in the repository that a page's link leads to, or None for another site or a missing file."""
    home = posixpath.dirname(OUTSIDE.get(uri, f"docs/{uri}"))
    source = posixpath.normpath(posixpath.join(home, target))
    return source if (ROOT / source).exists() else None


def _page_of(source: str) -> str:
    """Return the site's page for a file or folder of the repository."""
    if source in (README, "."):
        return START
    for uri, outside in OUTSIDE.items():
        if source in (outside, posixpath.dirname(outside) or outside):
            return uri
    if source.startswith("docs/") and (ROOT / source).is_file():
        return source.removeprefix("docs/")
    return f"source/{source}.md"


def _prose(markdown: str) -> Iterator[str]:
    """Yield the lines outside fenced blocks."""
    fenced = False
    for line in markdown.splitlines(keepends=True):
        fence = line.lstrip().startswith("```")
        if not (fenced or fence):
            yield line
        fenced ^= fence


def _code(source: str) -> str:
    language = {".py": "python", ".cfg": "ini", ".toml": "toml", ".yml": "yaml"}.get(posixpath.splitext(source)[1], "")
    return f"# `{source}`\n\n````{language}\n{(ROOT / source).read_text()}\n````\n"


def _listing(source: str) -> str:
    folder = posixpath.dirname(_page_of(source))
    pages = sorted(f"{source}/{page.name}" for page in (ROOT / source).glob("*.md"))
    links = [f"- [{page}]({posixpath.relpath(_page_of(page), folder)})" for page in pages]
    return f"# `{source}`\n\n" + "\n".join(links)
