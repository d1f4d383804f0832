"""The documentation is true: every code block runs, every link leads somewhere, every table agrees with the code.

A page's blocks run from top to bottom, in one namespace and one directory, on servers of its own. A `text` block right
after a `python` or `bash` block is what that one prints (`...` stands for anything). Comments that a reader does not
see prepare what a page takes for granted (`invisible-code-block`).
"""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import traceback
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, SkipParser

import rh
from rh import config, plugins
from rh.cli.exit import KINDS, code_of
from rh.resources import places
from rh.resources.visible import INTERNAL
from rh.systems import BUILT_IN
from rh.testing import servers

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PROGRAMS = Path(sys.executable).parent

NOT_RUN = {
    "README.md": ["pip install", "make demo"],
    "docs/index.md": ["pip install"],
    "docs/start.md": ["pip install", "rh playground"],
    "docs/systems/ssh.md": ["ssh-keyscan"],
    "docs/how-to/testing.md": ["rh playground"],
    "docs/how-to/databases.md": ["pip install"],
    "docs/how-to/tables.md": ["pip install"],
    "docs/how-to/registry-server.md": ["pip install", "rh registry serve"],
    "docs/how-to/cli.md": ["rh sweep s3://my-bucket/cats", "rh --install-completion"],
}
"""Blocks with the comment `skip: next`, by how they begin: they install, ask, or stay until Ctrl-C."""

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@cache
def generated():
    """Pages that are made, not written. Made by the first test that asks: it takes seconds."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "tools" / "docs_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generated()


def name_of(page):
    return page.relative_to(ROOT).as_posix()


# The world the pages take for granted.


@pytest.fixture(autouse=True, scope="module")
def _connections_closed():
    yield
    places.close()


@pytest.fixture
def stage(tmp_path, monkeypatch, azure_server):
    """A home directory with data in it, and systems of every kind in its settings."""
    home = Path(os.environ["HOME"])
    monkeypatch.chdir(home)
    monkeypatch.setenv("PATH", f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "100")
    with contextlib.ExitStack() as stack:
        begun = [
            servers.s3(buckets=("my-bucket", "data", "archive")),
            servers.s3(buckets=("data",)),
            servers.gcs(buckets=("team", "data")),
            servers.ssh(alias="gpu-box"),
            servers.ssh(alias="cpu-box"),
            servers.http(),
            servers.git(),
        ]
        s3, minio, gs, gpu, cpu, site, forge = (stack.enter_context(server) for server in begun)
        for name in {"my-container"} - set(azure_server.buckets):
            azure_server.make_bucket(name)
        gpu.trust(cpu)
        systems = {
            "s3": s3.settings(root="s3://my-bucket/data"),
            "minio": minio.settings(),
            "gs": gs.settings(root="gs://team/data"),
            "azure": azure_server.settings(root=f"az://my-container/{tmp_path.name}"),
            "gpu-box": gpu.settings(),
            "cpu-box": cpu.settings(),
            "ssh-a": gpu.settings(root=str(gpu.home / "data")),
            "ssh-b": cpu.settings(root=str(cpu.home / "data")),
            "site": site.settings(),
            "forge": forge.settings(),
        }
        lines = ['user = "ada"']
        for name, settings in systems.items():
            lines += [f"[systems.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
        (home / ".rh").mkdir(exist_ok=True)
        (home / ".rh/config.toml").write_text("\n".join(lines) + "\n")

        cats = home / "datasets/cats"
        (cats / "images").mkdir(parents=True)
        (cats / "labels.csv").write_text("file,label\n0.jpg,tabby\n1.jpg,siamese\n")
        for number in range(8):
            (cats / f"images/{number}.jpg").write_bytes(bytes([number]) * 20_000)
        (home / "out").mkdir()
        (home / "out/model.json").write_text('{"epochs": 3}')

        def installed(name, system):
            """As if a package with this entry point were installed."""
            load, names = plugins.load, plugins.names
            monkeypatch.setattr(plugins, "names", lambda group: [*names(group), name])
            monkeypatch.setattr(
                plugins, "load", lambda group, wanted: system if wanted == name else load(group, wanted)
            )

        yield {"site": site, "forge": forge, "gpu": gpu, "s3": s3, "home": home, "installed": installed}


# Running a page.


class Runner:
    """Runs the blocks of one page, in order."""

    def __init__(self, namespace):
        self.namespace = namespace
        self.printed = None

    def python(self, example: Example):
        out = io.StringIO()
        source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
        code = compile(source, example.path, "exec", dont_inherit=True)
        with contextlib.redirect_stdout(out):
            exec(code, self.namespace)
        self.printed = out.getvalue()

    def bash(self, example: Example):
        words = {
            line.split()[0] for line in example.parsed.splitlines() if line.strip() and not line.startswith((" ", "#"))
        }
        if not words & {"rh"} and "| rh" not in example.parsed:
            raise AssertionError(f"no rh in this block, and no comment that it is not to run: {words}")
        script = re.sub(r"^rh playground\b", ": ", example.parsed, flags=re.MULTILINE)  # stays until Ctrl-C
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        self.printed = done.stdout

    def text(self, example: Example):
        before = example.document.text[: example.region.start].rstrip()
        if not before.endswith("```") or self.printed is None:
            return  # a drawing, not an output
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        wanted = str(example.parsed)
        assert doctest.OutputChecker().check_output(wanted, self.printed, flags), f"printed:\n{self.printed}"
        self.printed = None

    def toml(self, example: Example):
        """Settings are what some system reads."""
        settings = tomllib.loads(example.parsed)
        for name, system in settings.pop("systems", {}).items():
            kind = system.get("kind", config.DEFAULTS["systems"].get(name, {}).get("kind"))
            assert kind in {*BUILT_IN, "sqlite"}, f"{name}: no kind {kind!r}"
            if kind in BUILT_IN:
                unknown = system.keys() - known_settings(kind) - {"kind"}
                assert not unknown, f"{name}: nothing reads {unknown}"
        assert settings.keys() <= config.DEFAULTS.keys()
        self.printed = None


def known_settings(kind):
    """Words that appear as a setting in the sources of a kind of system."""
    place = ROOT / "rh/systems" / {"gs": "gcs"}.get(kind, kind)
    shared = ["objects", "web"]
    sources = [
        *place.glob("*.py"),
        *(source for name in shared for source in (ROOT / "rh/systems" / name).glob("*.py")),
        *([place.with_suffix(".py")] if not place.is_dir() else []),
    ]
    text = "".join(source.read_text() for source in sources)
    found = re.findall(r"(?:settings|_settings|options)(?:\.get\(|\[)\s*\"([a-z_]+)\"", text)
    return {*found, *re.findall(r"`([a-z_]+)`", text), "root", "timeout_s", "retries"}


LANGUAGES = ("python", "bash", "toml", "text")


def with_blocks():
    """The pages that have blocks; the one with twenty commands is slow."""
    for page in PAGES:
        if "```" in page.read_text("utf-8"):
            marks = [pytest.mark.slow] if name_of(page) == "docs/how-to/cli.md" else []
            yield pytest.param(page, id=name_of(page), marks=marks)


@pytest.mark.parametrize("page", list(with_blocks()))
def test_blocks_run(page, stage, monkeypatch):
    monkeypatch.setenv("RH_HOME", str(stage["home"] / ".rh"))
    if name_of(page) == "docs/start.md":  # which is about the playground, where these are the roots
        monkeypatch.setenv("RH_S3_ROOT", "s3://data")
        monkeypatch.setenv("RH_GS_ROOT", "gs://data")
    document = Document(page.read_text("utf-8"), str(page))
    runner = Runner(document.namespace)
    document.namespace.update(stage)
    for parser in (SkipParser(), *(CodeBlockParser(language, getattr(runner, language)) for language in LANGUAGES)):
        for region in parser(document):
            document.add(region)
    with mock.patch.dict(os.environ):  # what a page sets is gone after it
        for example in document.examples():
            try:
                example.evaluate()
            except Exception as error:
                last = traceback.format_exc() if not isinstance(error, AssertionError) else str(error)
                pytest.fail(f"{name_of(page)}, line {example.line}:\n{example.parsed}\n{last}", pytrace=False)


@pytest.mark.slow
def test_the_system_of_the_docs_passes_the_suite(tmp_path):
    """What `docs/systems/plugins.md` shows keeps the whole contract."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs/systems/plugins.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    shown = [block for block in blocks if "class DictSystem" in block or "class TestDict" in block]
    assert len(shown) == 2
    (tmp_path / "test_dict.py").write_text("\n".join(shown))
    (tmp_path / "conftest.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "test_dict.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_every_block_is_of_a_known_language():
    for page in PAGES:
        for fence in re.findall(r"^ *```(\S*)", page.read_text("utf-8"), re.MULTILINE)[::2]:
            assert fence in LANGUAGES, f"{name_of(page)}: ```{fence}"


def test_what_is_not_run_is_known():
    """A block that does not run is one of these, so that none is left out in passing."""
    found = {}
    for page in PAGES:
        for block in re.findall(r"^<!-- skip: next -->\n+```\w+\n(.*?)$", page.read_text("utf-8"), re.MULTILINE):
            found.setdefault(name_of(page), []).append(block)
    assert found.keys() == NOT_RUN.keys()
    for page, firsts in NOT_RUN.items():
        assert len(found[page]) == len(firsts), found[page]
        for block, first in zip(found[page], firsts, strict=True):
            assert block.startswith(first), page


# Links.


def anchors(text):
    """The ids that headings get."""
    found = set()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in _LINK.findall(_FENCED.sub("", page.read_text("utf-8"))):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere in the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text("utf-8")), f"there is no {link}"


