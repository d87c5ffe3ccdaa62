"""The commands for plugins, and a plugin from its first line to a running server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import pytest

from server.room import Room
from tests import stow
from tests.commands import Run
from tests.servers import REPOSITORY, live_server
from tests.synthetic import ct_series, part10, text_report

GOOD = """
from readingroom import *
from pydantic import BaseModel

class Settings(BaseModel, extra="forbid"):
    word: str = "hello"

@hookimpl
def register_settings():
    return Settings

@hookimpl
def find_priors(patient):
    return tuple(Prior(study_uid=one.study_uid, relevance=0.5) for one in patient.studies)

@hookimpl
def triage_study(study, priors, ctx):
    shapes = [ctx.pixels.volume(series).shape for series in study.series]
    return Triage(because=f"{ctx.settings.word} {len(priors)} {shapes}")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "plugins"
    path.mkdir()
    (path / "good.py").write_text(GOOD)
    return path


def config_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "room.toml"
    path.write_text(text)
    return path


def test_the_list_says_what_runs_and_how_to_turn_the_others_on(run: Run, folder: Path, tmp_path: Path) -> None:
    tables = (
        '[plugins.good]\n[plugins.off]\nenabled = false\nmodule = "/x.py"\n[plugins.far]\npython = "/opt/far/python"\n'
        '[plugins.gone]\n[plugins.lost]\nmodule = "/lost.py"\n'
    )
    config = config_of(tmp_path, f'plugins_folder = "{folder}"\n{tables}')
    printed = run("plugins", "list", "--config", config).out
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in printed.splitlines()}
    assert rows["good"] == f"yes in its own process {folder / 'good.py'}"
    assert rows["off"] == "no enabled = false /x.py"
    assert rows["far"] == "yes cannot run: it is not there an entry point of /opt/far/python"
    assert rows["gone"] == "yes cannot run: it is not there no distribution that is installed"
    assert rows["lost"] == "yes cannot run: it is not there /lost.py"
    assert rows["routing"].startswith("no add [plugins.routing] to the settings readingroom (plugins.routing)")
    told = json.loads(run("plugins", "list", "--json", "--config", config).out)
    assert [one["name"] for one in told if one["on"]] == ["good", "far", "gone", "lost"]


def test_a_check_tells_the_hooks_of_each_plugin_and_what_is_wrong(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "bad.py").write_text("from readingroom import *\n@hookimpl\ndef triage_stuy(study): ...\n")
    config = config_of(tmp_path, f'plugins_folder = "{folder}"\n[plugins.good]\nwird = "x"\n')
    printed = run("plugins", "check", "--config", config, status=1).words
    assert "FAIL good: The settings of plugin good are not right. wird: Extra inputs are not permitted." in printed
    assert "FAIL bad: Plugin bad: triage_stuy is no hook" in printed
    config = config_of(tmp_path, f'plugins_folder = "{folder}"\n')
    printed = run("plugins", "check", "good", "--config", config).words
    assert printed.startswith("ok good hooks: find_priors, register_settings, triage_study kept in place by: limits")
    assert "ok good hooks" in run("plugins", "check", folder / "good.py").words


def test_a_check_takes_an_installed_plugin_that_the_settings_do_not_have(run: Run) -> None:
    assert "ok routing" in run("plugins", "check", "routing").words
    assert run("plugins", "check").words == "No plugin runs here."


@pytest.mark.parametrize("name", ["nobody", "./nothing.py"])
def test_a_plugin_that_is_not_there_is_said(run: Run, name: str) -> None:
    assert "There is no plugin" in run("plugins", "check", name, status=1).err


def test_a_plugin_is_tried_on_a_stored_study(run: Run, folder: Path, room: Room, client: httpx.Client) -> None:
    slices, earlier = ct_series(3), ct_series(1)
    stow.store(client, *map(part10, slices + earlier))
    study, database = slices[0].StudyInstanceUID, str(room.engine.url)
    given = ("--data", room.settings.data, "--database", database)
    printed = run("plugins", "run", folder / "good.py", "--study", study, *given).out
    priors, triage = json.loads("[" + printed.replace("}\n{", "},{") + "]")
    assert [one["study_uid"] for one in priors["answer"]] == [earlier[0].StudyInstanceUID]
    assert triage == {"hook": "triage_study", "answer": triage["answer"]}
    assert triage["answer"]["because"] == "hello 1 [(3, 32, 24)]"
    printed = run("plugins", "run", folder / "good.py", "--study", study, "--hook", "triage_study", *given).out
    assert json.loads(printed)["answer"]["because"] == "hello 0 [(3, 32, 24)]"


