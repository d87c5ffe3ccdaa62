"""Work items are created, retrieved, updated and searched for (PS3.18 11.4 to 11.6, 11.9)."""

from __future__ import annotations

from conformance.dicomweb.areas.capabilities import described, methods, resources
from conformance.dicomweb.areas.xmlchecks import native_of
from conformance.dicomweb.cast import STORE_TYPE, Cast
from conformance.dicomweb.checks import MAY, SHOULD, Fault, check, ensure
from conformance.dicomweb.jsonmodel import blemishes, first, said
from conformance.dicomweb.multipart import write_multipart
from conformance.dicomweb.nativexml import write_native
from conformance.dicomweb.peer import JSON, XML_PARTS, Answer, Peer
from conformance.dicomweb.worklist import PROGRESS, STATION, DataSet, Worklist, code, element

MULTIPART_XML = STORE_TYPE.replace("application/dicom", "application/dicom+xml")
CREATED = {"00080016", "00080018", "00081195", "00404010"}
"""What a server sets itself, or keeps to itself."""

ALWAYS = """
00080016 00080018 00100010 00100021 00100024 00100030 00100040 00101002 00380010 00380014 00404005 00404018 00404021
00404025 00404026 00404027 00404041 0040A370 00741000 00741200 00741202 00741204 00741210
""".split()
"""Return Key Type 1 or 2 (PS3.4 Table CC.2.5-3)."""


def named(tag: str) -> str:
    """A tag as people write it."""
    return f"({tag[:4]},{tag[4:]})"


def warned(answer: Answer, *texts: str) -> None:
    """Raise a `Fault` unless the answer has a Warning with one of these texts, in whatever case."""
    found = answer.headers.get_list("warning")
    is_there = any(one.startswith("299 ") and text.lower() in one.lower() for one in found for text in texts)
    ensure(is_there, f"{answer.named} answers {answer.status} with the Warnings {found}, not 299 with {texts[0]!r}")


def ensure_same(sent: DataSet, came: DataSet) -> None:
    """Every attribute that was sent has come back as it was."""
    for tag, attribute in sent.items():
        if tag not in CREATED and came.get(tag) != attribute:
            raise Fault(f"{named(tag)} was sent as {attribute} and comes back as {came.get(tag)}")


@check("UPS-001", "11.1", MAY)
def is_offered(peer: Peer, cast: Cast) -> None:
    """There is a worklist."""
    if why := cast.missing("worklist"):
        raise Fault(why)
    answer = peer.get("/workitems", "limit=1", accept=JSON).expect(200, 204, 206)
    ensure(answer.status == 204 or isinstance(answer.json(), list), "the worklist is no array")


@check("UPS-018", "11.2", needs="worklist")
def is_described(peer: Peer, cast: Cast) -> None:
    """The capabilities describe the worklist, with the methods that search and create."""
    cast.require("capabilities")
    found = {path: methods(one) for path, one in resources(described(peer)).items()}
    ensure("workitems" in found, "workitems is not described")
    ensure({"GET", "POST"} <= found["workitems"], f"workitems has the methods {sorted(found['workitems'])}")


# -- Create ------------------------------------------------------------------------------------------------------------


@check("UPS-002", "11.4.3.1", needs="worklist")
def created(peer: Peer, cast: Cast) -> None:
    """A work item that is created is answered by 201, with its URL in Location.

    Its UID is the query of the request.
    """
    uid = cast.worklist.new_uid()
    answer = cast.worklist.post(cast.worklist.dataset(), uid).expect(201)
    location = answer.headers.get("location", "")
    ensure(location.endswith(f"/workitems/{uid}"), f"Location is {location!r}")
    rows = peer.get(location if "://" in location else f"/workitems/{uid}", accept=JSON).rows()
    ensure([first(row, "00080018") for row in rows] == [uid], "at its Location there is another")


@check("UPS-003", "11.4.3.3", SHOULD, needs="worklist")
def created_without_payload(peer: Peer, cast: Cast) -> None:
    """The answer to a creation has no payload."""
    uid = cast.worklist.new_uid()
    answer = cast.worklist.post(cast.worklist.dataset(), uid).expect(201)
    ensure(not answer.body, f"it has {len(answer.body)} bytes")


@check("UPS-004", "11.4.1.2", SHOULD, needs="worklist")
def uid_as_parameter(peer: Peer, cast: Cast) -> None:
    """The UID of a new work item can be the value of the query parameter workitem."""
    uid = cast.worklist.new_uid()
    cast.worklist.post(cast.worklist.dataset(), f"workitem={uid}").expect(201)
    ensure(cast.worklist.state(uid) == "SCHEDULED", "it is not there under that UID")


