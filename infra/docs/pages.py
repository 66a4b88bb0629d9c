"""Add to the site the pages outside docs/, and the references that are made from the code; mkdocs runs it."""

from __future__ import annotations

import asyncio
import logging
import posixpath
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
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
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_FOREIGN = re.compile(r'<(?:(?:script|img|iframe)[^>]* src|link rel="stylesheet" href)="(?:https?:)?//')


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that mkdocs.yml lists with their sources: a file, or FILE#SECTION."""
    for page, source in config.extra["sources"].items():
        file, _, title = source.partition("#")
        text = (ROOT / file).read_text("utf-8")
        if title:
            text = f"# {title}\n" + text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        files.append(File.generated(config, page, content=text))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links within the repository at the pages of the site; a link to another file becomes text."""
    here, sources = page.file.src_uri, config.extra["sources"]
    source = sources.get(here, f"docs/{here}").partition("#")[0]
    pages = {file: name for name, file in sources.items()}

    def link(found: re.Match[str]) -> str:
        path, hash_, anchor = found[2].partition("#")
        if not path or ":" in path or files.get_file_from_path(path):
            return found[0]
        named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        to = pages.get(named) or named.removeprefix("docs/")
        if to != named:
            return f"[{found[1]}]({posixpath.relpath(to, posixpath.dirname(here))}{hash_}{anchor})"
        if not (ROOT / named).exists():
            logging.getLogger("mkdocs.hooks").warning("%s names %s, which is not there", source, named)
        return found[1]

    parts = _FENCED.split(markdown)
    parts[::2] = (_LINK.sub(link, part) for part in parts[::2])
    return "\n".join(["".join(parts), *_MADE.get(here, list)()])


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
    for panel, names in groupby(root.list_commands(context), key=lambda name: COMMANDS[name][-1]):
        yield f"\n## {panel}"
        for name in names:
            yield from _command(root.resolve_command(context, [name, "--help"])[1], f"bdlab {name}")


def _command(command: Any, name: str) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"\n### {name}\n\n{command.help}\n\n```text\n{usage}\n```"
    children = getattr(command, "commands", {})
    for child in children.values():
        yield from _command(child, f"{name} {child.name}")
    if not children:
        yield from _options(command, context)


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

    async def document() -> Any:
        transport = httpx.ASGITransport(make_app(MemoryApi().parts()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get("/openapi.json")).json()

    for path, methods in asyncio.run(document())["paths"].items():
        for method, route in methods.items():
            yield f"\n## {method.upper()} {path}\n\n{route['summary']}. {route.get('description') or ''}\n"
            given = ((it["name"], it["in"], it.get("description", "")) for it in route.get("parameters", []))
            gives = ((code, "answer", it["description"]) for code, it in route["responses"].items())
            rows = ([f"`{name}`", kind, meaning] for name, kind, meaning in (*given, *gives))
            yield from _table(["parameter or status", "", "meaning"], rows)


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for row in rows:
        cells = (cell if "`" in cell else re.sub(r"[|*<]", lambda it: f"&#{ord(it[0])};", cell) for cell in row)
        yield f"| {' | '.join(cells)} |"


_MADE = {"commands.md": _commands, "api.md": _routes}
