"""The Native DICOM Model (PS3.19 A.1): what is written, what is read, and that nothing is lost on the way."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from readingroom.errors import Invalid, ReadingRoomError, TooLarge
from storage.dicomjson import BASE_URL_MARK, Limits, MetadataJson, dump
from storage.nativexml import NAMESPACE, from_xml, to_xml
from storage.objects import scan
from tests.conftest import absent
from tests.corpus import Entry, each_file
from tests.servers import Absent, program

HEAD = f'<NativeDicomModel xmlns="{NAMESPACE}">'


def written(dataset: MetadataJson) -> str:
    """What stands between the root's tags."""
    text = to_xml(dataset).decode()
    return text.partition('xml:space="preserve">')[2].removesuffix("</NativeDicomModel>\n")


def read(inner: str) -> MetadataJson:
    return from_xml(f"{HEAD}{inner}</NativeDicomModel>".encode())


# -- what is written


def test_a_value_has_its_number_and_its_keyword() -> None:
    assert written({"00080008": {"vr": "CS", "Value": ["ORIGINAL", None, "AXIAL"]}}) == (
        '<DicomAttribute tag="00080008" vr="CS" keyword="ImageType"><Value number="1">ORIGINAL</Value>'
        '<Value number="2"></Value><Value number="3">AXIAL</Value></DicomAttribute>'
    )


def test_an_attribute_without_a_value_has_no_content() -> None:
    assert written({"00080050": {"vr": "SH"}}) == '<DicomAttribute tag="00080050" vr="SH" keyword="AccessionNumber"/>'


def test_a_name_is_parsed_into_groups_and_components() -> None:
    name = {"Alphabetic": "Müller^Hans^^Dr.^MD", "Ideographic": "山田^太郎", "Phonetic": "やまだ"}
    assert written({"00100010": {"vr": "PN", "Value": [name]}}) == (
        '<DicomAttribute tag="00100010" vr="PN" keyword="PatientName"><PersonName number="1">'
        "<Alphabetic><FamilyName>Müller</FamilyName><GivenName>Hans</GivenName><MiddleName></MiddleName>"
        "<NamePrefix>Dr.</NamePrefix><NameSuffix>MD</NameSuffix></Alphabetic>"
        "<Ideographic><FamilyName>山田</FamilyName><GivenName>太郎</GivenName></Ideographic>"
        "<Phonetic><FamilyName>やまだ</FamilyName></Phonetic></PersonName></DicomAttribute>"
    )


def test_items_are_numbered_and_hold_data_sets() -> None:
    code = {"00080100": {"vr": "SH", "Value": ["T-D3000"]}}
    assert written({"00082218": {"vr": "SQ", "Value": [code, {}]}}) == (
        '<DicomAttribute tag="00082218" vr="SQ" keyword="AnatomicRegionSequence"><Item number="1">'
        '<DicomAttribute tag="00080100" vr="SH" keyword="CodeValue"><Value number="1">T-D3000</Value></DicomAttribute>'
        '</Item><Item number="2"></Item></DicomAttribute>'
    )


def test_binary_values_are_inline_or_at_a_uri() -> None:
    dataset = {
        "00020102": {"vr": "OB", "InlineBinary": "AAEC"},
        "7FE00010": {"vr": "OW", "BulkDataURI": "http://host/a?b=1&c=2"},
    }
    assert "<InlineBinary>AAEC</InlineBinary>" in written(dataset)
    assert '<BulkData uri="http://host/a?b=1&amp;c=2"/>' in written(dataset)


def test_a_private_attribute_names_its_creator_and_no_block() -> None:
    """Table A.1.5-2: gggg00ee, and the creator's own element is not sent."""
    dataset = {"00290013": {"vr": "LO", "Value": ['A & "B"']}, "00291301": {"vr": "IS", "Value": [7]}}
    assert written(dataset) == (
        '<DicomAttribute tag="00290001" vr="IS" privateCreator="A &amp; &quot;B&quot;">'
        '<Value number="1">7</Value></DicomAttribute>'
    )


def test_attributes_stand_in_the_order_of_their_tags() -> None:
    dataset = {"00100020": {"vr": "LO"}, "00080005": {"vr": "CS"}, "7FE00010": {"vr": "OW"}}
    tags = [element.get("tag") for element in etree.fromstring(to_xml(dataset))]
    assert tags == sorted(dataset)


@pytest.mark.parametrize(
    ("vr", "value", "text"),
    [
        ("DS", 0.5, "0.5"),
        ("DS", 2.0, "2"),
        ("DS", 1e-7, "1e-07"),
        ("FD", "NaN", "NaN"),
        ("IS", -12, "-12"),
        ("UV", 18446744073709551615, "18446744073709551615"),
        ("AT", "0020000D", "0020000D"),
        ("LO", " a <b> & c", " a &lt;b&gt; &amp; c"),
        ("LT", "one\r\n\ttwo", "one&#13;&#10;&#9;two"),
    ],
)
def test_a_value_is_plain_text(vr: str, value: Any, text: str) -> None:
    dataset = {"00091001": {"vr": vr, "Value": [value]}}
    assert f'<Value number="1">{text}</Value>' in written(dataset)
    assert from_xml(to_xml(dataset)) == dataset


