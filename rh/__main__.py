"""`python -m rh`: the program `rh`."""

from __future__ import annotations

import sys

from rh.cli import main

if __name__ == "__main__":
    sys.exit(main())
