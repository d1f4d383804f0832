"""Moving bytes from place to place: plan → route → run → receipt.

`plan_tree` says what would move, by which road and how many bytes; `copy_tree` does it. Copies never move, touch only
the destination's own keys, are verified on arrival, and go on where they were interrupted.
"""

from __future__ import annotations

import threading

from rh.content.tree import Row
from rh.progress import Progress, default
from rh.systems import open_system
from rh.systems.base import System
from rh.transfer import plan as _plan
from rh.transfer import verify as _verify
from rh.transfer.options import Keywords, Links, Options, WholeKeywords, check_watchers
from rh.transfer.plan import Action, Plan, Step
from rh.transfer.receipt import Failure, Receipt
from rh.transfer.route import Route
from rh.transfer.verify import Verification
from rh.types import Location

__all__ = [
    "Action",
    "Failure",
    "Keywords",
    "Links",
    "Options",
    "Plan",
    "Receipt",
    "Route",
    "Step",
    "Verification",
    "WholeKeywords",
    "compare_trees",
    "copy_file",
    "copy_tree",
    "digest_file",
    "digest_tree",
    "execute",
    "plan_file",
    "plan_tree",
    "verify_tree",
]

_DEFAULT = Options()


def plan_tree(source: Location, target: Location, options: Options = _DEFAULT) -> Plan:
    """What `copy_tree` would do; nothing is changed."""
    return _plan.plan_tree(open_system(source), open_system(target), options)


def compare_trees(a: Location, b: Location, options: Options = _DEFAULT) -> Plan:
    """How two trees differ, as a plan from one to the other that nobody carries out: `b` may be read-only."""
    return _plan.compare_trees(open_system(a), open_system(b), options)


def plan_file(source: Location, target: Location, options: Options = _DEFAULT, *, stored: Row | None = None) -> Plan:
    """What `copy_file` would do; nothing is changed."""
    start, end = open_system(source.parent), open_system(target.parent)
    return _plan.plan_file(start, source.name, end, target.name, options, stored)


def execute(plan: Plan, *, progress: Progress | None = None, cancel: threading.Event | None = None) -> Receipt:
    """Carry out a plan. `cancel` stops it soon after it is set; the same transfer again goes on from there."""
    from rh.transfer.run import run as run_plan

    check_watchers(progress, cancel)
    return run_plan(plan, progress=progress or default(), cancel=cancel)


def copy_tree(
    source: Location,
    target: Location,
    options: Options = _DEFAULT,
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Receipt:
    """Copy all that is below one place to another.

    Raises:
        TransferError: some files did not arrive; `error.receipt` lists them, and the same call again goes on.
        RhError: whatever could be refused beforehand was refused before anything changed.
    """
    return execute(plan_tree(source, target, options), progress=progress, cancel=cancel)


def copy_file(
    source: Location,
    target: Location,
    options: Options = _DEFAULT,
    *,
    stored: Row | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Receipt:
    """Copy one file to another place (both locations name the file itself).

    `stored` tells what was written there: while the etag is the same, other bytes do not arrive.
    """
    return execute(plan_file(source, target, options, stored=stored), progress=progress, cancel=cancel)


def verify_tree(location: Location, *, progress: Progress | None = None) -> Verification:
    """Read every byte of a tree and compare it with its manifest."""
    return _verify.verify_tree(open_system(location), progress=progress or default())


def digest_tree(location: Location, *, links: Links = "follow", progress: Progress | None = None) -> str:
    """The digest of a tree as it is now (`rh.content.tree` has its definition).

    Args:
        location: the tree's root.
        links: what stands for symbolic links, as in `Options`: what they lead to, themselves, or nothing.
        progress: told what is read.

    """
    Options(links=links)  # which refuses what is no policy
    return _verify.digest_tree(open_system(location), links=links, progress=progress or default())


def digest_file(location: Location) -> str:
    """The digest of one file."""
    system: System = open_system(location.parent)
    return _verify.digest_file(system, location.name).text
