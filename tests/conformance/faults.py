"""Every fault that is put between the server and the suite; ``caught.tsv`` has the checks that catch each."""

from __future__ import annotations

import re

from PIL import ImageOps

from tests.conformance import does
from tests.conformance.broken import (
    Fault,
    answering,
    asking,
    asks_otherwise,
    attributes,
    bodies,
    content,
    datasets,
    decoded_twice,
    drops,
    ignores_all_parameters_but,
    ignores_headers,
    ignores_parameters,
    module,
    part_headers,
    parts,
    refuses,
    rows,
    turns,
    typed,
    without_headers,
)
from tests.conformance.worklist_faults import WORKLIST_FAULTS

_FILES = "application/dicom"

FAULTS: dict[str, Fault] = {
    # statuses
    "406 is 400": turns((406, 400)),
    "406 is 500": turns((406, 500)),
    "400 is 200": turns((400, 200)),
    "400 is 500": turns((400, 500)),
    "404 is 200": turns((404, 200), (410, 200)),
    "404 is 500": turns((404, 500)),
    "409 is 200": turns((409, 200)),
    "409 is 500": turns((409, 500)),
    "202 is 200": turns((202, 200)),
    "200 is 202": turns((200, 202)),
    "200 is 500": turns((200, 500)),
    "206 is 200": turns((206, 200)),
    "415 is 400": turns((415, 400)),
    "415 is 200": turns((415, 200)),
    "416 is 200": turns((416, 200)),
    "304 is 200": turns((304, 200)),
    "410 is 404": turns((410, 404)),
    "nothing found is 404": turns((204, 404)),
    "nothing found is an empty array": answering(does.no_body),
    "204 has a Content-Type": answering(does.body_of_204),
    "HEAD is not allowed": answering(does.length_of_head),
    "errors say nothing": answering(does.silent_errors),
    "errors tell the name of the patient": answering(does.error_tells),
    "an unknown path is a server error": refuses(500, path="nosuchresource|/metadata/$"),
    "any method is allowed": turns((405, 200)),
    "405 does not say what is allowed": without_headers("allow"),
    # negotiation
    "what cannot be sent goes as the default": asking(does.accepts_anything),
    "only the first media range is read": asking(does.first_only),
    "wildcards are refused": refuses(406, accept=r"\*/\*($|[,;])|application/\*"),
    "unquoted types are refused": refuses(406, accept="type=[a-z]"),
    "types in upper case are refused": refuses(406, accept="[A-Z]{2,}|Multipart"),
    "a wildcard as type is refused": refuses(406, accept=r'type="\*/\*"|boundary'),
    "a charset is refused": refuses(406, accept="charset"),
    "of several Accept lines the first is read": asking(does.one_line),
    "the accept parameter is not read": ignores_parameters("accept"),
    "the Accept header is not read beside the parameter": asking(does.accept_parameter_alone),
    "weights are not read": asks_otherwise(r";\s*q=[\d.]+", "", of="accept"),
    "transfer syntaxes are not read": asks_otherwise(r";\s*transfer-syntax=[^,;]+", "", of="accept"),
    "what is stored is sent unasked": asking(does.as_stored_unasked),
    "one transfer syntax for all": asks_otherwise(
        r"transfer-syntax=\*", "transfer-syntax=1.2.840.10008.1.2.1", of="accept"
    ),
    "single parts are not sent": asks_otherwise(
        r"^application/(dicom|octet-stream)$", r'multipart/related; type="application/\1"', of="accept"
    ),
    "no Accept header is an error": asking(does.no_accept_is_an_error),
    "application/json is refused": refuses(406, accept="^application/json"),
    "malformed Accept headers fail": refuses(
        500, accept=r"^(;|/|a/b|,|\"|application/$)|q=(high|-1)|dicom$.*\"|^.{9000}"
    ),
    "XML is refused": refuses(406, accept="xml"),
    "HEAD and GET differ": asks_otherwise("^.*octet-stream.*$", "*/*", of="accept"),
    # JSON
    "JSON is application/json": typed(r"application/dicom\+json", "application/json"),
    "JSON is text": typed(r"application/dicom\+json", "text/plain; charset=latin-1"),
    "JSON says another charset": typed(r"^application/dicom\+json$", "application/dicom+json; charset=iso-8859-1"),
    "JSON has a byte order mark": answering(does.bom),
    "keys are in lower case": datasets(does.tags_lower),
    "keys are not in order": datasets(does.without_order),
    "there is file meta information": rows(does.adding(x00020010={"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]})),
    "there are group lengths": rows(does.adding(x00080000={"vr": "UL", "Value": [100]})),
    "there is what was not stored": rows(does.adding(x00400001={"vr": "AE", "Value": ["NOBODY"]})),
    "vr is unknown": attributes(does.no_vr),
    "private attributes are UN": attributes(does.unknown_private),
    "Value and InlineBinary": attributes(does.both),
    "empty attributes have an empty array": attributes(does.empty([])),
    "empty attributes are left out": datasets(does.without_empties),
    "empty values are left out": attributes(does.without_nulls),
    "empty items are left out": attributes(does.without_empty_items),
    "sequences in sequences are lost": attributes(does.flat),
    "names are strings": attributes(does.values("PN", to=does.plain_name)),
    "names have their first group alone": attributes(does.values("PN", to=does.alphabetic)),
    "names are in another encoding": attributes(does.values("PN", to=does.mojibake)),
    "text is numbers": attributes(does.values("LO", "SH", "CS", to=lambda value: 1)),
    "tags are numbers": attributes(does.values("AT", to=lambda value: int(str(value), 16))),
    "decimals are strings": attributes(does.values("DS", "IS", to=str)),
    "decimals are rounded": attributes(does.values("DS", to=lambda value: round(float(value), 1))),
    "decimals have many digits": content(rb"0\.7421875", b"0.74218750000000011"),
    "whole numbers are strings": attributes(does.values("US", "SL", "UL", "SS", to=str)),
    "whole numbers wrap": attributes(does.values("US", "SL", to=lambda value: int(value) & 0x7FFF)),
    "floating numbers are strings": attributes(does.values("FL", "FD", to=str)),
    "floating numbers are rounded": attributes(does.values("FL", "FD", to=lambda value: round(float(value), 2))),
    "64 bits become a floating number": attributes(does.values("UV", to=lambda value: float(int(value)))),
    "values keep their padding": attributes(does.values("UI", "CS", to=lambda value: f"{value} " if value else value)),
    "texts are split at a backslash": attributes(does.split),
    "texts are cut": attributes(does.cut),
    "inline values are others": attributes(does.inline),
    "binary values are arrays": attributes(does.inline_as_value),
    "there is no pixel data in the metadata": drops("7FE00010"),
    "pixel data is inline": content(rb'"BulkDataURI":"[^"]*"', b'"InlineBinary":"AAAA"', path="/metadata"),
    "private creators are lost": drops("00710010"),
    "the character set is UTF-8": attributes(
        lambda tag, one: one.update(Value=["ISO_IR 192"]) if tag == "00080005" else None
    ),
    "bulk data is elsewhere": attributes(does.relative_to_elsewhere),
    "bulk data is nowhere": attributes(does.nowhere),
    "one data set is missing": rows(lambda found: found[:-1]),
    "one data set is there twice": rows(does.double_rows),
    # XML
    "XML has no namespace": does.xml(rb' xmlns="[^"]*"', b""),
    "XML tags are in lower case": does.xml(rb'tag="7FE00010"', b'tag="7fe00010"'),
    "XML has no keywords": does.xml(rb' keyword="[^"]*"', b""),
    "XML has no private creators": does.xml(rb' privateCreator="[^"]*"', b""),
    "XML numbers from 0": does.xml(rb'number="1"', b'number="0"'),
    "XML has no uri": does.xml(rb' uri="[^"]*"', b""),
    "XML has other uris": does.xml(rb' uri="', b' uri="x'),
    "XML has unknown components": does.xml(rb"FamilyName", b"LastName"),
    "XML loses values": does.xml(rb"<Value number=\"1\">CONFORMANCE[^<]*</Value>|<Value number=\"1\">CT</Value>", b""),
    "XML parts have another type": part_headers(lambda headers: headers.update({"content-type": "application/xml"})),
    "XML comes in a single part": asks_otherwise(
        r"^application/dicom\+xml$", 'multipart/related; type="application/dicom+xml"', of="accept"
    ),
    # searches
    "searches find one result alone": rows(does.first_row_only, path="/(studies|series|instances)$"),
    "searches find nothing": rows(lambda found: [], path="/(studies|series|instances)$"),
    "searches find everything": ignores_all_parameters_but("includefield", "limit"),
    "counts are wrong": rows(does.wrong_counts),
    "modalities are there twice": attributes(
        lambda tag, one: (
            one.update(Value=[*one["Value"], *one["Value"]]) if tag == "00080061" and "Value" in one else None
        )
    ),
    "retrieve URLs lead nowhere": rows(does.retrieve_elsewhere),
    "studies lack their modalities": drops("00080061", path="/studies$"),
    "series lack their number": drops("00200011", path="/series$"),
    "instances lack their number and series": drops("00200013", "0020000E", path="/instances$"),
    "frames are not counted": drops("00280008"),
    "series across studies lack the study": drops("00100010", path="dicomweb/series$"),
    "instances across studies lack the study": drops("00100010", path="dicomweb/instances$"),
    "includefield is not read": ignores_parameters("includefield"),
    "of a list includefield reads the first": asks_otherwise("(includefield=[^&,]*),[^&]*", r"\1"),
    "includefield=all is all that there is": rows(
        lambda found: [{tag: one for tag, one in dataset.items() if tag == "00081030"} for dataset in found]
    ),
    "matched attributes are not returned": drops("00081030"),
    "attributes of instances are returned": rows(does.lower_levels),
    "availability is not told": drops("00080056"),
    "record keys are not there": drops("0008041B"),
    "limit is not read": ignores_parameters("limit"),
    "offset is not read": ignores_parameters("offset"),
    "results come in no order": does.shuffle(),
    "warnings are not told": without_headers("warning"),
    "unknown parameters are refused": refuses(400, query="nosuchparameter|NoSuchAttribute"),
    "numbers that are none are ignored": asks_otherwise(r"(limit|offset)=(-1|ten|one)", ""),
    "values that are none are ignored": asks_otherwise(
        "(fuzzymatching=perhaps|StudyDate=(yesterday|20260101-20260102-20260103)|StudyTime=noon)", ""
    ),
    "keys are not decoded": asks_otherwise("%", "%25"),
    "keys are decoded twice": asks_otherwise("^.*$", lambda found: decoded_twice(found[0])),
    "keys of tags are not read": asks_otherwise("(00100020|0020000d|00400275[^=]*)=[^&]*", ""),
    "ranges match their ends alone": asks_otherwise(r"(StudyDate|StudyTime)=(\d+)-(\d+)", r"\1=\2"),
    "open ranges are days": asks_otherwise(r"StudyDate=-?(\d+)-?(?=&|$)", r"StudyDate=\1"),
    "dates match everything": ignores_parameters("StudyDate"),
    "times match everything": ignores_parameters("StudyTime"),
    "wildcards are characters": asks_otherwise(r"(=[^&]*)[*?]", r"\1x"),
    "a question mark is any number of characters": asks_otherwise(r"\?", "*"),
    "case does not matter": asks_otherwise("AccessionNumber=[^&]*", lambda found: does.folded(found[0])),
    "case matters in names": asks_otherwise("PatientName=(SAMPLE|sample)", "PatientName=NOBODY"),
    "an empty key is the empty value": asks_otherwise("AccessionNumber=(%2A|\\*)?(?=&|$)", "AccessionNumber=x"),
    "accession numbers match everything": ignores_parameters("AccessionNumber"),
    "names match everything": ignores_parameters("PatientName"),
    "names match nothing": asks_otherwise("PatientName=[^&]*", "PatientName=Nobody"),
    "uid lists match their first": asks_otherwise("(UID=[^&,%]*)(,|%5C)[^&]*", r"\1"),
    "unknown uids in a list match nothing": asks_otherwise("UID=[^&]*,[^&]*", "UID=1.2.3"),
    "modalities in study match everything": ignores_parameters("ModalitiesInStudy"),
    "study ids match everything": ignores_parameters("StudyID"),
    "referring physicians match everything": ignores_parameters("ReferringPhysicianName"),
    "keys of series match everything": ignores_parameters("Modality", "SeriesNumber"),
    "keys of instances match everything": ignores_parameters("SOPClassUID", "InstanceNumber"),
    "keys of the study match nothing below": asks_otherwise("PatientID=", "PatientIDs=", of="query"),
    "keys of sequences match everything": asks_otherwise(r"(RequestAttributesSequence|00400275)\.[^&]*", ""),
    "keys of sequences match nothing": asks_otherwise(
        r"(RequestAttributesSequence|00400275)(\.[^&=]*)=[^&]*", r"\1\2=x"
    ),
    "emptyvaluematching is not read": ignores_parameters("emptyvaluematching"),
    "fuzzy matching finds nothing": asks_otherwise("PatientName=[^&]*&fuzzymatching=true", "PatientName=Nobody"),
    "searches below another parent find it": asks_otherwise(
        "/studies/[^/]+/series/([^/]+)/instances$", r"/series", of="path"
    ),
    "searches below nothing find everything": asks_otherwise("/studies/[^/]+/series$", "/series", of="path"),
    # what is malformed
    "odd paths fail the server": refuses(500, path=r"%00|%2f|not-a-uid|(1\.2){50}"),
    "odd values fail the server": refuses(500, query=r"%00|%ff|%zz|OR%20|9{50}|&&"),
    "many parameters fail the server": refuses(500, query="&x2999="),
    "many wildcards fail the server": refuses(500, query=r"(\*a){100}"),
    "keys that go deep fail the server": refuses(500, query=r"(RequestAttributesSequence\.){50}"),
    "parts without headers fail the server": refuses(500, method="POST", body="^--conformance\r\n\r\n"),
    "long headers of parts fail the server": refuses(500, method="POST", body="x{9000}"),
    "lengths that lie fail the server": refuses(500, method="POST", body=r"\xf0\xff\xff\x7f"),
    "percent signs are wildcards": asks_otherwise("PatientID=(%25|_)", "PatientID=*"),
    "odd values match everything": asks_otherwise("PatientID=[^&]*(%00|%ff|%zz|OR%20)[^&]*", "PatientID=*"),
    # files
    "a part is missing": parts(lambda found: found[:-1]),
    "a part is there twice": parts(lambda found: [*found, found[-1]]),
    "files are implicit": bodies(does.filed(does.implicit), name=_FILES),
    "files have no preamble": bodies(lambda body: body[128:], name=_FILES),
    "files lack a private attribute": bodies(does.filed(does.lose(0x00711001)), name=_FILES),
    "files name another class": bodies(does.meta("MediaStorageSOPClassUID", "1.2.3"), name=_FILES),
    "pixels are others": bodies(does.flipped),
    "parts say another transfer syntax": part_headers(
        lambda headers: headers.update({"content-type": re.sub("syntax=.*", "syntax=1.2.3", headers["content-type"])})
    ),
    "parts are octets": part_headers(lambda headers: headers.update({"content-type": "application/x-octets"})),
    "parts have no location": part_headers(lambda headers: headers.pop("content-location", "")),
    "parts have another location": part_headers(
        lambda headers: headers.update({"content-location": "http://127.0.0.1/x"})
    ),
    "parts have no type": part_headers(lambda headers: headers.pop("content-type", "")),
    "the type is not quoted": typed('type="([^"]*)"', r"type=\1"),
    "there is no type parameter": typed(r' type="[^"]*";', ""),
    "the boundary has odd characters": answering(does.odd_boundary),
    "something stands before the first boundary": answering(does.preamble),
    "messages do not end": content(rb"--\r\n$", b"", kind="multipart"),
    "an ETag is the same for all": answering(does.etag),
    "there are no ETags": without_headers("etag"),
    "If-None-Match is not read": asking(does.no_304),
    "If-None-Match is always met": asking(does.always_304),
    "malformed If-None-Match fails": answering(
        lambda exchange: exchange.answer(500) if exchange.headers.get("if-none-match", '"x"')[:1] not in '"W' else None
    ),
    "Range is not read": ignores_headers("range"),
    "ranges are others": answering(does.wrong_range),
    "ranges do not say where they are": answering(does.no_content_range),
    "malformed ranges fail": answering(does.range_always),
    "there is no Vary": without_headers("vary"),
    "there is no Cache-Control": without_headers("cache-control"),
    "lengths are wrong": answering(does.length),
    "compressed answers are others": answering(does.gzip_is_other),
    # frames
    "frames are sorted": asks_otherwise("/frames/([0-9,]+)", does.sorted_frames, of="path"),
    "the first frame is every frame": asks_otherwise("/frames/[0-9]+", "/frames/1", of="path"),
    "lists are cut at a comma that is encoded": asks_otherwise("(/frames/[0-9]+)%2C[0-9]+", r"\1", of="path"),
    "frames that are not there are the last": asks_otherwise(
        "/frames/(0|4|9|-1|first|1,,2|99)(?=/|$)", "/frames/1", of="path"
    ),
    "frames past the end are left out": asks_otherwise("/frames/1,9", "/frames/1", of="path"),
    "frames of anything": answering(does.frames_of_anything),
    "bitstreams have another name": part_headers(
        lambda headers: headers.update(
            {"content-type": re.sub("image/(jls|jp2|jphc|dicom-rle)", "image/jpeg", headers.get("content-type", ""))}
        )
    ),
    # pictures
    "pictures have another size": does.picture(does.bigger),
    "pictures are inverted": does.picture(
        lambda image: ImageOps.invert(image.convert("RGB" if image.mode == "RGB" else "L"))
    ),
    "pictures are mirrored": does.picture(ImageOps.mirror),
    "pictures have another type": typed("image/(png|jpeg)", "image/gif"),
    "pictures are cut": content(rb"^(.{40}).*$", rb"\1", kind="image/"),
    "windows are not read": ignores_parameters("window", "windowCenter", "windowWidth"),
    "windows are always linear": asks_otherwise("linear-exact|sigmoid", "linear"),
    "viewports are not read": ignores_parameters("viewport", "rows", "columns", "region"),
    "regions are not read": asks_otherwise("(viewport=[^,]*,[^,&]*),[^&]*", r"\1"),
    "flips are not read": asks_otherwise("(viewport=[^&]*),-", r"\1,"),
    "quality is not read": ignores_parameters("quality", "imageQuality"),
    "annotation is not read": ignores_parameters("annotation"),
    "iccprofile is not read": ignores_parameters("iccprofile"),
    "unknown parameters of pictures are refused": refuses(400, query="sepia=strong"),
    "malformed parameters of pictures are ignored": asks_otherwise(
        r"(window=(a,b|40&|40$|40,400,square|40,-400)|viewport=(100$|wide|-5|0,0|10,10,x)|quality=(0$|101|good)|iccprofile=sepia).*",
        "",
    ),
    "nothing is rendered": refuses(404, path="/rendered"),
    "nothing has a thumbnail": refuses(404, path="/thumbnail"),
    "only images are rendered": refuses(406, accept="pdf|html"),
    "reports have scripts": content(rb"<body", b"<script>1</script><body", kind="text/html"),
    "reports are empty": content(rb"nobody was ill", b"", kind="text/html"),
    "documents are others": content(rb"^%PDF", b"%PS", kind="application/pdf"),
    "everything rendered is one picture": asks_otherwise(
        'multipart/related; type="image/(jpeg|png)"', r"image/\1", of="accept"
    ),
    "a study is rendered as one picture": asks_otherwise(r"(/studies/[^/]+)/rendered$", r"\1/thumbnail", of="path"),
    "presentation states are not rendered": refuses(406, accept='"image/png", image/png'),
    "gif is not sent": refuses(406, accept="image/gif"),
    "png is not sent": refuses(406, accept="image/png"),
    "pictures of nothing": answering(does.pictures_of_nothing),
    # archives
    "there are no archives": refuses(406, accept="zip"),
    "archives are broken": content(rb"^(.{300}).*$", rb"\1", kind="zip"),
    "archives lack their directory": answering(lambda exchange: does.archive_without(exchange, "DICOMDIR")),
    "archives lack a file": answering(lambda exchange: does.archive_without(exchange, "")),
    "archives are implicit": answering(does.archive_implicit),
    # storing
    "nothing is stored": does.swallows(200, "POST", body=b"{}", kind="application/dicom+json"),
    "nothing that is stored is kept": refuses(404, path="/metadata$", method="GET"),
    "of an upload only the first part arrives": asking(does.drop_part_of_upload),
    "everything goes into any study": asks_otherwise("/studies/[^/]+$", "/studies", of="path"),
    "stored instances are not listed": module(lambda found: found.pop("00081199", None)),
    "stored instances have no class": does.referenced(lambda item: item.pop("00081150", None)),
    "stored instances have no URL": does.referenced(lambda item: item.pop("00081190", None)),
    "the study has no URL": module(lambda found: found.pop("00081190", None)),
    "the URL that came in is given back": module(
        lambda found: found.update({"00081190": {"vr": "UR", "Value": ["http://192.0.2.1/elsewhere"]}})
    ),
    "failures are always listed": module(lambda found: found.setdefault("00081198", {"vr": "SQ"})),
    "failures are not listed": module(lambda found: found.pop("00081198", None)),
    "failures have no reason": does.failed(lambda item: item.pop("00081197", None)),
    "the answer breaks Annex F": module(lambda found: found.update({"0008119a": {"vr": "SQ", "Value": []}})),
    "a bad part spoils the others": answering(
        lambda exchange: exchange.answer(409) if exchange.status == 202 else None
    ),
    "garbage is stored": turns((409, 200), (400, 200)),
    "storing fails the server": turns((409, 500), (400, 500), (415, 500)),
    "storing again is a conflict": does.conflict_again(),
    "other content is answered in silence": refuses(200, method="POST", body="Something else"),
    "single parts are not stored": refuses(415, method="POST", body="^\0{128}DICM"),
    "unquoted types are not stored": answering(does.unquoted_store),
    "odd boundaries are not read": refuses(400, method="POST", body=r"^--a\+b"),
    "preambles are not read": refuses(400, method="POST", body="^A preamble"),
    "headers of parts are read in one case": refuses(400, method="POST", body="content-TYPE"),
    "values are changed on their way in": asking(does.stores_with_other_name),
    "metadata is not stored": refuses(415, method="POST", body=r"dicom\+(json|xml)"),
    "many in one array are not stored": refuses(409, method="POST", body="Content-Location: bulk/"),
    "answers are JSON alone": refuses(406, method="POST", accept="xml"),
    "stores answer anything": asks_otherwise("x-nobody-has-this", "dicom+json", of="accept"),
    "many frames are not stored": refuses(409, method="POST", body="100 "),
    "posts are taken anywhere": does.swallows(200, "POST", path="/series", body=b"{}", kind="application/dicom+json"),
    "a GET with a body puts the connection out of step": does.second_get_fails(),
    # deleting
    "DELETE is not allowed": refuses(405, method="DELETE"),
    "DELETE deletes nothing": does.swallows(204, "DELETE"),
    "DELETE deletes the whole study": asking(does.deletes_the_study),
    # capabilities
    "there are no capabilities": refuses(404, method="OPTIONS"),
    "the description is no application": does.wadl(rb"application(?=[ >])", b"description"),
    "the description has another base": does.wadl(rb'base="[^"]*"', b'base="http://192.0.2.1/"'),
    "the description has no studies": does.wadl(rb'path="/?studies', b'path="things'),
    "the description has no frames": does.wadl(rb"frames", b"pictures"),
    "the description has no media types": does.wadl(rb"dicom\+json|multipart/related", b"x"),
    "the description is no JSON": content(rb"^\{", b"[", kind="application/json"),
    # non-patient instances
    "there are no palettes": refuses(404, path="/color-palettes"),
    "palettes are stored anywhere": does.swallows(
        200, "POST", path="/color-palettes", body=b"{}", kind="application/dicom+json"
    ),
    "palettes are found among studies": answering(does.found_among_studies),
    # WADO-URI
    "there is no WADO-URI": refuses(404, path="/wado"),
    "frameNumber is not read": ignores_parameters("frameNumber"),
    "contentType is not read": ignores_parameters("contentType"),
    "anonymize is not read": ignores_parameters("anonymize"),
    "transferSyntax is not read": ignores_parameters("transferSyntax"),
    # the worklist
    **WORKLIST_FAULTS,
}
