"""A storm of STOW requests over a server that keeps dying, and what must be true when it is over."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from pydicom.uid import UID

from readingroom.clock import SetClock
from server.app import build_room
from server.room import Room
from server.settings import Settings
from storage.blobs import LocalBlobs
from storage.catalog import schema as t
from storage.catalog.engine import open_engine
from tests import multipart
from tests.servers import REPOSITORY, Live, environment, live_server
from tests.synthetic import ct_series, part10, pdf_document, text_report

CLIENTS = 4

AS_STORED = {"Accept": "application/dicom; transfer-syntax=*"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One instance on its way, and the study and series it is of."""

    study_uid: str
    series_uid: str
    instance_uid: str
    sha256: str
    body: bytes

    @property
    def path(self) -> str:
        return f"/studies/{self.study_uid}/series/{self.series_uid}/instances/{self.instance_uid}"


class Templates:
    """Makes instances by the thousand: a file made once, with other UIDs of the same length put in."""

    def __init__(self) -> None:
        self._uids = [self.uid() for _ in range(3)]
        study_uid, series_uid, instance_uid = self._uids
        self._files = []
        for dataset in (ct_series(1)[0], text_report(), pdf_document(bytes(9 << 20))):
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
            dataset.SOPInstanceUID = instance_uid
            dataset.file_meta.MediaStorageSOPInstanceUID = UID(instance_uid)
            self._files.append(part10(dataset))

    @staticmethod
    def uid() -> str:
        return f"2.25.{random.randrange(10**37, 10**38)}"

    def make(self, study_uid: str, series_uids: Sequence[str]) -> Sent:
        """A new instance: mostly a small image, now and then one without frames, seldom one that is spooled.

        Each kind has a series of its own, as instances of one series have one modality.
        """
        ((body, series_uid),) = random.choices([*zip(self._files, series_uids, strict=True)], weights=(80, 18, 2))
        uids = (study_uid, series_uid, self.uid())
        for old, new in zip(self._uids, uids, strict=True):
            body = body.replace(old.encode(), new.encode())
        return Sent(
            study_uid=study_uid,
            series_uid=series_uid,
            instance_uid=uids[2],
            sha256=hashlib.sha256(body).hexdigest(),
            body=body,
        )


@dataclass(slots=True)
class Storm:
    """Clients that send without pause, and a reader that checks what is visible."""

    base: str
    templates: Templates = field(default_factory=Templates)
    sent: dict[str, Sent] = field(default_factory=dict)
    acknowledged: dict[str, Sent] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    reads: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)
    _studies: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        for work in [self._send] * CLIENTS + [self._read]:
            thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        self.is_over.set()
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                self.faults.append("a request was never answered")

    def _guarded(self, work: Any) -> None:
        try:
            with httpx.Client(base_url=self.base, timeout=30) as client:
                work(client)
        except Exception as error:
            self.faults.append(f"{work.__name__}: {error!r}")

    def _send(self, client: httpx.Client) -> None:
        again: list[Sent] = []
        while not self.is_over.is_set():
            batch = again or self._batch()
            again = []
            body = multipart.encode(one.body for one in batch)
            try:
                response = client.post("/studies", content=body, headers={"Content-Type": multipart.content_type()})
            except httpx.TransportError:
                # No answer: it may be there or not. Most clients send again, with the same bytes.
                again = batch if random.random() < 0.7 else []
                continue
            if response.status_code == 200:
                named = {item["00081155"]["Value"][0] for item in response.json()["00081199"]["Value"]}
                if named != {one.instance_uid for one in batch}:
                    self.faults.append("an answer does not name what was stored")
                self.acknowledged |= {one.instance_uid: one for one in batch}
            elif response.status_code == 503:
                again = batch
                time.sleep(0.05)
            else:
                self.faults.append(f"{response.status_code}: {response.text[:300]} {response.headers.get('warning')}")

    def _batch(self) -> list[Sent]:
        # Few studies at a time, so that clients meet in one study; new ones now and then.
        if len(self._studies) < 6 or random.random() < 0.05:
            self._studies = [*self._studies[-8:], (Templates.uid(), tuple(Templates.uid() for _ in range(3)))]
        study_uid, series_uids = random.choice(self._studies)
        batch = [self.templates.make(study_uid, series_uids) for _ in range(random.randint(1, 5))]
        self.sent |= {one.instance_uid: one for one in batch}
        return batch

    def _read(self, client: httpx.Client) -> None:
        """What was acknowledged is there, and what is listed is whole: at every moment, not only at the end."""
        while not self.is_over.is_set():
            time.sleep(0.02)
            if not self.acknowledged:
                continue
            one = random.choice(list(self.acknowledged.values()))
            try:
                self._check_whole(client, one, "acknowledged")
                response = client.get(f"/studies/{one.study_uid}/instances", params={"limit": "100"})
                if response.status_code != 200:
                    self.faults.append(f"a search answers {response.status_code}: {response.text[:200]}")
                    continue
                listed = [row["00080018"]["Value"][0] for row in response.json()]
                self._check_whole(client, self.sent[random.choice(listed)], "listed")
            except httpx.TransportError:
                continue

    def _check_whole(self, client: httpx.Client, one: Sent, how: str) -> None:
        response = client.get(one.path, headers=AS_STORED)
        if response.status_code != 200 or hashlib.sha256(response.content).hexdigest() != one.sha256:
            self.faults.append(f"{how} and not whole: {one.path} {response.status_code} {response.text[:200]}")
        response = client.get(f"{one.path}/metadata")
        if response.status_code != 200 or response.json()[0]["00080018"]["Value"] != [one.instance_uid]:
            self.faults.append(f"{how} and without metadata: {one.path} {response.status_code}")
        self.reads += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Deaths:
    """How often a worker died where, and how many other workers lived then."""

    by_point: dict[str, int]
    survivors: list[int]


