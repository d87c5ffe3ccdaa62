"""What is malformed is refused with a reason, and never fails the server (PS3.18 8.3, 8.5)."""

from __future__ import annotations

from conformance.dicomweb.cast import STORE_TYPE, Cast
from conformance.dicomweb.checks import SHOULD, check, ensure
from conformance.dicomweb.multipart import write_multipart
from conformance.dicomweb.peer import DICOM, DICOM_PARTS, JSON, OCTETS, Peer

_LONG = 20_000


@check("BAD-001", "8.5")
def uid_of_letters(peer: Peer, cast: Cast) -> None:
    """A UID of letters in a path is answered by 400 or 404."""
    cast.held()
    peer.get("/studies/not-a-uid/metadata", accept=JSON).expect(400, 404)


@check("BAD-002", "8.5")
def uid_that_is_too_long(peer: Peer, cast: Cast) -> None:
    """A UID of more than 64 characters is answered by 400, 404 or 414."""
    cast.held()
    peer.get(f"/studies/{'1.2' * 100}/metadata", accept=JSON).expect(400, 404, 414)


@check("BAD-003", "8.5")
def nul_in_a_path(peer: Peer, cast: Cast) -> None:
    """A NUL character in a path is answered by 400 or 404."""
    cast.held()
    peer.get("/studies/1.2.3%00/metadata", accept=JSON).expect(400, 404)
    peer.get("/studies/1.2.3%00/series", accept=JSON).expect(204, 400, 404)


@check("BAD-004", "8.5")
def path_out_of_the_service(peer: Peer, cast: Cast) -> None:
    """Dots in a path lead nowhere: 400 or 404."""
    cast.held()
    peer.get("/studies/..%2f..%2f..%2fetc%2fpasswd/metadata", accept=JSON).expect(400, 404)


@check("BAD-005", "RFC 3986 2.1")
def percent_without_digits(peer: Peer, cast: Cast) -> None:
    """A percent sign without two digits in a query is taken as it is, or answered by 400."""
    cast.held()
    answer = peer.get("/studies", "PatientID=100%zz", accept=JSON).expect(200, 204, 400)
    ensure(answer.status == 400 or not answer.rows(), "a study is found")


@check("BAD-006", "RFC 3986 2.5")
def query_that_is_no_utf_8(peer: Peer, cast: Cast) -> None:
    """A value that is no UTF-8 finds nothing, or is answered by 400."""
    cast.held()
    answer = peer.get("/studies", "PatientID=%ff%fe%80", accept=JSON).expect(200, 204, 400)
    ensure(answer.status == 400 or not answer.rows(), "a study is found")


@check("BAD-007", "8.3")
def nul_in_a_query(peer: Peer, cast: Cast) -> None:
    """A NUL character in a value finds nothing, or is answered by 400."""
    cast.held()
    answer = peer.get("/studies", f"PatientID={cast.samples.patient_id('A')}%00", accept=JSON).expect(200, 204, 400)
    ensure(answer.status == 400 or not answer.rows(), "a study is found")


@check("BAD-008", "8.3")
def sql_in_a_query(peer: Peer, cast: Cast) -> None:
    """Quotes and comments of SQL in a value find nothing."""
    cast.held()
    for value in ("'%20OR%20'1'='1", "%22;%20--", "%27%29%20OR%201=1--", "%25", "_"):
        answer = peer.get("/studies", f"PatientID={value}", accept=JSON).expect(200, 204, 400)
        ensure(answer.status == 400 or not answer.rows(), f"PatientID={value} finds a study")


@check("BAD-009", "8.3")
def number_without_end(peer: Peer, cast: Cast) -> None:
    """limit and offset of a hundred digits are answered by 400, or as the largest there is."""
    cast["page1"]
    query = f"PatientID={cast.samples.patient_id('P')}"
    peer.get("/studies", f"{query}&limit={'9' * 100}", accept=JSON).expect(200, 400)
    answer = peer.get("/studies", f"{query}&offset={'9' * 100}", accept=JSON).expect(200, 204, 400)
    ensure(answer.status == 400 or not answer.rows(), "studies are found past the end")


@check("BAD-010", "8.3")
def many_parameters(peer: Peer, cast: Cast) -> None:
    """Three thousand parameters are answered by some 4xx, or as if they were few."""
    cast.held()
    query = f"PatientID={cast.samples.patient_id('NOBODY')}" + "".join(f"&x{number}=1" for number in range(3000))
    answer = peer.get("/studies", query, accept=JSON).expect_no_failure()
    ensure(answer.status in (200, 204) or 400 <= answer.status < 500, f"the answer is {answer.status}")
    ensure(answer.status >= 400 or not answer.rows(), "a study is found")


@check("BAD-011", "8.3")
def wildcards_without_end(peer: Peer, cast: Cast) -> None:
    """A value of many wildcards finds nothing, or is refused; it does not hold the server up."""
    cast.held()
    answer = peer.get("/studies", f"PatientName={'*a' * 200}*zz", accept=JSON).expect(200, 204, 400, 413, 414)
    ensure(answer.status >= 400 or not answer.rows(), "a study is found")


@check("BAD-012", "8.3.4.1")
def key_that_goes_too_deep(peer: Peer, cast: Cast) -> None:
    """A key through a hundred sequences is refused, or ignored like any that is not supported."""
    cast["ct1"]
    key = ".".join(["RequestAttributesSequence"] * 100 + ["ScheduledProcedureStepID"])
    peer.get("/series", f"StudyInstanceUID={cast['ct1'].study_uid}&{key}=1", accept=JSON).expect(200, 204, 400, 414)


