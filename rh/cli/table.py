"""`rh table …`: rows of tables, wherever they are."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from json import loads
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rh.cli import show
from rh.cli.complete import complete_place, one_of
from rh.cli.options import AsJson

if TYPE_CHECKING:
    from rh.resources.table import Table
    from rh.tables.base import Mode

__all__ = ["app"]

app = typer.Typer(
    help="""Inspect, query and write tables.

    Reads Parquet, CSV, JSON lines and Arrow files, tables that rh wrote, and databases. TABLE is a directory or a file
    (a path or a URL), rh://NAME for a saved table, rh://NAME:v1 (or NAME:v1) for one of its versions, or, for `rh table
    sql`, the URL of a database (postgresql://user@host/db, sqlite:////path/file.db, duckdb:////path/file.db).
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)

TableArgument = Annotated[str, typer.Argument(metavar="TABLE", autocompletion=complete_place, show_default=False)]
Limit = Annotated[int | None, typer.Option("--limit", "-n", metavar="ROWS", min=0, help="Maximum number of rows.")]
Columns = Annotated[
    list[str] | None, typer.Option("--column", "-c", metavar="COLUMN", help="Only this column; repeatable.")
]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="CONDITION", help="Only rows that match, such as 'size > 100'; repeatable."),
]

Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Format of files whose names do not show it: parquet, csv, …",
        autocompletion=one_of("parquet", "arrow", "csv", "jsonl"),
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Option for reading the files, such as 'delimiter=;' or 'column_types={\"zip\": \"string\"}'; repeatable.",
    ),
]

Schema = Annotated[
    list[str] | None,
    typer.Option(
        "--schema",
        metavar="COLUMN=TYPE,…",
        help="Columns to read and their types, such as 'id=int64,at=timestamp[us]'; repeatable.",
    ),
]

_CONDITION = re.compile(r"\s*(.+?)\s*(==|!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_DATABASE = re.compile(r"(postgres(ql)?|redshift|sqlite|duckdb|snowflake|bigquery)://")
_VERSION = re.compile(r"((?:[~@]?/)?[A-Za-z0-9][\w./-]*)(?::[\w.-]+|@sha256:[0-9a-f]+)")
_WIDEST = 48


@app.command()
def head(
    table: TableArgument,
    limit: Limit = 10,
    columns: Columns = None,
    where: Where = None,
    file_format: Format = None,
    option: Options = None,
    schema: Schema = None,
    json: AsJson = False,
) -> None:
    """Show the first rows.

    With --json, one document per row.
    """
    opened = _table(table, file_format, option, schema)
    _print(_first(opened, 10 if limit is None else limit, columns, where), json=json)


@app.command("schema")
def schema_(
    table: TableArgument,
    file_format: Format = None,
    option: Options = None,
    schema: Schema = None,
    json: AsJson = False,
) -> None:
    """Show the columns and their types."""
    fields = _table(table, file_format, option, schema).schema
    if json:
        for field in fields:
            show.emit({"column": field.name, "type": str(field.type), "nullable": field.nullable})
    else:
        show.table([[field.name, str(field.type), "" if field.nullable else "not null"] for field in fields])


@app.command()
def stream(
    table: TableArgument,
    limit: Limit = None,
    columns: Columns = None,
    where: Where = None,
    shuffle_seed: Annotated[
        int | None, typer.Option(metavar="SEED", help="Shuffle the rows; the same seed gives the same order.")
    ] = None,
    rank: Annotated[int, typer.Option(min=0, help="Index of this reader, from 0.")] = 0,
    world_size: Annotated[int, typer.Option(min=1, help="Number of readers that share the rows.")] = 1,
    start: Annotated[int, typer.Option(min=0, metavar="ROW", help="Start at this row.")] = 0,
    arrow: Annotated[bool, typer.Option("--arrow", help="Write an Arrow IPC stream instead of JSON.")] = False,
    file_format: Format = None,
    option: Options = None,
    schema: Schema = None,
    json: AsJson = False,
) -> None:
    """Write rows to standard output, one JSON document per row.

    rh table stream s3://bucket/logs | jq .size
    """
    opened = _table(table, file_format, option, schema)
    del json  # it is JSON anyway
    batches = opened.stream(
        columns=columns,
        where=_where(where, opened) if where else None,
        shuffle_seed=shuffle_seed,
        rank=rank,
        world_size=world_size,
        start=start,
    )
    with batches:
        some = _limited(batches, limit)
        if arrow:
            from rh.plugins import need

            sys.stdout.flush()
            with need("pyarrow.ipc").new_stream(sys.stdout.buffer, batches.schema) as sink:
                for batch in some:
                    sink.write_batch(batch)
        else:
            for batch in some:
                _emit(batch.to_pylist())


@app.command()
def sql(
    table: TableArgument,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The table is called t.", show_default=False)],
    limit: Limit = None,
    file_format: Format = None,
    option: Options = None,
    schema: Schema = None,
    json: AsJson = False,
) -> None:
    """Run a query on the files of a table, or in a database.

    Files are queried with DuckDB.

    rh table sql s3://bucket/logs 'select kind, count(*) from t group by kind'
    """
    if _DATABASE.match(table):
        import rh

        _print(_first(rh.table(query=query, system=table, schema=_schema(schema)), limit, None, None), json=json)
    else:
        result = _table(table, file_format, option, schema).sql(query)
        _print(result if limit is None else result.slice(0, limit), json=json)


@app.command()
def profile(
    table: TableArgument,
    limit: Limit = None,
    file_format: Format = None,
    option: Options = None,
    schema: Schema = None,
    json: AsJson = False,
) -> None:
    """Profile the columns of a table.

    Shows the nulls, distinct values, minimum, maximum and most frequent values of each. With --limit, of the first rows
    only: as many as fit in memory.
    """
    import rh

    opened = _table(table, file_format, option, schema)
    found = (opened if limit is None else rh.table(_first(opened, limit, None, None))).profile()
    if json:
        show.emit(_plain(found.as_dict()))
    else:
        show.line(str(found))


@app.command()
def write(
    source: TableArgument,
    target: Annotated[str, typer.Argument(metavar="TARGET", autocompletion=complete_place, show_default=False)],
    mode: Annotated[
        str,
        typer.Option(
            help="If the table exists: error, append or overwrite.",
            autocompletion=one_of("error", "append", "overwrite"),
        ),
    ] = "error",
    partition: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Partition files by the values of this column; repeatable."),
    ] = None,
    file_format: Format = None,
    option: Options = None,
    schema: Schema = None,
    json: AsJson = False,
) -> None:
    """Write a table's rows as another table, of Parquet files.

    rh table write export.csv s3://bucket/table --partition year
    """
    import rh
    from rh.cli.place import place_of

    to = rh.table(path=place_of(target).url, partition_cols=partition or ())
    _written(to.write(_table(source, file_format, option, schema).to_reader(), mode=cast("Mode", mode)), json=json)


@app.command()
def compact(
    table: TableArgument,
    target_mb: Annotated[
        int, typer.Option("--target-mb", metavar="MIB", min=1, help="Approximate size of a file.")
    ] = 128,
    file_format: Format = None,
    option: Options = None,
    schema: Schema = None,
    json: AsJson = False,
) -> None:
    """Rewrite the small files of a table as few large ones.

    The rows stay the same. All or nothing.

    rh table compact s3://bucket/table
    """
    opened = _table(table, file_format, option, schema)
    before = len(opened.opened_files()[1].files)
    _written(opened.compact(target_mb), json=json, before=before)


def _written(table: Table, *, json: bool, before: int | None = None) -> None:
    rows, size, files = table.num_rows, table.size(), len(table.opened_files()[1].files)
    if json:
        told = {} if before is None else {"files_before": before, "files": files}
        show.emit({"table": table.url, "rows": rows, "size": size, **told})
    else:
        told_files = "" if before is None else f", {before:,} → {files:,} files"
        show.line(f"{table.url}: {rows:,} rows, {show.human(size)}{told_files}")


def _table(
    text: str, file_format: str | None = None, options: list[str] | None = None, columns: list[str] | None = None
) -> Table:
    import rh
    from rh import config
    from rh.cli.place import place_of
    from rh.errors import InvalidError, NotFoundError
    from rh.resources import base
    from rh.resources.table import Table
    from rh.tables.given import encoded

    if _DATABASE.match(text):
        raise InvalidError("a database needs a query", hint="rh table sql URL 'select …'")
    given, schema = _options(options), _schema(columns)
    version = _VERSION.fullmatch(text)
    if version and version.group(1) not in config.system_names() and base.exists(version.group(1)):
        text = f"rh://{text}"
    if (match := re.fullmatch(r"rh://(.*?)/?", text, re.DOTALL)) and base.exists(match.group(1)):
        found = base.load(match.group(1))
        if isinstance(found, Table):
            if file_format is not None or given:
                found = replace(found, format=file_format, options=given, own=found.own and file_format is None)
            return found if schema is None else replace(found, schema_given=encoded(schema))
    place = place_of(text)
    if place.name is not None:  # a directory in something saved, of a version perhaps, which no URL can say
        kept = None if schema is None else encoded(schema)
        return Table(location=place.location, format=file_format, options=given, schema_given=kept)
    if place.location.system == "file" and not os.path.lexists(place.location.path) and _is_saved(text):
        raise NotFoundError("nothing is there", where=place.url, hint=f"what is saved under that name is rh://{text}")
    return rh.table(path=place.url, format=file_format, options=given, schema=schema)


def _is_saved(text: str) -> bool:
    from rh.errors import RhError
    from rh.resources import base

    try:
        return base.exists(text)
    except RhError:
        return False  # it is no name, or nobody can say


def _options(given: list[str] | None) -> dict[str, Any] | None:
    """`key=value` as options of a reader: a value that is JSON for what it says, else for text."""
    from rh.errors import InvalidError

    found: dict[str, Any] = {}
    for text in given or ():
        key, mark, value = text.partition("=")
        if not mark or not key:
            raise InvalidError(f"--option {text!r} is not KEY=VALUE", hint="--option 'delimiter=;'")
        try:
            found[key] = loads(value)
        except ValueError:
            found[key] = "\t" if value == "\\t" else value
    return found or None


def _schema(given: list[str] | None) -> dict[str, str] | None:
    """`column=type,…` as `schema=`; a comma within brackets belongs to the type."""
    from rh.errors import InvalidError

    if not given:
        return None
    found: dict[str, str] = {}
    for part in re.findall(r"(?:[^,\[(<]|\[[^\]]*\]|\([^)]*\)|<.*?>+)+", ",".join(given)):
        name, mark, kind = (word.strip() for word in part.partition("="))
        if not mark or not name or not kind:
            raise InvalidError(f"--schema {part.strip()!r} is not COLUMN=TYPE", hint="--schema 'id=int64,name=string'")
        if name in found:
            raise InvalidError(f"--schema names column {name!r} twice")
        found[name] = kind
    return found


def _first(table: Table, limit: int | None, columns: list[str] | None, where: list[str] | None) -> Any:
    from rh.plugins import need

    with table.stream(
        max(1, min(limit or 10_000, 10_000)), columns=columns, where=_where(where, table) if where else None
    ) as stream:
        return need("pyarrow").Table.from_batches(list(_limited(stream, limit)), schema=stream.schema)


def _limited(batches: Iterable[Any], limit: int | None) -> Iterable[Any]:
    left = limit
    for batch in batches:
        if left is not None and len(batch) >= left:
            if left:
                yield batch.slice(0, left)
            return
        yield batch
        left = None if left is None else left - len(batch)


def _where(conditions: list[str], table: Table) -> list[tuple[str, str, Any]]:
    """`x > 3` as pyarrow's filters; what follows is a value of the column's type."""
    from rh.errors import InvalidError
    from rh.tables import access

    fields = table.schema
    found: list[tuple[str, str, Any]] = []
    for text in conditions:
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise InvalidError(f"--where {text!r} is not a condition", hint="--where 'column > value'")
        column, operator, value = match.groups()
        access.check_columns([column], fields)
        found.append((column, "==" if operator == "=" else operator, _value(value, fields.field(column).type, text)))
    return found


def _value(text: str, kind: Any, condition: str) -> Any:
    from rh.errors import InvalidError
    from rh.plugins import need

    pa, pc = need("pyarrow"), need("pyarrow.compute")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    try:
        return pc.cast(pa.scalar(text), kind).as_py()
    except (pa.ArrowException, ValueError) as error:
        raise InvalidError(f"--where {condition!r}: {text!r} is no {kind}") from error


def _print(rows: Any, *, json: bool) -> None:
    if json:
        _emit(rows.to_pylist())
        return
    names = rows.column_names
    cells = [[_cell(row[name]) for name in names] for row in rows.to_pylist()]
    right = [
        number
        for number, name in enumerate(names)
        if cells and all(isinstance(value, int | float) or value is None for value in rows[name].to_pylist())
    ]
    show.table([names, *cells], right=right)


def _cell(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else str(value)
    text = text.replace("\n", "⏎")
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _emit(rows: Iterable[Any]) -> None:
    for row in rows:
        show.emit(_plain(row))


def _plain(value: Any) -> Any:
    """A value as JSON has it: bytes in base64, times as ISO 8601, decimals with a fraction as text, NaN as null."""
    import msgspec

    return _whole(msgspec.to_builtins(value, builtin_types=(Decimal,), enc_hook=str, str_keys=True))


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(inner) for inner in value]
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value.as_tuple().exponent == 0 else str(value)
    return None if isinstance(value, float) and not isfinite(value) else value
