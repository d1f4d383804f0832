"""A proxy that breaks the wire, on purpose and reproducibly.

Put it between a client and a real server, and say what shall go wrong::

    with servers.s3() as s3, FaultProxy(s3.port, [Flip(times=1)], seed=7, http=True) as proxy:
        rh.config.register("s3", s3.settings(via=proxy.port))
        ...
        assert proxy.counts.faults["Flip"] == 1

Any TCP protocol goes through a plain proxy: positions count the bytes of one direction of one connection. With
`http=True` the proxy understands HTTP/1.1: positions count the bytes of a message's body, framing stays valid (a
truncated body has the length it claims), requests are counted by method, and there are faults of requests and answers.

What is hit depends on the seed, the fault's place in the plan and the request (method, path, and how often that came)
or the number of the connection, never on timing: the same work meets the same faults, in whatever order threads do it.
"""

from __future__ import annotations

from rh.testing.faults.damage import (
    Bandwidth,
    Cut,
    Delay,
    DropAnswer,
    Duplicate,
    Fault,
    Flip,
    Refuse,
    Repeat,
    Request,
    Status,
    Strike,
    Swallow,
    Truncate,
)
from rh.testing.faults.proxy import Counts, FaultProxy, Injected

__all__ = [
    "Bandwidth",
    "Counts",
    "Cut",
    "Delay",
    "DropAnswer",
    "Duplicate",
    "Fault",
    "FaultProxy",
    "Flip",
    "Injected",
    "Refuse",
    "Repeat",
    "Request",
    "Status",
    "Strike",
    "Swallow",
    "Truncate",
]
