"""`rh.find`: saved resources and versions by what is said of them."""

import datetime
import time

import pytest

import rh
from rh import F, errors
from rh.registry import holding
from rh.registry.base import Match
from rh.registry.names import Name


@pytest.fixture
def models(tmp_path):
    """Three folders (one of an organisation) with two versions each, a blob and a table."""
    for number, name in enumerate(("cats", "dogs", "/org/birds")):
        folder = rh.folder(name=name, path=tmp_path / str(number), metadata={"stage": "dev"}).save()
        folder.put({"weights": b"1"})
        folder.commit(tags=["nightly"], metadata={"accuracy": (5 + number) / 10})
        folder.put({"weights": b"2"}, overwrite=True)
        folder.commit(tags=["nightly", "good"], metadata={"accuracy": (7 + number) / 10})
    rh.blob(b"x", name="notes").save().annotate(tags=["good"], stage="prod")
    rh.table({"x": [1]}, name="rows").save()
    return tmp_path


def labels(found):
    return [f"{one.name}:{one.version}" if getattr(one, "version", None) else one.name for one in found]


def test_resources_and_versions_newest_first(models):
    assert labels(rh.find(where=F.accuracy > 0.65)) == ["/org/birds:v2", "/org/birds:v1", "~/dogs:v2", "~/cats:v2"]
    assert labels(rh.find(tags=["nightly", "good"])) == ["/org/birds:v2", "~/dogs:v2", "~/cats:v2"]
    assert labels(rh.find(tags="good")) == ["~/notes", "/org/birds:v2", "~/dogs:v2", "~/cats:v2"]
    assert labels(rh.find(where='stage == "dev"')) == ["/org/birds", "~/dogs", "~/cats"]
    assert labels(rh.find(where={"stage": ["prod", "test"]})) == ["~/notes"]
    assert labels(rh.find(where=(F.accuracy > 0.65) & F.accuracy.is_in([0.7]), tags="good")) == ["~/cats:v2"]
    found = rh.find(where=F.accuracy == 0.9)
    assert found[0] == rh.load("/org/birds:v2")
    assert found[0].get("weights") == b"2"


def test_kind_name_prefix_limit(models):
    everything = ["~/rows", "~/notes", "/org/birds", "~/dogs", "~/cats"]
    assert labels(rh.find()) == everything
    assert labels(rh.find(limit=2)) == everything[:2]
    assert labels(rh.find(kind=["blob", "table"])) == ["~/rows", "~/notes"]
    assert labels(rh.find(kind="folder", name="*s", prefix="~")) == ["~/dogs", "~/cats"]
    assert labels(rh.find(name="[cd]*s")) == []
    assert labels(rh.find(name="cat*")) == ["~/cats"]
    assert labels(rh.find(name="/org/*")) == ["/org/birds"]
    assert labels(rh.find(prefix="/org", where=F.accuracy > 0.85)) == ["/org/birds:v2"]
    assert labels(rh.find(name="/org/b*", where=F.accuracy > 0)) == ["/org/birds:v2", "/org/birds:v1"]
    assert labels(rh.find(kind="table", where=F.accuracy > 0)) == []
    with rh.set_folder("/org"):
        assert labels(rh.find(name="birds")) == ["/org/birds"]
        assert labels(rh.find(prefix=None)) == ["/org/birds"]


def test_two_registries(models, tmp_path, monkeypatch):
    """Names of this machine are looked up here, all others where the team has them; neither sees the other's."""
    monkeypatch.setenv("RH_REGISTRY", f"sqlite://{tmp_path}/team.db")
    folder = rh.folder(name="/team/x", path=tmp_path / "x", metadata={"stage": "dev"}).save()
    folder.put({"a": b"1"})
    folder.commit(metadata={"accuracy": 0.99})
    assert labels(rh.find(where=F.stage == "dev")) == ["/team/x", "~/dogs", "~/cats"]
    assert labels(rh.find(where=F.accuracy > 0.75)) == ["/team/x:v1", "~/dogs:v2"]


