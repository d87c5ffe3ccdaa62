"""The one way an image enters: STOW-RS, import and C-STORE all call `Ingest`.

An object is *staged* (hashed, scanned, written and synced under the writer's own folder) on whichever thread brings it,
and then *committed* in a group by one thread: slots, renames, one sync for each touched folder, one database
transaction. Acknowledged means that the transaction has returned. What a crash leaves behind is found from the
writer's expired lease and removed by `sweep`.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import queue
import shutil
import socket
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Literal, TypedDict

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from readingroom.clock import Clock
from readingroom.errors import (
    Conflict,
    Invalid,
    NotDicom,
    NotFound,
    NotThisStudy,
    OutOfSpace,
    ReadingRoomError,
    TooLarge,
    Unavailable,
)
from server.settings import Settings
from storage import opaque
from storage.blobs import Blobs, LocalBlobs, Staged, meaning_of
from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.studies import (
    Received,
    Recorded,
    Result,
    ensure_facility,
    find_current,
    record_instances,
    refusal,
    series_place,
)
from storage.catalog.writers import OPAQUE, ArrayKey, LeaseLost, Slot, Writer, forget, leftovers, take_expired
from storage.dicomjson import dump
from storage.objects import ArraySpec, Description, Scan, make_trailer, read_description, scan

log = logging.getLogger(__name__)

Body = bytes | bytearray | memoryview

_IN_MEMORY = 8 << 20
_COPY = 1 << 20
_GROUP = 512
_IDENTITY: tuple[tuple[str, Literal["study_uid", "series_uid", "instance_uid", "sop_class"], str], ...] = (
    ("0020000D", "study_uid", "Study Instance UID"),
    ("0020000E", "series_uid", "Series Instance UID"),
    ("00080018", "instance_uid", "SOP Instance UID"),
    ("00080016", "sop_class", "SOP Class UID"),
)
_HEARTBEAT_SECONDS = 20.0


class Identity(TypedDict, total=False):
    """The UIDs by which an object is known; empty as long as they could not be read."""

    study_uid: str
    series_uid: str
    instance_uid: str
    sop_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A staged instance: safe on disk, in no slot and in no table yet."""

    study_uid: str
    series_uid: str
    instance_uid: str
    sop_class: str
    scan: Scan
    description: Description
    metadata_zlib: bytes
    path: Path
    object_bytes: int
    zarr_json: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one object sent; either `result` or `error`. UIDs are None where they could not be read."""

    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    sop_class: str | None = None
    result: Result | None = None
    error: ReadingRoomError | None = None


class Spool:
    """A body that is too large for memory, written to the writer's folder as it arrives and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, data: Body) -> None:
        """Append; raises `OutOfSpace` where the disk is full."""
        self._hash.update(data)
        with _disk_errors():
            _write_all(self._fd, [data])
        self.size += len(data)

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    def finish(self, trailer: bytes) -> None:
        """Append the trailer and wait for the disk."""
        if trailer:
            _write_all(self._fd, [trailer])
        _sync(self._fd)
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        self.close()
        with suppress(FileNotFoundError):
            self.path.unlink()


@dataclass(frozen=True, slots=True)
class _Request:
    ready: Sequence[Ready]
    done: Future[list[Outcome]]


