"""The one way an image enters: STOW-RS, import and C-STORE all call `Ingest`.

An object is *staged* (hashed, scanned, written under the writer's own folder) on whichever thread brings it, and then
*committed* in a group by one thread: slots, renames, one sync for each touched folder while the bytes are synced too,
and when all of that is on the disk, one database transaction. Acknowledged means that the transaction has returned.
What a crash leaves behind is found from the writer's expired lease and removed by `sweep`.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import shutil
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import batched, islice
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from readingroom.clock import Clock
from readingroom.errors import (
    Conflict,
    Invalid,
    NotFound,
    OutOfSpace,
    ReadingRoomError,
    Refused,
    Unavailable,
)
from readingroom.model import Source
from readingroom.results import Reject
from server.hooks import Answer, Hooks
from server.settings import ArchiveSettings, Settings
from server.staging import Body, Outcome, Ready, SentTo, Spool, discard, scan_file, take_file, write_ready
from server.sweep import sweep
from storage.blobs import Blobs, LocalBlobs, Staged, meaning_of
from storage.catalog.engine import begin_write
from storage.catalog.events import append_events
from storage.catalog.nonpatient import find_version, named_objects, place_of, record_received
from storage.catalog.readmission import Removing
from storage.catalog.studies import (
    PRIOR_SOURCE,
    Identity,
    Received,
    Recorded,
    Tell,
    ensure_facility,
    find_current,
    identity,
    refusal,
)
from storage.catalog.writers import ArrayKey, LeaseLost, Slot, Writer, object_keys
from storage.coercion import Coercion, coerce
from storage.objects import ArraySpec, Description, Scan, scan
from storage.overlay import extras_of
from storage.rejection import QUALITY, TITLES
from storage.sidecars import NeedsRecord, announced, withdraw_expired

log = logging.getLogger(__name__)

_GROUP = 512
_SYNC_THREADS = 8
_LONGEST_REASON = 200
_REFUSALS: Mapping[str, type[ReadingRoomError]] = {
    "refused": Refused,
    "invalid": Invalid,
    "unavailable": Unavailable,
}
_HEARTBEAT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class _Request:
    ready: Sequence[Ready]
    done: Future[list[Outcome]]


@dataclass(frozen=True, slots=True)
class _Looked:
    """An object of which all is known that it says itself; `version` is what it will be of its instance."""

    body: Body | Spool
    found: Scan
    known: Identity
    sha256: bytes
    version: int


class Ingest:
    """Stages objects on any thread and commits them in groups on its own."""

    def __init__(
        self,
        *,
        engine: sa.Engine,
        blobs: Blobs,
        clock: Clock,
        settings: Settings,
        hooks: Hooks | None = None,
        tell: Tell = append_events,
    ) -> None:
        self._engine = engine
        self._blobs = blobs
        self._clock = clock
        self._settings = settings
        self._hooks = hooks or Hooks(clock=clock)
        self._tell = tell
        root = blobs.root if isinstance(blobs, LocalBlobs) else settings.data
        self._tmp = root / "tmp"
        self._coercions = [_of_archive(name, one) for name, one in settings.archives.items()]
        self._coercions += [Coercion.of(**rule.model_dump()) for rule in settings.coerce]
        hides_quality = settings.quality_rejections == "hide"
        self._titles = frozenset(TITLES) if hides_quality else frozenset(TITLES) - {QUALITY}
        self._syncing = ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="sync")
        self._arrays: set[str] = set()
        self._facilities: set[str] = set()
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._start_writer()
        self.sweep_others()
        self._committer = threading.Thread(target=self._commit_loop, name="committer", daemon=True)
        self._committer.start()

    # -- staging: any thread ------------------------------------------------------------------------------------

    def open_spool(self) -> Spool:
        """A file for a body of unknown or large size."""
        return Spool.open(self._folder)

    def stage(
        self,
        body: Body | Path | Spool,
        *,
        facility: str,
        source: str,
        sent_to: SentTo | None = None,
    ) -> Ready | Outcome:
        """Write one object beside the store, and know everything of it that the catalog will say.

        Parameters
        ----------
        body
            The Part 10 file: in memory, as a file of somebody else's (left untouched), or a filled `Spool` (taken).
        sent_to
            Where it was sent to; None where everything goes where it belongs.

        Returns
        -------
        Ready or Outcome
            What `commit` takes; or the outcome, with its error, of an object that cannot be kept.
        """
        (staged,) = self.stage_each((body,), facility=facility, source=source, sent_to=sent_to)
        return staged

    def stage_each(
        self, bodies: Sequence[Body | Path | Spool], *, facility: str, source: str, sent_to: SentTo | None = None
    ) -> list[Ready | Outcome]:
        """Stage several objects, each by itself as `stage` has it; plugins look at all of them at once."""
        sender = Source(facility=facility, name=source)
        looked: list[_Looked | Outcome] = []
        staged: list[Ready | Outcome] = []
        try:
            looked.extend(self._look(body, sender, sent_to) for body in bodies)
            new = [one for one in looked if isinstance(one, _Looked)]
            answers = iter(
                self._hooks.decide_each(
                    "accept_instance",
                    [{"header": one.found.metadata, "source": sender} for one in new],
                    is_last=lambda value: isinstance(value, Reject),
                )
            )
            staged.extend(
                self._write(one, next(answers), sender) if isinstance(one, _Looked) else one for one in looked
            )
        except BaseException:
            for left in (*bodies, *(one.body for one in looked if isinstance(one, _Looked))):
                _give_up(left)
            for made in staged:
                if isinstance(made, Ready):
                    discard(made)
            raise
        return staged

    def _look(self, body: Body | Path | Spool, sender: Source, sent_to: SentTo | None) -> _Looked | Outcome:
        """Know what an object is; the outcome of one that is not new, or cannot be kept."""
        known = Identity()
        try:
            if isinstance(body, Path):
                body = take_file(body, self._folder, self._settings.max_object_bytes)
            found = scan_file(body.path) if isinstance(body, Spool) else scan(body)
            known = identity(found)
            if sent_to is not None:
                sent_to.check(known)
            sha256 = body.sha256 if isinstance(body, Spool) else hashlib.sha256(body).digest()
            version, held = self._held(sender.facility, known)
            if held == sha256:
                _give_up(body)
                return Outcome(**known, result="identical")
            return _Looked(body, found, known, sha256, version + 1)
        except (ReadingRoomError, DBAPIError) as error:
            _give_up(body)
            return Outcome(**known, error=_without_frames(_meaning_of(error)))
        except BaseException:
            _give_up(body)
            raise

    def _write(self, one: _Looked, answers: Sequence[Answer], sender: Source) -> Ready | Outcome:
        """Write an object that plugins have looked at, unless one of them refuses it."""
        try:
            extras, unseen = self._accepted(one.found, answers, sender)
            description = Description(
                size=one.found.size,
                sha256=one.sha256.hex(),
                owner_facility=sender.facility,
                source=sender.name,
                received_at=self._clock.now(),
                version=one.version,
                extras=extras,
            )
            ready = write_ready(self._folder, one.body, one.found, one.known, description, self._syncing)
            return replace(ready, unseen=tuple(unseen)) if unseen else ready
        except (ReadingRoomError, DBAPIError) as error:
            _give_up(one.body)
            return Outcome(**one.known, error=_without_frames(_meaning_of(error)))

    def _accepted(
        self, found: Scan, answers: Sequence[Answer], sender: Source
    ) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """What the rules of this installation, and plugins after them, change of an object as it comes, and which
        plugins failed to look at it.

        Raises what a plugin refuses it with. An object that belongs to no study is not changed.
        """
        coercions = list(self._coercions)
        unseen: list[tuple[str, str]] = []
        for answer in answers:
            if isinstance(answer.value, Reject):
                raise _REFUSALS[answer.value.kind](answer.value.because[:_LONGEST_REASON])
            if answer.problem:
                unseen.append((answer.plugin, answer.problem))
                continue
            try:
                coercions.append(Coercion.of(set=answer.value.changes, remove=answer.value.remove))
            except Invalid as error:
                log.warning("plugin %s changes what it must not: %s", answer.plugin, error.message)
                unseen.append((answer.plugin, error.message))
        if found.category:
            return {}, unseen
        return extras_of(coerce(found.metadata, coercions, facility=sender.facility, source=sender.name)), unseen

    def _held(self, facility: str, known: Identity) -> tuple[int, bytes]:
        """Version and sha256 of the instance that the facility has; 0 and nothing where it has none."""
        instance_uid = known["instance_uid"]
        with self._engine.connect() as connection:
            if known["category"]:
                return find_version(connection, facility, known["category"], instance_uid)
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

    def keep(self, body: Body | Spool, *, facility: str, source: str, sent_to: SentTo | None = None) -> Outcome:
        """Stage and commit one object, as `stage` and `commit` have it; the outcome is durable when it is given."""
        staged = self.stage(body, facility=facility, source=source, sent_to=sent_to)
        return self.commit([staged]).result()[0] if isinstance(staged, Ready) else staged

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
        self._syncing.shutdown()
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
        lost = [one.wait() for one in ready]
        kept = iter(self._record_each([one for one, error in zip(received, lost, strict=True) if error is None], now))
        recorded = [error or next(kept) for error in lost]
        for one, result in zip(received, recorded, strict=True):
            self._clean_up(one, result)
        return [_outcome(one, result) for one, result in zip(ready, recorded, strict=True)]

    def _record_each(self, received: Sequence[Received], now: datetime) -> Sequence[Recorded | ReadingRoomError]:
        """Record a group; one bad row does not spoil its neighbours: then each is alone in a transaction of its own."""
        if not received:
            return ()
        try:
            return self._record(received, now)
        except DBAPIError as error:
            log.warning("a group of %d is committed one by one: %s", len(received), type(error).__name__)
            return [self._record_alone(one, now) for one in received]

    def _record_alone(self, one: Received, now: datetime) -> Recorded | ReadingRoomError:
        try:
            return self._record([one], now)[0]
        except (DBAPIError, ReadingRoomError) as error:
            return _meaning_of(error)

    def _publish(self, ready: Sequence[Ready], now: datetime) -> list[Received]:
        """Give each instance its slot and move its object there."""
        keys = [
            ArrayKey(
                place=place_of(one.scan, one.description.owner_facility),
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
            spec = asdict(one.scan.spec) if one.scan.spec else {}
            found = Received.of(
                one.scan,
                one.description,
                object_key=object_keys(key.place, slot.array_name, spec, slot.number)[0],
                object_bytes=one.object_bytes,
                array_id=slot.array_id,
                slot=slot.number,
                metadata_zlib=one.metadata_zlib,
            )
            received.append(replace(found, unseen=one.unseen) if one.unseen else found)
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
        group = {"owner_facility": one.description.owner_facility}
        if one.category:
            group |= {"category": one.category, "instance_uid": one.instance_uid}
        else:
            group |= {"study_uid": one.study_uid, "series_uid": one.series_uid}
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
        """The transaction that makes a group visible; begun anew where it turns out to need side records."""
        studies: list[tuple[str, str]] = []
        while True:
            try:
                with announced(self._engine, self._blobs, studies, clock=self._clock) as records:
                    return self._record_with(Removing(records=records, titles=self._titles), received, now)
            except NeedsRecord as needed:
                studies.append(needed.study)

    def _record_with(self, removing: Removing, received: Sequence[Received], now: datetime) -> list[Recorded]:
        with begin_write(self._engine) as connection:
            self._writer.hold(connection, now)
            for facility in {one.owner_facility for one in received} - self._facilities:
                ensure_facility(connection, facility)
            recorded = record_received(
                connection,
                received,
                now=now,
                quiet=self._settings.quiet_period,
                duplicates=self._settings.duplicates,
                removing=removing,
                tell=self._tell,
            )
            append_events(connection, list(_unseen_events(received, recorded, now)))
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
            return bool(named_objects(connection, [object_key]))

    # -- writers ------------------------------------------------------------------------------------------------

    def _start_writer(self) -> None:
        self._writer = Writer(self._engine, self._clock.now())
        self._folder = self._tmp / self._writer.id
        self._folder.mkdir(parents=True)

    def sweep_others(self) -> int:
        """Remove what other writers that died left behind; returns how many objects and files that was."""
        now = self._clock.now()
        withdrawn = withdraw_expired(self._engine, self._blobs, now=now)
        return withdrawn + sweep(self._engine, self._blobs, self._tmp, now=now, own=self._writer.id)

    def _replace_writer(self) -> None:
        """Go on as a new writer after the lease was lost."""
        with suppress(DBAPIError, OSError):
            self._start_writer()


def _unseen_events(
    received: Sequence[Received], recorded: Sequence[Recorded], now: datetime
) -> Iterator[dict[str, object]]:
    """That instances of studies were stored although a plugin could not look at them: one event for each reason."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for one, result in zip(received, recorded, strict=True):
        if not result.is_superfluous and not one.category:
            for plugin, because in one.unseen:
                found.setdefault((one.owner_facility, one.study_uid, plugin, because), []).append(one.instance_uid)
    for (facility, study_uid, plugin, because), uids in found.items():
        for some in batched(uids, _GROUP):
            yield {
                "type": "GateFailed",
                "version": 1,
                "study_uid": study_uid,
                "facility": facility,
                "at": now,
                "payload": orjson.dumps({"plugin": plugin, "because": because, "unseen": some}),
            }


