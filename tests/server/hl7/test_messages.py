"""Texts come through their escapes as they were, and answers are read whatever they look like."""

from __future__ import annotations

from contextlib import suppress

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readingroom.errors import Invalid
from server.hl7.messages import escape, field, header, read_answer, segment, unescape, written

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=200)


@given(TEXTS)
def test_what_is_escaped_comes_back(text: str) -> None:
    assert unescape(escape(text)) == text


@given(TEXTS)
def test_no_text_makes_a_field_or_a_segment_more(text: str) -> None:
    line = segment("OBX", {5: field("a", text, "b"), 6: "end"})
    assert line.count("|") == 6
    assert line.count("\r") == line.count("\n") == line.count("\x0b") == line.count("\x1c") == 0
    assert line.split("|")[5].count("^") == 2
    assert unescape(line.split("|")[5].split("^")[1]) == text


def test_the_escapes_are_those_of_the_standard() -> None:
    assert escape("a|b^c&d~e\\f") == "a\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f"
    assert escape("one\r\ntwo\rthree\nfour") == "one\\.br\\two\\.br\\three\\.br\\four"
    assert escape("\x0b\x1c") == "\\X0B\\\\X1C\\"
    assert unescape("\\H\\loud\\N\\ \\Xe282ac\\ \\Zown\\ \\X4\\") == "loud € \\Zown\\ \\X4\\"


def test_a_header_has_its_separators_in_the_first_two_fields() -> None:
    assert header({3: "APP", 9: field("ORU", "R01"), 12: "2.5.1"}) == "MSH|^~\\&|APP||||||ORU^R01|||2.5.1"


def test_what_a_character_set_lacks_is_told_by_its_number() -> None:
    with pytest.raises(Invalid, match=r"U\+4E2D"):
        written([segment("PID", {5: "中"})], "8859/1")
    assert written(["PID||Müller"], "8859/1") == b"PID||M\xfcller\r"


def answer(*segments: str) -> bytes:
    return "\r".join(segments).encode()


MSH = "MSH|^~\\&|RIS|||||| ACK|77|P|2.5.1"


@pytest.mark.parametrize(
    ("message", "code", "control_id", "text"),
    [
        (answer(MSH, "MSA|AA|1|fine"), "AA", "1", "fine"),
        (answer(MSH, "MSA|ca|1"), "CA", "1", ""),
        (answer("MSH$%~\\&$RIS", "MSA$AE$1$no"), "AE", "1", "no"),
        (answer(MSH, "", "MSA|AR| 1 |a\\F\\b") + b"\r\r", "AR", "1", "a|b"),
        (answer(MSH, "MSA|AA|1").replace(b"\r", b"\r\n"), "AA", "1", ""),
        (answer(MSH, "MSA|AA|1").replace(b"\r", b"\n") + b"\n", "AA", "1", ""),
        (answer(MSH, "MSA|"), "", "", ""),
        (answer(MSH, "MSA|AA|1|\xff"), "AA", "1", "ÿ"),
    ],
)
def test_an_answer_is_read(message: bytes, code: str, control_id: str, text: str) -> None:
    read = read_answer(message)
    assert (read.code, read.control_id, read.text) == (code, control_id, text)


@pytest.mark.parametrize(
    "message", [b"", b"\r", b"MSH", b"MSH|", b"hello", b"MSA|AA|1", answer(MSH), answer(MSH, "MSA"), b"\xff\xfe" * 50]
)
def test_what_is_no_answer_is_refused(message: bytes) -> None:
    with pytest.raises(Invalid):
        read_answer(message)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reading(data: bytes) -> None:
    for message in (data, b"MSH" + data, b"MSH|^~\\&|" + data + b"\rMSA|" + data):
        with suppress(Invalid):
            read_answer(message)


def test_python_hl7_reads_what_is_written() -> None:
    message = written([header({3: "A", 9: "ORU^R01", 10: "1", 12: "2.5.1"}), segment("PID", {5: "X^Y"})], "ASCII")
    assert str(hl7.parse(message).segment("PID")[5]) == "X^Y"
