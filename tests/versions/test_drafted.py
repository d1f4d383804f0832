"""Which versions a draft made, and how a version is named."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import rh
from rh.cli.app import app
from rh.errors import InvalidError, NotFoundError

NO_PART = "from a draft: the live data had no part in it"


@pytest.fixture
def cats(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a").write_bytes(b"1")
    cats = rh.folder(path=tmp_path / "cats").save("cats")
    cats.commit()
    return cats


def told(*args):
    done = CliRunner().invoke(app, ["info", *args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("named", [None, "spring"])
def test_a_version_that_a_draft_made_says_so(cats, named):
    """`rh info`, the text of a version and of a handle, and the notebook: until the live folder is committed."""
    assert "latest" in told("rh://cats")
    assert NO_PART not in told("rh://cats")
    with cats.draft(named) as draft:
        draft.add(b"2", path="b")
    if named:
        draft = cats.draft(named)
        draft.commit()
    assert draft.version.drafted
    first, second = cats.versions()
    assert (first.drafted, second.drafted) == (False, True)
    assert ", by a draft: 2 files" in str(second)
    assert "by a draft" not in str(first)
    assert second.as_dict()["drafted"] is True
    pinned = rh.folder("cats:latest")
    assert repr(pinned) == "<Folder ~/cats:v2, from a draft>"
    assert f"v2, {NO_PART}" in pinned._repr_html_()
    assert repr(rh.folder("cats:v1")) == "<Folder ~/cats:v1>"
    assert "from a draft" not in rh.folder("cats:v1")._repr_html_()
    for name in ("rh://cats", "rh://cats:v2"):
        assert f"v2, {NO_PART}" in told(name)
        assert json.loads(told(name, "--json"))["drafted"] is True
    assert NO_PART not in told("rh://cats:v1")
    cats.restore("latest")
    assert cats.commit().label == "v2"
    cats.put({"c": b"3"})
    assert not cats.commit().drafted
    assert NO_PART not in told("rh://cats")


def test_an_upload_is_a_draft(cats, tmp_path):
    """The shortest form of a draft says it, too."""
    (tmp_path / "more").write_bytes(b"2")
    assert cats.upload(tmp_path / "more").drafted


def test_what_has_no_versions(tmp_path):
    """`rh info` of a name without versions says nothing of them."""
    rh.folder(path=tmp_path).save("plain")
    assert "latest" not in told("rh://plain")


@pytest.mark.parametrize("wrong", [None, "", " ", "-1", "a b", "a/b", 0, -1, 1, 1.5, True, b"v1", ["v1"], object()])
def test_what_names_no_version(cats, wrong):
    """A typed error with a fix, before anything is changed."""
    before = cats.digest()
    cats.put({"z": b"26"})
    for call in (
        cats.at,
        cats.restore,
        cats.repair,
        lambda which: cats.diff("v1", which),
        cats.diff,
    ):
        with pytest.raises(InvalidError) as caught:
            call(wrong)
        assert caught.value.hint
    with pytest.raises(InvalidError):
        cats.export("x.rh", wrong)
    assert cats.get("z") == b"26"
    assert before != cats.digest()


@pytest.mark.parametrize("unknown", ["v2", "v0", "v-1", "productoin", "sha256:00", "3"])
def test_a_version_that_is_not_there(cats, unknown):
    """Another error: it could be there."""
    for call in (cats.at, cats.restore):
        with pytest.raises(NotFoundError):
            call(unknown)
    assert cats.get("a") == b"1"
