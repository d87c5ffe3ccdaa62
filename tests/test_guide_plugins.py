"""The guide for those who write plugins does what it says: all of its code runs here, in its order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from readingroom.confine import Limits
from readingroom.errors import RetryLater
from readingroom.model import Contact
from readingroom.testing import Deliver, PluginContract, chest_ct, deliver, made_study
from server.demo import SLICES, made_slice
from server.worklist import gate
from tests import multipart
from tests.plugins.peers import web_service
from tests.servers import REPOSITORY, Live, environment, live_server

__all__ = ["chest_ct", "deliver"]  # fixtures

GUIDE = REPOSITORY / "docs" / "guide-plugins.md"
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Block:
    """A block of code: its language and text; `path` is the file that its first line names, `heading` where it is."""

    language: str
    text: str
    heading: str

    @property
    def path(self) -> str:
        return self.text.partition("\n")[0].removeprefix("# ")


def blocks() -> Iterator[Block]:
    for part in re.split(r"^(?=##+ )", GUIDE.read_text(), flags=re.MULTILINE):
        heading = part.partition("\n")[0].lstrip("# ")
        for language, text in re.findall(r"^```(\w+)\n(.*?)^```", part, re.DOTALL | re.MULTILINE):
            yield Block(language, text, heading)


PLUGINS = {Path(one.path).stem: one.text for one in blocks() if one.language == "python" and "plugins/" in one.path}


def environment_with_the_server(folder: Path) -> Path:
    """An environment as an operator has it, with the commands of the guide; what is installed there stays there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "server.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for command, module in (("readingroom", "server.cli"), ("pip", "pip"), ("pytest", "pytest")):
        path = folder / "bin" / command
        path.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m {module} "$@"\n')
        path.chmod(0o755)
    return folder


