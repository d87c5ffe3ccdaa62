"""The DICOM JSON Model as the metadata has it (PS3.18 Annex F)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import MAY, SHOULD, NotApplicable, check, ensure
from conformance.dicomweb.jsonmodel import FLOATS, WHOLE, blemishes, differences, element_differences, said, values
from conformance.dicomweb.peer import JSON, Peer
from conformance.dicomweb.samples import CYRILLIC, GREEK, JAPANESE, LATIN, PRIVATE_CREATOR


def all_metadata(cast: Cast) -> Iterator[tuple[str, dict[str, Any]]]:
    """The metadata of every sample that is there."""
    for sample in cast.held():
        yield sample.name, cast.metadata(sample.name)


def ensure_clean(cast: Cast, *rules: str) -> None:
    """No metadata breaks one of these rules of `conformance.dicomweb.jsonmodel.blemishes`."""
    found = [
        f"{name} {blemish}"
        for name, dataset in all_metadata(cast)
        for blemish in blemishes(dataset)
        if blemish.rule in rules
    ]
    ensure(not found, said(found))


def ensure_equal(cast: Cast, name: str, *tags: str) -> None:
    """These attributes of a sample are in its metadata with the values that were stored."""
    dataset = cast[name].dataset
    found: list[str] = []
    for tag in tags:
        attribute = cast.metadata(name).get(tag)
        if attribute is None:
            found.append(f"{tag} is not there")
        else:
            found += element_differences(dataset[int(tag, 16)], attribute, tag)
    ensure(not found, said(found))


def ensure_name(cast: Cast, name: str, written: str) -> None:
    """The Patient's Name of a sample has every component group, in Unicode."""
    groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), written.split("="), strict=False))
    came = values(cast.metadata(name), "00100010")
    ensure(came == [groups], f"Patient's Name is {came!r}, not {groups!r}")


@check("JSON-001", "8.7.3.2")
def content_type(peer: Peer, cast: Cast) -> None:
    """Metadata asked for as DICOM JSON has the Content-Type application/dicom+json."""
    peer.get(f"{cast['ct1'].path}/metadata", accept=JSON).expect(200).expect_type(JSON)


@check("JSON-002", "F.2.1")
def array_of_objects(peer: Peer, cast: Cast) -> None:
    """The metadata of several instances is one array with one object for each."""
    rows = peer.get(f"{cast['ct1'].series}/metadata", accept=JSON).rows()
    ensure(len(rows) == 5, f"a series of 5 instances has {len(rows)} data sets")


@check("JSON-003", "F.2.2")
def keys(peer: Peer, cast: Cast) -> None:
    """Attribute names are tags of eight upper-case hexadecimal digits, in items as well."""
    ensure_clean(cast, "key")


@check("JSON-004", "F.2.2")
def order(peer: Peer, cast: Cast) -> None:
    """Attributes are in ascending order of their names, in items as well."""
    ensure_clean(cast, "order")


@check("JSON-005", "F.2.2")
def groups(peer: Peer, cast: Cast) -> None:
    """There are neither group lengths nor file meta information."""
    ensure_clean(cast, "group")


@check("JSON-006", "F.2.2")
def representations(peer: Peer, cast: Cast) -> None:
    """Every attribute has a vr that is a value representation of PS3.5."""
    ensure_clean(cast, "vr")


@check("JSON-007", "F.2.2")
def members(peer: Peer, cast: Cast) -> None:
    """An attribute has at most one of Value, BulkDataURI and InlineBinary, and no other member."""
    ensure_clean(cast, "members")


@check("JSON-008", "F.2.5")
def no_empty_values(peer: Peer, cast: Cast) -> None:
    """An empty attribute has no Value, and an empty string is never a value."""
    ensure_clean(cast, "empty")


@check("JSON-009", "F.2.5")
def empty_attributes(peer: Peer, cast: Cast) -> None:
    """An attribute that is empty is there, with its vr and without a value."""
    attribute = cast.metadata("deep").get("00080050")
    ensure(attribute == {"vr": "SH"}, f"the empty Accession Number is {attribute!r}")


@check("JSON-010", "F.2.5")
def null_between_values(peer: Peer, cast: Cast) -> None:
    """An empty value between others is null."""
    found = values(cast.metadata("deep"), "00080008")
    ensure(found == ["DERIVED", "SECONDARY", None, "LAST"], f"Image Type is {found!r}")


@check("JSON-011", "F.2.5")
def null_between_names(peer: Peer, cast: Cast) -> None:
    """An empty name between others is null, or an object without component groups."""
    found = values(cast.metadata("deep"), "00101001")
    ensure(len(found) == 3 and found[1] in (None, {}), f"Other Patient Names is {found!r}")