@check("UPS-005", "11.4.1.1", needs="worklist")
def uid_in_the_data_set(peer: Peer, cast: Cast) -> None:
    """Without a UID in the query, a work item has the one in its data set."""
    uid = cast.worklist.new_uid()
    cast.worklist.post(cast.worklist.dataset(x00080018=element("UI", uid))).expect(201)
    ensure(cast.worklist.state(uid) == "SCHEDULED", "it is not there under that UID")


@check("UPS-006", "11.4.2", needs="worklist")
def created_once(peer: Peer, cast: Cast) -> None:
    """A UID that there is already is answered by 409, and the first work item stays as it is."""
    uid = cast.worklist.create()
    other = cast.worklist.dataset(x00741204=element("LO", "Another"))
    cast.worklist.post(other, uid).expect(409)
    ensure(first(cast.worklist.shown(uid), "00741204") != "Another", "it has been replaced")


@check("UPS-007", "11.4.2", needs="worklist")
def kept_as_sent(peer: Peer, cast: Cast) -> None:
    """A new work item is SCHEDULED, and has what was sent; a change of the server's is told by a Warning."""
    uid, sent = cast.worklist.new_uid(), cast.worklist.dataset()
    answer = cast.worklist.post(sent, uid).expect(201)
    came = cast.worklist.shown(uid)
    ensure(first(came, "00741000") == "SCHEDULED", f"its state is {first(came, '00741000')}")
    try:
        ensure_same(sent, came)
    except Fault:
        if not any("with modifications" in one for one in answer.headers.get_list("warning")):
            raise


@check("UPS-008", "PS3.4 CC.2.5.3", needs="worklist")
def not_scheduled(peer: Peer, cast: Cast) -> None:
    """A new work item in any other state than SCHEDULED is answered by 400, and not created."""
    for state in ("IN PROGRESS", "COMPLETED", "CANCELED", "LOST"):
        uid = cast.worklist.new_uid()
        cast.worklist.post(cast.worklist.dataset(x00741000=element("CS", state)), uid).expect(400)
        peer.get(f"/workitems/{uid}", accept=JSON).expect(404)


@check("UPS-009", "PS3.4 Table CC.2.5-3", needs="worklist")
def required_with_a_value(peer: Peer, cast: Cast) -> None:
    """A new work item without an attribute of Type 1 is answered by 400."""
    for tag in ("00741200", "00741204", "00404005", "00404041", "00741000"):
        cast.worklist.post(cast.worklist.dataset(**{f"x{tag}": None}), cast.worklist.new_uid()).expect(400)


@check("UPS-010", "PS3.4 Table CC.2.5-3", needs="worklist")
def required_and_empty(peer: Peer, cast: Cast) -> None:
    """A new work item with an attribute of Type 1 that has no value is answered by 400."""
    for tag, vr in (("00741200", "CS"), ("00741204", "LO"), ("00404005", "DT"), ("00404041", "CS")):
        dataset = cast.worklist.dataset(**{f"x{tag}": element(vr)})
        cast.worklist.post(dataset, cast.worklist.new_uid()).expect(400)


@check("UPS-011", "PS3.4 Table CC.2.5-3", SHOULD, needs="worklist")
def required_of_type_2(peer: Peer, cast: Cast) -> None:
    """A new work item without an attribute of Type 2 is answered by 400."""
    for tag in ("00100010", "0040A370", "00404018"):
        cast.worklist.post(cast.worklist.dataset(**{f"x{tag}": None}), cast.worklist.new_uid()).expect(400)


@check("UPS-012", "PS3.4 Table CC.2.5-3", SHOULD, needs="worklist")
def required_in_items(peer: Peer, cast: Cast) -> None:
    """A new work item whose items of sequences lack what is of Type 1 is answered by 400."""
    nameless = element("SQ", {"00404037": element("PN", {"Alphabetic": "Nobody"})})
    cast.worklist.post(cast.worklist.dataset(x00404034=nameless), cast.worklist.new_uid()).expect(400)


@check("UPS-013", "PS3.4 Table CC.2.5-3", SHOULD, needs="worklist")
def created_with_a_lock(peer: Peer, cast: Cast) -> None:
    """A new work item that has a Transaction UID already is answered by 400."""
    dataset = cast.worklist.dataset(x00081195=element("UI", cast.worklist.new_uid()))
    cast.worklist.post(dataset, cast.worklist.new_uid()).expect(400)


