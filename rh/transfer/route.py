"""Who moves the bytes. Pure: a decision from what the two ends can do."""

from __future__ import annotations

import enum

from rh.systems.abilities import Composed, Direct, Fetching, ServerCopy, Signing
from rh.systems.base import System

__all__ = ["Route", "Way", "is_here", "route"]


class Route(enum.StrEnum):
    """What a plan prints and a receipt says."""

    COPY = "COPY"
    """One system copies by itself."""
    PULL = "PULL"
    """The machine of the target fetches."""
    PUSH = "PUSH"
    """The machine of the source sends."""
    RELAY = "RELAY"
    """The bytes pass through this machine, and neither end is here."""
    NONE = "NONE"
    """Nothing has to be moved."""

    def __repr__(self) -> str:
        return repr(self.value)


class Way(enum.Enum):
    """How a route is made."""

    SERVER = "server copy"
    FETCH = "the target fetches signed URLs"
    SEND = "the source sends to signed URLs"
    DIRECT_SEND = "the source logs in to the target"
    DIRECT_RECEIVE = "the target logs in to the source"
    STREAM = "through here"
    NONE = "nothing to move"

    def __repr__(self) -> str:
        return repr(self.value)


def is_here(system: System) -> bool:
    """Whether a system's bytes are in this machine already."""
    return system.kind in ("file", "memory")


def route(source: System, target: System, *, limited: bool = False) -> tuple[Route, Way]:
    """The shortest road from `source` to `target`; `limited`: one on which a bandwidth limit of this machine can hold.

    Asking whether one host reaches another may log in there once; the answer is remembered by the system.
    """
    composed = source.ask(Composed)
    if composed is not None:
        return _of_pieces(composed, target, limited=limited)
    copier = target.ask(ServerCopy)
    if copier is not None and copier.can_copy_from(source):
        return Route.COPY, Way.STREAM if limited and is_here(source) and is_here(target) else Way.SERVER
    if is_here(source):
        return Route.PUSH, Way.STREAM
    if is_here(target):
        return Route.PULL, Way.STREAM
    if target.ask(Fetching) is not None and source.ask(Signing) is not None:
        return Route.PULL, Way.FETCH
    if source.ask(Fetching) is not None and target.ask(Signing) is not None:
        return Route.PUSH, Way.SEND
    sender, receiver = source.ask(Direct), target.ask(Direct)
    if sender is not None and receiver is not None:
        if sender.can_send_to(target):
            return Route.PUSH, Way.DIRECT_SEND
        if receiver.can_send_to(source):
            return Route.PULL, Way.DIRECT_RECEIVE
    return Route.RELAY, Way.STREAM


def _of_pieces(source: Composed, target: System, *, limited: bool) -> tuple[Route, Way]:
    """The road for what is made of bytes of other places: from there, where the target can take whole files or ranges.

    To here they come by way of the source itself, which keeps and shares what it has read.
    """
    if is_here(target):
        return Route.PULL, Way.STREAM
    origins = source.origins()
    for origin in origins:
        found, way = route(origin, target, limited=limited)
        if way is not Way.STREAM:
            return found, way
    return Route.PUSH if all(map(is_here, origins)) else Route.RELAY, Way.STREAM
