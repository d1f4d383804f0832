"""What would be moved: the ordered merge of what is at the source and what is at the target.

A plan is made whole before anything moves, so everything that can be refused is refused before the first byte. Its
steps are spooled to an unnamed temporary file beyond some tens of thousands, so that memory does not grow with the
tree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain, groupby, islice, pairwise
from operator import attrgetter
from typing import Any, cast

from rh.content import above, names
from rh.content.cache import DigestCache
from rh.content.known import row_of
from rh.content.manifest import DamagedManifestError
from rh.content.tree import Row, key_bytes
from rh.errors import ExistsError, InvalidError, NameClashError, NotFoundError, UnsupportedError
from rh.observe import log
from rh.spool import Spool
from rh.systems import BUCKETS, unwritable
from rh.systems.abilities import Following, Linked, ServerCopy
from rh.systems.base import System
from rh.systems.objects.spread import spread
from rh.transfer.compare import Action, Comparer, Same, Step, aligned
from rh.transfer.options import Options
from rh.transfer.receipt import human
from rh.transfer.route import Route, Way, is_here, route
from rh.transfer.survey import (
    Ahead,
    Known,
    Page,
    Survey,
    asked,
    by_policy,
    check_file_way,
    check_prefix,
    check_way,
    is_data,
    only_data,
    refused_link,
    selected,
    sizes,
)
from rh.types import Entry

__all__ = ["Action", "Plan", "Same", "Step", "compare_trees", "existing", "known_file", "plan_file", "plan_tree"]

_IN_MEMORY = 20_000
_TOGETHER = 200
"""Steps that are read back from the file at once."""
_SMALL_MANIFEST = 1 << 20
"""A manifest of so many bytes (some 15,000 files) is read for one file of it, and one no larger than the file."""
_ACTIONS = {action.value: action for action in Action}
_value = attrgetter("_value_")


class Plan:
    """The steps of a transfer, and their sums.

    Attributes:
        source, target: the two roots.
        route: who will move the bytes.
        files: files at the source that are meant; `bytes_total` their bytes.
        same: files that the target has already; directories and links that it has are among its steps only.
        moves: files to be moved, at most (`checks` of them may turn out to be the same); `bytes_to_move` their bytes.
        counts: steps by action.
        stale: whether the target's manifest needs to be written even if nothing moves.
    """

    def __init__(self, source: System, target: System, options: Options) -> None:
        self.source = source
        self.target = target
        self.options = options
        self.route: Route
        self.way: Way
        self.route, self.way = Route.NONE, Way.NONE
        self.seconds = 0.0
        """How long the planning took."""
        self.file: str | None = None
        self.source_key = ""
        self.files = 0
        self.bytes_total = 0
        self.bytes_to_move = 0
        self.same = 0
        self.counts: dict[Action, int] = dict.fromkeys(Action, 0)
        self.stale = True
        self.in_the_way: set[str] = set()
        """Files that are to become directories, or directories that are to become files: deleted before anything
        moves."""
        self.tells_directories = False
        """Whether both places tell empty directories, by themselves or by a manifest."""
        self.digest: str | None = None
        """What the target's manifest says, if it describes just what is there."""
        self._steps: list[Step | Same] = []
        self._held = 0
        self._spool: Spool | None = None

    def add(self, steps: Step | Same | list[Step]) -> None:
        """Take what is next in key order: a step, files that need nothing done, or (a list) files to copy.

        A directory that what stays below it implies is no step of its own.
        """
        if isinstance(steps, Step):
            self._add_step(steps)
        elif isinstance(steps, Same):
            self._add_same(steps)
        else:
            self._add_new(steps)

    def _add_step(self, step: Step) -> None:
        if step.action is not Action.DELETE:
            self._drop_implied(step.key)
        self.counts[step.action] += 1
        if step.action not in (Action.DELETE, Action.OTHER) and step.entry.kind == "file":
            self.files += 1
            self.bytes_total += step.entry.size
            if step.action in (Action.COPY, Action.CHECK):
                self.bytes_to_move += step.entry.size
            self.same += step.action is Action.KEEP
        self._take(step, 1)

    def _add_new(self, steps: list[Step]) -> None:
        self._drop_implied(steps[0].key)
        size = sum(step.entry.size for step in steps)
        self.counts[Action.COPY] += len(steps)
        self.files += len(steps)
        self.bytes_total += size
        self.bytes_to_move += size
        self._steps += steps[:-1]
        self._take(steps[-1], len(steps))

    def _add_same(self, same: Same) -> None:
        self._drop_implied(same.keys[0])
        self.counts[Action.KEEP] += len(same.keys)
        self.files += len(same.keys)
        self.same += len(same.keys)
        self.bytes_total += sum(sizes(same.entries))
        self._take(same, len(same.keys))

    def _drop_implied(self, key: str) -> None:
        last = self._steps[-1] if self._steps else None
        if isinstance(last, Step) and last.key.endswith("/") and key.startswith(last.key):
            self._steps.pop()
            self.counts[last.action] -= 1

    def _take(self, step: Step | Same, count: int) -> None:
        self._steps.append(step)
        self._held += count
        if self._held >= _IN_MEMORY:
            self._flush()

    def _flush(self) -> None:
        if self._spool is None:
            self._spool = Spool("rh-plan-")
        for kind, steps in groupby(self._steps[:-1], type):
            if kind is Same:
                flat = map(_flat_same, cast("Iterator[Same]", steps))
            else:
                flat = map(_flat_steps, _batches(cast("Iterator[Step]", steps)))
            for one in flat:
                self._spool.write(one)
        del self._steps[:-1]
        self._held = 1

    def steps(self) -> Iterator[Step]:
        """All steps in key order. One iteration at a time."""
        for step in self.runs():
            if isinstance(step, Same):
                yield from step.steps()
            else:
                yield step

    def runs(self) -> Iterator[Step | Same]:
        """The same, with neighbours that need nothing done as they were found. One iteration at a time."""
        for flat in self._spool or ():
            yield from _unflat(flat)
        yield from self._steps

    @property
    def title(self) -> str:
        """From where to where, for people."""
        return f"{self.source.url(self.source_key)} → {self.target.url(self.file or '')}"

    @property
    def described(self) -> bool:
        """Whether the target is to have a manifest."""
        return self.file is None and self.options.manifest

    @property
    def moves(self) -> int:
        """How many files may have to be moved."""
        return self.counts[Action.COPY] + self.counts[Action.CHECK]

    def as_dict(self) -> dict[str, Any]:
        """Sums and steps as plain values, for `--json`."""
        return {
            "source": self.source.url(self.source_key),
            "target": self.target.url(self.file or ""),
            "route": str(self.route),
            "way": self.way.value,
            "files": self.files,
            "bytes_total": self.bytes_total,
            "moves": self.moves,
            "bytes_to_move": self.bytes_to_move,
            "counts": {str(action): n for action, n in self.counts.items() if n},
        }

    @property
    def summary(self) -> str:
        """What it comes to, without the steps, in a few lines."""
        lines = [
            self.title,
            f"  route   {self.route} ({self._how()})",
            f"  files   {self.files:,}, {human(self.bytes_total)}",
            f"  move    {self.moves:,}, {human(self.bytes_to_move)}"
            + (f" (of these {self.counts[Action.CHECK]:,} to be compared first)" if self.counts[Action.CHECK] else ""),
        ]
        for count, word in (
            (self.same, "same"),
            (self.counts[Action.SKIP], "skip"),
            (self.counts[Action.MAKE], "make"),
            (self.counts[Action.DELETE], "delete"),
        ):
            if count:
                lines.append(f"  {word:<7} {count:,}")
        if others := self.counts[Action.OTHER]:
            lines.append(f"  left    {others:,} that only the target has")
        return "\n".join(lines)

    def __str__(self) -> str:
        lines = [self.summary]
        shown = 0
        for step in self.steps():
            if step.action in (Action.KEEP, Action.OTHER):
                continue
            if shown == 10:
                lines.append("  …")
                break
            shown += 1
            lines.append(f"    {step.action:<7} {step.key}" + (f"  ({step.reason})" if step.reason else ""))
        return "\n".join(lines)

    def _how(self) -> str:
        is_copied_here = self.way is Way.SERVER and is_here(self.source) and is_here(self.target)
        return "on this machine" if is_copied_here else self.way.value

    def __repr__(self) -> str:
        places = f"{self.source.url(self.source_key)} → {self.target.url(self.file or '')}"
        return f"<Plan {places}: {self.moves:,} of {self.files:,} files, {human(self.bytes_to_move)}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


