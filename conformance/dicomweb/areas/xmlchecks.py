"""Metadata, search results and answers of the Store transaction as XML (PS3.19 A.1, PS3.18 8.7.3.2)."""

from __future__ import annotations

from conformance.dicomweb.cast import Cast, store
from conformance.dicomweb.checks import MAY, SHOULD, Fault, check, ensure
from conformance.dicomweb.jsonmodel import differences, said, values
from conformance.dicomweb.multipart import Part
from conformance.dicomweb.nativexml import Native, read_native
from conformance.dicomweb.peer import XML_PARTS, Peer
from conformance.dicomweb.samples import CYRILLIC, JAPANESE

XML = "application/dicom+xml"
LOOKED_AT = ("ct1", "sr", "deep", "japanese", "cyrillic", "cine")


def native_of(part: Part) -> Native:
    """The data set of one part."""
    try:
        return read_native(part.body)
    except ValueError as error:
        raise Fault(str(error)) from None


def metadata(peer: Peer, cast: Cast, name: str) -> Native:
    """The metadata of a sample as XML."""
    (part,) = peer.get(f"{cast[name].path}/metadata", accept=XML_PARTS).parts()
    return native_of(part)


def ensure_clean(peer: Peer, cast: Cast, *rules: str) -> None:
    """No metadata breaks one of these rules of `conformance.dicomweb.nativexml`."""
    found = [
        f"{name}: {blemish}"
        for name in LOOKED_AT
        for blemish in metadata(peer, cast, name).blemishes
        if blemish.rule in rules
    ]
    ensure(not found, said(found))


@check("XML-001", "10.4.4")
def is_offered(peer: Peer, cast: Cast) -> None:
    """Metadata is there as multipart/related; type="application/dicom+xml", which is required."""
    peer.get(f"{cast['ct1'].path}/metadata", accept=XML_PARTS).expect(200).expect_type("multipart/related")


@check("XML-002", "8.7.3.2", needs="xml")
def part_for_each_instance(peer: Peer, cast: Cast) -> None:
    """The metadata of a series is a message with one part for each instance."""
    parts = peer.get(f"{cast['ct1'].series}/metadata", accept=XML_PARTS).parts()
    found = {str(values(native_of(part).dataset, "00080018")) for part in parts}
    ensure(len(parts) == len(found) == 5, f"a series of 5 instances has {len(parts)} parts")


@check("XML-003", "8.7.9", needs="xml")
def type_of_the_parts(peer: Peer, cast: Cast) -> None:
    """Each part has the Content-Type application/dicom+xml, and the message says so in its type parameter."""
    message = peer.get(f"{cast['ct1'].path}/metadata", accept=XML_PARTS).expect(200).multipart()
    ensure(message.media.parameters.get("type", "").lower() == XML, f"type is {message.media.parameters.get('type')!r}")
    found = [part.headers.get("content-type") for part in message.parts if part.media.name != XML]
    ensure(not found, f"parts are {found}")


@check("XML-004", "PS3.19 A.1.5", needs="xml")
def root_element(peer: Peer, cast: Cast) -> None:
    """The root element is NativeDicomModel in the namespace of the Native DICOM Model."""
    ensure_clean(peer, cast, "root")


@check("XML-005", "PS3.19 A.1.5", needs="xml")
def tags_and_representations(peer: Peer, cast: Cast) -> None:
    """Each DicomAttribute has a tag of eight upper-case hexadecimal digits, once, and a vr of PS3.5."""
    ensure_clean(peer, cast, "tag", "vr")


@check("XML-006", "PS3.19 A.1.5", needs="xml")
def keywords(peer: Peer, cast: Cast) -> None:
    """Attributes of the data dictionary have their keyword."""
    ensure_clean(peer, cast, "keyword")


@check("XML-007", "PS3.19 A.1.5", needs="xml")
def private_creators(peer: Peer, cast: Cast) -> None:
    """Private attributes have their privateCreator."""
    ensure_clean(peer, cast, "creator")


@check("XML-008", "PS3.19 A.1.5", needs="xml")
def numbers(peer: Peer, cast: Cast) -> None:
    """Values, items and names are numbered from 1, upwards, none twice."""
    ensure_clean(peer, cast, "number")


