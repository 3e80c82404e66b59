"""Audit packages."""

import contextlib
import gc
import gzip
import hashlib
import http.client
import io
import json
import tarfile
import tracemalloc
from urllib.parse import urlsplit

import pytest
from kernel.rawfile import tamper
from multipart import upload
from stored import tables

from factstore.trails import evidence_path, make, make_attestation, make_trail
from novantra_lite import (
    Artifact,
    Checkpoint,
    Client,
    EvidenceFile,
    NoteKey,
    read_notes,
    signature_fault,
)

NOBODY = "00000000-0000-4000-8000-000000000000"
DIGEST = "sha256:" + "a" * 64
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#: Three pieces, the last of which is short.
LONG = bytes(range(256)) * 2048 + b"the rest"
LONG_HASH = hashlib.sha256(LONG).hexdigest()


@pytest.fixture
def scan(lite, trail):
    return make_attestation(lite, trail, "scan", status="PASSED")


@pytest.fixture
def review(lite, trail):
    return make_attestation(lite, trail, "review", details="Prüfung bestanden")


@pytest.fixture
def artifact(lite, trail):
    return make_artifact(lite, trail)


def make_artifact(lite, trail, name="payments"):
    """An artifact of a trail."""
    values = {"image_name": name, "image_tag": "1", "sha256_digest": DIGEST}
    return make(lite, lambda: Artifact.create(trail=trail, **values)).id


def refer(lite, attestation, digest=ABC, url="https://evidence.example.org/report"):
    """Evidence of an attestation whose bytes lie elsewhere."""
    result = {"file_name": "report", "content_type": "text/xml", "external_url": url}
    values = {"attestation": attestation, "sha256_hash": digest, "file_size_bytes": 3}
    return make(lite, lambda: EvidenceFile.create(**values, **result))


def package(client, kind, key):
    """The answer with an audit package."""
    return client.get(f"/api/v1/{kind}/{key}/audit-package")


