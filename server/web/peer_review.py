"""Peer reviews over HTTP: what a reviewer may do next, what each of those who have a part in one sees, and statistics.

Who asks names the reader that he or she is. A reviewer sees the study alone until an impression is written; then the
first report, without who has signed it. The first reader sees a review once it is scored, without whose it is. Who may
supervise sees all of it then. A scope of some facilities sees nothing, but for counts where the settings say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import orjson
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Invalid, NotFound, ReadingRoomError, Refused
from server.auth import caller_of, require
from server.reports import peer_review as do
from server.reports.signing import SigningKeys, read_signed
from server.room import Room
from server.web.bodies import body_of
from server.worklist.directory import require_lawful
from server.worklist.items import Work, working
from storage.catalog.directory import names_of
from storage.catalog.peer_reviews import PARTS, Part, PeerReview, ReviewState, count_reviews, find_review, list_reviews
from storage.catalog.work_items import StoredItem, item_by_id

_MOST = 1000
_DAY = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])")
_SCORED: tuple[ReviewState, ...] = ("discussing", "closed")
_OPEN_ITEM = ("waiting", "ready", "assigned", "claimed", "held", "completed")


async def listed(request: Request) -> Response:
    """What a reader may review next, and is at; with ``as=first``, what was said of his or her own readings.

    Without a reader all reviews, for who may supervise.
    """
    room: Room = request.app.state.room
    _require_everywhere(request)
    parameters = request.query_params
    if set(parameters) - {"reader", "as"} or parameters.get("as", "reviewer") not in ("reviewer", "first"):
        raise Invalid("The parameters here are reader, and as: reviewer or first.")
    reader = parameters.get("reader")
    if reader is None:
        require(caller_of(request).actor, "supervise")
    else:
        await room.read(_require_self, caller_of(request).actor.id, reader)
    now = room.clock.now()

    def read(connection: sa.Connection) -> list[dict[str, Any]]:
        if reader is None:
            found = list_reviews(connection, limit=_MOST)
        elif parameters.get("as") == "first":
            found = list_reviews(connection, states=_SCORED, reader=reader, limit=_MOST)
        else:
            waiting = list_reviews(connection, states=("waiting",), limit=_MOST)
            found = [one for one in waiting if _may_do(connection, one, reader, now)]
            found += list_reviews(connection, states=("revealed", "discussing"), reviewer=reader, limit=_MOST)
        return [_row(one, item_by_id(connection, one.item), _root(request)) for one in found]

    return _json(await room.read_apart(read))


async def shown(request: Request) -> Response:
    """One review, as who asks may see it."""
    room: Room = request.app.state.room
    _require_everywhere(request)
    if set(request.query_params) - {"reader"}:
        raise Invalid("The parameter here is reader.")
    return await _answer(request, room, request.path_params["id"], request.query_params.get("reader"))


async def written(request: Request) -> Response:
    """Keep the reviewer's own impression, and answer with what the first reader wrote."""
    told = await body_of(request, {"reader": str, "impression": str})
    return await _act(
        request,
        told,
        lambda work, id, reader: do.write_impression(work, id, reader=reader, impression=told.get("impression", "")),
    )


async def scored(request: Request) -> Response:
    """Score the first reading."""
    told = await body_of(request, {"reader": str, "score": str, "comment": str})
    score, comment = told.get("score", ""), told.get("comment", "")
    return await _act(
        request, told, lambda work, id, reader: do.score_review(work, id, reader=reader, score=score, comment=comment)
    )


async def discussed(request: Request) -> Response:
    """Say something in a discussion."""
    told = await body_of(request, {"reader": str, "text": str})
    return await _act(
        request, told, lambda work, id, reader: do.discuss(work, id, reader=reader, text=told.get("text", ""))
    )


async def adjudicated(request: Request) -> Response:
    """Say what a discussion has come to."""
    told = await body_of(request, {"score": str, "outcome": str, "comment": str})
    said = {name: told.get(name, "") for name in ("score", "outcome", "comment")}
    return await _act(request, {}, lambda work, id, _reader: do.adjudicate(work, id, **said))


async def statistics(request: Request) -> Response:
    """How many readings were reviewed and how they were scored, by part, each share with its 95 % interval."""
    room: Room = request.app.state.room
    caller = caller_of(request)
    parameters = dict(request.query_params)
    by, begin, end = _parts(parameters.pop("by", "")), _day(parameters, "from"), _day(parameters, "to")
    if parameters:
        raise Invalid("The parameters here are by, from and to.")
    if caller.scope.facilities is None:
        require(caller.actor, "supervise")
        counted = await room.read_apart(count_reviews, caller.scope, by=by or ("reader",), begin=begin, end=end)
        return _json([do.rates(one) for one in counted])
    if not room.settings.peer_review.visible_to_facilities:
        raise Refused("Peer review is not shown to facilities.")
    if by not in ((), ("facility",)):
        raise Invalid("A facility sees how many of its readings were reviewed, by facility alone.")
    counted = await room.read_apart(count_reviews, caller.scope, by=("facility",), begin=begin, end=end)
    return _json(
        [{**one.part, "eligible": one.eligible, "reviewed": sum(one.scores.values())} for one in counted],
    )


# -- within ------------------------------------------------------------------------------------------------------------


def _require_everywhere(request: Request) -> None:
    if caller_of(request).scope.facilities is not None:
        raise Refused("Peer review is not shown to facilities.")


