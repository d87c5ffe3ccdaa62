"""Schemathesis drives every operation of the OpenAPI document: nothing undocumented, nothing fails.

`make test` draws a few cases of each kind for every operation; ``READINGROOM_FUZZ=10`` (`make fuzz`) a great many.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.stateful import OpenAPIStateMachine
from starlette.testclient import TestClient

from server.app import build_room, create_app
from server.dicomweb.operations import OPERATIONS
from server.settings import Settings
from storage.upsrules import WORKLIST
from tests.multipart import DICOM, content_type, encode
from tests.nonpatient import LARGE, MADE
from tests.retrieve import keep
from tests.steps import performed
from tests.stow import store
from tests.synthetic import ct_series, new_uid, part10
from tests.worklist import attribute, workitem

TIMES = int(os.environ.get("READINGROOM_FUZZ", "1"))
POSITIVE, NEGATIVE, ANYWHERE = (8, 3, 2) if TIMES == 1 else (25 * TIMES, 10 * TIMES, 5 * TIMES)
ENOUGH = 0.5 if TIMES == 1 else 0.7  # of few cases, chance may make more of them such as nothing can be made of
ROOT = "http://127.0.0.1:8780/dicomweb"
PARTS = 'multipart/related; type="application/dicom"'
JSON = "application/dicom+json"
CHANGES = {
    "study": [
        b'{"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Right^Rita"}]}}',
        b'{"00100020": {"vr": "LO", "Value": ["R2"]}, "00080050": null}',
    ],
    "series": [b'{"0008103E": {"vr": "LO", "Value": ["Axial"]}}', b'{"00180015": null}'],
    "instance": [b'{"00204000": {"vr": "LT", "Value": ["seen"]}}', b'{"00200013": {"vr": "IS", "Value": [7]}}'],
}
WORKITEMS = {
    "CreateWorkitem": [workitem(), workitem(**{"00741200": attribute("CS", "HIGH")})],
    "UpdateWorkitem": [{"00741204": attribute("LO", "again")}, {"00404041": attribute("CS", "UNAVAILABLE")}],
    "ChangeWorkitemState": [{"00741000": attribute("CS", "IN PROGRESS"), "00081195": attribute("UI", "1.2.3")}],
    "RequestWorkitemCancellation": [{}, {"00741238": attribute("LT", "twice")}],
    "RequestStorageCommitment": [
        {
            "00081199": attribute(
                "SQ", {"00081150": attribute("UI", "1.2.840.10008.5.1.4.1.1.2"), "00081155": attribute("UI", uid)}
            )
        }
        for uid in ("1.2.3", "1.2.4")
    ],
    "CreatePerformedProcedureStep": [performed(), performed(Modality="MR")],
}
"""What each transaction of data sets that are no instances can be sent."""

NAMES = [one.name for one in OPERATIONS]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SEVEN_BIT = st.characters(min_codepoint=32, max_codepoint=126)


def quick(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def as_it_is(_context: Any, value: Any) -> Any:
    """A serializer of bodies that are bytes already."""
    return value


class Fuzzed:
    """An archive with a little in it, and the document that it gives of itself."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.series = ct_series(3)
        self.asked = 0
        self.non_patient = {category: make() for category, make in MADE.items()}
        self.is_whole = False
        self.refill()
        self.document: dict[str, Any] = client.get("/dicomweb/openapi.json").json()
        there_are: dict[str, list[object]] = {
            "version": [1],
            "frameNumber": [1],
            "studyUID": [str(self.series[0].StudyInstanceUID)],
            "seriesUID": [str(self.series[0].SeriesInstanceUID)],
            "objectUID": [str(one.SOPInstanceUID) for one in self.series],
            "transferSyntax": ["1.2.840.10008.1.2.1"],
            "presentationState": [],
            "transaction-uid": [],
            "filter": [],
            "workitem": [],
            "update": [],
        }
        for path in self.document["paths"].values():
            for described in path.values():
                for parameter in described["parameters"]:
                    if parameter["name"] in there_are and parameter["in"] == "query":
                        parameter["schema"] = {"enum": there_are[parameter["name"]]}
                    if parameter["name"] == "version" and described["operationId"].startswith("Revert"):
                        parameter["schema"] = {"enum": [0]}
                described["parameters"] = [one for one in described["parameters"] if one["schema"] != {"enum": []}]
        for media_type in (DICOM, PARTS, JSON):
            schemathesis.serializer(media_type)(as_it_is)
        for media_type in (DICOM, PARTS):
            schemathesis.openapi.media_type(media_type, st.sampled_from([part10(one) for one in self.series]))
        self.schema = schemathesis.openapi.from_dict(self.document)
        self.schema.app = client.app
        found = (one.ok() for one in self.schema.get_all_operations())
        self.operations = {one.definition.raw["operationId"]: one for one in found}

    def refill(self) -> None:
        """Have all there again that an earlier case may have removed: what is stored again is restored."""
        if self.is_whole:
            return
        keep(self.client, *self.series)
        for category, made in self.non_patient.items():
            assert store(self.client, part10(made), to=f"/dicomweb/{category}").status == 200
        self.is_whole = True

    def remove(self) -> None:
        """Have nothing there that could not be restored."""
        self.is_whole = False
        self.client.delete(f"/dicomweb/studies/{self.series[0].StudyInstanceUID}")
        for category, made in self.non_patient.items():
            self.client.delete(f"/dicomweb/{category}/{made.SOPInstanceUID}")

    def prepare(self, operation: Any) -> None:
        """Make a case of an operation possible that the one before it has used up."""
        if operation.method.lower() == "delete":
            self.refill()
        elif operation.path.endswith("/restore"):
            self.remove()

    def places(self, path: str) -> list[dict[str, str]]:
        """What stands in the gaps of a path, for each of the instances that are held."""
        if made := self.non_patient.get(path.split("/")[1]):
            found = {"uid": made.SOPInstanceUID, "path": LARGE}
            return [{name: value for name, value in found.items() if f"{{{name}}}" in path}]
        all_of_them = [
            {
                "study": one.StudyInstanceUID,
                "series": one.SeriesInstanceUID,
                "instance": one.SOPInstanceUID,
                "frames": "1",
                "path": "7FE00010",
                "ae": "WATCHER",
                "transaction": "1.2.3",
                **({"workitem": self.new_workitem(path)} if "{workitem}" in path else {}),
                **({"performed": self.new_performed()} if "{performed}" in path else {}),
            }
            for one in self.series[: 1 if "{workitem}" in path else None]
        ]
        return [{name: value for name, value in one.items() if f"{{{name}}}" in path} for one in all_of_them]

    def new_workitem(self, path: str) -> str:
        """The UID of a work item that nobody has claimed, and that is subscribed to; of all, where only that goes."""
        answer = self.client.post("/dicomweb/workitems", json=workitem(), headers={"Content-Type": JSON})
        uid = WORKLIST if path.endswith("/suspend") else answer.headers["location"].rpartition("/")[2]
        assert self.client.post(f"/dicomweb/workitems/{uid}/subscribers/WATCHER").status_code == 201
        return uid

    def new_performed(self) -> str:
        """The UID of a performed procedure step."""
        uid = new_uid()
        url = f"/dicomweb/modality-performed-procedure-steps/{uid}"
        assert self.client.post(url, json=performed(), headers={"Content-Type": JSON}).status_code == 201
        return uid

    def make_ready(self, name: str) -> None:
        """Have what is to be deleted in use, what is to be restored deleted, and everything else in use as well."""
        url = f"/dicomweb/studies/{self.series[0].StudyInstanceUID}"
        if name.startswith("Restore"):
            self.remove()
        else:
            self.client.post(f"{url}/restore")
            self.refill()

    def ask(self, case: Case, accept: str = "*/*") -> httpx.Response:
        """Send a case, and hold the answer against the document."""
        sent = case.as_transport_kwargs(base_url=ROOT)
        headers = {"Accept": accept} | {k: v for k, v in dict(sent.get("headers") or {}).items() if k != "User-Agent"}
        self.is_whole = self.is_whole and sent["method"].upper() != "DELETE"
        body = case.body if isinstance(case.body, bytes) else None
        if body is not None and "Content-Type" not in headers:
            if str(case.media_type).startswith("multipart"):
                headers["Content-Type"], body = content_type(), encode([body])
            else:
                headers["Content-Type"] = DICOM
        answer = self.client.request(
            sent["method"], sent["url"], params=sent.get("params"), headers=headers, content=body
        )
        case.validate_response(answer, checks=CHECKS)
        self.asked += 1
        return answer


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    with build_room(Settings(data=folder)) as room:
        app = create_app(room)
        with TestClient(app, base_url="http://127.0.0.1:8780", raise_server_exceptions=False) as client:
            fuzzed = Fuzzed(client)
            yield fuzzed
            print(f"\nschemathesis: {fuzzed.asked} cases asked and answered as documented")