# Tables.


def test_errors_page_agrees_with_the_code():
    """Every class of error has its row: kind, builtin and exit code are those of the code."""
    rows = {}
    for line in (ROOT / "docs/errors.md").read_text("utf-8").splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if line.startswith("| `") and cells[0].endswith("Error"):
            rows[cells[0]] = cells[1:4]
    classes = {
        name: getattr(rh.errors, name) for name in rh.errors.__all__ if name.endswith("Error") and name != "RhError"
    }
    wanted = {}
    for name, one in classes.items():
        builtins = [
            base.__name__
            for base in one.__mro__
            if base.__module__ == "builtins" and base not in (Exception, BaseException, object, OSError, RuntimeError)
        ]
        if issubclass(one, OSError) and not builtins:
            builtins = ["OSError"]
        wanted[name] = [one.kind, ", ".join(builtins) or "–", str(code_of(one("x")))]
    assert rows == wanted


def test_exit_codes_page_agrees_with_the_code():
    from rh.cli.exit import CODES

    text = (ROOT / "docs/how-to/cli.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| (.+?) \|", text, re.MULTILINE))
    assert rows == {str(code): meaning for code, meaning in CODES.items()}
    assert set(KINDS.values()) <= CODES.keys()
    errors_of = dict(re.findall(r"^\| (\d+) \| .+? \| (.*?) \|$", text, re.MULTILINE))
    assert [kind for kind, code in KINDS.items() if f"`{kind}`" not in errors_of[str(code)]] == []


