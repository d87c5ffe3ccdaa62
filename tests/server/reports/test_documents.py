"""Renderings of a report: text, HTML, PDF; what they show, and what they make of hostile text."""

from __future__ import annotations

import hashlib
import io
import re
from contextlib import closing
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pypdfium2
import pytest
import typst

from readingroom.errors import Conflict, Unprintable
from readingroom.model import (
    Addendum,
    Algorithm,
    CriticalResult,
    FollowUp,
    Passage,
    Report,
    ReportStatus,
    Section,
    Signature,
)
from server.doctor import examine
from server.fhir.narrative import narrative_faults
from server.reports.documents import fonts, html, pdf, text
from server.reports.documents.forms import presented
from server.reports.documents.sheet import lay_out, name_forms
from server.settings import Settings
from tests.reports import a_report

LATER = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
BOB = Signature(reader="bob", name="Roe^Bob^^Dr.", role="attending", at=LATER)


def saying(*lines: str, **changes: object) -> Report:
    """A report whose findings are these lines."""
    section = Section(name="findings", title="Findings", passages=(Passage(text="\n".join(lines)),))
    return a_report(sections=(section,), **changes)


def pages_of(document: bytes) -> list[str]:
    """The text layer of each page."""
    with closing(pypdfium2.PdfDocument(io.BytesIO(document))) as pdf_document:
        return [page.get_textpage().get_text_range() for page in pdf_document]


def set_words(report: Report) -> str:
    """The text layer of the PDF; soft breaks of lines and of words are none of the text."""
    told = " ".join(pages_of(pdf.render(report)))
    return " ".join(told.replace("\u200b", "").replace("\ufffe", "").split())


def letters(told: str) -> set[str]:
    """The words of a text, each with its letters sorted: PDFium turns words, and ligatures in them, as it sees them."""
    return {"".join(sorted(word)) for word in told.split()}


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.said: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.said.append(data)


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_text_has_the_heading_the_sections_and_who_signed_when_on_the_clock_of_the_facility() -> None:
    lines = text.hl7_ft(a_report())
    assert lines[:3] == ["Local Hospital", "Radiology report", "FINAL REPORT"]
    assert "Patient: Doe, Jane" in lines
    assert "Born: 1970-01-31" in lines
    assert "Examined: 2026-11-24 10:15" in lines
    assert lines[lines.index("FINDINGS") + 1] == "There is no haemorrhage."
    assert lines[lines.index("IMPRESSION") + 1] == "Normal CT of the head."
    signed = "Signed by Ada Byron, MD, attending radiologist, 2026-11-24 06:30 CST. Licence T1 (US-TX)."
    assert signed in lines
    assert text.plain(a_report()).splitlines() == lines


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("preliminary", "PRELIMINARY REPORT"),
        ("amended", "AMENDED REPORT"),
        ("corrected", "CORRECTED REPORT"),
        ("appended", "FINAL REPORT WITH ADDENDUM"),
        ("entered-in-error", "ENTERED IN ERROR - DO NOT USE"),
    ],
)
def test_every_rendering_says_what_a_version_is(status: ReportStatus, line: str) -> None:
    report = a_report(status=status, because="The other side.")
    for told in (text.plain(report), html.page(report), html.narrative(report), set_words(report)):
        assert line in told
        assert "The other side." in told


def test_a_report_that_nobody_has_signed_says_so_and_makes_no_pdf() -> None:
    draft = a_report(number=0, status="registered", signed_at=None, signatures=())
    assert "DRAFT - NOT SIGNED" in html.page(draft)
    with pytest.raises(Conflict, match="not signed"):
        pdf.render(draft)