class Ingest:
    """Stages objects on any thread and commits them in groups on its own."""

    def __init__(self, *, engine: sa.Engine, blobs: Blobs, clock: Clock, settings: Settings) -> None:
        self._engine = engine
        self._blobs = blobs
        self._clock = clock
        self._settings = settings
        root = blobs.root if isinstance(blobs, LocalBlobs) else settings.data
        self._tmp = root / "tmp"
        self._arrays: set[str] = set()
        self._facilities: set[str] = set()
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._start_writer()
        self.sweep()
        self._committer = threading.Thread(target=self._commit_loop, name="committer", daemon=True)
        self._committer.start()

    # -- staging: any thread ------------------------------------------------------------------------------------

    def open_spool(self) -> Spool:
        """A file for a body of unknown or large size."""
        with _disk_errors():
            return Spool(self._folder / t.new_id())

    def stage(
        self,
        body: Body | Path | Spool,
        *,
        facility: str,
        source: str,
        study_uid: str | None = None,
    ) -> Ready | Outcome:
        """Make one object safe on disk and know everything of it that the catalog will say.

        Parameters
        ----------
        body
            The Part 10 file: in memory, as a file of somebody else's (left untouched), or a filled `Spool` (taken).
        study_uid
            The study it was sent for, where it was sent for one.

        Returns
        -------
        Ready or Outcome
            What `commit` takes; or the outcome, with its error, of an object that cannot be kept.
        """
        spool: Spool | None = None
        known = Identity()
        try:
            if isinstance(body, Path):
                body = self._take_file(body)
            spool = body if isinstance(body, Spool) else None
            found = _scan_file(body.path) if isinstance(body, Spool) else scan(body)
            known = identity(found)
            if study_uid is not None and known["study_uid"] != study_uid:
                raise NotThisStudy(f"The object is of study {known['study_uid']}, and was sent to {study_uid}.")
            sha256 = body.sha256 if isinstance(body, Spool) else hashlib.sha256(body).digest()
            version, held = self._held(facility, known["instance_uid"])
            if held == sha256:
                if spool is not None:
                    spool.discard()
                return Outcome(**known, result="identical")
            description = Description(
                size=found.size,
                sha256=sha256.hex(),
                owner_facility=facility,
                source=source,
                received_at=self._clock.now(),
                version=version + 1,
            )
            return self._write(body, found, known, description)
        except (ReadingRoomError, DBAPIError) as error:
            if spool is not None:
                spool.discard()
            return Outcome(**known, error=_without_frames(_meaning_of(error)))
        except BaseException:
            if spool is not None:
                spool.discard()
            raise

    def _write(self, body: Body | Spool, found: Scan, known: Identity, description: Description) -> Ready:
        trailer = make_trailer(found, description) if found.spec else b""
        zarr_json = None
        with _disk_errors():
            if isinstance(body, Spool):
                path = body.path
                body.finish(trailer)
            else:
                path = self._write_synced([body, trailer])
            if not found.spec:
                zarr_json = self._write_synced([orjson.dumps(opaque.zarr_json(found, description))])
        return Ready(
            **known,
            scan=found,
            description=description,
            metadata_zlib=zlib.compress(dump(found.metadata), 1),
            path=path,
            object_bytes=found.size + len(trailer),
            zarr_json=zarr_json,
        )

    def discard(self, ready: Ready) -> None:
        """Remove what was staged and will not be committed."""
        for path in (ready.path, ready.zarr_json):
            if path is not None:
                path.unlink(missing_ok=True)

    def _write_synced(self, pieces: list[Body]) -> Path:
        path = self._folder / t.new_id()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _write_all(fd, pieces)
            _sync(fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise
        finally:
            os.close(fd)
        return path

    def _take_file(self, path: Path) -> bytes | Spool:
        """The bytes of somebody's file: in memory where small, else copied to a spool."""
        with _reading():
            size = path.stat().st_size
            if size <= min(_IN_MEMORY, self._settings.max_object_bytes):
                return path.read_bytes()
        if size > self._settings.max_object_bytes:
            raise TooLarge(f"The file has {size} bytes; at most {self._settings.max_object_bytes} are taken.")
        spool = self.open_spool()
        try:
            with _reading(), path.open("rb") as file:
                while piece := file.read(_COPY):
                    with _disk_errors():
                        spool.write(piece)
        except BaseException:
            spool.discard()
            raise
        return spool

    def _held(self, facility: str, instance_uid: str) -> tuple[int, bytes]:
        """Version and sha256 of the instance that the facility has; 0 and nothing where it has none."""
        with self._engine.connect() as connection:
            return find_current(connection, facility, (instance_uid,)).get(instance_uid, (0, b""))

    # -- committing: one thread ---------------------------------------------------------------------------------

    def commit(self, ready: Sequence[Ready]) -> Future[list[Outcome]]:
        """Commit staged instances; the future's outcomes, in their order, are durable when it is done.

        The future never raises: what could not be committed has an outcome with an error.
        """
        done: Future[list[Outcome]] = Future()
        done.set_running_or_notify_cancel()  # whoever stops waiting cannot take it back
        self._queue.put(_Request(ready, done))
        return done

    def store(
        self, objects: Iterable[Body | Path], *, facility: str, source: str, threads: int = 4
    ) -> Iterator[Outcome]:
        """Stage and commit many objects, in their order; each outcome is durable when it is yielded."""

        def staged(body: Body | Path) -> Ready | Outcome:
            return self.stage(body, facility=facility, source=source)

        bodies = iter(objects)
        with ThreadPoolExecutor(threads, thread_name_prefix="store") as pool:
            while group := list(pool.map(staged, islice(bodies, 64))):
                ready = [one for one in group if isinstance(one, Ready)]
                outcomes = iter(self.commit(ready).result() if ready else ())
                for one in group:
                    yield one if isinstance(one, Outcome) else next(outcomes)

    def close(self) -> None:
        """Commit what is queued and give the lease back."""
        self._queue.put(None)
        self._committer.join()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer.close()

    def _commit_loop(self) -> None:
        is_open = True
        while is_open:
            requests: list[_Request] = []
            try:
                request = self._queue.get(timeout=_HEARTBEAT_SECONDS)
                while request is not None:
                    requests.append(request)
                    if sum(len(r.ready) for r in requests) >= _GROUP:
                        break
                    request = self._queue.get_nowait()
                is_open = request is not None
            except queue.Empty:
                pass
            try:
                if requests:
                    self._commit_group(requests)
                else:
                    self._writer.renew(self._clock.now())
            except Exception as error:
                # The worker loop: whatever it was, those who wait are told, and the next group gets its chance.
                log.exception("a group could not be committed")
                if isinstance(error, LeaseLost):
                    self._replace_writer()
                meaning = _meaning_of(error)
                for request in requests:
                    request.done.set_result([_outcome(one, meaning) for one in request.ready])

    def _commit_group(self, requests: Sequence[_Request]) -> None:
        ready = [one for request in requests for one in request.ready]
        outcomes = iter(self._commit_all(ready))
        for request in requests:
            request.done.set_result(list(islice(outcomes, len(request.ready))))

    def _commit_all(self, ready: Sequence[Ready]) -> list[Outcome]:
        now = self._clock.now()
        received = self._publish(ready, now)
        recorded: list[Recorded | ReadingRoomError]
        try:
            recorded = [*self._record(received, now)]
        except DBAPIError as error:
            # One bad row must not spoil its neighbours: each alone, in a transaction of its own.
            log.warning("a group of %d is committed one by one: %s", len(received), type(error).__name__)
            recorded = [self._record_alone(one, now) for one in received]
        for one, result in zip(received, recorded, strict=True):
            self._clean_up(one, result)
        return [_outcome(one, result) for one, result in zip(ready, recorded, strict=True)]

    def _record_alone(self, one: Received, now: datetime) -> Recorded | ReadingRoomError:
        try:
            return self._record([one], now)[0]
        except (DBAPIError, ReadingRoomError) as error:
            return _meaning_of(error)

    def _publish(self, ready: Sequence[Ready], now: datetime) -> list[Received]:
        """Give each instance its slot and move its object there."""
        keys = [
            ArrayKey(
                place=series_place(one.description.owner_facility, one.study_uid, one.series_uid),
                digest=one.scan.spec.digest() if one.scan.spec else "",
            )
            for one in ready
        ]
        counts = Counter(keys)
        specs = {key: _spec_json(one.scan.spec) for key, one in zip(keys, ready, strict=True)}
        slots = self._writer.reserve({key: (specs[key], counts[key]) for key in counts}, now)
        takers = {key: iter(found) for key, found in slots.items()}
        received: list[Received] = []
        staged: list[Staged] = []
        for key, one in zip(keys, ready, strict=True):
            slot = next(takers[key])
            self._describe_array(key, slot, one)
            received.append(_received(one, key, slot))
            staged.append(Staged(path=one.path, key=received[-1].object_key, size_bytes=one.object_bytes))
            if one.zarr_json is not None:
                folder = received[-1].object_key.rpartition("/")[0]
                staged.append(Staged(path=one.zarr_json, key=f"{folder}/zarr.json", size_bytes=0))
        try:
            self._blobs.publish(staged)
        except ReadingRoomError:
            for waiting in staged:
                with suppress(OSError, ReadingRoomError):
                    if waiting.path.exists():  # its key is not ours: it may hold somebody else's object
                        waiting.path.unlink()
                    else:
                        self._blobs.delete(waiting.key)
            raise
        return received

    def _describe_array(self, key: ArrayKey, slot: Slot, one: Ready) -> None:
        """Write the `zarr.json` of a new array and of its series; they can be made again, so nothing waits for them."""
        if slot.array_id in self._arrays:
            return
        spec = one.scan.spec
        group = {
            "study_uid": one.study_uid,
            "series_uid": one.series_uid,
            "owner_facility": one.description.owner_facility,
        }
        documents = {
            f"{key.place}/zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": {"dicom": group}},
            f"{key.place}/{slot.array_name}/zarr.json": (
                spec.zarr_json(slot.number + 1, {}) if spec else {"zarr_format": 3, "node_type": "group"}
            ),
        }
        for name, document in documents.items():
            try:
                self._blobs.size(name)
            except NotFound:
                self._blobs.put(name, orjson.dumps(document), durable=False)
        if len(self._arrays) > 100_000:
            self._arrays.clear()
        self._arrays.add(slot.array_id)

    def _record(self, received: Sequence[Received], now: datetime) -> list[Recorded]:
        """The transaction that makes a group visible."""
        with begin_write(self._engine) as connection:
            self._writer.hold(connection, now)
            for facility in {one.owner_facility for one in received} - self._facilities:
                ensure_facility(connection, facility)
            recorded = record_instances(
                connection,
                received,
                now=now,
                settle_due_at=now + timedelta(seconds=self._settings.settle_seconds),
                duplicates=self._settings.duplicates,
            )
        self._facilities |= {one.owner_facility for one in received}
        return recorded

    def _clean_up(self, one: Received, recorded: Recorded | ReadingRoomError) -> None:
        """Remove an object that no row names. Where the answer of a commit was lost, the rows decide."""
        if isinstance(recorded, Recorded) and not recorded.is_superfluous:
            return
        with suppress(ReadingRoomError, DBAPIError):
            if self._is_recorded(one.object_key):
                return
            self._blobs.delete(one.object_key)
            if one.opaque_reason:
                self._blobs.delete(one.object_key.rpartition("/")[0] + "/zarr.json")

    def _is_recorded(self, object_key: str) -> bool:
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(t.instance.c.id).where(t.instance.c.object_key == object_key))
            return found.one_or_none() is not None

    # -- writers ------------------------------------------------------------------------------------------------

    def _start_writer(self) -> None:
        self._writer = Writer(self._engine, self._clock.now())
        self._folder = self._tmp / self._writer.id
        self._folder.mkdir(parents=True)

    def _replace_writer(self) -> None:
        """Go on as a new writer after the lease was lost."""
        with suppress(DBAPIError, OSError):
            self._start_writer()

    def sweep(self) -> int:
        """Remove what writers that died left behind; returns how many objects and files that was.

        An object that was received after its writer's lease had ended stays: then the catalog is older than its store
        (restored from a backup), and what it does not know is no leftover. `readingroom reindex` finds it again.
        """
        removed = 0
        for expired in take_expired(self._engine, self._clock.now(), own=self._writer.id, is_dead=_is_dead_here):
            folder = self._tmp / expired.id
            removed += sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
            shutil.rmtree(folder, ignore_errors=True)
            with self._engine.connect() as connection:
                left = leftovers(connection, expired.id)
            for one in left:
                keys = _keys_of(one.place, one.array_name, one.spec, one.slot)
                received_at = self._received_at(keys)
                if received_at is not None and received_at > expired.lease_until:
                    log.warning("%s is not in the catalog, yet no leftover: run `readingroom reindex`", keys[0])
                    continue
                for key in keys:
                    with suppress(NotFound):
                        self._blobs.size(key)
                        self._blobs.delete(key)
                        removed += 1
            forget(self._engine, expired.id)
        return removed

    def _received_at(self, keys: Sequence[str]) -> datetime | None:
        """When the object under `keys` says that it was received; None where there is none, or none that is whole."""
        try:
            if len(keys) > 1:
                return opaque.read_description(orjson.loads(self._blobs.read(keys[1]))).received_at

            def read_at(offset: int, length: int) -> bytes:
                return bytes(self._blobs.read_range(keys[0], offset, length))

            return read_description(read_at, self._blobs.size(keys[0])).received_at
        except (NotFound, Invalid, orjson.JSONDecodeError):
            return None


