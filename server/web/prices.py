"""Published prices, what has none, and the statement of a month: for people a page without scripts, JSON for programs.

``/prices`` is for everybody: prices that are for one facility are shown to who sees that facility. ``/statements/F/M``
is what a facility is charged for a month, as JSON or CSV.
"""

from __future__ import annotations

import csv
import html
from io import StringIO
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import Invalid, NotAcceptable, Refused
from readingroom.model import Scope
from server.auth import caller_of, require
from server.reports.charges import COLUMNS, lines_of, safe_cell, statement_of, statement_told
from server.room import Room
from server.scopes import limits
from storage.catalog.charges import Charge, Published, current_lists, unpriced_charges
from storage.prices import PRICE_ORDER, Price, amount_text

_MOST = 1000
_NO_STORE = {"Cache-Control": "no-store"}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Prices · readingroom</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} td, th {{ text-align: left; padding: .2rem 1rem .2rem 0; }}
td.amount, th.amount {{ text-align: right; font-variant-numeric: tabular-nums; }}
</style>
<h1>Prices</h1>
{lists}
</html>
"""
_LIST = """<h2>From <time>{day}</time></h2>
<p>In {currency}, for one reading, charged once {when}. Addenda and corrections cost nothing. {order}</p>
<table><tr><th>Modality<th>Subspecialty<th>Urgency<th>Facility<th class="amount">Amount</tr>
{rows}
</table>
"""
_WHEN = {"final": "its report is final", "preliminary": "a radiologist has signed it, if only as preliminary"}


async def listed(request: Request) -> Response:
    """The lists of prices that hold, the first one first."""
    room: Room = request.app.state.room
    _no_parameters(request)
    scope = caller_of(request).scope
    lists = await room.read_apart(current_lists)
    if "text/html" in request.headers.get("accept", ""):
        shown = "".join(_list(one, scope) for one in lists) or "<p>No prices are published yet.</p>"
        return HTMLResponse(_PAGE.format(lists=shown))
    return _json([_told(one, scope) for one in lists])


async def charges(request: Request) -> Response:
    """What was charged without a price, for no list has one; the oldest first."""
    room: Room = request.app.state.room
    caller = caller_of(request)
    if set(request.query_params) - {"state"} or request.query_params.get("state", "unpriced") != "unpriced":
        raise Invalid("The parameter here is state, which is unpriced; what has a price is in the statements.")
    require(caller.actor, "supervise")
    return _json([_charge(one) for one in await room.read_apart(unpriced_charges, caller.scope, limit=_MOST)])


async def statement(request: Request) -> Response:
    """What a facility is charged for a month of its own zone: JSON, or CSV for ``?format=csv`` and who accepts that."""
    room: Room = request.app.state.room
    caller = caller_of(request)
    if not any(not limit.query and not limit.is_of_patient for limit in limits(caller.actor, "ChargeItem", "r")):
        raise Refused("The token has no scope for this; it would be system/ChargeItem.r.")
    format = _format(request)
    path = request.path_params
    found = await room.read_apart(statement_of, caller.scope, path["facility"], path["month"])
    if format == "json":
        return _json(statement_told(found))
    text = StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\r\n")  # RFC 4180
    writer.writeheader()
    writer.writerows({name: safe_cell(value) for name, value in line.items()} for line in lines_of(found))
    name = f"statement-{found.facility}-{found.month}.csv"
    headers = {**_NO_STORE, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text.getvalue(), headers=headers, media_type="text/csv")


def _format(request: Request) -> str:
    if set(request.query_params) - {"format"} or request.query_params.get("format", "json") not in ("json", "csv"):
        raise Invalid("The parameter here is format: json or csv.")
    if "format" in request.query_params:
        return request.query_params["format"]
    accept = request.headers.get("accept", "*/*")
    if any(name in accept for name in ("*/*", "application/json", "application/*")):
        return "json"
    if "text/csv" in accept:
        return "csv"
    raise NotAcceptable("A statement is application/json or text/csv.")


def _no_parameters(request: Request) -> None:
    if request.query_params:
        raise Invalid("There is no parameter here.")


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), headers=_NO_STORE, media_type="application/json")


def _told(one: Published, scope: Scope) -> dict[str, Any]:
    return {
        "id": one.id,
        "version": one.version,
        "currency": one.list.currency,
        "valid_from": one.list.valid_from,
        "charge_at": one.list.charge_at,
        "prices": [
            {**price.model_dump(exclude_none=True), "amount": amount_text(one.list.minor(price), one.list.currency)}
            for price in one.list.shown_to(scope.facilities)
        ],
    }


def _list(one: Published, scope: Scope) -> str:
    rows = "\n".join(_row(one, price) for price in one.list.shown_to(scope.facilities))
    return _LIST.format(
        day=one.list.valid_from,
        currency=html.escape(one.list.currency),
        when=_WHEN[one.list.charge_at],
        order=html.escape(PRICE_ORDER),
        rows=rows,
    )


def _row(one: Published, price: Price) -> str:
    cells = (price.modality, price.subspecialty or "any", price.urgency or "any", price.facility or "any")
    amount = amount_text(one.list.minor(price), one.list.currency)
    return f"<tr>{''.join(f'<td>{html.escape(cell)}' for cell in cells)}<td class='amount'>{amount}</tr>"


def _charge(one: Charge) -> dict[str, Any]:
    return {
        "id": one.id,
        "report": one.report,
        "kind": one.kind,
        "facility": one.facility,
        "study_uid": one.study_uid,
        "at": one.at,
        "asked": one.asked.model_dump(),
        "state": one.state,
    }


routes: list[BaseRoute] = [
    Route("/prices", listed, methods=["GET"]),
    Route("/charges", charges, methods=["GET"]),
    Route("/statements/{facility}/{month}", statement, methods=["GET"]),
]
