"""The evidence vault on the built-in store."""

import json

import pytest
from stored import audit, events, ledger, stored_bytes, tables

from novantra_lite import NovantraLite, VaultDocument

TRAIL = "/api/v1/evidence/trail/t-1"
REVIEW = {"evidenceType": "review", "data": {"reviewer": "ada", "verdict": "fine"}}
STORED = {
    "entityType": "trail",
    "entityId": "t-1",
    "evidenceType": "review",
    "vaultPath": "secret/evidence/trail/t-1/review",
    "version": 1,
    "data": None,
    "storedAt": "2026-06-01T12:00:00.000000Z",
}


def test_a_stored_document_is_told_without_its_contents_and_downloaded_as_it_was(lite, factstore):
    stored = factstore.post(TRAIL, REVIEW)

    response = factstore.get(TRAIL, evidenceType="review")
    download = factstore.get(f"{TRAIL}/download", evidenceType="review")
    assert stored.status == 201
    assert list(stored.json.items()) == list(STORED.items())
    assert (response.status, response.json) == (200, STORED)
    assert (download.status, download.json) == (200, {"reviewer": "ada", "verdict": "fine"})
    assert download.headers["content-disposition"].startswith(
        'attachment; filename="evidence-trail-t-1-review.json"'
    )
    assert download.headers["content-type"] == "application/json"
    assert audit(lite)[-1][1] == "vault_document.stored"
    assert ledger(lite)[-1][0] == "VAULT_DOCUMENT_STORED"
    assert events(lite) == []


def test_storing_again_makes_the_next_version_and_keeps_the_one_before(lite, factstore, clock):
    factstore.post(TRAIL, REVIEW)
    clock.advance(60)

    again = factstore.post(TRAIL, REVIEW | {"data": {"verdict": "poor"}})

    later = {"version": 2, "storedAt": "2026-06-01T12:01:00.000000Z"}
    assert (again.status, again.json) == (201, STORED | later)
    assert factstore.get(TRAIL, evidenceType="review").json == STORED | later
    assert factstore.get(f"{TRAIL}/download", evidenceType="review").json == {"verdict": "poor"}
    with lite.workspace.read():
        kept = [json.loads(document.data) for document in VaultDocument.select()]
    assert kept == [REVIEW["data"], {"verdict": "poor"}]


def test_a_deleted_document_is_still_known_and_listed_and_lives_again_once_stored(
    lite, factstore, clock
):
    factstore.post(TRAIL, REVIEW)
    clock.advance(1)

    deleted = factstore.delete(TRAIL, evidenceType="review")

    assert (deleted.status, deleted.body) == (204, b"")
    assert factstore.get(f"{TRAIL}/download", evidenceType="review").status == 404
    assert factstore.get(TRAIL, evidenceType="review").json == STORED
    assert factstore.get(f"{TRAIL}/list").json["evidenceTypes"] == ["review"]
    assert audit(lite)[-1][1] == "vault_document.updated"
    assert factstore.post(TRAIL, REVIEW).json["version"] == 2
    assert factstore.get(f"{TRAIL}/download", evidenceType="review").json == REVIEW["data"]
    assert lite.verify() == []


def test_only_the_newest_version_is_deleted_and_none_older_shows_through(lite, factstore):
    factstore.post(TRAIL, REVIEW)
    factstore.post(TRAIL, REVIEW)

    statuses = [factstore.delete(TRAIL, evidenceType="review").status for _ in range(2)]

    assert statuses == [204, 204]
    assert factstore.get(f"{TRAIL}/download", evidenceType="review").status == 404
    assert factstore.get(TRAIL, evidenceType="review").json["version"] == 2
    with lite.workspace.read():
        assert [bool(document.deleted_at) for document in VaultDocument.select()] == [False, True]


def test_deleting_what_is_not_there_is_done_and_leaves_no_trace(lite, factstore):
    before = tables(lite)

    deleted = factstore.delete(TRAIL, evidenceType="review")

    assert (deleted.status, deleted.body) == (204, b"")
    assert tables(lite) == before


