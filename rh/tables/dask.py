"""Dask: partitions are written and read by the workers that hold them; no row passes the caller."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from rh.errors import InvalidError, RemoteError, RhError
from rh.plugins import need
from rh.tables import frames, reading, workers
from rh.tables.base import DataFile, Snapshot
from rh.tables.layouts import roomy
from rh.types import Location

__all__ = ["Dask"]


class Dask:
    """`dask.dataframe.DataFrame`.

    An index is kept as a column, other than one without a name that counts rows: each partition has its own count.
    """

    name: ClassVar[str] = "dask"

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether it is a DataFrame of Dask."""
        return reading.comes_from(value, ("dask", "dask_expr"), ("DataFrame",))

    @staticmethod
    def schema(value: Any) -> Any:
        """The `pyarrow.Schema` that `write` stores, without reading a row where Dask knows the types.

        Columns of Python objects and of unknown categories have the type of the first partition that has a value in
        them, as its worker finds it.

        Raises:
            InvalidError: a column's name is not text or comes twice, or its values do not agree.
        """
        return _Shape.of(value).schema

    @staticmethod
    def reader(value: Any) -> Any:
        """The rows as a reader, partition by partition, through this process."""
        shape = _Shape.of(value)
        return need("pyarrow").RecordBatchReader.from_batches(shape.schema, _computed(value, shape))

    @staticmethod
    def write(
        value: Any, location: Location, write_id: str, partition_cols: tuple[str, ...] = (), *, schema: Any = None
    ) -> list[DataFile]:
        """Store each partition from the worker that has it, in their order; nothing is published.

        Args:
            value: the frame.
            location: of the table.
            write_id: in the names of all its files.
            partition_cols: columns that become directories.
            schema: the types to store, where they are not those of `schema(value)`.

        Raises:
            RhError: what the first task that failed met (`RemoteError` if Dask itself failed, or the computation that
                the frame stands for). No file of this write is left then; only one that is interrupted
                (`KeyboardInterrupt`) may leave some, for `rh.tables.store.debris` to find.
        """
        delayed = need("dask").delayed
        shape = _Shape.of(value)
        told = (workers.Reach.of(location), write_id, partition_cols, shape, schema or shape.schema)
        task = delayed(_store, pure=False)
        tasks = [task(part, number, told) for number, part in enumerate(value.to_delayed())]
        with workers.writes(location, write_id):
            return workers.gathered(location, write_id, partition_cols, schema or shape.schema, _compute(*tasks))

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """The rows as a DataFrame that its workers read: a partition for each file, or for about 32 MiB of a large one.

        Values that NumPy does not know (dates, decimals, lists, …) have pandas' Arrow dtypes. The index comes along
        whatever `columns` says.
        """
        dd = need("dask.dataframe", purpose="a table as a Dask DataFrame")
        source = workers.Source.of(location, snapshot, columns, where, beside=frames.index_columns)
        meta = frames.frame(source.schema.empty_table(), objects=False)
        meta = need("dask.dataframe.utils").clear_known_categories(meta)
        return dd.from_map(_Read(source), source.parts, meta=meta, label="rh-table")

    @staticmethod
    def of_arrow(table: Any) -> Any:
        """A `pyarrow.Table` as a DataFrame of one partition."""
        dd = need("dask.dataframe", purpose="a table as a Dask DataFrame")
        return dd.from_pandas(frames.frame(table, objects=False), npartitions=1, sort=False)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the partitions of a frame are stored as: their types, and whether the index is a column."""

    schema: Any
    index: bool

    @classmethod
    def of(cls, value: Any) -> Self:
        pa = need("pyarrow")
        meta = value._meta  # noqa: SLF001 - Dask's documented name for the empty frame that has the types
        frames.check_names(meta.columns)
        index = meta.index.name is not None or meta.index.dtype.kind not in "iu"
        schema = pa.Schema.from_pandas(meta, preserve_index=index)
        unknown = [
            name
            for name, dtype in meta.dtypes.items()
            if dtype.kind == "O" or (dtype == "category" and not value[name].cat.known)
        ]
        if unknown:
            found = _found(value[unknown])
            for name in unknown:
                position = schema.get_field_index(name)
                schema = schema.set(position, schema.field(position).with_type(found[name]))
        return cls(roomy(schema), index)

    def table(self, frame: Any) -> Any:
        """One partition as a `pyarrow.Table`."""
        return frames.table(frame, self.schema, index=self.index)


def _found(value: Any) -> dict[str, Any]:
    """Column → Arrow type, as the first partitions that have values in them say."""
    pa = need("pyarrow")
    found: dict[str, Any] = dict.fromkeys(value.columns, pa.null())
    for part in value.to_delayed():
        (kinds,) = _compute(need("dask").delayed(_types)(part))
        if isinstance(kinds, RhError):
            raise kinds
        found = {name: kinds[name] if pa.types.is_null(kind) else kind for name, kind in found.items()}
        if not any(pa.types.is_null(kind) for kind in found.values()):
            break
    return found


def _compute(*tasks: Any) -> Sequence[Any]:
    """What the tasks return, from wherever Dask runs them. When it raises, none of them is running any more."""
    dask, base, threaded = need("dask"), need("dask.base"), need("dask.threaded")
    schedule = base.get_scheduler()
    client: Any = getattr(schedule, "__self__", None)
    try:
        if hasattr(client, "gather"):  # of distributed: there, a failure alone stops nothing that is running
            futures = client.compute(list(tasks))
            need("distributed").wait(futures)
            found: Sequence[Any] = client.gather(futures)
        elif schedule in (None, threaded.get):
            with ThreadPoolExecutor(dask.config.get("num_workers", None) or os.cpu_count(), "rh-dask") as pool:
                found = dask.compute(*tasks, scheduler="threads", pool=pool)
        else:
            found = dask.compute(*tasks)
    except RhError:
        raise
    except Exception as error:
        raise RemoteError(f"the computation by Dask failed: {type(error).__name__}: {error}") from error
    return found


def _computed(value: Any, shape: _Shape) -> Iterator[Any]:
    for part in value.to_delayed():
        (frame,) = _compute(part)
        yield from shape.table(frame).to_batches()


def _types(frame: Any) -> dict[str, Any] | RhError:
    """On a worker: column → Arrow type of one partition."""
    pa = need("pyarrow")
    found = {}
    for name in frame.columns:
        try:
            found[name] = pa.array(frame[name], from_pandas=True).type
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            return InvalidError(f"column {name!r} cannot be an Arrow array: {error}")
    return found


def _store(frame: Any, number: int, told: tuple[Any, ...]) -> list[DataFile] | RhError:
    """On a worker: store one partition. An error is a result: all tasks have ended when files are removed."""
    reach, write_id, partition_cols, shape, schema = told
    try:
        return workers.store(reach, shape.table(frame), write_id, number, partition_cols, schema)
    except RhError as error:
        return error


@dataclass(frozen=True, slots=True)
class _Read:
    """On a worker: one share of the table as a pandas frame; of Dask's own accord, only the columns it needs."""

    source: workers.Source

    def __call__(self, part: workers.Part | None, columns: list[str] | None = None) -> Any:
        source = self.source
        if columns is not None:
            source = replace(source, columns=[*columns, *frames.index_columns(source.schema)])
        return frames.frame(source.read(part), objects=False)