@check("UPS-014", "PS3.3 C.30.2", SHOULD, needs="worklist")
def enumerated_values(peer: Peer, cast: Cast) -> None:
    """A priority or an input readiness state that is none is answered by 400."""
    for tag, value in (("00741200", "STAT"), ("00404041", "PERHAPS")):
        dataset = cast.worklist.dataset(**{f"x{tag}": element("CS", value)})
        cast.worklist.post(dataset, cast.worklist.new_uid()).expect(400)


@check("UPS-015", "11.1.3", needs="worklist")
def created_by_xml(peer: Peer, cast: Cast) -> None:
    """A work item is created from multipart/related; type="application/dicom+xml" as well, which is required."""
    uid, sent = cast.worklist.new_uid(), cast.worklist.dataset()
    body = write_multipart([("application/dicom+xml", write_native(sent))])
    cast.worklist.post_body(MULTIPART_XML, body, uid).expect(201)
    came = cast.worklist.shown(uid)
    for tag in ("00100010", "00741204", "00404018"):
        ensure(came.get(tag) == sent[tag], f"{named(tag)} comes back as {came.get(tag)}")


@check("UPS-016", "8.5", needs="worklist")
def other_media(peer: Peer, cast: Cast) -> None:
    """A work item in a media type that is not supported is answered by 415."""
    cast.worklist.post_body("text/plain", b"Read this", cast.worklist.new_uid()).expect(415)


@check("UPS-017", "11.4.3.1", needs="worklist")
def malformed(peer: Peer, cast: Cast) -> None:
    """A body that is no data set is answered by 400."""
    for body in (b"", b"{", b"[]", b"[1]", b'"text"'):
        cast.worklist.post_body(JSON, body, cast.worklist.new_uid()).expect(400)


# -- Retrieve ----------------------------------------------------------------------------------------------------------


@check("UPS-020", "11.5.3.3", needs="worklist")
def as_json(peer: Peer, cast: Cast) -> None:
    """A work item is retrieved as DICOM JSON, which is the default."""
    uid = cast.worklist.create()
    answer = peer.get(f"/workitems/{uid}", accept="*/*").expect(200).expect_type(JSON)
    rows = answer.rows()
    ensure(len(rows) == 1, f"there are {len(rows)} data sets")
    breaches = [str(blemish) for blemish in blemishes(rows[0])]
    ensure(not breaches, said(breaches))


@check("UPS-021", "11.1.3", needs="worklist")
def as_xml(peer: Peer, cast: Cast) -> None:
    """A work item is retrieved as multipart/related; type="application/dicom+xml", and says the same."""
    uid = cast.worklist.create()
    (part,) = peer.get(f"/workitems/{uid}", accept=XML_PARTS).parts()
    native = native_of(part)
    ensure(not native.blemishes, said(native.blemishes))
    other = cast.worklist.shown(uid)
    differ = [tag for tag in {*native.dataset, *other} if native.dataset.get(tag) != other.get(tag)]
    ensure(not differ, f"{', '.join(map(named, sorted(differ)))} differ from the JSON")


@check("UPS-022", "11.5.3.1", needs="worklist")
def unknown(peer: Peer, cast: Cast) -> None:
    """A work item that is not there is answered by 404."""
    peer.get(f"/workitems/{cast.worklist.new_uid()}", accept=JSON).expect(404)


@check("UPS-023", "8.7.8.1", needs="worklist")
def not_acceptable(peer: Peer, cast: Cast) -> None:
    """A work item, or a list of them, in a media type that is not supported is answered by 406."""
    uid = cast.worklist.create()
    for path in (f"/workitems/{uid}", "/workitems"):
        peer.get(path, accept="image/png").expect(406)


@check("UPS-024", "11.5.2", needs="worklist")
def the_lock_is_secret(peer: Peer, cast: Cast) -> None:
    """The Transaction UID of a work item is in no answer."""
    uid, token = cast.worklist.claimed()
    ensure(cast.worklist.state(uid) == "IN PROGRESS", "it is not claimed")
    for answer in (
        peer.get(f"/workitems/{uid}", accept=JSON).expect(200),
        peer.get(f"/workitems/{uid}", accept=XML_PARTS).expect(200, 406),
        cast.worklist.search(SOPInstanceUID=uid, includefield="00081195").expect(200, 206),
        cast.worklist.search(SOPInstanceUID=uid, includefield="all").expect(200, 206),
    ):
        ensure(token.encode() not in answer.body, f"{answer.named} tells it")


