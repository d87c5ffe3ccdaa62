"""Work items that the suite makes on the server under test, and their end (PS3.18 chapter 11)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from conformance.dicomweb.checks import Fault, NotApplicable
from conformance.dicomweb.jsonmodel import first
from conformance.dicomweb.peer import JSON, Answer, Peer
from conformance.dicomweb.samples import Samples

WORKLIST, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"
"""The UIDs that stand for all work items, and for those that match a filter (PS3.18 11.10.1.1)."""

DataSet = dict[str, Any]


def element(vr: str, *values: Any) -> DataSet:
    """An attribute in the DICOM JSON Model."""
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def code(value: str, meaning: str, scheme: str = "99CONFORMANCE") -> DataSet:
    """An item of a code sequence."""
    return {"00080100": element("SH", value), "00080102": element("SH", scheme), "00080104": element("LO", meaning)}


STATION = {"00404025": element("SQ", code("STATION", "A station"))}
PROGRESS = {"00741002": element("SQ", {"00741004": element("DS", 50), "00741006": element("ST", "Half of it")})}
PERFORMED = {
    "00741216": element(
        "SQ",
        {
            "00404019": element("SQ", code("WORK", "Something to do")),
            "00404028": element("SQ", code("STATION", "A station")),
            "00404033": element("SQ"),
            "00404050": element("DT", "20260101130000"),
            "00404051": element("DT", "20260101131500"),
        },
    )
}
"""What the final state COMPLETED asks for (PS3.4 CC.2.5.1.1)."""

DISCONTINUED = {
    "00741002": element(
        "SQ",
        {
            "00404052": element("DT", "20260101131500"),
            "0074100E": element("SQ", code("110513", "Discontinued for unspecified reason", "DCM")),
        },
    )
}
"""What the final state CANCELED asks for."""


class Worklist:
    """The work items of one run.

    Attributes
    ----------
    label
        The Worklist Label of all of them, which no other item has.
    """

    def __init__(self, peer: Peer, samples: Samples, *, can_store: bool) -> None:
        self.peer = peer
        self.label = samples.prefix
        self._patient = samples.patient_id("W")
        self._can_store = can_store
        self._tokens: dict[str, str] = {}
        self._subscribed: dict[tuple[str, str], None] = {}

    def new_uid(self) -> str:
        """A UID that nobody has used."""
        return f"2.25.{uuid.uuid4().int}"

    def dataset(self, **changes: DataSet | None) -> DataSet:
        """What makes a work item (PS3.4 Table CC.2.5-3, N-CREATE); changes are by x and tag, None takes one away."""
        made: DataSet = {
            "00080005": element("CS", "ISO_IR 192"),
            "00081080": element("LO"),
            "00081084": element("SQ"),
            "00081195": element("UI"),
            "00100010": element("PN", {"Alphabetic": "Conformance^Suite"}),
            "00100020": element("LO", self._patient),
            "00100021": element("LO"),
            "00100024": element("SQ"),
            "00100030": element("DA", "19700101"),
            "00100040": element("CS", "O"),
            "00101002": element("SQ"),
            "00380010": element("LO"),
            "00380014": element("SQ"),
            "00400400": element("LT", "Nothing to be done"),
            "00404005": element("DT", "20260101120000"),
            "00404018": element("SQ", code("WORK", "Something to do")),
            "00404021": element("SQ"),
            "00404025": element("SQ"),
            "00404026": element("SQ"),
            "00404027": element("SQ"),
            "00404041": element("CS", "READY"),
            "0040A370": element("SQ"),
            "00741000": element("CS", "SCHEDULED"),
            "00741002": element("SQ"),
            "00741200": element("CS", "LOW"),
            "00741202": element("LO", self.label),
            "00741204": element("LO", "Conformance suite"),
            "00741210": element("SQ"),
            "00741216": element("SQ"),
        }
        made.update({tag[1:]: attribute for tag, attribute in changes.items() if attribute is not None})
        for tag in [tag[1:] for tag, attribute in changes.items() if attribute is None]:
            del made[tag]
        return dict(sorted(made.items()))

    def post(self, dataset: DataSet, query: str = "") -> Answer:
        """Ask the server to create a work item."""
        return self.post_body(JSON, _body(dataset), query)

    def post_body(self, content_type: str, body: bytes, query: str = "") -> Answer:
        """The same, with whatever is in place of a data set; what was created is ended with the run."""
        if not self._can_store:
            raise NotApplicable("nothing may be stored here (--no-store)")
        answer = self.peer.post("/workitems", content_type, body, accept="*/*", query=query)
        if answer.status == 201:
            location = answer.headers.get("location", "")
            self._tokens[location.rpartition("/")[2] or query.rpartition("=")[2]] = ""
        return answer

    def create(self, **changes: DataSet) -> str:
        """Create a work item; gives its UID."""
        uid = self.new_uid()
        self.post(self.dataset(**changes), uid).expect(201)
        return uid

    def shown(self, uid: str) -> DataSet:
        """What the server says of a work item."""
        rows = self.peer.get(f"/workitems/{uid}", accept=JSON).expect(200).rows()
        if len(rows) != 1:
            raise Fault(f"one work item is answered by {len(rows)} data sets")
        return rows[0]

    def state(self, uid: str) -> Any:
        """Its Procedure Step State."""
        return first(self.shown(uid), "00741000")

    def update(self, uid: str, dataset: DataSet, token: str = "") -> Answer:
        """Set attributes, with a Transaction UID or without."""
        return self._send("POST", f"/workitems/{uid}", dataset, f"transaction-uid={token}" if token else "")

    def change(self, uid: str, state: str, token: str) -> Answer:
        """Ask for another state; a token that is empty is not sent."""
        asked = {"00081195": element("UI", token)} if token else {}
        answer = self._send("PUT", f"/workitems/{uid}/state", {**asked, "00741000": element("CS", state)})
        if answer.status == 200 and state == "IN PROGRESS":
            self._tokens[uid] = token
        return answer

    def claim(self, uid: str) -> str:
        """Take a work item to IN PROGRESS; gives the Transaction UID."""
        token = self.new_uid()
        self.change(uid, "IN PROGRESS", token).expect(200)
        return token

    def claimed(self) -> tuple[str, str]:
        """A new work item that is IN PROGRESS, and its Transaction UID."""
        uid = self.create()
        return uid, self.claim(uid)

    def completed(self) -> tuple[str, str]:
        """A new work item that is COMPLETED, and the Transaction UID that it had."""
        uid, token = self.claimed()
        self.update(uid, PERFORMED, token).expect(200)
        self.change(uid, "COMPLETED", token).expect(200)
        return uid, token

    def canceled(self) -> tuple[str, str]:
        """A new work item that is CANCELED, and the Transaction UID that it had."""
        uid, token = self.claimed()
        self.update(uid, DISCONTINUED, token).expect(200)
        self.change(uid, "CANCELED", token).expect(200)
        return uid, token

    def request_cancel(self, uid: str, asked: DataSet | None = None) -> Answer:
        """Ask for a cancellation; with no body where nothing is said of it."""
        path = f"/workitems/{uid}/cancelrequest"
        return self._send("POST", path, asked) if asked else self.peer.ask("POST", path)

    def search(self, **keys: str) -> Answer:
        """Search among the work items of this run; keys as in `Peer.search`."""
        return self.peer.search("/workitems", **{"WorklistLabel": self.label, **keys})

    def found(self, **keys: str) -> list[DataSet]:
        """What a search finds; it may be a part of all."""
        answer = self.search(**keys).expect(200, 204, 206)
        if answer.status == 204:
            return []
        rows = answer.json()
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Fault(f"{answer.named} answers JSON that is no array of objects")
        return rows

    def ae(self, letter: str) -> str:
        """An AE title that nobody else has."""
        return f"{self.label}{letter}"

    def subscribe(self, target: str, letter: str, **query: str) -> Answer:
        """Subscribe an AE to a work item, or to what `WORKLIST` and `FILTERED` stand for."""
        if not self._can_store:
            raise NotApplicable("nothing may be stored here (--no-store)")
        self._subscribed[target, self.ae(letter)] = None
        return self.peer.ask("POST", self._subscriber(target, letter), _query(query))

    def unsubscribe(self, target: str, letter: str) -> Answer:
        """Have it hear no more of it."""
        return self.peer.ask("DELETE", self._subscriber(target, letter))

    def suspend(self, target: str, letter: str) -> Answer:
        """Have it hear of no further work items."""
        return self.peer.ask("POST", f"{self._subscriber(target, letter)}/suspend")

    def clean(self) -> list[str]:
        """End all subscriptions and work items; gives the UIDs of items that are still open."""
        for target, ae in self._subscribed:
            with suppress(Fault):
                self.peer.ask("DELETE", f"/workitems/{target}/subscribers/{ae}")
        return [uid for uid, token in self._tokens.items() if not self._end(uid, token)]

    def _end(self, uid: str, token: str) -> bool:
        with suppress(Fault):
            if not token:
                self.request_cancel(uid)
            elif self.state(uid) == "IN PROGRESS":
                self.update(uid, DISCONTINUED, token)
                self.change(uid, "CANCELED", token)
            return self.state(uid) in ("COMPLETED", "CANCELED")
        return False

    def _subscriber(self, target: str, letter: str) -> str:
        return f"/workitems/{target}/subscribers/{self.ae(letter)}"

    def _send(self, method: str, path: str, dataset: DataSet, query: str = "") -> Answer:
        return self.peer.ask(method, path, query, headers=[("Content-Type", JSON)], body=_body(dataset))


def _query(parameters: Mapping[str, str]) -> str:
    return "&".join(f"{name}={quote(value, safe='=,*')}" for name, value in parameters.items())


def _body(dataset: DataSet) -> bytes:
    return json.dumps([dataset], ensure_ascii=False).encode()
