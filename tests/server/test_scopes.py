"""SMART scopes: how they are read, what of them is granted, and what they let a token's bearer do."""

from __future__ import annotations

import pytest

from readingroom.errors import Refused
from readingroom.model import LOCAL_OPERATOR, NOBODY, Actor, Scope
from server.scopes import Limit, granted, limits, read_scope, require_dicomweb

ALL = (Limit(),)


def bearer(*scopes: str, patient: str | None = None, facilities: frozenset[str] | None = None) -> Actor:
    return Actor(
        id="client:ehr",
        name="ehr",
        scope=Scope(facilities=facilities),
        scopes=frozenset(scopes),
        patient=patient,
    )


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("system/Observation.rs", "system/Observation.rs"),
        ("user/*.cruds", "user/*.cruds"),
        ("patient/DiagnosticReport.s", "patient/DiagnosticReport.s"),
        ("system/Observation.rs?category=laboratory", "system/Observation.rs?category=laboratory"),
        ("system/Patient.read", "system/Patient.rs"),
        ("system/Patient.write", "system/Patient.cud"),
        ("system/*.*", "system/*.cruds"),
    ],
)
def test_a_scope_is_read_as_version_2_has_it(text: str, same: str) -> None:
    found = read_scope(text)
    assert found is not None
    assert found.scope == same


@pytest.mark.parametrize(
    "text",
    [
        "",
        "openid",
        "launch/patient",
        "system/Observation",
        "system/Observation.",
        "system/Observation.sr",
        "system/Observation.rr",
        "system/observation.rs",
        "group/Observation.rs",
        "system/*.rs?category=laboratory",
        "system/Observation.read?category=laboratory",
        "system/Observation.rs?",
        "system/Observation.rs?category",
        "System/Observation.rs",
    ],
)
def test_what_is_no_scope_is_none(text: str) -> None:
    assert read_scope(text) is None


@pytest.mark.parametrize(
    ("asked", "allowed", "gets"),
    [
        ("system/Observation.rs", "system/*.cruds", ["system/Observation.rs"]),
        ("system/*.cruds", "system/Observation.rs", ["system/Observation.rs"]),
        ("system/Observation.cruds", "system/Observation.rs", ["system/Observation.rs"]),
        ("system/*.rs", "system/*.rs", ["system/*.rs"]),
        ("system/Observation.rs", "system/Patient.rs", []),
        ("user/Observation.rs", "system/Observation.rs", []),
        ("system/Observation.d", "system/Observation.rs", []),
        ("openid system/Patient.rs nonsense", "system/*.rs", ["system/Patient.rs"]),
        (
            "system/Observation.rs",
            "system/Observation.rs?category=laboratory",
            ["system/Observation.rs?category=laboratory"],
        ),
        (
            "system/Observation.rs?status=final",
            "system/Observation.rs?category=laboratory",
            ["system/Observation.rs?status=final&category=laboratory"],
        ),
        ("system/Observation.r system/Observation.rs", "system/*.rs", ["system/Observation.rs"]),
        ("system/Observation.rs", "system/Observation.r system/Observation.s", None),
    ],
)
def test_no_more_is_granted_than_is_asked_for_and_allowed(asked: str, allowed: str, gets: list[str] | None) -> None:
    expected = gets if gets is not None else ["system/Observation.r", "system/Observation.s"]
    assert list(granted(asked.split(), allowed.split())) == expected


def test_the_local_operator_is_bound_by_no_scope_and_nobody_by_all() -> None:
    assert limits(LOCAL_OPERATOR, "Observation", "d") == ALL
    assert limits(NOBODY, "Observation", "r") == ()


def test_letters_and_types_are_what_a_scope_says() -> None:
    actor = bearer("system/Observation.rs", "system/Patient.r")
    assert limits(actor, "Observation", "s") == ALL
    assert limits(actor, "Observation", "u") == ()
    assert limits(actor, "Patient", "s") == ()
    assert limits(bearer("user/*.s"), "Patient", "s") == ALL


