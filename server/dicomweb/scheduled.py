"""The Modality Scheduled Procedure Step Service (PS3.18 chapter 14): the worklist of a modality, over HTTP.

Matching is that of C-FIND (PS3.4 annex K); a step comes whole, whatever of it is asked for.
"""

from __future__ import annotations

import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.model import Scope
from server.auth import caller_of
from server.dicomweb.datasets import OFFERS
from server.dicomweb.negotiation import accepted, choose
from server.dicomweb.pages import Page, answer, encoded, takes_gzip
from server.dicomweb.query import PRIOR_RECORD_KEY, Parameters, read_parameters, read_query, whole_number
from server.dicomweb.xmlparts import XML_PARTS, XmlParts
from server.room import Room
from storage.catalog.keys import STEP_KEYS, TIMEZONE
from storage.catalog.steps import search_steps
from storage.catalog.ups import element

PATH = "/modality-scheduled-procedure-steps"

MOST = 1000
"""Steps of one answer."""


async def search_scheduled(request: Request) -> Response:
    """Search for what is to be done and has not ended, the first that begins at the head (14.4)."""
    room: Room = request.app.state.room
    caller, offer = caller_of(request), choose(accepted(request), OFFERS)
    asked = read_query(read_parameters(request.scope["query_string"]), STEP_KEYS.__contains__)
    # The clock of a step is that of its facility, and a page begins where `offset` says.
    ignored = [*asked.ignored, *(name for name in (TIMEZONE, PRIOR_RECORD_KEY) if asked.controls.pop(name, ""))]
    xml = XmlParts() if offer == XML_PARTS else None
    page = await room.read_apart(_page, caller.scope, asked, gzips=takes_gzip(request), xml=xml)
    media_type = xml.content_type if xml else offer.media_type
    return answer(request, page, media_type, PATH, ignored=ignored, left_out=asked.left_out)


def _page(connection: sa.Connection, scope: Scope, asked: Parameters, *, gzips: bool, xml: XmlParts | None) -> Page:
    limit, offset = min(whole_number(asked.controls, "limit", MOST), MOST), whole_number(asked.controls, "offset", 0)
    conditions = asked.conditions(STEP_KEYS)
    found = search_steps(connection, scope, conditions, limit=limit + 1, offset=offset) if limit else []
    rows = [{"00080005": element("CS", "ISO_IR 192"), **step.item} for step in found[:limit]]
    body, is_gzip = encoded(orjson.dumps(rows), gzips=gzips, xml=xml)
    following = f"offset={offset + limit}" if len(found) > limit else ""
    return Page(body=body, is_gzip=is_gzip, count=len(rows), next=following)


routes = [Route(PATH, search_scheduled, methods=["GET"])]
