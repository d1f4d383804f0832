"""A registry with everything in it moves from every kind to every kind, in the library and with the program."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import rh
from rh import config, errors
from rh.registry import open_registry
from rh.registry.archive import export, import_, migrate
from rh.registry.base import Registry
from rh.registry.http import logins
from tests.registry.kinds import KINDS, Shared, opened

pytestmark = pytest.mark.slow


def fill(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Names, versions, aliases, properties and runs, as the library makes them, and some that are gone again."""
    shared.be("ada", monkeypatch)
    cats = rh.folder(name="/team/cats", path=shared.base / "cats").mkdir().save()
    cats.put({"1.txt": b"tabby", "é ✓.txt": b"siamese"})
    cats.commit("first", aliases=["production"], metadata={"quality": 0.9})
    cats.annotate(tags=["gold"]).annotate("1.txt", label="tabby")
    with rh.run("train", params={"n": 1}):
        text = rh.folder("/team/cats:production").get("1.txt")
        rh.blob(text, name="/team/model", path=shared.base / "model").save().commit()
    rh.load("/team/model").rename("/team/best")
    rh.blob(b"x", name="/team/gone", path=shared.base / "gone").save()
    rh.resources.records.forget("/team/gone")
    cats.put({"2.txt": b"persian"})
    cats.commit("second")
    cats.alias("production", "v2")
    return open_registry(shared.url)


def told(registry: Registry) -> tuple[list, list]:
    """All that people can see of a registry. The records of a server's own accounts are not among them."""
    changes = [change for change in registry.changes() if not change.key.startswith("server/")]
    by_key = sorted(changes, key=lambda change: (change.key, change.revision))
    return by_key, [record for record in registry.list() if not record.key.startswith("server/")]


@pytest.fixture(params=KINDS)
def source(request, tmp_path) -> Iterator[Shared]:
    with opened(request.param, request, tmp_path / "source") as shared:
        yield shared


@pytest.fixture
def target(request, tmp_path):
    """Opens an empty registry of another kind, whose people know the first one as well."""
    with ExitStack() as stack:

        def make(kind: str) -> Shared:
            return stack.enter_context(opened(kind, request, tmp_path / f"target-{kind}"))

        yield make


def test_every_kind_into_every_kind(source, target, monkeypatch):
    """Records, histories, authors, times and used tokens; again there is nothing new; what comes later follows."""
    one = fill(source, monkeypatch)
    whole = told(one)
    assert len(whole[0]) > 25
    counts = Counter(change.token for change in whole[0])
    alone = next(change for change in whole[0] if counts[change.token] == 1 and change.document is not None)
    for kind in KINDS:
        there = target(kind)
        for name, value in (source.variables | there.variables).items():
            monkeypatch.setenv(name, value)
        if there.settings:
            (config.home() / "config.toml").write_text(there.settings)
        monkeypatch.delenv("RH_REGISTRY_TOKEN", raising=False)  # it is that of one server
        for server in filter(None, (source.server, there.server)):
            logins.remember(server.url, server.token())
        two = open_registry(there.url)
        assert migrate(one, two) == len(whole[0])
        assert told(two) == whole
        assert migrate(one, two) == 0
        assert two.put(alone.key, alone.document, token=alone.token).revision == alone.revision
        assert told(two) == whole, "a token that was used there is used here"
        with monkeypatch.context() as patch:
            patch.setenv("RH_REGISTRY", there.url)
            assert rh.load("/team/cats:production").get("2.txt") == b"persian"
            assert rh.load("/team/best:v1").produced_by.name == "train"
            assert rh.find(tags="gold", prefix="/team")[0].name == "/team/cats"
            assert len(rh.lineage("/team/best").of_kind("run")) == 1
            assert rh.load("/team/cats").alias("reviewed", "v1").label == "v1"
        two.close()
    assert told(one) == whole, "the source stays as it was"


