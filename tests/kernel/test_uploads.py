"""Uploads: a file in a multipart form is taken in piece by piece, and bad forms are refused."""

import contextlib
import gc
import hashlib
import http.client
import io
import json

import pytest
from factstore.trails import evidence_path, make_attestation, make_trail
from multipart import BOUNDARY, FORM, form, part, upload
from rawfile import rows
from stored import tables

import novantra_lite
from novantra_lite import Client, Invalid, NovantraLite, SizeLimitedStream, TooLarge, read_upload

TYPE = FORM["Content-Type"]
ABC = hashlib.sha256(b"abc").hexdigest()


def take(body, kind=TYPE, limit=4_000_000):
    """Read a body as an upload; what came of it, and the bytes it held."""
    taken = read_upload(SizeLimitedStream(io.BytesIO(body), limit), kind)
    pieces = list(taken.parts())
    taken.close()
    return taken, pieces


@pytest.fixture
def path(lite):
    trail = make_trail(lite)
    return evidence_path(trail, make_attestation(lite, trail))


def test_a_file_is_taken_with_its_name_type_size_and_digest():
    body = form(part(b"abc"))

    taken, pieces = take(body)

    assert pieces == [b"abc"]
    assert (taken.file_name, taken.content_type, taken.size) == ("report.xml", "text/xml", 3)
    assert taken.sha256 == ABC
    assert taken.body_digest == hashlib.sha256(body).digest()


def test_an_empty_file_is_a_file():
    taken, pieces = take(form(part(b"")))

    assert (taken.size, pieces, taken.text()) == (0, [], "")
    assert taken.sha256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_large_file_comes_in_pieces_of_256_kib():
    content = bytes(range(256)) * 4096 * 2 + b"rest"

    taken, pieces = take(form(part(content)), limit=3_000_000)

    assert [len(piece) for piece in pieces] == [262_144] * 8 + [4]
    assert b"".join(pieces) == content
    assert taken.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [5, 3_000_000])
def test_the_content_reads_as_text_wherever_it_lies(size):
    content = "\ufeff" + "é" * size

    taken = read_upload(SizeLimitedStream(io.BytesIO(form(part(content.encode()))), 1 << 24), TYPE)

    assert taken.text() == "é" * size
    assert b"".join(taken.parts()).decode() == content
    taken.close()


def test_what_stands_before_beside_and_after_the_file_does_not_matter():
    other = part(b"x" * 300_000, 'form-data; name="comment"', "")

    taken, pieces = take(b"preamble\r\n" + form(other, part(b"abc"), other) + b"epilogue")

    assert (taken.file_name, pieces) == ("report.xml", [b"abc"])


def test_the_texts_beside_the_file_are_kept_up_to_64_kib_and_empty_ones_are_absent():
    fields = [
        part("Prüfung".encode(), 'form-data; name="name"', ""),
        part(b"", 'form-data; name="orgSlug"', ""),
        part(b"y" * 70_000, 'form-data; name="comment"', ""),
        part(b"\xff", 'form-data; name="odd"', ""),
    ]

    taken, _ = take(form(*fields[:2], part(b"abc"), *fields[2:]))

    assert taken.fields == {"name": "Prüfung", "comment": "y" * 65_536, "odd": "\udcff"}


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('form-data; name="file"; filename="a b.xml"', "a b.xml"),
        ('form-data; name="file"; filename="../../etc/passwd"', "passwd"),
        ('form-data; name="file"; filename="/etc/passwd"', "passwd"),
        (r'form-data; name="file"; filename="C:\\temp\\report.xml"', "report.xml"),
        ('form-data; name="file"; filename=".."', "file"),
        ('form-data; name="file"; filename="reports/"', "file"),
        ('form-data; name="file"; filename=""', "file"),
        ('form-data; name="file"', "file"),
        (r'form-data; name="file"; filename="say \"hi\".txt"', 'say "hi".txt'),
        ('form-data; name="file"; filename="Prüfbericht 💥.xml"', "Prüfbericht 💥.xml"),
        ("form-data; name=\"file\"; filename*=UTF-8''Pr%C3%BCfbericht.xml", "Prüfbericht.xml"),
        ("form-data; name=\"file\"; filename*=unicode_escape''a%5Cud800b", "ab"),
        ('form-data; name="file"; filename="a\0b.xml"', "ab.xml"),
        ('form-data; name="file"; filename="a\n\tb\x7f.xml"', "ab.xml"),
        ('form-data; name="file"; filename="invoice\u202efdp.exe"', "invoicefdp.exe"),
        ('form-data; name="file"; filename="' + "x" * 300 + '"', "x" * 255),
    ],
)
def test_a_file_name_is_made_fit_to_be_told(disposition, name):
    taken, _ = take(form(part(b"abc", disposition)))

    assert taken.file_name == name


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("text/plain", "text/plain"),
        ("text/html; charset=utf-8", "text/html; charset=utf-8"),
        ("application/vnd.api+json", "application/vnd.api+json"),
        ("", "application/octet-stream"),
        ("nonsense", "application/octet-stream"),
        ("text/html\nSet-Cookie: a=b", "application/octet-stream"),
        ("text/é", "application/octet-stream"),
        ("text/" + "x" * 300, "application/octet-stream"),
    ],
)
def test_a_type_is_kept_where_it_is_one(sent, kept):
    taken, _ = take(form(part(b"abc", kind=sent)))

    assert taken.content_type == kept