@pytest.fixture(autouse=True)
def _refilled(fuzzed: Fuzzed) -> None:
    fuzzed.refill()


def bodies(fuzzed: Fuzzed, *, valid: bool, files: list[bytes] | None = None) -> st.SearchStrategy[tuple[bytes, str]]:
    """Bodies to store, with their Content-Type: instances that can be kept; or those mixed with what cannot."""
    files = files or [part10(one) for one in fuzzed.series]
    good = st.sampled_from(files)
    bad = st.one_of(
        st.binary(max_size=300),
        st.tuples(good, st.integers(0, 600)).map(lambda cut: cut[0][: cut[1]]),
        st.tuples(good, st.integers(132, 600), st.integers(0, 255)).map(
            lambda flip: flip[0][: flip[1]] + bytes([flip[2]]) + flip[0][flip[1] + 1 :]
        ),
    )
    parts = st.lists(good if valid else st.one_of(good, bad), min_size=1, max_size=4)
    return parts.map(lambda several: (encode(several), content_type()))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_document_calls_valid_is_answered(fuzzed: Fuzzed, name: str) -> None:
    operation = fuzzed.operations[name]
    fuzzed.make_ready("")
    counts: Counter[int] = Counter()

    @given(st.data())
    @quick(POSITIVE)
    def run(data: st.DataObject) -> None:
        if name.startswith(("Delete", "Restore")):
            fuzzed.make_ready(name)
        case = data.draw(drawn(fuzzed, operation, GenerationMode.POSITIVE, data))
        counts[fuzzed.ask(case).status_code] += 1

    run()
    fine = sum(count for status, count in counts.items() if status < 300)
    assert fine >= ENOUGH * sum(counts.values()), counts


