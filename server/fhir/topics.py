"""What subscribers can be told of by a topic (Subscriptions R5 Backport 1.1), beside searches of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from storage.fhirvalues import OURS

What = Literal["written", "item", "settled", "changed", "critical"]
"""What happens to resources: they were written over FHIR; a work item was, by whatever way; a study has settled, or is
another one after it had; somebody has to be told of a result."""

BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport"
_CANONICAL = f"{BACKPORT}/StructureDefinition/capabilitystatement-subscriptiontopic-canonical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic: resources of `type` to which `what` happens, and which meet `condition`."""

    url: str
    title: str
    description: str
    type: str
    what: What
    condition: tuple[tuple[str, str], ...] = ()


TOPICS: Mapping[str, Topic] = {
    topic.url: topic
    for topic in (
        Topic(
            url=f"{OURS}/SubscriptionTopic/study-available",
            title="Study available",
            description="A study has come in whole: it has settled; or it has settled again after more had come.",
            type="ImagingStudy",
            what="settled",
        ),
        Topic(
            url=f"{OURS}/SubscriptionTopic/report-signed",
            title="Report signed",
            description="A report was signed, or a signed one was amended, corrected or appended to.",
            type="DiagnosticReport",
            what="written",
            condition=(("status", "final,amended,corrected,appended"),),
        ),
        Topic(
            url=f"{OURS}/SubscriptionTopic/task-changed",
            title="Task changed",
            description="A work item came into being or was changed, over FHIR, UPS-RS or by the server.",
            type="Task",
            what="item",
        ),
        Topic(
            url=f"{OURS}/SubscriptionTopic/critical-result",
            title="Critical result",
            description="Somebody has to be told of an actionable finding (ACR category 1 to 3) of this study.",
            type="ImagingStudy",
            what="critical",
        ),
    )
}
"""All topics, by their canonical URLs."""

ON_THEIR_OWN: Mapping[str, tuple[What, ...]] = {"ImagingStudy": ("settled", "changed"), "Task": ("item",)}
"""What happens to resources of these types, as a subscription with a search of its own sees it; of others: written."""


def declared_topics() -> dict[str, Any]:
    """What a CapabilityStatement says of Subscription besides: the topics, and the profile of those who ask for one."""
    return {
        "extension": [{"url": _CANONICAL, "valueCanonical": url} for url in TOPICS],
        "supportedProfile": [f"{BACKPORT}/StructureDefinition/backport-subscription"],
    }
