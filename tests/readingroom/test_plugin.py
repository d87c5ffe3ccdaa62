"""Plugins are looked at before they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import readingroom
from readingroom import deprecated, hookspecs, model, results
from readingroom.context import Context
from readingroom.deprecated import Deprecation, ReadingRoomDeprecationWarning, replacement
from readingroom.errors import Invalid, NotFound
from readingroom.hookspecs import HOOKS
from readingroom.model import Study
from readingroom.plugin import HOST_SETTINGS, Plugin, load_plugin

PARTS = ("Fired:", "Runs:", "Returns:", "If it fails:", "Delivered again:", "Added in:", "Example::")
STUDY = Study(study_uid="1.2", facility="north", patient="p", modalities=("CT",), body_parts=("HEAD",))


def plugin_of(folder: Path, text: str, *, name: str = "made", **settings: object) -> Plugin:
    path = folder / f"{name}.py"
    path.write_text("from readingroom import *\nfrom pydantic import BaseModel\n" + text)
    return load_plugin(name, module=str(path), settings=settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "implements no hook"),
        ("@hookimpl\ndef triage_stuy(study): ...", "triage_stuy is no hook; the hooks are"),
        ("@hookimpl\ndef triage_study(study, patience): ...", "patience"),
        ("@hookimpl\ndef triage_study(study, x=1): ...", "has a default for 'x'"),
        ("@hookimpl\ndef triage_study(*study): ...", "takes 'study' for whatever comes"),
        ("@hookimpl\nasync def triage_study(study): ...", "is async"),
        ("@hookimpl\ndef find_priors(study):\n    yield study", "is a generator"),
        ("@hookimpl(wrapper=True)\ndef triage_study(study):\n    return (yield)", "is a wrapper"),
        ("@hookimpl\ndef register_settings(): return 3", "has to give a class derived from pydantic"),
        (
            "class S(BaseModel):\n    network: bool\n@hookimpl\ndef register_settings(): return S",
            "the server reads network itself",
        ),
        (
            "@hookimpl\ndef triage_stuy(study): ...\n@hookimpl\nasync def triage_study(study): ...",
            "triage_study is async.*triage_stuy is no hook",
        ),
    ],
)
def test_what_is_not_right_with_a_plugin_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Invalid, match=f"(?s){says}"):
        plugin_of(tmp_path, text)


def test_a_plugin_asks_for_the_arguments_that_it_uses(tmp_path: Path) -> None:
    text = "@hookimpl\ndef triage_study(ctx, study):\n    return Triage(because=study.study_uid + ctx.delivery)"
    plugin = plugin_of(tmp_path, text)
    context = Context(plugin="made", delivery="-d")
    told = plugin.call(HOOKS["triage_study"], {"study": STUDY, "order": None, "priors": ()}, context)
    assert told["because"] == "1.2-d"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("'yes'", "is no Triage"),
        ("Veto(because='x')", "is no Triage"),
        ("Triage(priority='now')", "priority is no"),
        ("Triage(findings=(object(),))", r"findings\[0\]"),
    ],
)
def test_an_answer_of_another_type_is_refused(tmp_path: Path, answer: str, says: str) -> None:
    plugin = plugin_of(tmp_path, f"@hookimpl\ndef triage_study(study): return {answer}")
    with pytest.raises(Invalid, match=says):
        plugin.call(HOOKS["triage_study"], {"study": STUDY}, Context(plugin="made"))


def test_no_answer_where_several_may_come_is_none_of_them(tmp_path: Path) -> None:
    plugin = plugin_of(tmp_path, "@hookimpl\ndef find_priors(study): return None")
    assert plugin.call(HOOKS["find_priors"], {"study": STUDY}, Context(plugin="made")) == []


SETTINGS = "class S(BaseModel):\n    threshold: float = 0.5\n@hookimpl\ndef register_settings(): return S\n"


def test_settings_are_those_that_the_plugin_asks_for(tmp_path: Path) -> None:
    assert plugin_of(tmp_path, SETTINGS).settings.threshold == 0.5
    assert plugin_of(tmp_path, SETTINGS, threshold=0.7).settings.threshold == 0.7
    with pytest.raises(Invalid, match=r"settings of plugin made are not right. threshold: Input should be") as caught:
        plugin_of(tmp_path, SETTINGS, threshold="a secret")
    assert "a secret" not in caught.value.message


def test_a_plugin_without_settings_takes_none(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="has no settings, so it cannot be given speed"):
        plugin_of(tmp_path, "@hookimpl\ndef started(ctx): ...", speed=1)


def test_a_folder_is_a_plugin_too(tmp_path: Path) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .rest import started\n")
    (folder / "rest.py").write_text("from readingroom import hookimpl\n@hookimpl\ndef started(ctx): ...\n")
    assert list(load_plugin("big", module=str(folder)).implemented) == ["started"]


@pytest.mark.parametrize("module", [None, "nothing.py"])
def test_a_plugin_that_is_not_there_is_not_found(module: str | None, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_plugin("nothing", module=module and str(tmp_path / module))


@pytest.mark.parametrize("hook", HOOKS.values(), ids=lambda hook: hook.name)
def test_every_hook_is_documented_in_all_its_parts_and_its_example_is_a_plugin(hook: object, tmp_path: Path) -> None:
    (one,) = [one for one in HOOKS.values() if one is hook]
    text = one.function.__doc__ or ""
    assert [text.count(f"\n    {part}") for part in PARTS] == [1] * len(PARTS)
    assert [text.index(part) for part in PARTS] == sorted(text.index(part) for part in PARTS)
    example = text.partition("Example::\n")[2]
    path = tmp_path / "example.py"
    path.write_text("\n".join(line[8:] for line in example.splitlines()))
    assert list(load_plugin("example", module=str(path)).implemented) == [one.name]


def test_every_function_of_the_hookspecs_is_a_hook() -> None:
    functions = {name for name, one in vars(hookspecs).items() if getattr(one, "__module__", "") == hookspecs.__name__}
    assert functions == set(HOOKS)


def test_the_contract_is_light_to_import() -> None:
    heavy = ("numpy", "pydantic", "server", "storage", "pydicom", "sqlalchemy", "asyncio")
    program = f"import sys, readingroom.plugin; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_contract_exports_every_noun_and_every_answer() -> None:
    for module in (model, results):
        declared = {name for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__}
        assert declared <= set(readingroom.__all__)
    assert all(hasattr(readingroom, name) for name in readingroom.__all__)


def test_a_deprecated_name_still_works_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"Exam": Deprecation(instead="Study", since="0.2")}
    monkeypatch.setattr(deprecated.replacement, "__defaults__", (names,))
    with pytest.warns(ReadingRoomDeprecationWarning, match=r"use readingroom\.Study"):
        assert readingroom.Exam is Study
    with pytest.raises(AttributeError, match="Nothing"):
        replacement("Nothing")


def test_no_setting_of_the_server_is_one_that_python_could_not_name() -> None:
    assert all(name.isidentifier() for name in HOST_SETTINGS)