def drawn(fuzzed: Fuzzed, operation: Any, mode: GenerationMode, data: st.DataObject) -> st.SearchStrategy[Case]:
    """Cases of an operation on what the archive holds."""
    fuzzed.prepare(operation)
    given_body: dict[str, Any] = {}
    if operation.method.upper() == "PATCH":
        good = CHANGES[
            "instance" if "{instance}" in operation.path else "series" if "{series}" in operation.path else "study"
        ]
        bad = st.one_of(
            st.binary(max_size=60), st.sampled_from([b"{}", b"[]", b'{"0020000D": null}', b'{"00100010": 1}'])
        )
        body = data.draw(st.sampled_from(good) if mode is GenerationMode.POSITIVE else bad)
        given_body = {"body": body, "media_type": JSON, "headers": {"Content-Type": JSON}}
    elif operation.definition.raw["operationId"] in WORKITEMS:
        good = [orjson.dumps([one]) for one in WORKITEMS[operation.definition.raw["operationId"]]]
        bad = st.one_of(st.binary(max_size=60), st.sampled_from(good).map(lambda text: text[:-3]), st.just(b"[{}]"))
        body = data.draw(st.sampled_from(good) if mode is GenerationMode.POSITIVE else bad)
        given_body = {"body": body, "media_type": JSON, "headers": {"Content-Type": JSON}}
        mode = GenerationMode.POSITIVE  # there is nothing but the body to get wrong
    elif operation.body:
        files = [part10(made)] if (made := fuzzed.non_patient.get(operation.path.split("/")[1])) else None
        body, kind = data.draw(bodies(fuzzed, valid=mode is GenerationMode.POSITIVE, files=files))
        given_body = {"body": body, "media_type": PARTS}
        given_body["headers"] = {"Content-Type": kind}
    places = data.draw(st.sampled_from(fuzzed.places(operation.path)))
    if operation.definition.raw["operationId"] == "CreatePerformedProcedureStep":
        places = {"performed": new_uid()}
    return operation.as_strategy(mode, path_parameters=places, **given_body)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [one.name for one in OPERATIONS if one.parameters or one.answers or one.takes])
