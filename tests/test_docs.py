"""What the documentation says is so: its commands exist, its curl lines run, its reference is not stale."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from typer.main import get_command

from conformance.reference import PAGE_MAKERS, PAGES, search_page
from server.cli import app
from server.demo import SLICES, made_slice
from server.settings import Settings
from tests import multipart
from tests.conftest import absent
from tests.servers import REPOSITORY, Live

TEXTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
_COMMAND = re.compile(
    r"(?:\.venv/bin/|^|`|\s)readingroom "
    r"((?:serve|work|jobs|deliveries|hl7|demo|import|export|doctor|scrub|reindex|restore|purge|correct|history|migrate|zarr|conformance|directory|readers|clients|fhir|plugins|prices|statement)[^`'|\n]*)"
)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> Iterator[tuple[str, str]]:
    for path in TEXTS:
        for found in _COMMAND.finditer(path.read_text()):
            yield path.name, found[1].partition("  #")[0].strip().rstrip(".;,:)")


@pytest.mark.parametrize(("where", "line"), sorted(set(commands())))
def test_a_command_in_the_documentation_exists_with_its_options(where: str, line: str) -> None:
    command: Any = get_command(app)
    words = shlex.split(line)
    while hasattr(command, "commands"):
        assert words, f"{where}: {line}"
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options = [word for word in words if word.startswith("-")]
    assert set(options) <= known, f"{where}: {line}"


def test_the_documentation_names_enough_commands_to_be_worth_the_test() -> None:
    assert len(set(commands())) > 15


def test_a_settings_file_in_the_documentation_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [block for path in TEXTS for block in blocks(path, "toml")]
    assert found
    for block in found:
        tomllib.loads(block)
        (tmp_path / "room.toml").write_text(block)
        monkeypatch.setenv("READINGROOM_CONFIG", str(tmp_path / "room.toml"))
        assert Settings().model_fields_set  # type: ignore[call-arg]


def test_every_link_to_a_file_leads_to_one() -> None:
    for path in TEXTS:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("name", PAGE_MAKERS)
def test_a_page_that_is_made_from_the_code_is_what_the_code_says(name: str) -> None:
    assert (PAGES / name).read_text() == PAGE_MAKERS[name](), "stale: run make docs"


def test_the_settings_of_the_search_reference_are_accepted() -> None:
    (given,) = re.findall(r"(?m)^    search_attributes = \[\n(?:        .*\n)+    \]$", search_page())
    assert len(Settings(**tomllib.loads(given)).search_attributes) == 3


def test_the_readme_opens_with_the_two_commands() -> None:
    text = (REPOSITORY / "README.md").read_text().splitlines()
    lines = [line for line in text if line.strip()][1:3]
    assert [line.split("#")[0].strip() for line in lines] == ["make run", "make test"]
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in ("run", "test"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_curl_lines_of_the_readme_work_as_printed(live: Live, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        absent("the program curl")
    slices = {number: made_slice(number, SLICES) for number in (99, 100, 101)}
    body, headers = multipart.encode(slices.values()), {"Content-Type": multipart.content_type()}
    httpx.post(f"{live.dicomweb}/studies", content=body, headers=headers, timeout=60).raise_for_status()

    (block,) = blocks(REPOSITORY / "README.md", "sh")
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    assert sum(line.startswith("curl ") for line in lines) >= 9
    # Each line as printed, but for the port; after each a mark, so that every answer is known by its line.
    script = 'set -eu\ncurl() { command curl --fail-with-body "$@"; }\n'
    script += "".join(f"{line}\necho; echo @@@\n" for line in lines).replace("127.0.0.1:8780", live.base[7:])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = dict(zip(lines, (answer.strip() for answer in done.stdout.split("@@@")), strict=False))

    def answer(containing: str) -> str:
        (found,) = [text for line, text in printed.items() if line.startswith("curl ") and containing in line]
        return found

    (study,) = json.loads(answer("PatientID=RR-PHANTOM"))
    assert study["00201208"]["Value"] == [3]
    assert [one["00100020"]["Value"] for one in json.loads(answer("*phantom*"))] == [["RR-PHANTOM"]]
    assert [one["00080060"]["Value"] for one in json.loads(answer("Modality=CT"))] == [["CT"]]
    assert hashlib.sha256((tmp_path / "slice.dcm").read_bytes()).digest() == hashlib.sha256(slices[100]).digest()
    numbers = [one["00200013"]["Value"][0] for one in json.loads((tmp_path / "series.json").read_text())]
    assert numbers == [99, 100, 101]
    assert (tmp_path / "frame.raw").read_bytes() in slices[100]
    assert (tmp_path / "frame.raw").stat().st_size == 512 * 512 * 2
    with Image.open(tmp_path / "slice.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (512, 512))
    stored = json.loads(answer("f=@slice.dcm"))
    assert len(stored["00081199"]["Value"]) == 1
    assert "00081198" not in stored
    bundle = json.loads(answer("/fhir/ImagingStudy"))
    assert [entry["resource"]["resourceType"] for entry in bundle["entry"]] == ["ImagingStudy", "Patient"]
    assert answer("/readyz") == "ready"
    assert "readingroom_http_requests_total" in answer("/metrics")