@check("UPS-025", "11.5.3.2", SHOULD, needs="worklist")
def content_location(peer: Peer, cast: Cast) -> None:
    """The answer that has a work item says in Content-Location whose it is."""
    uid = cast.worklist.create()
    location = peer.get(f"/workitems/{uid}", accept=JSON).expect(200).headers.get("content-location", "")
    ensure(location.endswith(f"/workitems/{uid}"), f"Content-Location is {location!r}")


@check("UPS-026", "11.5.2", MAY, needs="worklist")
def what_has_ended(peer: Peer, cast: Cast) -> None:
    """A work item that is COMPLETED or CANCELED can still be retrieved."""
    for uid, _ in (cast.worklist.completed(), cast.worklist.canceled()):
        cast.worklist.shown(uid)


# -- Update ------------------------------------------------------------------------------------------------------------

INCONSISTENT = "The submitted request is inconsistent with the current state of the Workitem"
NOT_CLAIMED = "The target URI did not reference a claimed Workitem"
RELABELED = {"00741204": element("LO", "Another")}


def refused_update(worklist: Worklist, uid: str, token: str) -> Answer:
    """An update that has to be refused, and to change nothing."""
    before = worklist.shown(uid)
    answer = worklist.update(uid, RELABELED, token).expect(400, 409)
    ensure(worklist.shown(uid) == before, "the work item has changed")
    return answer


@check("UPS-030", "11.6.2", needs="worklist")
def updated(peer: Peer, cast: Cast) -> None:
    """A work item that is SCHEDULED is updated without a Transaction UID, and keeps what is not in the update."""
    uid = cast.worklist.create()
    before = cast.worklist.shown(uid)
    changes = {**STATION, **RELABELED, "00741200": element("CS", "HIGH")}
    cast.worklist.update(uid, changes).expect(200)
    after = cast.worklist.shown(uid)
    ensure_same(changes, after)
    ensure_same({tag: one for tag, one in before.items() if tag not in changes}, after)


@check("UPS-031", "11.6.1.2", needs="worklist")
def updated_by_the_claimant(peer: Peer, cast: Cast) -> None:
    """A work item that is IN PROGRESS is updated by who sends its Transaction UID."""
    uid, token = cast.worklist.claimed()
    cast.worklist.update(uid, PROGRESS, token).expect(200)
    came = first(cast.worklist.shown(uid), "00741002") or {}
    ensure(first(came, "00741006") == "Half of it", f"Progress Information is {came}")


@check("UPS-032", "11.6.3.1", needs="worklist")
def updated_without_the_lock(peer: Peer, cast: Cast) -> None:
    """An update of a work item that is IN PROGRESS, without a Transaction UID or with another, is refused.

    By 400 or 409, as the editions of Table 11.6.3-1 have it.
    """
    uid, _ = cast.worklist.claimed()
    refused_update(cast.worklist, uid, "")
    refused_update(cast.worklist, uid, cast.worklist.new_uid())


@check("UPS-033", "11.6.2", needs="worklist")
def updated_at_the_end(peer: Peer, cast: Cast) -> None:
    """A work item that is COMPLETED or CANCELED is not updated any more, not even by who had claimed it."""
    for uid, token in (cast.worklist.completed(), cast.worklist.canceled()):
        refused_update(cast.worklist, uid, token)
        refused_update(cast.worklist, uid, "")


@check("UPS-034", "11.6.3.1", SHOULD, needs="worklist")
def status_of_refused_updates(peer: Peer, cast: Cast) -> None:
    """Updates without a Transaction UID, and of what has ended, are answered by 400; with a wrong one by 409.

    Editions up to 2024 answer a wrong one by 400 too.
    """
    uid, _ = cast.worklist.claimed()
    cast.worklist.update(uid, RELABELED).expect(400)
    cast.worklist.update(uid, RELABELED, cast.worklist.new_uid()).expect(409)
    ended, token = cast.worklist.completed()
    cast.worklist.update(ended, RELABELED, token).expect(400)


@check("UPS-035", "11.6.3.2", needs="worklist")
def warning_of_refused_updates(peer: Peer, cast: Cast) -> None:
    """An update that the state forbids is refused with a Warning of the text that the standard has for it."""
    uid, _ = cast.worklist.claimed()
    warned(cast.worklist.update(uid, RELABELED).expect_refusal(), INCONSISTENT, NOT_CLAIMED)
    ended, token = cast.worklist.completed()
    warned(cast.worklist.update(ended, RELABELED, token).expect_refusal(), INCONSISTENT, NOT_CLAIMED)


