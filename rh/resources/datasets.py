"""`rh.create_dataset`: from a directory to a saved folder with a first version, in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rh.errors import ExistsError, InvalidError, NotFoundError
from rh.registry import holding, names
from rh.resources import places
from rh.resources.folder import Folder, folder
from rh.resources.places import Place

if TYPE_CHECKING:
    from rh.registry.names import Name

__all__ = ["create_dataset"]


def create_dataset(
    name: str,
    dir: str | os.PathLike[str] | Folder,  # noqa: A002 - the word that users of other libraries know
    *,
    glob_exclude: str | Sequence[str] = (),
    org: str | None = None,
    private: bool = False,
    system: Place = None,
    path: str | os.PathLike[str] | None = None,
    message: str = "",
) -> Folder:
    """Copy a directory to a place of its own, save that under a name, and make its first version.

    Args:
        name: of the dataset.
        dir: the directory: here, a URL, or a folder.
        glob_exclude: patterns (those of `.gitignore`) of what to leave out.
        org: the organisation whose name it is: `/org/name`.
        private: whether only this machine shall know the name: `~/name`.
        system: where the copy is to be: a system's name, a URL, a cluster; by default here.
        path: where on that system; by default `<root>/<name>`.
        message: of the version.

    Returns:
        The saved folder. `.draft()`, `.upload(…)` and `.commit()` make more versions of it.

    Raises:
        ExistsError: the name is taken, or something lies at the place already; nothing was changed.
        NotFoundError: there is no such directory.

    Example:
        >>> import rh, tempfile, pathlib
        >>> work = pathlib.Path(tempfile.mkdtemp())
        >>> _ = work.joinpath("a.txt").write_text("one"), work.joinpath("b.tmp").write_text("two")
        >>> made = rh.create_dataset("docs-dataset", work, glob_exclude="*.tmp")
        >>> rh.folder("docs-dataset:v1").ls(full_paths=False)
        ['a.txt']
    """
    whole = _name(name, org, private=private)
    if holding(whole).find(whole.key) is not None:
        raise ExistsError(f"{whole} exists already", hint=f"rh.folder({whole.path!r}).upload(…) adds to it")
    source = dir if isinstance(dir, Folder) else folder(path=dir)
    if not source.exists_in_system():
        raise NotFoundError(source.missing().message.replace("folder", "directory"), where=_called(source))
    target = places.target("here" if system is None and path is None else system, path, whole.stem)
    copy = Folder(name=whole.path, location=target, host=places.portable(target))
    if copy.exists_in_system() and copy.ls():
        raise ExistsError("something is there already", where=copy.url, hint="another path=, or .save() that as it is")
    exclude = [glob_exclude] if isinstance(glob_exclude, str) else list(glob_exclude)
    source.to(path=copy.url, exclude=[pattern for pattern in exclude if pattern])
    saved = copy.save(overwrite=False)
    name = source.location.name if source.pin is None else _called(source).removeprefix(places.SAVED)
    saved.commit(message or f"{name}, as it was")
    return saved


def _called(source: Folder) -> str:
    return places.url_of(source.location, source.pin)


def _name(name: str, org: str | None, *, private: bool) -> Name:
    if org and private:
        raise InvalidError("a name of an organisation is known to others", hint="org= or private=True")
    bare = isinstance(name, str) and "/" not in name
    if (org or private) and not bare:
        raise InvalidError(f"with org= or private=True the name has no folder: {name!r}")
    whole = names.parse(f"/{org}/{name}" if org else f"~/{name}" if private else name)
    if whole.pinned:
        raise InvalidError(f"{whole} names a version; the name is {whole.path}")
    return whole