def run(script: str, folder: Path, env: Path) -> str:
    """What the lines of a block print, run as a person would, without any network."""
    variables = environment() | {"PATH": f"{env / 'bin'}:{os.environ['PATH']}", "COLUMNS": "200"}
    del variables["READINGROOM_CONFIG"]  # so that it is readingroom.toml in the folder
    variables |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    variables |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # those of our own tests take longer to load than these to run
    done = subprocess.run(
        ["bash", "-ec", script], cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def store_phantom(live: Live, *numbers: int) -> str:
    """Store slices of the study that the guide's commands name."""
    body = multipart.encode([made_slice(number, SLICES) for number in numbers])
    answer = httpx.post(
        f"{live.dicomweb}/studies", content=body, headers={"Content-Type": multipart.content_type()}, timeout=60
    )
    answer.raise_for_status()
    (study,) = httpx.get(f"{live.dicomweb}/studies").json()
    return str(study["0020000D"]["Value"][0])


def answer_of(live: Live, plugin: str) -> dict[str, Any]:
    """What a plugin has answered to the one study that waits to be read; waits for it."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        for item in httpx.get(f"{live.base}/worklist").json():
            shown = httpx.get(f"{live.base}/worklist/{item['workitem'].rpartition('/')[2]}").json()
            for answer in shown["answers"]:
                if answer["plugin"] == plugin and answer["state"] == "answered":
                    return {**answer, "study": item["study"], "rank": item["rank"]}
        assert time.monotonic() < give_up, live.log.read_text()
        time.sleep(0.1)


@pytest.mark.timeout(300)
def test_the_guide_leads_from_a_file_in_a_folder_to_a_plugin_installed_beside_a_running_server(tmp_path: Path) -> None:
    env = environment_with_the_server(tmp_path / "env")
    home = tmp_path / "home"
    home.mkdir()
    printed = ""

    def follow(one: Block) -> None:
        nonlocal printed
        if one.language == "sh":
            # What loads the demo has tests of its own; three of its slices are there already.
            printed = run(one.text.replace("readingroom demo\n", ""), home, env)
        elif one.language == "text":
            for line in filter(None, one.text.splitlines()):
                assert line in printed, f"{line!r} is not in {printed}"
        elif one.path.endswith((".py", ".toml")):
            (home / one.path).parent.mkdir(exist_ok=True)
            (home / one.path).write_text(one.text)
        else:
            assert one.heading == "An interpreter of its own", one.text  # of which tests/server has a test

    python = env / "bin" / "python"
    with live_server(home / "data", python=python) as live:
        study = store_phantom(live, 99, 100, 101)
        for one in blocks():
            follow(one)
        assert "acme" not in httpx.get(f"{live.base}/metrics").text  # installed, and not loaded yet
    with live_server(home / "data", settings={"config": home / "readingroom.toml"}, python=python) as live:
        assert 'readingroom_plugin_up{plugin="acme"} 1.0' in httpx.get(f"{live.base}/metrics").text
        assert store_phantom(live, 102) == study
        answer = answer_of(live, "acme")
    assert answer["study"].endswith(study)
    assert answer["answer"]["findings"][0]["text"] == "Metal"
    assert answer["note"] == "acme 0.1.0 is for research only"
    assert answer["rank"] == 0


class OfTheGuide(PluginContract):
    """One plugin of the guide, in a folder of its own."""

    text: ClassVar[str]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _written(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.module = str(written(cls.plugin, tmp_path_factory.mktemp("guide")))


def written(plugin: str, folder: Path) -> Path:
    path = folder / f"{plugin}.py"
    path.write_text(PLUGINS[plugin])
    return path


for _name in PLUGINS:
    globals()[f"TestThePlugin{_name.title()}"] = type(_name, (OfTheGuide,), {"plugin": _name})


def test_every_plugin_of_the_guide_is_held_to_the_contract() -> None:
    assert len(PLUGINS) == 6
    assert all(f"TestThePlugin{name.title()}" in globals() for name in PLUGINS)


@pytest.mark.parametrize(("region", "may_promote"), [("HEAD", True), ("CHEST", None)])
def test_the_algorithm_of_the_guide_promotes_what_it_is_cleared_for(
    deliver: Deliver, tmp_path: Path, region: str, may_promote: bool | None
) -> None:
    volume = np.full((4, 16, 16), 1024 + 30, "<i2")
    volume[2, 4:12, 4:12] = 1024 + 70
    made = made_study(volume, body_part=region)
    triage = deliver("bleed", "triage_study", module=str(written("bleed", tmp_path)), archive=made)
    if may_promote is None:
        assert triage is None
    else:
        assert triage.findings[0].evidence[0].instance_uid.endswith(".3")
        assert gate.decide(triage, made.study, is_research_mode=False).may_promote


def test_the_dense_voxels_of_the_guide_promote_in_research_mode_alone(deliver: Deliver, tmp_path: Path) -> None:
    made = made_study(np.full((2, 8, 8), 1024 + 950, "<i2"))
    triage = deliver("dense", "triage_study", module=str(written("dense", tmp_path)), archive=made)
    assert triage.priority == "urgent"
    assert not gate.decide(triage, made.study, is_research_mode=False).may_promote
    assert gate.decide(triage, made.study, is_research_mode=True).may_promote


def test_the_turns_of_the_guide_give_what_waits_to_who_may_read_it(deliver: Deliver, tmp_path: Path) -> None:
    (proposal,) = deliver("turns", "assign", module=str(written("turns", tmp_path)))
    assert (proposal.item, proposal.reader, proposal.because) == ("item-1", "reader-1", "free first, at 12:00 UTC")


def test_the_pager_of_the_guide_reaches_a_gateway_with_the_key_of_the_delivery(
    deliver: Deliver, tmp_path: Path
) -> None:
    module = str(written("pager", tmp_path))
    contact = Contact(name="Desk", role="desk", channel="pager", address="4711")
    told = {"module": module, "contact": contact, "limits": Limits(network=True)}
    with web_service() as web:
        notified = deliver("pager", "notify_contact", settings={"url": f"{web.url}/pages"}, delivery="once", **told)
        assert web.requests[0][1]["idempotency-key"] == "once"
    assert notified.reference == "once"
    with pytest.raises(RetryLater, match="cannot be reached"):
        deliver("pager", "notify_contact", **told)
    assert deliver("pager", "notify_contact", module=module) is None  # another channel
