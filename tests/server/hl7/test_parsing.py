"""Segments, paths, escapes and character sets, as senders of all kinds write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from readingroom.errors import Invalid, NotFound, ReadingRoomError
from server.hl7.meaning import meaning_of, moment_of
from server.hl7.parsing import read_message, read_path, value_at
from server.hl7.profiles import load_profile
from tests.hl7 import message


def at(path: str, raw: bytes) -> str:
    return value_at(read_message(raw).segments, read_path(path))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("PID-3", "1^^^A&1.2"),
        ("PID-3.1", "1"),
        ("PID-3.4", "A"),
        ("PID-3.4.2", "1.2"),
        ("PID-3.9", ""),
        ("PID-5.1", "Doe|x^y&z~\\"),
        ("PID-5.2", "a\nb"),
        ("PID-5.3", "é"),
        ("PID-8", ""),
        ("PID-99", ""),
        ("OBX[3.1=B]-5.1", "two"),
        ("OBX-5", "one"),
        ("OBX[3.1=C]-5.1", ""),
        ("ZZZ-1", ""),
        ("MSH-9.2", "A08"),
    ],
)
def test_a_path_finds_what_a_field_means(path: str, value: str) -> None:
    pid = 'PID|||1^^^A&1.2~2||Doe\\F\\x\\S\\y\\T\\z\\R\\\\E\\^a\\.br\\b^\\XC3A9\\|||""'
    assert at(path, message(pid, "OBX|1|CE|A||one", "OBX|2|CE|B||two")) == value


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\r\r\n"])
@pytest.mark.parametrize("before", ["", "\ufeff", " \r\n"])
def test_lines_end_in_every_way(end: str, before: str) -> None:
    raw = f"{before}MSH|^~\\&|RIS||||||ADT^A08|1|P|2.5.1{end}PID|||1{end}continued{end}".encode()
    assert [one.name for one in read_message(raw).segments] == ["MSH", "PID"]


def test_separators_are_those_of_the_message() -> None:
    raw = b"MSH*:?!;*RIS******ADT:A08*1*P*2.5.1\rPID***1:::A;1.2**D!S!o!F!e?E!!!|^\r"
    assert at("PID-3.4.2", raw) == "1.2"
    assert at("PID-5", raw) == "D:o*e"


def test_an_escape_character_that_is_written_escaped_is_one() -> None:
    raw = b"MSH|^~\\\\&|RIS||||||ADT^A08|1|P|2.5.1\rPID|||1^^^A&1.2||a\\T\\b\r"
    assert (at("PID-3.4.2", raw), at("PID-5", raw)) == ("1.2", "a&b")


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("", "utf-8"),
        ("", "latin-1"),
        ("ASCII", "utf-8"),
        ("UNICODE UTF-8", "utf-8"),
        ("8859/1", "latin-1"),
        ("8859/15~UNICODE UTF-8", "iso8859-15"),
        ("GB 18030-2000", "gb18030"),
    ],
)
def test_characters_are_those_of_the_header(declared: str, encoding: str) -> None:
    raw = message(f18=declared) + "PID|||1||Müller".encode(encoding)
    assert at("PID-5", raw) == "Müller"


def test_japanese_is_read_before_segments_are_told_apart() -> None:
    raw = message(f18="ISO IR87") + "PID|||1||山田^太郎".encode("iso2022_jp")
    assert at("PID-5.1", raw) == "山田"


@pytest.mark.parametrize("path", ["PID", "PID-", "pid-3", "PID-3.4.2.1", "PID[3]-1", "PID-3 "])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="names no field"):
        read_path(path)


def test_every_beginning_of_a_message_is_read_or_refused() -> None:
    raw = message("PID|||1^^^A||Müller^J", "ORC|NW|1", "OBR|1|||X", kind="ORM^O01", f18="UNICODE UTF-8")
    profile, read = load_profile("default"), 0
    for end in range(len(raw)):
        try:
            meaning_of(read_message(raw[:end]), profile)
            read += 1
        except ReadingRoomError:
            continue
    assert 0 < read < len(raw)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("202611251015", "2026-11-25T15:15:00+00:00"),
        ("20261125101530.25+0100", "2026-11-25T09:15:30+00:00"),
        ("20261125", None),
        ("20261325101530", None),
        ("202611252515", None),
        ("202611251015+9900", None),
        ("tomorrow", None),
    ],
)
def test_moments_are_of_their_zone_or_the_facilitys(written: str, moment: str | None) -> None:
    found = moment_of(written, "America/New_York")
    assert (found.isoformat() if found else None) == moment


def test_a_profile_says_what_is_otherwise(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        '[order]\naccession_number = ["OBR-3.1"]\n[order.priorities]\nEM = "stat"\n[patient.issuers]\n"*" = ""\n'
    )
    raw = message("PID|||1^^^X", "ORC|NW|P1", "OBR|1||F1|CT||||||||||||||A1|||||||^^^^^EM", kind="ORM^O01")
    meaning = meaning_of(read_message(raw), load_profile("own", tmp_path))
    assert meaning.person is not None
    assert (meaning.orders[0].accession_number, meaning.person.issuer) == ("F1", "")
    assert load_profile("own", tmp_path).edition != load_profile("default").edition


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[order]\nmodality = ["OBR"]', "order.modality: .*names no field"),
        ("[order]\nmodalty = []", "order.modalty: Extra inputs"),
        ("order = ", "no TOML"),
        ('[order.controls]\nNW = "now"', "order.controls.NW"),
    ],
)
def test_a_file_that_is_no_profile_says_where(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(Invalid, match=says):
        load_profile("own", tmp_path)


def test_a_profile_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no profile 'own'"):
        load_profile("own", tmp_path)
    with pytest.raises(Invalid, match="no name of a profile"):
        load_profile("../own", tmp_path)
