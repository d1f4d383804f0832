# %% [markdown]
# # Versions
#
# A dataset changes, and a training run of last month has to be repeated on what it was then. `commit` keeps what is
# there now, for ever and verified; only what is new takes room. The data are real: the sources of this Python's
# standard library, on an S3 server that runs on this machine.

# %%
import io
import os
import sysconfig
import tempfile
from pathlib import Path

import rh
from rh.observe import counting
from rh.testing.playground import Playground

scratch = tempfile.TemporaryDirectory(prefix="rh-versions-")
work = Path(scratch.name)
os.environ["RH_HOME"] = str(work / "home")  # names, settings and what is kept are of this tutorial alone
playground = Playground(("s3", "ssh-a")).start()
os.environ.update(playground.environment())

# %% [markdown]
# ## Commit
#
# A folder on S3, under a name. The first version has all of it; equal content makes no second one.

# %%
library = Path(sysconfig.get_paths()["stdlib"])
sources = rh.folder(path=library / "json").to("s3", path="sources").save("sources")
first = sources.commit("as Python ships it", aliases=["production"])
print(first.label, first.files, first.digest == sources.digest())
print(sources.commit("nothing changed").label)

# %%
sources.put({"notes.txt": b"read me first\n"})
with counting() as counts:
    second = sources.commit("with notes", tags=["documented"])
print(second.label, "parent", second.parent, "stored", counts.sent["s3"] < 5_000)
print(sources.log())

# %% [markdown]
# ## Come back
#
# `name:v1`, an alias or a digest names a version, here, in another process and on another machine. It reads like a
# folder, every byte is compared with its digest, and it cannot be changed.

# %%
pinned = rh.folder("sources:production")
print(pinned, "notes.txt" in pinned.ls(full_paths=False), pinned.verify().ok)
try:
    pinned.put({"notes.txt": b"late"})
except rh.errors.ImmutableVersionError as error:
    print(error.message)
print(pinned.to("ssh-a", path="run-17/sources").digest() == first.digest)
text = rh.folder("sources:v1").get("decoder.py")
with counting() as counts:
    again = rh.folder("sources:v1").get("decoder.py")
print(again == text, "requests to S3 for what is cached:", counts.total("s3"))

# %% [markdown]
# Aliases move, and remember where they stood. `expect=` makes it safe for two people at once.

# %%
sources.alias("production", "v2", expect="v1")
try:
    sources.alias("production", "v1", expect="v1")
except rh.errors.ConflictError as error:
    print(error.message)
print(sources.aliases(), [move.version for move in sources.alias_history("production")])

# %% [markdown]
# ## Drafts
#
# Changes put together piece by piece become one version at the end of the block, or none if it fails. The folder's own
# files are not needed for it: removing, moving, and taking over from other versions store no data.

# %%
with sources.draft(message="a tidy one", aliases=["staging"]) as draft:
    draft.add(io.BytesIO(b"x,y\n1,2\n"), path="tables/points.csv")
    draft.move("notes.txt", "docs/notes.txt")
    draft.remove("__init__.py")
print(draft.version.label, [key for key in rh.folder("sources:staging").glob("**") if key.endswith((".csv", ".txt"))])

# %%
other = rh.folder(path="s3://data/other").mkdir().save("other")
with counting() as counts, other.draft() as draft:
    draft.copy_from("sources:v1", "decoder.py", "borrowed/decoder.py")
print(rh.folder("other:latest").get("borrowed/decoder.py") == text, counts.sent["s3"] < 5_000)

# %%
(work / "late.bin").write_bytes(bytes(1000))
print(sources.upload(work / "late.bin", "extra/late.bin", message="one more").label)
try:
    sources.upload(work / "late.bin", "extra/late.bin")
except rh.errors.ExistsError as error:
    print(error.message)

# %% [markdown]
# ## Restore
#
# The live files become what they were in a version; the versions stay.

# %%
sources.rm("decoder.py")
sources.restore("v2")
print(sources.digest() == second.digest, len(sources.versions()))

# %% [markdown]
# Tables and blobs have versions in the same way.

# %%
table = rh.table({"step": [1, 2, 3], "loss": [0.9, 0.5, 0.4]}, name="losses", system="s3", path="losses").save()
table.commit("three steps")
table.write({"step": [4], "loss": [0.3]}, mode="append")
print(rh.table(name="losses:v1").num_rows, rh.table(name="losses").num_rows)

# %%
playground.stop()
scratch.cleanup()
print("finished")