def _require_self(connection: sa.Connection, actor: str, reader: str) -> None:
    if actor != reader and names_of(connection, [actor]):
        raise Refused(f"{actor} may not look as {reader[:64]}.")


def _may_do(connection: sa.Connection, review: PeerReview, reader: str, now: Any) -> bool:
    """Whether a reader may do a second reading: it is free or theirs, and neither law nor conflict forbids it."""
    item = item_by_id(connection, review.item)
    holder = item.owner or item.offered_to
    if item.state not in _OPEN_ITEM or holder not in (None, reader) or not do.may_review(connection, review, reader):
        return False
    try:
        require_lawful(connection, item, reader, now)
    except ReadingRoomError:
        return False
    return True


async def _act(request: Request, told: dict[str, Any], act: Callable[[Work, str, str], PeerReview]) -> Response:
    room: Room = request.app.state.room
    _require_everywhere(request)
    caller, id, reader = caller_of(request), request.path_params["id"], told.get("reader", "")

    def run() -> None:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue) as work:
            act(work, id, reader)

    await anyio.to_thread.run_sync(run, limiter=room.db)
    return await _answer(request, room, id, reader or None)


async def _answer(request: Request, room: Room, id: str, reader: str | None) -> Response:
    actor, root = caller_of(request).actor, _root(request)
    if reader is None:
        require(actor, "supervise")
    keys = room.reports.keys

    def read(connection: sa.Connection) -> dict[str, Any]:
        review = find_review(connection, id)
        item = item_by_id(connection, review.item)
        if reader is None:
            return {**_row(review, item, root), **_supervised(connection, review, keys)}
        _require_self(connection, actor.id, reader)
        part = do.part_of(review, reader)
        if part == "reviewer":
            return {**_row(review, item, root), **_reviewed(connection, review, keys)}
        if part == "first reader" and review.state in _SCORED:
            return {**_row(review, item, root), **_told(review)}
        if review.state == "waiting" and _may_do(connection, review, reader, room.clock.now()):
            return _row(review, item, root)
        raise NotFound(f"There is no peer review {id[:64]} for {reader[:64]}.")

    return _json(await room.read_apart(read))


def _row(review: PeerReview, item: StoredItem, root: str) -> dict[str, Any]:
    """What everybody may see who may see a review: the study, and how far it has come."""
    return {
        "id": review.id,
        "state": review.state,
        "selected_at": review.selected_at,
        "facility": item.facility,
        "study_uid": item.study_uid,
        "study": f"{root}/studies/{item.study_uid}",
        "workitem": f"{root}/workitems/{item.workitem_uid}",
        "item_state": item.state,
        "modality": item.modality,
        "body_part": item.body_part,
        "subspecialty": item.subspecialty,
    }


def _told(review: PeerReview) -> dict[str, Any]:
    """What was said of a reading, and by which part; not by whom."""
    return {
        "impression": review.impression,
        "score": review.score,
        "comment": review.comment,
        "scored_at": review.scored_at,
        "remarks": orjson.loads(review.remarks),
        "final_score": review.final_score,
        "outcome": review.outcome,
        "closed_at": review.closed_at,
    }


def _reviewed(connection: sa.Connection, review: PeerReview, keys: SigningKeys) -> dict[str, Any]:
    return {**_told(review), "first": _first(connection, review, keys)}


def _supervised(connection: sa.Connection, review: PeerReview, keys: SigningKeys) -> dict[str, Any]:
    """All of it once it is scored; before that nobody has to know who is reviewed."""
    if review.state not in _SCORED:
        return {}
    known = {
        "report": review.report,
        "reader": review.reader,
        "reviewer": review.reviewer,
        "adjudicator": review.adjudicator,
        "because": orjson.loads(review.because),
        "addendum_item": review.addendum_item,
    }
    return {**_reviewed(connection, review, keys), **known}


def _first(connection: sa.Connection, review: PeerReview, keys: SigningKeys) -> list[dict[str, str]]:
    """What the first reader wrote, without who that is."""
    report = read_signed(connection, keys, review.report, review.number)
    told = [{"title": one.title, "text": one.text} for one in report.sections]
    return told + [{"title": "Addendum", "text": one.text} for one in report.addenda]


def _parts(text: str) -> tuple[Part, ...]:
    parts = tuple(part for part in PARTS if part in text.split(","))
    if set(filter(None, text.split(","))) != set(parts):
        raise Invalid(f"'by' is of {', '.join(PARTS)}, with commas between.")
    return parts


def _day(parameters: dict[str, str], name: str) -> str | None:
    text = parameters.pop(name, None)
    if text is not None and not _DAY.fullmatch(text):
        raise Invalid(f"{name!r} is a day such as 2026-11-01.")
    return text


def _root(request: Request) -> str:
    return caller_of(request).service_root


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), headers={"Cache-Control": "no-store"}, media_type="application/json")


routes: list[BaseRoute] = [
    Route("/peer-reviews", listed, methods=["GET"]),
    Route("/peer-reviews/statistics", statistics, methods=["GET"]),
    Route("/peer-reviews/{id}", shown, methods=["GET"]),
    Route("/peer-reviews/{id}/impression", written, methods=["POST"]),
    Route("/peer-reviews/{id}/score", scored, methods=["POST"]),
    Route("/peer-reviews/{id}/discuss", discussed, methods=["POST"]),
    Route("/peer-reviews/{id}/adjudicate", adjudicated, methods=["POST"]),
]
