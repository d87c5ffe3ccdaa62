"""Faults of a worklist: of its work items, of its subscriptions, and of what is heard of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from conformance.dicomweb import checks
from conformance.dicomweb.channel import Connection, Report, listen
from conformance.dicomweb.jsonmodel import first
from conformance.dicomweb.watching import ASSIGNED, CANCEL_REQUESTED, PROGRESSED, STATE
from conformance.dicomweb.worklist import FILTERED, WORKLIST, element
from tests.conformance.broken import (
    Exchange,
    Fault,
    answering,
    asking,
    asks_otherwise,
    bodies,
    drops,
    ignores_parameters,
    refuses,
    turns,
    typed,
    without_headers,
)
from tests.conformance.does import swallows, wadl

Hearing = Callable[[str], Iterable[str]]
"""What is heard in place of a message."""


class Misheard:
    """A WebSocket over which other messages come than were sent."""

    def __init__(self, inner: Connection, change: Hearing) -> None:
        self._inner = inner
        self._change = change
        self._waiting: list[str] = []

    def recv(self, timeout: float | None = None) -> str | bytes:
        while not self._waiting:
            message = self._inner.recv(timeout)
            assert isinstance(message, str)
            self._waiting += self._change(message)
        return self._waiting.pop(0)


def mishears(change: Hearing) -> Fault:
    """Messages are changed."""

    @contextmanager
    def opens(url: str, headers: Iterable[tuple[str, str]]) -> Iterator[Connection]:
        with listen(url, headers) as connection:
            yield Misheard(connection, change)

    return Fault(opens=opens)


def reports(change: Callable[[Report], Any]) -> Fault:
    """Event reports are changed; those of which `change` gives False do not come."""

    def apply(message: str) -> Iterable[str]:
        report = json.loads(message)
        if change(report) is not False:
            yield json.dumps(dict(sorted(report.items())))

    return mishears(apply)


def without(*types: int) -> Fault:
    """There are no reports of these types."""
    return reports(lambda report: first(report, "00001002") not in types)


def lacks(*tags: str) -> Fault:
    """Reports do not have these attributes."""

    def change(report: Report) -> None:
        for tag in tags:
            report.pop(tag, None)

    return reports(change)


def in_an_array(message: str) -> Iterable[str]:
    """The report of an assignment is an array of one."""
    yield f"[{message}]" if first(json.loads(message), "00001002") == ASSIGNED else message


def no_channel(url: str, headers: Iterable[tuple[str, str]]) -> AbstractContextManager[Connection]:
    raise checks.Fault("no WebSocket opens")


def everything_is_reported() -> Fault:
    """Whatever is created is reported to everybody."""
    created: list[str] = []

    def asks(exchange: Exchange) -> None:
        if exchange.method == "POST" and exchange.path.endswith("/workitems"):
            created.append(exchange.query)

    def heard(message: str) -> Iterable[str]:
        report = json.loads(message)
        while created:
            yield json.dumps({**report, "00001000": element("UI", created.pop(0)), "00001002": element("US", STATE)})
        yield message

    return Fault(asks=asks, opens=mishears(heard).opens)


def tells_the_lock() -> Fault:
    """The Transaction UID of the last claim is in every answer that has work items."""
    token = element("UI")

    def asks(exchange: Exchange) -> None:
        if exchange.method == "PUT":
            token.update(json.loads(exchange.body)[0]["00081195"])

    def answers(exchange: Exchange) -> None:
        if exchange.method == "GET" and exchange.kind == "application/dicom+json" and exchange.content:
            rows = [{**row, "00081195": token} for row in json.loads(exchange.content)]
            exchange.content = json.dumps(rows).encode()

    return Fault(asks=asks, answers=answers)


def sends(change: Callable[[dict[str, Any]], Any], path: str) -> Fault:
    """The data sets that are sent are changed before they are read."""

    def apply(exchange: Exchange) -> None:
        if exchange.method == "POST" and re.search(path, exchange.path) and exchange.body.startswith(b"["):
            (dataset,) = json.loads(exchange.body)
            change(dataset)
            exchange.body = json.dumps([dataset]).encode()

    return asking(apply)


def chatty(method: str, status: int) -> Fault:
    """Answers that have no payload get one."""

    def change(exchange: Exchange) -> None:
        if exchange.method == method and exchange.status == status and "/workitems" in exchange.path:
            exchange.content = b"[{}]"

    return answering(change)


def forgets(exchange: Exchange) -> None:
    if exchange.method == "GET" and re.search(b'"(COMPLETED|CANCELED)"', exchange.content):
        exchange.answer(410, b"no\n", "text/plain")


def suspends_by_deletion(exchange: Exchange) -> None:
    if exchange.path.endswith("/suspend"):
        exchange.method, exchange.path = "DELETE", exchange.path.removesuffix("/suspend")


def another_class(report: Report) -> None:
    report["00000002"] = element("UI", "1.2.840.10008.5.1.4.34.6.4")


def tells_a_lock(report: Report) -> None:
    report["00081195"] = element("UI", "1.2.3")


WORKLIST_FAULTS: dict[str, Fault] = {
    "there is no worklist": refuses(404, path="/workitems"),
    "the description has no worklist": wadl(rb"workitems", b"things"),
    "new work items have no URL": without_headers("location"),
    "new work items are answered with a payload": chatty("POST", 201),
    "the workitem parameter is not read": asks_otherwise("^workitem=.*", ""),
    "UIDs in the data set are not read": sends(lambda dataset: dataset.pop("00080018", None), "/workitems$"),
    "work items lose what was sent": sends(
        lambda dataset: dataset.update({"00400400": element("LT", "Other")}), "/workitems$"
    ),
    "work items are taken as they come": turns((400, 201), where="/workitems$"),
    "work items are read as JSON alone": refuses(415, path="/workitems", body="NativeDicomModel"),
    "work items have a type of their own": typed(r"application/dicom\+json", "application/json", path="/workitems"),
    "work items differ in XML": bodies(lambda body: body.replace(b"Conformance suite", b"Others"), path="/workitems"),
    "the lock is told": tells_the_lock(),
    "work items do not say where they are": without_headers("content-location"),
    "what has ended is forgotten": answering(forgets),
    "updates change nothing": swallows(200, "POST", path=r"/workitems/[0-9.]+$"),
    "refused updates look like others": turns((400, 200), where=r"/workitems/[0-9.]+$"),
    "updates are of whatever state": turns((409, 200), (400, 200), where=r"/workitems/[0-9.]+$"),
    "what is refused is a conflict": turns((400, 409), where="/workitems/"),
    "what is a conflict is refused": turns((409, 400), where="/workitems"),
    "changes of state change nothing": swallows(200, "PUT", path="/state$"),
    "changes of state are answered with a payload": chatty("PUT", 200),
    "changes of state are never a conflict": turns((409, 200), where="/state$"),
    "changes of state are never refused": turns((400, 200), where="/state$"),
    "requests to cancel do nothing": swallows(202, "POST", path="/cancelrequest$"),
    "requests to cancel are answered by 200": turns((202, 200), where="/cancelrequest$"),
    "requests to cancel give no reason": sends(dict.clear, "/cancelrequest$"),
    "keys of work items are not read": ignores_parameters(
        "SOPInstanceUID",
        "ProcedureStepState",
        "ScheduledProcedureStepStartDateTime",
        "ScheduledWorkitemCodeSequence.CodeValue",
        "00404018.00080100",
        "PatientName",
    ),
    "found work items lack their readiness": drops("00404041", path="/workitems"),
    "locks of subscriptions are refused": refuses(403, query="deletionlock"),
    "filters may be missing": turns((400, 201), where="/subscribers/"),
    "nobody is unsubscribed": swallows(200, "DELETE", path="/subscribers/"),
    "nobody is suspended": swallows(200, "POST", path="/suspend$"),
    "suspension ends all": asking(suspends_by_deletion),
    "nobody is subscribed to the worklist": swallows(201, "POST", path=f"{WORKLIST}/subscribers/[^/]+$"),
    "nobody is subscribed with a filter": swallows(201, "POST", path=f"{FILTERED}/subscribers/[^/]+$"),
    "filters match everything": asks_otherwise("filter=WorklistLabel=[^&]*", "filter=PatientBirthDate=19700101"),
    "locks of subscriptions are not read": ignores_parameters("deletionlock"),
    # what is heard
    "no WebSocket opens": Fault(opens=no_channel),
    "some reports are arrays": mishears(in_an_array),
    "reports have no type": lacks("00001002"),
    "reports are of another class": reports(another_class),
    "reports lack the readiness": lacks("00404041"),
    "claims are not reported": reports(lambda report: first(report, "00741000") != "IN PROGRESS"),
    "states alone are reported": without(PROGRESSED, CANCEL_REQUESTED, ASSIGNED),
    "requests are reported without their reason": lacks("00741238"),
    "everything is reported": everything_is_reported(),
    "new work items are not reported": reports(
        lambda report: first(report, "00001002") != STATE or first(report, "00741000") != "SCHEDULED"
    ),
    "reports tell the lock": reports(tells_a_lock),
    "reports come twice": mishears(lambda message: (message, message)),
}
