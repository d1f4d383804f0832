"""A registry over HTTP for a team: tokens, roles per prefix of names, limits, an audit log.

`run.serve` serves one (`rh registry serve`); `rh.registry.http` is its client. What it keeps about people is in the
registry it serves (`accounts`), what they may do is decided in one place (`rights`), and what it answers is one table
(`endpoints`).
"""

from __future__ import annotations

__all__: list[str] = []