@check("UPS-036", "PS3.4 CC.2.6.3", SHOULD, needs="worklist")
def lock_of_what_is_not_claimed(peer: Peer, cast: Cast) -> None:
    """A Transaction UID with the update of a work item that nobody has claimed is refused, with a Warning."""
    uid = cast.worklist.create()
    warned(refused_update(cast.worklist, uid, cast.worklist.new_uid()), NOT_CLAIMED, INCONSISTENT)


@check("UPS-037", "11.6.3.1", needs="worklist")
def update_of_nothing(peer: Peer, cast: Cast) -> None:
    """An update of a work item that is not there is answered by 404."""
    cast.worklist.update(cast.worklist.new_uid(), RELABELED).expect(404)


@check("UPS-038", "PS3.4 Table CC.2.5-3", needs="worklist")
def state_by_update(peer: Peer, cast: Cast) -> None:
    """The Procedure Step State cannot be set by an update."""
    uid = cast.worklist.create()
    cast.worklist.update(uid, {"00741000": element("CS", "COMPLETED")}).expect_refusal()
    ensure(cast.worklist.state(uid) == "SCHEDULED", f"it is {cast.worklist.state(uid)}")


@check("UPS-039", "PS3.4 Table CC.2.5-3", SHOULD, needs="worklist")
def patient_by_update(peer: Peer, cast: Cast) -> None:
    """The patient of a work item cannot be set by an update."""
    uid = cast.worklist.create()
    before = cast.worklist.shown(uid)
    cast.worklist.update(uid, {"00100010": element("PN", {"Alphabetic": "Another"})}).expect_refusal()
    ensure(cast.worklist.shown(uid) == before, "the work item has changed")


@check("UPS-040", "11.6.3.1", needs="worklist")
def whole_or_not_at_all(peer: Peer, cast: Cast) -> None:
    """An update of which one attribute cannot be taken is answered by 400, and sets none."""
    uid = cast.worklist.create()
    cast.worklist.update(uid, {**RELABELED, "00741200": element("CS", "STAT")}).expect(400)
    ensure(first(cast.worklist.shown(uid), "00741204") != "Another", "the other attribute is set")


# -- Search ------------------------------------------------------------------------------------------------------------


def uids(rows: list[DataSet]) -> set[str]:
    """The UIDs of work items."""
    return {str(first(row, "00080018")) for row in rows}


@check("UPS-070", "11.9.2", needs="worklist")
def found(peer: Peer, cast: Cast) -> None:
    """A work item is found by its UID, as DICOM JSON."""
    uid, _ = cast.worklist.create(), cast.worklist.create()
    rows = cast.worklist.found(SOPInstanceUID=uid)
    ensure(uids(rows) == {uid} and len(rows) == 1, f"{len(rows)} are found, or another")
    breaches = [str(blemish) for blemish in blemishes(rows[0])]
    ensure(not breaches, said(breaches))


@check("UPS-071", "11.9.3.1", needs="worklist")
def none_found(peer: Peer, cast: Cast) -> None:
    """A search that matches nothing is answered by 204, without a payload."""
    cast.worklist.create()
    answer = cast.worklist.search(SOPInstanceUID=cast.worklist.new_uid()).expect(204)
    ensure(not answer.body, f"it has {len(answer.body)} bytes")


@check("UPS-072", "PS3.4 Table CC.2.5-3", needs="worklist")
def found_by_state(peer: Peer, cast: Cast) -> None:
    """Work items are found by their Procedure Step State, as it is at the time."""
    uid = cast.worklist.create()
    ensure(uid in uids(cast.worklist.found(ProcedureStepState="SCHEDULED", SOPInstanceUID=uid)), "it is not found")
    cast.worklist.claim(uid)
    ensure(uid in uids(cast.worklist.found(ProcedureStepState="IN PROGRESS", SOPInstanceUID=uid)), "it is not found")
    ensure(not cast.worklist.found(ProcedureStepState="SCHEDULED", SOPInstanceUID=uid), "it is found as SCHEDULED too")


