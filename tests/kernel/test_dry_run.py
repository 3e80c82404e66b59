"""Dry runs: the real run, rolled back; every refusal is the real refusal."""

import pytest
from conftest import WHY
from rawfile import FINDING, FINDINGS, counts, rows

from novantra_lite import Client, NovantraLite

DRY = {"X-Dry-Run": "true"}
FLOW = "/api/v1/flows"
ASK = (DRY, {"X-Factstore-Dry-Run": "true"}, {"X-Dry-Run": "TRUE"})


def test_a_dry_create_shows_what_would_be_and_leaves_nothing(lite, novantra):
    answer = novantra.post(FINDINGS, FINDING | {"description": "By the door"}, headers=DRY)

    body = answer.json
    assert (answer.status, body["dryRun"], list(body)) == (200, True, ["dryRun", "wouldCreate"])
    assert body["wouldCreate"]["finding"]["title"] == "Torque wrench 7 is overdue"
    assert body["wouldCreate"]["finding"]["description"] == "By the door"
    assert counts(lite) == (0, 3, 2, 0, 0)
    assert lite.verify() == []


@pytest.mark.parametrize("headers", ASK)
def test_the_factstore_asks_for_a_dry_run_in_either_header(lite, factstore, headers):
    answer = factstore.post(FLOW, {"name": "release"}, headers=headers)

    assert (answer.status, answer.json["wouldCreate"]["name"]) == (200, "release")
    assert factstore.get(FLOW).json == []


def test_the_factstore_asks_for_a_dry_run_in_the_query_too(factstore):
    answer = factstore.post(FLOW + "?dryRun=true", {"name": "release"})

    assert answer.json["dryRun"] is True
    assert factstore.get(FLOW).json == []


@pytest.mark.parametrize(
    ("value", "status", "flows"),
    [("false", 201, 1), ("False", 201, 1), ("", 400, 0), ("1", 400, 0), ("yes", 400, 0)],
)
def test_a_word_that_is_neither_true_nor_false_is_refused_for_safety(
    lite, factstore, value, status, flows
):
    answer = factstore.post(FLOW, {"name": "release"}, headers={"X-Dry-Run": value})

    assert answer.status == status
    assert rows(lite, "SELECT count(*) FROM flow") == [(flows,)]


@pytest.mark.parametrize(
    ("method", "suffix", "body", "name", "shown"),
    [
        ("PUT", "", {"description": "New"}, "wouldUpdate", {"description": "New", "name": "a"}),
        ("DELETE", "", None, "wouldDelete", {"description": "", "name": "a"}),
        ("POST", "/security-thresholds", {"maxHigh": 3}, "wouldCreate", {"maxHigh": 3}),
    ],
)
def test_a_dry_change_shows_what_would_be_and_leaves_nothing(
    lite, factstore, method, suffix, body, name, shown
):
    flow = factstore.post(FLOW, {"name": "a"}).json
    before = counts(lite)

    answer = factstore.request(method, f"{FLOW}/{flow['id']}{suffix}", json=body, headers=DRY)

    assert answer.status == 200
    assert list(answer.json) == ["dryRun", name]
    assert answer.json[name].items() >= shown.items()
    assert factstore.get(FLOW).json == [flow]
    assert rows(lite, "SELECT count(*) FROM security_threshold") == [(0,)]
    assert counts(lite) == before
    assert lite.verify() == []


def test_a_dry_patch_shows_the_finding_as_it_would_be(clock):
    with NovantraLite(clock=clock, finding_updates=True) as lite:
        client = lite.client("governance.findings:read", "governance.findings:write")
        finding = client.post(FINDINGS, FINDING).json["finding"]
        path = f"{FINDINGS}/{finding['id']}"
        before = counts(lite)

        answer = client.patch(path, {"status": "triaged", "reason": WHY}, headers=DRY)

        assert list(answer.json) == ["dryRun", "wouldUpdate"]
        assert answer.json["wouldUpdate"]["finding"]["status"] == "triaged"
        assert client.get(path).json["finding"] == finding
        assert counts(lite) == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"severity": "grave"}, 400),
        ({"reason": "short"}, 400),
        ({"findingKey": "taken"}, 409),
        ({"subjectModuleKey": "assets", "subjectResourceType": "asset",
          "subjectResourceId": "asset_0"}, 422),
    ],
)  # fmt: skip
def test_a_refusal_of_a_dry_run_is_the_real_one(lite, novantra, body, status):
    novantra.post(FINDINGS, FINDING | {"findingKey": "taken"})
    real = novantra.post(FINDINGS, FINDING | body)
    before = counts(lite)

    dry = novantra.post(FINDINGS, FINDING | body, headers=DRY)

    assert real.status == dry.status == status
    assert dry.json == real.json | {"requestId": dry.headers["x-request-id"]}
    assert counts(lite) == before


def test_a_dry_run_needs_the_same_scope_and_counts_against_the_limit(lite):
    client = lite.client("governance.findings:read")

    refused = client.post(FINDINGS, FINDING, headers=DRY)
    unknown = Client(lite).post(FINDINGS, FINDING, headers=DRY)

    assert (refused.status, unknown.status) == (403, 401)
    assert refused.headers["x-ratelimit-remaining"] == "59"


def test_a_dry_run_uses_no_idempotency_key_up(lite, novantra):
    key = {"Idempotency-Key": "batch-1"}
    dry = novantra.post(FINDINGS, FINDING | {"severity": "low"}, headers=key | DRY)

    real = novantra.post(FINDINGS, FINDING, headers=key)
    dry_again = novantra.post(FINDINGS, FINDING, headers=key | DRY)

    assert (dry.status, real.status) == (200, 201)
    assert "idempotency-replayed" not in real.headers
    assert dry_again.json["dryRun"] is True
    assert counts(lite) == (1, 4, 3, 1, 1)


def test_writes_after_a_dry_run_go_on_in_unbroken_chains(lite, novantra):
    novantra.post(FINDINGS, FINDING)
    novantra.post(FINDINGS, FINDING, headers=DRY)

    novantra.post(FINDINGS, FINDING)

    assert rows(lite, "SELECT max(id) FROM audit_entry") == [(5,)]
    assert lite.verify() == []


def test_a_dry_import_counts_what_would_be_and_leaves_nothing(lite):
    findings = lite.collection("findings")
    kept = findings.create(findingKey="a", title="A", severity="low", reason=WHY)
    before = counts(lite)

    report = findings.import_rows(
        [(1, {"findingKey": "b", "title": "B", "severity": "low"})], reason=WHY, dry_run=True
    )

    assert report.created == 1
    assert list(findings.list()) == [kept]
    assert counts(lite) == before
    assert lite.verify() == []