def test_addenda_come_in_their_order_each_with_its_own_signature() -> None:
    first = Addendum(number=2, passages=(Passage(text="Compared with 2025."),), signatures=(BOB,))
    second = Addendum(number=3, passages=(Passage(text="Discussed."),), signatures=(BOB,))
    told = text.plain(a_report(status="appended", number=3, kind="addendum", addenda=(second, first)))
    places = [
        told.index(part)
        for part in ("Ada Byron", "ADDENDUM 1\nCompared with 2025.\nSigned by Dr. Bob Roe", "ADDENDUM 2")
    ]
    assert places == sorted(places)
    assert "2026-11-24 21:00 CST" in told


def test_critical_results_follow_ups_and_discrepancies_are_told() -> None:
    report = a_report(
        critical_results=(CriticalResult(category=1, text="Large haemorrhage."),),
        follow_ups=(FollowUp(text="MR of the head.", due_on="2027-05-24", procedure="MR head"),),
        discrepancy="major",
    )
    for told in (text.plain(report), html.page(report), set_words(report)):
        assert "Category 1 (within minutes): Large haemorrhage." in told
        assert "By 2027-05-24: MR of the head. (MR head)" in told
        assert "major discrepancy" in told


def test_what_an_algorithm_wrote_is_marked_and_named() -> None:
    bleed = Algorithm(name="Bleed", version="2", clearance="K123456")
    drafted = Passage(text="No bleed. ", origin="ai", source="writer", is_accepted=True, algorithm=bleed)
    report = a_report(
        sections=(Section(name="findings", title="Findings", passages=(drafted, Passage(text="Normal."))),)
    )
    note = "1 sentence drafted by Bleed 2, K123456 and accepted by the reader."
    for told in (text.plain(report), html.page(report), set_words(report)):
        assert note in told
        assert "No bleed." in told
    assert (
        '<span class="ai" title="drafted by Bleed 2, K123456 and accepted by the reader">No bleed. </span>'
        in html.page(report)
    )
    assert "NOT YET ACCEPTED" in html.page(saying_unaccepted(bleed))


def saying_unaccepted(algorithm: Algorithm) -> Report:
    passage = Passage(text="A bleed.", origin="ai", algorithm=algorithm)
    return a_report(sections=(Section(name="findings", title="Findings", passages=(passage,)),), number=0)


def test_a_name_is_shown_in_each_form_that_it_has() -> None:
    assert name_forms("Yamada^Tarou=山田^太郎=やまだ^たろう") == ("Yamada, Tarou", "山田 太郎", "やまだ たろう")
    assert name_forms("Doe^Jane^Q^Dr.^Jr.") == ("Doe, Dr. Jane Q Jr.",)
    assert name_forms("=山田^太郎") == ("山田 太郎",)
    assert name_forms(None) == name_forms("^^=") == ()


def test_who_signed_is_named_as_one_says_it() -> None:
    for name, told in (("Roe^Bob^^Dr.", "Dr. Bob Roe"), ("佐藤^健", "佐藤 健"), ("Ada Byron, MD", "Ada Byron, MD")):
        signed = (Signature(reader="x", name=name, role="resident", at=LATER),)
        assert f"Signed by {told}, resident," in text.plain(a_report(signatures=signed))


def test_doctor_tells_which_scripts_reports_can_be_set_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = typst.Fonts(include_system_fonts=False)
    few = fonts.Fonts(book, frozenset(book.families()))
    monkeypatch.setattr(pdf, "find_fonts", lambda folder: few)
    (told,) = [check for check in examine(Settings(data=tmp_path)) if check.name == "Reports"]  # type: ignore[call-arg]
    assert told.state == "note"
    assert "Latin, Greek, Cyrillic" in told.found.partition(";")[0]
    assert "Japanese" in told.found.partition(";")[2]
    assert "fonts-noto-cjk" in told.advice


def test_a_section_with_nothing_in_it_is_a_heading_alone() -> None:
    empty = a_report(sections=(Section(name="technique", title="Technique"),))
    assert "TECHNIQUE" in text.hl7_ft(empty)
    assert "Technique</h2></section>" in html.page(empty)
    assert "Technique" in set_words(empty)


