"""What an AE hears of work items while things are done with them: one story, which many checks look at."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from conformance.dicomweb.channel import Channel, Report, report_of
from conformance.dicomweb.jsonmodel import first
from conformance.dicomweb.worklist import FILTERED, PERFORMED, PROGRESS, STATION, WORKLIST, DataSet, Worklist, element

STATE, CANCEL_REQUESTED, PROGRESSED, ASSIGNED = 1, 2, 3, 5
"""Event Type IDs (PS3.4 Table CC.2.4-1)."""

REASON = "Ordered twice"
ASKED: DataSet = {
    "00741238": element("LT", REASON),
    "0074100A": element("UR", "tel:+1"),
    "0074100C": element("LO", "The desk"),
}
_CANCELED: DataSet = {"00741238": element("LT", REASON)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What was done with which work item, and what was heard of it.

    Attributes
    ----------
    items
        The UIDs of the work items, by what they are in the story.
    messages
        All that came, as it came.
    tokens
        The Transaction UIDs of the claims.
    has_filter
        Whether the server takes subscriptions with a filter.
    """

    items: dict[str, str]
    messages: list[str | bytes]
    tokens: tuple[str, ...]
    has_filter: bool

    def about(self, name: str, type: int | None = None) -> list[Report]:
        """The reports about an item, of one type or of any, in the order in which they came."""
        reports = [report for message in self.messages if (report := report_of(message)) is not None]
        mine = [report for report in reports if first(report, "00001000") == self.items[name]]
        return [report for report in mine if type is None or first(report, "00001002") == type]

    def states(self, name: str) -> list[str]:
        """The states that were reported of an item."""
        return [str(first(report, "00741000")) for report in self.about(name, STATE)]


def watch(worklist: Worklist) -> Story:
    """Subscribe an AE, do what there is to be heard of, and listen until all of it has to have come.

    The last report that is waited for is of a subscription that comes after everything else.
    """
    letter = uuid.uuid4().hex[:4].upper()
    items: dict[str, str] = {}

    def create(name: str, **changes: DataSet) -> str:
        items[name] = worklist.create(**changes)
        return items[name]

    done = create("done")
    url = worklist.subscribe(done, letter).expect(201).headers.get("content-location", "")
    with worklist.peer.listen(url) as connection:
        channel = Channel(connection)
        tokens = [_one_item(worklist, done)]
        canceled = create("canceled")
        worklist.subscribe(canceled, letter)
        worklist.request_cancel(canceled, _CANCELED)
        tokens.append(worklist.claim(create("strange")))
        left = create("left")
        worklist.subscribe(left, letter)
        worklist.unsubscribe(left, letter)
        tokens.append(worklist.claim(left))

        worklist.subscribe(WORKLIST, letter)
        new = create("new")
        create("assigned", x00404025=STATION["00404025"])
        worklist.suspend(WORKLIST, letter)
        create("late")
        tokens.append(worklist.claim(new))

        label = element("LO", f"{worklist.label} {letter}")
        create("matched before", x00741202=label)
        words = f"WorklistLabel={worklist.label} {letter}"
        has_filter = worklist.subscribe(FILTERED, letter, filter=words, deletionlock="true").status == 201
        create("matching", x00741202=label)
        create("other")
        worklist.unsubscribe(FILTERED, letter)

        worklist.subscribe(WORKLIST, letter)
        create("forgotten")
        worklist.unsubscribe(WORKLIST, letter)
        tokens.append(worklist.claim(items["forgotten"]))
        last = create("last")
        worklist.subscribe(last, letter)
        channel.hear(lambda report: first(report, "00001000") == last, seconds=worklist.peer.patience_seconds)
    return Story(items=items, messages=channel.heard, tokens=tuple(tokens), has_filter=has_filter)


def _one_item(worklist: Worklist, uid: str) -> str:
    """All that can become of an item that is COMPLETED in the end; gives its Transaction UID."""
    worklist.update(uid, STATION)
    worklist.update(uid, {"00404041": element("CS", "INCOMPLETE")})
    worklist.update(uid, {"00404041": element("CS", "READY")})
    token = worklist.claim(uid)
    worklist.update(uid, PROGRESS, token)
    worklist.request_cancel(uid, ASKED)
    worklist.update(uid, PERFORMED, token)
    worklist.change(uid, "COMPLETED", token)
    return token
