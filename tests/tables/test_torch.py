"""A table under PyTorch's DataLoader: workers and ranks share it, forked or spawned, epochs differ, and it resumes."""

from __future__ import annotations

import gc
import json
import multiprocessing
import pickle
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

import rh
from rh.errors import IntegrityError, InvalidError
from rh.systems import locate, open_system
from rh.systems.base import System
from rh.tables import writing
from rh.tables.base import Snapshot
from rh.tables.stream import Stream
from rh.tables.torch import TorchRows

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

Table = tuple[System, Snapshot]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """1,000 numbers with their halves and names, in row groups of 90."""
    system = open_system(locate(str(tmp_path / "table")))
    rows = pa.table({"n": range(1000), "half": [n / 2 for n in range(1000)], "name": [f"w{n}" for n in range(1000)]})
    return system, writing.write(system, rows.to_reader(), group_rows=90)


def numbers(batches) -> list[int]:
    return [n for batch in batches for n in batch["n"].tolist()]


def loader(rows: TorchRows, workers: int, method: str | None = None, **options) -> DataLoader:
    context = multiprocessing.get_context(method) if method else None
    return DataLoader(rows, batch_size=None, num_workers=workers, multiprocessing_context=context, **options)


def test_batches_are_tensors_and_lists_of_texts(table) -> None:
    first = next(iter(TorchRows(*table, 4)))
    assert {name: type(values) for name, values in first.items()} == {
        "n": torch.Tensor,
        "half": torch.Tensor,
        "name": list,
    }
    assert first["n"].dtype == torch.int64
    assert first["half"].tolist() == [0.0, 0.5, 1.0, 1.5]
    assert first["name"] == ["w0", "w1", "w2", "w3"]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (2, "spawn")])
@pytest.mark.parametrize("seed", [None, 5])
def test_workers_share_the_rows(table, workers: int, method: str | None, seed: int | None) -> None:
    """Each row comes once, while the parent streams the same table."""
    mine = Stream(*table, 10)
    next(mine)
    found = numbers(loader(TorchRows(*table, 32, shuffle_seed=seed), workers, method))
    assert sorted(found) == list(range(1000))
    assert (found == sorted(found)) == (seed is None and workers == 0)
    assert sum(batch.num_rows for batch in mine) == 990


@pytest.mark.slow
def test_ranks_and_their_workers_have_disjoint_shares(table, monkeypatch) -> None:
    """From the environment as torchrun sets it, or as arguments; with `drop_last` all give equally many batches."""
    found = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        found.append(numbers(loader(TorchRows(*table, 16, shuffle_seed=1), 2)))
    assert sorted(n for share in found for n in share) == list(range(1000))
    assert {len(share) for share in found} <= {333, 334}
    given = numbers(TorchRows(*table, 16, shuffle_seed=1, rank=0, world_size=1))
    assert sorted(given) == list(range(1000))
    even = [len(list(loader(TorchRows(*table, 16, drop_last=True, rank=r, world_size=3), 2))) for r in range(3)]
    assert len(set(even)) == 1
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(InvalidError, match="rank 3 is none of 3"):
        list(TorchRows(*table, 16))


@pytest.mark.slow
def test_torch_distributed_tells_the_rank(table, tmp_path) -> None:
    """And a spawned worker, which has no process group, is told."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/{uuid4().hex}", rank=0, world_size=1)
    try:
        assert sorted(numbers(loader(TorchRows(*table, 64), 1, "spawn"))) == list(range(1000))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_spawned_worker_reaches_a_system_that_only_its_parent_knows(world: dict[str, str]) -> None:
    """What the parent registered goes along, as to the workers of Dask and Ray."""
    table_ = rh.table({"n": list(range(100))}, path=f"{world['s3']}/torch").write()
    assert sorted(numbers(loader(table_.to_torch(10), 1, "spawn"))) == list(range(100))


@pytest.mark.slow
def test_rows_that_are_not_written_go_with_a_dataset_to_another_process() -> None:
    """A spawned worker cannot read this process's memory; a copy is not torn by the end of the first."""
    rows = rh.table({"n": list(range(100))}).to_torch(10, shuffle_seed=3)
    found = numbers(rows)
    sent = pickle.dumps(rows)
    state = rows.state_dict()
    assert sorted(numbers(loader(rows, 1, "spawn"))) == list(range(100))
    del rows
    gc.collect()
    copy = pickle.loads(sent)
    copy.load_state_dict(state)
    assert numbers(copy) == found
    stream = rh.table({"n": list(range(100))}).stream(30)
    assert [batch.num_rows for batch in pickle.loads(pickle.dumps(stream))] == [30, 30, 30, 10]


def test_epochs_have_orders_of_their_own(table) -> None:
    """Epoch 0 is the stream of that seed; workers that stay alive hear of a new epoch."""
    rows = TorchRows(*table, 50, shuffle_seed=9)
    first = numbers(rows)
    assert first == [n for batch in Stream(*table, 50, shuffle_seed=9) for n in batch["n"].to_pylist()]
    assert numbers(rows) == first
    rows.set_epoch(1)
    second = numbers(rows)
    assert second != first
    assert sorted(second) == sorted(first)
    rows.set_epoch(0)
    load = loader(rows, 1, "fork", persistent_workers=True)
    assert numbers(load) == first
    rows.set_epoch(1)
    assert numbers(load) == second
    del load


def test_it_resumes_behind_the_last_batch_of_the_same_epoch(table) -> None:
    rows = TorchRows(*table, 30, shuffle_seed=2)
    rows.set_epoch(4)
    whole = numbers(rows)
    going = iter(rows)
    before = numbers(next(going) for _ in range(7))
    state = json.loads(json.dumps(rows.state_dict()))
    going.close()
    again = TorchRows(*table, 30, shuffle_seed=2)
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert before + numbers(again) == whole
    assert again.state_dict()["stream"] is None
    assert numbers(again) == whole
    other = TorchRows(*table, 30)
    other.load_state_dict(state)
    with pytest.raises(InvalidError, match="another shuffle_seed"):
        next(iter(other))
    with pytest.raises(InvalidError, match="not the state"):
        again.load_state_dict({"epoch": 1})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 1}, "go together"),
        ({"rank": 2, "world_size": 2}, "rank 2 is none of 2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"columns": ["m"]}, "no column 'm'"),
    ],
)
def test_arguments_are_checked_at_once(table, options, said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        TorchRows(*table, **{"batch_size": 8, **options})


def test_an_error_in_a_worker_reaches_the_loop(table) -> None:
    """With its own type."""
    system, snapshot = table
    system.delete([file.key for file in snapshot.files])
    batches = iter(loader(TorchRows(system, snapshot, 8), 1, "fork"))
    with pytest.raises(IntegrityError, match="the table is damaged: this file is lost"):
        next(batches)
    batches._shutdown_workers()
