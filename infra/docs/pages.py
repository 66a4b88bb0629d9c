"""Add to the site the pages outside docs/, and the references that are made from the code; mkdocs runs it."""

from __future__ import annotations

import asyncio
import logging
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from bdlab.serving import make_app
from bdlab_cli.app import COMMANDS, app
from tests.fix_api import MemoryApi

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "infra/README.md": "containers.md",
    "infra/k8s/README.md": "kubernetes.md",
}
SOURCES = {page: source for source, page in OUTSIDE.items()} | dict.fromkeys(
    ["settings.md", "api.md"], "README.md"
)
_ESCAPED = {ord(mark): f"&#{ord(mark)};" for mark in "|*<"}
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_FOREIGN = re.compile(
    r'<(?:script|img|iframe)[^>]* src="(?:https?:)?//|<link[^>]*stylesheet[^>]*"(?:https?:)?//'
)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the files of OUTSIDE, and two sections of README.md as reference pages."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    readme = (ROOT / "README.md").read_text("utf-8")
    for page, title, more in (("settings.md", "Settings", []), ("api.md", "The API", _routes())):
        section = readme.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        files.append(File.generated(config, page, content="\n".join([f"# {title}", section, *more])))


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Point links within the repository at the pages of the site; a link to another file becomes text."""
    here = page.file.src_uri
    source = SOURCES.get(here, f"docs/{here}")

    def link(found: re.Match[str]) -> str:
        path, hash_, anchor = found[2].partition("#")
        if not path or ":" in path or files.get_file_from_path(path):
            return found[0]
        named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        to = OUTSIDE.get(named) or named.removeprefix("docs/")
        if to != named:
            return f"[{found[1]}]({posixpath.relpath(to, posixpath.dirname(here))}{hash_}{anchor})"
        if not (ROOT / named).exists():
            logging.getLogger("mkdocs.hooks").warning("%s names %s, which is not there", source, named)
        return found[1]

    parts = _FENCED.split(markdown)
    parts[::2] = (_LINK.sub(link, part) for part in parts[::2])
    return "".join(parts) + ("\n".join(_commands()) if here == "commands.md" else "")


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that would load something from another host."""
    if found := _FOREIGN.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {found[0]}")
    return output


def _commands() -> Iterator[str]:
    """Yield what --help says of every command."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root, info_name="bdlab")
    yield from ["\n## Before the command", *_options(root, context)]
    panel = ""
    for name in root.list_commands(context):
        if COMMANDS[name][1] != panel:
            panel = COMMANDS[name][1]
            yield f"\n## {panel}"
        yield from _command(root.resolve_command(context, [name, "--help"])[1], f"bdlab {name}")


def _command(command: Any, name: str) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"\n### {name}\n\n{command.help}\n\n```text\n{usage}\n```"
    children = getattr(command, "commands", {})
    yield from () if children else _options(command, context)
    for child in children.values():
        yield from _command(child, f"{name} {child.name}")


def _options(command: Any, context: typer.Context) -> Iterator[str]:
    """Yield a table of the options; what help says in brackets after the words becomes two columns."""
    rows = []
    for parameter in command.params:
        if record := parameter.get_help_record(context):  # None: hidden
            words, _, facts = record[1].partition("  [")
            facts = facts.removesuffix("]").removeprefix(f"env var: {parameter.envvar}").removeprefix("; ")
            twin = f"`{parameter.envvar}`" if parameter.envvar else ""
            rows.append([f"`{record[0]}`", words, twin, facts.removeprefix("default: ")])
    return _table(["option", "meaning", "environment", "default, bounds"], rows)


def _routes() -> Iterator[str]:
    """Yield the routes of the API's own document."""

    async def asked() -> Any:
        transport = httpx.ASGITransport(make_app(MemoryApi().parts()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get("/openapi.json")).json()

    for path, methods in asyncio.run(asked())["paths"].items():
        for method, route in methods.items():
            yield f"\n## {method.upper()} {path}\n\n{route['summary']}. {route.get('description') or ''}\n"
            rows = [
                [f"`{p['name']}`", p["in"], p.get("description", "")] for p in route.get("parameters", [])
            ]
            rows += [[f"`{code}`", "answer", it["description"]] for code, it in route["responses"].items()]
            yield from _table(["parameter or status", "", "meaning"], rows)


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for row in rows:
        cells = (cell if "`" in cell else cell.translate(_ESCAPED) for cell in row)
        yield f"| {' | '.join(cells)} |"
