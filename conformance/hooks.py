"""The page of the hooks: what their texts say, and the values that travel with them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import timedelta
from typing import Any, get_args, get_type_hints

from readingroom import context, model, results
from readingroom.hooks import Family, Hook
from readingroom.hookspecs import HOOKS

_HEAD = """\
# Hooks

Made from `readingroom/hookspecs.py`, `model.py`, `results.py` and `context.py` by `make docs`. How to write a plugin:
[the guide](../guide-plugins.md).

A hook is a function of a plugin that the server calls: it has the name of the hook and `@hookimpl` before it, and takes
those of the arguments that it uses, by name and in any order. All of this stays as it is until the next major version,
but for a hook whose text begins with EXPERIMENTAL.

| hook | family | whose answer counts | limit | if it fails |
|---|---|---|---|---|
"""

_FAMILIES: Mapping[Family, str] = {
    "register": "Called when a process of the plugin starts or ends.",
    "decide": (
        "Somebody waits for the answer. A hook that decides looks at its arguments and at nothing else: it is given\n"
        "neither pixels nor metadata. The setting `milliseconds` of the plugin is another limit."
    ),
    "react": (
        "Called from the durable queue after something has happened, at least once. The time that the server takes\n"
        "for pixels and metadata does not count. The setting `seconds` of the plugin is another limit."
    ),
}
_ANSWERS = {"none": "", "first": "the first", "all": "all"}
_FAILS = {
    "open": "as if it had said nothing",
    "closed": "that is a no",
    "retry": "it is tried again",
}
_FAILS_OTHERWISE = {
    "register_settings": "the plugin is not loaded",
    "started": "the plugin is not loaded",
    "stopping": "that is logged",
    "assign": "the built-in order holds",
    "notify_contact": "the next contact, the next rung",
    "deliver_report": "it is tried again for a day",
}
_PARTS = ("Fired", "Runs", "Returns", "If it fails", "Delivered again", "Added in")
_WORDS = ("Priority", "ItemKind", "ItemState", "SlaMark", "Category", "ReportStatus", "ReportKind", "Origin")


def page() -> str:
    """The page."""
    return _HEAD + "".join((*map(_row, HOOKS.values()), *_families(), *_values()))


def _row(hook: Hook) -> str:
    fails = _FAILS_OTHERWISE.get(hook.name) or _FAILS[hook.fails]
    link = f"[`{hook.name}`](#{hook.name})"
    return f"| {link} | {hook.family} | {_ANSWERS[hook.answers]} | {_span(hook.limit)} | {fails} |\n"


def _span(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.0f} s"


def _families() -> Iterator[str]:
    for family, told in _FAMILIES.items():
        yield f"\n## The family *{family}*\n\n{told}\n"
        yield from (_section(hook) for hook in HOOKS.values() if hook.family == family)


def _section(hook: Hook) -> str:
    text = inspect.cleandoc(hook.function.__doc__ or "")
    said, _, example = text.partition("\nExample::\n")
    first, *paragraphs = said.strip().split("\n\n")
    told = "\n".join(_item(paragraph) for paragraph in paragraphs)
    return (
        f"\n### {hook.name}\n\n{first}\n\n{_signature(hook)}\n{told}\n\n```python\n{inspect.cleandoc(example)}\n```\n"
    )


def _item(paragraph: str) -> str:
    part, _, rest = paragraph.partition(": ")
    if part not in _PARTS:
        raise ValueError(f"The text of a hook has a part {part!r}, which is none of {', '.join(_PARTS)}.")
    return f"- **{part}**: {' '.join(rest.split())}"


def _signature(hook: Hook) -> str:
    """How the hook is declared, as code."""
    signature = inspect.signature(hook.function)
    arguments = ", ".join(f"{one.name}: {one.annotation}" for one in signature.parameters.values())
    return f"    {hook.name}({arguments}) -> {signature.return_annotation}\n"


def _values() -> Iterator[str]:
    yield "\n## The values\n\nAll of them come from `readingroom`, and none can be changed. Their words are:\n\n"
    for name in _WORDS:
        yield f"- `{name}`: {', '.join(f'`{word}`' for word in get_args(getattr(model, name)))}\n"
    travelling = set().union(*(_classes_in((*hook.parameters.values(), hook.result)) for hook in HOOKS.values()))
    for module in (model, results):
        yield from (
            _class(kind)
            for kind in vars(module).values()
            if isinstance(kind, type) and kind in travelling and kind.__module__ == module.__name__
        )
    yield f"\n## The context\n\n{_prose(context.Context)}\n\n"
    for owner, place in ((context.Pixels, "pixels"), (context.Metadata, "metadata")):
        for name, method in vars(owner).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                yield _method(f"ctx.{place}.{name}", method)
    yield from (_class(kind) for kind in (context.Layout, context.FramePlace))


def _classes_in(hint: Any) -> set[Any]:
    """The dataclasses that a type hint names, and those that these hold."""
    if isinstance(hint, tuple):
        return set().union(*map(_classes_in, hint))
    if isinstance(hint, type) and is_dataclass(hint):
        return {hint} | _classes_in(tuple(get_type_hints(hint).values()))
    return _classes_in(get_args(hint))


def _class(kind: type[Any]) -> str:
    listed = "".join(f"    {field.name}: {field.type}{_default(field)}\n" for field in fields(kind))
    return f"\n### {kind.__name__}\n\n{_prose(kind)}\n\n" + listed.replace("'", '"')


def _method(name: str, method: Any) -> str:
    signature = inspect.signature(method)
    first = inspect.cleandoc(method.__doc__ or "").partition("\n\n")[0]
    return f"- `{name}(series)` gives `{signature.return_annotation}`: {' '.join(first.split())}\n"


def _prose(kind: type[Any]) -> str:
    """The text of a class, its attributes as a list."""
    text, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes\n----------\n")
    listed = re.sub(r"(?m)^(\S.*)\n((?:    .*\n?)+)", _attribute, attributes)
    return f"{text.strip()}\n\n{listed}".strip()


def _attribute(found: re.Match[str]) -> str:
    names = ", ".join(f"`{name}`" for name in found[1].split(", "))
    return f"- {names}: {' '.join(found[2].split())}\n"


def _default(field: Field[Any]) -> str:
    if field.default_factory is not MISSING:
        return f" = {field.default_factory()!r}"
    return "" if field.default is MISSING else f" = {field.default!r}".replace("datetime.", "")
