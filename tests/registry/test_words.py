"""What is typed of registries: completion of roles, users and accesses, and the nearest of what there is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rh.cli import main
from rh.registry import accounts, open_registry
from rh.registry.accounts import accounts_of


def complete(words: str) -> list[str]:
    """What a shell offers after these words."""
    asked = {"_RH_COMPLETE": "complete_bash", "COMP_WORDS": f"rh {words}", "COMP_CWORD": str(words.count(" ") + 1)}
    code = "import sys; sys.argv[0] = 'rh'; from rh.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked}, check=False
    )
    return done.stdout.split()


@pytest.fixture
def people(tmp_path, monkeypatch):
    monkeypatch.setenv("RH_REGISTRY", f"sqlite://{tmp_path}/team.db")
    found = accounts_of(open_registry(f"sqlite://{tmp_path}/team.db"))
    for user in ("ada", "bob", "bert"):
        found.put_user(user, admin=user == "ada")
    return found


@pytest.mark.slow
def test_words_are_completed(people):
    assert complete("registry grant /acme bob ") == ["read", "write", "admin", "none"]
    assert complete("registry grant /acme b") == ["bert", "bob"]
    assert complete("share --access w") == ["write"]
    assert complete("share /acme/x a") == ["ada"]
    assert complete("registry user rm be") == ["bert"]
    assert complete("registry token new bo") == ["bob"]


def test_the_nearest_word_is_told(people, capsys):
    assert main(["registry", "grant", "/acme", "bob", "raed"]) != 0
    assert "there is no role 'raed'; did you mean read?" in capsys.readouterr().err
    assert main(["share", "/acme/x", "bob", "--access", "wirte"]) != 0
    assert "there is no access 'wirte'; did you mean write?" in capsys.readouterr().err
    assert main(["share", "/acme/x", "bob", "--access", "admin"]) != 0
    assert "rh registry grant" in capsys.readouterr().err
    from rh.cli.accounts import _ROLES

    assert accounts.ROLES == _ROLES
