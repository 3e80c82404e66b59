"""Evidence files, and what keeps the bytes what they were."""

import contextlib
import hashlib
import http.client
import itertools
import json
import tracemalloc
from urllib.parse import urlsplit

import pytest
from kernel.rawfile import rows, tamper
from multipart import FORM, form, part, upload
from stored import audit, events, ledger, stored_bytes, tables

from factstore.trails import evidence_path, make, make_attestation, make_trail
from novantra_lite import EVIDENCE, Attestation, Client, EvidenceFile

NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#: Three pieces, the last of which is short.
LONG = bytes(range(256)) * 2048 + b"the rest"
LONG_HASH = hashlib.sha256(LONG).hexdigest()


@pytest.fixture
def attestation(lite, trail):
    return make_attestation(lite, trail)


@pytest.fixture
def path(trail, attestation):
    return evidence_path(trail, attestation)


# --- Several files ------------------------------------------------------------

GREEN = b'<testsuite name="s" tests="1"><testcase name="t"/></testsuite>'
RED = (
    b'<testsuite name="s" tests="2" failures="1"><testcase name="t"><failure/></testcase>'
    b'<testcase name="u"/></testsuite>'
)
#: Files as they are uploaded, and what the attestation says after each: status, tests, failures.
SEVERAL = {
    "all pass": ([("a", GREEN), ("b", GREEN)], [("PASSED", 1, 0), ("PASSED", 2, 0)]),
    "a failure stays": (
        [("a", RED), ("b", GREEN), ("c", GREEN)],
        [("FAILED", 2, 1), ("FAILED", 3, 1), ("FAILED", 4, 1)],
    ),
    "a failure comes late": ([("a", GREEN), ("b", RED)], [("PASSED", 1, 0), ("FAILED", 3, 1)]),
    "the same file again": (
        [("a", RED), ("b", GREEN), ("a", GREEN)],
        [("FAILED", 2, 1), ("FAILED", 3, 1), ("PASSED", 2, 0)],
    ),
    "the same file again, and worse": (
        [("a", GREEN), ("b", GREEN), ("a", RED)],
        [("PASSED", 1, 0), ("PASSED", 2, 0), ("FAILED", 3, 1)],
    ),
    "one file only": ([("a", RED), ("a", GREEN)], [("FAILED", 2, 1), ("PASSED", 1, 0)]),
    "names in another letter case": (
        [("a", RED), ("A", GREEN)], [("FAILED", 2, 1), ("FAILED", 3, 1)],
    ),
}  # fmt: skip


def attested(lite, key):
    """The status of an attestation, and what its details say."""
    with lite.workspace.read():
        attestation = Attestation.find(key)
        return attestation.status, json.loads(attestation.details)


@pytest.mark.parametrize(("files", "expected"), SEVERAL.values(), ids=SEVERAL)
def test_the_files_of_an_attestation_are_judged_together(lite, factstore, files, expected):
    trail = make_trail(lite, required_attestation_types=["junit"])
    key, said, statuses = make_attestation(lite, trail, "junit"), [], []

    for number, (name, content) in enumerate(files):
        upload(factstore, evidence_path(trail, key, 1 + number % 2), content, name=name)
        status, details = attested(lite, key)
        said.append((status, details["tests"], details["failures"]))
        statuses.append(factstore.get(f"/api/v1/trails/{trail}").json["status"])

    outcomes = {"PASSED": "COMPLIANT", "FAILED": "NON_COMPLIANT"}
    assert said == expected
    assert statuses == [outcomes[status] for status, *_ in expected]
    assert lite.verify() == []


def test_a_file_that_cannot_be_read_fails_beside_others_that_pass(lite, factstore):
    trail = make_trail(lite, required_attestation_types=["junit"])
    key = make_attestation(lite, trail, "junit")

    for name, content in (("a.xml", GREEN), ("b.xml", b"<broken"), ("c.xml", GREEN)):
        upload(factstore, evidence_path(trail, key), content, name=name)

    status, details = attested(lite, key)
    assert (status, details["tests"]) == ("FAILED", 2)
    assert "XML" in details["error"]


