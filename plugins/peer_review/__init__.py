"""Peer review: which readings are to be done once more, as a plugin of the hook `select_peer_review`."""

from __future__ import annotations

from plugins.peer_review.sampling import PeerReviewSettings, reason_for
from readingroom import Context, Report, Selection, hookimpl


@hookimpl
def register_settings() -> type[PeerReviewSettings]:
    """``[plugins.peer_review]``."""
    return PeerReviewSettings


@hookimpl
def select_peer_review(
    report: Report, reader: str, read_before: int, alike_before: int, ctx: Context
) -> Selection | None:
    """Select what a rule is for, and a share of everything else."""
    because = reason_for(report, reader, read_before, alike_before, ctx.settings)
    return None if because is None else Selection(because=because)