def test_characters_that_xml_does_not_have_are_replaced() -> None:
    dataset = {"00204000": {"vr": "LT", "Value": ["a\x0cb\x1bc\x00\ufffe"]}}
    assert from_xml(to_xml(dataset))["00204000"]["Value"] == ["a\ufffdb\ufffdc\ufffd\ufffd"]


# -- what is read


def test_a_document_may_leave_out_namespace_keyword_and_vr() -> None:
    """As the examples of PS3.18 Annex B do; a VR is optional in PS3.19."""
    document = b'<NativeDicomModel><DicomAttribute Tag="0020000d"><Value number="1">1.2</Value></DicomAttribute>'
    assert from_xml(document + b"</NativeDicomModel>") == {"0020000D": {"vr": "UI", "Value": ["1.2"]}}


def test_white_space_between_elements_means_nothing() -> None:
    inner = '\n <DicomAttribute tag="00280010" vr="US">\n  <Value number="1"> 512 </Value>\n </DicomAttribute>\n'
    assert read(inner) == {"00280010": {"vr": "US", "Value": [512]}}


def test_what_is_no_number_stays_text() -> None:
    inner = '<DicomAttribute tag="00280008" vr="IS"><Value number="1">1A</Value></DicomAttribute>'
    assert read(inner) == {"00280008": {"vr": "IS", "Value": ["1A"]}}


def test_private_attributes_get_blocks_that_their_creators_reserve() -> None:
    inner = "".join(
        f'<DicomAttribute tag="{tag}" vr="SH" privateCreator="{creator}"><Value number="1">{value}</Value>'
        "</DicomAttribute>"
        for tag, creator, value in [
            ("00290001", "ONE", "a"),
            ("00290001", "TWO", "b"),
            ("00290002", "ONE", "c"),
            ("00290002", "ONE", "second block"),
        ]
    )
    found = {key: element["Value"][0] for key, element in read(inner).items()}
    assert found == {
        "00290010": "ONE",
        "00290011": "TWO",
        "00290012": "ONE",
        "00291001": "a",
        "00291101": "b",
        "00291002": "c",
        "00291202": "second block",
    }


def test_private_attributes_with_whole_tags_keep_their_block() -> None:
    """As dcm2xml and Orthanc write them."""
    inner = (
        '<DicomAttribute tag="00290020" vr="LO"><Value number="1">ONE</Value></DicomAttribute>'
        '<DicomAttribute tag="00292001" vr="SH" privateCreator="ONE"><Value number="1">a</Value></DicomAttribute>'
    )
    assert list(read(inner)) == ["00290020", "00292001"]


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ('<DicomAttribute tag="1234"/>', "eight hexadecimal digits"),
        ('<DicomAttribute tag="00080005" vr="cs"/>', "value representation"),
        ('<DicomAttribute tag="00080005" vr="CS"/><DicomAttribute tag="00080005" vr="CS"/>', "twice"),
        ('<DicomAttribute tag="00080005" vr="CS"><Value number="2">A</Value></DicomAttribute>', "numbered"),
        ('<DicomAttribute tag="00080005" vr="CS"><Value>A</Value></DicomAttribute>', "numbered"),
        ('<DicomAttribute tag="00100010" vr="PN"><Value number="1">A</Value></DicomAttribute>', "none of PN"),
        ('<DicomAttribute tag="00100020" vr="LO"><PersonName number="1"/></DicomAttribute>', "none of LO"),
        ('<DicomAttribute tag="00082218" vr="SQ"><InlineBinary>AA==</InlineBinary></DicomAttribute>', "sequence"),
        ('<DicomAttribute tag="00082218" vr="SQ">text</DicomAttribute>', "text beside"),
        (
            '<DicomAttribute tag="00080005" vr="UN"><BulkData uri="a"/><Value number="1">A</Value></DicomAttribute>',
            "bulk data and with values",
        ),
        ("<Value number='1'>A</Value>", "<Value> within <NativeDicomModel>"),
        ('<DicomAttribute tag="00290001" vr="CS" privateCreator="A"/>' * 241, "no block left"),
        ('<x:DicomAttribute xmlns:x="urn:other" tag="00080005" vr="CS"/>', "<DicomAttribute>"),
        ("<unclosed>", "<unclosed>"),
        ("&nbsp;", "well-formed"),
    ],
)
def test_what_is_not_in_the_model_is_refused_with_a_reason(inner: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as caught:
        read(inner)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "document",
    [b"", b" ", b"{}", b"<NativeDicomModel>", b"<html/>", b"\xff\xfe", b'<?xml version="1.0" encoding="nope"?><a/>'],
)
def test_what_is_no_document_is_refused(document: bytes) -> None:
    with pytest.raises(Invalid):
        from_xml(document)


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE a [<!ENTITY e "text">]>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY e "&b;&b;&b;&b;&b;">]>',
    ],
)
def test_a_document_type_is_refused_before_an_entity_is_looked_at(declaration: str) -> None:
    inner = '<DicomAttribute tag="00100020" vr="LO"><Value number="1">&e;</Value></DicomAttribute>'
    with pytest.raises(Invalid, match="document type"):
        from_xml(f"{declaration}{HEAD}{inner}</NativeDicomModel>".encode())