def _batches(steps: Iterator[Step]) -> Iterator[list[Step]]:
    while batch := list(islice(steps, _TOGETHER)):
        yield batch


def _flat_same(same: Same) -> tuple[Any, ...]:
    """As plain values, for the spool."""
    return (None, same.keys, list(map(tuple, same.entries)), list(map(tuple, same.old)), *same[3:])


def _flat_steps(steps: list[Step]) -> tuple[Any, ...]:
    """As plain values, column by column."""
    actions, keys, entries, digests, chunks, executables, old, *rest = zip(*steps, strict=True)
    olds = [None if entry is None else tuple(entry) for entry in old]
    return (list(map(_value, actions)), keys, list(map(tuple, entries)), digests, chunks, executables, olds, *rest)


def _unflat(flat: tuple[Any, ...]) -> Iterator[Step | Same]:
    if flat[0] is None:
        _, keys, entries, old, *columns = flat
        yield Same(keys, list(map(Entry._make, entries)), list(map(Entry._make, old)), *columns)
        return
    actions, keys, entries, digests, chunks, executables, olds, *rest = flat
    old = [None if entry is None else Entry._make(entry) for entry in olds]
    begin = (map(_ACTIONS.__getitem__, actions), keys, map(Entry._make, entries), digests, chunks, executables, old)
    yield from map(Step._make, zip(*begin, *rest, strict=True))


