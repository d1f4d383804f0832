"""An object of the store that was cut is stored anew by a commit that brings its bytes: its size tells."""

from __future__ import annotations

import random

import pytest

from rh import observe
from rh.versions.layout import object_key
from rh.versions.verify import verify_version
from tests.versions.made import again, commit, store_on

DATA = random.Random(3).randbytes((1 << 20) + 5)


@pytest.mark.parametrize("kind", ["memory", "file", "moto", "ssh-a"])
def test_a_cut_object_is_healed(kind, request, tmp_path):
    """No request more than for one that is whole."""
    store = store_on(kind, request, tmp_path)
    first = commit(store, {"a": DATA})
    ((key, size),) = [(one.key, one.size) for one in store.system.list("objects/") if one.kind == "file"]
    assert size == len(DATA)
    with observe.counting() as whole:
        commit(again(store), {"b": DATA})
    store.system.write(key, DATA[:-7])
    assert verify_version(again(store), first.digest, "x").corrupt == ("a",)
    with observe.counting() as counts:
        commit(again(store), {"c": DATA})
    assert object_key(first_digest(store, first)) == key
    assert verify_version(again(store), first.digest, "x").ok
    name = store.system.location.system
    assert counts.requests[name, "head"] <= whole.requests[name, "head"]


def first_digest(store, tree):
    return store.root(store.tree(tree.digest)).children[0].digest