@pytest.mark.parametrize("end", ["", "/download"])
def test_what_was_never_stored_is_not_found(factstore, end):
    factstore.post(TRAIL, REVIEW)

    for path, record_type in ((TRAIL, "scan"), ("/api/v1/evidence/trail/t-2", "review")):
        missing = factstore.get(path + end, evidenceType=record_type)

        assert (missing.status, missing.json["error"]) == (404, "Not Found")
        assert record_type in missing.json["message"]


def test_the_types_of_one_entity_are_listed_once_each_in_order(factstore):
    for path, record_type in (
        (TRAIL, "scan"),
        (TRAIL, "review"),
        (TRAIL, "scan"),
        ("/api/v1/evidence/trail/t-2", "other"),
        ("/api/v1/evidence/flow/t-1", "other"),
    ):
        factstore.post(path, REVIEW | {"evidenceType": record_type})

    listed = factstore.get(f"{TRAIL}/list")
    empty = factstore.get("/api/v1/evidence/nothing/at-all/list")

    assert listed.status == 200
    assert listed.json == {
        "entityType": "trail",
        "entityId": "t-1",
        "evidenceTypes": ["review", "scan"],
    }
    assert (empty.status, empty.json["evidenceTypes"]) == (200, [])


def test_the_built_in_store_is_healthy_and_says_what_it_is(factstore):
    health = factstore.get("/api/v1/evidence/health")

    assert health.status == 200
    assert health.json == {
        "healthy": True,
        "vaultUri": "",
        "authMethod": "TOKEN",
        "message": "The built-in store is available: evidence is encrypted in the workspace.",
        "checkedAt": "2026-06-01T12:00:00.000000Z",
    }


def test_words_of_the_other_routes_are_entity_types_like_any(factstore):
    for name in ("health", "gaps", "collect"):
        path = f"/api/v1/evidence/{name}/1"

        assert factstore.post(path, REVIEW).status == 201
        assert factstore.get(path, evidenceType="review").json["entityType"] == name


def test_nothing_of_a_document_is_in_the_file_in_the_clear(tmp_path):
    with NovantraLite(tmp_path / "register.db", vault_address="") as lite:
        client = lite.client("factstore:read", "factstore:write")
        body = {"evidenceType": "review", "data": {"password-hint": "Tell-nobody-1"}}
        client.post(TRAIL, body, headers={"Idempotency-Key": "one"})

        result = client.get(f"{TRAIL}/download", evidenceType="review").json
        assert result == {"password-hint": "Tell-nobody-1"}
        assert b"Tell-nobody-1" not in stored_bytes(lite)
        assert b"password-hint" not in stored_bytes(lite)
        assert lite.verify() == []


def test_a_dry_run_tells_the_version_to_come_and_stores_nothing(lite, factstore):
    factstore.post(TRAIL, REVIEW)
    before = tables(lite)

    rehearsed = factstore.post(TRAIL, REVIEW, headers={"X-Dry-Run": "true"})

    assert rehearsed.status == 200
    assert rehearsed.json == {"dryRun": True, "wouldCreate": STORED | {"version": 2}}
    assert tables(lite) == before


@pytest.mark.parametrize(("type", "result"), [("review", STORED), ("scan", None)])
def test_a_dry_run_of_a_deletion_tells_what_stands_there(lite, factstore, type, result):
    factstore.post(TRAIL, REVIEW)
    before = tables(lite)

    rehearsed = factstore.delete(TRAIL, evidenceType=type, headers={"X-Factstore-Dry-Run": "true"})

    assert (rehearsed.status, rehearsed.json) == (200, {"dryRun": True, "wouldDelete": result})
    assert tables(lite) == before


