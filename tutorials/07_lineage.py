# %% [markdown]
# # Lineage
#
# Months later somebody asks: which data was this model trained on, with which code? Functions that run in `rh.run`
# record what they read and write by themselves. Nothing below is logged by hand. The data are real: the sources of
# this Python's standard library, on an S3 server that runs on this machine.

# %%
import json
import os
import sysconfig
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import rh
from rh.testing.playground import Playground

playground = Playground(("s3",)).start()
os.environ.update(playground.environment())
scratch = tempfile.TemporaryDirectory(prefix="rh-lineage-")
work = Path(scratch.name)

library = Path(sysconfig.get_paths()["stdlib"])
sources = rh.folder(path=library / "json").to("s3", path="sources").save("sources")
sources.commit("as Python ships it", aliases=["production"])
sources.put({"extra.py": b"def extra():\n    return 1\n"})
sources.commit("with one more")

# %% [markdown]
# ## Two functions
#
# The first one asks for the version that is in production, the second for the newest of what the first one made. The
# second also reads a file that `rh` keeps no versions of.


# %%
@rh.run
def count_words(shortest):
    """How often each word occurs, as a table on S3."""
    counts = Counter()
    folder = rh.folder("sources:production")
    for path in folder.glob("**/*.py"):
        counts.update(word for word in folder.get(path).decode().split() if len(word) >= shortest)
    rows = [{"word": word, "count": count} for word, count in sorted(counts.items())]
    rh.table(rows, name="words", system="s3", path="words").save().commit("counted")


@rh.run
def fit(most):
    """The model: the most frequent words that are not to be left out."""
    left_out = rh.blob(path=work / "left-out.txt").read().decode().split()
    rows = rh.table(name="words:latest").fetch("rows")
    rows = [row for row in rows if row["word"] not in left_out]
    model = sorted(rows, key=lambda row: -row["count"])[:most]
    rh.blob(model, name="model").save().commit("fitted", aliases=["best"])


(work / "left-out.txt").write_text("self return")
count_words(4)
fit(most=5)
print(len(rh.blob(name="model:best").fetch()), "words")

# %% [markdown]
# ## Where did the model come from?

# %%
model = rh.blob(name="model:best")
print("made by", model.produced_by.name)
print(model.upstream())

# %% [markdown]
# The alias that was asked for is there, and the version that it stood on then; so are the parameters and the code: the
# function, the digest of its source, and in a Git repository the commit and whether something was changed.

# %%
run = rh.load_run(model.produced_by)
print(run.name, run.params, run.status)
print(run.code["function"], run.code["digest"][:7], run.environment["digest"][:7])
for item in run.inputs:
    print("read", item.name or "a file without a name", item.version, item.asked)

# %% [markdown]
# ## The graph
#
# In a notebook, `rh.lineage("model")` is its drawing; `rh lineage model --format svg -o graph.svg` writes it to a file.
# Dashed is what no version holds, and so cannot be told exactly later.
#
# ![The graph of this tutorial: sources, count_words, words, fit, model](../assets/lineage.svg)

# %%
graph = rh.lineage("model")
drawing = ET.fromstring(graph.svg())
print(drawing.tag.rpartition("}")[2], "with", len(graph), "boxes and", len(graph.edges), "arrows")
print(graph.dot().splitlines()[0], "…")
(event, _) = graph.openlineage()
print(event["eventType"], event["inputs"][0]["name"], "→", event["outputs"][0]["name"])
print(len(json.dumps(graph.as_dict())) > 1000)

# %% [markdown]
# ## The other way round, and between
#
# Who needs what I am about to change?

# %%
first = rh.folder("sources:v1")
print([ref.name for ref in first.used_by()])
print([node.label for node in first.downstream(depth=1).of_kind("version")])
print(len(rh.lineage("sources:v1", "model")), len(rh.lineage("sources:v2", "model").edges))

# %% [markdown]
# ## Once more
#
# `rerun_inputs` gives the very versions that a run read; `changed_inputs` says what one would get today.

# %%
counting = rh.runs(where="shortest == 4")[0]
print(counting.rerun_inputs())
print(counting.changed_inputs())
sources.alias("production", "v2")
for change in counting.changed_inputs():
    print(change)

# %% [markdown]
# What a recorded run read or made is not dropped by `rh.gc`, unless it is told so.

# %%
print(rh.gc("sources", keep=1, dry_run=True)[0].dropped, rh.gc("sources", keep=1, runs=False, dry_run=True)[0].dropped)

# %% [markdown]
# A block works as well as a function, and a run that fails says how. What it made before is recorded.

# %%
try:
    with rh.run("evaluate", params={"threshold": 0.5}) as evaluation:
        rh.blob({"accuracy": len(model.fetch()) / 10}, name="report").save().commit()
        raise ValueError("no baseline to compare with")
except ValueError:
    pass
print(evaluation.status, evaluation.error["message"], [str(item) for item in evaluation.outputs])
print([f"{run.name}: {run.status}" for run in rh.runs()])

# %%
scratch.cleanup()
playground.stop()
print("finished")
