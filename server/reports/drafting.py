"""The text that is being written, and where each of its sentences comes from.

A client sends plain text. Which sentences of it an algorithm has written, or a template, a macro, an earlier study or a
measurement, is found out here, by comparing with what those have offered: nobody has to be believed. A sentence that
was an algorithm's and has been changed is told apart from one that a person has written alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import jellyfish

from readingroom.errors import Invalid
from readingroom.model import (
    Code,
    CriticalResult,
    FollowUp,
    Origin,
    Passage,
    ReportKind,
    Section,
)

MOST_CHARACTERS = 200_000
"""Of all the text of a report; the longest that people dictate are a tenth of it."""

MOST_PARTS = 50
"""Sections, critical results, follow-ups and codes that a report has of each."""

SECTIONS: Mapping[str, tuple[str, str]] = {
    "indication": ("Indication", "18785-6"),
    "technique": ("Technique", "55111-9"),
    "comparison": ("Comparison", "18834-2"),
    "findings": ("Findings", "59776-5"),
    "impression": ("Impression", "19005-8"),
    "recommendation": ("Recommendation", "18783-1"),
}
"""The usual sections with the LOINC codes of their headings, in their order; a text may have others."""

_LOINC = "http://loinc.org"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_DAY = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
# A sentence with the white space behind it. A point between digits, or behind one letter, ends none.
_SENTENCE = re.compile(r".+?(?:(?<!\b\w)[.!?]+(?=\s)\s*|[。！？]\s*|\n\s*|$)", re.DOTALL)
_WORDS = re.compile(r"\w+")
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_ALIKE = 0.3
"""How much of a sentence may have been changed for it to count as one that was edited."""
_LEAST_ALIKE, _MOST_ALIKE = 12, 1000
_MOST_COMPARED = 200
"""Sentences of algorithms that each sentence is compared with; none writes as many."""
_RANKS: Sequence[Origin] = ("ai", "measurement", "prior", "macro", "template")
"""Where several have offered the same sentence, the first of these is taken for its origin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenSection:
    """A section as it is written: plain text."""

    name: str
    text: str
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What is being written of a report.

    `addendum` is the text of an addendum, which leaves the sections as they are. `accepted` are the digests of the
    sentences of algorithms that a person has accepted.
    """

    kind: ReportKind = "report"
    sections: tuple[WrittenSection, ...] = ()
    addendum: str = ""
    critical_results: tuple[CriticalResult, ...] = ()
    follow_ups: tuple[FollowUp, ...] = ()
    codes: tuple[Code, ...] = ()
    language: str = "en"
    template: str = ""
    because: str = ""
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A text that somebody has offered to whoever writes the report."""

    passages: tuple[Passage, ...]

    @classmethod
    def of(cls, text: str, origin: Origin, source: str) -> Offer:
        """A text whose sentences all come from one place."""
        return cls(passages=tuple(Passage(text=one, origin=origin, source=source) for one in sentences(text)))


def checked(text: Text) -> Text:
    """The text, with the titles of its usual sections; raises `Invalid`, which says what is wrong with it."""
    names = [section.name for section in text.sections]
    for name in names:
        if not _NAME.fullmatch(name):
            raise Invalid(f"A section is named by a word of small letters, such as findings, not {name[:40]!r}.")
        if names.count(name) > 1:
            raise Invalid(f"There are two sections {name}.")
    for what in ("sections", "critical_results", "follow_ups", "codes"):
        if len(getattr(text, what)) > MOST_PARTS:
            raise Invalid(f"A report has at most {MOST_PARTS} {what}.")
    written = [text.addendum, text.because]
    written += [part for section in text.sections for part in (section.title, section.text)]
    duties = [one.text for one in text.critical_results] + [one.text for one in text.follow_ups]
    written += [*duties, *(one.procedure or "" for one in text.follow_ups)]
    if sum(map(len, written)) > MOST_CHARACTERS:
        raise Invalid(f"A report has at most {MOST_CHARACTERS} characters.")
    for part in written:
        if _NOT_TEXT.search(part):
            raise Invalid("The text has a control character; only line breaks and tabs may be in it.")
    for one in text.follow_ups:
        if not _DAY.fullmatch(one.due_on):
            raise Invalid(f"A follow-up is due on a day such as 2027-05-24, not {one.due_on[:20]!r}.")
    if not all(one.strip() for one in duties):
        raise Invalid("A critical result or a follow-up says in words what it is.")
    if not re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", text.language):
        raise Invalid(f"The language is a tag such as en or de-CH (BCP 47), not {text.language[:20]!r}.")
    return replace(text, sections=tuple(_titled(section) for section in text.sections))


