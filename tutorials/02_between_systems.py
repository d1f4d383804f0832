# %% [markdown]
# # Between systems
#
# Several object stores and hosts at once: which files go, who moves the bytes, what happens when a transfer is killed,
# how damage is found, and what errors say. As in the first tutorial, all servers are real and run on this machine.

# %%
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rh
from rh.observe import counting
from rh.testing import servers
from rh.testing.playground import Playground

playground = Playground(("s3", "gs", "ssh-a", "ssh-b")).start()
os.environ.update(playground.environment())
scratch = tempfile.TemporaryDirectory(prefix="rh-between-systems-")
work = Path(scratch.name)

# %% [markdown]
# ## More than one S3
#
# Every S3-compatible endpoint is a system with a name of its own: here a second server, elsewhere MinIO, OVH, Oracle or
# R2. In `~/.rh/config.toml` this is a table `[systems.minio]` with the same settings. Keys stay in a credentials file
# or profile; settings hold no secret.

# %%
second = servers.s3().start()
settings = second.settings(root="s3://data/archive")
print({key: value for key, value in settings.items() if key in ("kind", "endpoint_url", "profile", "root")})
rh.config.register("minio", settings)

# %% [markdown]
# ## Which files go
#
# A project as it lies on a disk: data, a cache nobody wants, logs, a link, a script, an empty directory.

# %%
project = work / "project"
for name, data in {
    "train/a.csv": b"x,y\n1,2\n",
    "train/b.csv": b"x,y\n3,4\n",
    "train/notes.txt": b"checked by hand\n",
    "cache/tmp.bin": bytes(100_000),
    "run.log": b"lots of text\n" * 1000,
    "prepare.sh": b"#!/bin/sh\nexit 0\n",
}.items():
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).write_bytes(data)
(project / "prepare.sh").chmod(0o755)
(project / "empty").mkdir()
(project / "latest.csv").symlink_to("train/b.csv")

# %% [markdown]
# `.rhignore` at the root of the source leaves files out for good, `include=` and `exclude=` for one call. The patterns
# are those of `.gitignore`. What Git ignores is data: no `.gitignore` is looked at.

# %%
(project / ".rhignore").write_text("cache/\n*.log\n")
source = rh.folder(path=project)
print(source.plan("minio", path="project"))

# %%
on_minio = source.to("minio", path="project")
print(on_minio.receipt)
print([entry for entry in on_minio.glob("**") if not entry.endswith("/")])

# %% [markdown]
# `latest.csv` is a link. By default what it points to is copied; `links="keep"` keeps the link where the target has
# links, `"skip"` leaves links out, `"error"` refuses them.

# %%
print(on_minio.get("latest.csv"))
kept = source.to("ssh-a", path="project", links="keep", include=["*.csv"])
print(rh.cluster("ssh-a").run([["readlink", kept.path + "/latest.csv"]])[0].stdout.strip())

# %% [markdown]
# Stores have no executable bit and no empty directories. The manifest keeps them, so the tree comes back as it was.

# %%
back = on_minio.to("here", path=work / "back")
print(os.access(work / "back/prepare.sh", os.X_OK), (work / "back/empty").is_dir())
assert back.digest() == on_minio.digest()

# %% [markdown]
# ## What the target has already
#
# By default what differs is moved again. `on_existing="skip"` leaves what exists, `"error"` refuses to begin,
# `"replace"` moves everything.

# %%
(project / "train/a.csv").write_bytes(b"x,y\n1,2\n5,6\n")
try:
    source.to("minio", path="project", on_existing="error")
except rh.errors.ExistsError as error:
    print(error)
else:
    raise AssertionError("something that differs exists")

# %%
print(source.to("minio", path="project").receipt)

# %% [markdown]
# Nothing is ever deleted unless asked. With `delete=True` the target loses what the source does not have; what patterns
# leave out is left alone on both sides.

# %%
(project / "train/notes.txt").unlink()
print(source.plan("minio", path="project", delete=True))
pruned = source.to("minio", path="project", delete=True)
print(pruned.receipt)
assert pruned.receipt.deleted == 1

# %% [markdown]
# ## A transfer is killed
#
# A process copies 40 MiB, slowly, and is killed when part of it has arrived.

# %%
big = work / "big"
big.mkdir()
for number in range(40):
    (big / f"{number:02}.bin").write_bytes(os.urandom(1024 * 1024))

