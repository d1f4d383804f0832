"""The bar, as terminals of several widths show it."""

from __future__ import annotations

import errno
import io
import sys
import time

import pytest

import rh
from rh import progress

TITLE = "file:///home/ada/datasets/animals/cats.bin → s3://data/animals/2026/cats.bin"


def drawn(bar, width):
    from rich.console import Console

    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(bar.line(width))
    return console.file.getvalue().rstrip("\n").split("\n")


def bar_at(seconds, monkeypatch, *, files=308, done=165, title=TITLE):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bar = progress.Bar(delay_s=float("inf"))
    bar.start(title)
    bar.total(files, 1_610_612_736)
    now += seconds
    bar.advance(done, 173_539_328)
    return bar


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("files", [1, 308])
def test_it_is_one_line_and_says_amounts_whole(width, files, monkeypatch):
    (line,) = drawn(bar_at(4.0, monkeypatch, files=files, done=0), width)
    assert len(line) <= width
    assert "0.2/1.5 GiB" in line
    if width >= 60:
        assert "41.4 MiB/s" in line
        assert "cats.bin" in line
    if width >= 80:
        assert "0:00:33" in line
        assert ("files" in line) == (files > 1)
    if width >= 120:
        assert "━" in line
    if width == 200:
        assert TITLE in line


def test_no_speed_is_told_in_the_first_second(monkeypatch):
    (line,) = drawn(bar_at(0.001, monkeypatch), 120)
    assert "/s" not in line
    assert "/s" in drawn(bar_at(1.0, monkeypatch), 120)[0]


def test_a_bar_that_is_used_again_begins_anew(monkeypatch):
    bar = bar_at(4.0, monkeypatch)
    bar.finish()
    bar.start(TITLE)
    bar.total(1, 1024)
    bar.advance(1, 512)
    (line,) = drawn(bar, 120)
    assert "0.5/1.0 KiB" in line


def test_names_are_shown_as_they_are(monkeypatch):
    (line,) = drawn(bar_at(2.0, monkeypatch, title="a[red]b\x1b[2J → c"), 120)
    assert "a[red]b?[2J → c" in line


def test_a_file_is_called_by_its_name(tmp_path):
    told = []

    class Watch(progress.Silent):
        def start(self, title):
            told.append(title)

    (tmp_path / "one.bin").write_bytes(b"1")
    rh.blob(path=tmp_path / "one.bin").to(path=tmp_path / "two.bin", progress=Watch())
    assert told == [f"file://{tmp_path}/one.bin → file://{tmp_path}/two.bin"]


def test_it_comes_and_goes():
    from rich.console import Console

    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    bar = progress.Bar(delay_s=0, console=console)
    bar.start("a → b")
    bar.advance(1, 10)
    bar.finish()
    bar.finish()
    assert "a → b" in console.file.getvalue()


class _Terminal(io.StringIO):
    """A terminal that may go away, as that of a lost login does under a program that goes on (`nohup`)."""

    gone = False

    def isatty(self):
        return True

    def write(self, text):
        if self.gone and not self.closed:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


@pytest.mark.parametrize("leaves", ["before", "meanwhile", "closed"])
def test_a_terminal_that_goes_away_stops_no_work(monkeypatch, leaves):
    monkeypatch.setenv("TERM", "xterm")
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    bar = progress.Bar(delay_s=0)
    bar.start("a → b")
    bar.total(2, 10)
    if leaves != "before":
        bar.advance(1, 5)
        assert terminal.getvalue()
    terminal.gone = True
    if leaves == "closed":
        terminal.close()
    bar.advance(1, 5)
    bar.finish()
    assert sys.stderr is terminal


class _Log:
    """What programs put in place of standard error: it need not be all of a file."""

    def write(self, text):
        return len(text)


def test_no_bar_where_nobody_knows_of_a_terminal(monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stream in (None, _Log(), closed):
        monkeypatch.setattr("sys.stderr", stream)
        assert isinstance(progress.default(), progress.Silent)