def test_the_counts_of_scans_add_up(lite, factstore, trail):
    key = make_attestation(lite, trail, "sarif")
    run = {"tool": {"driver": {"name": "zap"}}, "results": []}
    values = run | {"results": [{"level": "error", "message": {"text": "x"}}]}

    for name, runs in (("a", [values]), ("b", [values, values]), ("c", [run])):
        report = json.dumps({"version": "2.1.0", "runs": runs}).encode()
        upload(factstore, evidence_path(trail, key), report, name=name)

    status, details = attested(lite, key)
    assert (status, details["highVulnerabilities"], details["tool"]) == ("FAILED", 3, "zap")


def test_files_of_another_attestation_do_not_count(lite, factstore, trail):
    first, second = (make_attestation(lite, trail, "junit") for _ in range(2))

    upload(factstore, evidence_path(trail, first), RED, name="a.xml")
    upload(factstore, evidence_path(trail, second), GREEN, name="b.xml")

    assert (attested(lite, first)[0], attested(lite, second)[0]) == ("FAILED", "PASSED")


def test_a_file_for_an_older_attestation_brings_the_latest_result(lite, factstore):
    trail = make_trail(lite, required_attestation_types=["junit"])
    older, newer = (make_attestation(lite, trail, "junit") for _ in range(2))
    statuses = []

    for key, content in ((newer, GREEN), (older, RED), (newer, GREEN), (older, GREEN)):
        upload(factstore, evidence_path(trail, key), content)
        statuses.append(factstore.get(f"/api/v1/trails/{trail}").json["status"])

    assert statuses == ["COMPLIANT", "NON_COMPLIANT", "COMPLIANT", "COMPLIANT"]


def suite(name, *cases, basedir=""):
    """A JUnit report of a suite, of whose test cases those fail that end with an exclamation."""
    properties = f'<properties><property name="basedir" value="{basedir}"/></properties>'
    inner = "".join(
        f'<testcase classname="{name}" name="{case}">{"<failure/>" * case.endswith("!")}</testcase>'
        for case in cases
    )
    return f'<testsuite name="{name}">{properties * bool(basedir)}{inner}</testsuite>'.encode()


def sarif(tool, *levels, run=""):
    """SARIF of a tool with results of these levels."""
    run = {"automationDetails": {"id": run}} if run else {}
    results = [{"level": level, "message": {"text": "x"}} for level in levels]
    run |= {"tool": {"driver": {"name": tool}}, "results": results}
    return json.dumps({"version": "2.1.0", "runs": [run]}).encode()


def trivy(image, *severities):
    """What Trivy says of an image."""
    results = [{"Vulnerabilities": [{"Severity": severity} for severity in severities]}]
    return json.dumps({"SchemaVersion": 2, "ArtifactName": image, "Results": results}).encode()