WHOLE = form(part(b"abc"))
BAD_FORMS = {
    "nothing": (b"", TYPE),
    "no form": (b"abc", TYPE),
    "no boundary": (WHOLE, "multipart/form-data"),
    "an empty boundary": (WHOLE, "multipart/form-data; boundary="),
    "a boundary that is too long": (WHOLE, "multipart/form-data; boundary=" + "x" * 71),
    "another boundary": (WHOLE, "multipart/form-data; boundary=other"),
    "no end": (WHOLE.removesuffix(f"\r\n--{BOUNDARY}--\r\n".encode()), TYPE),
    "cut off in the file": (form(part(b"x" * 3_000_000))[:2_000_000], TYPE),
    "cut off in a header": (WHOLE[:50], TYPE),
    "endless headers": (form(part(b"abc", kind="x" * 10_000)), TYPE),
    "a name that is no text": (WHOLE.replace(b"report", b"\xff\xfe"), TYPE),
    "a character set that is none": (
        form(part(b"", "form-data; name=\"file\"; filename*=none''x")),
        TYPE,
    ),
    "base64": (
        WHOLE.replace(b"Content-Type: text/xml", b"Content-Transfer-Encoding: base64"),
        TYPE,
    ),
    "too many parts": (form(*[part(b"", 'form-data; name="x"')] * 65), TYPE),
}


@pytest.mark.parametrize("bad", BAD_FORMS)
def test_what_is_no_form_is_refused(bad):
    with pytest.raises(Invalid, match=r"^The body is not a multipart form\.$"):
        take(*BAD_FORMS[bad])
    gc.collect()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "Required"),
        ([part(b"abc", 'form-data; name="File"; filename="x"')], "Required"),
        ([part(b"abc", 'form-data; filename="x"')], "Required"),
        ([part(b"abc"), part(b"abc")], "Expected one file"),
    ],
)
def test_exactly_one_file_is_wanted(factstore, path, parts, message):
    refused = factstore.request("POST", path, body=form(*parts), headers=FORM)

    assert refused.status == 400
    assert refused.json["message"].removeprefix("file: ") == message


def test_a_body_that_ends_beyond_the_limit_is_refused_wherever_the_excess_is():
    for body in (form(part(b"x" * 600)), form(part(b"abc"), part(b"x" * 600, "form-data"))):
        with pytest.raises(TooLarge, match="500 bytes"):
            take(body, limit=500)
    with pytest.raises(TooLarge):
        take(form(part(b"abc")) + b"x" * 600, limit=500)
    assert take(form(part(b"abc")), limit=len(form(part(b"abc"))))[1] == [b"abc"]


def test_a_missing_body_lacks_the_file(factstore, path):
    refused = factstore.request("POST", path)

    assert (refused.status, refused.json["message"]) == (400, "file: Required")


@pytest.mark.parametrize(
    "type", ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/x"]
)
def test_a_body_of_another_media_type_is_refused(factstore, path, type):
    refused = factstore.request("POST", path, body=b"{}", headers={"Content-Type": type})

    assert refused.status == 415
    assert refused.json["message"] == "This operation accepts multipart/form-data."


class Counting(io.BytesIO):
    """A body that tells how much of it was read."""

    taken = 0

    def read(self, size=-1):
        data = super().read(size)
        self.taken += len(data)
        return data


@pytest.mark.parametrize(("has_length", "most"), [(True, 0), (False, 300_000)])
def test_a_body_over_the_limit_is_refused_before_it_is_read_whole(has_length, most):
    stream = Counting(form(part(b"x" * 1_000_000)))

    with NovantraLite(upload_limit=200_000, rate_limits=False) as lite:
        trail = make_trail(lite)
        path = evidence_path(trail, make_attestation(lite, trail))

        def application(environ, start_response):
            environ["wsgi.input"], environ["wsgi.input_terminated"] = stream, True
            environ["CONTENT_LENGTH"] = str(len(stream.getvalue())) if has_length else ""
            return lite(environ, start_response)

        client = Client(application, lite.client(*novantra_lite.FACTSTORE_SCOPES).headers)
        refused = client.request("POST", path, headers=FORM)

    assert (refused.status, refused.json["error"]) == (413, "Request Entity Too Large")
    assert stream.taken <= most


