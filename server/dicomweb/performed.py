"""The Modality Performed Procedure Step Service (PS3.18 chapter 15): what a modality has done, over HTTP.

What a request asks is a command of `server.worklist.performed`, as it is by N-CREATE and N-SET.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid, NotFound
from server.auth import caller_of
from server.dicomweb.datasets import OFFERS as ROWS
from server.dicomweb.datasets import PRIVATE, read_dataset, rendered
from server.dicomweb.negotiation import DICOM_XML, Offer, accepted, choose
from server.dicomweb.query import Names
from server.room import Room
from server.worklist.items import Work, working
from server.worklist.performed import change_performed, create_performed
from storage.catalog.performed import PerformedStep, find_performed
from storage.catalog.ups import element
from storage.dicomjson import MetadataJson
from storage.nativexml import to_xml
from storage.part10 import check_uid

WHAT = "Performed procedure steps"
PERFORMED = "1.2.840.10008.3.1.2.3.3"
_ONE_XML = Offer(media_type=DICOM_XML)
OFFERS = (*ROWS, _ONE_XML)


async def write_performed(request: Request) -> Response:
    """Say that something is being done (15.4); with `update`, how it went on or ended (15.5)."""
    caller, uid = caller_of(request), _uid(request)
    dataset = await read_dataset(request, WHAT)
    if "update" in request.query_params:
        await _work(request, lambda work: change_performed(work, uid, dataset))
        return Response(status_code=200, headers=PRIVATE)
    facility, source = caller.facility, caller.actor.id
    await _work(
        request,
        lambda work: create_performed(work, facility=facility, instance_uid=uid, dataset=dataset, source=source),
    )
    url = f"{caller.service_root}/modality-performed-procedure-steps/{uid}"
    return Response(status_code=201, headers={**PRIVATE, "location": url, "content-location": url})


async def retrieve_performed(request: Request) -> Response:
    """What was said of it: all, or the attributes that `includefield` names (15.6)."""
    room: Room = request.app.state.room
    caller, offer, uid = caller_of(request), choose(accepted(request), OFFERS), _uid(request)
    wanted = _wanted(request)
    performed = await room.read(find_performed, caller.scope, uid)
    if performed is None:
        raise NotFound(f"There is no performed procedure step {uid}.")
    dataset = _shown(performed, wanted)
    if offer == _ONE_XML:
        return Response(to_xml(dataset), headers=PRIVATE, media_type=DICOM_XML)
    return rendered(offer, [dataset])


def _shown(performed: PerformedStep, wanted: frozenset[str] | None) -> MetadataJson:
    told = {tag: one for tag, one in performed.dataset.items() if wanted is None or tag in wanted}
    own = {
        "00080016": element("UI", PERFORMED),
        "00080018": element("UI", performed.instance_uid),
    }
    if not orjson.dumps(told).isascii():
        own["00080005"] = element("CS", "ISO_IR 192")
    return dict(sorted({**told, **own}.items()))


def _wanted(request: Request) -> frozenset[str] | None:
    """Tags of the attributes that are asked for; None for all."""
    pairs = request.query_params.multi_items()
    fields = [one.strip() for name, value in pairs if name == "includefield" for one in value.split(",") if one.strip()]
    if not fields or "all" in fields:
        return None
    names = Names(pairs)
    found = {name.split(".")[0] for one in fields if (name := names.of(one)) is not None}
    if not found:
        raise Invalid("includefield names no attribute; it is a list of keywords or tags, or all.")
    return frozenset(found)


def _uid(request: Request) -> str:
    return check_uid("SOP Instance UID", request.path_params["performed"])


async def _work[T](request: Request, command: Callable[[Work], T]) -> T:
    room: Room = request.app.state.room
    caller = caller_of(request)

    def run() -> T:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue) as work:
            return command(work)

    return await anyio.to_thread.run_sync(run, limiter=room.db)


_PATH = "/modality-performed-procedure-steps/{performed}"
routes = [
    Route(_PATH, write_performed, methods=["POST"]),
    Route(_PATH, retrieve_performed, methods=["GET"]),
]