# -- the same everywhere -----------------------------------------------------------------------------------------------


def test_what_is_signed_is_what_the_pdf_and_the_html_say_word_for_word() -> None:
    lines = (
        "1. No *bold*, no _italics_, no #let x = $y$.",
        '2. "Quoted" <b>& 5 < 6</b> \\n {} [] // /* */ @ref = -- ~',
    )
    report = saying(*lines)
    said = " ".join(Page(html.page(report)).said)
    layer = set_words(report)
    for line in lines:
        assert line in said
        assert line in layer


def test_a_version_that_is_made_twice_has_the_same_bytes() -> None:
    report = saying("Größe 12 mm.")
    made = pdf.render(report)
    assert made == pdf.render(report)
    assert b"D:20261124123000Z" in made
    assert html.page(report) == html.page(report)


def test_a_signature_at_any_fraction_of_a_second_has_a_pdf() -> None:
    at = datetime(2026, 11, 24, 12, 30, 1, 123456, tzinfo=UTC)
    assert pdf.render(a_report(signed_at=at)).startswith(b"%PDF")


def test_the_presented_forms_are_html_and_pdf_with_size_and_digest_of_their_bytes() -> None:
    report = a_report()
    page, document = presented(report)
    assert (page.content_type, page.data) == ("text/html; charset=utf-8", html.page(report).encode())
    assert (document.content_type, document.data) == ("application/pdf", pdf.render(report))
    for one in (page, document):
        assert (one.size, one.sha1) == (len(one.data), hashlib.sha1(one.data).digest())


def test_the_pdf_is_tagged_and_kept_by_the_standards_for_it() -> None:
    made = pdf.render(a_report())
    assert b"/MarkInfo" in made
    assert re.search(rb"pdfaid:part>3<.*pdfaid:conformance>A<", made, re.DOTALL)
    assert b"pdfuaid:part>1<" in made


def test_a_word_of_any_length_stays_on_the_page() -> None:
    with closing(pypdfium2.PdfDocument(io.BytesIO(pdf.render(saying("Q" * 500))))) as document:
        (page,) = document
        layer = page.get_textpage()
        boxes = [layer.get_charbox(index) for index in range(layer.count_chars())]
        assert max(right for _, _, right, _ in boxes) < page.get_width() - 40
        assert layer.get_text_range().count("Q") == 500


# -- scripts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["Latin", "Greek", "Cyrillic"])
def test_every_installation_sets_these_scripts(script: str) -> None:
    assert pdf.settable()[script]
    assert fonts.SCRIPTS[script] in set_words(saying(fonts.SCRIPTS[script]))


@pytest.mark.parametrize("words", ["تقرير الأشعة", "צילום רנטגן", "放射線レポート", "放射报告", "영상의학 보고서"])
def test_the_fonts_of_noto_set_every_other_script(words: str, noto: None) -> None:
    assert letters(words) <= letters(set_words(saying(words, language="ja")))


def test_names_that_go_from_right_to_left_stand_right_among_others(noto: None) -> None:
    report = saying("הממצא: 12 mm (CT).", patient_name="כהן^דוד=山田^太郎", language="he")
    layer = set_words(report)
    assert letters("כהן דוד הממצא") <= letters(layer.replace(",", " ").replace(":", " "))
    assert "山田 太郎" in layer
    assert '<bdi dir="auto">כהן, דוד</bdi> <bdi dir="auto">山田 太郎</bdi>' in html.page(report)
    assert '<p dir="rtl">' in html.narrative(report)


def test_a_character_that_no_font_has_is_an_error_that_names_it_and_no_patient() -> None:
    with pytest.raises(Unprintable, match=r"No font here can set U\+E000, U\+3FFF0;") as error:
        pdf.render(saying("private \ue000, unassigned \U0003fff0"))
    assert "Doe" not in error.value.message


# -- bad input ---------------------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)><!-- </style></title> &lt;b&gt;"


