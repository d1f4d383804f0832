# %% [markdown]
# # Databases
#
# The answer of a database to a query is a table like any other: it is streamed, looked at, and kept as a snapshot that
# knows its query. The database is real: a PostgreSQL server of its own, with what this machine knows of Debian's
# packages in it. It needs `pip install "rh-data[playground,pandas,sql]"` and PostgreSQL (`apt-get install postgresql`).

# %%
import os
import subprocess
from pathlib import Path

import adbc_driver_postgresql.dbapi
import pyarrow as pa

import rh
from rh.testing import servers

server = servers.postgres().start()
os.environ["PGPASSWORD"] = server.password  # or a line in ~/.pgpass: libpq finds it, and rh never sees it


# %% [markdown]
# ## A table in the database
#
# This is the database's side of the story; rh has no part in it.


# %%
def packages():
    """One dict per package that apt knows, or that is installed where apt has no lists."""
    known = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=False).stdout
    for paragraph in (known or Path("/var/lib/dpkg/status").read_text()).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if "Package" in fields:
            yield {
                "package": fields["Package"],
                "section": fields.get("Section", "none").rpartition("/")[2],
                "installed_kib": int(fields.get("Installed-Size", 0)),
                "description": fields.get("Description", ""),
            }


rows = pa.Table.from_pylist(list(packages()))
with adbc_driver_postgresql.dbapi.connect(server.url) as connection, connection.cursor() as cursor:
    cursor.adbc_ingest("packages", rows)
    connection.commit()
print(rows.num_rows > 100)

# %% [markdown]
# ## A query is a table
#
# `system=` is the database's URL. Nothing is asked of it yet. The columns are known without running the query, and the
# database counts the rows. Values go in as parameters: they are bound, never pasted into the text.

# %%
query = "select package, section, installed_kib from packages where installed_kib > $1 order by package"
large = rh.table(query=query, parameters=[1000], system=server.url)
print(large.schema.names)
print(large.num_rows == sum(size > 1000 for size in rows["installed_kib"].to_pylist()))

# %% [markdown]
# ## Stream it
#
# The rows come in batches of exactly the size asked for, while the database still works. A few batches are held,
# however many rows there are.

# %%
seen = 0
for batch in large.stream(batch_size=500):
    seen += batch.num_rows
print(seen == large.num_rows)

# %% [markdown]
# ## Only reading
#
# The query runs in a read-only transaction. A statement of another kind does not run at all, and a wrong query is
# answered by the database itself.

# %%
for wrong in ("delete from packages", "select * from package", "select sektion from packages"):
    try:
        rh.table(query=wrong, system=server.url).fetch()
    except rh.errors.RhError as error:
        print(f"{type(error).__name__}: {error.message}\n")

# %% [markdown]
# ## Keep what it was today
#
# A snapshot writes the result as Parquet files under a name. Its record has the query, the parameters and the time, and
# no password.

# %%
kept = large.snapshot("large-packages")
print(kept)
source = rh.load("large-packages").config()["source"]
print(source["query"] == query, source["parameters"], source["taken"][:2])
print(server.password in str(source))

# %% [markdown]
# The database goes on without us, and goes away; the snapshot stays.

# %%
server.stop()
kept = rh.load("large-packages")
print(kept.num_rows == seen)

# %% [markdown]
# ## SQL over the files
#
# The same in DuckDB's SQL, over the snapshot's own files: the table is `t`. Such a query reads its tables and nothing
# else. And from there it goes to pandas, or wherever a table goes.

# %%
by_section = "select section, count(*) as n from t where installed_kib > ? group by section order by n desc"
top = kept.sql(by_section, parameters=[5000])
print(top.schema.names, sum(top["n"].to_pylist()) < seen)
frame = kept.to_pandas(columns=["section", "installed_kib"])
print(frame.groupby("section")["installed_kib"].median().gt(1000).all())
try:
    kept.sql("select * from read_csv('/etc/passwd')")
except rh.errors.InvalidError as error:
    print(error.message.partition(":")[0])

# %%
kept.rm()
kept.delete_configs()
