"""The contestants that are Python libraries, as a user would call them.

`python -m benchmarks.programs NAME JOB RESULT` runs one: each function imports what it needs and returns what is to be
timed, so that the start of the interpreter and imports are in nobody's wall time; connections and clients are in it.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

THREADS = 16
_MIB = 1 << 20
_LARGE = 64 * _MIB

Go = Callable[[], dict[str, Any] | None]


class Job(NamedTuple):
    """One thing to do: `source` and `target` are paths or `bucket/prefix`, the systems say where; the URLs say it all.

    `again`: the target holds the same already.
    """

    source_system: str
    source: str
    source_url: str
    target_system: str
    target: str
    target_url: str
    again: bool = False
    ssh_config: str = ""

    @property
    def up(self) -> bool:
        return self.source_system == "local"


def _files(root: str) -> Iterator[tuple[str, str]]:
    """Path and name relative to the root, of every file below it."""
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            yield path, os.path.relpath(path, root)


def _local(root: str, name: str, made: set[str]) -> str:
    """The path of a file to be, its directory made."""
    path = os.path.join(root, name)
    directory = os.path.dirname(path)
    if directory not in made:
        os.makedirs(directory, exist_ok=True)
        made.add(directory)
    return path


def _ours(job: Job) -> None:
    """Import what a process that has used `rh` before has imported: a system loads its SDK on first use."""
    kinds = {"gs": "gcs", "ssh-a": "ssh"}
    sdks = {
        "gs": ("google.cloud.storage",),
        "azure": ("azure.storage.blob",),
    }
    systems = {job.source_system, job.target_system}
    places = [f"systems.{kinds.get(system, system)}" for system in systems]
    for name in ("transfer.run", "transfer.verify", "content", "systems.wrap", *places):
        package = importlib.import_module(f"rh.{name}")
        for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
            importlib.import_module(f"rh.{name}.{module.name}")
    for name in (
        "sqlite3",
        "msgspec",
        "pathspec",
        "tomllib",
        *(sdk for system in systems for sdk in sdks.get(system, ())),
    ):
        importlib.import_module(name)


def rh(job: Job) -> Go:
    _ours(job)
    from rh.systems import locate
    from rh.transfer import copy_tree

    def go() -> dict[str, Any]:
        receipt = copy_tree(locate(job.source_url), locate(job.target_url))
        return {"receipt": receipt.as_dict()}

    return go


def rh_alone(job: Job) -> Go:
    """Without a connection that another process left."""
    from rh import config

    for name in {job.source_system, job.target_system} - {"local"}:
        config.register(name, {**config.system(name), "persist_s": 0})
    return rh(job)


def rh_digest(job: Job) -> Go:
    _ours(job)
    from rh.systems import locate
    from rh.transfer import digest_tree

    return lambda: {"digest": digest_tree(locate(job.source_url))}


def _boto3(job: Job, go: Callable[[Any, str, str], None]) -> Go:
    import boto3
    import botocore.config

    bucket, _, prefix = (job.target if job.up else job.source).partition("/")
    config = botocore.config.Config(max_pool_connections=THREADS)
    return lambda: go(boto3.client("s3", config=config), bucket, prefix + "/")


def _keys(client: Any, bucket: str, prefix: str) -> Iterator[str]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", ()):
            yield found["Key"]


def boto3_threads(job: Job) -> Go:
    from s3transfer.manager import TransferConfig, TransferManager

    def go(client: Any, bucket: str, prefix: str) -> None:
        config = TransferConfig(
            max_request_concurrency=THREADS,
            max_submission_concurrency=THREADS,
            multipart_threshold=16 * _MIB,
            multipart_chunksize=16 * _MIB,
        )
        made: set[str] = set()
        with TransferManager(client, config) as manager:
            if job.up:
                futures = [manager.upload(path, bucket, prefix + name) for path, name in _files(job.source)]
            else:
                futures = [
                    manager.download(bucket, key, _local(job.target, key[len(prefix) :], made))
                    for key in _keys(client, bucket, prefix)
                ]
            for future in futures:
                future.result()

    return _boto3(job, go)


def boto3_loop(job: Job) -> Go:
    def go(client: Any, bucket: str, prefix: str) -> None:
        made: set[str] = set()
        if job.up:
            for path, name in _files(job.source):
                client.upload_file(path, bucket, prefix + name)
            return
        for key in _keys(client, bucket, prefix):
            client.download_file(bucket, key, _local(job.target, key[len(prefix) :], made))

    return _boto3(job, go)


def _gcs(job: Job, kind: str, workers: int) -> Go:
    import requests.adapters
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage
    from google.cloud.storage import transfer_manager

    place, _, prefix = (job.target if job.up else job.source).partition("/")

    def go() -> None:
        client = storage.Client(project="rh", credentials=AnonymousCredentials())
        # The default pool holds 10 connections.
        client._http.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=workers))  # noqa: SLF001
        bucket = client.bucket(place)
        if job.up:
            names = [name for _, name in _files(job.source)]
            done = transfer_manager.upload_many_from_filenames(
                bucket,
                names,
                source_directory=job.source,
                blob_name_prefix=prefix + "/",
                worker_type=kind,
                max_workers=workers,
            )
        else:
            blobs = list(client.list_blobs(place, prefix=prefix + "/"))
            big = [blob for blob in blobs if blob.size > _LARGE]
            os.makedirs(job.target, exist_ok=True)
            for blob in big:
                path = _local(job.target, blob.name[len(prefix) + 1 :], set())
                transfer_manager.download_chunks_concurrently(
                    blob, path, chunk_size=16 * _MIB, worker_type=kind, max_workers=workers
                )
            names = [blob.name[len(prefix) + 1 :] for blob in blobs if blob.size <= _LARGE]
            done = transfer_manager.download_many_to_path(
                bucket,
                names,
                destination_directory=job.target,
                blob_name_prefix=prefix + "/",
                worker_type=kind,
                max_workers=workers,
            )
        for result in done:
            if isinstance(result, Exception):
                raise result

    return go


def gcs_threads(job: Job) -> Go:
    return _gcs(job, "thread", THREADS)


def gcs_processes(job: Job) -> Go:
    return _gcs(job, "process", max(2, os.cpu_count() or 1))


def azure_threads(job: Job) -> Go:
    from azure.storage.blob import ContainerClient

    place, _, prefix = (job.target if job.up else job.source).partition("/")

    def go() -> None:
        container = ContainerClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"], place)
        made: set[str] = set()

        def up(pair: tuple[str, str]) -> None:
            path, name = pair
            size = os.path.getsize(path)
            with open(path, "rb") as file:
                container.upload_blob(
                    f"{prefix}/{name}",
                    file,
                    length=size,
                    overwrite=True,
                    max_concurrency=THREADS if size > _LARGE else 1,
                )

        def down(pair: tuple[str, int]) -> None:
            path, size = _local(job.target, pair[0][len(prefix) + 1 :], made), pair[1]
            with open(path, "wb") as file:
                container.download_blob(pair[0], max_concurrency=THREADS if size > _LARGE else 1).readinto(file)

        with ThreadPoolExecutor(THREADS) as pool, container:
            if job.up:
                list(pool.map(up, _files(job.source)))
            else:
                blobs = [(blob.name, blob.size) for blob in container.list_blobs(f"{prefix}/")]
                list(pool.map(down, blobs))

    return go


def copytree(job: Job) -> Go:
    import shutil

    return lambda: shutil.copytree(job.source, job.target) and None


PROGRAMS: dict[str, Callable[[Job], Go]] = {
    function.__name__: function
    for function in (
        rh,
        rh_alone,
        rh_digest,
        boto3_threads,
        boto3_loop,
        gcs_threads,
        gcs_processes,
        azure_threads,
        copytree,
    )
}


def main(name: str, job: str, result: str) -> None:
    """Run one program; `result` gets its wall time, the CPU seconds spent before it, and what it says of itself."""
    go = PROGRAMS[name](Job(*json.loads(job)))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    said = go() or {}
    wall = time.perf_counter() - begun
    with open(result, "w") as file:
        json.dump({"wall_s": wall, "cpu_before_s": usage.ru_utime + usage.ru_stime, **said}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
