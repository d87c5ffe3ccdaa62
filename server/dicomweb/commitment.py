"""The Storage Commitment Service (PS3.18 chapter 13): who has stored something asks whether it may delete its own.

A request is looked at at once. Where an instance is not there yet it may be on its way: the answer is 202, and the
result is there for who asks a minute later.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Conflict, NotFound
from server.auth import caller_of
from server.committing import PATIENCE, Committing, result_of, wanted_of
from server.dicomweb.datasets import PRIVATE, read_dataset
from server.dicomweb.negotiation import DICOM_JSON, DICOM_XML, Offer, accepted, choose
from server.room import Room
from storage.catalog.commitments import Commitment, find_commitment
from storage.catalog.subscriptions import realm_of
from storage.nativexml import to_xml
from storage.part10 import check_uid

OFFERS = (Offer(media_type=DICOM_JSON), Offer(media_type="application/json"), Offer(media_type=DICOM_XML))

MOST_BYTES = 4 << 20
"""Of a request; some 20,000 instances."""


async def request_commitment(request: Request) -> Response:
    """Promise that instances are kept, or say of each why not."""
    offer = choose(accepted(request), OFFERS)
    caller, uid = caller_of(request), _transaction(request)
    dataset = await read_dataset(request, "Requests for storage commitment", most_bytes=MOST_BYTES)

    def run(committing: Committing) -> Commitment:
        kept = committing.request(caller.scope, uid, wanted_of(dataset))
        if kept.problems is not None and "used" in kept.problems:
            raise Conflict(f"The Transaction UID {uid} is in use for other instances; take a new one.")
        return committing.check(kept.id)

    return _answer(offer, await _run(request, run))


async def check_result(request: Request) -> Response:
    """The result of an earlier request."""
    offer = choose(accepted(request), OFFERS)
    caller, uid = caller_of(request), _transaction(request)

    def run(committing: Committing) -> Commitment:
        with committing.engine.connect() as connection:
            found = find_commitment(connection, realm_of(caller.scope), uid)
        if found is None:
            raise NotFound(f"Nobody has asked for storage commitment by the Transaction UID {uid}.")
        return committing.check(found.id)

    return _answer(offer, await _run(request, run))


def _transaction(request: Request) -> str:
    return check_uid("Transaction UID", request.path_params["transaction"])


def _answer(offer: Offer, commitment: Commitment) -> Response:
    if commitment.problems is None:
        return Response(status_code=202, headers={**PRIVATE, "retry-after": str(int(PATIENCE.total_seconds()))})
    result = result_of(commitment)
    body = to_xml(result) if offer.media_type == DICOM_XML else orjson.dumps(result)
    return Response(body, headers=PRIVATE, media_type=offer.media_type)


async def _run(request: Request, command: Callable[[Committing], Commitment]) -> Commitment:
    room: Room = request.app.state.room
    committing = Committing(engine=room.engine, blobs=room.blobs, clock=room.clock, queue=room.queue)
    return await anyio.to_thread.run_sync(command, committing, limiter=room.disk)


routes = [
    Route("/commitment-requests/{transaction}", request_commitment, methods=["POST"]),
    Route("/commitment-requests/{transaction}", check_result, methods=["GET"]),
]
