"""STOW-RS: the Store transactions (PS3.18 10.5, 12.5). Parts are staged while the rest of the body still arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import (
    Invalid,
    NotDicom,
    ReadingRoomError,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from server.auth import Caller, caller_of
from server.dicomweb.multipart import PartData, PartStart, boundary_of, parse_header_value, read_parts
from server.dicomweb.negotiation import DICOM_JSON, DICOM_XML, Offer, accepted, choose
from server.dicomweb.stow_metadata import METADATA_TYPES, Separated, failure
from server.room import Room
from server.staging import Outcome, Ready, SentTo, Spool, discard
from server.status import failure_reason, http_status
from storage.dicomjson import MetadataJson
from storage.nativexml import to_xml
from storage.overlay import ORIGINAL_ATTRIBUTES

_IN_MEMORY = 8 << 20  # a larger part goes to disk as it arrives
_SPOOL_PIECE = 1 << 20
_STAGED_TOGETHER = 4  # so that plugins are asked once for all of them
_STAGING_AT_ONCE = 4
_COMMIT_AT_ONCE = 128
_MAX_PARTS = 50_000  # each is named in the answer, which is made in memory
_COERCED = 0xB000  # Coercion of Data Elements, also the closest of the warnings for other bytes (PS3.18 I.2.1)

_SINGLE_PART = "application/dicom"
_ANSWERS = (
    Offer(media_type=DICOM_JSON),
    Offer(media_type="application/json", sent_as=DICOM_JSON),
    Offer(media_type=DICOM_XML),
)


async def store(request: Request) -> Response:
    """Store the instances of the request body; answers the Store Instances Response Module (PS3.18 10.5.3)."""
    return await store_in(request, SentTo(study_uid=request.path_params.get("study")))


async def store_in(request: Request, sent_to: SentTo) -> Response:
    """Store the instances of the request body that belong to where they were sent."""
    room: Room = request.app.state.room
    offer = choose(accepted(request), _ANSWERS)
    kind, _ = parse_header_value(request.headers.get("content-type", ""))
    caller = caller_of(request)
    storing = _Storing(room, caller, sent_to)
    try:
        async with asyncio.timeout(room.settings.idle_seconds) as patience:
            chunks = _watched(request, patience, room.settings.idle_seconds)
            if kind == _SINGLE_PART:
                await storing.take_single(chunks)
            elif sent_to.category and kind in METADATA_TYPES:
                await storing.take_metadata(chunks, None, kind, str(request.url))
            else:
                boundary, parameters = boundary_of(request.headers.get("content-type", ""))
                of_type = parameters.get("type", _SINGLE_PART).lower()
                if of_type in METADATA_TYPES:
                    await storing.take_metadata(chunks, boundary, of_type, str(request.url))
                elif of_type == _SINGLE_PART:
                    await storing.take_parts(chunks, boundary)
                else:
                    raise UnsupportedMedia(
                        f'Bodies of type="{of_type}" are not read; send type="{_SINGLE_PART}", '
                        f'or metadata and bulk data as type="{DICOM_JSON}" or type="{DICOM_XML}".'
                    )
        outcomes = await storing.finish()
    except TimeoutError:
        raise Invalid(
            f"The body sent nothing for {room.settings.idle_seconds:g} seconds; nothing more is kept."
        ) from None
    except ClientDisconnect:
        raise Unavailable("The client went away before the body was complete.") from None
    finally:
        await storing.abandon()
    if not outcomes:
        raise Invalid("The request body holds no part, so there is nothing to store.")
    return _answer(outcomes, caller, sent_to, offer.name)


async def _watched(request: Request, patience: asyncio.Timeout, idle_seconds: float) -> AsyncIterator[bytes]:
    """The body's chunks; the patience begins anew with each."""
    loop = asyncio.get_running_loop()
    async for chunk in request.stream():
        if chunk:
            patience.reschedule(None)  # what we take to deal with it is no idleness of the sender's
            yield chunk
            patience.reschedule(loop.time() + idle_seconds)
    patience.reschedule(None)