@pytest.mark.parametrize(("page", "kind"), [("s3", "s3"), ("gcs", "gs"), ("azure", "azure"), ("ssh", "ssh")])
def test_settings_tables_agree_with_the_code(page, kind):
    """What a page says can be set is read by the system of that kind, and what its module names is on the page."""
    text = (ROOT / f"docs/systems/{page}.md").read_text("utf-8")
    table = text.partition("## Settings")[2].partition("\n## ")[0]
    shown = {word for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)}
    assert shown
    assert shown <= known_settings(kind)
    module = "ssh/transport" if kind == "ssh" else {"gs": "gcs"}.get(kind, kind) + "/__init__"
    docstring = re.search(r"Settings[^:]*:(.+?)\n\n", (ROOT / f"rh/systems/{module}.py").read_text("utf-8"), re.DOTALL)
    promised = set(re.findall(r"`(\w+)`", docstring.group(1)))
    missing = promised - set(re.findall(r"`(\w+)`", text)) - {"STORAGE_EMULATOR_HOST", "virtual", "path"}
    assert not missing


def test_options_page_names_every_option():
    from rh.transfer import Options

    text = (ROOT / "docs/how-to/transfer.md").read_text("utf-8")
    missing = [name for name in Options.names_of() if f"`{name}" not in text]
    assert not missing


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text("utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    missing = [name for name in rh.__all__ if not re.search(rf"\b{name}\b", text) and name != "__version__"]
    assert not missing


@pytest.mark.parametrize("kind", [rh.Folder, rh.Table, rh.Blob, rh.Cluster])
def test_every_public_method_has_a_docstring_of_its_own(kind):
    """Without one the reference leaves it out."""
    shown = {name for name in dir(kind) if name[0] != "_"} - INTERNAL
    assert not [name for name in shown if callable(getattr(kind, name)) and not getattr(kind, name).__doc__]


def test_every_command_is_in_the_generated_reference():
    page = generated()["reference/cli.md"]
    for command in ("ls", "cp", "sync", "cat", "put", "rm", "du", "find", "plan", "verify", "info", "save", "history"):
        assert f"## rh {command}\n" in page
    for command in ("resources", "config show", "doctor", "playground"):
        assert f"## rh {command}\n" in page


# The site.


@pytest.mark.slow
def test_site_builds_without_a_warning_and_without_the_network(tmp_path):
    """`mkdocs build --strict`; no page loads anything from another host."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25
    start = (tmp_path / "site" / "start" / "index.html").read_text("utf-8")
    assert 'href="../tutorials/01_first_steps/"' in start, "links to a script lead to its page"
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"?(https?://[^\">\s]+)", page.read_text()
        )
        assert not loaded, (page, loaded)


def test_docstring_examples_of_the_public_functions_run(stage):
    """Examples in the docstrings that the reference shows."""
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    shown = [getattr(rh, name) for name in rh.__all__ if callable(getattr(rh, name))]
    shown += [getattr(kind, name) for kind in (rh.Folder, rh.Blob, rh.Cluster) for name in dir(kind) if name[0] != "_"]
    tests = [test for one in shown if inspect.getdoc(one) for test in finder.find(one, name=str(one), globs={"rh": rh})]
    run = sum(bool(test.examples) for test in tests)
    for test in tests:
        result = runner.run(test, out=lambda _text: None)
        assert not result.failed, test.docstring
    assert run >= 6
