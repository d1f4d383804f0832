# %% [markdown]
# # First steps
#
# A directory tree goes from this machine to S3, on to GCS, on to an SSH host and back, and is the same tree at every stop.
# Nothing needs an account: `Playground` starts real servers on this machine and stops them at the end. With systems of your
# own, leave it out; nothing else changes.
#
# The tree is real: this Python's own standard library.

# %%
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import rh
from rh.testing.playground import Playground

work = Path(tempfile.mkdtemp(prefix="rh-first-steps-"))
playground = Playground().start()

# %% [markdown]
# ## A folder is one object
#
# `rh.folder(path=...)` names a place; nothing is read until something is asked of it.

# %%
library = rh.folder(path=sysconfig.get_path("stdlib") + "/json")
print(library)
print(library.ls(full_paths=False))

# %% [markdown]
# The whole library is about two thousand files. `__pycache__` and installed packages are not wanted; patterns are those
# of `.gitignore`.

# %%
stdlib = rh.folder(path=sysconfig.get_path("stdlib"))
chosen = {"exclude": ["__pycache__/", "site-packages/", "config-*/", "test/", "idlelib/", "*.so"]}
here = stdlib.to("here", path=work / "stdlib", **chosen)
print(here.receipt)

# %% [markdown]
# ## Plan, then move
#
# A plan says what would move, by which road and how many bytes. `.to()` does it and leaves a receipt. SHA-256 is computed while
# the bytes move, and checked on arrival.

# %%
print(here.plan("s3", path="tutorial/stdlib"))
on_s3 = here.to("s3", path="tutorial/stdlib")
print(on_s3.receipt)

# %% [markdown]
# Doing it again moves nothing: 0 bytes, 0 writes.

# %%
again = here.to("s3", path="tutorial/stdlib")
print(again.receipt)
assert again.receipt.bytes_moved == 0

# %% [markdown]
# ## From cloud to cloud, and to a host
#
# Between two remote places the bytes take the shortest road: a host fetches from a bucket by signed URL, and nothing
# passes through this machine. Where neither end can do it, the receipt says RELAY.

# %%
on_gs = on_s3.to("gs", path="tutorial/stdlib")
print(on_gs.receipt)
last = on_gs

# %%
if "ssh-a" in playground.systems:
    on_host = on_gs.to("ssh-a", path="stdlib")
    print(on_host.receipt)
    last = on_host
else:
    print("no SSH server here, so that stop is left out:", playground.missing["ssh-a"])

# %% [markdown]
# ## And back: the same tree

# %%
back = last.to("here", path=work / "back")
print(back.receipt)
assert back.digest() == here.digest() == on_s3.digest() == on_gs.digest()
print("the same tree everywhere:", back.digest())
print(on_s3.verify())

# %% [markdown]
# ## Names
#
# Saved by name, a folder is found again by anybody who shares the registry; here, by another process.

# %%
on_s3.save("first-steps-stdlib")
code = "import rh; f = rh.load('first-steps-stdlib'); print(f.url, len(f.ls()), 'entries')"
print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
print(rh.resources())

# %% [markdown]
# ## One value: a blob

# %%
model = rh.blob({"weights": [1, 2, 3]}, name="first-steps-model", system="s3", path="tutorial/model.json").save()
print(rh.blob(name="first-steps-model").fetch())

# %% [markdown]
# The servers stop, the working directory and the names go.

# %%
rh.load("first-steps-stdlib").delete_configs()
rh.load("first-steps-model").delete_configs()
playground.stop()
shutil.rmtree(work)
