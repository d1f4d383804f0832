"""`folder.query`: the files a condition holds for, streamed, copied, committed, saved."""

import pickle

import pytest

import rh
from rh import F, errors, observe
from rh.registry import local
from rh.systems.local import LocalSystem
from rh.versions import properties

FILES = {f"img/{number}.png": b"image %d" % number * 100 for number in range(6)}


@pytest.fixture
def cats(folder):
    """A saved folder on each system in turn, with one version and a property for each file but the last."""
    folder.put(FILES)
    saved = folder.save("cats")
    saved.commit()
    saved.annotate({f"img/{n}.png": {"label": "cat" if n % 2 else "dog", "score": n / 10} for n in range(5)})
    return saved


@pytest.fixture
def few(here):
    """The same on this disk."""
    here.put(FILES)
    saved = here.save("cats")
    saved.commit()
    return saved.annotate({f"img/{n}.png": {"label": "cat" if n % 2 else "dog", "score": n / 10} for n in range(5)})


def test_what_a_condition_may_be(few):
    wanted = ["img/1.png", "img/3.png"]
    for where in (F.label == "cat", 'label == "cat"', {"label": "cat"}, (F.label == "cat").as_dict()):
        assert few.query(where).files == wanted
    assert few.query({"label": ["cat", "dog"], "score": 0.2}).files == ["img/2.png"]
    assert few.query((F.label == "dog") & (F.score > 0.3)).files == ["img/4.png"]
    assert few.query(~(F.label == "cat")).files == ["img/0.png", "img/2.png", "img/4.png", "img/5.png"]
    assert few.query(F.tags == "gold").files == []
    assert few.query().files == list(FILES)
    with pytest.raises(errors.InvalidError, match="did you mean label"):
        few.query(F.lable == "cat")
    with pytest.raises(errors.InvalidError, match="nothing has a property 'x'"):
        rh.folder(name="new", path=f"{few.path}-new").save().query(F.x == 1)
    for wrong in (5, "label =", ["label"]):
        with pytest.raises(errors.InvalidError):
            few.query(wrong)
    with pytest.raises(errors.InvalidError, match="has no name"):
        (few / "img").query(F.label == "cat")


def test_a_view_is_a_list_that_stays(few):
    view = few.query(F.label == "cat")
    few.annotate("img/0.png", label="cat")
    few.rm("img/1.png")
    assert (len(view), list(view), bool(view)) == (2, ["img/1.png", "img/3.png"], True)
    assert "img/3.png" in view
    assert "img/0.png" not in view
    assert few.query(F.label == "cat").files == ["img/0.png", "img/3.png"]
    assert pickle.loads(pickle.dumps(view)).files == view.files
    assert not few.query(F.label == "bird")
    assert repr(view) == "<View of ~/cats where label == 'cat', 2 files>"
    assert "<td>img/3.png</td>" in view._repr_html_()


def test_properties(few):
    few.annotate("img/1.png", ids=[3, 5], eval={"x": 1}, tags=["gold"])
    few.annotate("img/3.png", ids=4)
    view = few.query(F.label == "cat")
    assert view.properties() == [
        {"file": "img/1.png", "tags": ["gold"], "label": "cat", "score": 0.1, "ids": [3, 5], "eval.x": 1},
        {"file": "img/3.png", "tags": [], "label": "cat", "score": 0.3, "ids": 4},
    ]
    frame = view.properties("pandas")
    assert list(frame.columns) == ["file", "tags", "eval.x", "ids", "label", "score"]
    assert [list(ids) for ids in frame["ids"]] == [[3, 5], [4]]
    assert view.properties("arrow").num_rows == len(view.properties("polars")) == 2
    assert few.query(F.label == "bird").properties("arrow").column_names == ["file", "tags"]
    with pytest.raises(errors.InvalidError, match="did you mean 'pandas'"):
        view.properties("panda")


def test_open_and_stream(cats):
    for folder in (cats, rh.folder("cats:v1")):
        view = folder.query(F.label == "cat")
        assert list(view.stream()) == [(path, FILES[path]) for path in ("img/1.png", "img/3.png")]
        with view.open("img/1.png") as file:
            assert file.read() == FILES["img/1.png"] == view.get("img/1.png")
        with pytest.raises(errors.NotFoundError, match="did you mean img/"):
            view.open("img/0.png")
        with pytest.raises(errors.InvalidError, match="only read"):
            view.open("img/1.png", "wb")
        stream = view.stream()
        next(stream)
        stream.close()


def test_to(cats, tmp_path):
    for folder in (cats, rh.folder("cats:v1")):
        copy = folder.query(F.label == "cat").to(path=tmp_path / (folder.version or "live"))
        assert copy.glob("**/*.png") == ["img/1.png", "img/3.png"]
        assert copy.get("img/3.png") == FILES["img/3.png"]
        assert copy.receipt.done == 2
        assert copy.verify()
    view = cats.query(F.label == "cat")
    with pytest.raises(errors.InvalidError, match="no name that a place"):
        view.to("here")
    for wrong in ({"include": ["*"]}, {"dry_run": True}, {"keys": frozenset()}):
        with pytest.raises(errors.InvalidError):
            view.to(path=tmp_path / "x", **wrong)