def test_when(models, tmp_path):
    moment = time.time()
    rh.load("cats").annotate(stage="prod")
    rh.folder("dogs:v1").annotate(tags=["late"])
    late = rh.folder(name="late", path=tmp_path / "late").save()
    late.put({"a": b""})
    late.commit()
    for told in (moment, datetime.datetime.fromtimestamp(moment).astimezone()):
        assert labels(rh.find(created_after=told)) == ["~/late:v1", "~/late"]
    assert labels(rh.find(created_after="2100-01-01")) == []
    assert len(rh.find(created_after=datetime.date(2000, 1, 1))) == 6 + 8 - 1
    assert labels(rh.find(where=F.stage == "prod")) == ["~/cats", "~/notes"]
    assert labels(rh.find(where=F.stage == "prod", as_of=moment)) == ["~/notes"]
    assert labels(rh.find(tags="late")) == ["~/dogs:v1"]
    assert labels(rh.find(tags="late", as_of=moment)) == []
    rh.load("cats").delete_configs()
    assert "~/cats:v2" in labels(rh.find(where=F.accuracy == 0.7, as_of=moment))
    assert "~/cats:v2" not in labels(rh.find(where=F.accuracy == 0.7))


def test_produced_by(models):
    folder = rh.load("cats")
    series = folder.series_of()
    record = series.registry.get(f"versions/{series.series}/00000002")
    made = {**record.document, "produced_by": {"run": "r-123", "name": "train"}}
    series.registry.put(record.key, made, when=Match(record.etag))
    assert labels(rh.find(produced_by="r-123")) == labels(rh.find(produced_by="train")) == ["~/cats:v2"]
    assert labels(rh.find(produced_by="train", where=F.accuracy > 0.9)) == []
    for unknown, near in (("r-124", "r-123"), ("trian", "train")):
        with pytest.raises(errors.NotFoundError, match=f"did you mean {near}"):
            rh.find(produced_by=unknown)
    with rh.run("made nothing") as run:
        pass
    assert labels(rh.find(produced_by=run)) == labels(rh.find(produced_by="made nothing")) == []


def test_the_names_of_all_properties_are_listed_for_errors_only(models, monkeypatch):
    registry = holding(Name("~/cats"))
    listed, listing = [], type(registry).list

    def told(self, prefix="", **options):
        listed.append(prefix)
        return listing(self, prefix, **options)

    monkeypatch.setattr(type(registry), "list", told)
    assert labels(rh.find(where=F.accuracy == 0.9)) == ["/org/birds:v2"]
    assert "types/" not in listed
    with pytest.raises(errors.InvalidError, match="did you mean accuracy"):
        rh.find(where=F.acuracy > 0.5)
    assert "types/" in listed


def test_unknown_properties_show_the_nearest(models):
    with pytest.raises(errors.InvalidError, match="nothing has a property 'acuracy'; did you mean accuracy"):
        rh.find(where=(F.stage == "dev") & (F.acuracy > 0.5))
    # A record from before types were noted is enough.
    registry = holding(Name("~/cats"))
    registry.put("resources/~/old", {**registry.get("resources/~/cats").document, "metadata": {"legacy": 1}})
    assert labels(rh.find(where=F.legacy == 1)) == ["~/old"]


def test_a_property_of_files_points_to_them(models):
    rh.load("cats").annotate("weights", label="tabby")
    with pytest.raises(errors.InvalidError, match="'label' is a property of files, and of no resource") as caught:
        rh.find(where=F.label == "tabby")
    assert caught.value.hint == "rh.folder('~/cats').query(…) finds files by theirs"
    with pytest.raises(errors.InvalidError, match="nothing has a property 'lable'") as caught:
        rh.find(where=F.lable == "tabby")
    assert "did you mean" not in caught.value.message
    assert caught.value.hint == "there are: accuracy, stage, and tags"
    rh.load("dogs:v1").annotate(label="tabby")  # now it is one of versions as well
    assert labels(rh.find(where=F.label == "tabby")) == ["~/dogs:v1"]