def test_every_kind_through_a_file(source, target, monkeypatch, tmp_path):
    one = fill(source, monkeypatch)
    whole = told(one)
    count = export(one, tmp_path / "all.jsonl")
    for kind in ("sqlite", "directory"):
        two = open_registry(target(kind).url)
        assert import_(two, tmp_path / "all.jsonl") == count
        assert told(two) == whole
        assert export(two, tmp_path / f"{kind}.jsonl") == count
    if source.server is None:
        three = open_registry(f"sqlite://{tmp_path}/three.db")
        assert import_(three, tmp_path / "all.jsonl") == count
        three.put("resources/team/cats", {"kind": "blob"})
        assert import_(one, tmp_path / "all.jsonl") == 0
        export(three, tmp_path / "three.jsonl")
        one.put("resources/team/cats", {"kind": "folder"})
        before = told(one)
        with pytest.raises(errors.ConflictError, match="both registries have changed /team/cats"):
            import_(one, tmp_path / "three.jsonl")
        assert told(one) == before


def test_the_program_moves_it(source, target, monkeypatch, tmp_path):
    """`rh registry show`, `export`, `import`, `migrate`."""
    fill(source, monkeypatch)
    there = target("sqlite" if source.kind == "postgres" else "postgres")
    for name, value in there.variables.items():
        monkeypatch.setenv(name, value)
    shown = json.loads(source.rh("ada", "registry", "show", "--json").stdout)
    assert shown == {"registry": open_registry(source.url).url, "user": "ada", "names": 2, "versions": 3, "runs": 1}
    assert "names     2" in source.rh("ada", "registry", "show").stdout
    file = str(tmp_path / "all.jsonl")
    count = json.loads(source.rh("ada", "registry", "export", file, "--json").stdout)["changes"]
    assert count > 25
    assert "fix: --overwrite replaces it" in source.rh("ada", "registry", "export", file, expect=4).stderr
    assert f"{count} changes written" in source.rh("ada", "registry", "export", file, "--overwrite").stdout
    done = source.rh("ada", "registry", "import", file, "--registry", there.url)
    assert f"{count} changes taken over" in done.stdout
    done = source.rh("ada", "registry", "migrate", source.url, there.url, "--json")
    assert json.loads(done.stdout) == {"changes": 0}
    assert told(open_registry(there.url)) == told(open_registry(source.url))
    (tmp_path / "all.jsonl").write_bytes((tmp_path / "all.jsonl").read_bytes()[:-30])
    failed = source.rh("ada", "registry", "import", file, "--registry", there.url, "--json", expect=6)
    assert json.loads(failed.stderr)["kind"] == "integrity"
    secrets = [*source.variables.values(), *there.variables.values()]
    for done in (source.rh("ada", "registry", "show"), source.rh("ada", "config", "show")):
        assert not [secret for secret in secrets if secret in done.stdout + done.stderr]


@pytest.mark.parametrize("kind", KINDS)
def test_two_move_the_same_at_once(kind, target, tmp_path, monkeypatch):
    """Each change arrives once, whoever brought it."""
    source = open_registry(f"sqlite://{tmp_path}/source.db")
    for n in range(150):
        source.put(f"resources/team/r{n % 40:02}", {"n": n})
        if n % 10 == 9:
            source.delete(f"resources/team/r{n % 40:02}")
    there = target(kind)
    code = (
        "import sys; from rh.registry import open_registry; from rh.registry.archive import migrate\n"
        "print(migrate(open_registry(sys.argv[1]), open_registry(sys.argv[2])))"
    )
    movers = [there.process("ada", code, source.url, there.url) for _ in range(3)]
    outs = [mover.communicate(timeout=90) for mover in movers]
    assert [mover.returncode for mover in movers] == [0] * 3, outs
    assert sum(int(out) for out, _ in outs) == 165
    there.be("ada", monkeypatch)
    assert told(open_registry(there.url)) == told(source)


@pytest.mark.parametrize("kind", KINDS)
def test_who_moves_and_is_killed_goes_on(kind, target, tmp_path, monkeypatch):
    source = open_registry(f"sqlite://{tmp_path}/source.db")
    for n in range(400):
        source.put(f"resources/team/r{n:03}", {"n": n})
    there = target(kind)
    code = (
        "import sys; from rh.registry import open_registry; from rh.registry.archive import migrate\n"
        "print('up', flush=True); migrate(open_registry(sys.argv[1]), open_registry(sys.argv[2]))"
    )
    for _ in range(2):
        mover = there.process("ada", code, source.url, there.url)
        assert mover.stdout.readline() == "up\n"
        mover.kill()
        mover.communicate()
    there.be("ada", monkeypatch)
    target_registry = open_registry(there.url)
    migrate(source, target_registry)
    assert told(target_registry) == told(source)
