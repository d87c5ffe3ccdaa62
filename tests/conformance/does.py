"""What the faults do: changes of what is asked and of what is answered."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from typing import Any

import pydicom
from PIL import Image
from pydicom.uid import ImplicitVRLittleEndian

from tests.conformance.broken import Exchange, Fault, Rows, answering, asking, bodies, content, module, rows


def values(*vrs: str, to: Any) -> Any:
    """Values of these VRs become what a function makes of them."""

    def change(tag: str, attribute: dict[str, Any]) -> None:
        if attribute.get("vr") in vrs and "Value" in attribute:
            attribute["Value"] = [to(value) for value in attribute["Value"]]

    return change


def empty(to: Any) -> Any:
    """Attributes without a value get another form."""

    def change(tag: str, attribute: dict[str, Any]) -> None:
        if set(attribute) == {"vr"}:
            attribute["Value"] = to

    return change


def without_order(dataset: dict[str, Any]) -> None:
    turned = dict(reversed(dataset.items()))
    dataset.clear()
    dataset.update(turned)


def adding(**added: dict[str, Any]) -> Any:
    def change(found: Rows) -> None:
        for dataset in found:
            for tag, attribute in added.items():
                dataset[tag.removeprefix("x")] = attribute

    return change


def filed(change: Any) -> Any:
    """A DICOM file is read, changed, and written again."""

    def apply(body: bytes) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(body))
        change(dataset)
        target = io.BytesIO()
        syntax = dataset.file_meta.TransferSyntaxUID
        dataset.save_as(
            target, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=True
        )
        return target.getvalue()

    return apply


def implicit(dataset: pydicom.FileDataset) -> None:
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def flipped(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1]) if body else body


def picture(change: Any) -> Fault:
    """Pictures are changed."""

    def of(body: bytes) -> bytes:
        image = Image.open(io.BytesIO(body))
        target = io.BytesIO()
        changed = change(image)
        changed.save(
            target,
            format=image.format,
            **({"icc_profile": image.info["icc_profile"]} if "icc_profile" in image.info else {}),
        )
        return target.getvalue()

    def apply(exchange: Exchange) -> None:
        if exchange.status == 200 and exchange.kind in ("image/png", "image/jpeg") and exchange.content:
            exchange.content = of(exchange.content)
        elif (
            exchange.kind == "multipart/related"
            and 'type="image/jpeg"' in exchange.reply["content-type"]
            and "rendered" in exchange.path
        ):
            in_parts(exchange)

    in_parts = bodies(of).answers
    assert in_parts
    return answering(apply)


def swallows(status: int, method: str, path: str = "", body: bytes = b"", kind: str = "") -> Fault:
    """Requests are answered as if all were well, and nothing is done."""

    def change(exchange: Exchange) -> None:
        if exchange.method == method and re.search(path, exchange.path):
            exchange.answer(status, body, kind)

    return asking(change)


def accepts_anything(exchange: Exchange) -> None:
    """What cannot be sent as asked is sent as it is sent to everybody."""
    exchange.headers.pop("accept", None)
    exchange.headers["accept"] = "*/*"
    exchange.query = "&".join(one for one in exchange.query.split("&") if not one.startswith("accept="))


def one_line(exchange: Exchange) -> None:
    lines = exchange.headers.get_list("accept")
    if len(lines) > 1:
        exchange.headers.pop("accept", None)
        exchange.headers["accept"] = lines[0]


def first_only(exchange: Exchange) -> None:
    """Of an Accept header only the first media range is read."""
    accept = exchange.accept.split(",")[0].split(";q")[0]
    exchange.headers.pop("accept", None)
    exchange.headers["accept"] = accept


def no_body(exchange: Exchange) -> None:
    if exchange.status == 204:
        exchange.answer(200, b"[]", "application/dicom+json")


def body_of_204(exchange: Exchange) -> None:
    if exchange.status == 204:
        exchange.reply["content-type"] = "application/dicom+json"


def etag(exchange: Exchange) -> None:
    if "etag" in exchange.reply:
        exchange.reply["etag"] = '"same"'


def no_304(exchange: Exchange) -> None:
    exchange.headers.pop("if-none-match", None)


def always_304(exchange: Exchange) -> None:
    if "if-none-match" in exchange.headers:
        exchange.answer(304)


def wrong_range(exchange: Exchange) -> None:
    if exchange.status == 206 and "content-range" in exchange.reply:
        exchange.content = exchange.content[:-1] + b"!"


def no_content_range(exchange: Exchange) -> None:
    if exchange.status == 206:
        exchange.reply.pop("content-range", None)


def range_always(exchange: Exchange) -> None:
    if exchange.headers.get("range") and exchange.status in (416, 200):
        exchange.answer(500, b"no\n", "text/plain")


def length(exchange: Exchange) -> None:
    exchange.reply["x-length"] = str(len(exchange.content) + 1)


def gzip_is_other(exchange: Exchange) -> None:
    if exchange.headers.get("accept-encoding") == "gzip" and exchange.content.startswith(b"["):
        exchange.content = b"[]"


def sorted_frames(match: re.Match[str]) -> str:
    return "/frames/" + ",".join(sorted(match[1].split(",")))


def relative_to_elsewhere(tag: str, attribute: dict[str, Any]) -> None:
    if "BulkDataURI" in attribute:
        attribute["BulkDataURI"] = re.sub("//[^/]+", "//192.0.2.1", attribute["BulkDataURI"])


def nowhere(tag: str, attribute: dict[str, Any]) -> None:
    if "BulkDataURI" in attribute:
        attribute["BulkDataURI"] += "/nowhere"


def inline(tag: str, attribute: dict[str, Any]) -> None:
    if "InlineBinary" in attribute:
        attribute["InlineBinary"] = base64.b64encode(b"other").decode()


def inline_as_value(tag: str, attribute: dict[str, Any]) -> None:
    if "InlineBinary" in attribute:
        attribute["Value"] = [1]
        del attribute["InlineBinary"]


def wrong_counts(found: Rows) -> None:
    for dataset in found:
        for tag in ("00201206", "00201208", "00201209"):
            if tag in dataset:
                dataset[tag]["Value"] = [int(dataset[tag]["Value"][0]) + 1]


def retrieve_elsewhere(found: Rows) -> None:
    for dataset in found:
        if "00081190" in dataset:
            dataset["00081190"]["Value"] = [dataset["00081190"]["Value"][0] + "9"]


def shuffle() -> Fault:
    """Every other answer is in another order."""
    count = [0]

    def change(found: Rows) -> Rows:
        count[0] += 1
        return found[count[0] % 2 :] + found[: count[0] % 2]

    return rows(change)


def accept_parameter_alone(exchange: Exchange) -> None:
    found = re.search(r"(?:^|&)accept=([^&]*)", exchange.query)
    if found:
        exchange.headers.pop("accept", None)
        exchange.headers["accept"] = found[1].replace("%2B", "+")


def no_accept_is_an_error(exchange: Exchange) -> None:
    if not exchange.accept:
        exchange.answer(500, b"no\n", "text/plain")


def as_stored_unasked(exchange: Exchange) -> None:
    if re.search(r'type="?application/(dicom|octet-stream)"?$', exchange.accept):
        exchange.headers["accept"] = exchange.accept + "; transfer-syntax=*"


def meta(keyword: str, value: str) -> Any:
    def change(dataset: pydicom.FileDataset) -> None:
        setattr(dataset.file_meta, keyword, value)

    def apply(body: bytes) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(body))
        change(dataset)
        target = io.BytesIO()
        dataset.save_as(target, enforce_file_format=False)
        return target.getvalue()

    return apply


def lose(tag: int) -> Any:
    def change(dataset: pydicom.FileDataset) -> None:
        if tag in dataset:
            del dataset[tag]

    return change


def xml(pattern: bytes, replacement: bytes) -> Fault:
    return bodies(lambda body: re.sub(pattern, replacement, body), name="application/dicom+xml")


def first_row_only(found: Rows) -> Rows:
    return found[:1]


def double_rows(found: Rows) -> Rows:
    return [*found, *found[-1:]]


def lower_levels(found: Rows) -> None:
    for dataset in found:
        dataset["00200013"] = {"vr": "IS", "Value": [1]}


def tags_lower(dataset: dict[str, Any]) -> None:
    for tag in list(dataset):
        dataset[tag.lower()] = dataset.pop(tag)


def without_empty_items(tag: str, attribute: dict[str, Any]) -> None:
    if attribute.get("vr") == "SQ" and "Value" in attribute:
        attribute["Value"] = [item for item in attribute["Value"] if item]


def flat(tag: str, attribute: dict[str, Any]) -> None:
    if attribute.get("vr") == "SQ" and tag == "00082218":
        attribute.pop("Value", None)


def without_nulls(tag: str, attribute: dict[str, Any]) -> None:
    if None in attribute.get("Value", []) or {} in attribute.get("Value", []):
        attribute["Value"] = [value for value in attribute["Value"] if value]


def without_empties(dataset: dict[str, Any]) -> None:
    for tag in [tag for tag, attribute in dataset.items() if set(attribute) == {"vr"}]:
        del dataset[tag]


def split(tag: str, attribute: dict[str, Any]) -> None:
    if attribute.get("vr") in ("LT", "ST", "UT") and "Value" in attribute:
        attribute["Value"] = attribute["Value"][0].split("\\")


def cut(tag: str, attribute: dict[str, Any]) -> None:
    if attribute.get("vr") == "UT" and "Value" in attribute:
        attribute["Value"] = [attribute["Value"][0][:1024]]


def alphabetic(name: Any) -> Any:
    return {"Alphabetic": name["Alphabetic"]} if isinstance(name, dict) and "Alphabetic" in name else name


def mojibake(name: Any) -> Any:
    return {group: text.encode().decode("latin-1") for group, text in name.items()} if isinstance(name, dict) else name


def plain_name(name: Any) -> Any:
    return "=".join(name.values()) if isinstance(name, dict) else name


def both(tag: str, attribute: dict[str, Any]) -> None:
    if "BulkDataURI" in attribute:
        attribute["InlineBinary"] = "AAAA"


def no_vr(tag: str, attribute: dict[str, Any]) -> None:
    if tag.startswith("0028"):
        attribute["vr"] = "XX"


def unknown_private(tag: str, attribute: dict[str, Any]) -> None:
    if tag.startswith("007110") and attribute.get("vr") in ("LO", "DS", "UR"):
        attribute["vr"] = "UN"


def bom(exchange: Exchange) -> None:
    if exchange.kind == "application/dicom+json":
        exchange.content = b"\xef\xbb\xbf" + exchange.content


def error_tells(exchange: Exchange) -> None:
    if exchange.status >= 400:
        exchange.content = "Ångström^José".encode()


def silent_errors(exchange: Exchange) -> None:
    if exchange.status >= 400:
        exchange.content = b""


def length_of_head(exchange: Exchange) -> None:
    if exchange.method == "HEAD":
        exchange.answer(405)


def second_get_fails() -> Fault:
    """After a GET with a body the connection is out of step."""
    stuck = [False]

    def change(exchange: Exchange) -> None:
        if stuck[0]:
            stuck[0] = False
            exchange.answer(400, b"no\n", "text/plain")
        elif exchange.method == "GET" and exchange.body:
            stuck[0] = True

    return asking(change)


def stores_with_other_name(exchange: Exchange) -> None:
    """What is stored is changed on its way in."""
    exchange.body = exchange.body.replace(b"a --conformance in a line", b"a --deformance! in a line")


def drop_part_of_upload(exchange: Exchange) -> None:
    """Of an upload only the first part arrives, and the answer tells of all."""
    if exchange.method == "POST" and exchange.body.count(b"--conformance\r\n") > 1:
        first = exchange.body.split(b"--conformance\r\n", 2)[1]
        exchange.body = b"--conformance\r\n" + first + b"--conformance--\r\n"


def referenced(change: Any) -> Fault:
    def apply(found: dict[str, Any]) -> None:
        for item in found.get("00081199", {}).get("Value", []):
            change(item)

    return module(apply)


def failed(change: Any) -> Fault:
    def apply(found: dict[str, Any]) -> None:
        for item in found.get("00081198", {}).get("Value", []):
            change(item)

    return module(apply)


def wadl(pattern: bytes, replacement: bytes) -> Fault:
    return content(pattern, replacement, kind="wadl")


def bigger(image: Image.Image) -> Image.Image:
    return image.resize((image.width + 3, image.height + 3))


def folded(text: str) -> str:
    """An accession number as the server holds it, whatever case it was written in."""
    name, _, value = text.partition("=")
    return f"{name}={value.upper()}"


def conflict_again() -> Fault:
    """What was stored before is a conflict."""
    seen = set[bytes]()

    def change(exchange: Exchange) -> None:
        if exchange.method == "POST":
            if exchange.body in seen:
                exchange.answer(409, b"{}", "application/dicom+json")
            seen.add(exchange.body)

    return asking(change)


def deletes_the_study(exchange: Exchange) -> None:
    if exchange.method == "DELETE":
        exchange.path = re.sub("/series.*", "", exchange.path)


def found_among_studies(exchange: Exchange) -> None:
    if exchange.path.endswith("/instances") and exchange.status == 204:
        exchange.answer(
            200, json.dumps([{"00080018": {"vr": "UI", "Value": ["1.2"]}}]).encode(), "application/dicom+json"
        )


def odd_boundary(exchange: Exchange) -> None:
    found = re.search('boundary="?([^";]+)', exchange.reply.get("content-type", ""))
    if found:
        exchange.content = exchange.content.replace(found[1].encode(), b"{odd}")
        exchange.reply["content-type"] = exchange.reply["content-type"].replace(found[1], '"{odd}"')


def preamble(exchange: Exchange) -> None:
    if exchange.kind == "multipart/related":
        exchange.content = b"Hello\r\n" + exchange.content


def frames_of_anything(exchange: Exchange) -> None:
    if "/frames/" in exchange.path and exchange.status >= 400:
        exchange.answer(
            200,
            b"--x\r\nContent-Type: application/octet-stream\r\n\r\n\0\r\n--x--\r\n",
            'multipart/related; type="application/octet-stream"; boundary=x',
        )


def pictures_of_nothing(exchange: Exchange) -> None:
    if exchange.path.endswith(("/rendered", "/thumbnail")) and exchange.status == 404:
        exchange.answer(200, b"", "image/jpeg")


def archive(exchange: Exchange) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(exchange.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(exchange: Exchange, files: dict[str, bytes]) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    exchange.content = target.getvalue()


def archive_without(exchange: Exchange, name: str) -> None:
    if exchange.kind == "application/zip" and exchange.status == 200:
        files = archive(exchange)
        files.pop(name or next(one for one in files if one != "DICOMDIR"), None)
        packed(exchange, files)


def archive_implicit(exchange: Exchange) -> None:
    if exchange.kind == "application/zip" and exchange.status == 200:
        make = filed(implicit)
        packed(exchange, {name: body if name == "DICOMDIR" else make(body) for name, body in archive(exchange).items()})


def unquoted_store(exchange: Exchange) -> None:
    if exchange.method == "POST" and "type=application" in exchange.headers.get("content-type", ""):
        exchange.answer(415)
