"""Reports over HTTP: to begin, write, accept, sign, revise and withdraw them.

``POST /reports`` begins the report of a study. ``PUT /reports/ID`` keeps a text, and wants the ETag of the version that
it was written on in `If-Match` (RFC 9110 13.1.1): where somebody else has written meanwhile it answers 412, and nothing
is lost. The commands behind ``/reports/ID/`` want it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import anyio.to_thread
import orjson
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Changed, Invalid, Unconditional
from readingroom.model import (
    Category,
    Code,
    CriticalResult,
    FollowUp,
    Passage,
    Report,
    ReportKind,
    ReportStatus,
    Scope,
    Section,
)
from server.auth import caller_of
from server.reports.checking import Checked, check_report, require_passed
from server.reports.critical import Ladders, is_finished, open_criticals_of
from server.reports.drafting import Text, WrittenSection, digest, unaccepted
from server.reports.material import material_for
from server.reports.reports import Reports, find_written, text_of
from server.reports.signing import SigningKeys, digest_of, read_history, read_signed
from server.reports.states import FINAL
from server.reports.templates import text_of_template
from server.room import Room
from server.web.bodies import body_of, read_body
from server.worklist.items import Work, working
from storage.catalog.escalations import StoredEscalation
from storage.catalog.reports import MOST, SignedVersion, StoredReport, find_report, find_template, list_reports
from storage.catalog.shown import read_study

_MOST_BODY = 2 << 20
_COLUMNS = ("facility", "item", "accession_number", "author", "awaits")
_DISCREPANCIES = ("none", "minor", "major")
Act = Callable[[Reports, Work, StoredReport], StoredReport]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Section(_Model):
    name: str
    text: str
    title: str = ""


class _Code(_Model):
    value: str
    system: str
    meaning: str


class _Critical(_Model):
    category: Category
    text: str
    code: _Code | None = None


class _FollowUp(_Model):
    text: str
    due_on: str
    procedure: str | None = None


class Written(_Model):
    """The body of ``PUT /reports/ID``; see `server.reports.drafting.Text`."""

    kind: ReportKind = "report"
    sections: tuple[_Section, ...] = ()
    addendum: str = ""
    critical_results: tuple[_Critical, ...] = ()
    follow_ups: tuple[_FollowUp, ...] = ()
    codes: tuple[_Code, ...] = ()
    language: str = "en"
    template: str = ""
    because: str = ""
    reader: str | None = None

    @property
    def text(self) -> Text:
        """The value."""
        return Text(
            kind=self.kind,
            sections=tuple(WrittenSection(**dict(one)) for one in self.sections),
            addendum=self.addendum,
            critical_results=tuple(
                CriticalResult(category=one.category, text=one.text, code=_coded(one.code))
                for one in self.critical_results
            ),
            follow_ups=tuple(FollowUp(**dict(one)) for one in self.follow_ups),
            codes=tuple(Code(**dict(one)) for one in self.codes),
            language=self.language,
            template=self.template,
            because=self.because,
        )


def _coded(code: _Code | None) -> Code | None:
    return None if code is None else Code(**dict(code))


# -- to read -----------------------------------------------------------------------------------------------------------


async def listed(request: Request) -> Response:
    """Reports in scope, the one that was changed last at first."""
    room: Room = request.app.state.room
    wanted = dict(request.query_params)
    known: dict[str, Any] = {name: wanted.pop(name, None) for name in _COLUMNS}
    known["study_uid"] = wanted.pop("study", None)
    statuses = tuple(filter(None, wanted.pop("status", "").split(",")))
    known["status"] = statuses or None
    limit = wanted.pop("limit", "100")
    if (
        wanted
        or not set(statuses) <= set(get_args(ReportStatus))
        or not limit.isdecimal()
        or not 0 < int(limit) <= MOST
    ):
        names = ", ".join(("study", *_COLUMNS))
        raise Invalid(
            f"The parameters here are {names}, limit (1 to {MOST}), and status: {', '.join(get_args(ReportStatus))}."
        )
    scope = caller_of(request).scope

    def read(connection: sa.Connection) -> list[dict[str, Any]]:
        reports = list_reports(connection, scope, known=known, limit=int(limit))
        criticals = open_criticals_of(connection, [one.id for one in reports])
        return [_row(one, criticals.get(one.id, ())) for one in reports]

    return _json(await room.read_apart(read))


async def shown(request: Request) -> Response:
    """One report: what is being written, with the origin of every sentence; what is signed, and whether that is so."""
    room: Room = request.app.state.room
    found, body = await room.read_apart(_read, caller_of(request).scope, request.path_params["id"], room.reports)
    return _json(body, headers={"ETag": _etag(found)})


async def material(request: Request) -> Response:
    """What there is to write it from: drafts, earlier studies, measurements."""
    room: Room = request.app.state.room
    return _json(await room.read_apart(_material, caller_of(request).scope, request.path_params["id"]))


async def version(request: Request) -> Response:
    """One signed version, with its signature; it is looked at before it is shown."""
    room: Room = request.app.state.room
    number = int(request.path_params["number"])
    body = await room.read_apart(
        _version, caller_of(request).scope, request.path_params["id"], number, room.reports.keys
    )
    return _json(body)


async def checked(request: Request) -> Response:
    """What stands against signing it now: what plugins say, and the sentences that nobody has accepted."""
    room: Room = request.app.state.room
    scope, id = caller_of(request).scope, request.path_params["id"]

    def run() -> dict[str, Any]:
        with room.engine.connect() as connection:
            found = find_report(connection, scope, id)
            report = room.reports.compose(connection, found)
        told = _checks(room, report)
        left = unaccepted(one for passages in _passages(report) for one in passages)
        return {"checks": [asdict(one) for one in told], "unaccepted": [digest(one.text) for one in left]}

    return _json(await anyio.to_thread.run_sync(run, limiter=room.db))


# -- to write ----------------------------------------------------------------------------------------------------------


async def begun(request: Request) -> Response:
    """Begin the report of a study, or of what a work item is to read; the one that there is, where there is one."""
    room: Room = request.app.state.room
    caller = caller_of(request)
    told = await body_of(request, {"study": str, "workitem": str, "template": str, "facility": str})

    def run() -> tuple[StoredReport, bool]:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue) as work:
            text = None
            if "template" in told:
                text = text_of_template(find_template(work.connection, told["template"]))
            return room.reports.begin(
                work,
                facility=told.get("facility", caller.facility),
                study_uid=told.get("study"),
                workitem=told.get("workitem"),
                text=text,
            )

    found, is_new = await anyio.to_thread.run_sync(run, limiter=room.db)
    return await _answer(request, found.id, status=201 if is_new else 200)


async def written(request: Request) -> Response:
    """Keep a text in place of the one that was being written."""
    try:
        told = Written.model_validate_json(await read_body(request, _MOST_BODY))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Invalid(f"{where}: {first['msg']}.") from None
    return await _command(
        request, lambda reports, work, found: reports.write(work, found, told.text, reader=told.reader)
    )


async def accepted(request: Request) -> Response:
    """Say of sentences of an algorithm that they hold."""
    told = await body_of(request, {"passages": list})
    passages = told.get("passages", [])
    if not passages or not all(isinstance(one, str) for one in passages):
        raise Invalid("'passages' are the digests of the sentences to accept, as the report shows them.")
    return await _command(request, lambda reports, work, found: reports.accept(work, found, passages))


async def revised(request: Request) -> Response:
    """Begin an addendum, an amendment or a correction of what is signed."""
    told = await body_of(request, {"kind": str, "reader": str})
    kind: Any = told.get("kind")
    if kind not in get_args(ReportKind):
        raise Invalid("The kind is addendum, amendment or correction.")
    return await _command(
        request, lambda reports, work, found: reports.revise(work, found, kind, reader=told.get("reader"))
    )


async def discarded(request: Request) -> Response:
    """Forget what is being written over what is signed."""
    await body_of(request, {})
    return await _command(request, lambda reports, work, found: reports.discard(work, found))


async def signed(request: Request) -> Response:
    """Sign what is being written, after plugins have looked at it."""
    room: Room = request.app.state.room
    told = await body_of(request, {"reader": str, "status": str, "discrepancy": str})
    status, discrepancy = told.get("status", "final"), told.get("discrepancy")
    if status not in ("preliminary", "final") or discrepancy not in (None, *_DISCREPANCIES):
        raise Invalid(f"status is preliminary or final; discrepancy one of {', '.join(_DISCREPANCIES)}.")
    if not told.get("reader"):
        raise Invalid("Say which reader signs.")
    scope, id, number = caller_of(request).scope, request.path_params["id"], _seen(request)

    def look() -> tuple[list[Checked], Ladders]:
        with room.engine.connect() as connection:
            found = find_report(connection, scope, id)
            if found.version != number or found.draft is None:
                return [], {}  # the command says what is wrong
            report = room.reports.compose(connection, found)
        return _checks(room, report), room.criticals.ladders(report)

    checks, ladders = await anyio.to_thread.run_sync(look, limiter=room.db)
    require_passed(checks, room.settings.blocking_checks)

    def act(reports: Reports, work: Work, found: StoredReport) -> StoredReport:
        return reports.sign(work, found, reader=told["reader"], status=status, discrepancy=discrepancy)

    return await _command(request, act, ladders, checks=[asdict(one) for one in checks])


async def cancelled(request: Request) -> Response:
    """End a report that nobody has signed."""
    told = await body_of(request, {"reason": str})
    return await _command(request, lambda reports, work, found: reports.cancel(work, found, told.get("reason", "")))


async def withdrawn(request: Request) -> Response:
    """Say of a signed report that it was entered in error."""
    told = await body_of(request, {"reader": str, "reason": str})
    return await _command(
        request,
        lambda reports, work, found: reports.withdraw(
            work, found, reader=told.get("reader", ""), reason=told.get("reason", "")
        ),
    )


async def _command(request: Request, act: Act, ladders: Ladders | None = None, **more: Any) -> Response:
    room: Room = request.app.state.room
    caller, id, number = caller_of(request), request.path_params["id"], _seen(request)

    def run() -> None:
        with working(room.engine, room.clock, caller.actor, caller.scope, queue=room.queue, ladders=ladders) as work:
            act(room.reports, work, find_written(work, id, number))

    await anyio.to_thread.run_sync(run, limiter=room.db)
    return await _answer(request, id, **more)


async def _answer(request: Request, id: str, *, status: int = 200, **more: Any) -> Response:
    room: Room = request.app.state.room
    found, body = await room.read_apart(_read, caller_of(request).scope, id, room.reports)
    headers = {"ETag": _etag(found)}
    if status == 201:
        headers["Location"] = f"/reports/{id}"
    return _json({**body, **more}, status=status, headers=headers)


# -- as it is shown ----------------------------------------------------------------------------------------------------


def _read(connection: sa.Connection, scope: Scope, id: str, reports: Reports) -> tuple[StoredReport, dict[str, Any]]:
    found = find_report(connection, scope, id)
    history = read_history(connection, reports.keys, found)
    body = _row(found, open_criticals_of(connection, [id]).get(id, ()))
    body["versions"] = [_signed_row(one) for one in history]
    body["signed"] = _shown(history[-1].shown) if history else None
    body["writing"] = None
    if found.draft is not None:
        text, composed = text_of(found), reports.compose(connection, found)
        body["writing"] = {
            "kind": text.kind,
            "sections": [_section(one) for one in composed.sections] if text.kind != "addendum" else [],
            "addendum": _addendum(composed) if text.kind == "addendum" else [],
            "critical_results": [asdict(one) for one in text.critical_results],
            "follow_ups": [asdict(one) for one in text.follow_ups],
            "codes": [asdict(one) for one in text.codes],
            "language": text.language,
            "template": text.template,
            "because": text.because,
            "unaccepted": sum(1 for part in _passages(composed) for _ in unaccepted(part)),
        }
    return found, body


def _material(connection: sa.Connection, scope: Scope, id: str) -> dict[str, Any]:
    found = material_for(connection, find_report(connection, scope, id))
    return {
        "drafts": [
            {
                "plugin": draft.plugin,
                "revision": draft.revision,
                "because": draft.because,
                "sections": [_section(one) for one in draft.sections],
            }
            for draft in found.drafts
            if draft.is_offered
        ],
        "withheld": [{"plugin": one.plugin, "because": one.because} for one in found.drafts if not one.is_offered],
        "comparison": [_passage(one) for one in found.comparison],
        "summaries": [_passage(one) for one in found.summaries],
        "measurements": [_passage(one) for one in found.measurements],
    }


def _version(connection: sa.Connection, scope: Scope, id: str, number: int, keys: SigningKeys) -> dict[str, Any]:
    found = find_report(connection, scope, id)
    report = read_signed(connection, keys, id, number)
    (kept,) = [one for one in read_history(connection, keys, found) if one.number == number]
    return {**_signed_row(kept), "signature": kept.signature, "report": _shown(report)}


def _row(report: StoredReport, criticals: Sequence[StoredEscalation]) -> dict[str, Any]:
    told = asdict(report)
    del told["draft"], told["patient"]
    # A report whose critical result nobody has read back is not finished, whatever its state.
    return {
        **told,
        "is_being_written": report.draft is not None,
        "is_finished": report.status in FINAL and is_finished(criticals),
        "open_criticals": [
            {"escalation": one.id, "category": one.category, "reach_by": one.reach_by} for one in criticals
        ],
    }


def _signed_row(one: SignedVersion) -> dict[str, Any]:
    names = ("number", "status", "kind", "reader", "signed_at")
    return {**{name: getattr(one, name) for name in names}, "sha256": digest_of(one)}


def _shown(report: Report) -> dict[str, Any]:
    told = asdict(report)
    told["sections"] = [_section(one) for one in report.sections]
    return told


def _section(section: Section) -> dict[str, Any]:
    return {
        "name": section.name,
        "title": section.title,
        "text": section.text,
        "passages": [_passage(one) for one in section.passages],
    }


def _addendum(report: Report) -> list[dict[str, Any]]:
    return [_passage(one) for one in report.addenda[-1].passages]


def _passage(passage: Passage) -> dict[str, Any]:
    told = {name: value for name, value in asdict(passage).items() if value not in ("", None, (), [])}
    return {**told, "digest": digest(passage.text)}


def _passages(report: Report) -> list[tuple[Passage, ...]]:
    return [one.passages for one in report.sections] + [one.passages for one in report.addenda]


def _checks(room: Room, report: Report) -> list[Checked]:
    if not room.hooks.having("check_report"):
        return []
    with room.engine.connect() as connection:
        study = read_study(connection, report.facility, report.study_uid) if report.study_uid else None
    return check_report(room.hooks, report, study)


def _seen(request: Request) -> int:
    """The version that a client has read."""
    told = request.headers.get("if-match", "").strip()
    if not told:
        raise Unconditional("Say by If-Match which version of the report this is about: its ETag.")
    found = re.fullmatch(r'(?:W/)?"(\d{1,9})"', told)
    if found is None:
        raise Changed(f"If-Match {told[:40]!r} is no ETag of a report; read it again.")
    return int(found[1])


def _etag(report: StoredReport) -> str:
    return f'"{report.version}"'


def _json(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    told = {"Cache-Control": "private, no-store", **(headers or {})}
    return Response(orjson.dumps(value), status, told, media_type="application/json")


routes: list[BaseRoute] = [
    Route("/reports", listed, methods=["GET"]),
    Route("/reports", begun, methods=["POST"]),
    Route("/reports/{id}", shown, methods=["GET"]),
    Route("/reports/{id}", written, methods=["PUT"]),
    Route("/reports/{id}/material", material, methods=["GET"]),
    Route("/reports/{id}/checks", checked, methods=["GET"]),
    Route("/reports/{id}/versions/{number:int}", version, methods=["GET"]),
    Route("/reports/{id}/accept", accepted, methods=["POST"]),
    Route("/reports/{id}/revise", revised, methods=["POST"]),
    Route("/reports/{id}/discard", discarded, methods=["POST"]),
    Route("/reports/{id}/sign", signed, methods=["POST"]),
    Route("/reports/{id}/cancel", cancelled, methods=["POST"]),
    Route("/reports/{id}/withdraw", withdrawn, methods=["POST"]),
]