@pytest.mark.parametrize("type", [TYPE, "application/json"])
def test_a_body_without_a_length_is_read_where_the_server_ends_it(lite, factstore, path, type):
    bodies = {TYPE: form(part(b"abc")), "application/json": b'{"name": "payouts"}'}
    paths = {TYPE: path, "application/json": "/api/v1/flows"}

    def application(environ, start_response):
        environ["wsgi.input_terminated"] = True
        del environ["CONTENT_LENGTH"]
        return lite(environ, start_response)

    done = Client(application, factstore.headers).request(
        "POST", paths[type], body=bodies[type], headers={"Content-Type": type}
    )

    assert done.status == 201


def test_a_repeat_with_the_same_key_and_body_gets_the_first_answer(lite, factstore, path):
    first = upload(factstore, path, b"abc", Idempotency_Key="once")

    again = upload(factstore, path, b"abc", Idempotency_Key="once")
    other = upload(factstore, path, b"abd", Idempotency_Key="once")

    assert (first.status, again.status, other.status) == (201, 201, 409)
    assert again.body == first.body
    assert again.headers["idempotency-replayed"] == "true"
    assert rows(lite, "SELECT count(*) FROM evidence_file") == [(1,)]


def test_a_dry_run_tells_what_would_be_stored_and_stores_nothing(lite, factstore, path):
    before = tables(lite)

    rehearsed = upload(factstore, path, b"abc", X_Dry_Run="true")

    body = rehearsed.json["wouldCreate"]
    assert (rehearsed.status, rehearsed.json["dryRun"]) == (200, True)
    assert (body["sha256Hash"], body["fileSizeBytes"]) == (ABC, 3)
    assert tables(lite) == before


def test_an_upload_is_documented_as_a_form_with_a_file():
    document = json.loads(novantra_lite.openapi_json())
    operation = document["paths"][evidence_path("{trailId}", "{attestationId}")]["post"]

    assert operation["requestBody"] == {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"$ref": "#/components/schemas/EvidenceUpload"}}
        },
    }
    assert document["components"]["schemas"]["EvidenceUpload"] == {
        "type": "object",
        "properties": {
            "file": {
                "type": "string",
                "format": "binary",
                "contentMediaType": "application/octet-stream",
            },
            "minimumTests": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
        },
        "required": ["file"],
    }


@pytest.mark.parametrize(
    ("path", "type", "members"),
    [
        (
            "/api/v1/trails/{id}/attestations/{id}/evidence",
            "multipart/form-data; boundary=x",
            ["status", "error", "message", "timestamp"],
        ),
        ("/api/v1/governance/findings", "application/json", ["error", "message", "requestId"]),
        ("/api/v1/flows", "application/json", ["status", "error", "message", "timestamp"]),
    ],
)
def test_a_server_refuses_what_is_over_every_limit_in_the_envelope(lite, path, type, members):
    scopes = ("factstore:write", "governance.findings:write")
    path = path.replace("{id}", "00000000-0000-4000-8000-000000000000")
    with lite.listening() as url:
        host, port = url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.putrequest("POST", path)
        connection.putheader("Authorization", f"Bearer {lite.token(*scopes)}")
        connection.putheader("Content-Type", type)
        connection.putheader("Content-Length", "52428801")
        connection.endheaders()

        with contextlib.closing(connection), connection.getresponse() as refused:
            body = json.loads(refused.read())

    assert refused.status == 413
    assert list(body) == members
    assert body["message"] == "The body is over the limit of 52428800 bytes."
    assert refused.headers["X-Request-Id"].startswith("req_")
    assert refused.headers["Connection"] == "close"


def test_a_body_that_comes_in_chunks_is_refused_in_the_envelope_too(clock):
    with (
        NovantraLite(clock=clock, upload_limit=100_000, json_limit=100_000) as lite,
        lite.listening() as url,
    ):
        host, port = url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        headers = {
            "Authorization": f"Bearer {lite.token('factstore:write')}",
            "Content-Type": "application/json",
        }
        chunks = iter([b'{"name": "', b"x" * 100_000])
        connection.request("POST", "/api/v1/flows", chunks, headers, encode_chunked=True)

        with contextlib.closing(connection), connection.getresponse() as refused:
            body = json.loads(refused.read())

    assert (refused.status, body["error"]) == (413, "Request Entity Too Large")
