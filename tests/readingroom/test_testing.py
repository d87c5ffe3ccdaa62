"""What plugins are tested with tells a good one from a bad one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from readingroom.contained import Contained
from readingroom.context import Context
from readingroom.errors import PluginFailed
from readingroom.hookspecs import HOOKS
from readingroom.model import Study
from readingroom.results import Triage
from readingroom.testing import (
    NOW,
    Deliver,
    MadeStudy,
    PluginContract,
    chest_ct,
    clock,
    deliver,
    made_arguments,
    made_chest,
    made_study,
    room,
)

__all__ = ["chest_ct", "clock", "deliver", "room"]  # fixtures of the module, in place of those of tests/conftest.py

HEAD = "from readingroom import *\nfrom pydantic import BaseModel\n"
SETTINGS = """
class Settings(BaseModel, extra="forbid"):
    limit: int = 3000
@hookimpl
def register_settings(): return Settings
"""
GOOD = (
    HEAD
    + SETTINGS
    + """
@hookimpl
def triage_study(study, ctx):
    brightest = max((int(ctx.pixels.volume(one).max()) for one in study.series), default=0)
    return Triage(because=str(brightest), is_flagged=brightest > ctx.settings.limit)
"""
)


def contract_of(folder: Path, text: str) -> PluginContract:
    path = folder / "made.py"
    path.write_text(text)

    class Made(PluginContract):
        plugin: ClassVar[str] = "made"
        module: ClassVar[str | None] = str(path)

    return Made()


def started(contract: PluginContract) -> Contained:
    return Contained(contract.launch(), now=NOW)


class TestTheReferencePluginForRouting(PluginContract):
    """A plugin as a vendor would write it, by its entry point."""

    plugin = "routing"


class TestAPluginThatKeepsTheContract(PluginContract):
    """One in a file."""

    plugin = "good"

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _written(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.mktemp("good") / "good.py"
        path.write_text(GOOD)
        cls.module = str(path)


@pytest.mark.parametrize(
    ("text", "test"),
    [
        (HEAD + "@hookimpl\ndef started(ctx): ...", "starts"),
        (GOOD.replace(', extra="forbid"', ""), "setting"),
        (GOOD.replace("Triage(because", "dict(because"), "answers"),
        (GOOD.replace("default=0", "key=lambda x: x"), "not_for_it"),
        (GOOD.replace("    brightest", "    raise ValueError if ctx.attempt > 1 else None\n    brightest"), "second"),
        (GOOD.replace("    brightest", "    ctx.log.info(study.patient_name)\n    brightest"), "patient"),
        (HEAD + "@hookimpl\ndef stopping(ctx):\n    import os; os._exit(5)", "ends"),
    ],
)
def test_a_plugin_that_breaks_the_contract_is_found_out(
    text: str, test: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contract = contract_of(tmp_path, text)
    (name,) = [name for name in dir(contract) if name.startswith("test_") and test in name]
    check = getattr(contract, name)
    child = started(contract)
    given = {"child": child, "caplog": caplog}
    wanted = check.__func__.__code__.co_varnames[1 : check.__func__.__code__.co_argcount]
    try:
        with pytest.raises((AssertionError, PluginFailed, pytest.fail.Exception)):
            check(**{name: given[name] for name in wanted})
    finally:
        child.kill()


def test_a_hook_is_delivered_as_the_server_does(deliver: Deliver, chest_ct: MadeStudy, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(GOOD)
    module = str(tmp_path / "made.py")
    answer = deliver("made", "triage_study", archive=chest_ct, module=module)
    brightest = int(chest_ct.volumes[chest_ct.study.series[0].series_uid].max())
    assert answer == Triage(because=str(brightest))
    flagged = deliver("made", "triage_study", archive=chest_ct, module=module, settings={"limit": 10})
    assert flagged.is_flagged
    nothing = Study(study_uid="1", facility="north", patient="p")
    assert deliver("made", "triage_study", module=module, study=nothing).because == "0"


@pytest.mark.parametrize("hook", HOOKS.values(), ids=lambda hook: hook.name)
def test_arguments_are_made_for_every_hook(hook: Any) -> None:
    assert made_arguments(hook, made_chest()).keys() == hook.parameters.keys()


def test_a_made_chest_has_lungs_and_a_spine_in_hounsfield_units(chest_ct: MadeStudy) -> None:
    context = Context(plugin="p", archive=chest_ct)
    series = chest_ct.study.series[0]
    values = context.pixels.values(series)
    assert values.shape == (16, 64, 64)
    assert context.pixels.layout(series).spacing_mm == (5.0, 1.0, 1.0)
    assert values[8, 30, 19] == pytest.approx(-850, abs=60)
    assert values[8, 48, 32] == pytest.approx(400, abs=60)
    assert values[8, 32, 32] == pytest.approx(40, abs=60)


def test_a_study_is_made_of_any_volume() -> None:
    made = made_study(np.ones((2, 3, 4), "u1"), modality="MR", body_part="HEAD", slope=2, intercept=1, number=7)
    assert made.study.has("MR")
    assert made.study.region("HEAD")
    assert (Context(plugin="p", archive=made).pixels.values("2.25.700.1") == 3).all()


class TestARoomForVendors:
    """The fixtures that need the server."""

    @pytest.fixture
    def room_settings(self, tmp_path: Path) -> Mapping[str, Any]:
        (tmp_path / "made.py").write_text(GOOD)
        return {"plugins": {"made": {"module": str(tmp_path / "made.py")}}}

    def test_a_room_runs_the_plugin_and_answers_http(self, room: Any, client: httpx.Client) -> None:
        assert room.hooks.having("triage_study") == ("made",)
        assert client.get("/healthz").status_code == 200