def plan_tree(source: System, target: System, options: Options) -> Plan:
    """Plan the copy of all that is below one root to another.

    Raises:
        NotFoundError: there is nothing at the source.
        InvalidError: the two places overlap, a pattern is wrong.
        NameClashError: a key has no place at the target.
        ExistsError: `on_existing="error"` and something that differs exists.
        UnsupportedError: the target cannot be written, or holds no links (`links="keep"`).
    """
    if not target.writable:
        raise unwritable(target)
    _refuse_overlap(source, target)
    plan = _compared(source, target, options, follow_target=False)
    if plan.moves or plan.counts[Action.MAKE]:
        plan.route, plan.way = route(source, target, limited=options.bandwidth is not None)
    return plan


def compare_trees(source: System, target: System, options: Options) -> Plan:
    """A plan of how two trees differ, one that nobody carries out: the target need not be writable.

    `links="follow"` is about both of them, as far as they can be followed.

    Raises:
        NotFoundError: there is nothing at the source.
        InvalidError: a pattern is wrong.
        NameClashError: a key has no place at the target.
    """
    return _compared(source, target, options, follow_target=options.links == "follow")


def _compared(source: System, target: System, options: Options, *, follow_target: bool) -> Plan:
    began, believe = time.monotonic(), True
    while True:
        plan = Plan(source, target, options)
        try:
            _fill(plan, believe_target=believe, follow_target=follow_target)
            break
        except DamagedManifestError as error:
            if not believe or error.where is None or not error.where.startswith(target.url()):
                raise
            log.warning("%s; the target is compared as if other tools had written it", error)
            believe = False
    plan.seconds = time.monotonic() - began
    return plan


def _refuse_overlap(source: System, target: System) -> None:
    if not _one_place(source, target):
        return
    ours, theirs = map(_real_path, (source, target))
    if ours == theirs:
        raise InvalidError("source and target are the same place", where=target.url())
    if ours.startswith(theirs) or theirs.startswith(ours):
        raise InvalidError("source and target lie within each other", where=f"{source.url()} and {target.url()}")


def _one_place(source: System, target: System) -> bool:
    """Whether the same paths are the same files. One host or account may be known by several names."""
    if source.location.system == target.location.system:
        return True
    copier = target.ask(ServerCopy) if source.kind == target.kind else None
    return copier is not None and copier.can_copy_from(source)


