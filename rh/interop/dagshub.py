"""The API of DagsHub's client, implemented with `rh`, for programs that were written for it.

    from rh.interop.dagshub import Repo

    repo = Repo("ada", "cats")
    images = repo.directory("images")
    images.add("0.jpg")
    images.commit("more images")

A repository is the saved folder `/ada/cats`, and every commit one version of it. There is no Git and no DVC below:
`versioning=` is accepted and ignored.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any

from rh.api import create_dataset as _create_dataset
from rh.api import folder
from rh.errors import InvalidError, NotFoundError

if TYPE_CHECKING:
    from rh.resources.draft import Draft
    from rh.resources.folder import Folder
    from rh.versions.series import Version

__all__ = ["DataSet", "Repo", "create_dataset", "upload_files"]

_VERSIONING = ("auto", "dvc", "git")


class Repo:
    """A saved folder, as a repository of DagsHub.

    Args:
        owner: `/owner/name` is the folder's name; `""` for a name of this machine.
        name: the rest of the name.
        branch: accepted and ignored: versions have no branches. Named drafts come closest.

    Raises:
        NotFoundError: nothing of that name is saved.
    """

    def __init__(self, owner: str, name: str, branch: str | None = None) -> None:
        self.owner = owner
        self.name = name
        self.branch = branch
        self.folder: Folder = folder(f"/{owner}/{name}" if owner else name)

    def directory(self, path: str = "") -> DataSet:
        """A directory of the repository, to add files to."""
        return DataSet(self, path)

    def upload(
        self,
        local_path: str | os.PathLike[str] | IO[bytes],
        commit_message: str = "",
        remote_path: str | None = None,
        *,
        glob_exclude: str | Sequence[str] = (),
        versioning: str = "auto",
        force: bool = True,
    ) -> Version:
        """Add a file or directory in a new version.

        Args:
            local_path: the file or directory.
            commit_message: message of the version.
            remote_path: destination; by default a file keeps its name, and the contents of a directory go to the root.
            glob_exclude: patterns of files in a directory to exclude.
            versioning: ignored.
            force: whether existing files may be replaced.
        """
        found = self.directory()
        if isinstance(local_path, str | os.PathLike) and os.path.isdir(local_path):
            found.add_dir(local_path, remote_path or "", glob_exclude=glob_exclude, update=force)
        else:
            found.add(local_path, remote_path, update=force)
        return found.commit(commit_message or "upload", versioning=versioning)

    upload_files = upload


class DataSet:
    """A directory of a repository, and what the next `commit` adds to it."""

    def __init__(self, repo: Repo, directory: str = "") -> None:
        self.repo = repo
        self.directory = directory.strip("/")
        self._waiting: list[Callable[[Draft], None]] = []
        self._kept = ExitStack()
        """What was read from files that can be read once only."""
        weakref.finalize(self, self._kept.close)

    def add(
        self, file: str | os.PathLike[str] | IO[bytes] | bytes, path: str | None = None, *, update: bool = True
    ) -> None:
        """Add a file with the next commit.

        Args:
            file: a path, bytes, or a file object, which is read from its current position. It has to stay open until
                the commit, unless it cannot seek, as a pipe: that is read now.
            path: destination below this directory; by default the name of the file, if it has one.
            update: whether an existing file may be replaced.

        Raises:
            InvalidError: it is a directory (use `add_dir`), or has no name and `path` is missing.
            NotFoundError: there is no such file.
        """
        if isinstance(file, str | os.PathLike):
            text = os.fspath(file)
            if "://" not in text and not os.path.exists(text):
                raise NotFoundError("there is no such file", where=text)
            if os.path.isdir(text):
                raise InvalidError("that is a directory", where=text, hint=".add_dir(…)")
            path = path or os.path.basename(text)
        if not path:
            raise InvalidError(f"a {type(file).__name__} has no name of its own", hint='path="where/to.bin"')
        where = self._below(path)
        if isinstance(file, str | os.PathLike | bytes | bytearray | memoryview) or not hasattr(file, "read"):
            self._waiting.append(lambda draft: draft.add(file, path=where, update=update))
            return
        again = self._again(file)
        at = again.tell()

        def add(draft: Draft) -> None:
            again.seek(at)  # a commit that failed has read it before
            draft.add(again, path=where, update=update)

        self._waiting.append(add)

    def _again(self, file: Any) -> IO[bytes]:
        """A file object that can be read more than once."""
        if isinstance(file, io.TextIOBase):
            raise InvalidError("the file is opened as text", hint='open(…, "rb")')
        kept: Any = file
        if hasattr(file, "seekable") and file.seekable():
            return kept  # type: ignore[no-any-return]
        kept = self._kept.enter_context(tempfile.SpooledTemporaryFile(8 << 20))  # noqa: SIM115 - until the commit
        shutil.copyfileobj(file, kept)
        kept.seek(0)
        return kept  # type: ignore[no-any-return]

    def add_dir(
        self,
        local_path: str | os.PathLike[str],
        remote_path: str = "",
        *,
        glob_exclude: str | Sequence[str] = (),
        commit_message: str | None = None,
        update: bool = True,
    ) -> None:
        """Add the contents of a directory with the next commit.

        Args:
            local_path: the directory.
            remote_path: destination below this directory.
            glob_exclude: patterns of files to exclude.
            commit_message: if given, commit at once with this message.
            update: whether existing files may be replaced.

        Raises:
            NotFoundError: there is no such directory.
        """
        if not os.path.isdir(local_path):
            raise NotFoundError("there is no such directory", where=os.fspath(local_path))
        where, patterns = self._below(remote_path), [glob_exclude] if isinstance(glob_exclude, str) else glob_exclude
        chosen = [pattern for pattern in patterns if pattern]
        self._waiting.append(lambda draft: draft.add_dir(local_path, where, glob_exclude=chosen, update=update))
        if commit_message is not None:
            self.commit(commit_message)

    def commit(self, commit_message: str = "", versioning: str = "auto") -> Version:
        """Make one version with everything that was added. If that fails, it can be retried.

        Args:
            commit_message: message of the version.
            versioning: `"auto"`, `"dvc"` or `"git"`; ignored.
        """
        if versioning not in _VERSIONING:
            raise InvalidError(f"versioning={versioning!r}", hint=f"one of {', '.join(_VERSIONING)}; all do the same")
        with self.repo.folder.draft(message=commit_message) as draft:
            for add in self._waiting:
                add(draft)
            version = draft.commit()
        self._waiting.clear()
        self._kept.close()
        return version

    def _below(self, path: str) -> str:
        return "/".join(part for part in (self.directory, path.strip("/")) if part)


def create_dataset(
    repo_name: str,
    local_path: str | os.PathLike[str],
    glob_exclude: str | Sequence[str] = (),
    org: str = "",
    private: bool = False,  # noqa: FBT001, FBT002 - as DagsHub has it
) -> Repo:
    """Create a dataset (`rh.create_dataset`), and return it as a repository."""
    _create_dataset(repo_name, local_path, glob_exclude=glob_exclude, org=org or None, private=private)
    return Repo(org, f"~/{repo_name}" if private else repo_name)


def upload_files(
    repo: str, local_path: str | os.PathLike[str], commit_message: str = "", remote_path: str | None = None
) -> Version:
    """Add a file or directory to the repository `"owner/name"` in a new version."""
    owner, _, name = repo.rpartition("/")
    return Repo(owner, name).upload(local_path, commit_message, remote_path)
