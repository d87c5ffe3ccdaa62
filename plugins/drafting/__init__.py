"""Offers a draft of the report from what algorithms have found, and looks at what is about to be signed.

The draft has a sentence for each finding, with where it is to be seen and whose it is, and the measurements. It claims
nothing that was not found: that a study is normal is for a person to say. The checks are of the kind that a tired
reader is glad of: a blank that was left, left and right, an organ that the patient has not.
"""

from __future__ import annotations

from plugins.drafting.checks import checks_of
from plugins.drafting.settings import Settings
from plugins.drafting.writing import draft_of
from readingroom import Context, Draft, Finding, Issue, Prior, Report, Study, hookimpl


@hookimpl
def register_settings() -> type[Settings]:
    """``[plugins.drafting]``."""
    return Settings


@hookimpl
def draft_report(findings: tuple[Finding, ...], priors: tuple[Prior, ...], ctx: Context) -> Draft | None:
    """Say in sentences what was found; None where nothing was."""
    return draft_of(findings, priors, least_probability=ctx.settings.least_probability)


@hookimpl
def check_report(report: Report, study: Study | None) -> tuple[Issue, ...]:
    """Look for what is left blank, and for what does not fit together."""
    return checks_of(report, study)


@hookimpl
def report_signed(report: Report, ctx: Context) -> None:
    """Tell how much of what algorithms had written was taken over, for who watches how they do."""
    passages = [passage for section in report.sections for passage in section.passages]
    count = {origin: sum(passage.origin == origin for passage in passages) for origin in ("ai", "edited", "human")}
    ctx.log.info("report %s, version %d: %s", report.id, report.number, count)