@check("JSON-012", "F.2.2")
def empty_items(peer: Peer, cast: Cast) -> None:
    """An empty item of a sequence is an empty object, in its place."""
    outer = values(cast.metadata("deep"), "00081140")
    middle = values(outer[0], "00082218") if outer else []
    found = values(middle[0], "00082220") if middle else []
    ensure(len(found) == 2 and found[1] == {}, f"the items are {found!r}")


@check("JSON-013", "F.2.2")
def nested_sequences(peer: Peer, cast: Cast) -> None:
    """Sequences in sequences are kept to the last level."""
    ensure_equal(cast, "deep", "00081140")


@check("JSON-014", "F.2.2")
def empty_sequences(peer: Peer, cast: Cast) -> None:
    """A sequence without items is an attribute without a Value."""
    attribute = cast.metadata("deep").get("00082112")
    ensure(attribute == {"vr": "SQ"}, f"the empty sequence is {attribute!r}")


@check("JSON-015", "F.2.2")
def names_are_objects(peer: Peer, cast: Cast) -> None:
    """A name is an object with Alphabetic, Ideographic and Phonetic."""
    ensure_clean(cast, "name")


@check("JSON-016", "F.2.2")
def three_component_groups(peer: Peer, cast: Cast) -> None:
    """All three component groups of a Japanese name come as Unicode (ISO 2022 IR 87)."""
    ensure_name(cast, "japanese", JAPANESE)


@check("JSON-017", "F.2.2")
def cyrillic_name(peer: Peer, cast: Cast) -> None:
    """A name in ISO_IR 144 comes as Unicode."""
    ensure_name(cast, "cyrillic", CYRILLIC)


@check("JSON-018", "F.2.2")
def greek_name(peer: Peer, cast: Cast) -> None:
    """A name in ISO_IR 192 comes as Unicode."""
    ensure_name(cast, "greek", GREEK)


@check("JSON-019", "F.2.2")
def latin_name(peer: Peer, cast: Cast) -> None:
    """A name in ISO_IR 100 comes as Unicode."""
    ensure_name(cast, "ct1", LATIN)


@check("JSON-020", "RFC 8259 8.1")
def no_byte_order_mark(peer: Peer, cast: Cast) -> None:
    """The text is UTF-8 without a byte order mark."""
    answer = peer.get(f"{cast['japanese'].path}/metadata", accept=JSON).expect(200)
    ensure(not answer.body.startswith(b"\xef\xbb\xbf"), "the body begins with a byte order mark")
    ensure("山田" in json_text(answer.body), "the body does not hold the name in UTF-8 or JSON escapes")


def json_text(body: bytes) -> str:
    """The body as text, escapes resolved."""
    text = body.decode("utf-8", "replace")
    return text.encode("ascii", "backslashreplace").decode("unicode_escape", "replace") if "\\u" in text else text


@check("JSON-021", "F.2.3")
def kinds(peer: Peer, cast: Cast) -> None:
    """Values of text are strings and of numbers are numbers, as Table F.2.3-1 says."""
    ensure_clean(cast, "kind")


@check("JSON-022", "F.2.3")
def tags_as_values(peer: Peer, cast: Cast) -> None:
    """A value of VR AT is a string of eight upper-case hexadecimal digits."""
    ensure_clean(cast, "tag")
    ensure_equal(cast, "cine", "00280009")


@check("JSON-023", "F.2.3")
def decimal_values(peer: Peer, cast: Cast) -> None:
    """Decimal strings keep their value: Pixel Spacing, Slice Thickness, Frame Time."""
    ensure_equal(cast, "ct1", "00280030", "00180050", "00281052")
    ensure_equal(cast, "deep", "00181063")


@check("JSON-024", "F.2.3", SHOULD)
def numbers_are_numbers(peer: Peer, cast: Cast) -> None:
    """Decimal and integer strings come as JSON numbers; a string is allowed, and some clients cannot read it."""
    dataset = cast.metadata("ct1")
    found = [values(dataset, tag) for tag in ("00180050", "00200013", "00280030")]
    ensure(all(isinstance(one, int | float) for many in found for one in many), f"the values are {found!r}")


@check("JSON-025", "F.2.3")
def whole_numbers(peer: Peer, cast: Cast) -> None:
    """Values of US, SS, UL and SL are whole numbers with the value that was stored, from end to end of their range."""
    ensure_equal(cast, "deep", "00280010", "00711006", "0071100A")
    _ensure_numbers(cast, WHOLE)


@check("JSON-026", "F.2.3")
def floating_numbers(peer: Peer, cast: Cast) -> None:
    """Values of FL and FD are numbers with the value that was stored."""
    ensure_equal(cast, "deep", "00189073", "00711009")
    _ensure_numbers(cast, FLOATS)


