"""What mkdocs is told beyond mkdocs.yml: pages and pictures from outside docs/, tables from JSON.

- Pages of the repository (`INCLUDED`) become pages of the site; pictures of the benchmarks lie in
  `pictures/`. Links in sources are those that lead somewhere in the repository; on the site they
  lead to the page or picture that was made of it.
- A line `<!-- table: NAME -->` becomes the table of that name (`tables.py`), made of the
  benchmarks' JSON; `<!-- examples -->` becomes the list of the files in examples/.
- A page that needs a file which does not exist yet (`NEEDS`) is left out, with its place in the
  navigation.
"""

import ast
import pathlib
import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.hooks import tables

ROOT = pathlib.Path(__file__).parents[2]

INCLUDED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/accelerators.md": "benchmarks/forms.md",
}
NEEDS = {
    "benchmarks/accuracy.md": "benchmarks/accuracy.json",
    "security.md": "SECURITY.md",
}

_ELSEWHERE = re.compile(r"<(?:script|img|iframe)[^>]* src=.?https?:[^>]*>|<link[^>]*https?:[^>]*>")
_SOURCES = {page: source for source, page in INCLUDED.items()}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]*)(#[^)\s]*)?(?=\))")
_MARK = re.compile(r"^<!-- (?:table: (\S+)|(examples)) -->$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take pages out of the navigation whose figures are not there."""
    absent = {page for page, source in NEEDS.items() if not (ROOT / source).exists()}
    if config.nav:
        config.nav = _without(config.nav, absent)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside of docs/, and drop pages whose figures are not there."""
    for page, source in NEEDS.items():
        if not (ROOT / source).exists() and (file := files.get_file_from_path(page)):
            files.remove(file)
    for source, page in INCLUDED.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for picture in sorted((ROOT / "benchmarks").rglob("*.png")):
        name = f"pictures/{picture.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in tables, and lead links to where their targets are on the site."""
    own = page.file.src_uri
    source = _SOURCES.get(own, f"docs/{own}")

    def lead(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        there = _place(target)
        return posixpath.relpath(there, posixpath.dirname(own) or ".") + anchor

    return _MARK.sub(_made, _LINK.sub(lead, markdown))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse what a reader's browser would ask of other servers: the site works offline."""
    if found := _ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri} needs another server: {found[0]}")
    return output


def _place(target: str) -> str:
    """Return where on the site a file of the repository is."""
    if target in INCLUDED:
        return INCLUDED[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if target.endswith(".png") and (ROOT / target).exists():
        return f"pictures/{target}"
    raise PluginError(f"{target} is no page of the site: name it without a link")


def _made(match: re.Match[str]) -> str:
    name, examples = match.groups()
    if examples:
        return _examples()
    if name not in tables.TABLES:
        raise PluginError(f"no table {name!r}; there are: {', '.join(tables.TABLES)}")
    return tables.TABLES[name]()


def _examples() -> str:
    """List the files of examples/, by folder: what each is, by its docstring, and its text."""
    folders = {path.parent for path in (ROOT / "examples").rglob("*.py")}
    parts = []
    for folder in sorted(folders, key=lambda folder: (-len(folder.parts), folder)):
        title, told, _ = _read(folder / "__init__.py")
        parts += [f"## {title.rstrip('.').split(':')[0]}", "", title, "", told, ""]
        for path in sorted(folder.glob("[!_]*.py")):
            title, told, text = _read(path)
            code = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
            parts += [f"### {path.stem}", "", title, "", told, ""]
            parts += [f'??? example "{path.relative_to(ROOT).as_posix()}"', ""]
            parts += ["    ```python", code, "    ```", ""]
    return "\n".join(parts)


def _read(path: pathlib.Path) -> tuple[str, str, str]:
    """Return the first line of a file's docstring, the rest of it as Markdown, and the file.

    What stands under "A real run:" and the like, not indented, is what a program printed.
    """
    text = path.read_text()
    title, _, told = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")
    printed = re.compile(r"(?<=run:\n\n)(?! )(.+?)(?=\n\n|\Z)", re.DOTALL)
    return title, printed.sub(r"```text\n\1\n```", told), text


def _without(nav: list[Any], absent: set[str]) -> list[Any]:
    """Return a navigation without some pages."""
    kept: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            ((title, inner),) = entry.items()
            if isinstance(inner, list):
                kept.append({title: _without(inner, absent)})
            elif inner not in absent:
                kept.append(entry)
        elif entry not in absent:
            kept.append(entry)
    return kept
