"""The forms in which values are compared: names without case and accents, their words and sounds, dates, numbers.

What is stored and what is asked for are brought to the same form, so that the database compares plain text.
"""

from __future__ import annotations

import re
import unicodedata
from calendar import monthrange
from datetime import date, datetime, timedelta
from typing import Any

from jellyfish import metaphone

# A btree entry of PostgreSQL ends at 2,704 bytes. What is longer than this is no value of any VR that is matched.
LONGEST = 512

LOCAL, UTC = "L", "Z"
"""What stands before a moment by its own clock where the offset is not known, and before one in UTC."""

_LONGEST_WORD = 64
_MOST_WORDS = 32
_LEAST_SOUND = 2
"""Consonants that a word needs to be known by its sound: one alone is the sound of far too many names."""

# Letters that Unicode does not take apart into a base letter and a mark.
_LETTERS = str.maketrans(
    {"ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe"}
)
# Accents of the Latin, Greek and Cyrillic scripts, and the vowel points of Hebrew and Arabic. Marks of other scripts
# (kana voicing, the vowels of Devanagari) are letters in all but name, and stay.
_MARKS = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u064b-\u065f\u0670\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
)
_AROUND_CARET = re.compile(r" *\^ *")
_BETWEEN_WORDS = re.compile(r"[\s^,;:./\\()\[\]{}&+_\"“”„«»・、，]+")
_WITHIN_WORDS = re.compile("['’ʼ‘`´‐‑‒–—-]+")
_LATIN = re.compile("[a-z]{3,}")
_FIRST_VOWELS = re.compile("^(aa|ae|oe|ue)")
_REPEATED = re.compile(r"(.)\1+")

_DATE = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})")
_TIME = re.compile(r"([01][0-9]|2[0-3])(?::?([0-5][0-9])(?::?([0-5][0-9]|60)(?:\.([0-9]{1,6}))?)?)?")
_MOMENT = re.compile(
    r"([0-9]{4})(?:(0[1-9]|1[0-2])(?:(0[1-9]|[12][0-9]|3[01])(?:([01][0-9]|2[0-3])(?:([0-5][0-9])"
    r"(?:([0-5][0-9]|60)(?:\.([0-9]{1,6}))?)?)?)?)?)?([+-](?:0[0-9]|1[0-4])[0-5][0-9])?"
)
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}(\.0*)?")
OFFSET = re.compile(r"[+-](0[0-9]|1[0-4])[0-5][0-9]")


def fold_name(text: str) -> str:
    """One component group of a person name as it is compared: without case, accents and trailing delimiters.

    Patterns are folded the same way, so that ``*`` and ``?`` keep their place.

    Examples
    --------
    >>> fold_name("Müller^Jürgen ^^^"), fold_name("SØRENSEN"), fold_name("Groß*")
    ('muller^jurgen', 'sorensen', 'gross*')
    """
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).casefold().translate(_LETTERS)
        text = unicodedata.normalize("NFC", _MARKS.sub("", text))
    text = text.replace("\0", "")
    return _AROUND_CARET.sub("^", text).strip().rstrip("^ ")


def name_words(folded: str) -> list[tuple[str, ...]]:
    """The words of a folded name, whatever its components; each as its parts where it is a compound.

    Examples
    --------
    >>> name_words("o'brien-smith^mary ann^^dr.")
    [('o', 'brien', 'smith'), ('mary',), ('ann',), ('dr',)]
    """
    words = []
    for word in _BETWEEN_WORDS.split(folded):
        parts = tuple(part[:_LONGEST_WORD] for part in _WITHIN_WORDS.split(word) if part)
        if parts:
            words.append(parts)
    return words[:_MOST_WORDS]


def join_word(parts: tuple[str, ...]) -> str:
    """A compound written as one word, as many systems do: ``obrien``."""
    return "".join(parts)[:_LONGEST_WORD]


