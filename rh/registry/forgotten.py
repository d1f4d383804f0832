"""Versions whose name was forgotten: its history says which they are, so that they can come back with it."""

from __future__ import annotations

from rh.registry.base import Registry

__all__ = ["forgotten"]


def forgotten(registry: Registry, path: str) -> dict[str, str | None]:
    """The ids of the series that went when a name was forgotten, the latest last, and the kind of what had the name.

    What was renamed is not among them: its versions went along.

    Args:
        registry: that holds the name.
        path: the name as it is in keys, without its first slash.
    """
    found: dict[str, str] = {}
    held = ""
    for change in registry.history(f"series/{path}"):
        if change.document is not None:
            held = str(change.document.get("series"))
            found.pop(held, None)  # it came back
        elif change.moved is None:
            found[held] = change.token
    if not found:
        return {}
    kinds: dict[str, str | None] = {}
    kind = None
    for change in registry.history(f"resources/{path}"):
        if change.document is not None:
            kind = change.document.get("kind")
        else:
            kinds[change.token] = kind
    return {series: kinds.get(commit) for series, commit in found.items()}
