"""PyTorch: batches as tensors, and a dataset that shares itself among DataLoader workers and ranks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rh.errors import InvalidError
from rh.plugins import need
from rh.systems.base import System
from rh.tables import access
from rh.tables.base import Snapshot
from rh.tables.formats import BatchFormat, array
from rh.tables.order import check_rank
from rh.tables.pickling import packed
from rh.tables.stream import Stream

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TorchRows", "converter", "tensor"]

torch = need("torch", purpose="batches of tensors")
_Dataset: Any = need("torch.utils.data").IterableDataset

STATE = 1


def converter() -> Callable[[pa.RecordBatch], dict[str, Any]]:
    """What makes a dict of tensors of a batch; see `tensor`."""

    def convert(batch: pa.RecordBatch) -> dict[str, Any]:
        return {name: tensor(column, name) for name, column in zip(batch.schema.names, batch.columns, strict=True)}

    return convert


def tensor(column: pa.Array, name: str = "") -> Any:
    """A column as a tensor of its own memory; what has no tensor (texts, lists of many lengths) as a list.

    Lists of one length become a second dimension. Times and dates are whole numbers in the column's unit. A null in a
    column of floats is NaN.

    Raises:
        InvalidError: there is a null in a column whose tensor has no value for it.
    """
    pa = need("pyarrow")
    types = pa.types
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return tensor(column.storage, name)
    if types.is_dictionary(kind):
        return tensor(column.dictionary_decode(), name)
    if types.is_fixed_size_list(kind) and types.is_primitive(kind.value_type) and not column.null_count:
        return tensor(column.flatten(), name).reshape(len(column), kind.list_size)
    if not types.is_primitive(kind):
        return column.to_pylist()
    if types.is_temporal(kind):
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    if column.null_count and not types.is_floating(kind):
        raise InvalidError(
            f"column {name!r} is {kind} and has a null, for which there is no tensor",
            hint=f"leave such rows out with where=, the column with columns=, or fill it before: {name!r}",
        )
    return torch.from_numpy(array(column).copy())


class TorchRows(_Dataset):  # type: ignore[misc]
    """A table as a `torch.utils.data.IterableDataset` of batches: give it to a `DataLoader` with `batch_size=None`.

    Every worker of every rank gets a share of its own; together they have each row once. It works in forked and in
    spawned workers, and outside of a `DataLoader`. To a spawned worker, rows that are not written are sent as a whole.

    Args:
        system: opened at the table's directory.
        snapshot: of the table.
        batch_size: rows in a batch.
        format: of batches, as in `Stream`.
        columns: names, all by default.
        where: a filter.
        shuffle_seed: of the order in epoch 0; `set_epoch` makes another one of it.
        shuffle_buffer: as in `Stream`.
        drop_last: leave out last batches that would be shorter; then all workers of all ranks give equally many.
        prefetch: as in `Stream`.
        rank: of this process; by default as `torch.distributed` or else the variable `RANK` says, or 0.
        world_size: how many processes; by default as `torch.distributed` or else `WORLD_SIZE` says, or 1.

    Raises:
        InvalidError: as `Stream` does.
    """

    def __init__(
        self,
        system: System,
        snapshot: Snapshot,
        batch_size: int,
        *,
        format: BatchFormat = "torch",  # noqa: A002 - the public name
        columns: Sequence[str] | None = None,
        where: Any = None,
        shuffle_seed: int | None = None,
        shuffle_buffer: int | None = None,
        drop_last: bool = False,
        prefetch: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__()
        if (rank is None) != (world_size is None):
            raise InvalidError("rank= and world_size= go together", hint="give both, or neither")
        self._system = system
        self._snapshot = snapshot
        self._seed = shuffle_seed
        self._ranks = None if rank is None or world_size is None else (rank, world_size)
        self._options: dict[str, Any] = {
            "batch_size": batch_size,
            "format": format,
            "columns": None if columns is None else access.names_in("columns", columns),
            "where": where,
            "shuffle_buffer": shuffle_buffer,
            "drop_last": drop_last,
            "prefetch": prefetch,
        }
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that stay alive see it change
        self._stream: Stream | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._opened(*(self._ranks or (0, 1)))  # for its checks

    def _opened(self, rank: int, world_size: int) -> Stream:
        epoch = int(self._epoch)
        seed = self._seed
        if seed is not None and epoch:
            seed = int.from_bytes(hashlib.sha256(f"epoch/{seed}/{epoch}".encode()).digest()[:8], "big")
        options = {**self._options, "shuffle_seed": seed, "rank": rank, "world_size": world_size}
        return Stream(self._system, self._snapshot, **options)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle in another order from the next iteration on, in workers that are running too."""
        if not isinstance(epoch, int) or epoch < 0:
            raise InvalidError(f"epoch is {epoch!r}", hint="a whole number, 0 or more")
        self._epoch.fill_(epoch)

    def _process(self) -> tuple[int, int]:
        """The rank of this process and how many there are."""
        if self._ranks is not None:
            return self._ranks
        spread = torch.distributed
        if spread.is_available() and spread.is_initialized():
            return spread.get_rank(), spread.get_world_size()
        try:
            rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        except ValueError as error:
            raise InvalidError("RANK and WORLD_SIZE in the environment are not whole numbers") from error
        check_rank(rank, world_size)
        return rank, world_size

    def __iter__(self) -> Iterator[Any]:
        rank, world_size = self._process()
        worker = need("torch.utils.data").get_worker_info()
        if worker is not None:
            rank, world_size = rank * worker.num_workers + worker.id, world_size * worker.num_workers
        state, self._resumed = self._resumed, None
        stream = self._opened(rank, world_size)
        if state is not None:
            stream.load_state_dict(state)
        self._stream = stream
        return self._batches(stream)

    def _batches(self, stream: Stream) -> Iterator[Any]:
        with stream:
            yield from stream
        if self._stream is stream:
            self._stream = None

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and where this process (or worker) is in it, as plain JSON values."""
        place = self._resumed if self._stream is None else self._stream.state_dict()
        return {"format": STATE, "epoch": int(self._epoch), "stream": place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on behind the batch after which `state_dict` was called.

        Raises:
            InvalidError: it is no such state. That it is of another table, or of other arguments, shows when it begins.
        """
        if not isinstance(state, Mapping) or state.get("format") != STATE or not isinstance(state.get("epoch"), int):
            raise InvalidError("this is not the state of such a dataset", hint="give what state_dict() gave")
        self.set_epoch(state["epoch"])
        self._stream = None
        self._resumed = state.get("stream")

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker knows nothing of torch.distributed, so it is told the rank.
        return {
            **vars(self),
            "_system": packed(self._system, self._snapshot),
            "_ranks": self._process(),
            "_stream": None,
            "_resumed": self._resumed if self._stream is None else self._stream.state_dict(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._system, self._snapshot = state["_system"].opened(self._snapshot)
