"""Disks that fail and fill, databases that go away: a clear answer, nothing lost, and on it goes once all is well."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydicom import FileDataset
from sqlalchemy import event as sa_event

from server import ingest
from server.room import Room
from storage.blobs import LocalBlobs
from storage.catalog import schema as t
from storage.catalog.engine import begin_write, open_engine
from tests import synthetic
from tests.conftest import absent
from tests.servers import Postgres, live_server
from tests.stow import AS_STORED, Answer, send, store
from tests.synthetic import ct_series, part10

OUT_OF_RESOURCES = 0xA700


def held(room: Room) -> set[str]:
    return set(room.query(lambda connection: connection.execute(sa.select(t.instance.c.instance_uid)).scalars().all()))


def object_keys(room: Room) -> list[str]:
    """The objects that rows name, each of an opaque one with its ``zarr.json``."""
    keys = room.query(lambda connection: connection.execute(sa.select(t.instance.c.object_key)).scalars().all())
    return sorted([*keys, *(key.replace("c.0", "zarr.json") for key in keys if "/o/" in key)])


def objects_and_leftovers(room: Room) -> list[str]:
    """The objects in the store and whatever else lies about that a finished request would not leave."""
    root = room.blobs.root if isinstance(room.blobs, LocalBlobs) else room.settings.data
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(path) for path in files if path.name != "zarr.json" or "o" in path.parts)


def failing(call: Callable[..., Any], number: int, *, after: int = 0) -> Callable[..., Any]:
    """The call, which fails with that error once it has been made `after` times."""
    made = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        made += 1
        if made > after:
            raise OSError(number, os.strerror(number))
        return call(*args, **kwargs)

    return wrapped


# -- one call fails --------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres")
@pytest.mark.parametrize("name", ["writev", "fdatasync", "fsync", "rename"])
@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EIO, 503)])
def test_a_call_that_fails_is_answered_clearly_and_loses_nothing(
    client: httpx.Client,
    room: Room,
    chest_ct: list[FileDataset],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    status: int,
) -> None:
    files = [*map(part10, chest_ct)]
    assert store(client, files[0]).status == 200
    before = objects_and_leftovers(room)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing(getattr(os, name), number))
        answer = store(client, *files[1:])
    assert answer.status == status
    assert answer.failed == {str(dataset.SOPInstanceUID): OUT_OF_RESOURCES for dataset in chest_ct[1:]}
    assert not answer.stored
    assert held(room) == {chest_ct[0].SOPInstanceUID}
    assert objects_and_leftovers(room) == before
    assert store(client, *files).status == 200
    assert held(room) == {dataset.SOPInstanceUID for dataset in chest_ct}


@pytest.mark.parametrize("name", ["writev", "fdatasync"])
def test_a_part_whose_bytes_cannot_be_written_fails_alone(
    client: httpx.Client, room: Room, chest_ct: list[FileDataset], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing(getattr(os, name), errno.ENOSPC, after=2))
        answer = store(client, *map(part10, chest_ct))
    assert answer.status == 202
    assert len(answer.stored) == 2
    assert list(answer.failed.values()) == [OUT_OF_RESOURCES] * 3
    assert held(room) == set(answer.stored)
    assert len(objects_and_leftovers(room)) == 2


def test_a_disk_that_fills_under_a_large_part_leaves_nothing_of_it(
    client: httpx.Client, room: Room, chest_ct: list[FileDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = part10(synthetic.pdf_document(bytes(20 << 20)))
    writev, written = os.writev, 0

    def half_then_fail(fd: int, buffers: list[memoryview]) -> int:
        nonlocal written
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = writev(fd, [buffers[0][: len(buffers[0]) // 2]])
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", half_then_fail)
        answer = store(client, large)
    assert answer.status == 507
    assert [*answer.failed.values(), *answer.unnamed_failures] == [OUT_OF_RESOURCES]
    assert objects_and_leftovers(room) == []
    assert store(client, large, part10(chest_ct[0])).status == 200


@pytest.mark.rooms("sqlite", "postgres")
@pytest.mark.parametrize("is_before", [True, False], ids=["before the commit", "after it"])
@pytest.mark.parametrize("times", [1, 99], ids=["once", "always"])
def test_a_commit_whose_answer_is_lost_ends_as_the_rows_say(
    client: httpx.Client,
    room: Room,
    chest_ct: list[FileDataset],
    monkeypatch: pytest.MonkeyPatch,
    is_before: bool,
    times: int,
) -> None:
    """Where the connection breaks at the commit, only the database knows whether it happened."""
    files = [*map(part10, chest_ct)]
    store(client, files[0])
    left = times

    @contextmanager
    def breaking(engine: sa.Engine) -> Iterator[sa.Connection]:
        nonlocal left
        left -= 1
        broken = sa.exc.OperationalError("COMMIT", {}, Exception("the connection broke"))
        with begin_write(engine) as connection:
            yield connection
            if is_before and left >= 0:
                raise broken
        if left >= 0:
            raise broken

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "begin_write", breaking)
        answer = store(client, *files[1:])
    assert answer.status in (200, 202, 503)
    assert set(answer.stored) <= held(room), "what is said to be stored is"
    assert objects_and_leftovers(room) == object_keys(room), "no object without its row, no row without its object"
    assert store(client, *files).status == 200
    assert held(room) == {dataset.SOPInstanceUID for dataset in chest_ct}
    assert objects_and_leftovers(room) == object_keys(room)
    for dataset, file in zip(chest_ct, files, strict=True):
        url = f"/dicomweb/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        assert client.get(f"{url}/instances/{dataset.SOPInstanceUID}", headers=AS_STORED).content == file


# -- the order of things ---------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres")
def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_row_and_the_row_before_the_answer(
    client: httpx.Client, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SIGKILL cannot show, because the page cache outlives it: the order in which things are made durable."""
    store(client, part10(ct_series(1)[0]))
    happened: list[tuple[str, str]] = []

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(first: Any, *rest: Any, **kwargs: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.path.abspath(first)
            result = real(first, *rest, **kwargs)
            # Others append meanwhile: what belongs together is appended together.
            named = [("named", os.path.abspath(rest[0]))] if name == "rename" else []
            happened.extend([(name, path), *named])
            return result

        return call

    for name in ("writev", "fsync", "fdatasync", "rename"):
        monkeypatch.setattr(os, name, watched(name))

    def committed(*_: Any) -> None:
        happened.append(("commit", ""))

    @sa_event.listens_for(room.engine, "after_cursor_execute")
    def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement == "COMMIT":
            committed()
        elif "INSERT INTO instance " in statement:
            happened.append(("row", ""))

    sa_event.listen(room.engine, "commit", committed)
    assert store(client, *map(part10, ct_series(3))).status == 200
    happened.append(("answer", ""))
    monkeypatch.undo()

    def when(what: str, path: str) -> int:
        return next(i for i, one in enumerate(happened) if one == (what, path))

    def last(what: str) -> int:
        return max(i for i, (name, _) in enumerate(happened) if name == what)

    named = [path for what, path in happened if what == "named"]
    assert len(named) == 3
    for i, (what, path) in enumerate(happened):
        if what == "rename":
            assert last_of(happened, "writev", path) < i
            # Its bytes go to the disk under its old name or already under the new one, and before its row in any case.
            synced = [
                j for j, one in enumerate(happened) if one in (("fdatasync", path), ("fdatasync", happened[i + 1][1]))
            ]
            assert last_of(happened, "writev", path) < synced[0] < happened.index(("row", ""))
        elif what == "named":
            folder = str(Path(path).parent)
            synced = next(j for j, one in enumerate(happened) if j > i and one == ("fsync", folder))
            assert synced < last("row") < last("commit") < when("answer", "")
            created = [j for j, one in enumerate(happened[:synced]) if one == ("fsync", str(Path(folder).parent))]
            assert created, "the folder of a new series is a name in the folder above"


def last_of(happened: list[tuple[str, str]], what: str, path: str) -> int:
    return max(i for i, one in enumerate(happened) if one == (what, path))


# -- the disk is full ------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size, in memory."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        absent("the right to mount a small file system (run the tests as root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_until_refused(client: httpx.Client, acknowledged: dict[str, bytes]) -> Answer:
    """Store series after series until an instance is refused."""
    for _ in range(200):
        datasets = ct_series(4, rows=256, columns=256)
        files = {str(dataset.SOPInstanceUID): part10(dataset) for dataset in datasets}
        response = send(client, files.values())
        assert response.status_code in (200, 202, 503, 507), response.text
        answer = Answer(response.status_code, response.json())
        acknowledged |= {uid: files[uid] for uid in answer.stored}
        if answer.status != 200:
            assert response.headers["warning"]
            return answer
    raise AssertionError("a disk of a few megabytes never filled")


def read_back(client: httpx.Client, acknowledged: dict[str, bytes]) -> None:
    rows = client.get("/dicomweb/instances", params={"limit": "1000"}).json() if acknowledged else []
    found = {row["00080018"]["Value"][0]: row for row in rows}
    assert found.keys() == acknowledged.keys()
    for uid, file in acknowledged.items():
        study, series = found[uid]["0020000D"]["Value"][0], found[uid]["0020000E"]["Value"][0]
        url = f"/dicomweb/studies/{study}/series/{series}/instances/{uid}"
        assert client.get(url, headers=AS_STORED).content == file


@pytest.mark.parametrize("what", ["all of it", "the catalog alone"])
def test_a_disk_that_fills_refuses_clearly_and_serves_on_once_there_is_space(tmp_path: Path, what: str) -> None:
    acknowledged: dict[str, bytes] = {}
    with small_disk(tmp_path / "disk", "9m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(4 << 20))
        is_all = what == "all of it"
        data = disk / "data" if is_all else tmp_path / "data"
        settings = {} if is_all else {"database": f"sqlite:///{disk}/catalog.sqlite"}
        with (
            live_server(data, settings=settings) as server,
            httpx.Client(base_url=server.base, timeout=60) as client,
        ):
            refused = fill_until_refused(client, acknowledged)
            assert {*refused.failed.values(), *refused.unnamed_failures} == {OUT_OF_RESOURCES}
            assert acknowledged
            read_back(client, acknowledged)
            ballast.unlink()
            for _ in range(3):
                dataset = ct_series(1)[0]
                assert store(client, part10(dataset)).status == 200
                acknowledged[str(dataset.SOPInstanceUID)] = part10(dataset)
            read_back(client, acknowledged)
            assert server.process.poll() is None
        with live_server(data, settings=settings) as server, httpx.Client(base_url=server.base, timeout=60) as client:
            read_back(client, acknowledged)


# -- the database goes away ------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_a_database_that_goes_away_and_comes_back_costs_no_restart(
    tmp_path: Path, postgres: Postgres, postgres_url: str
) -> None:
    first, second, third = (ct_series(1)[0] for _ in range(3))
    with (
        live_server(tmp_path / "data", settings={"database": postgres_url}) as server,
        httpx.Client(base_url=server.base, timeout=60) as client,
    ):
        assert store(client, part10(first)).status == 200
        postgres.cut_off(postgres_url)
        for _ in range(2):
            answer = store(client, part10(second))
            assert answer.status == 503
            assert [*answer.failed.values(), *answer.unnamed_failures] == [OUT_OF_RESOURCES]
        assert client.get("/readyz").status_code == 503
        assert client.get("/dicomweb/instances").status_code == 503
        assert client.get("/healthz").status_code == 200
        postgres.let_in(postgres_url)
        assert store(client, part10(second), part10(third)).status == 200
        listed = {row["00080018"]["Value"][0] for row in client.get("/dicomweb/instances").json()}
    assert listed == {one.SOPInstanceUID for one in (first, second, third)}


def test_an_error_of_the_database_names_no_patient(room: Room, postgres_url: str) -> None:
    """What SQLAlchemy raises goes to the log: without the values that were asked for."""
    for url in (str(room.engine.url), postgres_url):
        engine = open_engine(url)
        statement = sa.text("SELECT * FROM no_such_table WHERE patient_id = :patient_id")
        with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError) as caught:
            connection.execute(statement, {"patient_id": "SECRET-ID"})
        assert "SECRET" not in str(caught.value)
        engine.dispose()
