"""Names of resources: save here, load there, rename, forget, and what is refused."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pytest

import rh
from rh import errors
from rh.registry import local, open_registry
from rh.types import Location


def test_saved_here_loaded_in_another_process(here, python):
    here.put({"a.txt": b"one"})
    rh.folder("train", path=here.path, metadata={"owner": "ada"}).save()
    out = python(
        "import rh\n"
        "folder = rh.folder('train')\n"
        "print(folder.get('a.txt'), folder.metadata, folder.name, rh.resources(), rh.exists('train'))\n"
        "folder.put({'b.txt': b'two'})\n"
    )
    assert out == "b'one' {'owner': 'ada'} ~/train ['~/train'] True\n"
    assert here.get("b.txt") == b"two"


def test_saved_elsewhere_loaded_in_another_process(world, python, here):
    """A folder on a host that only this process had a name for is found by another."""
    settings = rh.config.system("ssh-a")
    keep = ("host", "user", "port", "identity_file", "known_hosts_file", "config_file", "root")
    cluster = rh.cluster("gpu", **{key: settings[key] for key in keep})
    here.put({"a": b"1"})
    copy = here.to(cluster, settings["root"] + "/copy")
    copy.save("unsaved-cluster")
    code = "import rh, sys; print(rh.folder(sys.argv[1]).get('a'))"
    assert python(code, "unsaved-cluster") == "b'1'\n"
    cluster.save()
    replace(copy, host={**copy.host, "host": "no.such.host.invalid"}).save("saved-cluster")
    assert python(code, "saved-cluster") == "b'1'\n", "the registry's cluster goes before what the record remembers"
    code = "import rh, sys; print(rh.folder(path=sys.argv[1], system='gpu').get('a'))"
    assert python(code, settings["root"] + "/copy") == "b'1'\n"


def test_a_name_is_loaded_with_what_was_saved(here):
    saved = rh.folder("x", path=here.path, metadata={"n": [1, {"a": None}]}).save()
    loaded = rh.folder("x")
    assert loaded == saved == rh.load("x") == rh.folder(name="~/x", dryrun=True)
    assert (loaded.metadata, loaded.revision) == ({"n": [1, {"a": None}]}, 1)
    assert rh.Folder.from_config(loaded.config()) == loaded


def test_an_unknown_name_says_the_nearest(here):
    rh.folder("training-set", path=here.path).save()
    rh.folder("/org/bert", path=here.path).save()
    for call in (rh.folder, rh.load, lambda name: rh.blob(name=name)):
        with pytest.raises(errors.NotFoundError, match=r"training-sett.*did you mean ~/training-set\?"):
            call("training-sett")
    with pytest.raises(errors.NotFoundError, match=r"did you mean /org/bert\?"):
        rh.folder("/orgs/bert")
    with pytest.raises(errors.NotFoundError) as caught:
        rh.folder("/data/images")
    assert "path='/data/images'" in caught.value.hint
    assert not rh.exists("training-sett")


def test_a_typo_makes_nothing(here):
    with pytest.raises(errors.NotFoundError):
        rh.folder("typo")
    assert rh.resources("/") == []
    assert not os.path.exists(os.path.join(os.environ["RH_HOME"], "data"))


def test_saving_again_what_is_saved_changes_nothing(here):
    first = rh.folder("x", path=here.path).save()
    again = rh.folder("x", path=here.path).save()
    assert (first.revision, again.revision) == (1, 1)
    assert len(again.history()) == 1


def test_saving_something_else_keeps_what_was(here, tmp_path):
    rh.folder("x", path=here.path).save()
    other = rh.folder("x", path=tmp_path / "other").save()
    assert other.revision == 2
    assert [change.document["location"]["path"] for change in other.history()] == [here.path, other.path]
    assert rh.folder("x") == other


def test_nobodys_change_is_lost(here, tmp_path):
    """Two people load a name, both change it: the second is told."""
    rh.folder("x", path=here.path).save()
    mine, theirs = rh.folder("x"), rh.folder("x")
    replace(theirs, metadata={"by": "them"}).save()
    with pytest.raises(errors.ConflictError, match="it is at revision 2, this value at 1"):
        replace(mine, metadata={"by": "me"}).save()
    assert rh.folder("x").metadata == {"by": "them"}
    replace(mine, metadata={"by": "me"}).save(overwrite=True)
    assert rh.folder("x").metadata == {"by": "me"}


def test_a_name_that_was_taken_away_does_not_come_back_by_itself(here, python):
    """Somebody renamed or deleted what was loaded: that is told, and `overwrite=True` makes the name anew."""
    rh.folder("old", path=here.path).save()
    mine = rh.folder("old")
    python("import rh; rh.load('old').rename('new')")
    with pytest.raises(errors.ConflictError, match=r"~/old was renamed to ~/new by") as caught:
        mine.save()
    assert "rh.load('~/new')" in caught.value.hint
    assert rh.resources() == ["~/new"]
    new = rh.folder("new")
    python("import rh; rh.load('new').delete_configs()")
    with pytest.raises(errors.ConflictError, match=r"~/new was deleted by"):
        replace(new, metadata={"n": 1}).save()
    assert rh.resources() == []
    assert mine.save(overwrite=True).name == "~/old"
    assert new.save("third").name == "~/third"


def test_an_unknown_name_is_told_of_paths_only_where_it_may_be_one(here):
    for name, told in (("typo", False), ("data/train", True), ("/org/x", True)):
        with pytest.raises(errors.NotFoundError) as caught:
            rh.folder(name)
        assert ("write path=" in caught.value.hint) is told


def test_overwrite(here, tmp_path):
    rh.folder("x", path=here.path).save(overwrite=False)
    with pytest.raises(errors.ExistsError, match="~/x exists already"):
        rh.folder("x", path=tmp_path / "other").save(overwrite=False)
    assert not (tmp_path / "other").exists(), "nothing was made for a save that was refused"
    blob = rh.blob(b"1", name="x", path=tmp_path / "blob")
    with pytest.raises(errors.ExistsError, match="is a folder"):
        blob.save()
    blob.save(overwrite=True)
    assert rh.load("x").kind == "blob"
    with pytest.raises(errors.InvalidError, match="is a blob, not a folder"):
        rh.folder("x")


def test_a_refused_save_writes_nothing(here, tmp_path):
    """What lies at the place of data that get no name stays as it was."""
    rh.folder("x", path=here.path).save()
    (tmp_path / "file").write_bytes(b"precious")
    for overwrite in (None, False):
        with pytest.raises(errors.ExistsError):
            rh.blob(b"new", name="x", path=tmp_path / "file").save(overwrite=overwrite)
        with pytest.raises(errors.ExistsError):
            rh.table(pa.table({"n": [1]}), name="x", path=tmp_path / "table").save(overwrite=overwrite)
        with pytest.raises(errors.ExistsError):
            rh.folder(path=tmp_path / "folder").save("x", overwrite=False)
    (tmp_path / "x\udcff").write_bytes(b"precious")
    with pytest.raises(errors.InvalidError, match="not valid Unicode"):
        rh.blob(b"new", name="z", path=str(tmp_path / "x\udcff")).save()
    assert (tmp_path / "x\udcff").read_bytes() == b"precious"
    blob = rh.blob(b"old", name="y", path=tmp_path / "y").save()
    blob.delete_configs()
    with pytest.raises(errors.ConflictError, match="was deleted"):
        replace(blob, value=b"new").save()
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert (tmp_path / "y").read_bytes() == b"old"
    assert sorted(one.name for one in tmp_path.iterdir() if one.name in ("file", "table", "folder")) == ["file"]


def test_one_change_that_two_make_is_no_conflict(here):
    rh.folder("x", path=here.path).save()
    mine, theirs = (replace(rh.folder("x"), metadata={"n": 1}) for _ in range(2))
    assert theirs.save().revision == mine.save().revision == 2


def test_somebody_else_s_name_keeps_its_place(here, tmp_path, monkeypatch):
    """Who has not loaded a name does not make it mean another place unasked, if somebody else wrote it."""
    monkeypatch.setenv("RH_REGISTRY", f"sqlite://{tmp_path}/team.db")
    (tmp_path / "b").mkdir()
    other = rh.folder(path=tmp_path / "b")
    monkeypatch.setenv("RH_USER", "ada")
    here.save("/acme/cats")
    monkeypatch.setenv("RH_USER", "bob")
    with pytest.raises(errors.ExistsError, match="ada's") as failed:
        other.save("/acme/cats")
    assert "overwrite=True" in failed.value.hint
    assert rh.folder("/acme/cats").path == here.path
    assert here.save("/acme/cats").revision == 1, "the same place is no harm"
    assert replace(rh.folder("/acme/cats"), location=other.location).save().path == other.path, "who loaded it may"
    monkeypatch.setenv("RH_USER", "ada")
    assert here.save("/acme/cats", overwrite=True).revision == 3


def test_forgotten_versions_come_back_with_the_name(here, tmp_path, python):
    """Forgetting a name lets go of nothing: who saves the like under it again has its versions."""
    here.put({"1.txt": b"one"})
    here.save("x").commit("first", aliases=["production"])
    rh.load("x").delete_configs()
    blob = rh.blob(b"other", name="x", path=tmp_path / "blob").save()
    assert blob.versions() == [], "versions of a folder are no blob's"
    blob.commit("a blob")
    blob.rename("y")
    assert [one.message for one in rh.load("y").versions()] == ["a blob"]
    python("import rh, sys; rh.folder('x', path=sys.argv[1]).save()", here.path)
    here.put({"1.txt": b"two"}, overwrite=True)
    assert rh.load("x:production").get("1.txt") == b"one"
    assert rh.load("x").commit().label == "v2"
    rh.load("x").rename("z")
    assert here.save("x").versions() == [], "what was renamed took its versions along"
    assert rh.load("x").commit().label == "v1"
    assert [one.label for one in rh.load("z").versions()] == ["v1", "v2"]


def test_what_has_a_forgotten_name_without_its_versions_takes_them_back(here):
    """A record that was written before versions came back with the name."""
    here.put({"1.txt": b"one"})
    here.save("x").commit()
    record = local().get("resources/~/x").document
    rh.load("x").delete_configs()
    local().put("resources/~/x", record)
    assert rh.load("x").versions() == []
    here.put({"1.txt": b"two"}, overwrite=True)
    assert rh.load("x").commit().label == "v2"


def test_many_save_one_name_at_once(here):
    def save(n):
        return rh.folder("x", path=here.path, metadata={"n": n}).save().revision

    with ThreadPoolExecutor(8) as pool:
        revisions = list(pool.map(save, range(24)))
    assert sorted(revisions) == list(range(1, 25))


def test_saving_needs_a_name(here):
    with pytest.raises(errors.InvalidError, match="no name"):
        here.save()
    with pytest.raises(errors.InvalidError, match="built in"):
        here.save("^mine")
    with pytest.raises(errors.InvalidError, match="names a version"):
        here.save("x:v1")
    saved = here.save("x")
    assert (saved.name, here.name) == ("~/x", None)
    copy = saved.save("/org/y")
    assert rh.resources("/") == ["~/x", "/org/y"]
    assert copy.revision == 1


def test_a_name_never_points_at_nothing(tmp_path, world):
    folder = rh.folder("x", path=tmp_path / "a" / "b").save()
    assert (tmp_path / "a" / "b").is_dir()
    assert folder.ls() == []
    with pytest.raises(errors.NotFoundError):
        rh.blob(path=tmp_path / "nothing", name="y").save()
    with pytest.raises(errors.RhError):
        rh.folder("z", path="s3://no-such-bucket-at-all/x").save()
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.RhError):
        rh.folder("z", path=tmp_path / "file").save()
    assert rh.resources() == ["~/x"]


def test_rename(here, python):
    saved = rh.folder("old", path=here.path).save()
    renamed = saved.rename("/org/new")
    assert (renamed.name, saved.name, renamed.path) == ("/org/new", "~/old", here.path)
    assert rh.resources("/") == ["/org/new"]
    renamed = replace(renamed, metadata={"n": 1}).save()
    renamed = renamed.rename("newer-still")
    assert [(c.key, c.action, c.document and c.document.get("metadata")) for c in renamed.history()] == [
        ("resources/~/old", "put", None),
        ("resources/org/new", "put", None),
        ("resources/org/new", "put", {"n": 1}),
        ("resources/~/newer-still", "put", {"n": 1}),
    ]
    rh.folder("taken", path=here.path).save()
    with pytest.raises(errors.ExistsError, match="taken"):
        renamed.rename("taken")
    with pytest.raises(errors.NotFoundError, match="old"):
        saved.rename("other")
    with pytest.raises(errors.InvalidError):
        renamed.rename("../x")
    assert rh.folder("newer-still") == renamed == renamed.rename("newer-still")


def test_a_history_of_many_renames_tells_each_change_once(here):
    saved = here.save("~/blue")
    for n in range(40):
        saved = saved.rename("~/green" if n % 2 == 0 else "~/blue")
    changes = saved.history()
    made = [(change.key, change.revision) for change in changes]
    assert len(made) == len(set(made)) == 80
    assert [change.revision for change in changes if change.key == "resources/~/blue"] == [*range(1, 42)]


def test_delete_configs_keeps_data_and_history(here):
    here.put({"a": b"1"})
    saved = rh.folder("x", path=here.path).save()
    saved.delete_configs()
    assert not rh.exists("x")
    assert here.get("a") == b"1"
    assert [change.action for change in saved.history()] == ["put", "delete"]
    with pytest.raises(errors.NotFoundError):
        saved.delete_configs()
    assert replace(saved, revision=None).save().revision == 3


def test_resources(here, monkeypatch):
    monkeypatch.setenv("RH_USER", "ada")
    for name in ("x", "project/a", "project/b", "@/mine", "/org/team/t", "/org/other"):
        rh.folder(name, path=here.path).save()
    assert rh.resources() == rh.resources("~") == ["~/project/a", "~/project/b", "~/x"]
    assert rh.resources("project") == ["~/project/a", "~/project/b"]
    assert rh.resources("@") == ["/ada/mine"]
    assert rh.resources("/org") == ["/org/other", "/org/team/t"]
    assert rh.resources("/or") == []
    assert rh.resources("/") == ["~/project/a", "~/project/b", "~/x", "/ada/mine", "/org/other", "/org/team/t"]
    with rh.set_folder("/org/team"):
        assert rh.resources() == ["/org/team/t"]
        assert rh.folder("t").name == "/org/team/t"
    assert here.resources() == rh.resources("/")
    sub = (here / "sub").mkdir().save("in-sub")
    assert sub.resources() == ["~/in-sub"]
    assert "~/in-sub" in here.resources()
    assert rh.folder(path=here.path + "-x").resources() == []


def test_names_of_this_machine_stay_on_it(here, tmp_path, monkeypatch):
    team = f"sqlite://{tmp_path}/team.db"
    monkeypatch.setenv("RH_REGISTRY", team)
    rh.folder("mine", path=here.path).save()
    rh.folder("/org/ours", path=here.path).save()
    assert [record.key for record in open_registry(team).list()] == ["resources/org/ours"]
    assert [record.key for record in local().list()] == ["resources/~/mine"]
    assert rh.resources("/") == ["~/mine", "/org/ours"]
    with pytest.raises(errors.UnsupportedError, match="different registries"):
        rh.folder("mine").rename("/org/mine")
    monkeypatch.setenv("RH_REGISTRY", "foo://h/db")
    assert rh.folder("mine").path == here.path
    with pytest.raises(errors.UnsupportedError, match="there is: sqlite"):
        rh.folder("/org/ours")


def test_fields_of_a_newer_rh_survive(here):
    rh.folder("x", path=here.path).save()
    registry = local()
    registry.update("resources/~/x", lambda document: {**document, "retention": {"days": 3}})
    replace(rh.folder("x"), metadata={"n": 1}).save()
    rh.folder("x", path=here.path, metadata={"n": 2}).save()
    document = registry.get("resources/~/x").document
    assert (document["retention"], document["metadata"]) == ({"days": 3}, {"n": 2})
    assert rh.folder("x").rename("y").config()["retention"] == {"days": 3}
    assert rh.load("y").save("z").config()["retention"] == {"days": 3}


def test_records_of_a_newer_rh_and_damaged_ones(here):
    registry = local()
    registry.put("resources/~/new", {"kind": "hologram", "location": {}})
    with pytest.raises(errors.UnsupportedError, match="hologram"):
        rh.load("new")
    bad = (
        {"kind": "folder"},
        {"kind": "folder", "location": {"system": "file"}},
        {},
        {"kind": 3},
        {"kind": "blob", "location": None},
    )
    for n, document in enumerate(bad):
        registry.put(f"resources/~/bad{n}", document)
        with pytest.raises(errors.IntegrityError, match=f"~/bad{n}"):
            rh.load(f"bad{n}")
    assert rh.resources() == ["~/bad0", "~/bad1", "~/bad2", "~/bad3", "~/bad4", "~/new"]


def test_a_record_holds_no_secret(here):
    for metadata in ({"password": "hunter2"}, {"db": {"url": "postgresql://me:hunter2@h/d"}}):
        with pytest.raises(errors.InvalidError) as caught:
            rh.folder("x", path=here.path, metadata=metadata)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(errors.InvalidError):
        rh.folder("x", path=here.path, metadata={"when": object()})


def test_a_record_cannot_bring_settings_that_run_something(here, python):
    """A record's host may say where; not which command to run, nor replace a system that is known here."""
    registry = local()
    host = {"kind": "ssh", "host": "h.invalid", "proxy_command": "touch /tmp/owned", "prompt": "x"}
    registry.put("resources/~/x", {"kind": "folder", "location": {"system": "box", "path": "/x"}, "host": host})
    rh.load("x")
    assert {"proxy_command", "prompt"}.isdisjoint(rh.config.system("box"))
    registry.put("resources/~/y", {"kind": "folder", "location": {"system": "s3", "path": "b/k"}, "host": host})
    rh.load("y")
    assert rh.config.system("s3")["kind"] == "s3"
    host = {"kind": "fsspec", "protocol": "local"}
    registry.put("resources/~/z", {"kind": "folder", "location": {"system": "odd", "path": "/x"}, "host": host})
    with pytest.raises(errors.UnsupportedError):
        rh.load("z")


def test_a_system_nobody_knows(here):
    local().put("resources/~/x", {"kind": "folder", "location": {"system": "gone", "path": "/x"}})
    with pytest.raises(errors.NotFoundError, match="gone"):
        rh.folder("x")
    assert rh.folder("x", dryrun=True).location == Location("gone", "/x")


def test_name_and_place_are_both_refused_when_missing():
    for call in (rh.folder, rh.blob, rh.cluster):
        with pytest.raises(errors.InvalidError, match="needs a name"):
            call()


def test_config_takes_no_other_kind(here):
    blob = rh.blob(b"1", path=here.path + "/b").write()
    with pytest.raises(errors.InvalidError, match="is a blob, not a folder"):
        rh.Folder.from_config(blob.config())
    assert rh.resources.Resource.from_config(json.loads(json.dumps(blob.config()))) == blob
    with pytest.raises(errors.InvalidError, match="kind"):
        rh.Folder.from_config({"location": here.location.as_dict()})
