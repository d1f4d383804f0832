"""The tutorials run as they are, each in a process of its own, and print what they promise."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rh.testing.playground import Playground

pytestmark = pytest.mark.servers

TUTORIALS = Path(__file__).resolve().parent.parent / "tutorials"

PRINTED = {
    "01_first_steps.py": [
        r"<Folder file://.*/json>",
        r"stdlib \[COPY\]\n  moved (\d{3,}) of \1 files",
        r"route   PUSH",
        r"\d+ of \d+ files\n  finished\n",
        r"moved 0 of (\d+) files, 0 B of .*; \1 unchanged",
        r"s3://data/tutorial/stdlib → gs://data/tutorial/stdlib \[RELAY\]",
        r"gs://data/tutorial/stdlib → ssh-a:.*stdlib \[PULL\]",
        r"the same tree everywhere: sha256:[0-9a-f]{64}",
        r"\d+ files read, all as the manifest says",
        r"s3://data/tutorial/stdlib with \d+ entries",
        r"\{'epochs': 3, 'rate': 0.1\}",
    ],
    "02_between_systems.py": [
        r"project → minio://data/archive/project \[PUSH\]\n  moved 6 of 6 files",
        r"\['.rhignore', 'latest.csv', 'prepare.sh', 'train/a.csv', 'train/b.csv', 'train/notes.txt'\]",
        r"(?m)^train/b.csv$",
        r"(?m)^True True$",
        r"1 of the files exist and differ: train/a.csv",
        r"; 1 deleted",
        r"of 40 files are there",
        r"nothing is recorded to compare with",
        r"moved \d+ of 40 files, .* unchanged",
        r"s3://data/big → ssh-a:.*/big \[PULL\]",
        r"ssh-a:.*/big → gs://data/big \[PUSH\]",
        r"ssh-a:.*/big → ssh-b:.*/big \[PUSH\]",
        r"(modified|corrupt): 1 \(17.bin\)",
        r"moved 1 of 40 files, 1.0 MiB",
        r"(?m)^0 Linux\n0 40$",
        r"did you mean ~/tutorial-inputs",
        r"fix: write path='./inputs'",
        r"there is no such directory",
        r"there is no system called 's33'; did you mean",
        r"there is no bucket 'no-such-bucket'",
        r"does not stay below the folder",
        r"exist already: train/a.csv",
        r"the host key is not known",
    ],
    "03_tables.py": [
        r"\{'package': ",
        r"<Table ~/debian-packages at file://",
        r"True True\nlist<item: string>",
        r"a table is here already",
        r"1000 True",
        r"PUSH True\nPULL True",
        r"500 \['package', 'installed_kib'\] True",
        r"(?m)^True True\nTrue\nTrue$",
        r"\['section', 'packages', 'kib'\] True",
        r"[\d,]+ rows\ncolumn +type",
        r"True torch.int64",
        r"finished",
    ],
    "04_databases.py": [
        r"(?m)^True$",
        r"\['package', 'section', 'installed_kib'\]",
        r"InvalidError: this statement gives no rows",
        r'relation "package" does not exist',
        r"<Table ~/large-packages at ",
        r"True \[1000\] 20",
        r"(?m)^False$",
        r"\['section', 'n'\] True",
        r"a query reads its tables and nothing else",
    ],
    "05_versions.py": [
        r"v1 \d+ True\nv1\nv2 parent 1 stored True\nv2 \(latest\)",
        r"v1 \(production\) sha256:",
        r"<Folder ~/sources:v1> False True\na version never changes\nTrue",
        r"True requests to S3 for what is cached: 0",
        r"stands on v2 by now, not on v1",
        r"\{'production': 'v2'\} \[1, 2\]",
        r"v3 \['docs/notes.txt', 'tables/points.csv'\]",
        r"True True\nv4\n",
        r"True 4\n3 4\nfinished",
    ],
    "06_team_registry.py": [
        r"v1 True\nbob: /acme/facts\nbob: /acme/modules\nbob: /acme/sources\nbob: /acme/sources  folder  .*stage=train",
        r"(?m)^bob: message.py\n(bob: .*\n)*bob: \{\"longest\":.*\}\nbob: \{\"many\": true\}$",
        r"\['v1 by ada', 'v2 by bob'\]\nFalse\n<Folder /acme/sources:v2, from a draft> b'read me first\\n'",
        r"v2 \(latest, production\) sha256:",
        r"bob: rh: the alias 'production' of /acme/sources stands on v2 by now, not on v1",
        r"ada: \d+ changes taken over\nada: warning: a new registry was begun at sqlite:///.*\n",
        r"registry is a server: True\n\{'production': 'v2'\}\nbob is in: True",
        r"bob: rh: nothing is called /acme/sources",
        r"\{'bob': 'read'\}\nbob: read me first\nbob: rh: bob may not write /acme/sources",
        r"\{'bob': 'write'\}\n.*\n\{'production': 'v2', 'staging': 'v1'\}",
        r"bob: /bob/charset .*\nTrue\nbob: everybody  read\n\{\}\nbob: rh: nothing is called /acme/sources",
        r"gs://team/data/sources\nunavailable - names in ~/ .*\nStaleWarning\nTrue\nada: tags      candidate",
        r"ada: \d+ changes written\nada: \d+ changes taken over\nada: warning: a new registry was begun at gs://team/second",
        r"\nada: registry  gs://team/second\n",
        r"ada: names     4\nada: versions  3\n",
        r"finished",
    ],
    "07_lineage.py": [
        r"5 words\nmade by fit\ncount_words ",
        r"  read  ~/sources:v1 \(as production\)\n  made  ~/words:v1\nfit ",
        r"  read  ~/words:v1 \(as latest\)\n  made  ~/model:v1\n",
        r"fit \{'most': 5\} done\n.*fit sha256: sha256:",
        r"svg with 6 boxes and 5 arrows\ndigraph",
        r"COMPLETE ~/sources → ~/words\nTrue\n\['count_words'\]\n\['~/sources:v1', '~/words:v1'\]\n5 0",
        r"\[\]\n~/sources:v1 \(as production\): alias \(v2\)\n\[\] \['~/sources:v1'\]",
        r"failed no baseline to compare with \['~/report:v1'\]",
        r"finished",
    ],
}


def test_every_tutorial_is_here():
    assert {path.name for path in TUTORIALS.glob("*.py")} == PRINTED.keys()


@pytest.fixture
def scratch():
    """An empty directory that other users can reach: PostgreSQL does not run as root."""
    place = Path(tempfile.mkdtemp(prefix="rh-tutorial-", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def playground():
    """One that runs, and is what `RH_PROFILE` names."""
    with Playground(("s3",)) as playground:
        yield playground


@pytest.mark.slow
@pytest.mark.parametrize("name", PRINTED)
def test_tutorial(name, scratch, playground):
    """In a terminal that uses a playground, as ten minutes of reading lead to it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(TUTORIALS / name)],
        cwd=scratch,
        # Control sockets of SSH have a directory that stays, whichever process made it.
        env={**os.environ, "TMPDIR": str(scratch), "XDG_RUNTIME_DIR": tempfile.gettempdir()},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    rest = done.stdout
    for pattern in PRINTED[name]:
        found = re.search(pattern, rest)
        assert found, f"{pattern!r} is not in:\n{rest}\nof:\n{done.stdout}"
        rest = rest[found.end() :]
    assert list(scratch.iterdir()) == [], "the tutorial left something behind"
    assert list(playground.profile.parent.glob("*.toml")) == [playground.profile], "a playground left its profile"
