"""What the far program does with hosts that it can log in to by itself: bytes go from one to the other.

It streams itself there, as the near side did to it, and pumps packs.

This module runs on the far side: standard library only, Python 3.7 or newer.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import threading
import time

from rh.systems.far.files import Root
from rh.systems.far.flush import write_all
from rh.systems.far.program import batches, pack, unpack
from rh.systems.far.wire import (
    BOOTSTRAP,
    END,
    ERR,
    ITEMS,
    OK,
    OUT,
    PING,
    PROTOCOL,
    REQ,
    Failure,
    Wire,
    dump_items,
    dumps,
    loads,
)
from rh.systems.far.writer import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Peer:
    """The far program on another host, by this host's own `ssh`, keys and known hosts."""

    def __init__(self, place: list[Any], python: str, timeout_s: float, program: bytes) -> None:
        host, port, user = place
        command = ["ssh", "-p", str(port)] + (["-l", user] if user else [])
        wait = str(max(1, int(timeout_s)))
        for option in (
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "ForwardAgent=no",
            "ForwardX11=no",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
            "RequestTTY=no",
            "RemoteCommand=none",
            "ControlMaster=no",
            "LogLevel=ERROR",
            "ConnectTimeout=" + wait,
            "ServerAliveInterval=" + str(max(1, int(timeout_s / 3))),
        ):
            command += ["-o", option]
        self.timeout_s = timeout_s
        self.child = None
        try:
            command += _cipher([*command, "--", host], timeout_s)
            self.child = subprocess.Popen(
                [*command, "--", host, f"exec {shlex.quote(python)} -I -S -c '{BOOTSTRAP}'"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise Failure("unsupported", "there is no ssh client on this host") from None
        try:
            self._begin(program)
        except BaseException:
            self.close()
            raise

    def _begin(self, program: bytes) -> None:
        child: Any = self.child
        marker = os.urandom(16).hex().encode()
        source, sink = child.stdout.fileno(), child.stdin.fileno()
        until = time.monotonic() + self.timeout_s
        try:
            write_all(sink, b"%d %s 2\n" % (len(program), marker))
            write_all(sink, program)
        except BrokenPipeError:
            pass  # what it has said, or not, is read below
        seen = b""
        while not seen.endswith(b"\n" + marker + b"\n"):
            left = until - time.monotonic()
            if left <= 0 or len(seen) > 1 << 20 or not select.select([source], [], [], left)[0]:
                raise Failure("unavailable", "the other host does not answer")
            byte = os.read(source, 1)
            if not byte:
                raise Failure("unavailable", "this host cannot log in to the other one")
            seen += byte
        self.wire = Wire(source, sink)
        kind, greeting = self.recv()
        info = loads(greeting)
        if kind != OK or info[0] != PROTOCOL:
            raise Failure("unavailable", "the other host speaks another protocol")
        self.identity = info[5]

    def request(self, name: str, *args: Any) -> None:
        """Begin a conversation."""
        self.wire.send(REQ, dumps([name, list(args)]))

    def recv(self) -> tuple[int, memoryview]:
        """The next frame; an error the other host tells is raised."""
        while True:
            if not self.wire.ready(self.timeout_s):
                raise Failure("deadline", "the other host gives no sign of life")
            try:
                kind, payload = self.wire.recv()
            except EOFError:
                raise Failure("unavailable", "the connection between the hosts was lost") from None
            if kind == ERR:
                raise Failure(*loads(payload))
            if kind != PING:
                return kind, payload

    def close(self) -> None:
        """End it."""
        child = self.child
        if child is not None and child.stdin and child.stdout:
            child.stdin.close()
            child.stdout.close()
            child.terminate()
            child.wait()


def _cipher(command: list[str], timeout_s: float) -> list[str]:
    """Put the fastest cipher first among those this host would use."""
    fast = "aes128-gcm@openssh.com"
    try:
        done = subprocess.run(
            [*command[:1], "-G", *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return []
    found = re.search(rb"^ciphers (\S+)$", done.stdout, re.MULTILINE)
    names = found.group(1).decode().split(",") if found else []
    return ["-c", ",".join([fast] + [name for name in names if name != fast])] if fast in names else []


def reach(wire: Wire, place: list[Any], python: str, timeout_s: float, identity: bytes) -> Any:
    """Whether this host can log in to the other one, and that is the very machine and login the near side means."""
    try:
        peer = Peer(place, python, timeout_s, wire.program)
    except Failure:
        return False
    peer.close()
    return peer.identity == identity


def direct(
    wire: Wire,
    root: bytes,
    place: list[Any],
    other: bytes,
    away: bool,  # noqa: FBT001 - a request's fields
    flush: bool,  # noqa: FBT001
    python: str,
    timeout_s: float,
) -> None:
    """`Direct.send_to` and `receive_from`: items are as `pack` takes them."""
    peer = Peer(place, python, timeout_s, wire.program)
    try:
        if away:
            _send_away(wire, Root(root, follow=True), peer, other, flush=flush)
        else:
            _receive(wire, Root(root), peer, other, flush=flush)
    finally:
        peer.close()


def _send_away(wire: Wire, here: Root, peer: Peer, other: bytes, *, flush: bool) -> None:
    peer.request("write_many", other, flush)
    errors: list[BaseException] = []

    def forward() -> None:
        try:
            while True:
                kind, payload = peer.recv()
                if kind == OK:
                    return
                wire.send(OUT, bytes(payload))
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        for items in batches(wire):
            for frame in pack(here, items):
                peer.wire.send(*frame)
            if errors:
                raise errors[0]
        peer.wire.send(END)
    except BrokenPipeError:
        thread.join(1)
        raise (errors[0] if errors else Failure("unavailable", "the connection between the hosts was lost")) from None
    finally:
        here.close()
    thread.join()
    if errors:
        raise errors[0]


def _receive(wire: Wire, here: Root, peer: Peer, other: bytes, *, flush: bool) -> None:
    peer.request("read_many", other)
    errors: list[BaseException] = []

    def forward() -> None:
        try:
            for items in batches(wire):
                peer.wire.send(ITEMS, dump_items(items))
            peer.wire.send(END)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
            if peer.child is not None:
                peer.child.terminate()

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    writer = Writer(here, lambda records: wire.send(OUT, records), flush=flush)

    def recv() -> tuple[int, memoryview]:
        kind, payload = peer.recv()
        return (END if kind == OK else kind), payload

    try:
        unpack(writer, recv, peer.wire.waiting)
        thread.join()
    except Failure:
        if errors:
            raise errors[0] from None
        raise
    finally:
        writer.abort()
        here.close()