BAD, GOOD = suite("s", "t!"), suite("s", "t")
#: The type, two files with their names, and the status after the second.
REPLACING = {
    "the same name": ("junit", ("a.xml", BAD), ("a.xml", GOOD), "PASSED"),
    "the same path": ("junit", ("m1/a.xml", BAD), ("m1/a.xml", GOOD), "PASSED"),
    "the same path in other words": (
        "junit", ("./m1//a.xml", BAD), (r"m1\\a.xml", GOOD), "PASSED",
    ),
    "another path": ("junit", ("m1/TEST-a.xml", BAD), ("m2/TEST-a.xml", GOOD), "FAILED"),
    "another path in another form": (
        "junit", (r"C:\\m1\\TEST-a.xml", BAD), (r"C:\\m2\\TEST-a.xml", GOOD), "FAILED",
    ),
    "a path beside a bare name": ("junit", ("m1/a.xml", BAD), ("a.xml", GOOD), "FAILED"),
    "a path that climbs": ("junit", ("../../etc/a.xml", BAD), ("etc/a.xml", GOOD), "FAILED"),
    "no names": ("junit", ("", BAD), ("", GOOD), "FAILED"),
    "names of nothing": ("junit", ("..", BAD), ("..", GOOD), "FAILED"),
    "a directory": ("junit", ("m1/", BAD), ("m1/", GOOD), "FAILED"),
    "standard input": ("junit", ("-", BAD), ("-", GOOD), "FAILED"),
    "a blob of a browser": ("junit", ("blob", BAD), ("blob", GOOD), "FAILED"),
    "a very long path": ("junit", ("m/" * 999 + "a", BAD), ("m/" * 999 + "a", GOOD), "FAILED"),
    "another suite under one name": ("junit", ("a.xml", BAD), ("a.xml", suite("o", "t")), "FAILED"),
    "another suite under one path": (
        "junit", ("/tmp/a.xml", BAD), ("/tmp/a.xml", suite("o", "t")), "FAILED",
    ),
    "one suite of two modules": (
        "junit",
        ("a.xml", suite("s", "t!", basedir="/ci/m1")),
        ("a.xml", suite("s", "t", basedir="/ci/m2")),
        "FAILED",
    ),
    "more tests of one suite": ("junit", ("a.xml", BAD), ("a.xml", suite("s", "t", "u")), "PASSED"),
    "a suite that was cut off": ("junit", ("a.xml", BAD[:-20]), ("a.xml", GOOD), "PASSED"),
    "a suite without a name": (
        "junit",
        ("a.xml", b"<testsuite><testcase><failure/></testcase></testsuite>"),
        ("a.xml", b"<testsuite><testcase/></testsuite>"),
        "PASSED",
    ),
    "one tool": ("sarif", ("r", sarif("zap", "error")), ("r", sarif("zap")), "PASSED"),
    "two tools": ("sarif", ("r", sarif("zap", "error")), ("r", sarif("codeql")), "FAILED"),
    "one category": (
        "sarif",
        ("r", sarif("zap", "note", run="web/1")),
        ("r", sarif("zap", run="web/2")),
        "PASSED",
    ),
    "two categories": (
        "sarif",
        ("r", sarif("zap", "note", run="web/1")),
        ("r", sarif("zap", run="api/1")),
        "FAILED",
    ),
    "one image": ("trivy", ("t", trivy("shop", "LOW")), ("t", trivy("shop")), "PASSED"),
    "two images": ("trivy", ("t", trivy("shop", "LOW")), ("t", trivy("till")), "FAILED"),
    "an issue": ("jira", ("key", b"pay-17"), ("key", b"PAY-17"), "PASSED"),
    "an issue without a name": ("jira", ("", b"pay-17"), ("", b"PAY-17"), "FAILED"),
}  # fmt: skip


@pytest.mark.parametrize(("type", "first", "second", "status"), REPLACING.values(), ids=REPLACING)
def test_only_the_same_report_again_undoes_a_failure(lite, factstore, type, first, second, status):
    trail = make_trail(lite, required_attestation_types=[type])
    key = make_attestation(lite, trail, type)

    uploads = [
        upload(factstore, evidence_path(trail, key), content, name=name)
        for name, content in (first, second)
    ]

    outcomes = {"PASSED": "COMPLIANT", "FAILED": "NON_COMPLIANT"}
    assert [answer.status for answer in uploads] == [201, 201]
    assert attested(lite, key)[0] == status
    assert factstore.get(f"/api/v1/trails/{trail}").json["status"] == outcomes[status]
    assert not {"filePath", "subject"} & set(uploads[0].json)
    assert lite.verify() == []


def test_an_unreadable_file_between_two_reports_does_not_undo_the_first(lite, factstore, trail):
    key, statuses = make_attestation(lite, trail, "junit"), []

    for content in (BAD, b"", suite("other", "t"), b"<broken", GOOD):
        upload(factstore, evidence_path(trail, key), content, name="a.xml")
        statuses.append(attested(lite, key)[0])

    assert statuses == ["FAILED", "FAILED", "FAILED", "FAILED", "PASSED"]


def test_the_path_of_a_file_is_not_shown_with_its_name(factstore, path):
    created = upload(factstore, path, b"x", name="../../etc/cron.d/a.xml").json

    assert created["fileName"] == "a.xml"