@check("XML-009", "PS3.19 A.1.5", needs="xml")
def elements(peer: Peer, cast: Cast) -> None:
    """There are no elements that the model does not have, and none that exclude each other."""
    ensure_clean(peer, cast, "element", "bulk")


@check("XML-010", "PS3.19 A.1.5", needs="xml")
def names(peer: Peer, cast: Cast) -> None:
    """Names are split into groups and components, in Unicode."""
    ensure_clean(peer, cast, "name")
    groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), JAPANESE.split("="), strict=False))
    found = values(metadata(peer, cast, "japanese").dataset, "00100010")
    ensure(found == [groups], f"Patient's Name is {found!r}, not {groups!r}")
    found = values(metadata(peer, cast, "cyrillic").dataset, "00100010")
    ensure(found == [{"Alphabetic": CYRILLIC}], f"Patient's Name is {found!r}")


@check("XML-011", "10.4.1.1.2", needs="xml")
def everything_that_was_stored(peer: Peer, cast: Cast) -> None:
    """The metadata has all attributes that were stored, with their values."""
    found = [
        f"{name} {difference}"
        for name in LOOKED_AT
        for difference in differences(cast[name].dataset, metadata(peer, cast, name).dataset)
    ]
    ensure(not found, said(found))


@check("XML-012", "10.4.1.1.2", SHOULD, needs="xml")
def same_bulk_data_as_json(peer: Peer, cast: Cast) -> None:
    """What is bulk data in JSON is bulk data in XML, at the same URI."""
    for name in ("cine", "pdf"):
        as_json = {key: value["BulkDataURI"] for key, value in cast.metadata(name).items() if "BulkDataURI" in value}
        as_xml = metadata(peer, cast, name).dataset
        found = [
            f"{key} is {as_xml.get(key)!r}" for key, uri in as_json.items() if as_xml[key].get("BulkDataURI") != uri
        ]
        ensure(not found, said(found))


@check("XML-013", "10.4.4", needs="xml")
def study_is_no_single_part(peer: Peer, cast: Cast) -> None:
    """The metadata of a study as a single application/dicom+xml is answered by 406."""
    peer.get(f"{cast['ct1'].study}/metadata", accept=XML).expect(406)


@check("XML-014", "10.6.4")
def search_is_offered(peer: Peer, cast: Cast) -> None:
    """Search results are there as multipart/related; type="application/dicom+xml", which is required."""
    answer = peer.search("/studies", accept=XML_PARTS, StudyInstanceUID=cast["ct1"].study_uid)
    answer.expect(200).expect_type("multipart/related")


@check("XML-015", "10.6.4", needs="search in xml")
def search_has_a_part_for_each_match(peer: Peer, cast: Cast) -> None:
    """Search results are a message with one part for each match, and say what JSON says."""
    keys = {"StudyInstanceUID": cast["ct1"].study_uid}
    parts = peer.search("/instances", accept=XML_PARTS, **keys).parts()
    found = sorted(str(values(native_of(part).dataset, "00080018")) for part in parts)
    as_json = sorted(str(values(row, "00080018")) for row in peer.search("/instances", **keys).rows())
    ensure(found == as_json, f"XML has {len(found)} matches, JSON {len(as_json)}, or others")


@check("XML-016", "10.6.3.1", SHOULD, needs="search in xml")
def search_without_a_match(peer: Peer, cast: Cast) -> None:
    """A search in XML that finds nothing is answered by 204 without a body."""
    answer = peer.search("/studies", accept=XML_PARTS, PatientID=cast.samples.patient_id("NOBODY")).expect(204)
    ensure(not answer.body, f"the answer has a body of {len(answer.body)} bytes")


@check("XML-017", "10.5.4", MAY)
def store_answers_in_xml(peer: Peer, cast: Cast) -> None:
    """The answer of the Store transaction is XML where that is asked for."""
    answer = store(peer, [cast.new()], accept=XML).expect(200)
    kind = answer.media.parameters.get("type", answer.media.name)
    ensure(kind == XML, f"the answer is {answer.headers.get('content-type')}")
