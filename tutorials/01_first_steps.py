# %% [markdown]
# # First steps
#
# A directory tree goes from this machine to S3, on to GCS, on to an SSH host and back, and is the same tree at every
# stop. Nothing needs an account: `Playground` starts real servers on this machine and stops them at the end. With
# systems of your own, leave it out; nothing else changes.
#
# The tree is real: this Python's own standard library.

# %%
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import rh
from rh.testing.playground import Playground

playground = Playground(("s3", "gs", "ssh-a")).start()
os.environ.update(playground.environment())  # what `export RH_PROFILE=playground` does in a shell
scratch = tempfile.TemporaryDirectory(prefix="rh-first-steps-")
work = Path(scratch.name)

# %% [markdown]
# ## A folder is one object
#
# `rh.folder(path=...)` names a place; nothing is read until something is asked of it.

# %%
library = rh.folder(path=sysconfig.get_path("stdlib") + "/json")
print(library)
print(library.ls(full_paths=False))

# %% [markdown]
# Of the whole library we want the modules. `include=` and `exclude=` take the patterns of `.gitignore`. A copy on the
# same disk is a `COPY`: the kernel makes it.

# %%
stdlib = rh.folder(path=sysconfig.get_path("stdlib"))
here = stdlib.to("here", path=work / "stdlib", include=["*.py"], exclude=["test/", "site-packages/", "idlelib/"])
print(here.receipt)

# %% [markdown]
# ## Plan, then move
#
# A plan says what would move, by which road and how many bytes.

# %%
print(here.plan("s3", path="tutorial/stdlib"))


# %% [markdown]
# `.to()` does it and leaves a receipt. SHA-256 is computed while the bytes move, and checked on arrival. On a terminal,
# work longer than two seconds shows a bar; any object with these four methods can watch instead.


# %%
class Quarters:
    """Progress as a line of text at each quarter."""

    def start(self, title):
        print(title)
        self.files = self.bytes = 0

    def total(self, files, size):
        self.of_files, self.of_bytes = files, size

    def advance(self, files, size):
        before = 4 * self.bytes // self.of_bytes
        self.files, self.bytes = self.files + files, self.bytes + size
        if 4 * self.bytes // self.of_bytes > before:
            print(f"  {self.files} of {self.of_files} files")

    def finish(self):
        print("  finished")


on_s3 = here.to("s3", path="tutorial/stdlib", progress=Quarters())
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
# Between two remote places the bytes take the shortest road. Neither of two stores can fetch from the other, so these
# bytes stream through this machine, without a temporary file, and the receipt says `RELAY`.

# %%
on_gs = on_s3.to("gs", path="tutorial/stdlib")
print(on_gs.receipt)
last = on_gs

# %% [markdown]
# A host can fetch: it is given signed URLs of exactly these objects, needs no credential, and the bytes do not pass
# here. The receipt says `PULL`.

# %%
if "ssh-a" in playground.running:
    on_host = on_gs.to("ssh-a", path="stdlib")
    print(on_host.receipt)
    last = on_host
else:
    print("no SSH host can be started here, so that stop is left out:", playground.missing["ssh-a"])

# %% [markdown]
# ## And back: the same tree

# %%
back = last.to("here", path=work / "back")
print(back.receipt)
assert back.digest() == here.digest() == on_s3.digest() == on_gs.digest()
print("the same tree everywhere:", back.digest())

# %% [markdown]
# `verify()` reads every byte again and compares it with what the copy left in the manifest.

# %%
print(on_s3.verify())

# %% [markdown]
# ## Names
#
# Saved by name, a folder is found again by another process, on another day.

# %%
on_s3.save("first-steps-stdlib")
code = "import rh; f = rh.load('first-steps-stdlib'); print(f.url, 'with', len(f.ls()), 'entries')"
print(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout)
print(rh.resources())

# %% [markdown]
# ## One value: a blob

# %%
rh.blob({"epochs": 3, "rate": 0.1}, name="first-steps-params", system="s3", path="tutorial/params.json").save()
print(rh.blob(name="first-steps-params").fetch())

# %% [markdown]
# The names go, and the servers with all they held.

# %%
rh.load("first-steps-stdlib").delete_configs()
rh.load("first-steps-params").delete_configs()
playground.stop()
scratch.cleanup()