code = f"import rh; rh.folder(path={str(big)!r}).to('s3', path='big', bandwidth=10_000_000)"
child = subprocess.Popen([sys.executable, "-c", code])
there = rh.folder(path="big", system="s3")
while not there.exists_in_system() or len(there.ls()) < 10:
    time.sleep(0.05)
child.send_signal(signal.SIGKILL)
child.wait()
print(len(there.ls()), "of 40 files are there; the tree has no manifest, so it does not look complete:")
print(there.verify())

# %% [markdown]
# The same call again goes on from there: what arrived is not sent again.

# %%
finished = rh.folder(path=big).to("s3", path="big")
print(finished.receipt)
assert finished.receipt.skipped >= 10
assert finished.receipt.done + finished.receipt.skipped == 40
print(finished.verify())

# %% [markdown]
# ## Who moves the bytes
#
# From a bucket to a host: the host fetches from signed URLs. It has no credentials for the bucket, and the bytes do not
# pass through here; counting what this process received shows it.

# %%
with counting() as counts:
    on_a = finished.to("ssh-a", path="big")
print(on_a.receipt)
print("received here from s3:", counts.received["s3"], "bytes")
assert on_a.receipt.route == "PULL"
assert counts.received["s3"] < 100_000

# %% [markdown]
# From a host to a bucket: the host sends, again by signed URLs.

# %%
to_gs = on_a.to("gs", path="big")
print(to_gs.receipt)
assert to_gs.receipt.route == "PUSH"

# %% [markdown]
# From host to host: directly, where one can log in to the other with keys of its own. No agent is forwarded. Where
# neither can, the receipt says `RELAY`.

# %%
on_b = on_a.to("ssh-b", path="big")
print(on_b.receipt)
assert on_b.receipt.route == "PUSH"
assert on_b.digest() == to_gs.digest() == rh.folder(path=big).digest()

# %% [markdown]
# ## One flipped bit
#
# Somebody's disk loses a bit. `verify()` reads every byte again and says where.

# %%
victim = playground.running["ssh-b"].home / "data/big/17.bin"
with victim.open("r+b") as file:
    file.seek(500_000)
    byte = file.read(1)
    file.seek(500_000)
    file.write(bytes([byte[0] ^ 1]))
found = on_b.verify()
print(found)
assert not found

# %% [markdown]
# Copying again mends it, and only it.

# %%
mended = on_a.to("ssh-b", path="big")
print(mended.receipt)
assert mended.receipt.done == 1
assert mended.verify()

# %% [markdown]
# ## A host with a name
#
# A cluster is a host that is saved by name. It runs commands (lists of words, never interpreted by a shell), and is a
# place like any other.

# %%
host = playground.running["ssh-b"].settings()
login = {key: host[key] for key in ("host", "port", "user", "identity_file", "known_hosts_file")}
gpu = rh.cluster(name="tutorial-gpu", **login).save()
print(gpu.up_if_not())
for done in gpu.run([["uname", "-s"], ["sh", "-c", "ls data/big | wc -l"]]):
    print(done.status, done.stdout.strip())

# %%
inputs = source.to("tutorial-gpu", path="~/inputs").save("tutorial-inputs")
print(rh.load("tutorial-inputs"))
print(rh.folder(path="tutorial-gpu:~/inputs/train").ls(full_paths=False))

# %% [markdown]
# ## What errors say
#
# Each error is also the builtin you would catch, names the place, and says the fix where there is one.


# %%
def show(action):
    try:
        action()
    except rh.errors.RhError as error:
        builtins = [base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins"]
        print(f"{type(error).__name__} ({builtins[0]}, kind {error.kind}): {error}\n")
    else:
        raise AssertionError("that should have failed")


show(lambda: rh.load("tutorial-inputz"))
show(lambda: rh.folder("./inputs"))
show(lambda: rh.folder(path="nothing-here").to("s3"))
show(lambda: source.to("s33", path="x"))
show(lambda: rh.folder(path="s3://no-such-bucket/x").ls())
show(lambda: inputs.put({"../escape.txt": b""}))
show(lambda: inputs.put({"train/a.csv": b""}))

# %% [markdown]
# A host whose key nobody confirmed is refused; how to confirm it is in the message.

# %%
empty = work / "known_hosts"
empty.touch()
stranger = rh.cluster(name="tutorial-stranger", **(login | {"known_hosts_file": str(empty)}))
show(lambda: stranger.run([["true"]]))

# %%
rh.load("tutorial-inputs").delete_configs()
rh.load("tutorial-gpu").delete_configs()
second.stop()
playground.stop()
scratch.cleanup()