def test_depth_and_number_of_elements_are_bounded() -> None:
    deep = '<DicomAttribute tag="00082218" vr="SQ"><Item number="1">' * 5 + "</Item></DicomAttribute>" * 5
    document = f"{HEAD}{deep}</NativeDicomModel>".encode()
    assert from_xml(document, Limits(max_depth=5))
    with pytest.raises(TooLarge, match="deeper than 4"):
        from_xml(document, Limits(max_depth=4))
    with pytest.raises(TooLarge, match="more than 10"):
        from_xml(document, Limits(max_elements=10))


# -- there and back

_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff^=\\"), min_size=1)
_NAMES = st.dictionaries(st.sampled_from(["Alphabetic", "Ideographic", "Phonetic"]), _TEXT, min_size=1)


def _elements(children: st.SearchStrategy[MetadataJson]) -> st.SearchStrategy[dict[str, Any]]:
    def of(vr: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.one_of(
            st.just({"vr": vr}),
            st.builds(lambda found: {"vr": vr, "Value": found}, st.lists(values, min_size=1, max_size=3)),
        )

    return st.one_of(
        of("LO", _TEXT),
        of("DS", st.floats(allow_nan=False, allow_infinity=False)),
        of("UV", st.integers(0, 2**64 - 1)),
        of("PN", _NAMES),
        of("SQ", children),
        st.builds(lambda text: {"vr": "UR", "BulkDataURI": text}, _TEXT),
    )


_DATA_SETS: st.SearchStrategy[MetadataJson] = st.recursive(
    st.just({}),
    lambda children: st.dictionaries(
        st.integers(0x0008, 0x7FDF).map(lambda number: f"{number & ~1:04X}{number:04X}"),
        _elements(children),
        max_size=4,
    ),
    max_leaves=6,
)


@given(_DATA_SETS)
def test_any_data_set_comes_back_as_it_was(dataset: MetadataJson) -> None:
    assert from_xml(to_xml(dataset)) == dataset


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    whole = to_xml({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B"}]}})
    for document in (noise, whole[:150] + noise + whole[150:]):
        with suppress(ReadingRoomError):
            from_xml(document)


def public(dataset: MetadataJson, *, without: frozenset[str] = frozenset()) -> MetadataJson:
    """What has no private block, at any level."""
    return {
        key: element
        | ({"Value": [public(item, without=without) for item in element["Value"]]} if "Value" in element else {})
        if element["vr"] == "SQ"
        else element
        for key, element in dataset.items()
        if key[3] not in "13579BDF" and element["vr"] not in without
    }


def sent(entry: Entry) -> MetadataJson:
    """The metadata of a file as it is sent."""
    stored = dump(scan(entry.read()).metadata).replace(BASE_URL_MARK.encode(), b"http://host/dicomweb")
    found: MetadataJson = orjson.loads(stored)
    return found


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@each_file()
def test_every_file_of_the_corpus_comes_back_from_xml(corpus: object, entry: Entry) -> None:
    try:
        dataset = sent(entry)
    except ReadingRoomError:
        return  # refused at the door, so it has no metadata
    found = from_xml(to_xml(dataset))
    assert public(found) == public(dataset)
    once = from_xml(to_xml(found))
    assert once == found, "private blocks, once chosen, stay"


@each_file("ct/pydicom__2062.dcm", "mr/dcm4che__MR01.dcm", "sc/pydicom__chrGreek.dcm", "sr/dcmqi__sr.dcm")
def test_dcm2xml_writes_the_same_of_a_file(corpus: object, entry: Entry) -> None:
    """A second opinion on the model; of binary values it gives none, and text it turns to UTF-8."""
    try:
        dcm2xml = program("dcm2xml")
    except Absent as reason:
        absent(reason)
    command = [dcm2xml, "--native-format", "--use-xml-namespace", "--convert-to-utf8", str(entry.path)]
    theirs = from_xml(subprocess.run(command, check=True, capture_output=True).stdout)
    binary = frozenset({"OB", "OW", "OF", "UN", "PN"})
    expected, found = public(theirs, without=binary), public(from_xml(to_xml(sent(entry))), without=binary)
    for dataset in (expected, found):
        dataset.pop("00080005", None)
    assert found == {key: element for key, element in expected.items() if key[:4] != "0002"}
