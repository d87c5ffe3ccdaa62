"""What came of a run: as a table on the console, and as HTML, JUnit XML or JSON."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from conformance.dicomweb.checks import Check
from conformance.dicomweb.plugin import Outcome, State
from conformance.dicomweb.run import Results

EDITION = "2026a"
"""The edition of PS3.18 whose sections are named."""

_SIGNS = {
    State.PASS: "[green]pass[/]",
    State.FAIL: "[bold red]FAIL[/]",
    State.WARN: "[yellow]warn[/]",
    State.INFO: "[cyan]info[/]",
    State.SKIP: "[dim]skip[/]",
}
_UNMET = (State.FAIL, State.WARN, State.INFO)


@dataclass(slots=True)
class Live:
    """Progress on the console while a run goes on; what is not met is told as it comes."""

    console: Console
    progress: Progress
    task: Any = None

    @classmethod
    def begin(cls, console: Console, total: int) -> Live:
        """Show an empty bar."""
        columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
        progress = Progress(*columns, console=console, transient=True)
        progress.start()
        return cls(console, progress, progress.add_task("storing the samples", total=total))

    def told(self, outcome: Outcome) -> None:
        """One check more is done."""
        self.progress.update(self.task, advance=1, description=outcome.check.area)
        if outcome.state == State.FAIL:
            self.progress.console.print(f"{_SIGNS[outcome.state]} {outcome.check.id} {escape(outcome.check.title)}")

    def end(self) -> None:
        """Take the bar away."""
        self.progress.stop()


def counts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many checks came to which state."""
    counted = Counter(outcome.state for outcome in outcomes)
    return {state.value: counted[state] for state in State}


def exit_status(results: Results) -> int:
    """0 where everything that the standard demands is met, 1 where something is not."""
    return int(any(outcome.state == State.FAIL for outcome in results.outcomes))


def print_list(console: Console, checks: Iterable[Check]) -> None:
    """Every check with its level and section."""
    table = Table("id", "level", Column("section", no_wrap=True), "area", "demand", box=None, pad_edge=False)
    for check in checks:
        table.add_row(check.id, check.level, check.reference, check.area, escape(check.title))
    console.print(table)


def print_results(console: Console, results: Results, *, verbose: bool = False) -> None:
    """What is not met, with the curl line that shows it; then the sum of each area."""
    for outcome in results.outcomes:
        if outcome.state == State.FAIL or (verbose and outcome.state in _UNMET):
            check = outcome.check
            console.print(f"\n{_SIGNS[outcome.state]} [bold]{check.id}[/] {escape(check.title)}")
            console.print(f"  demanded by {escape(check.reference)} ({check.level})")
            console.print(f"  {escape(outcome.found)}")
            if outcome.answer is not None:
                console.print(f"  [dim]{escape(outcome.answer.curl(f'{check.id}.bin'))}[/]")
    table = Table("area", *(Column(state.value, justify="right") for state in State), box=None, pad_edge=False)
    for area in dict.fromkeys(outcome.check.area for outcome in results.outcomes):
        counted = counts(outcome for outcome in results.outcomes if outcome.check.area == area)
        table.add_row(area, *(str(number or "") for number in counted.values()))
    total = counts(results.outcomes)
    table.add_row("[bold]all[/]", *(f"[bold]{number}[/]" for number in total.values()))
    console.print()
    console.print(table)
    if results.left:
        console.print("Still on the server, of what the suite has stored: " + ", ".join(results.left))


