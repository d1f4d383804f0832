"""What was really moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rh.types import Location

__all__ = ["Failure", "Receipt", "human"]


def human(size: float) -> str:
    """Bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def _made(count: int, one: str, many: str) -> str:
    return f"; {count:,} {one if count == 1 else many} made" if count else ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A key that did not arrive, and why."""

    key: str
    error: Exception

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, "kind": getattr(self.error, "kind", "error"), "message": str(self.error)}


@dataclass(frozen=True, slots=True, repr=False)
class Receipt:
    """The result of a transfer.

    Attributes:
        source, target: the places, as URLs.
        route: who moved the bytes: `COPY` (one system by itself), `PULL` (the target fetched them), `PUSH` (the
            source sent them), `RELAY` (they passed through this machine although neither end is here), `NONE` (nothing
            had to be moved or made). `COPY+RELAY`, say: some files went one way and some another, and `notes` tell how
            much.
        files: files that the source has (and the patterns mean) = `done` + `skipped` + `len(failed)`.
        skipped: files that were not moved: those that are the same already, and those that were `left`.
        left: files that exist and were left as they are, without a look at them (`on_existing="skip"`).
        bytes_total: bytes of those files.
        bytes_moved: bytes of the files done.
        deleted: keys removed from the target.
        links_made, directories_made: links (`links="keep"`) and empty directories that were made, which are no files;
            of directories also those that only the manifest keeps.
        digest: the tree's digest (a file's for a single file); `None` where some digest is not known or the run was
            dry.
        seconds: wall time.
        dry_run: nothing was done; `done`, `bytes_moved` and the like say what would be.
    """

    source: Location
    target: Location
    source_url: str
    target_url: str
    route: str
    files: int = 0
    done: int = 0
    skipped: int = 0
    failed: tuple[Failure, ...] = ()
    bytes_total: int = 0
    bytes_moved: int = 0
    deleted: int = 0
    digest: str | None = None
    seconds: float = 0.0
    dry_run: bool = False
    notes: tuple[str, ...] = field(default=())
    left: int = 0
    links_made: int = 0
    directories_made: int = 0

    @property
    def resumable(self) -> bool:
        """Whether the same call again goes on where this one stopped."""
        return bool(self.failed) or self.done + self.skipped < self.files

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json` and logs."""
        return {
            "source": self.source_url,
            "target": self.target_url,
            "route": self.route,
            "files": self.files,
            "done": self.done,
            "skipped": self.skipped,
            "left": self.left,
            "failed": [failure.as_dict() for failure in self.failed],
            "bytes_total": self.bytes_total,
            "bytes_moved": self.bytes_moved,
            "deleted": self.deleted,
            "links_made": self.links_made,
            "directories_made": self.directories_made,
            "digest": self.digest,
            "seconds": round(self.seconds, 3),
            "dry_run": self.dry_run,
            "resumable": self.resumable,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        road = "nothing to move" if self.route == "NONE" else self.route
        parts = [f"{self.source_url} → {self.target_url} [{road}]", f"  {self._counts()}"]
        if not self.dry_run:
            rate = f", {human(self.bytes_moved / self.seconds)}/s" if self.seconds > 0 and self.bytes_moved else ""
            parts.append(f"  {self.seconds:.2f} s{rate}" + (f", {self.digest}" if self.digest else ""))
        parts += [f"  {note}" for note in self.notes]
        return "\n".join(parts)

    def _counts(self) -> str:
        verb = "would move" if self.dry_run else "moved"
        same = self.skipped - self.left
        return (
            f"{verb} {self.done:,} of {self.files:,} files, {human(self.bytes_moved)} of {human(self.bytes_total)}"
            + (f"; {same:,} unchanged" if same else "")
            + (f"; {self.left:,} exist and were left" if self.left else "")
            + _made(self.links_made, "link", "links")
            + _made(self.directories_made, "directory", "directories")
            + (f"; {self.deleted:,} deleted" if self.deleted else "")
            + (f"; {len(self.failed):,} failed" if self.failed else "")
        )

    def __repr__(self) -> str:
        return f"<Receipt {self.source_url} → {self.target_url}: {self._counts()}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"