def _scan_file(path: Path) -> Scan:
    """Scan a file through a map: only the pages that the scan touches are read."""
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise NotDicom("The object is empty.") from None
        with mapped:
            return scan(mapped)


def identity(found: Scan) -> Identity:
    """The UIDs by which an object is known; `NotDicom` where one is missing."""
    known = Identity()
    for tag, field, name in _IDENTITY:
        value = (found.metadata.get(tag, {}).get("Value") or [None])[0]
        if not isinstance(value, str) or not value:
            raise NotDicom(f"The object has no {name} ({tag[:4]},{tag[4:]}).")
        known[field] = value
    return known


def _spec_json(spec: ArraySpec | None) -> bytes:
    return orjson.dumps(asdict(spec)) if spec else b"{}"


def _keys_of(place: str, array_name: str, spec: dict[str, object], slot: int) -> list[str]:
    """The keys of the object in a slot."""
    if array_name == OPAQUE:
        return [f"{place}/{OPAQUE}/{slot}/{opaque.CHUNK}", f"{place}/{OPAQUE}/{slot}/zarr.json"]
    return [f"{place}/{array_name}/{ArraySpec(**spec).chunk_key(slot)}"]  # type: ignore[arg-type]


def _received(one: Ready, key: ArrayKey, slot: Slot) -> Received:
    found = one.scan
    chunks = found.chunks
    spec: dict[str, object] = asdict(found.spec) if found.spec else {}
    return Received(
        owner_facility=one.description.owner_facility,
        study_uid=one.study_uid,
        series_uid=one.series_uid,
        instance_uid=one.instance_uid,
        transfer_syntax=found.transfer_syntax,
        metadata=found.metadata,
        metadata_zlib=one.metadata_zlib,
        sha256=bytes.fromhex(one.description.sha256),
        size_bytes=found.size,
        object_key=_keys_of(key.place, slot.array_name, spec, slot.number)[0],
        object_bytes=one.object_bytes,
        array_id=slot.array_id,
        slot=slot.number,
        opaque_reason=found.opaque_reason,
        chunk_count=len(chunks),
        chunk_offset=chunks[0][0] if len(chunks) else 0,
        chunk_length=chunks[0][1] if len(chunks) else 0,
        chunk_stride=chunks[0][1] if len(chunks) > 1 and found.spec and found.spec.encoding == "native" else None,
        source=one.description.source,
        received_at=one.description.received_at,
    )


