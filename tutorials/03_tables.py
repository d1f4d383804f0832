# %% [markdown]
# # Tables
#
# Rows written once and read everywhere: in batches, mixed, shared among workers, resumed in the middle, by SQL, in
# pandas and in torch. The data are real: what this machine knows of Debian's packages, with numbers, text and nested
# lists of dependencies. It needs `pip install "rh-data[playground,pandas,sql,torch]"`.

# %%
import os
import subprocess
import tempfile
from pathlib import Path

from torch.utils.data import DataLoader

import rh
from rh.testing.playground import Playground

playground = Playground(("s3", "ssh-a")).start()
os.environ.update(playground.environment())
scratch = tempfile.TemporaryDirectory(prefix="rh-tables-")
work = Path(scratch.name)


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
                "depends": [need.split()[0] for need in fields.get("Depends", "").split(",") if need.strip()],
                "description": fields.get("Description", ""),
            }


rows = list(packages())
print(rows[0])

# %% [markdown]
# ## Write, and read by name
#
# A list of dicts goes in, and comes back out. pandas, polars, Arrow, Dask, Ray and Hugging Face datasets go in the same
# way, and `fetch()` gives back the type that went in. `save` writes the rows as Parquet files, all or nothing, and puts
# the name into the registry.

# %%
table = rh.table(rows, name="debian-packages").save()
print(table)
print(table.num_rows == len(rows), table.fetch() == rows)
print(table.schema.field("depends").type)
frame = rh.table(name="debian-packages").to_pandas(columns=["package", "installed_kib"])
print(frame.nlargest(3, "installed_kib").columns.tolist())

# %% [markdown]
# Somebody else may read at any time: they see the table as it was or as it is now. Files that lie beside it are never
# touched.

# %%
try:
    rh.table(rows, name="debian-packages").write()
except rh.errors.ExistsError as error:
    print(error)
again = table.write(rows[:1000], mode="overwrite")
print(again.num_rows, again.write(rows[1000:], mode="append").num_rows == len(rows))

# %% [markdown]
# ## Elsewhere
#
# `.to()` moves the table's own files, verified. It is the same table there.

# %%
there = table.to("s3").save("debian-on-s3")
print(there.receipt.route, there.verify().ok)
on_host = there.to("ssh-a")
print(on_host.receipt.route, on_host.head(1) == rows[:1])

# %% [markdown]
# ## Stream
#
# Batches have exactly the size asked for, across files, in an order that never changes. Columns and conditions reach
# the files: only what is wanted is read.

# %%
stream = there.stream(500, columns=["package", "installed_kib"], where=[("installed_kib", ">", 1000)])
first = next(iter(stream))
print(first.num_rows, first.schema.names, min(first["installed_kib"].to_pylist()) > 1000)
stream.close()
for frame in on_host.stream(500, format="pandas", drop_last=True):
    assert len(frame) == 500

# %% [markdown]
# A seed mixes the rows. The same seed gives the same order on every machine; ranks get equal shares that do not
# overlap.

# %%
mixed = [name for batch in there.stream(1000, shuffle_seed=7) for name in batch["package"].to_pylist()]
again = [name for batch in table.stream(33, shuffle_seed=7) for name in batch["package"].to_pylist()]
print(mixed != [row["package"] for row in rows], sorted(mixed) == sorted(row["package"] for row in rows))
shares = [
    {row for batch in there.stream(100, rank=rank, world_size=4) for row in batch["package"].to_pylist()}
    for rank in range(4)
]
print(len(set().union(*shares)) == len({row["package"] for row in rows}))

# %% [markdown]
# A stream says where it is, and another one goes on at that very row, in another process and on another day.

# %%
stream = there.stream(64, shuffle_seed=7)
begun = [next(stream) for _ in range(3)]
state = stream.state_dict()
stream.close()
later = there.stream(64, shuffle_seed=7)
later.load_state_dict(state)
rest = [name for batch in later for name in batch["package"].to_pylist()]
print([name for batch in begun for name in batch["package"].to_pylist()] + rest == mixed)

# %% [markdown]
# ## Ask
#
# SQL by DuckDB over the same files; the table is `t`. Others come along under names of their own.

# %%
sections = there.sql(
    "select section, count(*) as packages, sum(installed_kib) as kib from t group by all order by 2 desc"
)
print(sections.column_names, sections["packages"][0].as_py() > 0)
popular = there.sql("""
    select need, count(*) as wanted_by from (select unnest(depends) as need from t)
    group by need order by wanted_by desc limit 1
""")
print(popular.to_pylist())
print(there.profile())

# %% [markdown]
# ## Learn
#
# `to_torch` is an `IterableDataset`: it shares the rows among the workers of a DataLoader and among ranks.

# %%
dataset = there.to_torch(256, columns=["installed_kib"], shuffle_seed=1)
seen = 0
for batch in DataLoader(dataset, batch_size=None, num_workers=2):
    seen += len(batch["installed_kib"])
print(seen == len(rows), batch["installed_kib"].dtype)

# %%
scratch.cleanup()
playground.stop()
print("finished")
