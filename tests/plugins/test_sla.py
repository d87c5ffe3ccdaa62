"""Rules of a site for when items are due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from plugins import sla as plugin
from plugins.sla.policy import SlaSettings
from readingroom import Context, Facility, Order, Sla, WorkItem
from readingroom.testing import PluginContract

NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
MERCY = Facility(id="mercy", name="Mercy", kind="hospital", parent="mercy-group")
HEAD = WorkItem(
    id="i", kind="read", state="ready", facility="mercy", version=1, modality="CT", body_part="HEAD", created_at=NOW
)
ORDER = Order(accession_number="A1", facility="mercy", ordered_at=NOW - timedelta(minutes=10))


def due(*rules: dict[str, Any], item: WorkItem = HEAD, order: Order | None = None) -> Sla | None:
    settings = SlaSettings.model_validate({"rules": rules})
    return plugin.sla_for(item, order, MERCY, Context(plugin="sla", settings=settings))


def minutes(*rules: dict[str, Any], item: WorkItem = HEAD, order: Order | None = None) -> float | None:
    """The minutes until an item is due."""
    found = due(*rules, item=item, order=order)
    return None if found is None else (found.due_at - NOW).total_seconds() / 60


def test_without_a_rule_the_contract_says() -> None:
    assert due() is None
    assert due({"modalities": ["MR"], "due_minutes": 20}) is None


def test_a_rule_says_when_to_warn_and_what_may_stop_the_clock() -> None:
    rule = {"name": "stroke", "due_minutes": 20, "warn_share": 0.6, "pause_reasons": ["missing prior"]}
    assert due(rule) == Sla(
        due_at=NOW + timedelta(minutes=20),
        warn_at=NOW + timedelta(minutes=12),
        pause_reasons=("missing prior",),
        because="rule stroke of the site: 20 minutes from the study",
    )


def test_the_first_rule_that_is_about_an_item_counts() -> None:
    rules = [
        {"priorities": ["stat"], "due_minutes": 20},
        {"modalities": ["CT"], "due_minutes": 60},
        {"due_minutes": 90},
    ]
    assert minutes(*rules) == 60
    assert minutes(*rules, item=replace(HEAD, priority="stat")) == 20
    assert minutes(*rules, item=replace(HEAD, modality="MR")) == 90


@pytest.mark.parametrize(
    ("condition", "is_about"),
    [
        ({"facilities": ["mercy"]}, True),
        ({"facilities": ["mercy-group"]}, True),
        ({"facilities": ["saguaro"]}, False),
        ({"facility_kinds": ["hospital"]}, True),
        ({"facility_kinds": ["urgent-care"]}, False),
        ({"body_parts": ["CHEST", "HEAD"]}, True),
        ({"body_parts": ["CHEST"]}, False),
        ({"subspecialties": ["2085N0700X"]}, False),
        ({"is_flagged": False}, True),
        ({"is_flagged": True}, False),
        ({"kinds": ["peer"]}, False),
        ({"modalities": ["CT"], "body_parts": ["CHEST"]}, False),
    ],
)
def test_every_condition_of_a_rule_has_to_hold(condition: dict[str, Any], is_about: bool) -> None:
    assert (minutes({**condition, "due_minutes": 5}) == 5) is is_about


def test_time_may_count_from_the_order_where_there_is_one() -> None:
    rule = {"due_minutes": 30, "counts_from": "order"}
    assert minutes(rule, order=ORDER) == 20
    assert minutes(rule) == 30
    assert minutes(rule, order=replace(ORDER, ordered_at=None)) == 30
    counted = [found.because for found in (due(rule, order=ORDER), due(rule)) if found]
    assert counted == ["rule 1 of the site: 30 minutes from the order", "rule 1 of the site: 30 minutes from the study"]


def test_an_item_of_no_known_time_is_left_to_the_contract() -> None:
    assert due({"due_minutes": 30}, item=replace(HEAD, created_at=None)) is None


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"due_minutes": 0},
        {"due_minutes": 5, "warn_share": 1},
        {"due_minutes": 5, "modality": ["CT"]},
        {"due_minutes": 5, "priorities": ["now"]},
    ],
)
def test_a_rule_that_is_not_right_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SlaSettings.model_validate({"rules": [rule]})


class TestContract(PluginContract):
    plugin = "sla"
    settings: ClassVar = {"rules": [{"due_minutes": 60, "warn_share": 0.5}]}