def test_a_declared_failure_stays_until_another_attestation_says_otherwise(lite, factstore):
    trail = make_trail(lite, required_attestation_types=["junit"])
    recorded = f"/api/v1/trails/{trail}/attestations"
    key = factstore.post(recorded, {"type": "junit", "status": "FAILED"}).json["id"]
    said, statuses = [], []

    for name, content in (("a", GREEN), ("a", RED), ("a", GREEN), ("b", GREEN)):
        upload(factstore, evidence_path(trail, key), content, name=name)
        said.append(attested(lite, key))
    factstore.post(recorded, {"type": "junit", "status": "PASSED"})
    statuses.append(factstore.get(f"/api/v1/trails/{trail}").json["status"])
    upload(factstore, evidence_path(trail, key), GREEN, name="b")
    statuses.append(factstore.get(f"/api/v1/trails/{trail}").json["status"])
    upload(factstore, evidence_path(trail, key), RED, name="c")
    statuses.append(factstore.get(f"/api/v1/trails/{trail}").json["status"])

    assert [status for status, _ in said] == ["FAILED"] * 4
    assert [details["tests"] for _, details in said] == [1, 2, 1, 2]
    assert said[0][1]["error"] == ("It was recorded as FAILED; only another attestation can pass.")
    assert statuses == ["COMPLIANT", "COMPLIANT", "NON_COMPLIANT"]
    assert lite.verify() == []


@pytest.mark.parametrize("status", ["PASSED", "PENDING"])
def test_what_was_not_declared_a_failure_follows_its_files(lite, factstore, trail, status):
    key = make_attestation(lite, trail, "junit", status=status)
    statuses = []

    for content in (RED, GREEN):
        upload(factstore, evidence_path(trail, key), content, name="a")
        statuses.append(attested(lite, key)[0])

    assert statuses == ["FAILED", "PASSED"]


@pytest.mark.parametrize(("name", "status"), [("old.xml", "PASSED"), ("new.xml", "FAILED")])
def test_a_failure_from_before_files_had_results_is_undone_only_under_its_name(
    lite, factstore, name, status
):
    trail = make_trail(lite)
    key = make_attestation(lite, trail, "junit", status="FAILED", details="{}")
    old = {"file_name": "old.xml", "sha256_hash": ABC, "file_size_bytes": 3}
    make(lite, lambda: EvidenceFile.create(attestation=key, content_type="text/xml", **old))

    upload(factstore, evidence_path(trail, key), GREEN, name=name)
    first = attested(lite, key)[0]
    upload(factstore, evidence_path(trail, key), GREEN, name=name)

    assert (first, attested(lite, key)[0]) == (status, status)


# --- Upload -------------------------------------------------------------------


def test_an_uploaded_file_is_told_with_its_hash(lite, factstore, path, trail, attestation):
    stored = upload(factstore, path, b"abc")

    key = stored.json["id"]
    assert stored.status == 201
    assert list(stored.json.items()) == [
        ("id", key),
        ("attestationId", attestation),
        ("fileName", "report.xml"),
        ("sha256Hash", ABC),
        ("fileSizeBytes", 3),
        ("contentType", "text/xml"),
        ("storedAt", NOON),
        ("externalUrl", None),
    ]
    assert [entry[1:3] for entry in audit(lite)[-2:]] == [
        ("evidence_file.stored", key),
        ("attestation.updated", attestation),
    ]
    assert ledger(lite)[-2:] == [
        ("EVIDENCE_FILE_STORED", key),
        ("ATTESTATION_UPDATED", attestation),
    ]
    assert events(lite) == []
    assert tables(lite)["audit_event"] == []
    assert lite.verify() == []


def test_an_attestation_keeps_hash_name_and_size_of_its_last_file(
    lite, factstore, path, attestation
):
    upload(factstore, path, b"first", name="first.txt")
    upload(factstore, path, b"abc", name="last.txt")

    with lite.workspace.read():
        result = Attestation.find(attestation).json()
    assert result["evidenceFileHash"] == ABC
    assert result["evidenceFileName"] == "last.txt"
    assert result["evidenceFileSizeBytes"] == 3
    assert (result["status"], result["details"]) == ("PENDING", None)


def test_the_second_version_answers_with_the_id_of_the_attestation(
    lite, factstore, trail, attestation
):
    stored = upload(factstore, evidence_path(trail, attestation, 2), b"abc")

    assert stored.status == 201
    assert stored.json == {"id": attestation, "status": "created", "timestamp": NOON}
    assert rows(lite, "SELECT sha256_hash FROM evidence_file") == [(ABC,)]