def to_json(results: Results) -> str:
    """The results as JSON."""
    outcomes = []
    for outcome in results.outcomes:
        check = outcome.check
        told: dict[str, Any] = {
            "id": check.id,
            "title": check.title,
            "section": check.reference,
            "level": check.level.value,
            "area": check.area,
            "state": outcome.state.value,
            "seconds": round(outcome.seconds, 4),
        }
        if check.note:
            told["note"] = check.note
        if outcome.found:
            told["found"] = outcome.found
        if outcome.answer is not None:
            told |= {"curl": outcome.answer.curl(f"{check.id}.bin"), "answer": outcome.answer.described()}
        outcomes.append(told)
    whole = {
        "standard": f"PS3.18 {EDITION}",
        "base": results.base,
        "server": results.server,
        "counts": counts(results.outcomes),
        "left": results.left,
        "checks": outcomes,
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def to_junit(results: Results) -> str:
    """The results as JUnit XML: MUST that is not met is a failure, SHOULD and MAY are told in system-out."""
    total = counts(results.outcomes)
    suites = ElementTree.Element("testsuites", name="DICOMweb conformance")
    for area in dict.fromkeys(outcome.check.area for outcome in results.outcomes):
        mine = [outcome for outcome in results.outcomes if outcome.check.area == area]
        counted = counts(mine)
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=area,
            tests=str(len(mine)),
            failures=str(counted["fail"]),
            skipped=str(counted["skip"]),
            errors="0",
            time=f"{sum(outcome.seconds for outcome in mine):.3f}",
        )
        for outcome in mine:
            _add_case(suite, outcome)
    suites.set("tests", str(len(results.outcomes)))
    suites.set("failures", str(total["fail"]))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ElementTree.Element, outcome: Outcome) -> None:
    check = outcome.check
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"{check.area}.{check.level.value}",
        name=f"{check.id} {check.title}",
        time=f"{outcome.seconds:.3f}",
    )
    text = _printable(f"{outcome.found}\n{check.reference}\n{outcome.answer.curl() if outcome.answer else ''}".strip())
    if outcome.state == State.FAIL:
        ElementTree.SubElement(case, "failure", message=_printable(outcome.found)).text = text
    elif outcome.state == State.SKIP:
        ElementTree.SubElement(case, "skipped", message=_printable(outcome.found))
    elif outcome.state in _UNMET:
        ElementTree.SubElement(case, "system-out").text = f"{outcome.state.value}: {text}"


def _printable(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold."""
    return "".join(
        one if one in "\t\n" or " " <= one <= "\ud7ff" or "\ue000" <= one <= "\ufffd" else "?" for one in text
    )


_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>DICOMweb conformance</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .8rem .2rem 0; text-align: left }
td.n { text-align: right } details { border-top: 1px solid #ddd; padding: .4rem 0 } summary { cursor: pointer }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; white-space: pre-wrap; word-break: break-all }
.fail { color: #b00020 } .warn { color: #9a6700 } .info { color: #0550ae }
.skip { color: #777 } .pass { color: #1a7f37 }
b.state { display: inline-block; width: 3.2rem } small { color: #666 }
</style>
"""


def to_html(results: Results) -> str:
    """The results as one page, without anything that has to be fetched."""
    total = counts(results.outcomes)
    pieces = [_HEAD, "<h1>DICOMweb conformance</h1>"]
    server = f" ({html.escape(results.server)})" if results.server else ""
    pieces.append(f"<p>{html.escape(results.base)}{server}, against PS3.18 {EDITION}.</p>")
    pieces.append("<table><tr><th>area" + "".join(f"<th class={state.value}>{state.value}" for state in State))
    for area in dict.fromkeys(outcome.check.area for outcome in results.outcomes):
        counted = counts(outcome for outcome in results.outcomes if outcome.check.area == area)
        pieces.append(f"<tr><td>{area}" + "".join(f"<td class=n>{number or ''}" for number in counted.values()))
    pieces.append("<tr><th>all" + "".join(f"<td class=n>{number}" for number in total.values()) + "</table>")
    pieces += [_details(outcome) for outcome in results.outcomes]
    return "\n".join(pieces) + "</html>\n"


def _details(outcome: Outcome) -> str:
    check, state = outcome.check, outcome.state.value
    text = (
        f"<details{' open' if outcome.state == State.FAIL else ''}><summary><b class='state {state}'>{state}</b> "
        f"{check.id} {html.escape(check.title)} <small>{html.escape(check.reference)}, {check.level}</small></summary>"
    )
    for paragraph in (check.note, outcome.found):
        if paragraph:
            text += f"<p>{html.escape(paragraph)}</p>"
    if outcome.answer is not None:
        text += f"<pre>{html.escape(outcome.answer.curl(f'{check.id}.bin'))}</pre>"
        text += f"<pre>{html.escape(outcome.answer.described())}</pre>"
    return text + "</details>"


WRITERS: dict[str, Callable[[Results], str]] = {"html": to_html, "junit": to_junit, "json": to_json}


def write_bodies(results: Results, folder: Path) -> None:
    """Write what was sent where a demand was not met, under the names that the curl lines have."""
    folder.mkdir(parents=True, exist_ok=True)
    for outcome in results.outcomes:
        if outcome.answer is not None and outcome.answer.request.content:
            (folder / f"{outcome.check.id}.bin").write_bytes(outcome.answer.request.content)
