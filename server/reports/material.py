"""What there is to write a report from: drafts, earlier studies, measurements, templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import sqlalchemy as sa

from readingroom.jsonio import from_json
from readingroom.model import Evidence, Finding, Passage, Section
from readingroom.results import Draft, Prior, PriorSummary, Triage
from server.reports.drafting import Offer, sentences
from server.worklist.flow import OFFERED
from storage.catalog import schema as t
from storage.catalog.answers import StoredAnswer, read_answers
from storage.catalog.listed import read_headers
from storage.catalog.reports import StoredReport, list_templates

_MOST_SR = 50
_MOST_DEPTH = 40
_MOST_MEASUREMENTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedDraft:
    """A draft of a plugin: its sections, with every sentence as the algorithm's."""

    plugin: str
    revision: int
    because: str
    sections: tuple[Section, ...]
    is_offered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What may be taken over into a report.

    `comparison` has a sentence for each earlier study, `summaries` what plugins tell of those, `measurements` a
    sentence for each value of findings and of structured reports in the study.
    """

    drafts: tuple[OfferedDraft, ...] = ()
    comparison: tuple[Passage, ...] = ()
    summaries: tuple[Passage, ...] = ()
    measurements: tuple[Passage, ...] = ()

    @property
    def offers(self) -> list[Offer]:
        """All of it, to compare a text with; also what must not be shown."""
        drafted = [Offer(passages=section.passages) for draft in self.drafts for section in draft.sections]
        return [*drafted, *(Offer(passages=one) for one in (self.comparison, self.summaries, self.measurements))]


def material_for(connection: sa.Connection, report: StoredReport) -> Material:
    """What is known of the study of a report."""
    if report.study_uid is None:
        return Material()
    answers = read_answers(connection, report.facility, report.study_uid)
    measured = [*_measured(answers), *_measured_in_reports(connection, report.facility, report.study_uid)]
    return Material(
        drafts=tuple(_drafts(answers)),
        comparison=tuple(_comparison(answers)),
        summaries=tuple(_summaries(answers)),
        measurements=tuple(measured[:_MOST_MEASUREMENTS]),
    )


def offers_for(connection: sa.Connection, report: StoredReport, *, reader: str = "") -> list[Offer]:
    """Everything that a sentence of a report may come from, templates and macros too."""
    offers = material_for(connection, report).offers
    for template in list_templates(connection, "template", reader=reader):
        for section in orjson.loads(template.content):
            offers.append(Offer.of(section["text"], "template", template.name))
    for macro in list_templates(connection, "macro", reader=reader):
        offers.append(Offer.of(orjson.loads(macro.content), "macro", macro.name))
    return offers


def _drafts(answers: Sequence[StoredAnswer]) -> Iterator[OfferedDraft]:
    for kept in _kept(answers, "draft_report"):
        draft: Draft = from_json(Draft, orjson.loads(kept.answer))
        sections = tuple(
            replace(
                section,
                passages=tuple(
                    replace(
                        passage,
                        text=sentence,
                        origin="ai",
                        source=kept.plugin,
                        is_accepted=False,
                        algorithm=passage.algorithm or draft.algorithm,
                    )
                    for passage in section.passages
                    for sentence in sentences(passage.text)
                ),
            )
            for section in draft.sections
        )
        yield OfferedDraft(
            plugin=kept.plugin,
            revision=kept.revision,
            because=draft.because if kept.note == OFFERED else kept.note,
            sections=sections,
            is_offered=kept.note == OFFERED,
        )


def _comparison(answers: Sequence[StoredAnswer]) -> Iterator[Passage]:
    told = set()
    for kept in _kept(answers, "find_priors"):
        priors: tuple[Prior, ...] = from_json(tuple[Prior, ...], orjson.loads(kept.answer))
        for prior in sorted(priors, key=lambda one: (-one.relevance, one.study_uid)):
            if prior.study_uid in told:
                continue
            told.add(prior.study_uid)
            what = prior.description or "/".join(prior.modalities) or "Study"
            day = prior.study_date or ""
            when = f"{day[:4]}-{day[4:6]}-{day[6:8]}" if len(day) == 8 else "an unknown day"
            yield Passage(text=f"{' '.join(what.split())} of {when}. ", origin="prior", source=prior.study_uid)


def _summaries(answers: Sequence[StoredAnswer]) -> Iterator[Passage]:
    for kept in _kept(answers, "summarize_priors"):
        summary: PriorSummary = from_json(PriorSummary, orjson.loads(kept.answer))
        source = ", ".join((kept.plugin, *summary.cites))[:1000]
        for sentence in sentences(summary.text):
            yield Passage(text=sentence, origin="prior", source=source)


def _measured(answers: Sequence[StoredAnswer]) -> Iterator[Passage]:
    for kept in _kept(answers, "triage_study"):
        triage: Triage = from_json(Triage, orjson.loads(kept.answer))
        for finding in triage.findings:
            yield from _values(finding, kept.plugin)


def _values(finding: Finding, plugin: str) -> Iterator[Passage]:
    for name, value in finding.measurements.items():
        yield Passage(
            text=f"{finding.text}: {name.replace('_', ' ')} {value:g}. ",
            origin="measurement",
            source=plugin,
            evidence=finding.evidence,
            algorithm=finding.algorithm,
        )


def _measured_in_reports(connection: sa.Connection, facility: str, study_uid: str) -> Iterator[Passage]:
    """The numeric content items of structured reports (PS3.3 C.18.1), such as those of TID 1500."""
    of = t.study.join(t.series, t.series.c.study == t.study.c.id).join(t.instance, t.instance.c.series == t.series.c.id)
    found = (
        sa.select(t.instance.c.id)
        .select_from(of)
        .where(
            t.study.c.owner_facility == facility,
            t.study.c.study_uid == study_uid,
            t.series.c.modality == "SR",
            t.instance.c.is_current,
        )
        .order_by(t.instance.c.id)
        .limit(_MOST_SR)
    )
    ids = list(connection.execute(found).scalars())
    for header in read_headers(connection, "instance", ids).values() if ids else ():
        where = Evidence(series_uid=_text(header, "0020000E"), instance_uid=_text(header, "00080018"))
        for name, value in _numbers(header, 0):
            yield Passage(text=f"{name}: {value}. ", origin="measurement", source=where.instance_uid, evidence=(where,))


def _numbers(item: Mapping[str, Any], depth: int) -> Iterator[tuple[str, str]]:
    for one in item.get("0040A730", {}).get("Value") or ():
        if not isinstance(one, dict):
            continue
        measured = (one.get("0040A300", {}).get("Value") or [{}])[0]
        if _text(one, "0040A040") == "NUM" and measured:
            name = _text((one.get("0040A043", {}).get("Value") or [{}])[0], "00080104")
            unit = _text((measured.get("004008EA", {}).get("Value") or [{}])[0], "00080100")
            number = _text(measured, "0040A30A")
            if name and number:
                yield name, f"{number} {unit}".strip()
        if depth < _MOST_DEPTH:
            yield from _numbers(one, depth + 1)


def _text(item: Mapping[str, Any], tag: str) -> str:
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _kept(answers: Sequence[StoredAnswer], hook: str) -> Iterator[StoredAnswer]:
    return (kept for kept in answers if kept.hook == hook and kept.answer)