def unpack(data):
    """The files of an archive, by path, in its order; each is held against the manifest."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
        assert len(files) == len(archive.getmembers())
    manifest = json.loads(files["manifest.json"])
    assert manifest["files"] == [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
        if path not in ("manifest.json", "manifest.sig")
    ]
    return files


# --- Contents -----------------------------------------------------------------


def test_the_package_of_a_trail_has_all_that_was_recorded_of_it(
    lite, factstore, trail, scan, review, artifact
):
    elsewhere = make_trail(lite, "payouts")
    make_attestation(lite, elsewhere)
    upload(factstore, evidence_path(trail, scan), LONG, name="scan.sarif.JSON")
    upload(factstore, evidence_path(trail, review), b"abc", name="minutes")

    answer = package(factstore, "trails", trail)

    files = unpack(answer.body)
    flow = factstore.get(f"/api/v1/trails/{trail}").json["flowId"]
    assert list(files) == [
        "manifest.json",
        "manifest.sig",
        "trail.json",
        "flow.json",
        f"artifacts/{artifact}.json",
        f"attestations/{scan}.json",
        f"attestations/{review}.json",
        f"evidence/{LONG_HASH}.json",
        f"evidence/{ABC}",
    ]
    assert json.loads(files["trail.json"]) == factstore.get(f"/api/v1/trails/{trail}").json
    assert json.loads(files["flow.json"]) == factstore.get(f"/api/v1/flows/{flow}").json
    attestations = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert [json.loads(files[f"attestations/{key}.json"]) for key in (scan, review)] == attestations
    (reported,) = factstore.get(f"/api/v1/trails/{trail}/artifacts").json
    assert json.loads(files[f"artifacts/{artifact}.json"]) == reported
    assert files[f"evidence/{LONG_HASH}.json"] == LONG
    assert files[f"evidence/{ABC}"] == b"abc"


def test_the_manifest_says_what_the_package_is_about_and_whose_the_evidence_is(
    factstore, trail, scan
):
    stored = upload(factstore, evidence_path(trail, scan), b"abc").json

    files = unpack(package(factstore, "trails", trail).body)

    manifest = json.loads(files["manifest.json"])
    assert list(manifest) == ["format", "subject", "signedBy", "files", "evidence"]
    assert manifest["format"] == "factstore-audit-package/1"
    assert manifest["subject"] == {"type": "trail", "id": trail}
    assert manifest["evidence"] == [{**stored, "path": f"evidence/{ABC}.xml"}]
    assert [file["path"] for file in manifest["files"]] == [
        "trail.json",
        "flow.json",
        f"attestations/{scan}.json",
        f"evidence/{ABC}.xml",
    ]


def test_the_package_of_an_artifact_has_no_other_artifact(
    lite, factstore, trail, scan, review, artifact
):
    make_artifact(lite, trail, "payouts")
    upload(factstore, evidence_path(trail, scan), b"abc")

    files = unpack(package(factstore, "artifacts", artifact).body)

    assert list(files) == [
        "manifest.json",
        "manifest.sig",
        "trail.json",
        "flow.json",
        f"artifacts/{artifact}.json",
        f"attestations/{scan}.json",
        f"attestations/{review}.json",
        f"evidence/{ABC}.xml",
    ]
    assert json.loads(files["manifest.json"])["subject"] == {"type": "artifact", "id": artifact}


def test_the_package_of_an_attestation_has_its_own_evidence_only(
    lite, factstore, trail, scan, review, artifact
):
    other = make_artifact(lite, trail, "payouts")
    upload(factstore, evidence_path(trail, scan), b"abc")
    upload(factstore, evidence_path(trail, review), LONG)

    files = unpack(package(factstore, "attestations", scan).body)

    assert list(files) == [
        "manifest.json",
        "manifest.sig",
        "trail.json",
        "flow.json",
        f"artifacts/{artifact}.json",
        f"artifacts/{other}.json",
        f"attestations/{scan}.json",
        f"evidence/{ABC}.xml",
    ]
    assert json.loads(files["manifest.json"])["subject"] == {"type": "attestation", "id": scan}


def test_equal_files_are_in_the_package_once(factstore, trail, scan, review):
    for attestation in (scan, review, scan):
        upload(factstore, evidence_path(trail, attestation), b"abc")
    upload(factstore, evidence_path(trail, review), b"abc", name="report.txt")

    files = unpack(package(factstore, "trails", trail).body)

    evidence = json.loads(files["manifest.json"])["evidence"]
    assert [path for path in files if "evidence" in path] == [
        f"evidence/{ABC}.xml",
        f"evidence/{ABC}.txt",
    ]
    assert [
        (evidence_file["attestationId"], evidence_file["path"][-4:]) for evidence_file in evidence
    ] == [(scan, ".xml"), (review, ".xml"), (scan, ".xml"), (review, ".txt")]


def test_evidence_that_lies_elsewhere_is_referred_to(lite, factstore, trail, scan):
    refer(lite, scan)

    files = unpack(package(factstore, "trails", trail).body)

    payload = json.loads(files[f"evidence/{ABC}.ref.json"])
    assert payload["externalUrl"] == "https://evidence.example.org/report"
    assert (payload["attestationId"], payload["sha256Hash"]) == (scan, ABC)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("report.XML", ".xml"),
        ("report.tar.gz", ".gz"),
        ("report", ""),
        ("report.", ""),
        (".profile", ".profile"),
        ("report.sh;rm", ""),
        ("report.ext/../../x", ""),
        ("report.\u00e4\u00f6", ""),
        ("report.x\u0661", ""),
        ("report.elevenchars", ""),
        ("../../etc/passwd", ""),
        ("C:\\\\windows\\\\system.ini", ".ini"),
    ],
)
def test_the_name_of_a_file_leads_nowhere(factstore, trail, scan, name, suffix):
    upload(factstore, evidence_path(trail, scan), b"abc", name=name)

    files = unpack(package(factstore, "trails", trail).body)

    assert list(files)[-1] == f"evidence/{ABC}{suffix}"


def test_a_trail_without_anything_has_a_package(factstore, trail):
    files = unpack(package(factstore, "trails", trail.upper()).body)

    assert list(files) == ["manifest.json", "manifest.sig", "trail.json", "flow.json"]


@pytest.mark.parametrize("type", ["trails", "artifacts", "attestations"])
def test_what_is_not_there_has_no_package(factstore, type):
    answers = [package(factstore, type, key) for key in (NOBODY, "x")]

    assert [answer.status for answer in answers] == [404, 400]


def test_the_manifest_is_signed_with_the_key_of_the_checkpoints(lite, factstore, trail, scan):
    files = unpack(package(factstore, "trails", trail).body)

    key = NoteKey.read(json.loads(files["manifest.json"])["signedBy"])
    ((text, signatures),) = read_notes(files["manifest.sig"])
    digest = hashlib.sha256(files["manifest.json"]).hexdigest()
    assert key == lite.workspace.checkpoints.key
    assert text == f"{key.name}/audit-package\ntrail {trail}\nsha256 {digest}\n"
    assert signature_fault("manifest", text, signatures, [key]) == ""
    assert signature_fault("manifest", text.replace(digest[0], "x", 1), signatures, [key]) != ""
    assert Checkpoint.read(text) is None


# --- Bytes --------------------------------------------------------------------


def test_the_same_facts_give_the_same_bytes(lite, clock, factstore, trail, scan, review, artifact):
    upload(factstore, evidence_path(trail, scan), LONG)
    first = package(factstore, "trails", trail)
    clock.advance(600)
    make_attestation(lite, make_trail(lite, "payouts"))
    before = tables(lite)

    second = package(factstore, "trails", trail)
    of_another_caller = package(lite.client("factstore:read"), "trails", trail)

    assert (second.body, of_another_caller.body) == (first.body, first.body)
    make_attestation(lite, trail)
    assert package(factstore, "trails", trail).body != first.body
    assert {name for name, rows in tables(lite).items() if rows != before[name]} <= {
        "attestation",
        "audit_entry",
        "ledger_entry",
        "service_account",
    }


def test_the_archive_tells_no_time_and_no_owner(factstore, trail, scan):
    data = package(factstore, "trails", trail).body

    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        rows = {
            (
                record.type,
                record.mode,
                record.mtime,
                record.uid,
                record.gid,
                record.uname,
                record.gname,
            )
            for record in archive
        }
    assert rows == {(tarfile.REGTYPE, 0o644, 0, 0, 0, "", "")}
    assert data[:8] == b"\x1f\x8b\x08\x00\0\0\0\0"
    assert len(gzip.decompress(data)) % 512 == 0


def test_a_package_is_sent_as_a_file_of_its_own_name(factstore, trail):
    answer = package(factstore, "trails", trail)

    name = f"audit-package-trail-{trail}.tar.gz"
    assert answer.headers["content-type"] == "application/gzip"
    assert answer.headers["content-disposition"] == (
        f"attachment; filename=\"{name}\"; filename*=UTF-8''{name}"
    )


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE evidence_piece SET content = zeroblob(length(content)) WHERE number = 1",
        "DELETE FROM evidence_piece WHERE number = 2",
        "UPDATE evidence_file SET sha256_hash = '" + "0" * 64 + "'",
        "UPDATE evidence_file SET sha256_hash = '../../../etc/passwd'",
    ],
)
def test_damaged_evidence_gives_no_package(lite, factstore, trail, scan, caplog, change):
    upload(factstore, evidence_path(trail, scan), LONG)
    tamper(lite, change)

    refused = package(factstore, "trails", trail)

    assert (refused.status, refused.json["error"]) == (500, "Integrity Error")


def test_evidence_that_is_damaged_while_it_is_sent_breaks_the_archive_off(
    lite, factstore, trail, scan, monkeypatch, caplog
):
    upload(factstore, evidence_path(trail, scan), LONG)
    tamper(lite, "DELETE FROM evidence_piece WHERE number = 2")
    monkeypatch.setattr(EvidenceFile, "is_intact", lambda file: True)

    with lite.listening() as url:
        answer, data = fetch(url, trail, factstore)

    assert answer == 200
    with pytest.raises(EOFError):
        gzip.decompress(data)


def fetch(url, trail, client):
    """Status and bytes of a package as they come over a socket, whole or not."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)) as caller:
        caller.request("GET", f"/api/v1/trails/{trail}/audit-package", headers=client.headers)
        answer = caller.getresponse()
        try:
            return answer.status, answer.read()
        except http.client.IncompleteRead as broken:
            return answer.status, broken.partial