@check("BAD-013", "8.7.5")
def accept_that_is_none(peer: Peer, cast: Cast) -> None:
    """An Accept header that cannot be read is answered by 400 or 406, or as if it were not there."""
    path = f"{cast['ct1'].path}/metadata"
    for accept in (";;;", "application/", "/", "a/b/c", 'multipart/related; type="application/dicom', ",,,", '"'):
        peer.get(path, accept=accept).expect(200, 400, 406)


@check("BAD-014", "8.7.5")
def accept_that_is_partly_none(peer: Peer, cast: Cast) -> None:
    """What can be read of an Accept header counts, whatever stands beside it."""
    peer.get(f"{cast['ct1'].path}/metadata", accept=f"a/b/c, ;;, {JSON}").expect(200).expect_type(JSON)


@check("BAD-015", "8.7.5")
def very_long_accept(peer: Peer, cast: Cast) -> None:
    """An Accept header of 20,000 characters is served, or refused with some 4xx."""
    accept = ", ".join(["application/x-nobody-has-this"] * (_LONG // 31) + [JSON])
    answer = peer.get(f"{cast['ct1'].path}/metadata", accept=accept).expect_no_failure()
    ensure(answer.status == 200 or 400 <= answer.status < 500, f"the answer is {answer.status}")


@check("BAD-016", "RFC 9110 12.4.2")
def weight_that_is_none(peer: Peer, cast: Cast) -> None:
    """A weight that is no number makes its media range ignored or the request refused."""
    path = f"{cast['ct1'].path}/metadata"
    peer.get(path, accept=f"{JSON};q=high").expect(200, 400, 406)
    peer.get(path, accept=f"{JSON};q=-1").expect(200, 400, 406)


@check("BAD-017", "RFC 9110 14.2")
def range_that_is_none(peer: Peer, cast: Cast) -> None:
    """A Range header that cannot be read is ignored, or answered by 416."""
    path = f"{cast['ct1'].path}/frames/1"
    for text in ("bytes=abc-def", "bytes=9-1", "lines=1-2", "bytes=-", "bytes=1-2-3"):
        peer.get(path, accept=f"{OCTETS}, {DICOM_PARTS};q=0.1, */*;q=0.1", headers={"Range": text}).expect(
            200, 400, 416
        )


@check("BAD-018", "RFC 9110 13.1.2")
def entity_tag_that_is_none(peer: Peer, cast: Cast) -> None:
    """An If-None-Match that cannot be read is ignored, or answered by 400."""
    path = f"{cast['ct1'].path}/metadata"
    for text in ("not quoted", '"', "W/", ",,"):
        peer.get(path, accept=JSON, headers={"If-None-Match": text}).expect(200, 400)


@check("BAD-019", "10.5.3.1")
def part_without_headers(peer: Peer, cast: Cast) -> None:
    """A part without headers is stored as what the message says it is, or refused."""
    peer.post("/studies", STORE_TYPE, write_multipart([({}, cast.new().file)])).expect(200, 202, 400, 409, 415)


@check("BAD-020", "10.5.3.1")
def part_with_a_broken_header(peer: Peer, cast: Cast) -> None:
    """A part whose header has no end is refused: 400 or 409."""
    cast.new()
    body = b"--conformance\r\nContent-Type: application/dicom" + b"x" * _LONG + b"\r\n--conformance--\r\n"
    peer.post("/studies", STORE_TYPE, body).expect(400, 409, 413, 431)


@check("BAD-021", "10.5.3.1")
def data_set_that_lies(peer: Peer, cast: Cast) -> None:
    """A file with an element longer than the file is stored as it is or refused; it does not fail the server."""
    sample = cast.new()
    at = sample.file.rindex(b"\xe0\x7f\x10\x00") + 8
    body = sample.file[:at] + b"\xf0\xff\xff\x7f" + sample.file[at + 4 :]
    peer.post("/studies", STORE_TYPE, write_multipart([(DICOM, body)])).expect(200, 202, 400, 409)


@check("BAD-022", "10.5.3.1")
def uids_that_are_none(peer: Peer, cast: Cast) -> None:
    """A data set whose Study Instance UID is empty is not stored: 400 or 409."""
    sample = cast.new(StudyInstanceUID="")
    peer.post("/studies", STORE_TYPE, write_multipart([(DICOM, sample.file)])).expect(400, 409)


@check("BAD-023", "8.3")
def parameter_without_a_name(peer: Peer, cast: Cast) -> None:
    """Empty parameters, and such without a name or a value, are ignored or answered by 400."""
    cast["ct1"]
    query = f"&&=1&PatientID={cast.samples.patient_id('A')}&=&limit=5"
    answer = peer.get("/studies", query, accept=JSON).expect(200, 400)
    ensure(answer.status == 400 or len(answer.rows()) == 1, "more or less than one study is found")


@check("BAD-024", "8.5", SHOULD)
def body_that_nobody_asked_for(peer: Peer, cast: Cast) -> None:
    """A GET with a body is served or refused, and the body is not taken for the next request."""
    path = f"{cast['ct1'].path}/metadata"
    peer.ask("GET", path, accept=JSON, body=b"GET /nowhere HTTP/1.1\r\n\r\n").expect(200, 400, 413)
    peer.get(path, accept=JSON).expect(200)


@check("BAD-025", "10.5.3.1")
def post_where_nothing_is_stored(peer: Peer, cast: Cast) -> None:
    """A POST to a series or an instance, where nothing can be stored, is refused."""
    body = write_multipart([(DICOM, cast.new().file)])
    for path in (cast["ct1"].series, cast["ct1"].path):
        peer.post(path, STORE_TYPE, body).expect_refusal()