def _ensure_numbers(cast: Cast, representations: frozenset[str]) -> None:
    found = [
        f"{key} {attribute['Value']!r}"
        for key, attribute in cast.metadata("deep").items()
        if attribute.get("vr") in representations
        and not all(isinstance(value, int | float) for value in attribute.get("Value", []))
    ]
    ensure(not found, said(found))


@check("JSON-027", "F.2.3")
def very_long_numbers(peer: Peer, cast: Cast) -> None:
    """A value of UV of 64 bits loses nothing, as number or as string."""
    ensure_equal(cast, "deep", "00711007")


@check("JSON-028", "F.2.4", SHOULD)
def no_padding(peer: Peer, cast: Cast) -> None:
    """Values do not end with the padding of the binary encoding."""
    ensure_clean(cast, "padding")


@check("JSON-029", "F.2.4")
def backslash_in_text(peer: Peer, cast: Cast) -> None:
    """A backslash in a text of VR LT, ST or UT separates nothing."""
    ensure_equal(cast, "deep", "00204000")


@check("JSON-030", "F.2.2")
def binary_values(peer: Peer, cast: Cast) -> None:
    """Binary values are InlineBinary in base64 or a BulkDataURI, and never a Value."""
    ensure_clean(cast, "bulk")


@check("JSON-031", "F.2.7")
def inline_binary(peer: Peer, cast: Cast) -> None:
    """An InlineBinary is the value that was stored."""
    attribute = cast.metadata("deep").get("00711004", {})
    if "BulkDataURI" in attribute:
        raise NotApplicable("the server gives even four bytes as bulk data")
    sent = base64.b64encode(b"\x01\x02\x03\x04").decode()
    ensure(attribute.get("InlineBinary") == sent, f"four bytes come as {attribute!r}")


@check("JSON-032", "10.4.1.1.2")
def pixel_data(peer: Peer, cast: Cast) -> None:
    """Pixel Data is in the metadata as BulkDataURI or InlineBinary.

    The metadata has all attributes; of bulk values the value may be replaced by a URI.
    """
    found = []
    for name in ("ct1", "cine", "rle"):
        attribute = cast.metadata(name).get("7FE00010")
        if not attribute or not attribute.keys() & {"BulkDataURI", "InlineBinary"}:
            found.append(f"Pixel Data of {name} is {attribute!r}"[:120])
    ensure(not found, said(found))


@check("JSON-033", "10.4.1.1.2", SHOULD)
def pixel_data_by_uri(peer: Peer, cast: Cast) -> None:
    """Pixel Data is a BulkDataURI: metadata is retrieved so as not to retrieve the pixels."""
    attribute = cast.metadata("cine").get("7FE00010", {})
    ensure("BulkDataURI" in attribute, f"Pixel Data has {sorted(attribute)}")


@check("JSON-034", "10.4.1.1.2")
def private_attributes(peer: Peer, cast: Cast) -> None:
    """Private attributes are there, with their creator and with the value representation of the file."""
    found = values(cast.metadata("deep"), "00710010")
    ensure(found == [PRIVATE_CREATOR], f"the private creator is {found!r}")
    ensure_equal(cast, "deep", "00711001", "00711002", "0071100B")


@check("JSON-035", "10.4.1.1.2")
def large_text(peer: Peer, cast: Cast) -> None:
    """A text of 20,000 characters is there as a whole, or as a BulkDataURI."""
    attribute = cast.metadata("deep").get("00711005")
    ensure(attribute is not None, "the text is not there")
    ensure_equal(cast, "deep", "00711005")


@check("JSON-036", "10.4.1.1.2")
def everything_that_was_stored(peer: Peer, cast: Cast) -> None:
    """The metadata of every sample has all attributes that were stored, with their values, and no other."""
    found = [
        f"{name} {difference}"
        for name, dataset in all_metadata(cast)
        for difference in differences(cast[name].dataset, dataset)
    ]
    ensure(not found, said(found))


@check("JSON-037", "F.2.2", SHOULD)
def character_set_of_the_source(peer: Peer, cast: Cast) -> None:
    """Specific Character Set, where it is there, says what the stored data set used (since 2025e).

    Earlier editions had servers say ISO_IR 192, since JSON is UTF-8; a reader has to live with both.
    """
    found = values(cast.metadata("cyrillic"), "00080005")
    ensure(found in ([], ["ISO_IR 144"]), f"Specific Character Set of what was stored in ISO_IR 144 is {found!r}")


@check("JSON-038", "F.2.3", MAY)
def decimals_are_not_lengthened(peer: Peer, cast: Cast) -> None:
    """A decimal string such as 0.7421875 is written without digits that it does not have."""
    body = peer.get(f"{cast['ct1'].path}/metadata", accept=JSON).expect(200).body
    ensure(b"0.7421875" in body and b"0.74218750000" not in body, "0.7421875 is written otherwise")
