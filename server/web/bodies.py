"""What the web room is sent: small JSON objects, and the forms of its own pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request

from readingroom.errors import Invalid, Refused, TooLarge, UnsupportedMedia

_MOST_BODY = 64 << 10


def is_form(request: Request) -> bool:
    """Whether a page's form was sent."""
    return request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")


async def read_body(request: Request, most: int = _MOST_BODY) -> bytes:
    """The bytes of a body; raises `TooLarge`, before it is read whole, where there are too many."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLarge(f"At most {most} bytes are read here.")
    return bytes(body)


async def body_of(request: Request, kinds: Mapping[str, type]) -> dict[str, Any]:
    """The members of a small JSON object, or the fields of a form.

    Parameters
    ----------
    kinds
        The members that there may be, and of which type each is.

    Raises
    ------
    Invalid, UnsupportedMedia
        The body is none of these, or has more; says what would be right.
    Refused
        The form was sent from a page of another site.
    """
    body = await read_body(request)
    told: Any
    if is_form(request):
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            raise Refused("This form is sent from its own page only.")
        told = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    elif request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        try:
            told = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise Invalid("The body is no JSON.") from None
    else:
        raise UnsupportedMedia("Send application/json, or a form.")
    if not isinstance(told, dict) or any(
        name not in kinds or type(value) is not kinds[name] for name, value in told.items()
    ):
        raise Invalid(f"The body is one object with {', '.join(kinds)}.")
    return told