def test_a_package_comes_whole_over_a_socket(lite, factstore, trail, scan):
    upload(factstore, evidence_path(trail, scan), LONG)

    with lite.listening() as url:
        status, data = fetch(url, trail, factstore)

    assert status == 200
    assert unpack(data)[f"evidence/{LONG_HASH}.xml"] == LONG
    assert data == package(factstore, "trails", trail).body


def test_a_large_package_is_never_held(lite, factstore, trail):
    for number in range(6):
        attestation = make_attestation(lite, trail, details=f"{number}" * 900_000)
        upload(factstore, evidence_path(trail, attestation), bytes([number]) * (4 << 20))
    sizes = []

    def application(environ, start_response):
        sizes.append(sum(map(len, lite(environ, start_response))))
        return []

    client = Client(application, factstore.headers)
    package(client, "trails", trail)
    tracemalloc.start()
    package(client, "trails", trail)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert sizes[0] == sizes[1] > 20_000
    assert most < 10 << 20


def test_the_head_of_a_package_leaves_no_file_open(factstore, trail):
    whole = factstore.request("GET", f"/api/v1/trails/{trail}/audit-package")

    head = factstore.request("HEAD", f"/api/v1/trails/{trail}/audit-package")
    gc.collect()  # a file that is left open is an error of the run

    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-disposition"] == whole.headers["content-disposition"]
