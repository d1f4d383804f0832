"""Ray: blocks are written and read by its tasks; no row passes the caller."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from rh.errors import InvalidError, RemoteError, RhError
from rh.plugins import need
from rh.tables import frames, reading, workers
from rh.tables.base import DataFile, Snapshot
from rh.types import Location

__all__ = ["Ray"]


class Ray:
    """`ray.data.Dataset`. Its rows have the order in which Ray's tasks hand them over."""

    name: ClassVar[str] = "ray"

    @staticmethod
    def owns(value: Any) -> bool:
        """Whether it is a Dataset of Ray."""
        return reading.comes_from(value, ("ray",), ("Dataset",))

    @staticmethod
    def schema(value: Any) -> Any:
        """The `pyarrow.Schema` that `write` stores. Ray computes as much of the dataset as it takes to know it.

        Raises:
            InvalidError: the dataset has no column.
            RemoteError: a task of the dataset failed.
        """
        pa = need("pyarrow")
        with _Failing():
            known = value.schema()
            schema = None if known is None else known.base_schema
            if schema is not None and not isinstance(schema, pa.Schema):  # its blocks are pandas frames
                first = next(iter(value.limit(1000).iter_batches(batch_size=None, batch_format="pyarrow")), None)
                schema = None if first is None else first.schema
        if schema is None or not len(schema):
            raise InvalidError("the Ray dataset has no columns, so it is no table")
        return schema

    @staticmethod
    def reader(value: Any) -> Any:
        """The rows as a reader, block by block, through this process."""
        schema = Ray.schema(value)
        return need("pyarrow").RecordBatchReader.from_batches(schema, _batches(value, schema))

    @staticmethod
    def write(
        value: Any, location: Location, write_id: str, partition_cols: tuple[str, ...] = (), *, schema: Any = None
    ) -> list[DataFile]:
        """Store the blocks from Ray's tasks; nothing is published.

        Args:
            value: the dataset.
            location: of the table.
            write_id: in the names of all its files.
            partition_cols: columns that become directories.
            schema: the types to store, where they are not those of `schema(value)`.

        Raises:
            RhError: what the first task that failed met (`RemoteError` if Ray itself or the computation of the dataset
                failed). The files of this write are removed then; a task that Ray is still ending may leave one, for
                `rh.tables.store.debris` to find.
        """
        schema = Ray.schema(value) if schema is None else schema
        sink = _sink(workers.Reach.of(location), write_id, partition_cols, schema)
        with workers.writes(location, write_id):
            with _Failing():
                value.write_datasink(sink)
            return workers.gathered(location, write_id, partition_cols, schema, sink.results)

    @staticmethod
    def fetch(location: Location, snapshot: Snapshot, *, columns: list[str] | None = None, where: Any = None) -> Any:
        """The rows as a lazy Dataset that Ray's tasks read: one for each file, or for about 32 MiB of a large one."""
        data = need("ray.data", purpose="a table as a Ray Dataset")
        source = workers.Source.of(location, snapshot, columns, where)
        return data.read_datasource(_source(source), override_num_blocks=len(source.parts))

    @staticmethod
    def of_arrow(table: Any) -> Any:
        """A `pyarrow.Table` as a Dataset."""
        return need("ray.data", purpose="a table as a Ray Dataset").from_arrow(table)


class _Failing:
    """Inside, what Ray raises becomes a `RemoteError` with the original as cause."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, RhError):
            cause = getattr(error, "cause", None)
            if isinstance(cause, RhError):
                raise cause from error
            raise RemoteError(f"the computation by Ray failed: {type(error).__name__}: {error}") from error


def _batches(value: Any, schema: Any) -> Iterator[Any]:
    with _Failing():
        for table in value.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from reading.fitted(table, schema).to_batches()


def _store(
    blocks: Any, reach: workers.Reach, write_id: str, number: int, partition_cols: tuple[str, ...], schema: Any
) -> list[DataFile] | RhError:
    """In a task: store its blocks as one part. An error is a result: all tasks have ended when files are removed."""
    pa = need("pyarrow")
    try:
        tables = [block if isinstance(block, pa.Table) else frames.table(block, index=False) for block in blocks]
        tables = [reading.fitted(table, schema) for table in tables if table.num_rows]
        rows = pa.concat_tables(tables) if tables else schema.empty_table()
        return workers.store(reach, rows, write_id, number, partition_cols, schema)
    except RhError as error:
        return error


# Ray's base classes exist once Ray is imported, so what extends them is defined then.


def _sink(reach: workers.Reach, write_id: str, partition_cols: tuple[str, ...], schema: Any) -> Any:
    class Sink(need("ray.data").Datasink):  # type: ignore[misc]
        def __init__(self) -> None:
            self.results: list[list[DataFile] | RhError] = []

        def get_name(self) -> str:
            return "rh table"

        def write(self, blocks: Any, ctx: Any) -> list[DataFile] | RhError:
            return _store(blocks, reach, write_id, ctx.task_idx, partition_cols, schema)

        def on_write_complete(self, write_result: Any) -> None:
            self.results = list(write_result.write_returns)

    return Sink()


def _source(source: workers.Source) -> Any:
    block = need("ray.data.block")
    datasource = need("ray.data.datasource")

    class Table(need("ray.data.datasource").Datasource):  # type: ignore[misc]
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_more: Any, **_and_more: Any) -> list[Any]:  # noqa: ARG002
            return [
                datasource.ReadTask(
                    lambda part=part: [source.read(part)],
                    block.BlockMetadata(num_rows=source.rows(part), size_bytes=None, exec_stats=None, input_files=None),
                    schema=source.schema,
                )
                for part in source.parts
            ]

    return Table()