def _real_path(system: System) -> str:
    linked = system.ask(Linked)
    return (linked.real_path() if linked else system.location.path).rstrip("/") + "/"


def _fill(plan: Plan, *, believe_target: bool, follow_target: bool) -> None:
    source, target, options = plan.source, plan.target, plan.options
    comparer = Comparer(target, options)
    ours = Survey(target, follow=follow_target, must_exist=False, believe=believe_target)
    far = not (is_here(source) and is_here(target))
    # Closed at once, not when the last traceback of an error is gone: helpers and threads wait on them.
    with closing(_fetched(ours, ahead=far)) as there:
        means, skip = selected(source, options) or (None, None)
        doomed = _doomed(means, options)
        survey = Survey(source, follow=options.links == "follow", skip=skip)
        with closing(_fetched(survey, ahead=far)) as here:
            meant = only_data(by_policy(_meant(here, means), source, options.links), source)
            if options.keys is not None and not options.delete:
                meant = asked(meant, source, options.keys)
            if options.names != "refuse":
                meant = _renamed(meant, names.encode if options.names == "encode" else names.decode)
            try:
                for new, old in aligned(meant, _existing(there, target)):
                    for steps in comparer.compare(new, old, doomed):
                        plan.add(steps)
            except names.BelowError as error:
                raise _clash(plan, error) from None
    comparer.refused.raise_if_any(target.url())
    if options.on_existing == "error" and comparer.existing:
        raise existing(plan, comparer.existing)
    plan.tells_directories = survey.tells_directories and ours.tells_directories
    plan.in_the_way = comparer.in_the_way
    plan.stale = not ours.exact or comparer.learned
    if not plan.stale and ours.footer is not None:
        plan.digest = ours.footer.tree


def _clash(plan: Plan, error: names.BelowError) -> NameClashError:
    """A file on one side where the other has a directory, or both at the source: which side has the file."""
    source, target, options = plan.source, plan.target, plan.options
    held, key, never = error.held, error.key, "a disk cannot hold both"
    hint = "exclude one of them"
    if error.held_there:
        message, where = f"the target has a file or a link {held!r}, and the source {key!r} below it", target.url(held)
        hint = "exclude what is below it, or remove it from the target"
    else:
        side = "the target" if error.key_there else "it"
        where = source.url(held) if options.names == "refuse" else source.url()
        message = f"the source has a file or a link {held!r}, and {side} has {key!r} below that"
        if error.key_there:
            hint = f"exclude {held!r}, or remove {target.url(held)}/"
    if (error.held_there or error.key_there) and not options.delete:
        hint += ", as .to(…, delete=True) does with all that only the target has"
    return NameClashError(f"{message}: {never}", where=where, hint=hint)


def existing(plan: Plan, keys: Sequence[str]) -> ExistsError:
    """The refusal to replace what differs."""
    shown = ", ".join(keys[:5]) + ("…" if len(keys) > 5 else "")
    return ExistsError(
        f"{len(keys)} of the files exist and differ: {shown}",
        where=plan.target.url(),
        hint='on_existing="update", "skip" or "replace"',
    )


def _fetched(survey: Survey, *, ahead: bool) -> Generator[Page, None, None] | Ahead:
    """The pages of a survey. Where another machine has to be asked, this one lists its own while that one answers."""
    pages = survey.pages()
    return Ahead(pages) if ahead else pages


def _meant(pages: Iterator[Page], means: Callable[[str], bool] | None) -> Iterator[Page]:
    for page in pages:
        if means is None:
            yield page
            continue
        chosen = page.where(list(map(means, page.keys)))
        if chosen.keys:
            yield chosen


