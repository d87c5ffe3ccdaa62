"""The pages of the escalation desk, without scripts: what is open, and one escalation with its call."""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import datetime, timedelta

from server.reports.calling import Call
from server.worklist import escalations
from storage.catalog.escalations import Attempt, StoredEscalation

_MINUTE = timedelta(minutes=1)
_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title} · readingroom</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }}
dt {{ font-weight: 600; }} dd {{ margin: 0 0 .5rem; }} label {{ display: block; margin: .75rem 0; }}
input, textarea {{ font: inherit; width: 100%; box-sizing: border-box; padding: .4rem; }}
button, select {{ font: inherit; padding: .5rem 1.25rem; }} table {{ border-collapse: collapse; }}
td, th {{ text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }}
.late {{ font-weight: 600; }}
</style>
"""
_DESK = """<h1>Escalations</h1>
{rows}
</html>
"""
_PAGE = """<h1>{title}</h1>
<dl>
<dt>What</dt><dd>{reason}</dd>
<dt>Study</dt><dd>{study}</dd>
<dt>Opened</dt><dd><time>{opened}</time></dd>
{closed}
</dl>
{call}
{form}
<h2>Attempts</h2>
{attempts}
</html>
"""
_CALL = """<h2>The call</h2>
<p>{contacts}</p>
<blockquote>{say}</blockquote>
<blockquote>{ask}</blockquote>
"""
_FORM = """<form method="post" action="{id}/acknowledge">
<label>Who was reached <input name="by" required maxlength="200" autocomplete="name"></label>
<label>How <input name="how" list="ways" maxlength="200"></label>
<label>What was read back <textarea name="read_back" required maxlength="2000" rows="3"></textarea></label>
<button>Acknowledge</button>
</form>
<datalist id="ways"><option>telephone<option>in person<option>secure message</datalist>
<details><summary>Nobody has read it back yet</summary>
<form method="post" action="{id}/attempts">
<label>Who was called <input name="name" required maxlength="200"></label>
<label>How <input name="how" list="ways" required maxlength="200" value="telephone"></label>
<label>What became of it <select name="outcome">{outcomes}</select></label>
<label>Note <textarea name="note" maxlength="2000" rows="2"></textarea></label>
<button>Keep</button>
</form>
</details>
"""


def desk_page(rows: Sequence[StoredEscalation], now: datetime) -> str:
    """A list of escalations, each with the time that is left and a link to its page."""
    head = "<tr><th>Left</th><th>What</th><th>Facility</th><th>Who has it</th><th></th></tr>"
    lines = "".join(
        f"<tr><td{_late(row, now)}>{_left(row, now)}</td>"
        f'<td><a href="/escalations/{html.escape(row.id)}">{html.escape(row.reason)}</a></td>'
        f"<td>{html.escape(row.facility)}</td><td>{html.escape(row.holder or '')}</td>"
        f"<td>{html.escape(_kind(row))}</td></tr>"
        for row in rows
    )
    table = f"<table>{head}{lines}</table>" if rows else "<p>There is nothing of that kind.</p>"
    return _HEAD.format(title="Escalations") + _DESK.format(rows=table)


def escalation_page(row: StoredEscalation, call: Call | None, attempts: list[Attempt]) -> str:
    """One escalation: what it is about, the call, the forms that end it or keep an attempt, and all attempts."""
    closed = ""
    if row.closed_at is not None:
        closed = (
            f"<dt>{html.escape(row.state.capitalize())}</dt>"
            f"<dd><time>{row.closed_at:%Y-%m-%d %H:%M:%S} UTC</time> by {html.escape(row.closed_by or '')}: "
            f"{html.escape(row.read_back)}</dd>"
        )
    lines = "".join(
        f"<tr><td>{one.rung}</td><td>{html.escape(one.contact.role)}</td><td>{html.escape(one.contact.name)}</td>"
        f"<td>{html.escape(one.contact.channel)}</td><td><time>{one.at:%Y-%m-%d %H:%M:%S}</time></td>"
        f"<td>{html.escape(one.state + ''.join(f': {more}' for more in (one.error, one.note) if more))}</td>"
        f"<td>{html.escape(one.by)}</td></tr>"
        for one in attempts
    )
    outcomes = "".join(f"<option>{one}" for one in escalations.OUTCOMES)
    head = "<tr><th>Rung</th><th>Role</th><th>Who</th><th>By</th><th>At</th><th></th><th>Noted by</th></tr>"
    return _HEAD.format(title="Escalation") + _PAGE.format(
        title="Escalation" if row.category is None else f"Critical result, category {row.category}",
        reason=html.escape(row.reason),
        study=html.escape(row.study_uid or "none"),
        opened=f"{row.opened_at:%Y-%m-%d %H:%M:%S} UTC",
        closed=closed,
        call=_shown_call(call) if call is not None else "",
        form=_FORM.format(id=html.escape(row.id), outcomes=outcomes) if row.state == "open" else "",
        attempts=f"<table>{head}{lines}</table>" if attempts else "<p>Nobody was called yet.</p>",
    )


def _shown_call(call: Call) -> str:
    numbers = [(f"{one.name} ({one.role})", html.escape(one.address)) for one in call.contacts]
    contacts = "<br>".join(f'{html.escape(who)}: <a href="tel:{to}">{to}</a>' for who, to in numbers)
    return _CALL.format(
        contacts=contacts or "The directory has no telephone number for this facility.",
        say=html.escape(call.say),
        ask=html.escape(call.ask),
    )


def _kind(row: StoredEscalation) -> str:
    kind = "Escalation" if row.category is None else f"Critical result, category {row.category}"
    return kind if row.state == "open" else f"{kind}, {row.state}"


def _left(row: StoredEscalation, now: datetime) -> str:
    if row.reach_by is None or row.state != "open":
        return ""
    return f"{(row.reach_by - now) // _MINUTE} min"


def _late(row: StoredEscalation, now: datetime) -> str:
    return ' class="late"' if row.state == "open" and row.reach_by is not None and row.reach_by < now else ""
