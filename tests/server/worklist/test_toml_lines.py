"""Where the keys of a TOML file stand."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.worklist.toml_lines import Path, line_of, lines_of

TEXT = (
    '''\
# a comment = 1
title = "a # no comment [x]"   # one = 2

[a."b.c".d]
x = [1, 2, # not 3
     {y = 3, z = [
        4, "]"]},
]
[[many]]
text = """
[no.header]
key = 1 \\"""
""""
raw = \'\'\'
[[many]]
\'\'\'
[[many.deep]]
when = 1979-05-27 07:32:00Z
[[many.deep]]
[[many]]
'quoted key'.inner = { a.b = 1 }
[[many.deep]]
k = 'it'''
    + "'\n"
)
EXPECTED = {
    ("title",): 2,
    ("a",): 4,
    ("a", "b.c", "d"): 4,
    ("a", "b.c", "d", "x"): 5,
    ("a", "b.c", "d", "x", 1): 5,
    ("a", "b.c", "d", "x", 2): 6,
    ("a", "b.c", "d", "x", 2, "z", 0): 7,
    ("a", "b.c", "d", "x", 2, "z", 1): 7,
    ("many",): 9,
    ("many", 0): 9,
    ("many", 0, "text"): 10,
    ("many", 0, "raw"): 14,
    ("many", 0, "deep"): 17,
    ("many", 0, "deep", 0): 17,
    ("many", 0, "deep", 0, "when"): 18,
    ("many", 0, "deep", 1): 19,
    ("many", 1): 20,
    ("many", 1, "quoted key", "inner", "a", "b"): 21,
    ("many", 1, "deep", 0, "k"): 23,
}


def paths(value: Any, path: Path = ()) -> set[Path]:
    if isinstance(value, dict):
        return {path, *(inner for key, one in value.items() for inner in paths(one, (*path, key)))}
    if isinstance(value, list):
        return {path, *(inner for index, one in enumerate(value) for inner in paths(one, (*path, index)))}
    return {path}


@pytest.mark.parametrize(("path", "line"), EXPECTED.items())
def test_a_key_is_found_on_its_line(path: Path, line: int) -> None:
    assert lines_of(TEXT)[path] == line


def test_every_key_of_a_document_is_found() -> None:
    assert set(lines_of(TEXT)) == paths(tomllib.loads(TEXT)) - {()}


def test_what_is_not_there_is_looked_for_where_it_should_be() -> None:
    lines = lines_of(TEXT)
    assert line_of(lines, ("many", 0, "deep", 0, "missing", 4)) == 17
    assert line_of(lines, ("nothing",)) == 1
    assert lines_of("") == {}


scalars = st.one_of(
    st.sampled_from(["1", "true", "0x1F", "1979-05-27", "07:32:00", "-1e5", "inf"]),
    st.sampled_from(['"]"', "'}'", '"#"', '"a\\"b"', '"""x\n]\n"""', "'''y\n#\n'''", '""""q"""', "''"]),
)
keys = st.sampled_from(["a", "b-c", '"d e"', "'f.g'", "h.i"])
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda some: "[\n" + ", # x\n".join(some) + "\n]"),
        st.dictionaries(keys, inner, max_size=2).map(
            lambda some: "{" + ", ".join(f"{key} = {value}" for key, value in some.items()) + "}"
        ),
    ),
    max_leaves=6,
)
tables = st.dictionaries(keys, values, max_size=3).map(
    lambda some: "".join(f"{key}  =\t{value}  # {key}\n" for key, value in some.items())
)
documents = st.tuples(tables, st.lists(st.tuples(st.sampled_from(["[[t]]", "[[t . u]]", "[t.v]"]), tables), max_size=5))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents)
def test_every_key_of_any_document_is_found_on_a_line_that_has_it(drawn: tuple[str, list[tuple[str, str]]]) -> None:
    text = drawn[0] + "".join(f"{header}\n{table}" for header, table in drawn[1])
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = lines_of(text)
    assert set(lines) == paths(parsed) - {()}
    shown = text.split("\n")
    for path, line in lines.items():
        if isinstance(path[-1], str):
            assert path[-1].split(".")[0] in shown[line - 1]