def test_a_repeated_store_makes_one_version(factstore):
    headers = {"Idempotency-Key": "one"}

    first = factstore.post(TRAIL, REVIEW, headers=headers)
    repeat = factstore.post(TRAIL, REVIEW, headers=headers)

    assert (repeat.status, repeat.body) == (201, first.body)
    assert factstore.get(TRAIL, evidenceType="review").json["version"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evidenceType": None}, "evidenceType: Required"),
        ({"evidenceType": ""}, "evidenceType: Expected 1 to 255 characters"),
        ({"evidenceType": "x" * 256}, "evidenceType: Expected 1 to 255 characters"),
        ({"evidenceType": "a/b"}, "evidenceType: Expected printable text without slashes"),
        ({"evidenceType": "a\\b"}, "evidenceType: Expected printable text without slashes"),
        ({"evidenceType": ".."}, "evidenceType: Expected printable text without slashes"),
        ({"evidenceType": "."}, "evidenceType: Expected printable text without slashes"),
        ({"evidenceType": "..\n"}, "evidenceType: Expected printable text without slashes"),
        ({"evidenceType": " "}, "evidenceType: Expected text that is not blank"),
        ({"evidenceType": "a\u202eb"}, "evidenceType: Expected printable text without slashes"),
        ({"evidenceType": {}}, "evidenceType: Expected string"),
        ({"data": None}, "data: Required"),
        ({"data": []}, "data: Expected object"),
        ({"data": {"a": {}}}, "data.a: Expected string"),
        ({"data": {"a": None}}, "data.a: Expected string"),
        ({"data": {"a": "x" * 100_001}}, "data.a: Expected at most 100000 characters"),
        ({"data": {"a" * 256: "x"}}, "Expected at most 255 characters"),
        ({"data": {str(n): "" for n in range(1001)}}, "data: Expected at most 1000 entries"),
    ],
)
def test_a_faulty_document_is_refused_by_the_name_of_its_member(lite, factstore, change, message):
    before = tables(lite)

    refused = factstore.post(TRAIL, REVIEW | change)

    assert refused.status == 400
    assert message in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("trail/%2E%2E", "entityId"),
        ("../t-1", "entityType"),
        ("./t-1", "entityType"),
        ("trail/a%5Cb", "entityId"),
        ("trail/a%0Ab", "entityId"),
        ("%20/t-1", "entityType"),
        ("trail/" + "x" * 256, "entityId"),
        ("trail/", "entityId"),
    ],
)
@pytest.mark.parametrize(
    ("method", "end"),
    [("GET", ""), ("POST", ""), ("DELETE", ""), ("GET", "/list"), ("GET", "/download")],
)
def test_a_path_that_could_lead_elsewhere_is_refused(factstore, path, member, method, end):
    body = REVIEW if method == "POST" else None

    refused = factstore.request(
        method, f"/api/v1/evidence/{path}{end}", json=body, evidenceType="review"
    )

    assert refused.status == 400
    assert f"{member}: Expected" in refused.json["message"]


@pytest.mark.parametrize(("method", "end"), [("GET", ""), ("DELETE", ""), ("GET", "/download")])
@pytest.mark.parametrize("query", [{}, {"evidenceType": ""}, {"evidenceType": "../x"}])
def test_the_type_of_evidence_is_needed_in_the_query(factstore, method, end, query):
    refused = factstore.request(method, TRAIL + end, **query)

    assert refused.status == 400
    assert refused.json["message"].startswith("evidenceType: ")


def test_numbers_become_text_and_any_words_may_be_names(factstore):
    path = "/api/v1/evidence/Über%20uns/50%25%3F%23"
    body = {"evidenceType": "日本 %2e%2e", "data": {"count": 5, "share": 0.5, "done": True}}

    stored = factstore.post(path, body)

    assert stored.status == 201
    assert stored.json["vaultPath"] == "secret/evidence/Über uns/50%?#/日本 %2e%2e"
    download = factstore.get(f"{path}/download", evidenceType="日本 %2e%2e")
    assert download.json == {"count": "5", "share": "0.5", "done": "true"}
    download.headers["content-disposition"].encode("ascii")


def test_writing_takes_the_scope_to_write(lite, factstore):
    reader = lite.client("factstore:read")

    refused = [reader.post(TRAIL, REVIEW), reader.delete(TRAIL, evidenceType="review")]

    assert [answer.status for answer in refused] == [403, 403]
    assert factstore.get(f"{TRAIL}/list").json["evidenceTypes"] == []
