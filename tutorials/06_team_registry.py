# %% [markdown]
# # A registry for a team
#
# Ada and Bob work on the same data. What Ada saves, commits and describes, Bob finds, reads and goes on with, from his
# own machine. They begin without any server: their names live in the bucket that has their data. Later a registry
# server says who may do what. The data are real: the sources of this Python's standard library.
#
# Ada is this program. Bob works in a shell, in processes and a home directory of his own; what they have in common is
# the bucket (here a GCS server that runs on this machine) and two lines of settings.

# %%
import ast
import os
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path

import rh
from rh import F
from rh.testing import servers
from rh.testing.servers.registry import RegistryServer

scratch = tempfile.TemporaryDirectory(prefix="rh-team-")
work = Path(scratch.name)
bucket = servers.gcs(buckets=("team",)).start()

SETTINGS = """
user = "{user}"
registry = "gs://team/registry"
timeout_s = 5
[systems.gs]
root = "gs://team/data"
endpoint_url = "{endpoint}"
anonymous = true
"""


def home(user):
    """The settings of one of the two: `~/.rh/config.toml` on their machine."""
    place = work / user
    place.mkdir()
    (place / "config.toml").write_text(SETTINGS.format(user=user, endpoint=bucket.endpoint))
    return place


def shell(user, command, *, show=True):
    """Somebody types a command."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "RH_HOME": str(work / user), "PATH": programs, "COLUMNS": "120"}
    done = subprocess.run(command, shell=True, cwd=work, env=environment, capture_output=True, text=True, check=False)
    told = (done.stdout + done.stderr if show else "").strip()
    if told:
        print("\n".join(f"{user}: {line}" for line in told.splitlines()))
    return done


os.environ["RH_HOME"] = str(home("ada"))
os.environ.pop("RH_PROFILE", None)  # of a playground, say: these settings are all there is
home("bob")


def bob(command):
    return shell("bob", command)


# %% [markdown]
# ## A name for all
#
# `~/x` is a name on one machine. `/acme/x` is a name in the registry, for everybody who uses the same one.

# %%
library = Path(sysconfig.get_paths()["stdlib"]) / "email"
sources = rh.folder(path=library).to("gs", path="sources", exclude=["__pycache__/"]).save("/acme/sources")
first = sources.commit("as Python ships it", aliases=["production"])
print(first.label, first.files > 10)


def measured(path):
    """What is said of a file: numbers of lines and of functions."""
    text = (library / path).read_text()
    functions = sum(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(text)))
    return {"lines": text.count("\n"), "functions": functions}


modules = {path: measured(path) for path in sources.glob("**/*.py")}
sources.annotate(modules)
sources = sources.annotate(tags=["reviewed"], stage="train")
rows = [{"module": path, **numbers} for path, numbers in modules.items()]
rh.table(rows, name="/acme/modules", system="gs", path="modules").save().commit("one row a module")
rh.blob({"longest": max(modules, key=lambda path: modules[path]["lines"])}, name="/acme/facts", system="gs").save()

# %% [markdown]
# Bob has all of it at once: the folder, the table, the blob, versions, aliases, and what was said of them. The name is
# one listing of the bucket; nobody runs a server.

# %%
bob("rh resources /acme")
bob("rh find --tag reviewed --where 'stage == \"train\"'")
bob("rh find rh:///acme/sources --where 'lines > 500 and functions > 20'")
bob("rh cat rh:///acme/facts")
bob("rh table sql rh:///acme/modules 'select count(*) > 10 as many from t' --json")

# %% [markdown]
# He goes on with it. Ada pinned `production`, and keeps what she pinned until she moves the alias herself.

# %%
bob("echo 'read me first' > notes.txt && rh upload /acme/sources notes.txt -m 'with notes'")
bob("rh meta set /acme/sources:v2 accuracy=0.97 --tag candidate")
print([f"{version.label} by {version.author}" for version in sources.versions()])
print("notes.txt" in rh.folder("/acme/sources:production").ls(full_paths=False))
best = rh.find(where=F.accuracy > 0.95)[0]
print(best, best.get("notes.txt"))

# %% [markdown]
# Both want to move the alias. `expect` says from where; who comes second is told.

# %%
print(sources.alias("production", "v2", expect="v1"))
bob("rh alias set /acme/sources production v1 --expect v1")

# %% [markdown]
# ## A server
#
# In a bucket registry everybody who may write to the bucket may change every name. A server knows users, and what each
# of them may do. It serves any registry, here a SQLite file that takes over everything from the bucket, history
# included. The first admin is made on the registry itself. `RegistryServer` is `rh registry serve --registry …` on a
# free port of this machine; one for other machines has `--host`, `--tls-cert` and `--tls-key`.

# %%
database = f"sqlite://{work}/team.db"
shell("ada", f"rh registry migrate gs://team/registry {database}")
shell("ada", f"rh registry user add ada --admin --registry {database} > ada.token", show=False)
server = RegistryServer(database).start()
shell("ada", f"rh login {server.url} < ada.token", show=False)
print("registry is a server:", rh.config.get("registry") == server.url)
print(rh.folder("/acme/sources").aliases())

# %% [markdown]
# A token is shown once; the server keeps a hash of it. This one ends by itself.

# %%
shell("ada", "rh registry user add bob --expires 90d > bob.token", show=False)
done = shell("bob", f"rh login {server.url} < bob.token", show=False)
print("bob is in:", done.returncode == 0)
bob("rh ls rh:///acme/sources")

# %% [markdown]
# Bob is in, and sees nothing of `/acme`: a name that one may not read looks like one that is not there. Ada lets him
# read, then write. (Who may read the bytes is the bucket's business.)

# %%
sources = rh.load("/acme/sources")
print(sources.share("bob").roles)
bob("rh cat rh:///acme/sources:v2/notes.txt")
bob("rh alias set /acme/sources staging v1")
print(sources.share("bob", "write").roles)
bob("rh alias set /acme/sources staging v1")
print(sources.aliases())

# %% [markdown]
# What is Bob's own is below `/bob`, and `@` is short for that. He shares it with everybody.

# %%
bob("rh cp rh:///acme/sources:v1/charset.py gs://team/data/bob/charset.py > charset.log 2>&1")
bob("rh save @/charset gs://team/data/bob/charset.py")
print(rh.exists("/bob/charset"))
bob("rh share @/charset --public")
print(sources.revoke("bob").roles)
bob("rh ls rh:///acme/sources")

# %% [markdown]
# ## Without the server
#
# What was read stays readable while the registry does not answer, and says how old it is. Nothing can be saved, and
# names in `~/` do not need it.

# %%
server.kill()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(rh.load("/acme/sources").url)
    try:
        sources.annotate(stage="test")
    except rh.errors.UnavailableError as error:
        print(error.kind, "-", error.hint)
print(caught[0].category.__name__)
print(rh.blob({"rate": 0.1}, name="~/settings").save().exists_in_system())

# %% [markdown]
# It comes back where it was, and nothing is lost. The way to PostgreSQL, or back into a bucket, is `rh registry
# migrate` as well; `rh registry export` writes all of a registry to one file.

# %%
server.start()
shell("ada", "rh meta get /acme/sources:v2")
shell("ada", "rh registry export backup.jsonl")
shell("ada", f"rh registry migrate {database} gs://team/second")
shell("ada", "rh registry show --registry gs://team/second")

# %%
server.stop()
bucket.stop()
scratch.cleanup()
print("finished")
