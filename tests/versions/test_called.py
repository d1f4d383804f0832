"""What is asked of a version by its name is told by that name: `rh://~/cats:v1/path`, not where it is stored."""

from __future__ import annotations

import pytest

import rh
from rh import errors


@pytest.fixture(params=["file", "s3"])
def cats(request, world, tmp_path) -> rh.Folder:
    live = rh.folder(path=tmp_path / "live" if request.param == "file" else "live", system=request.param)
    live.put({"a.txt": b"one", "sub/b.txt": b"two"})
    live = live.save("cats")
    live.commit(aliases=["good"])
    return live


def test_what_is_not_there_is_told_by_name(cats):
    """By whatever way it was asked for; a version of equal content has its own name."""
    cats.to(path=f"{cats.url}-too").save("dogs").commit()
    for pinned in (rh.folder("cats:v1"), rh.folder("cats:good"), cats.at("v1"), rh.folder("dogs:v1")):
        here = f"rh://{pinned.name}:v1"
        for ask, path in (
            (lambda one: one.get("none.txt"), "none.txt"),
            (lambda one: one.open("sub/none.txt"), "sub/none.txt"),
            (lambda one: one.ls("none"), "none"),
            (lambda one: (one / "sub").get("none.txt"), "sub/none.txt"),
        ):
            with pytest.raises(errors.NotFoundError) as caught:
                ask(pinned)
            assert caught.value.where == f"{here}/{path}"
    for ask in (lambda: rh.blob(path="rh://cats:v1/none").read(), lambda: rh.folder(path="rh://cats:good/none").ls()):
        with pytest.raises(errors.NotFoundError) as caught:
            ask()
        assert caught.value.where == "rh://~/cats:v1/none"


def test_the_name_of_a_file_is_its_place(cats):
    """`file.name` can be opened again, of a version as of what is live."""
    for handle in (cats, rh.folder("cats:v1")):
        with handle.open("sub/b.txt") as file:
            assert rh.blob(path=file.name).read() == b"two"


def test_what_is_done_with_a_version_is_told_by_its_name(cats, tmp_path):
    """Plans, receipts, listings, and what refuses to change it."""
    pinned = cats.at("v1")
    assert str(pinned.plan(path=tmp_path / "out")).startswith("rh://~/cats:v1 → ")
    assert pinned.to(path=tmp_path / "out").receipt.source_url == "rh://~/cats:v1"
    assert cats.restore("v1").receipt.source_url == "rh://~/cats:v1"
    assert pinned.ls()[0] == "rh://~/cats:v1/a.txt"
    for change in (
        lambda: cats.to(path="rh://cats:v1/below"),
        lambda: rh.blob(b"").to(path="rh://cats:v1/below"),
        lambda: (pinned / "below").put({"x": b""}),
    ):
        with pytest.raises(errors.ImmutableVersionError) as caught:
            change()
        assert caught.value.where.startswith("rh://~/cats:v1/below")


def test_a_draft_is_told_by_the_name_of_its_folder(cats):
    with pytest.raises(errors.NotFoundError, match=r"did you mean a\.txt\?") as caught, cats.draft() as draft:
        draft.remove("a.tx")
    assert caught.value.where == "'a.tx' in a draft of ~/cats"
    with pytest.raises(errors.NotFoundError, match="~/cats:v1 has no 'none'"), cats.draft() as draft:
        draft.copy_from("cats:v1", "none")
    with pytest.raises(errors.NotFoundError, match=r"did you mean sub/b\.txt\?") as caught:
        cats.draft("spring").remove("sub/b.tx")
    assert caught.value.where == "'sub/b.tx' in the draft 'spring' of ~/cats"


def test_a_version_is_not_opened_to_be_written(cats):
    """It is refused before anything is written, not at the end."""
    pinned, blob = cats.at("v1"), rh.blob(b"x", name="one", path=f"{cats.url}.bin").save()
    blob.commit()
    for opened in (
        lambda: pinned.open("c.txt", "w"),
        lambda: (pinned / "sub").open("c.txt", "xb"),
        lambda: rh.blob(path="rh://cats:v1/a.txt").open("wb"),
        lambda: blob.at("v1").open("w"),
    ):
        with pytest.raises(errors.ImmutableVersionError, match="never changes"):
            opened()


def test_a_whole_name_is_not_changed_by_way_of_a_version(cats):
    for change in (lambda: cats.at("v1").rename("dogs"), lambda: cats.at("v1").delete_configs()):
        with pytest.raises(errors.InvalidError, match="~/cats:v1 names a version; the name is ~/cats"):
            change()
    with pytest.raises(errors.InvalidError, match="not shared by itself"):
        cats.at("v1").share("eve")
    pinned = cats.at("v1")
    cats.rename("dogs")
    for handle in (cats, pinned):
        with pytest.raises(errors.NotFoundError, match=r"nothing is saved as ~/cats any more: .* to ~/dogs"):
            handle.series_of()
    rh.load("dogs").delete_configs()
    with pytest.raises(errors.NotFoundError, match="nothing is saved as ~/dogs any more"):
        rh.folder("dogs", path="x").at("v1")


def test_an_alias_that_never_was_has_no_history(cats):
    with pytest.raises(errors.NotFoundError, match="did you mean good"):
        cats.alias_history("goood")
    cats.unalias("good")
    assert [move.version for move in cats.alias_history("good")] == [1, None]