def deaths_in(notes: Path) -> Deaths:
    names = [path.name.partition(".")[0] for path in notes.iterdir() if "." in path.name]
    survivors = notes / "survivors"
    return Deaths(
        by_point={name: names.count(name) for name in sorted(set(names))},
        survivors=[int(line) for line in survivors.read_text().split()] if survivors.exists() else [],
    )


@contextmanager
def storm_over(
    data: Path, notes: Path, *, each: int, workers: int, settings: dict[str, str]
) -> Iterator[tuple[Live, Storm]]:
    """A server that dies `each` times at each point, under a storm that has begun."""
    notes.mkdir()
    module = ("tests.walks.crashing", str(notes), str(each))
    with live_server(data, workers=workers, settings=settings, module=module) as server:
        storm = Storm(server.dicomweb)
        storm.begin()
        try:
            yield server, storm
        finally:
            storm.end()


# -- what must be true afterwards ------------------------------------------------------------------------------


def check_archive(settings: Settings, storm: Storm) -> list[str]:
    """Open the archive as a restart would, a day later, and look at every row and every file; returns what is wrong."""
    with build_room(settings, clock=SetClock(datetime.now(UTC) + timedelta(days=1))) as room:
        return [
            *_check_rows(room, storm),
            *_check_counts(room),
            *_check_files(room),
        ]


def _check_rows(room: Room, storm: Storm) -> Iterator[str]:
    rows = room.query(lambda connection: connection.execute(sa.select(t.instance)).all())
    found = {row.instance_uid: row for row in rows}
    if len(found) != len(rows):
        yield f"{len(rows) - len(found)} instances have a second version, though no other bytes were ever sent"
    for uid in storm.acknowledged.keys() - found.keys():
        yield f"acknowledged and lost: {uid}"
    with_metadata = set(room.query(lambda c: c.execute(sa.select(t.instance_metadata.c.instance)).scalars().all()))
    for uid, row in found.items():
        sent = storm.sent.get(uid)
        if sent is None:
            yield f"nobody sent {uid}"
            continue
        stored = bytes(room.blobs.read_range(row.object_key, 0, row.size_bytes))
        digests = {sent.sha256, row.sha256.hex(), hashlib.sha256(stored).hexdigest()}
        if len(digests) > 1 or room.blobs.size(row.object_key) != row.object_bytes:
            yield f"not the bytes that were sent: {row.object_key}"
        if row.id not in with_metadata:
            yield f"no metadata: {uid}"