def test_commit_of_a_version_moves_no_data(cats):
    other = (rh.folder(path=f"{cats.url}-2") if cats.system in ("file", "memory") else _beside(cats)).save("picked")
    view = rh.folder("cats:v1").query(F.label == "cat")
    with observe.counting() as counts:
        version = view.commit("picked", "only cats", aliases=["production"])
    assert (version.message, version.files, version.aliases) == ("only cats", 2, ("latest", "production"))
    assert counts.sent[cats.system] < len(FILES["img/1.png"]) * 4, "records of the tree, and no file"
    pinned = rh.folder("picked:v1")
    assert dict(pinned.query().stream()) == {path: FILES[path] for path in view}
    assert pinned.query(F.score > 0.2).files == ["img/3.png"]
    assert other.query().files == []


def _beside(folder):
    return rh.folder(path="picked", system=folder.system).mkdir()


def test_commit_of_live_files(few, tmp_path):
    few.put({"img/9.png": b"in no version"})
    few.annotate("img/9.png", label="cat")
    rh.folder(name="picked", path=tmp_path / "picked").save()
    assert few.query(F.label == "cat").commit("picked").files == 3
    assert rh.folder("picked:v1").get("img/9.png") == b"in no version"
    with pytest.raises(errors.NotFoundError, match="did you mean ~/picked"):
        few.query(F.label == "cat").commit("piked")
    with pytest.raises(errors.InvalidError, match="the folder that the view is of"):
        few.query(F.label == "cat").commit("cats")


def test_save_and_load(few):
    live, pinned = few.query(F.label == "cat").save("good"), rh.folder("cats:v1").query("score > 0.2").save("high")
    assert rh.load("good") == live
    assert rh.load("good").files == ["img/1.png", "img/3.png"]
    few.annotate("img/5.png", label="cat")
    few.rm("img/1.png")
    assert rh.load("good").files == ["img/3.png", "img/5.png"]
    assert rh.load("high").files == ["img/3.png", "img/4.png"]
    assert rh.load("high").version == "v1"
    assert pinned.config() == {
        "kind": "view", "name": "~/high", "folder": "~/cats", "version": "v1",
        "where": {"field": "score", "op": ">", "values": [0.2]},
    }  # fmt: skip
    unseen = rh.load("good", dryrun=True)
    assert repr(unseen) == "<View ~/good of ~/cats where label == 'cat'>"
    with pytest.raises(errors.InvalidError, match="not looked up"):
        len(unseen)
    with pytest.raises(errors.InvalidError, match="only this machine knows"):
        live.save("/org/good")
    with pytest.raises(errors.InvalidError, match="is a view, not a folder"):
        rh.folder("good")
    few.delete_configs()
    with pytest.raises(errors.NotFoundError, match="nothing is called ~/cats"):
        rh.load("good")


def test_a_shared_view_is_of_a_shared_folder(tmp_path):
    folder = rh.folder(name="/org/cats", path=tmp_path).save()
    folder.put({"1.png": b"x"})
    folder.annotate("1.png", label="cat").query(F.label == "cat").save("/org/good")
    assert rh.load("/org/good").files == ["1.png"]


def test_a_commit_that_fails_says_nothing_of_files(few, tmp_path):
    """Properties are written after the version is made; if they could not be, no version is."""
    other = rh.folder(name="picked", path=tmp_path / "picked").save()
    view = few.query(F.label == "cat")
    few.rm("img/3.png")
    with pytest.raises(errors.NotFoundError):
        view.commit("picked")
    assert [record.key for record in local().list("files/") if other.series_of().series in record.key] == []
    other.put({"x.png": b"x"})
    other.annotate("x.png", label=5)
    with pytest.raises(errors.InvalidError, match="'label' is text here, and a number"):
        few.query(F.label == "cat").commit("picked")
    assert other.versions() == []


def test_many_live_files_are_listed_once(here, tmp_path, monkeypatch):
    here.put({f"{number:03}.txt": b"%d" % number for number in range(100)})
    many = here.save("many")
    many.annotate({f"{number:03}.txt": {"kept": True} for number in range(90)})
    rh.folder(name="picked", path=tmp_path / "picked").save()
    view = many.query(F.kept == True)  # noqa: E712
    heads, head = [], LocalSystem.head

    def counted(self, key, *args, **options):
        if key.endswith(".txt"):
            heads.append(key)
        return head(self, key, *args, **options)

    monkeypatch.setattr(LocalSystem, "head", counted)
    assert view.commit("picked").files == 90
    assert heads == []


@pytest.mark.parametrize(
    "told",
    [{"all": ["a", "b"]}, {"any": [3], "label": "cat"}, {"all": [], "label": "cat"}, {"exists": True}, {"not": "a"}],
)
def test_properties_that_are_called_like_parts_of_a_filter(told):
    assert set(properties.condition(told).fields()) == set(told)


def test_the_json_form_of_a_condition():
    for where in (F.all == "a", ~F.x.exists(), (F.a == 1) & (F.b == 2), (F.a == 1) | F.b.exists(), ~(F.a > 1)):
        assert properties.condition(where.as_dict()) == where
    with pytest.raises(errors.InvalidError, match="or about one called 'exists'"):
        properties.condition({"exists": "x"})
