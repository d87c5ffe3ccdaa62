"""The suite's own parsers are strict: what they let pass, no check can find."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from conformance.dicomweb import areas
from conformance.dicomweb.checks import CHECKS, Fault, check
from conformance.dicomweb.jsonmodel import blemishes, differences
from conformance.dicomweb.multipart import Malformed, read_media_type, read_multipart, write_multipart
from conformance.dicomweb.nativexml import NAMESPACE, read_native, write_native
from conformance.dicomweb.peer import Answer, Peer, read_file
from conformance.dicomweb.samples import CODECS, Samples

TYPE = 'multipart/related; type="a/b"; boundary=x'


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples("parsers")


def test_a_media_type_is_read_with_its_parameters_and_blemishes() -> None:
    found = read_media_type('Multipart/Related; Type="a/b"; boundary=x-1;q="a\\"b"')
    assert found.name == "multipart/related"
    assert dict(found.parameters) == {"type": "a/b", "boundary": "x-1", "q": 'a"b'}
    assert found.blemishes == ()
    assert "quoted" in read_media_type("a/b; type=c/d").blemishes[0]
    assert "twice" in read_media_type("a/b; x=1; X=2").blemishes[0]


@pytest.mark.parametrize("text", ["", "a", "a/", "/b", "a b/c", "a/b c", "a/b; x", 'a/b; x="y'])
def test_what_is_no_media_type_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        read_media_type(text)


def test_a_message_is_read_part_by_part() -> None:
    body = write_multipart([("a/b", b"one\r\n"), ({"content-TYPE": "a/b", "X": " y "}, b"")], boundary="x")
    found = read_multipart(TYPE, body)
    assert [part.body for part in found.parts] == [b"one\r\n", b""]
    assert found.parts[1].headers == {"content-type": "a/b", "x": "y"}
    assert found.blemishes == ()


@given(bodies=st.lists(st.binary(max_size=200).filter(lambda body: b"\r\n--x" not in b"\r\n" + body), max_size=4))
def test_what_is_written_is_read_again(bodies: list[bytes]) -> None:
    body = write_multipart([("a/b", one) for one in bodies], boundary="x")
    assert [part.body for part in read_multipart(TYPE, body).parts] == bodies


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/dicom", b""),
        ("multipart/related; type=a", b""),
        (TYPE, b"nothing"),
        (TYPE, b"--x\r\nContent-Type: a/b\r\n\r\nbody"),
        (TYPE, b"--x\r\nContent-Type: a/b\r\n--x--"),
        (TYPE, b"--x\r\nno header\r\n\r\nbody\r\n--x--"),
        (TYPE, b"--xyz\r\nContent-Type: a/b\r\n\r\nbody\r\n--x--"),
        (TYPE, b"--x\nContent-Type: a/b\n\nbody\n--x--"),
    ],
)
def test_a_broken_message_is_malformed(content_type: str, body: bytes) -> None:
    with pytest.raises(Malformed):
        read_multipart(content_type, body)


@pytest.mark.parametrize(
    ("content_type", "body", "blemish"),
    [
        ("multipart/related; boundary=x", b"--x\r\nContent-Type: a/b\r\n\r\n\r\n--x--", "no type parameter"),
        (TYPE, b"hello\r\n--x\r\nContent-Type: a/b\r\n\r\n\r\n--x--", "before the first"),
        (TYPE, b"--x\r\n\r\n\r\n--x--", "no Content-Type"),
        (TYPE, b"--x\r\nContent-Type: c/d\r\n\r\n\r\n--x--", "as type says"),
        (TYPE, b"--x\r\nContent-Type: a/b\r\ncontent-type: a/b\r\n\r\n\r\n--x--", "two headers"),
        ('multipart/related; type="a/b"; boundary="{}"', b"--{}\r\nContent-Type: a/b\r\n\r\n\r\n--{}--", "no boundary"),
    ],
)
def test_what_can_be_read_all_the_same_is_a_blemish(content_type: str, body: bytes, blemish: str) -> None:
    assert any(blemish in one for one in read_multipart(content_type, body).blemishes)


def test_clean_json_has_no_blemish() -> None:
    item = {"00080100": {"vr": "SH", "Value": ["A"]}, "00080104": {"vr": "LO"}}
    dataset = {
        "00080005": {"vr": "CS", "Value": [None, "ISO 2022 IR 87"]},
        "00080018": {"vr": "UI", "Value": ["1.2.3"]},
        "00081140": {"vr": "SQ", "Value": [{}, {"00082218": {"vr": "SQ", "Value": [item]}}]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B", "Ideographic": "C"}, {}, None]},
        "00180050": {"vr": "DS", "Value": [2.5, "2.50"]},
        "00189073": {"vr": "FD", "Value": [1, -2.5e-300]},
        "00280009": {"vr": "AT", "Value": ["0018106A"]},
        "00280010": {"vr": "US", "Value": [0, 65535]},
        "00711004": {"vr": "UN", "InlineBinary": "AQIDBA=="},
        "7FE00010": {"vr": "OW", "BulkDataURI": "http://127.0.0.1/bulk"},
    }
    assert [str(one) for one in blemishes(dataset)] == []


@pytest.mark.parametrize(
    ("attribute", "rule"),
    [
        ({"0020000d": {"vr": "UI"}}, "key"),
        ({"00020010": {"vr": "UI"}}, "group"),
        ({"00080000": {"vr": "UL"}}, "group"),
        ({"00100010": {"vr": "PN"}, "00080005": {"vr": "CS"}}, "order"),
        ({"00080005": {"vr": "cs"}}, "vr"),
        ({"00080005": {}}, "vr"),
        ({"00080005": "CT"}, "members"),
        ({"00080005": {"vr": "CS", "Values": ["x"]}}, "members"),
        ({"7FE00010": {"vr": "OW", "InlineBinary": "", "BulkDataURI": "x"}}, "members"),
        ({"00080005": {"vr": "CS", "Value": []}}, "empty"),
        ({"00080005": {"vr": "CS", "Value": [""]}}, "empty"),
        ({"00080005": {"vr": "CS", "Value": [None]}}, "empty"),
        ({"00080005": {"vr": "CS", "Value": [1]}}, "kind"),
        ({"00280010": {"vr": "US", "Value": ["1"]}}, "kind"),
        ({"00280010": {"vr": "US", "Value": [True]}}, "kind"),
        ({"00280010": {"vr": "US", "Value": [1.5]}}, "kind"),
        ({"00189073": {"vr": "FD", "Value": ["1.5"]}}, "kind"),
        ({"00180050": {"vr": "DS", "Value": [[]]}}, "kind"),
        ({"00081140": {"vr": "SQ", "Value": [None]}}, "kind"),
        ({"00081140": {"vr": "SQ", "Value": [{"0008005": {"vr": "CS"}}]}}, "key"),
        ({"00280009": {"vr": "AT", "Value": ["0018,1063"]}}, "tag"),
        ({"00100010": {"vr": "PN", "Value": ["A^B"]}}, "name"),
        ({"00100010": {"vr": "PN", "Value": [{"alphabetic": "A^B"}]}}, "name"),
        ({"00080018": {"vr": "UI", "Value": ["1.2\0"]}}, "padding"),
        ({"7FE00010": {"vr": "OW", "Value": [1]}}, "bulk"),
        ({"00080005": {"vr": "CS", "InlineBinary": "AAAA"}}, "bulk"),
        ({"7FE00010": {"vr": "OW", "InlineBinary": "not base64"}}, "bulk"),
        ({"00080005": {"vr": "CS", "BulkDataURI": "x"}}, "bulk"),
    ],
)
def test_a_breach_of_annex_f_is_found(attribute: dict[str, Any], rule: str) -> None:
    assert rule in [one.rule for one in blemishes(attribute)]


def test_a_data_set_is_compared_value_by_value() -> None:
    dataset = Dataset()
    dataset.PatientID, dataset.PixelSpacing, dataset.PatientName = "A", ["0.50", "1"], "B^C"
    came = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "B^C"}]},
        "00100020": {"vr": "LO", "Value": ["A"]},
        "00280030": {"vr": "DS", "Value": [0.5, "1.0"]},
    }
    assert list(differences(dataset, came)) == []
    came["00100020"]["Value"] = ["a"]
    del came["00100010"]
    came["00280031"] = {"vr": "DS"}
    assert len(list(differences(dataset, came))) == 3


def test_xml_that_is_written_is_read_as_the_same(samples: Samples) -> None:
    for name in ("ct1", "sr", "greek"):
        dataset = samples[name].dataset.to_json_dict(bulk_data_threshold=1, bulk_data_element_handler=lambda one: "uri")
        found = read_native(write_native(dataset))
        assert found.blemishes == ()
        assert list(differences(samples[name].dataset, found.dataset)) == []


def _native(attributes: str) -> bytes:
    return f'<NativeDicomModel xmlns="{NAMESPACE}">{attributes}</NativeDicomModel>'.encode()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b"<NativeDicomModel/>", "root"),
        (b"<Other/>", "root"),
        (_native('<DicomAttribute tag="0008005" vr="CS"/>'), "tag"),
        (_native('<DicomAttribute tag="00080060" vr="X" keyword="Modality"/>'), "vr"),
        (_native('<DicomAttribute tag="00080060" vr="CS"/>'), "keyword"),
        (_native('<DicomAttribute tag="00711001" vr="LO"/>'), "creator"),
        (
            _native(
                '<DicomAttribute tag="00080060" vr="CS" keyword="Modality">'
                '<Value number="0">CT</Value></DicomAttribute>'
            ),
            "number",
        ),
        (_native('<DicomAttribute tag="7FE00010" vr="OW" keyword="PixelData"><BulkData/></DicomAttribute>'), "bulk"),
        (_native("<Value/>"), "element"),
    ],
)
def test_a_breach_of_the_native_model_is_found(text: bytes, rule: str) -> None:
    assert rule in [one.rule for one in read_native(text).blemishes]


def test_private_attributes_of_xml_find_their_block_and_creator() -> None:
    found = read_native(
        _native(
            '<DicomAttribute tag="00710001" vr="LO" privateCreator="ONE"/>'
            '<DicomAttribute tag="00710001" vr="LO" privateCreator="TWO"/>'
            '<DicomAttribute tag="00710002" vr="LO" privateCreator="ONE"/>'
        )
    )
    assert list(found.dataset) == ["00710010", "00710011", "00711001", "00711002", "00711101"]


def test_xml_with_entities_is_not_read() -> None:
    text = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><NativeDicomModel>&e;</NativeDicomModel>'
    with pytest.raises(ValueError, match="document type declaration"):
        read_native(text)
    with pytest.raises(ValueError, match="no well-formed XML"):
        read_native(b"<a>")


def answer(content: bytes, content_type: str = "application/dicom+json", status: int = 200) -> Answer:
    transport = httpx.MockTransport(
        lambda request: httpx.Response(status, content=content, headers={"content-type": content_type})
    )
    return Peer(httpx.Client(transport=transport), "http://example.test/dicomweb").get("/studies")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'[{"a": 1, "a": 2}]', b"[NaN]", b"\xef\xbb\xbf[]", b"[\xff]", b"[1]", b"[{}"]
)
def test_json_that_is_no_list_of_objects_is_a_fault(content: bytes) -> None:
    with pytest.raises(Fault):
        answer(content).rows()


def test_a_fault_names_the_request_and_what_came() -> None:
    with pytest.raises(Fault, match=r"GET /dicomweb/studies answers 404, not 200 or 206 \(no such thing\)"):
        answer(b"no such thing\n", "text/plain", 404).expect(200, 206)


@pytest.mark.parametrize("body", [b"", b"\0" * 200, b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\x02\x00\x10\x00UI"])
def test_what_is_no_dicom_file_is_a_fault(body: bytes) -> None:
    with pytest.raises(Fault):
        read_file(body)


def test_samples_are_the_same_for_one_seed_and_others_for_another(samples: Samples) -> None:
    assert [one.file for one in Samples("parsers")] == [one.file for one in samples]
    assert not {one.uid for one in Samples("others")} & {one.uid for one in samples}


def test_every_sample_is_a_file_that_can_be_read(samples: Samples) -> None:
    for sample in samples:
        found = read_file(sample.file)
        assert found.SOPInstanceUID == sample.uid
        assert found.file_meta.TransferSyntaxUID == sample.transfer_syntax
    assert {samples[name].transfer_syntax for name in CODECS} == set(CODECS.values())
    assert np.unique(samples.frames[0]).size > 200


def test_a_check_is_declared_once_and_says_what_it_demands() -> None:
    with pytest.raises(ValueError, match="no new id"):
        check("NEG-001", "8.7")(lambda peer, cast: None)
    with pytest.raises(ValueError, match="no new id"):
        check("XYZ-001", "8.7")(lambda peer, cast: None)
    with pytest.raises(ValueError, match="does not say"):
        check("NEG-999", "8.7")(lambda peer, cast: None)
    assert "NEG-999" not in CHECKS
    assert all(check.run.__module__.startswith(areas.__name__) for check in CHECKS.values())