def test_what_the_document_calls_invalid_gets_a_documented_answer(fuzzed: Fuzzed, name: str) -> None:
    operation = fuzzed.operations[name]

    @given(st.data(), st.text(SEVEN_BIT, min_size=1, max_size=60))
    @quick(NEGATIVE)
    def run(data: st.DataObject, accept: str) -> None:
        fuzzed.ask(data.draw(drawn(fuzzed, operation, GenerationMode.NEGATIVE, data)), accept.strip() or "*/*")

    run()


@pytest.mark.parametrize("name", [one.name for one in OPERATIONS if "{" in one.path and not one.takes])
def test_paths_that_lead_nowhere_get_a_documented_answer(fuzzed: Fuzzed, name: str) -> None:
    operation = fuzzed.operations[name]
    piece = st.one_of(
        st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,4}){0,6}", fullmatch=True),
        st.text(SEVEN_BIT.filter(lambda one: one not in "/?#%"), min_size=1, max_size=80),
    ).filter(lambda text: text not in (".", ".."))
    gaps = {
        gap: piece
        for gap in (
            "study",
            "series",
            "instance",
            "frames",
            "path",
            "uid",
            "workitem",
            "ae",
            "transaction",
            "performed",
        )
        if f"{{{gap}}}" in operation.path
    }

    @given(st.fixed_dictionaries(gaps).flatmap(lambda filled: operation.as_strategy(path_parameters=filled)))
    @quick(ANYWHERE)
    def run(case: Case) -> None:
        assert fuzzed.ask(case).status_code in (204, 400, 404, 406, 409)

    run()


def test_links_lead_from_what_is_stored_and_found_to_what_can_be_retrieved(fuzzed: Fuzzed) -> None:
    followed: Counter[str] = Counter()
    counts: Counter[int] = Counter()

    class Machine(fuzzed.schema.as_state_machine()):  # type: ignore[misc,name-defined]
        def call(self, case: Case, **_kwargs: Any) -> Any:
            answer = fuzzed.ask(case)
            counts[answer.status_code] += 1
            return schemathesis.Response.from_httpx(answer, verify=True)

        def validate_response(self, response: Any, case: Case, **_kwargs: Any) -> None:
            """Done where it was asked."""

        def after_call(self, response: Any, case: Case) -> None:
            if case.meta and "Stateful" in type(case.meta.phase.data).__name__:
                followed[case.operation.definition.raw["operationId"]] += 1

    assert issubclass(Machine, OpenAPIStateMachine)
    Machine.run(settings=settings(quick(20 * TIMES), stateful_step_count=6))
    assert len(followed) >= 5, followed
    assert counts[200] > 0
