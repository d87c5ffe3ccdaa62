"""UPS-RS (PS3.18 chapter 11) over HTTP: what each transaction does, answers, warns of and refuses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from lxml import etree

from readingroom.clock import SetClock
from server.room import Room
from server.worklist.items import expire_claims, flag_item, item_for_study
from storage.catalog.directory import write_facility, write_reader
from storage.catalog.engine import begin_write
from storage.catalog.ups import performer
from storage.nativexml import from_xml, to_xml
from storage.upsrules import RULES
from tests.directory import facility, reader
from tests.retrieve import ROOT, keep
from tests.synthetic import ct_series, new_uid
from tests.worklist import CODE, add, at_work, attribute, performed, study, workitem

BOTH = pytest.mark.rooms("sqlite", "postgres")
JSON = "application/dicom+json"
WORKITEMS = "/dicomweb/workitems"
TOKEN = "1.2.840.99.1"


def post(client: httpx.Client, path: str, dataset: dict[str, Any], **params: str) -> httpx.Response:
    return client.post(f"{WORKITEMS}{path}", json=[dataset], params=params, headers={"Content-Type": JSON})


def create(client: httpx.Client, **changes: Any) -> str:
    uid = new_uid()
    answer = post(client, "", workitem(**changes), workitem=uid)
    assert answer.status_code == 201, answer.text
    return uid


def shown(client: httpx.Client, uid: str) -> dict[str, Any]:
    answer = client.get(f"{WORKITEMS}/{uid}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
    assert answer.headers["content-location"].endswith(f"{WORKITEMS}/{uid}")
    (dataset,) = answer.json()
    return dataset


def change(client: httpx.Client, uid: str, state: str, token: str | None = TOKEN) -> httpx.Response:
    dataset = {"00741000": attribute("CS", state), "00081195": attribute("UI", *([token] if token else []))}
    return client.put(f"{WORKITEMS}/{uid}/state", json=[dataset], headers={"Content-Type": JSON})


def state_of(client: httpx.Client, uid: str) -> str:
    return str(shown(client, uid)["00741000"]["Value"][0])


def found(client: httpx.Client, **params: str) -> list[str]:
    answer = client.get(WORKITEMS, params=params)
    assert answer.status_code in (200, 204, 206), answer.text
    return [row["00080018"]["Value"][0] for row in (answer.json() if answer.content else [])]


# -- Create and Retrieve -----------------------------------------------------------------------------------------------


@BOTH
def test_what_is_created_is_retrieved_as_it_was_sent(client: httpx.Client) -> None:
    uid = new_uid()
    sent = workitem()
    answer = post(client, "", sent, workitem=uid)
    assert answer.status_code == 201
    assert answer.headers["location"] == answer.headers["content-location"] == f"{ROOT}/workitems/{uid}"
    assert answer.content == b""
    assert "warning" not in answer.headers
    dataset = shown(client, uid)
    assert dataset.pop("00080016") == attribute("UI", "1.2.840.10008.5.1.4.34.6.1")
    assert dataset.pop("00080018") == attribute("UI", uid)
    assert dataset.pop("00404010") == attribute("DT", "20260101120000.000000+0000")
    del sent["00081195"]
    assert dataset == sent
    assert list(dataset) == sorted(dataset)


@pytest.mark.parametrize("how", ["?{}", "?workitem={}", "?AffectedSOPInstanceUID={}", "00001000", "00080018"])
def test_the_uid_is_named_by_the_query_or_in_the_data_set(client: httpx.Client, how: str) -> None:
    uid = new_uid()
    dataset = workitem() if how[0] == "?" else workitem(**{how: attribute("UI", uid)})
    query = how.format(uid) if how[0] == "?" else ""
    answer = client.post(f"{WORKITEMS}{query}", json=dataset, headers={"Content-Type": JSON})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"].endswith(f"/workitems/{uid}")


def test_a_work_item_without_a_uid_gets_one(client: httpx.Client) -> None:
    location = post(client, "", workitem()).headers["location"]
    assert client.get(location).status_code == 200


def test_a_work_item_is_created_once(client: httpx.Client) -> None:
    uid = create(client)
    assert post(client, "", workitem(), workitem=uid).status_code == 409


def test_a_worklist_label_that_is_filled_in_is_warned_of(client: httpx.Client) -> None:
    answer = post(client, "", workitem(**{"00741202": attribute("LO")}))
    assert answer.status_code == 201
    assert answer.headers["warning"] == '299 127.0.0.1: "The Workitem was created with modifications."'
    assert client.get(answer.headers["location"]).json()[0]["00741202"] == attribute("LO", "local")


REQUIRED = [path[0] for path, rule in RULES.items() if len(path) == 1 and rule.create in "12E"]
VALUED = [path[0] for path, rule in RULES.items() if len(path) == 1 and rule.create == "1"]


@pytest.mark.parametrize("tag", REQUIRED)
def test_what_the_standard_requires_of_a_new_work_item_has_to_be_there(client: httpx.Client, tag: str) -> None:
    answer = post(client, "", workitem(**{tag: None}))
    assert answer.status_code == 400
    assert f"({tag[:4]},{tag[4:]})" in answer.text


@pytest.mark.parametrize("tag", VALUED)
def test_what_is_of_type_1_has_to_have_a_value(client: httpx.Client, tag: str) -> None:
    empty = {"vr": workitem()[tag]["vr"]}
    assert post(client, "", workitem(**{tag: empty})).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"00741000": attribute("CS", "IN PROGRESS")},
        {"00741200": attribute("CS", "STAT")},
        {"00404041": attribute("CS", "MAYBE")},
        {"00081195": attribute("UI", "1.2.3")},
        {"00741002": attribute("SQ", {"00741004": attribute("DS", 10)})},
        {"00404005": attribute("DT", "soon")},
        {"00100010": attribute("LO", "Doe")},
        {"00404034": attribute("SQ", {"00404037": attribute("PN", {"Alphabetic": "Doe"})})},
        {"0040A370": attribute("SQ", {"00080050": attribute("SH", "A1")})},
        {"00404021": {"vr": "SQ", "BulkDataURI": "http://elsewhere/"}},
    ],
)
def test_a_work_item_that_breaks_a_rule_is_400_with_a_reason(client: httpx.Client, changes: dict[str, Any]) -> None:
    answer = post(client, "", workitem(**changes))
    assert answer.status_code == 400
    assert len(answer.text.splitlines()) == 1
    assert "Doe" not in answer.text


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", JSON, 400),
        (b"{", JSON, 400),
        (b"[]", JSON, 400),
        (b"[{}, {}]", JSON, 400),
        (b"[" * 5000, JSON, 400),
        (b"<a/>", "application/dicom+xml", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b'{"1": 1}' + b" " * (1 << 20), JSON, 413),
    ],
)
def test_a_body_that_is_none_is_refused(client: httpx.Client, body: bytes, kind: str, status: int) -> None:
    for method, path in (("POST", ""), ("POST", "/1.2.3"), ("PUT", "/1.2.3/state")):
        answer = client.request(method, WORKITEMS + path, content=body, headers={"Content-Type": kind})
        assert answer.status_code == status, (method, path)


def test_private_and_unknown_attributes_are_kept(client: httpx.Client) -> None:
    added = {
        "00090010": attribute("LO", "ACME"),
        "00091001": attribute("SH", "x"),
        "00091002": {"vr": "UN", "InlineBinary": "AAE="},
        "00101010": attribute("AS", "056Y"),
    }
    dataset = shown(client, create(client, **added))
    assert {tag: dataset[tag] for tag in added} == added


def test_a_work_item_comes_and_goes_as_xml(client: httpx.Client) -> None:
    uid = new_uid()
    body = to_xml(workitem())
    answer = client.post(f"{WORKITEMS}?{uid}", content=body, headers={"Content-Type": "application/dicom+xml"})
    assert answer.status_code == 201, answer.text
    parts = b"--b\r\nContent-Type: application/dicom+xml\r\n\r\n" + body + b"\r\n--b--\r\n"
    multipart = 'multipart/related; type="application/dicom+xml"; boundary=b'
    again = client.post(WORKITEMS, content=parts, headers={"Content-Type": multipart})
    assert again.status_code == 201, again.text
    accept = {"Accept": 'multipart/related; type="application/dicom+xml"'}
    answer = client.get(f"{WORKITEMS}/{uid}", headers=accept)
    assert answer.headers["content-type"].startswith('multipart/related; type="application/dicom+xml"; boundary=')
    document = answer.content.partition(b"\r\n\r\n")[2].partition(b"\r\n--")[0]
    etree.fromstring(document)
    assert from_xml(document) == shown(client, uid)
    listed = client.get(WORKITEMS, headers=accept)
    assert listed.content.count(b"<NativeDicomModel") == 2


def test_a_work_item_that_is_not_there_is_404(client: httpx.Client) -> None:
    assert client.get(f"{WORKITEMS}/1.2.3").status_code == 404
    assert post(client, "/1.2.3", {}).status_code == 404
    assert change(client, "1.2.3", "IN PROGRESS").status_code == 404
    assert post(client, "/1.2.3/cancelrequest", {}).status_code == 404


def test_what_cannot_be_sent_is_406(client: httpx.Client) -> None:
    uid = create(client)
    for path in ("", f"/{uid}"):
        assert client.get(WORKITEMS + path, headers={"Accept": "image/jpeg"}).status_code == 406


@BOTH
def test_a_facility_has_its_own_worklist(client: httpx.Client) -> None:
    answer = client.post("/dicomweb/f/north/workitems", json=workitem(), headers={"Content-Type": JSON})
    location = answer.headers["location"]
    assert "/f/north/workitems/" in location
    uid = location.rpartition("/")[2]
    assert client.get(location).status_code == 200
    assert client.get(f"/dicomweb/f/south/workitems/{uid}").status_code == 404
    assert client.get("/dicomweb/f/south/workitems").status_code == 204
    assert found(client) == [uid]


# -- Change Workitem State ---------------------------------------------------------------------------------------------


@BOTH
def test_a_work_item_is_claimed_worked_on_and_completed(client: httpx.Client) -> None:
    uid = create(client)
    assert change(client, uid, "IN PROGRESS").status_code == 200
    dataset = shown(client, uid)
    assert dataset["00741000"]["Value"] == ["IN PROGRESS"]
    assert TOKEN not in str(dataset)
    progress = {"00741002": attribute("SQ", {"00741004": attribute("DS", 50)})}
    assert post(client, f"/{uid}", progress, **{"transaction-uid": TOKEN}).status_code == 200
    early = change(client, uid, "COMPLETED")
    assert early.status_code == 409
    assert "UnifiedProcedureStepPerformedProcedureSequence (0074,1216)" in early.text
    assert early.headers["warning"].endswith(
        '"The submitted request is inconsistent with the state of the UPS Instance."'
    )
    assert post(client, f"/{uid}", performed(), **{"transaction-uid": TOKEN}).status_code == 200
    done = change(client, uid, "COMPLETED")
    assert (done.status_code, done.content) == (200, b"")
    dataset = shown(client, uid)
    assert dataset["00741000"]["Value"] == ["COMPLETED"]
    assert dataset["00741002"]["Value"] == [{"00741004": attribute("DS", 50.0)}]
    assert dataset["00741216"] == performed()["00741216"]


# What the standard's state machine answers (PS3.4 Table CC.1.1-2) to each request in each state.
MISSING, WRONG = '"The Transaction UID is missing."', '"The Transaction UID is incorrect."'
INCONSISTENT = '"The submitted request is inconsistent with the state of the UPS Instance."'
TABLE = [
    ("SCHEDULED", "IN PROGRESS", TOKEN, 200, None),
    ("SCHEDULED", "IN PROGRESS", None, 400, MISSING),
    ("SCHEDULED", "COMPLETED", TOKEN, 409, INCONSISTENT),
    ("SCHEDULED", "CANCELED", TOKEN, 409, INCONSISTENT),
    ("SCHEDULED", "COMPLETED", None, 400, MISSING),
    ("IN PROGRESS", "IN PROGRESS", TOKEN, 409, INCONSISTENT),
    ("IN PROGRESS", "IN PROGRESS", None, 400, MISSING),
    ("IN PROGRESS", "COMPLETED", TOKEN, 200, None),
    ("IN PROGRESS", "COMPLETED", "1.2.3", 409, WRONG),
    ("IN PROGRESS", "COMPLETED", None, 400, MISSING),
    ("IN PROGRESS", "CANCELED", TOKEN, 200, None),
    ("IN PROGRESS", "CANCELED", "1.2.3", 409, WRONG),
    ("COMPLETED", "IN PROGRESS", TOKEN, 409, INCONSISTENT),
    ("COMPLETED", "COMPLETED", TOKEN, 200, '"The UPS is already in the requested state of COMPLETED."'),
    ("COMPLETED", "COMPLETED", "1.2.3", 409, WRONG),
    ("COMPLETED", "CANCELED", TOKEN, 409, INCONSISTENT),
    ("CANCELED", "IN PROGRESS", TOKEN, 409, INCONSISTENT),
    ("CANCELED", "COMPLETED", TOKEN, 409, INCONSISTENT),
    ("CANCELED", "CANCELED", TOKEN, 200, '"The UPS is already in the requested state of CANCELED."'),
    ("CANCELED", "CANCELED", "1.2.3", 409, WRONG),
    ("SCHEDULED", "SCHEDULED", TOKEN, 400, None),
    ("IN PROGRESS", "SCHEDULED", TOKEN, 400, None),
    ("SCHEDULED", "HELD", TOKEN, 400, None),
]


def bring(client: httpx.Client, uid: str, state: str) -> None:
    """Take a new work item to a state."""
    if state != "SCHEDULED":
        assert change(client, uid, "IN PROGRESS").status_code == 200
        assert post(client, f"/{uid}", performed(), **{"transaction-uid": TOKEN}).status_code == 200
    if state in ("COMPLETED", "CANCELED"):
        assert change(client, uid, state).status_code == 200


@pytest.mark.parametrize(("state", "wanted", "token", "status", "warning"), TABLE)
def test_a_change_of_state_is_answered_as_the_table_says(
    client: httpx.Client, state: str, wanted: str, token: str | None, status: int, warning: str | None
) -> None:
    uid = create(client)
    bring(client, uid, state)
    answer = change(client, uid, wanted, token)
    assert answer.status_code == status, answer.text
    assert answer.headers.get("warning") == (f"299 127.0.0.1: {warning}" if warning else None)
    is_changed = status == 200 and not warning
    assert state_of(client, uid) == (wanted if is_changed else state)


def test_who_cancels_what_is_claimed_need_not_say_when_and_why(client: httpx.Client, clock: SetClock) -> None:
    uid = create(client)
    bring(client, uid, "IN PROGRESS")
    clock.advance(timedelta(minutes=5))
    assert change(client, uid, "CANCELLED").status_code == 200
    (progress,) = shown(client, uid)["00741002"]["Value"]
    assert progress["00404052"]["Value"] == ["20260101120500.000000+0000"]
    assert progress["0074100E"]["Value"][0]["00080100"]["Value"] == ["110513"]


def test_what_others_made_stays_claimed_until_they_end_it(room: Room, client: httpx.Client, clock: SetClock) -> None:
    uid = create(client)
    bring(client, uid, "IN PROGRESS")
    clock.advance(timedelta(days=3))
    assert expire_claims(room.engine, clock.now()) == 0
    assert state_of(client, uid) == "IN PROGRESS"


# -- Update ------------------------------------------------------------------------------------------------------------


def test_a_scheduled_work_item_is_updated_without_a_transaction_uid(client: httpx.Client) -> None:
    uid = create(client)
    changes = {
        "00741200": attribute("CS", "HIGH"),
        "00741204": attribute("LO", "Look again"),
        "00404041": attribute("CS", "UNAVAILABLE"),
        "00404011": attribute("DT", "20260101150000+0100"),
        "00404025": attribute("SQ", CODE),
    }
    answer = post(client, f"/{uid}", changes)
    assert (answer.status_code, answer.content, answer.headers.get("warning")) == (200, b"", None)
    dataset = shown(client, uid)
    assert {tag: dataset[tag] for tag in changes} == changes
    assert post(client, f"/{uid}", {"00404041": attribute("CS", "READY")}).status_code == 200
    assert shown(client, uid)["00404041"]["Value"] == ["READY"]


@pytest.mark.parametrize(
    "spelling", ["transaction-uid", "Transaction-uid", "transaction", "TransactionUID", "00081195", ""]
)
def test_the_transaction_uid_is_found_however_it_is_spelled(client: httpx.Client, spelling: str) -> None:
    uid = create(client)
    bring(client, uid, "IN PROGRESS")
    query = f"{spelling}={TOKEN}" if spelling else TOKEN
    answer = client.post(f"{WORKITEMS}/{uid}?{query}", json=[performed()], headers={"Content-Type": JSON})
    assert answer.status_code == 200, answer.text
    assert post(client, f"/{uid}", {**performed(), "00081195": attribute("UI", TOKEN)}).status_code == 200


NOT_CLAIMED = '"The target URI did not reference a claimed Workitem."'
NOT_NOW = '"The submitted request is inconsistent with the current state of the Workitem."'


@pytest.mark.parametrize(
    ("state", "token", "status", "warning"),
    [
        ("SCHEDULED", TOKEN, 409, NOT_CLAIMED),
        ("IN PROGRESS", "", 400, NOT_NOW),
        ("IN PROGRESS", "1.2.3", 409, NOT_NOW),
        ("COMPLETED", TOKEN, 400, NOT_NOW),
        ("COMPLETED", "", 400, NOT_NOW),
        ("CANCELED", TOKEN, 400, NOT_NOW),
    ],
)
def test_an_update_that_the_state_forbids_is_refused_with_the_standards_warning(
    client: httpx.Client, state: str, token: str, status: int, warning: str
) -> None:
    uid = create(client)
    bring(client, uid, state)
    before = shown(client, uid)
    answer = post(
        client, f"/{uid}", {"00741204": attribute("LO", "x")}, **({"transaction-uid": token} if token else {})
    )
    assert (answer.status_code, answer.headers["warning"]) == (status, f"299 127.0.0.1: {warning}")
    assert shown(client, uid) == before


FORBIDDEN = [path[0] for path, rule in RULES.items() if len(path) == 1 and rule.update == "-"]


@pytest.mark.parametrize("tag", FORBIDDEN)
def test_what_cannot_be_set_by_an_update_is_400(client: httpx.Client, tag: str) -> None:
    uid = create(client)
    value = workitem(**{"00741224": attribute("SQ"), "00100020": attribute("LO", "P2")}).get(
        tag, attribute("UI", "1.2")
    )
    assert post(client, f"/{uid}", {tag: value}).status_code == 400


def test_an_update_is_whole_or_not_at_all(client: httpx.Client) -> None:
    uid = create(client)
    before = shown(client, uid)
    assert (
        post(client, f"/{uid}", {"00741204": attribute("LO", "x"), "00741200": attribute("CS", "X")}).status_code == 400
    )
    assert shown(client, uid) == before


def test_what_this_server_sets_itself_is_warned_of(client: httpx.Client) -> None:
    uid = create(client)
    answer = post(client, f"/{uid}", {"00404010": attribute("DT", "1999")})
    assert answer.headers["warning"].endswith('"The Workitem was updated with modifications."')


# -- Request Cancellation ----------------------------------------------------------------------------------------------


def test_what_nobody_has_claimed_is_cancelled_at_once(client: httpx.Client) -> None:
    uid = create(client)
    reason = {"00741238": attribute("LT", "ordered twice"), "0074100E": attribute("SQ", CODE)}
    answer = post(client, f"/{uid}/cancelrequest", reason)
    assert (answer.status_code, answer.content) == (202, b"")
    dataset = shown(client, uid)
    assert dataset["00741000"]["Value"] == ["CANCELED"]
    (progress,) = dataset["00741002"]["Value"]
    assert progress == {**reason, "00404052": attribute("DT", "20260101120000.000000+0000")}
    again = client.post(f"{WORKITEMS}/{uid}/cancelrequest")
    assert again.status_code == 202
    assert again.headers["warning"].endswith('"The UPS is already in the requested state of CANCELED."')


def test_who_has_claimed_it_is_asked_to_cancel_and_need_not(client: httpx.Client) -> None:
    uid = create(client)
    bring(client, uid, "IN PROGRESS")
    assert client.post(f"{WORKITEMS}/{uid}/cancelrequest").status_code == 202
    assert state_of(client, uid) == "IN PROGRESS"
    assert change(client, uid, "COMPLETED").status_code == 200
    answer = client.post(f"{WORKITEMS}/{uid}/cancelrequest")
    assert (answer.status_code, answer.headers["warning"]) == (409, '299 127.0.0.1: "The UPS is already COMPLETED."')


# -- Search ------------------------------------------------------------------------------------------------------------


@BOTH
def test_searches_match_in_every_way_that_searches_of_studies_do(client: httpx.Client) -> None:
    request = attribute(
        "SQ",
        {
            "00080050": attribute("SH", "A1"),
            "00080051": attribute("SQ"),
            "0020000D": attribute("UI", "1.2.840.5"),
            "00321060": attribute("LO"),
            "00321064": attribute("SQ"),
            "00400026": attribute("SQ"),
            "00400027": attribute("SQ"),
            "00401001": attribute("SH", "R1"),
        },
    )
    first = create(client, **{"0040A370": request, "00404005": attribute("DT", "20260105")})
    second = create(client, **{"00100010": attribute("PN", {"Alphabetic": "Doe^Jane"}), "00404018": attribute("SQ")})
    assert found(client) == [second, first]
    for params, expected in (
        ({"PatientName": "müller*"}, [first]),
        ({"PatientName": "mueller", "fuzzymatching": "true"}, [first]),
        ({"ReferencedRequestSequence.AccessionNumber": "A1"}, [first]),
        ({"0040A370.00401001": "R?", "0040A370.00080050": "A1"}, [first]),
        ({"ScheduledProcedureStepStartDateTime": "20260102-"}, [first]),
        ({"00404005": "-20260101235959"}, [second]),
        ({"ScheduledWorkitemCodeSequence.CodeValue": "121"}, [first]),
        ({"ScheduledWorkitemCodeSequence.CodeValue": '""', "emptyvaluematching": "true"}, [second]),
        ({"ProcedureStepState": "SCHEDULED", "ScheduledProcedureStepPriority": "MEDIUM"}, [second, first]),
        ({"ProcedureStepState": "COMPLETED"}, []),
        ({"SOPInstanceUID": f"{first},{second}"}, [second, first]),
        ({"PatientID": "*"}, [second, first]),
        ({"WorklistLabel": "LUNG*", "PatientBirthDate": "19700101"}, [second, first]),
    ):
        assert found(client, **params) == expected, params


def test_an_answer_has_what_the_standard_lists_and_what_was_asked_for(client: httpx.Client) -> None:
    create(client)
    (row,) = client.get(WORKITEMS).json()
    listed = {path[0] for path, rule in RULES.items() if len(path) == 1 and rule.answer in "12"}
    assert listed <= set(row)
    assert not {"00400400", "00741002", "00741216", "00404010"} & set(row)
    (row,) = client.get(WORKITEMS, params={"includefield": "00741216,CommentsOnTheScheduledProcedureStep"}).json()
    assert {"00741216", "00400400"} <= set(row)
    (row,) = client.get(WORKITEMS, params={"includefield": "all"}).json()
    assert row == client.get(f"{WORKITEMS}/{row['00080018']['Value'][0]}").json()[0]


def test_pages_follow_each_other_and_say_that_there_is_more(client: httpx.Client) -> None:
    uids = [create(client) for _ in range(7)]
    seen: list[str] = []
    url = f"{WORKITEMS}?limit=3&PatientID=P1"
    statuses = []
    while url:
        answer = client.get(url)
        statuses.append(answer.status_code)
        seen += [row["00080018"]["Value"][0] for row in answer.json()]
        assert ("additional results" in answer.headers.get("warning", "")) == (answer.status_code == 206)
        create(client)  # what comes meanwhile moves no page
        url = answer.links.get("next", {}).get("url", "")
    assert seen == uids[::-1]
    assert statuses == [206, 206, 200]
    assert found(client, offset="3", limit="4") == found(client)[3:7]
    assert client.get(f"{WORKITEMS}?limit=0").status_code == 204


@pytest.mark.parametrize(
    "query",
    ["limit=x", "offset=-1", "fuzzymatching=maybe", "PriorRecordKey=AAAA", "ScheduledProcedureStepStartDateTime=x"],
)
def test_a_search_that_cannot_be_read_is_400(client: httpx.Client, query: str) -> None:
    assert client.get(f"{WORKITEMS}?{query}").status_code == 400


def test_a_parameter_that_is_not_matched_is_warned_of(client: httpx.Client) -> None:
    create(client)
    answer = client.get(WORKITEMS, params={"Nonsense": "1", "PixelData": "1"})
    assert answer.status_code == 200
    assert "Nonsense, PixelData" in answer.headers["warning"]


# -- our own items, seen as UPS ----------------------------------------------------------------------------------------


@BOTH
def test_a_reading_is_a_ups_of_its_study(room: Room, client: httpx.Client) -> None:
    series = ct_series(2)
    for one in series:
        one.StudyDescription, one.AccessionNumber = "CT Head", "A7"
    keep(client, *series)
    uid = str(series[0].StudyInstanceUID)
    with at_work(room.engine) as work:
        item = item_for_study(work, study(study_uid=uid, accession_number="A7"))
        flag_item(work, item, "blood", "stat")
    dataset = shown(client, item.workitem_uid)
    assert {path[0] for path, rule in RULES.items() if len(path) == 1 and rule.create in "12"} <= set(dataset)
    assert dataset["00100010"]["Value"] == [{"Alphabetic": "Phantom^Ada"}]
    assert dataset["00741204"]["Value"] == ["Interpretation: CT Head"]
    assert dataset["00741200"]["Value"] == ["HIGH"]
    assert dataset["00400400"]["Value"] == ["blood"]
    assert dataset["00404018"]["Value"][0]["00080100"]["Value"] == ["110005"]
    (source,) = dataset["00404021"]["Value"]
    url = source["0040E025"]["Value"][0]["00081190"]["Value"][0]
    assert url == f"{ROOT}/studies/{uid}"
    assert client.get(f"{url}/metadata").status_code == 200
    assert dataset["0040A370"]["Value"][0]["00080050"]["Value"] == ["A7"]
    assert found(client, **{"PatientName": "phantom*", "0040A370.0020000D": uid}) == [item.workitem_uid]


def named(*ids: str) -> dict[str, Any]:
    """A sequence of human performers."""
    return attribute(
        "SQ",
        *(
            {
                "00404009": attribute("SQ", {**CODE, "00080100": attribute("SH", id)}),
                "00404036": attribute("LO", "local"),
                "00404037": attribute("PN", {"Alphabetic": id}),
            }
            for id in ids
        ),
    )


def test_a_reading_is_offered_claimed_and_completed_through_ups(room: Room, client: httpx.Client) -> None:
    uid = add(room.engine).workitem_uid
    assert post(client, f"/{uid}", {"00404034": named("ada")}).status_code == 200
    (performer,) = shown(client, uid)["00404034"]["Value"]
    assert performer["00404009"]["Value"][0]["00080100"]["Value"] == ["ada"]
    assert post(client, f"/{uid}", {"00404034": attribute("SQ")}).status_code == 200
    assert "00404034" not in shown(client, uid)
    assert post(client, f"/{uid}", {"00404034": named("ada", "ada")}).status_code == 400
    assert post(client, f"/{uid}", {"00404034": named("ada")}).status_code == 200
    bring(client, uid, "COMPLETED")
    dataset = shown(client, uid)
    assert dataset["00741000"]["Value"] == ["COMPLETED"]
    assert dataset["00404034"]["Value"] == [performer]


@BOTH
def test_a_reading_is_claimed_by_whom_the_directory_lets_read_it(room: Room, client: httpx.Client) -> None:
    item = add(room.engine)
    with begin_write(room.engine) as connection:
        write_facility(connection, facility("local"), room.clock.now())
        write_reader(connection, reader(name="Ada Lovelace", credentials=[{"facility": "local"}]))
        write_reader(connection, reader("bob", licences=[], credentials=[{"facility": "local"}]))

    def claim(*readers: str) -> httpx.Response:
        dataset = {"00741000": attribute("CS", "IN PROGRESS"), "00081195": attribute("UI", TOKEN)}
        dataset["00404035"] = named(*readers)
        return client.put(f"{WORKITEMS}/{item.workitem_uid}/state", json=[dataset], headers={"Content-Type": JSON})

    refused = claim("bob")
    assert refused.status_code == 403
    assert "no licence for US-TX" in refused.text
    assert claim().status_code == 403
    assert "local-operator is no active reader" in claim().text
    assert (claim("").status_code, claim("ada", "bob").status_code) == (400, 400)
    assert post(client, f"/{item.workitem_uid}", {"00404034": named("bob")}).status_code == 403
    assert state_of(client, item.workitem_uid) == "SCHEDULED"
    assert claim("ada").status_code == 200
    dataset = shown(client, item.workitem_uid)
    (scheduled,) = dataset["00404034"]["Value"]
    assert scheduled["00404037"]["Value"] == [{"Alphabetic": "Ada Lovelace"}]
    assert scheduled["00404009"]["Value"][0]["00080100"]["Value"] == ["ada"]
    assert dataset["00741216"]["Value"] == [{"00404035": attribute("SQ", scheduled)}]
    assert found(client, **{"00404034.00404037": "ada l*"}) == [item.workitem_uid]


def test_a_name_is_one_component_of_one_value_whatever_it_holds() -> None:
    made = performer("ada", "Ada^M=D\\ Lovelace " + "x" * 80, "mercy")
    assert made["00404037"] == attribute("PN", {"Alphabetic": ("Ada M D/ Lovelace " + "x" * 80)[:64]})
    (coded,) = made["00404009"]["Value"]
    assert coded["00080104"] == attribute("LO", ("Ada^M=D/ Lovelace " + "x" * 80)[:64])


def test_a_reading_that_is_completed_has_its_reader_beside_what_the_reader_set(
    room: Room, client: httpx.Client
) -> None:
    uid = add(room.engine).workitem_uid
    bring(client, uid, "COMPLETED")
    (done,) = shown(client, uid)["00741216"]["Value"]
    assert done["00404035"]["Value"][0]["00404009"]["Value"][0]["00080100"]["Value"] == ["local-operator"]
    assert "00404050" in done


def test_the_due_time_of_a_reading_is_its_contracts(room: Room, client: httpx.Client) -> None:
    uid = add(room.engine).workitem_uid
    answer = post(client, f"/{uid}", {"00404011": attribute("DT", "20300101")})
    assert answer.headers["warning"].endswith('"Requested optional Attributes are not supported."')
    assert "00404011" not in shown(client, uid)


def test_a_claim_through_ups_that_is_abandoned_is_scheduled_again(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    uid = add(room.engine, clock).workitem_uid
    assert change(client, uid, "IN PROGRESS").status_code == 200
    clock.advance(timedelta(minutes=room.settings.claim_minutes))
    assert expire_claims(room.engine, clock.now()) == 1
    assert state_of(client, uid) == "SCHEDULED"
    assert change(client, uid, "COMPLETED").status_code == 409
    assert change(client, uid, "IN PROGRESS", "1.2.9").status_code == 200
