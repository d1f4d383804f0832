"""Pages of the site that are made, not written: the command line's reference, the tutorials, the list of decisions.

mkdocs calls `on_config`, `on_files` and `on_page_markdown` (its `hooks:` setting); tests call `generated`. In the
repository, links to a made page lead to what it is made from.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rh.resources.visible import INTERNAL

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "tutorials"
COMMANDS = ROOT / "rh" / "cli" / "app.py"
DOCS = ROOT / "docs"
DECISIONS = DOCS / "adr"

_CELL = re.compile(r"^# %%(.*)$", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()[^)\s#]+")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def generated() -> dict[str, str]:
    """Every made page: its path in the site's sources → its Markdown."""
    pages = {"reference/cli.md": command_line()}
    for script in _scripts():
        pages[f"tutorials/{script.stem}.md"] = tutorial(script)
    return pages


def sources() -> dict[Path, str]:
    """What pages are made from → the page."""
    return {COMMANDS: "reference/cli.md", **{script: f"tutorials/{script.stem}.md" for script in _scripts()}}


def _scripts() -> list[Path]:
    return sorted(TUTORIALS.glob("[0-9]*.py"))


def tutorial(script: Path) -> str:
    """A percent script as a page: its Markdown cells as they are, its code cells as blocks."""
    cells = _CELL.split(script.read_text("utf-8"))[1:]
    parts = []
    for kind, body in zip(cells[::2], cells[1::2], strict=True):
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        elif body.strip():
            parts.append(f"```python\n{body.strip()}\n```")
    source = f"`tutorials/{script.name}`"
    return "\n\n".join(parts) + f"\n\nThis page is {source}; the tests run it. Run it yourself: `python {source[1:]}\n"


def command_line() -> str:
    """Every command with its help, as the program prints it."""
    parts = ["# Command line\n", "```text", _help(), "```"]
    for words in _commands():
        parts += [f"\n## rh {' '.join(words)}\n", "```text", _help(*words), "```"]
    return "\n".join(parts) + "\n"


def _commands() -> Iterator[tuple[str, ...]]:
    import typer

    from rh.cli.app import app

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        inner = getattr(command, "commands", None)
        if words and not inner:
            yield words
        for name, one in (inner or {}).items():
            yield from below(one, (*words, name))

    return below(typer.main.get_command(app), ())


def _help(*words: str) -> str:
    from rh.cli import main

    out = io.StringIO()
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out):
            main([*words, "--help"])
    finally:
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width
    return out.getvalue().strip()


def on_config(config: Any) -> Any:
    """Put the decisions into the navigation, by number."""
    for entry in config.nav or []:
        if isinstance(entry, dict) and entry.get("Decisions") == []:
            for page in sorted(DECISIONS.glob("*.md")):
                title = _TITLE.search(page.read_text("utf-8"))
                assert title is not None, page
                entry["Decisions"].append({title.group(1).replace("`", ""): f"adr/{page.name}"})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the made pages."""
    from mkdocs.structure.files import File

    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_more: Any) -> str:
    """Let links to what a page is made from lead to the page, and show of resources what is their API."""
    here, made = (DOCS / page.file.src_uri).parent, sources()

    def led(link: re.Match[str]) -> str:
        target = made.get((here / link[0]).resolve())
        return link[0] if target is None else Path(os.path.relpath(DOCS / target, here)).as_posix()

    return _LINK.sub(led, markdown).replace("filters: PUBLIC", f'filters: ["!^_", "!^({"|".join(sorted(INTERNAL))})$"]')