def test_ids_are_taken_in_either_letter_case(factstore, trail, attestation):
    stored = upload(factstore, evidence_path(trail.upper(), attestation.upper()), b"abc")

    assert (stored.status, stored.json["attestationId"]) == (201, attestation)


@pytest.mark.parametrize("version", [1, 2])
def test_the_attestation_must_be_there_and_of_the_trail(
    lite, factstore, trail, attestation, version
):
    other = make_trail(lite, "payouts")
    before = tables(lite)
    foreign = f"The attestation {attestation} does not belong to the trail {other}."
    refusals = {
        (NOBODY, attestation): f"There is no trail with the id {NOBODY}.",
        (trail, NOBODY): f"There is no attestation with the id {NOBODY}.",
        (other, attestation): foreign,
    }

    for (named_trail, key), message in refusals.items():
        refused = upload(factstore, evidence_path(named_trail, key, version), b"abc")

        assert (refused.status, refused.json["message"]) == (404, message)
    assert tables(lite) == before


def test_the_file_holds_the_evidence_only_encrypted(lite, factstore, path):
    secret = b"The wrench slipped at 41 Nm. " * 20_000

    upload(factstore, path, secret)

    assert b"slipped" not in stored_bytes(lite)
    assert rows(lite, "SELECT number, length(content) FROM evidence_piece ORDER BY number") == [
        (0, 262_144 + 28),
        (1, 262_144 + 28),
        (2, 580_000 - 2 * 262_144 + 28),
    ]


def test_an_attestation_with_evidence_and_its_flow_stay(factstore, path, trail):
    upload(factstore, path, b"abc")
    (flow,) = factstore.get("/api/v1/flows").json

    refused = factstore.delete(f"/api/v1/flows/{flow['id']}")

    assert refused.status == 409


# --- Lists --------------------------------------------------------------------


def test_files_are_listed_by_trail_and_by_attestation_in_the_order_they_came(
    lite, factstore, trail, attestation
):
    second = make_attestation(lite, trail)
    elsewhere = make_trail(lite, "payouts")
    stranger = make_attestation(lite, elsewhere)
    first = upload(factstore, evidence_path(trail, attestation), b"1").json
    other = upload(factstore, evidence_path(trail, second), b"2").json
    upload(factstore, evidence_path(elsewhere, stranger), b"3")
    again = upload(factstore, evidence_path(trail, attestation), b"1").json

    of_trail = factstore.get(f"/api/v1/trails/{trail}/evidence")
    of_attestation = factstore.get(f"/api/v1/attestations/{attestation}/evidence")

    assert (of_trail.status, of_trail.json) == (200, [first, other, again])
    assert (of_attestation.status, of_attestation.json) == (200, [first, again])


@pytest.mark.parametrize("type", ["trails", "attestations"])
def test_the_evidence_of_what_is_not_there_is_an_empty_list(factstore, type):
    empty = factstore.get(f"/api/v1/{type}/{NOBODY}/evidence")
    refused = factstore.get(f"/api/v1/{type}/nonsense/evidence")

    assert (empty.status, empty.body) == (200, b"[]")
    assert refused.status == 400


def test_the_list_of_a_trail_goes_by_indexes(lite):
    explained = f"EXPLAIN QUERY PLAN {EVIDENCE.sql(['trail'])}"

    plan = [row[3] for row in rows(lite, explained, NOBODY, -1, 0)]

    assert not [step for step in plan if step.startswith("SCAN t")]


# --- Download -----------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"abc", LONG[:262_144], LONG])
def test_a_file_comes_back_byte_for_byte(factstore, path, content):
    digest = upload(factstore, path, content, kind="text/html").json["sha256Hash"]

    loaded = factstore.get(f"/api/v1/evidence/{digest}")

    assert (loaded.status, loaded.body) == (200, content)
    expected = {name: loaded.headers[name] for name in ("content-type", "content-length")}
    assert expected == {"content-type": "text/html", "content-length": str(len(content))}
    assert loaded.headers["content-disposition"] == (
        "attachment; filename=\"report.xml\"; filename*=UTF-8''report.xml"
    )
    assert loaded.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert loaded.headers["x-content-type-options"] == "nosniff"