def sound_of(word: str) -> str:
    """How a word of a name sounds: the same for Meyer and Maier, Mueller and Muller; empty where that says nothing.

    Metaphone, in capitals, so that it is never taken for a word. It is made for Latin letters; before it, `y` becomes
    `i` and umlauts that were written as two letters become one, as they do not sound at a word's beginning.

    Examples
    --------
    >>> sound_of("meyer"), sound_of("maier"), sound_of("mueller"), sound_of("smyth"), sound_of("lee"), sound_of("山田")
    ('MR', 'MR', 'MLR', 'SM0', '', '')
    """
    if not _LATIN.fullmatch(word):
        return ""
    plain = _FIRST_VOWELS.sub(lambda two: two[0][0], word[0] + word[1:].replace("y", "i"))
    sound = _REPEATED.sub(r"\1", metaphone(plain).replace(" ", ""))
    return sound if len(sound) >= _LEAST_SOUND else ""


def normal_text(value: Any) -> str | None:
    """A value as plain text without padding; None where there is none, or it is no plain value, or too long."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    plain = str(value).replace("\0", "").strip()
    return plain if 0 < len(plain) <= LONGEST else None


def normal_number(vr: str, text: str) -> str | None:
    """A number so that equal ones are equal text (PS3.4 C.2.2.2.1); None where it is none.

    Examples
    --------
    >>> normal_number("IS", "+007"), normal_number("DS", "1.50"), normal_number("FL", "0.10000000149")
    ('7', '1.5', '0.1')
    """
    if vr not in ("DS", "FL", "FD"):
        return str(int(text.partition(".")[0])) if _INTEGER.fullmatch(text) else None
    try:
        number = float(text) + 0.0  # minus zero is zero
    except ValueError:
        return None
    return f"{number:.{6 if vr == 'FL' else 14}g}" if number - number == 0 else None


def normal_day(text: str) -> str | None:
    """A DA value, old style or new, as ``YYYYMMDD``; None where it is no day of the calendar."""
    found = _DATE.fullmatch(text)
    if not found:
        return None
    year, month, number = found.groups()
    try:
        date(int(year), int(month), int(number))
    except ValueError:
        return None
    return year + month + number


def normal_time(text: str, *, latest: bool = False) -> str | None:
    """A TM value, old style or new, as ``HHMMSS.FFFFFF``; None where it is no time.

    What is not given is not known (PS3.5 6.2): zero, or with `latest` the greatest that it may be.
    """
    found = _TIME.fullmatch(text)
    if not found:
        return None
    hours, minutes, seconds, fraction = found.groups()
    if latest:
        return f"{hours}{minutes or '59'}{seconds or '59'}.{fraction or '':9<6}"
    return f"{hours}{minutes or '00'}{seconds or '00'}.{fraction or '':0<6}"


def normal_moment(text: str) -> tuple[str, str, str | None] | None:
    """The first and the last moment that a DT value may mean, as ``YYYYMMDDHHMMSS.FFFFFF``, and its offset from UTC.

    Examples
    --------
    >>> normal_moment("202402")
    ('20240201000000.000000', '20240229235960.999999', None)
    """
    found = _MOMENT.fullmatch(text)
    if not found or found[1] == "0000":
        return None
    year, month, day, hours, minutes, seconds, fraction, offset = found.groups()
    last_day = monthrange(int(year), int(month or 12))[1]
    if int(day or 1) > last_day:
        return None
    first = f"{year}{month or '01'}{day or '01'}{hours or '00'}{minutes or '00'}{seconds or '00'}.{fraction or '':0<6}"
    last = f"{year}{month or 12}{day or last_day}{hours or 23}{minutes or 59}{seconds or 60}.{fraction or '':9<6}"
    return first, last, offset


def offset_minutes(offset: str) -> int:
    """Minutes east of UTC of an offset such as ``+0530``."""
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return -minutes if offset[0] == "-" else minutes


def in_utc(moment: str, offset: str) -> str:
    """A moment by a clock with that offset as it is in UTC; as it is where the calendar ends."""
    return shifted(moment, timedelta(minutes=-offset_minutes(offset)))


def shifted(moment: str, by: timedelta) -> str:
    """A moment so much later; as it is where the calendar ends."""
    leap = moment[12:14] == "60"  # datetime knows no leap second
    plain = f"{moment[:12]}59{moment[14:]}" if leap else moment
    try:
        moved = datetime.strptime(plain, "%Y%m%d%H%M%S.%f") + by
    except (OverflowError, ValueError):
        return moment
    text = f"{moved:%Y%m%d%H%M%S.%f}".rjust(21, "0")
    return f"{text[:12]}60{text[14:]}" if leap else text