def _outcome(one: Ready, recorded: Recorded | ReadingRoomError) -> Outcome:
    error = recorded if isinstance(recorded, ReadingRoomError) else None
    result = recorded.result if isinstance(recorded, Recorded) else None
    if result == "refused":
        error, result = refusal(one.instance_uid), None
    return Outcome(
        study_uid=one.study_uid,
        series_uid=one.series_uid,
        instance_uid=one.instance_uid,
        sop_class=one.sop_class,
        result=result,
        error=error,
    )


def _meaning_of(error: Exception) -> ReadingRoomError:
    """What a failed commit means to those who wait for it."""
    if isinstance(error, ReadingRoomError):
        return error
    if isinstance(error, OSError):
        return meaning_of(error)
    original = getattr(error, "orig", None)
    if getattr(original, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(original, "sqlstate", "") == "53100":
        return OutOfSpace("The catalog's disk is full; free space, then send again.")
    if isinstance(error, IntegrityError):
        return Conflict("Another writer recorded the same instance at this moment; send again.")
    return Unavailable(f"The catalog could not be written ({type(error).__name__}); send again.", retry_after=1)


def _without_frames(error: ReadingRoomError) -> ReadingRoomError:
    """The error alone: the frames that it passed through hold the whole object, for as long as it is kept."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _is_dead_here(host: str, pid: int) -> bool:
    """Whether a writer of this host is gone, so that its lease need not be waited for."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _write_all(fd: int, pieces: Sequence[Body]) -> None:
    left = [memoryview(piece) for piece in pieces if len(piece)]
    while left:
        written = os.writev(fd, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def _sync(fd: int) -> None:
    os.fdatasync(fd)


@contextmanager
def _reading() -> Iterator[None]:
    """For somebody else's file: that it cannot be read is no trouble of the store."""
    try:
        yield
    except OSError as error:
        raise Invalid(f"It cannot be read: {error.strerror or error}.") from None


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise meaning_of(error) from error