@check("UPS-073", "8.3.4.1", needs="worklist")
def found_by_range(peer: Peer, cast: Cast) -> None:
    """Work items are found by a range of their Scheduled Procedure Step Start DateTime."""
    early = cast.worklist.create(x00404005=element("DT", "20250301080000"))
    late = cast.worklist.create(x00404005=element("DT", "20250302080000"))
    for when, expected in (
        ("20250301070000-20250301090000", {early}),
        ("20250301090000-20250303", {late}),
        ("20250301-20250303", {early, late}),
    ):
        rows = cast.worklist.found(ScheduledProcedureStepStartDateTime=when)
        ensure(uids(rows) == expected, f"{when} finds {len(rows)}, and not the {len(expected)} in it")


@check("UPS-074", "PS3.4 Table CC.2.5-3", needs="worklist")
def found_by_sequence(peer: Peer, cast: Cast) -> None:
    """Work items are found by a code in their Scheduled Workitem Code Sequence."""
    value = cast.worklist.ae("C")
    uid = cast.worklist.create(x00404018=element("SQ", code(value, "Something else")))
    cast.worklist.create()
    for key in ("ScheduledWorkitemCodeSequence.CodeValue", "x00404018.00080100"):
        rows = cast.worklist.found(**{key: value})
        ensure(uids(rows) == {uid}, f"{key} finds {len(rows)}")


@check("UPS-075", "PS3.4 Table CC.2.5-3", needs="worklist")
def found_by_name(peer: Peer, cast: Cast) -> None:
    """Work items are found by a name with a wild card."""
    uid = cast.worklist.create(x00100010=element("PN", {"Alphabetic": "Wildcard^Ada"}))
    cast.worklist.create()
    rows = cast.worklist.found(PatientName="Wildc*")
    ensure(uid in uids(rows), "it is not found")
    names = {(first(row, "00100010") or {}).get("Alphabetic") for row in rows}
    ensure(names == {"Wildcard^Ada"}, f"the names {sorted(map(str, names))} are found")


@check("UPS-076", "11.9.2", needs="worklist")
def returned_attributes(peer: Peer, cast: Cast) -> None:
    """Results have all attributes of Return Key Type 1 and 2."""
    uid = cast.worklist.create()
    for row in cast.worklist.found(SOPInstanceUID=uid) or [{}]:
        lacking = [named(tag) for tag in ALWAYS if tag not in row]
        ensure(not lacking, f"{', '.join(lacking)} are not there")


@check("UPS-077", "11.9.2", needs="worklist")
def included_fields(peer: Peer, cast: Cast) -> None:
    """Results have the attributes that includefield names."""
    uid = cast.worklist.create()
    for name in ("00400400", "CommentsOnTheScheduledProcedureStep"):
        (row,) = cast.worklist.found(SOPInstanceUID=uid, includefield=name)
        ensure(first(row, "00400400") == "Nothing to be done", f"{name} is {row.get('00400400')}")


@check("UPS-078", "8.3.4.4", needs="worklist")
def pages(peer: Peer, cast: Cast) -> None:
    """Pages by limit and offset have all results, and none twice."""
    label = cast.worklist.ae("P")
    made = {cast.worklist.create(x00741202=element("LO", label)) for _ in range(3)}
    seen: list[str] = []
    for offset in ("0", "2"):
        rows = cast.worklist.found(WorklistLabel=label, limit="2", offset=offset)
        ensure(len(rows) <= 2, f"limit=2 gives {len(rows)}")
        seen += [str(first(row, "00080018")) for row in rows]
    ensure(sorted(seen) == sorted(made), f"3 work items come as {len(seen)}, {len(set(seen))} of them different")


@check("UPS-079", "8.3.4.4", needs="worklist")
def malformed_limit(peer: Peer, cast: Cast) -> None:
    """A limit or an offset that is no number is answered by 400."""
    cast.worklist.search(limit="many").expect(400)
    cast.worklist.search(offset="-1").expect(400)


@check("UPS-080", "11.1.3", needs="worklist")
def found_as_xml(peer: Peer, cast: Cast) -> None:
    """Results are there as multipart/related; type="application/dicom+xml" too, with a part for each."""
    label = cast.worklist.ae("X")
    made = {cast.worklist.create(x00741202=element("LO", label)) for _ in range(2)}
    parts = cast.worklist.search(WorklistLabel=label, accept=XML_PARTS).parts(200, 206)
    came = [str(first(native_of(part).dataset, "00080018")) for part in parts]
    ensure(sorted(came) == sorted(made), f"2 work items come as {len(came)} parts")


@check("UPS-081", "11.9.3.1", needs="worklist")
def malformed_key(peer: Peer, cast: Cast) -> None:
    """A date and time to search by that is none is answered by 400."""
    cast.worklist.search(ScheduledProcedureStepStartDateTime="soon").expect(400)
