"""What the benchmark measures of registries is in its report: each kind, with its bars."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from benchmarks import registry
from benchmarks.__main__ import main


@pytest.mark.slow
def test_registries_are_part_of_the_report(tmp_path: Path, monkeypatch, capsys) -> None:
    place = Path(tempfile.mkdtemp())  # pytest's own are not for the account of PostgreSQL
    place.chmod(0o711)
    monkeypatch.chdir(place)
    words = ["--only", "registry", "--scale", "0.001", "--rounds", "1", "--quiet"]
    assert main([*words, "--json", str(tmp_path / "all.json"), "--docs", str(tmp_path / "docs")]) == 0
    told = json.loads((tmp_path / "all.json").read_text())
    assert told["missing"] == []
    (table,) = told["others"]
    assert [*dict.fromkeys(row[0] for row in table["rows"])] == [*registry.NAMES, "server"]
    assert ["server", "commits that were answered and lost", "0"] in table["rows"]
    assert {bar["wanted"] for bar in told["bars"] if "commits of 8" in bar["text"]} == {300.0, 1000.0}
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "## Registries\n" in page
    assert "| postgres, fsync | commits of 8 processes |" in page
    assert "postgres, fsync" in capsys.readouterr().out
    assert json.loads((tmp_path / "docs" / "assets" / "benchmarks.json").read_text()) == told
    assert main(["--add", str(tmp_path / "all.json"), "--json", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == told
    place.rmdir()  # nothing is left