def test_scopes_with_queries_are_alternatives_and_one_without_is_all() -> None:
    category = "system/Observation.rs?category=laboratory"
    status = "system/Observation.s?status=final"
    assert set(limits(bearer(category, status), "Observation", "s")) == {
        Limit(query="category=laboratory"),
        Limit(query="status=final"),
    }
    assert limits(bearer(category, status), "Observation", "r") == (Limit(query="category=laboratory"),)
    assert limits(bearer(category, "system/*.rs"), "Observation", "s") == ALL


def test_a_scope_for_one_patient_gives_nothing_where_no_patient_is_named() -> None:
    assert limits(bearer("patient/*.rs"), "Observation", "r") == ()
    assert limits(bearer("patient/*.rs", patient="p1"), "Observation", "r") == (Limit(is_of_patient=True),)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/dicomweb/studies", "system/ImagingStudy.rs"),
        ("GET", "/dicomweb/f/north/studies/1.2/series/1.3/metadata", "system/ImagingStudy.rs"),
        ("GET", "/dicomweb/wado", "system/ImagingStudy.rs"),
        ("GET", "/dicomweb/changes", "system/ImagingStudy.rs"),
        ("HEAD", "/dicomweb/studies/1.2", "system/ImagingStudy.rs"),
        ("POST", "/dicomweb/studies", "system/ImagingStudy.c"),
        ("POST", "/dicomweb/studies/1.2", "system/ImagingStudy.c"),
        ("POST", "/dicomweb/studies/1.2/restore", "system/ImagingStudy.u"),
        ("PATCH", "/dicomweb/studies/1.2", "system/ImagingStudy.u"),
        ("DELETE", "/dicomweb/studies/1.2", "system/ImagingStudy.d"),
        ("GET", "/dicomweb/workitems", "system/Task.rs"),
        ("POST", "/dicomweb/workitems", "system/Task.c"),
        ("POST", "/dicomweb/workitems/1.2", "system/Task.u"),
        ("PUT", "/dicomweb/workitems/1.2/state", "system/Task.u"),
        ("POST", "/dicomweb/workitems/1.2/subscribers/ME", "system/Task.rs"),
        ("GET", "/dicomweb/ws/subscribers/ME", "system/Task.rs"),
        ("GET", "/dicomweb/modality-scheduled-procedure-steps", "system/Task.rs"),
        ("POST", "/dicomweb/modality-performed-procedure-steps/1.2", "system/Task.cu"),
    ],
)
def test_dicomweb_takes_the_scope_of_what_it_shows(method: str, path: str, scope: str) -> None:
    require_dicomweb(bearer(scope), method, path, "local")
    require_dicomweb(bearer("system/*.cruds"), method, path, "local")
    require_dicomweb(LOCAL_OPERATOR, method, path, "local")
    other = {"Task": "ImagingStudy", "ImagingStudy": "Task"}[scope.partition("/")[2].partition(".")[0]]
    for lesser in (f"system/{other}.cruds", f"patient/{scope.partition('/')[2]}", f"{scope}?status=available"):
        with pytest.raises(Refused):
            require_dicomweb(bearer(lesser, patient="p1"), method, path, "local")
    kind, _dot, letters = scope.partition(".")
    rest = "".join(letter for letter in "cruds" if letter not in letters)
    with pytest.raises(Refused):
        require_dicomweb(bearer(f"{kind}.{rest}"), method, path, "local")


def test_nothing_is_stored_for_a_facility_that_is_not_seen() -> None:
    actor = bearer("system/*.cruds", facilities=frozenset(("north",)))
    require_dicomweb(actor, "POST", "/dicomweb/f/north/studies", "north")
    with pytest.raises(Refused):
        require_dicomweb(actor, "POST", "/dicomweb/f/south/studies", "south")