def _check_counts(room: Room) -> Iterator[str]:
    counted = (
        sa.select(
            t.study.c.study_uid,
            t.study.c.instance_count,
            t.study.c.series_count,
            sa.func.count(t.instance.c.id).label("instances"),
            sa.func.count(t.instance.c.series.distinct()).label("series"),
        )
        .outerjoin_from(t.study, t.instance, (t.instance.c.study == t.study.c.id) & t.instance.c.is_current)
        .group_by(t.study.c.id)
    )
    for row in room.query(lambda connection: connection.execute(counted).all()):
        if (row.instance_count, row.series_count) != (row.instances, row.series) or not row.instances:
            yield f"study {row.study_uid} counts {row.instance_count} instances and has {row.instances}"
    events = room.query(lambda connection: connection.execute(sa.select(t.event.c.study_uid)).scalars().all())
    studies = room.query(lambda connection: connection.execute(sa.select(t.study.c.study_uid)).scalars().all())
    for uid in set(studies) ^ set(events):
        yield f"a study without an event, or an event without a study: {uid}"


def _check_files(room: Room) -> Iterator[str]:
    named = set(room.query(lambda connection: connection.execute(sa.select(t.instance.c.object_key)).scalars().all()))
    lying = {key for key in room.blobs.keys("s/") if not key.endswith("zarr.json")}
    yield from (f"an orphan: {key}" for key in lying - named)
    opaque = {key.rpartition("/")[0] for key in named if "/o/" in key}
    documents = {key.rpartition("/")[0] for key in room.blobs.keys("s/") if key.endswith("/zarr.json")}
    described = {folder for folder in documents if folder.rpartition("/")[0].endswith("/o")}
    yield from (f"an opaque object and its zarr.json do not go together: {folder}" for folder in opaque ^ described)
    root = room.blobs.root if isinstance(room.blobs, LocalBlobs) else room.settings.data
    yield from (f"left behind: {path}" for path in (root / "tmp").rglob("*") if path.is_file())
    writers = room.query(lambda connection: connection.execute(sa.select(t.writer.c.id)).scalars().all())
    if len(writers) != 1:
        yield f"{len(writers) - 1} dead writers are still on the books"


def reindexed(settings: Settings, database: str) -> sa.Engine:
    """A new catalog made of the stored objects alone, by the operator's command."""
    command = [sys.executable, "-m", "server.cli", "reindex", "--data", str(settings.data), "--database", database]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return open_engine(database)


def catalog_of(engine: sa.Engine) -> dict[str, set[tuple[Any, ...]]]:
    """What a catalog says of what was received, without ids of its own and without what depends on grouping."""
    of_study, of_series = t.study.c.study_uid, t.series.c.series_uid
    tables: dict[str, tuple[sa.FromClause, Sequence[sa.ColumnElement[Any]]]] = {
        "patient": (t.patient, _columns(t.patient, "version received_at updated_at")),
        "study": (t.study, _columns(t.study, "patient version received_at updated_at settle_due_at settled_at")),
        "study_value": (t.study.join(t.study_value), [of_study, *_columns(t.study_value, "entity")]),
        "series": (
            t.study.join(t.series),
            [of_study, *_columns(t.series, "study version received_at")],
        ),
        "instance": (
            t.instance.join(t.series, t.instance.c.series == t.series.c.id)
            .join(t.zarr_array, t.instance.c.array == t.zarr_array.c.id)
            .join(t.instance_metadata, t.instance_metadata.c.instance == t.instance.c.id),
            [
                of_series,
                t.zarr_array.c.place,
                t.zarr_array.c.name,
                t.zarr_array.c.digest,
                t.zarr_array.c.spec,
                t.instance_metadata.c.json,
                *_columns(t.instance, "study series array"),
            ],
        ),
    }
    with engine.connect() as connection:
        return {
            name: {tuple(row) for row in connection.execute(sa.select(*columns).select_from(source))}
            for name, (source, columns) in tables.items()
        }


def _columns(table: sa.Table, without: str) -> list[sa.Column[Any]]:
    return [column for column in table.c if column.name not in {"id", *without.split()}]