def test_head_tells_the_length_of_a_file_and_sends_none_of_it(factstore, path):
    upload(factstore, path, b"abc")

    head = factstore.request("HEAD", f"/api/v1/evidence/{ABC}")

    assert (head.status, head.headers["content-length"], head.body) == (200, "3", b"")


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("Prüfung 7.xml", "\"Pr_fung 7.xml\"; filename*=UTF-8''Pr%C3%BCfung%207.xml"),
        ("💥.xml", "\"_.xml\"; filename*=UTF-8''%F0%9F%92%A5.xml"),
        (r"a\".xml; x=\"y", "\"a_.xml_ x__y\"; filename*=UTF-8''a%22.xml%3B%20x%3D%22y"),
        ("../%2e%2e/passwd", "\"passwd\"; filename*=UTF-8''passwd"),
        ("a%0d%0aSet-Cookie: b", "\"a_0d_0aSet-Cookie_ b\"; filename*=UTF-8''"
         "a%250d%250aSet-Cookie%3A%20b"),
    ],
)  # fmt: skip
def test_a_download_is_named_safely(factstore, path, name, disposition):
    upload(factstore, path, b"abc", name=name)

    loaded = factstore.get(f"/api/v1/evidence/{ABC}")

    assert loaded.headers["content-disposition"] == f"attachment; filename={disposition}"


def test_the_oldest_file_with_a_hash_is_the_one_that_comes(lite, factstore, trail):
    for name in ("oldest.txt", "newer.txt", "newest.txt"):
        upload(factstore, evidence_path(trail, make_attestation(lite, trail)), b"abc", name=name)

    loaded = factstore.get(f"/api/v1/evidence/{ABC}")

    assert "oldest.txt" in loaded.headers["content-disposition"]


def test_an_external_reference_sends_the_caller_there(lite, factstore, attestation):
    where = "https://evidence.example.org/é?a=b&c=%20\r\nSet-Cookie: d"
    values = {"file_name": "x", "content_type": "text/xml", "external_url": where}
    make(
        lite,
        lambda: EvidenceFile.create(
            attestation=attestation, sha256_hash=ABC, file_size_bytes=3, **values
        ),
    )

    sent = factstore.get(f"/api/v1/evidence/{ABC}")

    assert (sent.status, sent.body) == (302, b"")
    assert sent.headers["location"] == (
        "https://evidence.example.org/%C3%A9?a=b&c=%20%0D%0ASet-Cookie:%20d"
    )
    assert lite.verify() == []


@pytest.mark.parametrize("digest", ["0" * 64, ABC[:-1], ABC.upper(), ABC + "0", "%00", "%ff", "x"])
def test_what_is_no_known_hash_is_not_found(factstore, path, digest):
    upload(factstore, path, b"abc")

    refused = factstore.get(f"/api/v1/evidence/{digest}")

    assert (refused.status, refused.json["error"]) == (404, "Not Found")


def test_a_stream_goes_on_after_its_request_and_may_be_left(lite, factstore, path):
    upload(factstore, path, LONG)
    with lite.workspace.read():
        file = EvidenceFile.get(EvidenceFile.sha256_hash == LONG_HASH)

    stream = file.content(lite.workspace)
    first = next(stream)
    make_trail(lite, "payouts")
    stream.close()

    assert first == LONG[:262_144]
    assert list(stream) == []


def test_a_served_file_is_streamed_and_a_client_that_goes_away_harms_nobody(lite, factstore, path):
    content = LONG * 8
    digest = upload(factstore, path, content).json["sha256Hash"]
    target, headers = f"/api/v1/evidence/{digest}", factstore.headers

    with lite.listening() as url:
        for size in (10, len(content)):
            with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc)) as caller:
                caller.request("GET", target, headers=headers)
                answer = caller.getresponse()
                assert answer.status == 200
                assert answer.read(size) == content[:size]
                answer.close()


class Flowing:
    """A body that is made while it is read, and never there as a whole."""

    def __init__(self, head, piece, count, tail):
        self.rest = itertools.chain([head], itertools.repeat(piece, count), [tail])
        self.left = b""
        self.length = len(head) + len(piece) * count + len(tail)

    def read(self, size):
        while len(self.left) < size and (more := next(self.rest, b"")):
            self.left += more
        data, self.left = self.left[:size], self.left[size:]
        return data


