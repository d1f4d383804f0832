"""The program `rh`.

Each noun has a small module; they use only the public API below this layer. `rh.cli.exit` has the exit codes,
`rh.cli.show` how results and errors look, `rh.cli.place` what an argument means.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(words: Sequence[str] | None = None) -> int:
    """Run the program with these arguments (by default the process's) and return its exit code."""
    words = sys.argv[1:] if words is None else list(words)
    try:
        from rh.cli.run import run

        return run(words)
    except KeyboardInterrupt:  # while the command was loaded, or had ended
        from rh.cli.run import interrupted

        return interrupted(as_json="--json" in words)