def test_a_property_of_versions_points_to_them(models):
    folder = rh.load("cats")
    for where, what in ((F.accuracy > 0.5, "versions"), (F.stage == "dev", "the folder itself")):
        with pytest.raises(errors.InvalidError, match=f"is a property of {what}, and of no file") as caught:
            folder.query(where)
        assert caught.value.hint == "rh.find(where=…) finds resources and versions by theirs"
    folder.annotate("weights", label="tabby")
    with pytest.raises(errors.InvalidError, match="'accuracy' is a property of versions"):
        folder.query((F.label == "tabby") | (F.accuracy > 0.5))
    with pytest.raises(errors.InvalidError, match="nothing has a property 'acuracy'") as caught:
        folder.query(F.acuracy > 0.5)
    assert caught.value.hint == "there are: label, and tags"
    folder.annotate("weights", accuracy=0.1)
    assert folder.query(F.accuracy > 0.5).files == []
    bare = rh.folder(name="bare", path=models / "bare", metadata={"stage": "dev"}).save()
    with pytest.raises(errors.InvalidError, match="'stage' is a property of the folder itself"):
        bare.query(F.stage == "dev")


def test_a_wrong_type_names_the_registry_that_has_it(models, monkeypatch):
    team = f"sqlite://{models}/team.db"
    monkeypatch.setenv("RH_REGISTRY", team)
    rh.blob(b"x", name="/team/x", path=models / "x").save().annotate(loss=0.5)
    with pytest.raises(errors.InvalidError, match="'loss' is a number") as caught:
        rh.find(where=F.loss == "low")
    assert caught.value.where == team
    with pytest.raises(errors.InvalidError, match="'accuracy' is a number") as caught:
        rh.find(where=F.accuracy == "low")
    assert caught.value.where == holding(Name("~/cats")).url


@pytest.mark.parametrize(
    "wrong",
    [
        {"where": "accuracy >"},
        {"where": 5},
        {"tags": [5]},
        {"name": ""},
        {"name": 5},
        {"limit": 0},
        {"limit": True},
        {"created_after": "yesterday"},
        {"as_of": True},
        {"as_of": -5},
        {"as_of": "1960-01-01"},
        {"as_of": float("nan")},
        {"created_after": float("inf")},
        {"prefix": "../x"},
    ],
)
def test_what_cannot_be_asked(models, wrong):
    with pytest.raises(errors.InvalidError):
        rh.find(**wrong)


def test_a_record_that_cannot_be_read_is_left_out(models, caplog):
    holding(Name("~/x")).put("resources/~/newer", {"kind": "hologram", "metadata": {"stage": "dev"}})
    assert "~/newer" not in labels(rh.find(where=F.stage == "dev"))
    assert "~/newer cannot be read" in caplog.text
    place = {"kind": "blob", "location": {"system": "file", "path": "/x"}, "metadata": {"stage": "dev"}}
    for number, garbled in enumerate(({"serializer": ["json"]}, {"stamp": {"digest": "x", "size": "many"}})):
        holding(Name("~/x")).put(f"resources/~/odd{number}", place | garbled)
        with pytest.raises(errors.IntegrityError, match="garbles"):
            rh.load(f"odd{number}")
        assert f"~/odd{number}" not in labels(rh.find(where=F.stage == "dev"))


def test_how_it_looks(models):
    found = rh.find(tags="good")
    assert repr(found).splitlines()[1].startswith("/org/birds:v2  folder")
    assert "accuracy=0.9" in repr(found)
    assert found._repr_html_().count("<tr>") == 5
    assert repr(found[:0]) == "<nothing found>"
    assert len(found[1:3]) == 2
    assert found.as_dicts()[1] | {"author": "", "time": 0} == {
        "name": "/org/birds", "kind": "folder", "version": "v2", "tags": ["nightly", "good"],
        "metadata": {"accuracy": 0.9}, "author": "", "time": 0,
    }  # fmt: skip
