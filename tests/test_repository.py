"""Small promises of the repository, kept by looking at what is tracked."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LOCKS = ("bootstrap", "base", "dev")
KINDS = ("feature", "bugfix", "doc", "removal", "misc")

# Put together here, so that this file names no registry itself.
REGISTRIES = re.compile(
    "|".join([r"{}\.org", r"{}hosted\.org", r"registry\.{}", r"{}\.com/package"]).format(
        "pypi", "python", "npmjs", "npmjs"
    )
)
MACHINE_PATHS = re.compile(r"(?<![\w.$}~-])/(?:work|root|home/\w+|Users/\w+|tmp/\w+)(?:/|\b)")
SECRETS = re.compile(r"BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}|ghp_[A-Za-z0-9]{36}")


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files under version control (or where this is no checkout, all that nothing built), but for this one."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name]
    else:
        built = {".venv", "var", "__pycache__", "node_modules", "build", "dist", "static"}
        found = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("*") if path.is_file())
        names = [str(path) for path in found if not built & set(path.parts)]
    paths = [REPOSITORY / name for name in names]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def lines_like(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    """The lines of text files that match, as ``path:line: match``."""
    found = []
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {match[0]}")
    return found


def test_no_file_names_a_package_registry(tracked: list[Path]) -> None:
    assert lines_like(REGISTRIES, tracked) == []


def test_no_file_names_a_path_of_one_machine(tracked: list[Path]) -> None:
    assert lines_like(MACHINE_PATHS, tracked) == []


def test_no_file_holds_a_secret(tracked: list[Path]) -> None:
    assert lines_like(SECRETS, tracked) == []


def test_the_guards_find_what_they_look_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.REPOSITORY", tmp_path)
    path = tmp_path / "bad.txt"
    path.write_text(f"https://{'pypi'}.org/simple\ncd /work/main\n-----BEGIN RSA PRIVATE KEY-----\nfine\n")
    assert lines_like(REGISTRIES, [path]) == [f"bad.txt:1: {'pypi'}.org"]
    assert lines_like(MACHINE_PATHS, [path]) == ["bad.txt:2: /work/"]
    assert lines_like(SECRETS, [path]) == ["bad.txt:3: BEGIN RSA PRIVATE KEY"]


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_requirement_has_one_version_and_a_hash(name: str) -> None:
    text = (REPOSITORY / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-i|--index|--extra-index|--find-links|-f|-e)\b", text, re.MULTILINE)
    requirements = re.split(r"^(?=[A-Za-z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    for requirement in filter(str.strip, requirements):
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,._-]+\])?==[^\s;]+", requirement), requirement.splitlines()[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", requirement), requirement.splitlines()[0]


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wanted = {"base": project["project"]["dependencies"], "dev": project["dependency-groups"]["dev"]}
    for name, dependencies in wanted.items():
        locked = set(
            re.findall(r"^([A-Za-z0-9._-]+)", (REPOSITORY / "requirements" / f"{name}.txt").read_text(), re.MULTILINE)
        )
        missing = {re.split(r"[\[=<>~!; ]", one)[0].lower() for one in dependencies} - {one.lower() for one in locked}
        assert not missing, f"run `make lock`: {name}.txt lacks {sorted(missing)}"


def test_npm_locks_name_no_address(tracked: list[Path]) -> None:
    for path in tracked:
        if path.name == "package-lock.json":
            packages = json.loads(path.read_text())["packages"]
            assert [name for name, package in packages.items() if "resolved" in package] == [], path
            assert [name for name, package in packages.items() if name and "integrity" not in package] == [], path


FRAGMENT = re.compile(rf"\d+\.({'|'.join(KINDS)})(\.\d+)?\.md")


def test_every_change_is_a_fragment_of_a_known_kind(tracked: list[Path]) -> None:
    fragments = [path for path in tracked if path.parent == REPOSITORY / "changes" and path.name != "README.md"]
    for path in fragments:
        assert FRAGMENT.fullmatch(path.name), f"{path.name}: <issue>.<kind>.md, where the kind is one of {KINDS}"
        assert len(path.read_text().split()) >= 5, f"{path.name} says nothing to a user"


@pytest.mark.parametrize(
    ("name", "is_right"),
    [
        ("2.feature.md", True),
        ("12.bugfix.1.md", True),
        ("feature.md", False),
        ("2.idea.md", False),
        ("2.doc.rst", False),
    ],
)
def test_a_fragment_is_named_by_issue_and_kind(name: str, is_right: bool) -> None:
    assert bool(FRAGMENT.fullmatch(name)) is is_right
