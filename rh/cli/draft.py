"""`rh upload`, `rh draft …`: new versions from old ones, without the live files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from rh.cli import show
from rh.cli.complete import complete_draft
from rh.cli.options import AsJson, SavedName
from rh.cli.versions import Aliases, Message, Tags, newest_of, tell_made, versioned

if TYPE_CHECKING:
    from rh.resources.folder import Folder
    from rh.resources.named_draft import NamedDraft

__all__ = ["app", "upload"]


class _Group(TyperGroup):
    """Takes the options of the group after NAME as well, as every other command does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        front: list[str] = []
        name: list[str] = []
        rest, as_json = list(args), False
        while rest and (not name or rest[0].startswith("-")):
            word = rest.pop(0)
            if word == "--json":
                as_json = True
            elif word in _OF_GROUP and rest:
                front += [word, rest.pop(0)]
            elif word.startswith("-"):
                front.append(word)
            else:
                name.append(word)
        if as_json and rest:  # each command has its own
            rest.insert(1, "--json")
        elif as_json:
            front.append("--json")
        found: list[str] = super().parse_args(ctx, [*front, *name, *rest])
        return found


_OF_GROUP = ("--draft", "-d", "--base")

app = typer.Typer(
    cls=_Group,
    help="""Build the next version of a name piece by piece.

    rh draft NAME add FILE, then rh draft NAME commit. Changes are kept until commit or discard, and others can add to
    the same draft from other machines. The live files are neither read nor changed. Without a command, lists the
    changes so far.
    """,
    rich_markup_mode=None,
)

Local = Annotated[str, typer.Argument(metavar="LOCAL", help="A local file or directory.", show_default=False)]
PathArgument = Annotated[
    str | None,
    typer.Argument(metavar="[PATH]", help="Destination in the version; DIRECTORY/ keeps the name.", show_default=False),
]
Update = Annotated[bool, typer.Option("--update", help="Replace existing files.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Exclude what matches, as in .gitignore; repeatable."),
]


def upload(
    name: SavedName,
    local: Local,
    path: PathArgument = None,
    message: Message = "",
    update: Update = False,
    alias: Aliases = None,
    tag: Tags = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what is new in the version.")] = False,
    json: AsJson = False,
) -> None:
    """Add a file or directory to a name as a new version.

    The new version is the newest one with LOCAL added; NAME is a saved folder. A file keeps its name unless PATH says
    otherwise; the contents of a directory go to PATH, by default the root.
    """
    folder = _folder(name)
    newest = newest_of(folder)
    made = folder.upload(local, path, message=message, update=update, aliases=alias or (), tags=tag or ())
    if verbose and not json:
        if not newest:
            show.line(f"{made.files:,} files, {show.human(made.size)}")
        elif newest != made.number:
            for change in folder.diff(f"v{newest}", made.label):
                show.line(str(change))
    tell_made(folder, made, newest, message, json=json)


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    name: SavedName,
    draft: Annotated[
        str,
        typer.Option(
            "--draft", "-d", metavar="DRAFT", help="Draft to use, if NAME has several.", autocompletion=complete_draft
        ),
    ] = "draft",
    base: Annotated[
        str, typer.Option(metavar="VERSION", help="Version that a new draft starts from; 'none' for an empty draft.")
    ] = "latest",
    json: AsJson = False,
) -> None:
    context.obj = lambda: _folder(name).draft(draft, base=None if base == "none" else base)
    if context.invoked_subcommand is None:
        ls(context, json=json)


def _draft(context: typer.Context) -> NamedDraft:
    """The draft that the words before the command name."""
    return cast("NamedDraft", context.obj())


@app.command()
def ls(context: typer.Context, json: AsJson = False) -> None:
    """List the changes so far, and who made them."""
    for change in _draft(context).changes():
        if json:
            show.emit(change._asdict())
        else:
            show.line(f"{change}  ({show.when(change.time)} {change.author})")


@app.command()
def add(
    context: typer.Context,
    local: Local,
    path: PathArgument = None,
    update: Update = False,
    exclude: Exclude = None,
    json: AsJson = False,
) -> None:
    """Add a file or directory."""
    from rh.errors import NotFoundError

    if "://" not in local and not os.path.exists(local):
        raise NotFoundError("there is no such file or directory", where=os.path.abspath(local))
    draft = _draft(context)
    if os.path.isdir(local):
        draft.add_dir(local, path or "", glob_exclude=exclude or (), update=update)
    else:
        draft.add(local, path, update=update)
    _changed(draft, f"{local} is added", json=json)


@app.command()
def rm(context: typer.Context, path: str, json: AsJson = False) -> None:
    """Remove a file, or a directory with its contents (PATH/)."""
    draft = _draft(context)
    draft.remove(path)
    _changed(draft, f"{path} is taken away", json=json)


@app.command()
def mv(context: typer.Context, old: str, new: str, json: AsJson = False) -> None:
    """Move or rename a file or a directory.

    Both paths of a directory end with /.
    """
    draft = _draft(context)
    draft.move(old, new)
    _changed(draft, f"{old} → {new}", json=json)


@app.command()
def commit(context: typer.Context, message: Message = "", json: AsJson = False) -> None:
    """Commit the draft as a new version, and close it."""
    draft = _draft(context)
    newest = newest_of(draft.folder)
    tell_made(draft.folder, draft.commit(message or None), newest, message, json=json)


@app.command()
def rebase(context: typer.Context, json: AsJson = False) -> None:
    """Rebase the draft onto the newest version.

    Works only if the draft and that version change different paths.
    """
    draft = _draft(context)
    number = draft.rebase()
    _changed(draft, f"begins with v{number}", json=json)


@app.command()
def discard(context: typer.Context, json: AsJson = False) -> None:
    """Discard the draft, with everything anybody added to it."""
    draft = _draft(context)
    draft.discard()
    if json:
        show.emit({"name": draft.folder.name, "draft": draft.name, "discarded": True})
    else:
        show.line(f"the draft {draft.name} of {draft.folder.name} is discarded")


def _folder(name: str) -> Folder:
    from rh.errors import InvalidError
    from rh.resources.folder import Folder

    resource, _ = versioned(name, bare=True)
    if not isinstance(resource, Folder):
        raise InvalidError(f"{resource.name} is a {resource.kind}; drafts are of folders")
    return resource


def _changed(draft: NamedDraft, text: str, *, json: bool) -> None:
    if json:
        show.emit({"name": draft.folder.name, "draft": draft.name, "changes": len(draft.changes())})
    else:
        show.line(f"{draft.folder.name}, draft {draft.name}: {text}")
