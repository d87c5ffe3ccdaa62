"""What does not fit together in a report: words against words, and against what is known of patient and study."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from readingroom import Issue, Report, Study

_BLANK = re.compile(r"\[\s*\]|\[[^\[\]|]*\|[^\[\]]*\]")
_SIDES: Mapping[str, re.Pattern[str]] = {
    "left": re.compile(r"\bleft(?:-sided)?\b", re.IGNORECASE),
    "right": re.compile(r"\bright(?:-sided)?\b", re.IGNORECASE),
}
_BOTH = re.compile(r"\b(?:bilateral(?:ly)?|both)\b", re.IGNORECASE)
_ORGANS: Mapping[str, re.Pattern[str]] = {
    "F": re.compile(r"\b(?:prostate|prostatic|seminal vesicles?|testis|testes|testicles?|scrotum)\b", re.IGNORECASE),
    "M": re.compile(r"\b(?:uterus|uterine|ovary|ovaries|ovarian|endometri\w+|fallopian)\b", re.IGNORECASE),
}
"""By the sex of the patient, words for what that sex does not have."""
_COMPARED = re.compile(r"\b(?:unchanged|compared (?:with|to)|interval (?:change|increase|decrease))\b", re.IGNORECASE)


def checks_of(report: Report, study: Study | None) -> tuple[Issue, ...]:
    """All that was found; of an addendum only its own text is looked at."""
    return tuple(_issues(report, study))


def _issues(report: Report, study: Study | None) -> Iterator[Issue]:
    if report.kind == "addendum":
        texts = {"addendum": report.addenda[-1].text} if report.addenda else {}
    else:
        texts = {section.name: section.text for section in report.sections}
    whole = "\n".join(texts.values())
    if blanks := len(_BLANK.findall(whole)):
        yield Issue(code="blank", severity="block", text=f"{blanks} blanks of the template are not filled in.")
    if report.kind == "report" and not texts.get("impression", "").strip():
        yield Issue(code="no-impression", text="There is no impression.")
    yield from _laterality(texts, study)
    organs = _ORGANS.get(report.sex or "")
    if organs is not None and (found := organs.search(whole)):
        yield Issue(
            code="sex", severity="block", text=f"The text names {found.group().lower()}; the sex is {report.sex}."
        )
    if not texts.get("comparison", "").strip() and _COMPARED.search(whole) and report.kind == "report":
        yield Issue(code="comparison", text="The text compares, and no comparison is named.")


def _laterality(texts: Mapping[str, str], study: Study | None) -> Iterator[Issue]:
    sides = {name: _sides(text) for name, text in texts.items()}
    findings, impression = sides.get("findings", frozenset()), sides.get("impression", frozenset())
    if findings and impression and not impression <= findings:
        (missing, *_) = sorted(impression - findings)
        yield Issue(
            code="laterality", severity="block", text=f"The impression says {missing}, and the findings do not."
        )
    scanned = {one.laterality for one in study.series if one.laterality in ("L", "R")} if study else set()
    named = frozenset().union(*sides.values())
    if len(scanned) == 1 and study and all(one.laterality for one in study.series):
        side = {"L": "left", "R": "right"}[scanned.pop()]
        if named and side not in named:
            yield Issue(
                code="laterality", severity="block", text=f"The images are of the {side} side; the text is not."
            )


def _sides(text: str) -> frozenset[str]:
    if _BOTH.search(text):
        return frozenset(_SIDES)
    return frozenset(side for side, words in _SIDES.items() if words.search(text))
