"""Finds the earlier studies of a patient that are worth comparing with, here and in other archives, and lists them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from readingroom import Context, Patient, Prior, PriorSummary, RetryLater, Study, hookimpl

from .relevance import Shown, day_of, relevance
from .remote import Found, Unreachable, can_ask, studies_of
from .settings import Settings

MOST_TOLD = 8
"""Lines of a summary."""


@hookimpl
def register_settings() -> type[Settings]:
    return Settings


@hookimpl
def find_priors(study: Study, patient: Patient, ctx: Context) -> tuple[Prior, ...]:
    """The most relevant ones first; of a study that is both here and elsewhere, the one here.

    Raises
    ------
    RetryLater
        An archive does not answer, and there are attempts left.
    """
    present = Shown(body_parts=study.body_parts, modalities=study.modalities, day=day_of(study.study_date))
    found = {prior.study_uid: prior for prior in _remote(study, present, ctx)}
    found |= {prior.study_uid: prior for prior in _local(study, patient, present)}
    told = [prior for prior in found.values() if prior.relevance >= ctx.settings.least_relevance]
    return tuple(sorted(told, key=lambda prior: (-prior.relevance, prior.study_uid)))[: ctx.settings.most]


@hookimpl
def summarize_priors(study: Study, priors: tuple[Prior, ...]) -> PriorSummary | None:
    """One line for each prior, the most relevant first, with the date and the UID that it rests on."""
    if not priors:
        return None
    ranked = sorted(priors, key=lambda prior: (-prior.relevance, prior.study_uid))
    lines = [f"{len(ranked)} earlier stud{'y' if len(ranked) == 1 else 'ies'}:"]
    lines += [
        f"- {_title(prior)}: {prior.because or 'no reason given'} [{prior.study_uid}]" for prior in ranked[:MOST_TOLD]
    ]
    if len(ranked) > MOST_TOLD:
        lines.append(f"- and {len(ranked) - MOST_TOLD} less relevant")
    return PriorSummary(text="\n".join(lines), cites=tuple(prior.study_uid for prior in ranked[:MOST_TOLD]))


def _local(study: Study, patient: Patient, present: Shown) -> Iterator[Prior]:
    """The studies that are of this patient, whatever else was handed over: of this archive, and those to be fetched."""
    for other in (*patient.studies, *patient.elsewhere):
        if other.patient != study.patient or other.study_uid == study.study_uid:
            continue
        day = day_of(other.study_date)
        if _is_later(present, day):
            continue
        shown = Shown(body_parts=other.body_parts, modalities=other.modalities, day=day)
        share, because = relevance(present, shown)
        yield Prior(
            study_uid=other.study_uid,
            relevance=share,
            because=because,
            study_date=other.study_date,
            description=other.description,
            modalities=other.modalities,
        )


def _remote(study: Study, present: Shown, ctx: Context) -> Iterator[Prior]:
    for remote in ctx.settings.remotes:
        if not can_ask(remote, study):
            continue
        try:
            found = studies_of(remote, study)
        except Unreachable as error:
            if ctx.attempt < ctx.settings.attempts:
                raise RetryLater(f"The archive {error}.", after=timedelta(seconds=10)) from None
            ctx.log.warning("no priors of the archive %s", error)
            continue
        for one in found:
            if not _is_later(present, one.shown.day):
                yield _prior(one, present, remote.root, remote.name)


def _prior(found: Found, present: Shown, root: str, name: str) -> Prior:
    share, because = relevance(present, found.shown)
    return Prior(
        study_uid=found.study_uid,
        relevance=share,
        because=f"{because}, in {name}",
        root=root,
        study_date=found.study_date,
        description=found.description,
        modalities=found.shown.modalities,
    )


def _is_later(present: Shown, day: date | None) -> bool:
    return present.day is not None and day is not None and day > present.day


def _title(prior: Prior) -> str:
    day = day_of(prior.study_date)
    words = [
        "/".join(prior.modalities),
        prior.description or "",
        f"of {day.isoformat()}" if day else "of an unknown day",
    ]
    return " ".join(word for word in words if word)