class _Storing:
    """One request's parts on their way: received here, staged on the upload threads, committed by ingest."""

    def __init__(self, room: Room, caller: Caller, sent_to: SentTo) -> None:
        self._room = room
        self._caller = caller
        self._sent_to = sent_to
        self._loop = asyncio.get_running_loop()
        self._outcomes: list[asyncio.Future[Outcome]] = []
        self._gathered: list[tuple[asyncio.Future[Outcome], Spool | bytes]] = []
        self._staging: list[tuple[Sequence[asyncio.Future[Outcome]], asyncio.Future[list[Ready | Outcome]]]] = []
        self._committing: list[asyncio.Task[None]] = []
        self._pieces: list[memoryview] = []
        self._size = 0
        self._spool: Spool | None = None
        self._refused: ReadingRoomError | None = None
        self._separated: Separated | None = None

    async def take_parts(self, chunks: AsyncIterator[bytes], boundary: bytes) -> None:
        """Receive a multipart body."""
        async for event in read_parts(chunks, boundary):
            if isinstance(event, PartData):
                await self._take(event.data)
            elif isinstance(event, PartStart):
                self._refused = _refused(event.headers)
            else:
                await self._end_part()

    async def take_single(self, chunks: AsyncIterator[bytes]) -> None:
        """Receive a body that is one object."""
        async for chunk in chunks:
            await self._take(memoryview(chunk))
        if self._size:
            await self._end_part()

    async def take_metadata(
        self, chunks: AsyncIterator[bytes], boundary: bytes | None, media_type: str, base: str
    ) -> None:
        """Receive a body of metadata and bulk data, or without a boundary one of metadata alone.

        Each instance is composed and staged on its own.
        """
        room = self._room
        self._separated = separated = Separated(media_type, base, room.settings.max_object_bytes)
        if boundary is None:
            await separated.receive_alone(chunks, run=self._run)
        else:
            await separated.receive(chunks, boundary, run=self._run, open_spool=room.ingest.open_spool)
        for instance in separated.instances:
            if isinstance(instance, ReadingRoomError):
                self._expect().set_result(Outcome(error=instance))
            else:
                await self._add([self._expect()], partial(self._compose, separated, instance))
        for error in await self._run(separated.unused):
            self._expect().set_result(Outcome(error=error))

    async def finish(self) -> list[Outcome]:
        """Wait until every part is staged and committed, or has failed."""
        await self._stage_gathered()
        await self._commit_staged()
        await asyncio.gather(*self._committing)
        return [outcome.result() for outcome in self._outcomes]

    async def abandon(self) -> None:
        """Leave nothing behind of parts that will not be committed."""
        await self._drop()
        gathered, self._gathered = self._gathered, []
        for _, body in gathered:
            if isinstance(body, Spool):
                await self._run(body.discard)
        staged = await asyncio.gather(*(future for _, future in self._staging), return_exceptions=True)
        self._staging = []
        for some in staged:
            for one in () if isinstance(some, BaseException) else some:
                if isinstance(one, Ready):
                    discard(one)
        if self._separated is not None:
            await self._run(self._separated.close)

    async def _take(self, data: memoryview) -> None:
        self._size += len(data)
        limit = self._room.settings.max_object_bytes
        if self._refused is not None:
            if self._size > 2 * limit:  # to reach the next part, so much is skipped and no more
                raise TooLarge(f"A part is longer than {2 * limit} bytes and still goes on; the request is dropped.")
            return
        if self._size > limit:
            self._refused = TooLarge(f"The part is longer than {limit} bytes.")
            await self._drop()
            return
        self._pieces.append(data)
        if self._spool is None and self._size > _IN_MEMORY:
            self._spool = await self._run(self._room.ingest.open_spool)
        if self._spool is not None and sum(map(len, self._pieces)) >= _SPOOL_PIECE:
            await self._pour(self._spool)

    async def _pour(self, spool: Spool) -> None:
        data, self._pieces = b"".join(self._pieces), []
        try:
            await self._run(partial(spool.write, data))
        except ReadingRoomError as error:
            self._refused = error
            await self._drop()

    async def _end_part(self) -> None:
        if self._spool is not None:
            await self._pour(self._spool)
        body: Spool | bytes = self._spool or b"".join(self._pieces)
        self._spool, self._pieces, self._size = None, [], 0
        if len(self._outcomes) == _MAX_PARTS:
            raise TooLarge(f"The request has more than {_MAX_PARTS} parts; send them in several.")
        if self._refused is not None:
            self._expect().set_result(Outcome(error=self._refused))
            return
        self._gathered.append((self._expect(), body))
        if len(self._gathered) >= _STAGED_TOGETHER:
            await self._stage_gathered()

    def _expect(self) -> asyncio.Future[Outcome]:
        """The outcome of one more object, to come."""
        outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._outcomes.append(outcome)
        return outcome

    async def _stage_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered:
            await self._add([outcome for outcome, _ in gathered], partial(self._stage, [body for _, body in gathered]))

    async def _add(
        self, outcomes: Sequence[asyncio.Future[Outcome]], stage: Callable[[], list[Ready | Outcome]]
    ) -> None:
        """Stage a few more objects, and commit what is staged where that is a group."""
        self._staging.append((outcomes, self._run(stage)))
        waiting = [future for _, future in self._staging if not future.done()]
        if len(waiting) >= _STAGING_AT_ONCE:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if sum(len(some) for some, _ in self._staging) >= _COMMIT_AT_ONCE:
            await self._commit_staged()

    def _stage(self, bodies: Sequence[Spool | bytes]) -> list[Ready | Outcome]:
        facility = self._caller.facility
        return self._room.ingest.stage_each(bodies, facility=facility, source="stow", sent_to=self._sent_to)

    def _compose(self, separated: Separated, dataset: MetadataJson) -> list[Ready | Outcome]:
        try:
            body = separated.compose(dataset, self._room.ingest.open_spool)
        except ReadingRoomError as error:
            return [failure(dataset, error)]
        return self._stage([body])

    async def _commit_staged(self) -> None:
        """Hand what is staged to ingest, in one group; receiving goes on meanwhile."""
        await asyncio.gather(*(future for _, future in self._staging))
        ready: list[tuple[asyncio.Future[Outcome], Ready]] = []
        for outcomes, future in self._staging:
            for outcome, staged in zip(outcomes, future.result(), strict=True):
                if isinstance(staged, Ready):
                    ready.append((outcome, staged))
                else:
                    outcome.set_result(staged)
        self._staging = []
        if ready:
            self._committing.append(asyncio.create_task(self._commit(ready)))

    async def _commit(self, ready: Sequence[tuple[asyncio.Future[Outcome], Ready]]) -> None:
        committed = await asyncio.wrap_future(self._room.ingest.commit([one for _, one in ready]))
        for (outcome, _), result in zip(ready, committed, strict=True):
            outcome.set_result(result)

    async def _drop(self) -> None:
        spool, self._spool, self._pieces = self._spool, None, []
        if spool is not None:
            await self._run(spool.discard)

    def _run[T](self, function: Callable[[], T]) -> asyncio.Future[T]:
        return self._loop.run_in_executor(self._room.upload, function)