def attributed(text: str, offers: Sequence[Offer], accepted: Iterable[str] = ()) -> tuple[Passage, ...]:
    """The sentences of a text, each with where it comes from; joined they are the text.

    Parameters
    ----------
    accepted
        Digests of the sentences of algorithms that a person has accepted.
    """
    known, taken = _known(offers), frozenset(accepted)
    drafted = [passage for passage in known.values() if passage.origin == "ai"][:_MOST_COMPARED]
    written = [(passage, frozenset(_WORDS.findall(passage.text.lower()))) for passage in drafted]
    return tuple(_attributed(sentence, known, written, taken) for sentence in sentences(text))


def sections_of(text: Text, offers: Sequence[Offer]) -> tuple[Section, ...]:
    """The sections of a text with the origin of every sentence."""
    return tuple(
        Section(
            name=section.name,
            title=section.title,
            code=_code(section.name),
            passages=attributed(section.text, offers, text.accepted),
        )
        for section in text.sections
    )


def unaccepted(passages: Iterable[Passage]) -> list[Passage]:
    """The sentences of algorithms that nobody has accepted yet."""
    return [one for one in passages if one.origin in ("ai", "edited") and not one.is_accepted]


def sentences(text: str) -> Iterator[str]:
    """A text cut behind its sentences and lines; nothing of it is lost."""
    return (found.group() for found in _SENTENCE.finditer(text) if found.group())


def digest(sentence: str) -> str:
    """What a sentence is accepted by: 32 hex digits, the same however its white space is."""
    return hashlib.sha256(_plain(sentence).encode()).hexdigest()[:32]


def _attributed(
    sentence: str,
    known: Mapping[str, Passage],
    written: Sequence[tuple[Passage, frozenset[str]]],
    accepted: frozenset[str],
) -> Passage:
    plain = _plain(sentence)
    if not _WORDS.search(plain):
        return Passage(text=sentence)
    found = known.get(plain)
    if found is None:
        words = frozenset(_WORDS.findall(plain.lower()))
        found = next((one for one, has in written if len(words & has) * 2 >= len(has) and _is_alike(plain, one)), None)
        if found is None:
            return Passage(text=sentence)
        found = replace(found, origin="edited")
    is_accepted = found.origin in ("ai", "edited") and digest(sentence) in accepted
    return replace(found, text=sentence, is_accepted=is_accepted)


def _known(offers: Sequence[Offer]) -> dict[str, Passage]:
    """By its plain text, what was offered."""
    known: dict[str, Passage] = {}
    passages = [passage for offer in offers for passage in offer.passages if _WORDS.search(passage.text)]
    for passage in sorted(passages, key=lambda one: _RANKS.index(one.origin) if one.origin in _RANKS else len(_RANKS)):
        known.setdefault(_plain(passage.text), passage)
    return known


def _is_alike(sentence: str, passage: Passage) -> bool:
    other = _plain(passage.text)
    shortest, longest = sorted((len(sentence), len(other)))
    if shortest < _LEAST_ALIKE or longest > _MOST_ALIKE or longest - shortest > _ALIKE * longest:
        return False
    return jellyfish.levenshtein_distance(sentence, other) <= _ALIKE * longest


def _plain(text: str) -> str:
    return " ".join(text.split())


def _titled(section: WrittenSection) -> WrittenSection:
    usual = SECTIONS.get(section.name, (section.name.replace("-", " ").capitalize(), ""))[0]
    return replace(section, title=" ".join(section.title.split()) or usual)


def _code(name: str) -> Code | None:
    title, loinc = SECTIONS.get(name, ("", ""))
    return Code(value=loinc, system=_LOINC, meaning=title) if loinc else None