def test_what_cannot_be_run_is_said(run: Run, folder: Path, room: Room, client: httpx.Client) -> None:
    (folder / "broken.py").write_text("raise RuntimeError('no GPU')\n")
    report = text_report()
    stow.store(client, part10(report))
    given = ("--data", room.settings.data, "--database", str(room.engine.url))
    of_report = ("--study", report.StudyInstanceUID, *given)
    assert "has no images" in run("plugins", "run", folder / "good.py", *of_report, status=1).err
    good = folder / "good.py"
    assert "There is no study 1.2.3" in run("plugins", "run", good, "--study", "1.2.3", *given, status=1).err
    assert "nothing to run on a study" in run("plugins", "run", "routing", *of_report, status=1).err
    for wrong in ("nobody", folder / "broken.py"):
        problem = "There is no plugin" if wrong == "nobody" else "no GPU"
        assert problem in run("plugins", "run", wrong, "--study", "1.2.3", *given, status=1).err
    wrong = run("plugins", "run", folder / "good.py", "--hook", "metrics", *of_report, status=1)
    assert "metrics is none of find_priors" in wrong.err


@pytest.mark.parametrize("name", ["Acme", "a_b", "-a", "a--b", "", "a" * 41, "../a"])
def test_a_name_that_no_distribution_could_have_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    assert "no name of a plugin" in run("plugins", "new", "--into", tmp_path, "--", name, status=1).err
    assert not list(tmp_path.iterdir())


def test_a_new_plugin_does_not_write_over_another(run: Run, tmp_path: Path) -> None:
    run("plugins", "new", "acme", "--into", tmp_path)
    assert "already" in run("plugins", "new", "acme", "--into", tmp_path, status=1).err


# -- the contract alone, and a vendor's plugin on it -------------------------------------------------------------------


def built(source: Path, into: Path) -> Path:
    """The wheel of a distribution."""
    before = set(into.glob("*.whl")) if into.exists() else set()
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = set(into.glob("*.whl")) - before
    return wheel


def interpreter_with(folder: Path, *wheels: Path, libraries: Path) -> Path:
    """A fresh interpreter with these wheels, and with what lies in another folder of libraries."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*install, *map(str, wheels)], check=True, env=os.environ | {"PIP_CONFIG_FILE": os.devnull})
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(f"{libraries}\n")
    return python


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the contract."""
    return built(REPOSITORY / "packaging" / "contract", tmp_path_factory.mktemp("contract"))


def test_the_contract_is_a_distribution_of_its_own_that_needs_only_pluggy(contract: Path, tmp_path: Path) -> None:
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    (libraries / "pluggy").symlink_to(Path(sysconfig.get_path("purelib")) / "pluggy")
    python = interpreter_with(tmp_path / "bare", contract, libraries=libraries)
    program = (
        "import importlib.metadata as m, readingroom, readingroom.runner, readingroom.contained, pathlib;"
        "print(readingroom.__version__, m.version('readingroom-contract'), m.requires('readingroom-contract')[0]);"
        "print([str(p) for p in m.files('readingroom-contract') if not str(p).startswith('readingroom')])"
    )
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    versions, others = done.stdout.splitlines()
    assert versions.split()[0] == versions.split()[1]
    assert versions.split()[2] == "pluggy>=1.6"
    assert others == "[]"


@pytest.fixture(scope="module")
def vendor(contract: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A plugin as `plugins new` writes it: its folder, and an interpreter that it is installed for."""
    folder = tmp_path_factory.mktemp("vendor")
    made = subprocess.run(
        [sys.executable, "-m", "server.cli", "plugins", "new", "acme-metal", "--into", str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    source = folder / "readingroom-acme-metal"
    wheel = built(source, folder)
    python = interpreter_with(folder / "own", contract, wheel, libraries=Path(sysconfig.get_path("purelib")))
    return source, python


def test_the_tests_of_a_new_plugin_pass(vendor: tuple[Path, Path]) -> None:
    source, python = vendor
    done = subprocess.run([python, "-m", "pytest", "-q"], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout


def test_a_running_server_runs_a_new_plugin_under_its_own_interpreter(
    vendor: tuple[Path, Path], tmp_path: Path
) -> None:
    _, python = vendor
    settings = {"plugins": json.dumps({"acme-metal": {"python": str(python), "threshold_hu": 2000}})}
    with live_server(tmp_path / "data", settings=settings) as live:
        page = httpx.get(f"{live.base}/metrics").text
    assert 'readingroom_plugin_up{plugin="acme-metal"} 1.0' in page
