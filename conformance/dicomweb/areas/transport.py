"""How HTTP itself is spoken: media types, messages, methods and errors (PS3.18 8.4 to 8.6, RFC 9110)."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import MAY, SHOULD, check, ensure
from conformance.dicomweb.jsonmodel import said
from conformance.dicomweb.peer import DICOM_PARTS, JSON, OCTET_PARTS, Answer, Peer


def messages(peer: Peer, cast: Cast) -> Iterator[Answer]:
    """Multipart answers of several kinds."""
    yield peer.get(cast["ct1"].series, accept=DICOM_PARTS).expect(200)
    yield peer.get(f"{cast['cine'].path}/frames/1,2", accept=OCTET_PARTS).expect(200)


def ensure_without(peer: Peer, cast: Cast, *words: str) -> None:
    """No multipart answer has a blemish with one of these words."""
    found = [
        f"{answer.named}: {blemish}"
        for answer in messages(peer, cast)
        for blemish in answer.multipart().blemishes
        if any(word in blemish for word in words)
    ]
    ensure(not found, said(found))


@check("HTTP-001", "RFC 9110 5.6.6")
def parameters_are_quoted(peer: Peer, cast: Cast) -> None:
    """Parameters of a Content-Type that are no tokens, such as type="application/dicom", are quoted."""
    ensure_without(peer, cast, "quoted")


@check("HTTP-002", "RFC 2387 3.1")
def type_parameter(peer: Peer, cast: Cast) -> None:
    """The Content-Type of a message has a type parameter, and the parts are of that type."""
    ensure_without(peer, cast, "no type parameter", "as type says")


@check("HTTP-003", "RFC 2046 5.1.1")
def boundaries(peer: Peer, cast: Cast) -> None:
    """Boundaries have the characters and the length that are allowed, and nothing stands before the first."""
    ensure_without(peer, cast, "RFC 2046", "before the first")


@check("HTTP-004", "8.6.1.2.2")
def every_part_has_a_type(peer: Peer, cast: Cast) -> None:
    """Every part has a Content-Type, and no header twice."""
    ensure_without(peer, cast, "no Content-Type", "two headers")


@check("HTTP-005", "8.7.9")
def no_type_without_a_payload(peer: Peer, cast: Cast) -> None:
    """An answer without a payload has no Content-Type."""
    answer = peer.search("/studies", PatientID=cast.samples.patient_id("NOBODY"))
    if answer.status == 204:
        ensure("content-type" not in answer.headers, f"204 has the Content-Type {answer.headers.get('content-type')}")
        ensure(answer.headers.get("content-length", "0") == "0", "204 has a Content-Length")
    else:
        answer.expect(200).expect_type(JSON)


@check("HTTP-006", "RFC 9110 12.5.5", SHOULD)
def vary(peer: Peer, cast: Cast) -> None:
    """Answers that depend on the Accept header say so by Vary."""
    for path, accept in ((f"{cast['ct1'].path}/metadata", JSON), (cast["ct1"].path, DICOM_PARTS)):
        found = ", ".join(peer.get(path, accept=accept).expect(200).headers.get_list("vary")).lower()
        ensure("accept" in [name.strip() for name in found.split(",")], f"Vary is {found!r}")


@check("HTTP-007", "RFC 9110 15.5.6")
def method_that_is_not_allowed(peer: Peer, cast: Cast) -> None:
    """A method that a resource does not have is answered by 405 with an Allow header, or by 501."""
    answer = peer.ask("PUT", f"{cast['ct1'].path}/metadata", body=b"{}", headers=[("Content-Type", JSON)]).expect(
        405, 501
    )
    if answer.status == 405:
        ensure(answer.headers.get("allow"), "405 has no Allow header")


@check("HTTP-008", "8.5")
def unknown_resource(peer: Peer, cast: Cast) -> None:
    """A resource that the service does not have is answered by 404."""
    peer.get("/nosuchresource").expect(404)
    peer.get(f"{cast['ct1'].study}/nosuchresource").expect(404)


@check("HTTP-009", "8.5", SHOULD)
def errors_say_why(peer: Peer, cast: Cast) -> None:
    """An error says what was wrong, in a payload with a Content-Type."""
    for answer in (
        peer.get("/studies", "limit=ten", accept=JSON).expect_refusal(),
        peer.get(cast["ct1"].path, accept="application/x-nobody-has-this").expect_refusal(),
    ):
        found = f"{len(answer.body)} bytes of the Content-Type {answer.headers.get('content-type')}"
        ensure(answer.body and "content-type" in answer.headers, f"{answer.status} has {found}")


@check("HTTP-010", "8.5", SHOULD)
def errors_keep_names_to_themselves(peer: Peer, cast: Cast) -> None:
    """An error does not tell the name of the patient."""
    for path, accept in (
        (f"{cast['ct1'].path}/frames/99", OCTET_PARTS),
        (cast["ct1"].path, "application/x-nobody-has-this"),
    ):
        answer = peer.get(path, accept=accept).expect_refusal()
        ensure("Ångström" not in answer.body.decode("utf-8", "replace"), "the name of the patient is in an error")


@check("HTTP-011", "RFC 9110 8.6")
def length_is_right(peer: Peer, cast: Cast) -> None:
    """A Content-Length is the length of what is sent."""
    for path, accept in ((cast["ct1"].path, DICOM_PARTS), (f"{cast['ct1'].path}/metadata", JSON)):
        answer = peer.get(path, accept=accept, headers={"Accept-Encoding": "identity"}).expect(200)
        found = answer.headers.get("content-length")
        ensure(found in (None, str(len(answer.body))), f"Content-Length is {found}, and {len(answer.body)} bytes came")


@check("HTTP-012", "RFC 9110 15.4.5", MAY)
def cache_control(peer: Peer, cast: Cast) -> None:
    """Answers say by Cache-Control whether they may be kept: they are about patients."""
    answer = peer.get(f"{cast['ct1'].path}/metadata", accept=JSON).expect(200)
    ensure("cache-control" in answer.headers, "there is no Cache-Control")


@check("HTTP-013", "8.4", SHOULD)
def charset_of_json(peer: Peer, cast: Cast) -> None:
    """DICOM JSON names no other charset than UTF-8."""
    found = peer.get(f"{cast['ct1'].path}/metadata", accept=JSON).expect(200).media.parameters.get("charset", "utf-8")
    ensure(found.lower() in ("utf-8", "utf8"), f"the charset is {found!r}")


@check("HTTP-014", "RFC 9112 3.2")
def trailing_slash_does_no_harm(peer: Peer, cast: Cast) -> None:
    """A path with a slash at its end is served, redirected, or refused; it is no server error."""
    answer = peer.get(f"{cast['ct1'].study}/metadata/", accept=JSON).expect_no_failure()
    ensure(answer.status in (200, 301, 307, 308, 400, 404), f"the answer is {answer.status}")