def _renamed(pages: Iterator[Page], renamed: Callable[[str], str]) -> Iterator[Page]:
    """All in one page, since other names have another order."""
    columns = [list(chain.from_iterable(column)) for column in zip(*pages, strict=True)]
    if columns:
        columns[0] = list(map(renamed, columns[0]))
        order = sorted(range(len(columns[0])), key=lambda at: key_bytes(columns[0][at]))
        for one, other in pairwise(order):
            if columns[0][one] == columns[0][other]:
                raise NameClashError(f"two keys become {columns[0][one]!r}", hint="exclude one of them")
        yield Page._make([column[at] for at in order] for column in columns)


def _doomed(means: Callable[[str], bool] | None, options: Options) -> Callable[[str], bool]:
    """Which keys of the target are to go if the source has them not: those that are meant, by their names there."""
    if not options.delete:
        return lambda _: False
    if means is None:
        return lambda _: True
    if options.names == "refuse":
        return means
    at_source = names.decode if options.names == "encode" else names.encode
    return lambda key: means(at_source(key))


def _existing(pages: Iterator[Page], target: System) -> Iterator[Page]:
    empty = True
    try:
        for page in pages:
            empty = False
            yield page
        if empty and (target.kind in BUCKETS or target.kind == "memory"):
            check_prefix(target.location)
    except NotFoundError:
        if target.kind in BUCKETS:
            raise  # a prefix always exists; this is the bucket
        check_way(target.location)


def plan_file(
    source: System, key: str, target: System, target_key: str, options: Options, stored: Row | None = None
) -> Plan:
    """Plan the copy of one file (a link is followed) to one key; `stored` tells what was written at the source."""
    if not target.writable:
        raise unwritable(target, target_key)
    if source.location == target.location and key == target_key:
        raise InvalidError("source and target are the same place", where=target.url(target_key))
    plan = Plan(source, target, options)
    plan.file = target_key
    known = known_file(source, key, stored)
    if not is_data(source, known.entry):
        raise UnsupportedError("a pipe, socket or device is no data", where=source.url(key))
    names.check_all([target_key], target.kind, where=target.url())
    try:
        old = _known(target, target.head(target_key))
    except NotFoundError:
        old = None
        check_file_way(target, target_key)
    comparer = Comparer(target, options)
    plan.add(comparer.step(target_key, known, old))
    plan.source_key = key
    if options.on_existing == "error" and comparer.existing:
        raise existing(plan, comparer.existing)
    plan.stale = False
    if plan.moves:
        plan.route, plan.way = route(source, target, limited=options.bandwidth is not None)
    return plan


def known_file(system: System, key: str, stored: Row | None = None) -> Known:
    """A single file (a link is followed) and what is known of it: by whoever stored it, the cache, manifests."""
    known = _known(system, _followed(system, system.head(key)), stored)
    return _described(system, known) if stored is None and not system.keeps_executable else known


def _followed(source: System, entry: Entry) -> Entry:
    """What a link points to, under the link's key."""
    following = source.ask(Following) if entry.kind == "link" else None
    if following is not None:
        found = next((other for other in following.list_following(entry.key) if other.key == entry.key), None)
        if found is None:
            raise InvalidError("this is a directory, not a file", where=source.url(entry.key))
        if found.kind == "link":
            raise refused_link(found, source)
        return found
    return entry


def _described(system: System, known: Known) -> Known:
    """What is known of a single entry with what the manifest of a tree that it belongs to says, if one does."""
    entry = known.entry
    largest = max(entry.size, _SMALL_MANIFEST)
    trees = chain([(system, "")], above.directories(system))
    rows = spread(lambda tree: row_of(tree[0], tree[1] + entry.key, entry, largest=largest, fresh=True), trees)
    row = next((row for row in list(rows) if row is not None), None)
    if row is None:
        return known
    digest, chunks = (row.digest, row.chunks) if known.digest is None else (known.digest, known.chunks)
    return Known(entry, digest, chunks, row.executable)


def _known(system: System, entry: Entry, stored: Row | None = None) -> Known:
    """A single entry and what is known of it: by whoever stored it, if it is still that, else by the cache."""
    row = stored
    if stored is None or stored.etag is None or (stored.etag, stored.size) != (entry.etag, entry.size):
        row = DigestCache(system).get(entry.key, entry.etag)
    return Known(entry, row.digest if row else None, row.chunks if row else b"", entry.executable)