def test_a_large_file_goes_in_and_out_without_being_held(lite, factstore, path):
    piece, count = b"0123456789abcdef" * 4096, 256
    head, _, tail = form(part(b"|")).partition(b"|")
    body, digest = Flowing(head, piece, count, tail), hashlib.sha256(piece * count).hexdigest()
    loaded = []

    def application(environ, start_response):
        if environ["REQUEST_METHOD"] == "GET":
            loaded.append(sum(map(len, lite(environ, start_response))))
            return []
        environ |= {"wsgi.input": body, "CONTENT_LENGTH": str(body.length)}
        return lite(environ, start_response)

    client = Client(application, factstore.headers)
    client.get("/api/v1/evidence/" + "0" * 64)
    tracemalloc.start()
    stored = client.request("POST", path, headers=FORM)
    client.get(f"/api/v1/evidence/{digest}")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (stored.status, stored.json["sha256Hash"]) == (201, digest)
    assert loaded[-1] == 16 << 20
    assert most < 8 << 20


# --- Tampering ----------------------------------------------------------------


TAMPERED = {
    "a bit is turned": "UPDATE evidence_piece SET content = zeroblob(length(content)) "
    "WHERE number = 1",
    "a piece is cut": "UPDATE evidence_piece SET content = substr(content, 1, 9) WHERE number = 2",
    "a piece is emptied": "UPDATE evidence_piece SET content = x'' WHERE number = 0",
    "a piece is missing": "DELETE FROM evidence_piece WHERE number = 1",
    "the last piece is missing": "DELETE FROM evidence_piece WHERE number = 2",
    "all pieces are missing": "DELETE FROM evidence_piece",
    "pieces change places": "UPDATE evidence_piece SET content = (SELECT content FROM "
    "evidence_piece AS other WHERE other.number = 1 - evidence_piece.number) WHERE number < 2",
    "pieces are numbered anew": "UPDATE evidence_piece SET number = number + 10",
    "a piece is there twice": "INSERT INTO evidence_piece (evidence_file_id, number, content) "
    "SELECT evidence_file_id, 3, content FROM evidence_piece WHERE number = 2",
}


@pytest.mark.parametrize("how", TAMPERED)
def test_altered_evidence_is_found_and_not_given_out(lite, factstore, path, caplog, how):
    key = upload(factstore, path, LONG).json["id"]
    assert lite.verify() == []
    assert tamper(lite, TAMPERED[how]) > 0

    refused = factstore.get(f"/api/v1/evidence/{LONG_HASH}")

    assert (refused.status, refused.json["error"]) == (500, "Integrity Error")
    assert (
        refused.json["message"] == f"The stored bytes of evidence file {key} do not match its hash."
    )
    assert f"Evidence file {key} does not match its recorded hash." in caplog.text
    assert lite.verify() == [f"Evidence file {key} does not match its recorded hash."]


def test_another_file_in_the_place_of_one_is_found(lite, factstore, path):
    key = upload(factstore, path, b"abc").json["id"]
    other = upload(factstore, path, b"abd").json["id"]
    text = "SELECT content FROM evidence_piece WHERE evidence_file_id"
    swap = f"UPDATE evidence_piece SET content = ({text} = '{other}') WHERE evidence_file_id"

    tamper(lite, f"{swap} = '{key}'")

    assert lite.verify() == [f"Evidence file {key} does not match its recorded hash."]


def test_a_changed_record_of_a_file_is_found(lite, factstore, path):
    key = upload(factstore, path, b"abc").json["id"]

    tamper(lite, "UPDATE evidence_file SET sha256_hash = replace(sha256_hash, 'b', 'c')")

    assert lite.verify() == [
        f"Evidence file {key} is not what the ledger recorded.",
        f"Evidence file {key} does not match its recorded hash.",
    ]


def test_evidence_outlives_a_rotation_of_the_keys(lite, factstore, path):
    upload(factstore, path, LONG)

    lite.rotate_keys()

    assert factstore.get(f"/api/v1/evidence/{LONG_HASH}").body == LONG
    assert lite.verify() == []