def _refused(headers: dict[str, str]) -> ReadingRoomError | None:
    kind, _ = parse_header_value(headers.get("content-type", _SINGLE_PART))
    if kind == _SINGLE_PART:
        return None
    return NotDicom(f"A part is of type {kind}; only {_SINGLE_PART} parts are stored.")


def _answer(outcomes: Sequence[Outcome], caller: Caller, sent_to: SentTo, media_type: str) -> Response:
    """The Store Instances Response Module, and the status of PS3.18 table 10.5.3-1 or 12.5.3-1."""
    root = caller.service_root
    stored = [one for one in outcomes if one.error is None]
    failed = [one for one in outcomes if one.error is not None]
    other = [one for one in stored if one.result in ("new version", "kept first")]
    coerced = [one for one in stored if one.original_attributes]
    body: dict[str, Any] = {}
    study_uid = sent_to.study_uid
    studies = {one.study_uid for one in stored}
    if study_uid is None and len(studies) == 1:
        study_uid = studies.pop()
    if study_uid and stored:
        body["00081190"] = {"vr": "UR", "Value": [f"{root}/studies/{study_uid}"]}
    known = [_failure(one) for one in failed if one.instance_uid]
    if known:
        body["00081198"] = {"vr": "SQ", "Value": known}
    if stored:
        body["00081199"] = {"vr": "SQ", "Value": [_reference(one, root) for one in stored]}
    unknown = [_failure(one) for one in failed if not one.instance_uid]
    if unknown:
        body["0008119A"] = {"vr": "SQ", "Value": unknown}
    status = 409 if not stored else 202 if failed or other or coerced else 200
    if sent_to.category and stored:
        status = 200  # 202 says there that they are still to be stored
    unavailable = [one.error for one in failed if isinstance(one.error, Unavailable)]
    headers = {}
    if not stored and len(unavailable) == len(failed):
        status = http_status(unavailable[0])  # nothing is wrong with what was sent: it may be sent again
    messages = [one.error.message for one in failed if one.error]
    messages += [f"{one.instance_uid} was held with other bytes: {one.result}" for one in other]
    messages += [f"{one.instance_uid} was coerced" for one in coerced]
    if messages:
        more = f" (and {len(messages) - 3} more)" if len(messages) > 3 else ""
        text = "; ".join(messages[:3]).replace('"', "'") + more
        headers["Warning"] = f'299 readingroom "{text.encode("ascii", "replace").decode()}"'
    content = to_xml(body) if media_type == DICOM_XML else orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return Response(content, status, headers, media_type=media_type)


def _reference(one: Outcome, root: str) -> dict[str, Any]:
    url = f"{root}/studies/{one.study_uid}/series/{one.series_uid}/instances/{one.instance_uid}"
    if one.category:
        url = f"{root}/{one.category}/{one.instance_uid}"
    item: dict[str, Any] = {
        "00081150": {"vr": "UI", "Value": [one.sop_class]},
        "00081155": {"vr": "UI", "Value": [one.instance_uid]},
        "00081190": {"vr": "UR", "Value": [url]},
    }
    if one.original_attributes or one.result in ("new version", "kept first"):
        item["00081196"] = {"vr": "US", "Value": [_COERCED]}
    if one.original_attributes:
        item[ORIGINAL_ATTRIBUTES] = {"vr": "SQ", "Value": list(one.original_attributes)}
    return item


def _failure(one: Outcome) -> dict[str, Any]:
    assert one.error is not None
    item: dict[str, Any] = {"00081197": {"vr": "US", "Value": [failure_reason(one.error)]}}
    if one.instance_uid:
        item["00081150"] = {"vr": "UI", "Value": [one.sop_class]}
        item["00081155"] = {"vr": "UI", "Value": [one.instance_uid]}
    return item


routes = [
    Route("/studies", store, methods=["POST"]),
    Route("/studies/{study}", store, methods=["POST"]),
]