def test_no_text_of_a_report_becomes_markup() -> None:
    report = a_report(
        facility_name=HOSTILE,
        patient_id=HOSTILE,
        patient_name=HOSTILE,
        birth_date=HOSTILE,
        sex=HOSTILE,
        study_date=HOSTILE,
        accession_number=HOSTILE,
        procedure=HOSTILE,
        reason=HOSTILE,
        because=HOSTILE,
        language=HOSTILE,
        zone=HOSTILE,
        sections=(
            Section(name=HOSTILE, title=HOSTILE, passages=(Passage(text=HOSTILE, origin="ai", source=HOSTILE),)),
        ),
        addenda=(Addendum(number=2, passages=(Passage(text=HOSTILE),), signatures=(BOB,)),),
        critical_results=(CriticalResult(category=2, text=HOSTILE),),
        follow_ups=(FollowUp(text=HOSTILE, due_on=HOSTILE, procedure=HOSTILE),),
        signatures=(Signature(reader="x", name=HOSTILE, role="attending", at=LATER, licence=HOSTILE, state=HOSTILE),),
    )
    usual, shown = Page(html.page(a_report())), Page(html.page(report))
    assert set(shown.tags) <= {*usual.tags, "div", "span"}
    assert shown.attributes <= {*usual.attributes, "title", "lang"}
    assert shown.tags.count("style") == shown.tags.count("title") == 1
    assert narrative_faults(html.narrative(report)) == []
    assert "<script>alert(1)</script>" in set_words(report)


@pytest.mark.parametrize("bad", ["\0", "\x07", "\x1b[31m", "\x7f", "\x9b", "\ud800", "\uffff", "\ufdd0"])
def test_what_is_no_character_is_replaced_by_the_sign_for_that(bad: str) -> None:
    report = saying(f"before {bad} after", patient_name=f"Doe{bad}^Jane")
    for told in (text.plain(report), html.page(report), html.narrative(report), set_words(report)):
        assert "before \ufffd" in told
        assert not set(bad) & set(told) - set("[31m")
        told.encode()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_every_end_of_a_line_is_one(end: str) -> None:
    lines = text.hl7_ft(saying(f"one{end}two", patient_id=f"P{end}1"))
    assert lines[lines.index("FINDINGS") + 1 :][:2] == ["one", "two"]
    assert "Patient ID: P 1" in lines


def test_marks_of_direction_turn_nothing_outside_of_their_text() -> None:
    report = saying("left \u202eright", patient_name="Doe\u202e^Jane", patient_id="P1")
    assert '<bdi dir="auto">Doe\u202e, Jane</bdi>' in html.page(report)
    layer = set_words(report)
    assert "Patient ID P1" in layer
    assert "Local Hospital" in layer


def test_a_report_of_ten_thousand_lines_is_whole() -> None:
    report = saying(*(f"Line {number}" for number in range(10_000)))
    assert "Line 9999" in text.hl7_ft(report)
    assert "Line 9999" in html.page(report)
    pages = pages_of(pdf.render(report))
    assert len(pages) > 100
    assert "Line 9999" in pages[-1]


def test_a_report_of_a_million_characters_is_whole() -> None:
    report = saying(" ".join(f"word{number:05d}" for number in range(100_000)))
    assert "word99999" in pages_of(pdf.render(report))[-1]


def test_a_word_of_a_hundred_thousand_letters_is_whole() -> None:
    assert set_words(saying("Q" * 100_000)).count("Q") == 100_000


def test_a_zone_that_nobody_knows_is_told_in_utc() -> None:
    assert "2026-11-24 12:30 UTC" in text.plain(a_report(zone="Atlantis/Capital"))


def test_a_language_that_is_none_is_english() -> None:
    assert 'lang="en"' in html.page(a_report(language="x" * 500))
    assert html.language_of(lay_out(a_report(language="pt-BR"))) == "pt-BR"
