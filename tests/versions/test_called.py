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