def _spec_json(spec: ArraySpec | None) -> bytes:
    return orjson.dumps(asdict(spec)) if spec else b"{}"


def _outcome(one: Ready, recorded: Recorded | ReadingRoomError) -> Outcome:
    error = recorded if isinstance(recorded, ReadingRoomError) else None
    result = recorded.result if isinstance(recorded, Recorded) else None
    refused = refusal(one.instance_uid, result) if result else None
    if refused:
        error, result = refused, None
    return Outcome(
        study_uid=one.study_uid,
        series_uid=one.series_uid,
        instance_uid=one.instance_uid,
        sop_class=one.sop_class,
        category=one.category,
        result=result,
        error=error,
        original_attributes=recorded.original_attributes if isinstance(recorded, Recorded) else (),
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


def _give_up(body: Body | Path | Spool) -> None:
    """Leave nothing behind of what will not be kept."""
    if isinstance(body, Spool):
        body.discard()


def _of_archive(name: str, archive: ArchiveSettings) -> Coercion:
    """Whoever issues the Patient IDs of what is fetched is called as here, so that the patient is the same one."""
    told: dict[str, Any] = {"set": {"IssuerOfPatientID": archive.our_issuer}}
    if not archive.our_issuer:
        told = {"remove": ("IssuerOfPatientID",)}
    return Coercion.of(source=PRIOR_SOURCE + name, **told)


def _without_frames(error: ReadingRoomError) -> ReadingRoomError:
    """The error alone: the frames that it passed through hold the whole object, for as long as it is kept."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
