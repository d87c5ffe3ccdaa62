"""Reports as text: nothing of the content is lost, and nothing of it becomes markup (PS3.3 C.17.3)."""

from __future__ import annotations

from typing import Any

import pytest
from lxml import etree
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from server.rendering.report import as_html, as_plain, read_report
from tests.rendering import item_of
from tests.synthetic import text_report


def coded(meaning: str, value: str = "1", scheme: str = "99T") -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def content(kind: str, name: str = "", *, relation: str = "CONTAINS", children: Any = (), **attributes: Any) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relation, kind
    if name:
        item.ConceptNameCodeSequence = [coded(name)]
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    if children:
        item.ContentSequence = list(children)
    return item


def measured(value: str, unit: Code | Dataset) -> Dataset:
    item = Dataset()
    item.NumericValue = value
    item.MeasurementUnitsCodeSequence = [unit]
    return item


def reference(uid: str, *frames: int) -> list[Dataset]:
    item = Dataset()
    item.ReferencedSOPInstanceUID = uid
    if frames:
        item.ReferencedFrameNumber = list(frames)
    return [item]


def report(*items: Dataset) -> Dataset:
    dataset = text_report()
    dataset.ConceptNameCodeSequence = [coded("Chest CT")]
    dataset.ContentSequence = list(items)
    return dataset


def lines_of(*items: Dataset) -> list[str]:
    return as_plain(read_report(item_of(report(*items)))).partition("\n\n")[2].splitlines()


@pytest.mark.parametrize(
    ("item", "line"),
    [
        (content("TEXT", "Finding", TextValue="No nodule."), "Finding: No nodule."),
        (content("TEXT", TextValue="No name."), "No name."),
        (content("CODE", "Region", ConceptCodeSequence=[coded("Thorax")]), "Region: Thorax"),
        (
            content("NUM", "Diameter", MeasuredValueSequence=[measured("12.50", coded("millimeter", "mm", "UCUM"))]),
            "Diameter: 12.5 mm",
        ),
        (
            content("NUM", "Count", MeasuredValueSequence=[measured("3", coded("no units", "1", "UCUM"))]),
            "Count: 3",
        ),
        (
            content("NUM", "Flow", NumericValueQualifierCodeSequence=[coded("Not a number")]),
            "Flow: Not a number",
        ),
        (content("PNAME", "Reader", PersonName="Reader^Rita"), "Reader: Reader Rita"),
        (content("DATE", "On", Date="20260103"), "On: 2026-01-03"),
        (content("TIME", "At", Time="081530"), "At: 08:15:30"),
        (content("DATETIME", "Then", DateTime="20260103081530"), "Then: 2026-01-03 08:15:30"),
        (content("UIDREF", "Device", UID="1.2.3"), "Device: 1.2.3"),
        (
            content("IMAGE", "Source", ReferencedSOPSequence=reference("1.2.9", 2, 5)),
            "Source: image, frames 2, 5 1.2.9",
        ),
        (content("COMPOSITE", ReferencedSOPSequence=reference("1.2.9")), "composite 1.2.9"),
        (content("IMAGE", "Source"), "Source: image"),
        (content("SCOORD", "Spot", GraphicType="POINT", GraphicData=[1.0, 2.0]), "Spot: point of 1 point"),
        (
            content("SCOORD3D", "Line", GraphicType="POLYLINE", GraphicData=[1.0] * 6),
            "Line: polyline of 2 points",
        ),
        (content("TCOORD", "When", TemporalRangeType="BEGIN"), "When: begin"),
        (content("CONTAINER", "Findings"), "Findings"),
        (
            content("TEXT", "Because", relation="INFERRED FROM", TextValue="of it"),
            "(inferred from) Because: of it",
        ),
    ],
)
def test_a_content_item_is_a_line(item: Dataset, line: str) -> None:
    """PS3.3 Table C.17.3-7."""
    assert lines_of(item) == [line]


def test_what_contains_stands_above_what_it_contains() -> None:
    tree = content(
        "CONTAINER", "A", children=[content("CONTAINER", "B", children=[content("TEXT", "C", TextValue="c\nd")])]
    )
    assert lines_of(tree, content("CONTAINER", "D")) == ["A", "  B", "    C: c", "    d", "D"]


def test_the_head_says_whose_report_it_is_and_how_far_it_got() -> None:
    text = as_plain(read_report(item_of(report())))
    assert text.startswith("Chest CT\n========\n")
    for words in ("Phantom Ada", "RR-0001", "1970-01-01", "complete, unverified"):
        assert words in text


HOSTILE = "<script>alert(1)</script>&\"'"


def test_no_text_becomes_markup() -> None:
    dataset = report(
        content("TEXT", HOSTILE, TextValue=HOSTILE),
        content("IMAGE", HOSTILE, ReferencedSOPSequence=reference("1.2.9")),
        content("UIDREF", "Uid", UID="1.2"),
    )
    dataset.PatientName = HOSTILE
    dataset.ConceptNameCodeSequence = [coded(HOSTILE)]
    page = as_html(read_report(item_of(dataset)), lambda uid: f'http://x/{uid}?a=1&b="><script>')
    root = etree.fromstring(page, etree.HTMLParser(recover=False))
    assert {element.tag for element in root.iter()} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "dl", "dt", "dd", "ul", "li", "b", "small", "a")
    }
    assert root.findtext(".//title") == HOSTILE
    (link,) = root.iterfind(".//a")
    assert link.get("href") == 'http://x/1.2.9?a=1&b="><script>'
    assert HOSTILE in "".join(root.itertext())


def test_lists_lie_in_lists_as_the_content_does() -> None:
    tree = content("CONTAINER", "A", children=[content("TEXT", "B", TextValue="b")])
    page = as_html(read_report(item_of(report(tree, content("TEXT", "C", TextValue="c")))), lambda _: "")
    root = etree.fromstring(page, etree.HTMLParser(recover=False))
    assert [bold.text for bold in root.findall("./body/ul/li/b")] == ["A", "C:"]
    assert [bold.text for bold in root.findall("./body/ul/li/ul/li/b")] == ["B:"]


def test_an_empty_report_is_one_too() -> None:
    dataset = text_report()
    del dataset.ContentSequence
    assert "Report" in as_html(read_report(item_of(dataset)), lambda _: "")
