"""The settings that the how-to pages of the plugins show are ones that the plugins take."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points
from typing import Any

import pytest

from readingroom.plugin import HOST_SETTINGS
from tests.servers import REPOSITORY

_KEY = "whsec_" + "A" * 32


def shown(page: str) -> dict[str, Any]:
    """The settings of a page, by plugin: all its indented blocks in one file."""
    text = (REPOSITORY / "docs" / "how-to" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    return tomllib.loads("\n".join(re.sub("^    ", "", block, flags=re.MULTILINE) for block in blocks))["plugins"]


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("escalation.md", "escalation"),
        ("escalation.md", "sla"),
        ("routing.md", "routing"),
        ("peer-review.md", "peer_review"),
    ],
)
def test_the_settings_of_a_how_to_are_taken(page: str, name: str) -> None:
    (found,) = entry_points(group="readingroom", name=name)
    model = found.load().register_settings()
    told = {key: value for key, value in shown(page)[name].items() if key not in HOST_SETTINGS}
    for webhook in told.get("webhooks", []):
        webhook["secret"] = _KEY  # the page shows no secret that somebody might copy
    taken = model.model_validate(told)
    assert taken.model_fields_set == set(told)


def test_the_settings_of_routing_that_are_shown_are_its_defaults() -> None:
    (found,) = entry_points(group="readingroom", name="routing")
    model = found.load().register_settings()
    assert model.model_validate(shown("routing.md")["routing"]) == model()
    assert set(shown("routing.md")["routing"]) == set(model.model_fields)
