"""An S3 server that knows preconditions, odd keys, versions and open uploads: moto. Slow; it checks no signature."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from rh.errors import MissingExtraError, UnavailableError
from rh.testing.servers.process import LOOPBACK
from rh.testing.servers.rclone import Bucketed
from rh.testing.servers.web import ask

__all__ = ["MotoServer"]


class MotoServer(Bucketed):
    """moto's server on a loopback port; everything is in memory, and requests are served one at a time.

    Args:
        buckets: made at the start; the first one is the root of `settings()`.
    """

    name = "moto"
    start_timeout_s = 60.0

    def _command(self) -> Sequence[str]:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            raise MissingExtraError("moto's server is not installed", hint='pip install "moto[s3]" flask flask-cors')
        program = Path(__file__).with_name("moto_serial.py")
        return [sys.executable, "-I", str(program), LOOPBACK, str(self.port)]

    def _ready(self) -> bool:
        try:
            return ask(self.port, "GET", "/moto-api/", timeout_s=2.0)[0] == 200
        except UnavailableError:
            return False
