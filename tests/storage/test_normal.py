"""The forms in which values are compared."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.catalog.normal import (
    fold_name,
    in_utc,
    join_word,
    name_words,
    normal_day,
    normal_moment,
    normal_number,
    normal_time,
    shifted,
    sound_of,
)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Müller^Jürgen", "muller^jurgen"),
        ("MÜLLER^JÜRGEN^^Dr.^", "muller^jurgen^^dr."),
        ("Mu\u0308ller", "muller"),
        ("Groß", "gross"),
        ("Sørensen^Åse", "sorensen^ase"),
        ("Łukasz^Þór", "lukasz^thor"),
        ("İpek^Işık", "ipek^isik"),
        ("Œuvre^Ægir", "oeuvre^aegir"),
        ("  Doe ^ Jane  ^^^", "doe^jane"),
        ("山田^太郎", "山田^太郎"),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマダ^タロウ"),
        ("やまだ", "やまだ"),
        ("김^희중", "김^희중"),
        ("Люкceмбypг", "люкceмбypг"),
        ("Διονυσίου", "διονυσιου"),
        ("קַבָּנִי", "קבני"),
        ("قَبَّانِي", "قباني"),
        ("प्रिया", "प्रिया"),
        ("", ""),
        ("^^^^", ""),
        ("M?ller*", "m?ller*"),
    ],
)
def test_a_name_is_folded_to_what_sounds_the_same_to_a_reader(text: str, folded: str) -> None:
    assert fold_name(text) == folded


@given(st.text())
def test_folding_a_folded_name_changes_nothing(text: str) -> None:
    once = fold_name(text)
    assert fold_name(once) == once


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20240229", "20240229"),
        ("2024.02.29", "20240229"),
        ("20230229", None),
        ("20241301", None),
        ("2024", None),
        ("2024-02-29", None),
        ("00000000", None),
        ("２０２４０２２９", None),
        ("", None),
    ],
)
def test_a_date_is_a_day_of_the_calendar_or_nothing(text: str, day: str | None) -> None:
    assert normal_day(text) == day


@pytest.mark.parametrize(
    ("text", "earliest", "latest"),
    [
        ("10", "100000.000000", "105959.999999"),
        ("1030", "103000.000000", "103059.999999"),
        ("103015", "103015.000000", "103015.999999"),
        ("103015.5", "103015.500000", "103015.599999"),
        ("103015.123456", "103015.123456", "103015.123456"),
        ("10:30:15", "103015.000000", "103015.999999"),
        ("235960", "235960.000000", "235960.999999"),
        ("2400", None, None),
        ("1060", None, None),
        ("103", None, None),
        ("noon", None, None),
    ],
)
def test_a_time_spans_what_it_is_not_precise_about(text: str, earliest: str | None, latest: str | None) -> None:
    assert normal_time(text) == earliest
    assert normal_time(text, latest=True) == latest


@pytest.mark.parametrize(
    ("folded", "words"),
    [
        ("muller^hans", "muller hans"),
        ("van der berg^mary ann^^dr.", "van der berg mary ann dr"),
        ("o'brien", "o+brien"),
        ("müller-lüdenscheidt^a.", "müller+lüdenscheidt a"),
        ("al‐sayed, omar", "al+sayed omar"),
        ("山田^太郎", "山田 太郎"),
        ("प्रिया", "प्रिया"),
        ("^^", ""),
        ("- ' -", ""),
    ],
)
def test_a_name_has_words_whatever_its_components(folded: str, words: str) -> None:
    assert name_words(folded) == [tuple(word.split("+")) for word in words.split()]


@given(st.text())
def test_words_have_no_blanks_and_come_again_from_themselves(text: str) -> None:
    for parts in name_words(fold_name(text)):
        joined = join_word(parts)
        assert 0 < len(joined) <= 64
        assert joined == "".join(joined.split())
        if len(joined) < 64:
            assert name_words("-".join(parts)) == [parts]


@pytest.mark.parametrize(
    "alike",
    [
        "müller mueller muller MULLER miller",
        "smith smyth smythe",
        "meyer maier meier mayer mair",
        "schmidt schmitt schmid",
        "sørensen sorensen soerensen",
        "özdemir oezdemir ozdemir",
        "åberg aaberg aberg",
        "stephen steven stefan",
        "catherine kathrin",
        "philip filip phillip",
        "groß gross",
    ],
)
def test_names_that_sound_alike_have_one_sound(alike: str) -> None:
    sounds = {sound_of(fold_name(word)) for word in alike.split()}
    assert len(sounds) == 1
    assert sounds.pop().isupper()


@pytest.mark.parametrize("word", ["li", "lee", "a", "", "山田", "иванов", "4711", "mary1", "ééé"])
def test_what_says_too_little_has_no_sound(word: str) -> None:
    assert sound_of(word) == ""


def test_other_names_have_other_sounds() -> None:
    names = "muller smith meyer schmidt sorensen berg stephen catherine weber wagner becker schulz".split()
    assert len({sound_of(name) for name in names}) == len(names)


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=70))
def test_any_letters_have_a_sound_or_none(word: str) -> None:
    sound = sound_of(word)
    assert sound == "" or (sound == sound.upper() and len(sound) > 1)


@pytest.mark.parametrize(
    ("vr", "text", "number"),
    [
        ("IS", "7", "7"),
        ("IS", "+007", "7"),
        ("IS", "-0", "0"),
        ("UV", "18446744073709551615", "18446744073709551615"),
        ("US", "7.0", "7"),
        ("US", "7.5", None),
        ("IS", "x", None),
        ("IS", "", None),
        ("DS", "1.50", "1.5"),
        ("DS", "15e-1", "1.5"),
        ("DS", "-0.0", "0"),
        ("FL", "0.10000000149011612", "0.1"),
        ("FD", "0.10000000149011612", "0.10000000149012"),
        ("DS", "nan", None),
        ("DS", "1e999", None),
        ("DS", "one", None),
    ],
)
def test_equal_numbers_are_equal_text(vr: str, text: str, number: str | None) -> None:
    assert normal_number(vr, text) == number


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2024", "20240101000000.000000", "20241231235960.999999"),
        ("202402", "20240201000000.000000", "20240229235960.999999"),
        ("20240229", "20240229000000.000000", "20240229235960.999999"),
        ("2024022910", "20240229100000.000000", "20240229105960.999999"),
        ("20240229103015.5", "20240229103015.500000", "20240229103015.599999"),
    ],
)
def test_a_moment_spans_what_it_is_not_precise_about(text: str, first: str, last: str) -> None:
    assert normal_moment(text) == (first, last, None)
    assert normal_moment(text + "+0530") == (first, last, "+0530")


@pytest.mark.parametrize("text", ["", "24", "20230229", "20241301", "0000", "2024022924", "20240229+2500", "now"])
def test_what_is_no_moment_is_none(text: str) -> None:
    assert normal_moment(text) is None


def test_moments_are_moved_over_midnight_and_not_beyond_the_calendar() -> None:
    assert in_utc("20240229233000.000000", "-0500") == "20240301043000.000000"
    assert in_utc("20240301003000.250000", "+0100") == "20240229233000.250000"
    assert in_utc("20161231235960.000000", "+0000") == "20161231235960.000000"
    assert shifted("00010101000000.000000", timedelta(hours=-1)) == "00010101000000.000000"
    assert shifted("99991231235960.999999", timedelta(hours=1)) == "99991231235960.999999"
