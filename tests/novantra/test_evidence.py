"""Evidence."""

import base64
import random
from typing import ClassVar

import pytest
from conftest import WHY
from stored import audit, events, ledger, stored_bytes

from novantra.retrieval import Retrieved, make
from novantra_lite import NotFound, NovantraLite, Unprocessable, novantra_scopes

EVIDENCE = "/api/v1/governance/evidence"
CLAIMS = f"{EVIDENCE}/claims"
SCOPE = "governance.evidence:read"


class TestRequirements(Retrieved):
    path, scope = f"{EVIDENCE}/requirements", SCOPE
    collection, key = "evidence-requirements", "requirements"
    noun = "requirement"
    members = (
        "id requirementKey title description status subjectModuleKey subjectResourceType "
        "createdAt updatedAt"
    )
    nulls = "description subjectModuleKey subjectResourceType"
    filters = choices = "status"
    first: ClassVar = {
        "requirementKey": "governance-board-minutes",
        "title": "Minutes of the board",
        "description": "Every quarter.",
        "status": "active",
        "subjectModuleKey": "controls",
        "subjectResourceType": "control",
    }
    second: ClassVar = {"requirementKey": "logs", "title": "Logs", "status": "draft"}


class TestClaims(Retrieved):
    path, scope = CLAIMS, SCOPE
    collection, key = "evidence-claims", "claims"
    noun = "claim"
    members = (
        "id evidenceRequirementId claimKey title description status subjectModuleKey "
        "subjectResourceType subjectResourceId validFrom validUntil sourceKind collectedAt "
        "reviewedAt attachments createdAt updatedAt"
    )
    nulls = (
        "description subjectModuleKey subjectResourceType subjectResourceId validFrom validUntil "
        "sourceKind collectedAt reviewedAt"
    )
    filters = "evidenceRequirementId status"

    def rows(self, lite):
        record, other = (
            make(lite, "evidence-requirements", requirementKey=key, title="Show it")["id"]
            for key in ("one", "other")
        )
        return {
            "evidenceRequirementId": record,
            "claimKey": "board-minutes-2026-q2",
            "title": "Minutes of the second quarter",
            "description": "Signed by all.",
            "status": "approved",
            "subjectModuleKey": "scope",
            "subjectResourceType": "system",
            "subjectResourceId": "sys_1",
            "validFrom": "2026-01-01T00:00:00.000Z",
            "validUntil": "2026-12-31T00:00:00.000Z",
            "sourceKind": "manual",
            "collectedAt": "2026-05-01T00:00:00.000Z",
            "reviewedAt": "2026-05-02T00:00:00.000Z",
        }, {
            "evidenceRequirementId": other,
            "claimKey": "logs-2026",
            "title": "Logs",
            "status": "pending",
        }


@pytest.fixture
def requirement(lite):
    return make(
        lite, "evidence-requirements", requirementKey="board-minutes", title="Minutes of the board"
    )


@pytest.fixture
def new(requirement):
    """The least that a claim needs."""
    return {
        "evidenceRequirementId": requirement["id"],
        "title": "Minutes of the second quarter",
        "reason": WHY,
    }


def attachment(content=b"minutes of the board", **members):
    """A new attachment with its content."""
    return {
        "fileName": "minutes.txt",
        "contentType": "text/plain",
        "contentBase64": base64.b64encode(content).decode(),
    } | members


def elsewhere(**members):
    """A new attachment that lies elsewhere."""
    return {
        "fileName": "minutes.pdf",
        "contentType": "application/pdf",
        "uri": "https://files.example.org/minutes.pdf",
        "sha256": "AB" * 32,
    } | members


def test_a_new_claim_is_pending_audited_proven_and_told(lite, novantra, requirement, new):
    created = novantra.post(CLAIMS, new | {"status": "approved", "reviewedAt": "2026-01-01"})

    claim = created.json["claim"]
    key = claim["id"]
    assert created.status == 201
    assert claim == {
        "id": key,
        "evidenceRequirementId": requirement["id"],
        "claimKey": "api-" + key[-12:].lower(),
        "title": "Minutes of the second quarter",
        "description": None,
        "status": "pending",
        "subjectModuleKey": None,
        "subjectResourceType": None,
        "subjectResourceId": None,
        "validFrom": None,
        "validUntil": None,
        "sourceKind": None,
        "collectedAt": None,
        "reviewedAt": None,
        "attachments": [],
        "createdAt": "2026-06-01T12:00:00.000Z",
        "updatedAt": "2026-06-01T12:00:00.000Z",
    }
    assert novantra.get(f"{CLAIMS}/{key}").json == {"claim": claim}
    assert audit(lite)[-1][1:] == ("evidence.claim.created", key, WHY)
    assert ledger(lite)[-1] == ("EVIDENCE_CLAIM_CREATED", key)
    expected = {
        "id": key,
        "evidenceRequirementId": requirement["id"],
        "claimKey": "api-" + key[-12:].lower(),
        "title": "Minutes of the second quarter",
        "status": "pending",
        "subjectModuleKey": None,
        "subjectResourceType": None,
        "subjectResourceId": None,
        "createdAt": "2026-06-01T12:00:00.000Z",
    }
    assert events(lite) == [("evidence.claim.created", {"claim": expected})]


def test_attachments_are_told_by_name_size_and_digest(novantra, new):
    body = {"attachments": [attachment(b"abc"), elsewhere()]}

    created = novantra.post(CLAIMS, new | body)

    first, second = created.json["claim"]["attachments"]
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert list(first) == [
        *("id", "fileName", "contentType", "sizeBytes", "sha256", "uri", "createdAt")
    ]
    assert first.pop("id").startswith("evatt_")
    assert first == {
        "fileName": "minutes.txt",
        "contentType": "text/plain",
        "sizeBytes": 3,
        "sha256": digest,
        "uri": None,
        "createdAt": "2026-06-01T12:00:00.000Z",
    }
    assert (second["uri"], second["sha256"]) == ("https://files.example.org/minutes.pdf", "ab" * 32)


def test_content_is_downloadable_and_content_elsewhere_is_not(lite, novantra, new):
    body = {"attachments": [attachment(b"\x00\xff bytes"), elsewhere()]}
    first, second = novantra.post(CLAIMS, new | body).json["claim"]["attachments"]

    result, content = lite.attachment(first["id"])

    assert (result, content) == (first, b"\x00\xff bytes")
    for key in (second["id"], "evatt_nothing"):
        with pytest.raises(NotFound):
            lite.attachment(key)


def test_content_and_description_are_nowhere_in_the_file(lite, novantra, new):
    content = b"The board met in the lighthouse."
    text = base64.b64encode(content)

    novantra.post(
        CLAIMS,
        new | {"description": "The chair resigned.", "attachments": [attachment(content)]},
        headers={"Idempotency-Key": "one"},
    )

    stored = stored_bytes(lite)
    assert b"Minutes of the second quarter" in stored
    assert (content in stored, b"lighthouse" in stored, text in stored) == (False, False, False)
    assert b"resigned" not in stored
    assert novantra.get(CLAIMS).json["claims"][0]["description"] == "The chair resigned."


def test_a_digest_that_is_given_is_verified(novantra, new):
    digest = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"

    created = novantra.post(CLAIMS, new | {"attachments": [attachment(b"abc", sha256=digest)]})
    refused = novantra.post(CLAIMS, new | {"attachments": [attachment(b"abd", sha256=digest)]})

    assert created.status == 201
    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert refused.json["issues"][0]["path"] == ["attachments", 0, "sha256"]


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        (attachment(contentBase64="not base64!"), ["attachments", 1, "contentBase64"]),
        (attachment(contentBase64="YQ"), ["attachments", 1, "contentBase64"]),
        (attachment(contentBase64=5), ["attachments", 1, "contentBase64"]),
        (attachment(contentBase64=None), ["attachments", 1]),
        (attachment(fileName=""), ["attachments", 1, "fileName"]),
        (attachment(fileName="x" * 256), ["attachments", 1, "fileName"]),
        (attachment(contentType=None), ["attachments", 1, "contentType"]),
        (elsewhere(sha256=None), ["attachments", 1]),
        (elsewhere(sha256="ab"), ["attachments", 1, "sha256"]),
        (elsewhere(uri="not a uri"), ["attachments", 1, "uri"]),
        (elsewhere(uri="s3://bucket/minutes.pdf"), ["attachments", 1, "uri"]),
        (elsewhere(uri="javascript:alert(1)"), ["attachments", 1, "uri"]),
        (elsewhere(uri="http:minutes.pdf"), ["attachments", 1, "uri"]),
        (elsewhere(contentBase64="YWJj"), ["attachments", 1]),
        (attachment(uri="https://files.example.org/minutes.pdf"), ["attachments", 1]),
        ("minutes.txt", ["attachments", 1]),
    ],
)
def test_a_wrong_attachment_is_refused_with_its_place(lite, novantra, new, wrong, path):
    refused = novantra.post(CLAIMS, new | {"attachments": [attachment(), wrong]})

    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert [issue["path"] for issue in refused.json["issues"]] == [path]
    assert list(lite.collection("evidence-claims").list()) == []


def test_a_claim_has_at_most_ten_attachments(novantra, new):
    ten = novantra.post(CLAIMS, new | {"attachments": [attachment()] * 10})
    eleven = novantra.post(CLAIMS, new | {"attachments": [attachment()] * 11})

    assert (ten.status, len(ten.json["claim"]["attachments"])) == (201, 10)
    assert eleven.status == 400
    assert eleven.json["issues"][0]["path"] == ["attachments"]


@pytest.mark.parametrize(
    ("sizes", "status"), [([100], 201), ([101], 413), ([100, 50], 201), ([100, 51], 413)]
)
def test_attachments_are_limited_each_and_together(clock, sizes, status):
    limits = {"attachment_limit": 100, "attachments_limit": 150}
    with NovantraLite(clock=clock, random=random.Random(7), **limits) as lite:
        requirement = make(lite, "evidence-requirements", requirementKey="r", title="R")
        body = {
            "evidenceRequirementId": requirement["id"],
            "title": "A claim",
            "reason": WHY,
            "attachments": [attachment(b"x" * size) for size in sizes],
        }

        answer = lite.client(*novantra_scopes()).post(CLAIMS, body)

        assert answer.status == status
        assert answer.json.get("error") == {201: None, 413: "payload_too_large"}[status]
        assert len(list(lite.collection("evidence-claims").list())) == (status == 201)


@pytest.mark.parametrize(
    ("sizes", "status"),
    [((10_485_760, 5_242_880), 201), ((10_485_761,), 413), ((10_485_760, 5_242_881), 413)],
)
def test_the_documented_sizes_fit_into_one_claim_to_the_byte(novantra, new, sizes, status):
    files = [attachment(bytes(size)) for size in sizes]

    answer = novantra.post(CLAIMS, new | {"attachments": files})

    assert (answer.status, answer.json.get("error")) == (
        status,
        {201: None, 413: "payload_too_large"}[status],
    )


def test_only_claims_may_be_larger_than_other_bodies(clock):
    limits = {"json_limit": 1000, "claim_limit": 3000}
    with NovantraLite(clock=clock, random=random.Random(7), **limits) as lite:
        requirement = make(lite, "evidence-requirements", requirementKey="r", title="R")
        client = lite.client(*novantra_scopes())
        claim = {"evidenceRequirementId": requirement["id"], "title": "A claim", "reason": WHY}
        finding = {"title": "A finding", "severity": "low", "reason": WHY}

        fits = client.post(CLAIMS, claim | {"description": "x" * 2000})
        too_large = client.post(CLAIMS, claim | {"description": "x" * 3000})
        other = client.post("/api/v1/governance/findings", finding | {"description": "x" * 1000})

    assert (fits.status, too_large.status, other.status) == (201, 413, 413)
    assert too_large.json["error"] == other.json["error"] == "payload_too_large"


@pytest.mark.parametrize("status", ["draft", "retired"])
def test_a_requirement_that_is_not_active_takes_no_claims(lite, novantra, status):
    requirement = make(lite, "evidence-requirements", requirementKey="r", title="R", status=status)
    body = {"evidenceRequirementId": requirement["id"], "title": "A claim", "reason": WHY}

    refused = novantra.post(CLAIMS, body)

    assert (refused.status, refused.json["error"]) == (422, "unprocessable")
    assert events(lite) == []


def test_a_requirement_that_is_not_there_takes_no_claims(novantra, new):
    body = new | {"evidenceRequirementId": "evreq_01HXY000000000000000000000"}

    refused = novantra.post(CLAIMS, body)

    assert (refused.status, refused.json["error"]) == (422, "unprocessable")


def test_a_claim_key_is_taken_once(lite, novantra, new):
    novantra.post(CLAIMS, new | {"claimKey": "q2"})

    refused = novantra.post(CLAIMS, new | {"claimKey": "q2", "attachments": [attachment()]})

    assert (refused.status, refused.json["error"]) == (409, "conflict")
    assert [record_type for record_type, _ in events(lite)] == ["evidence.claim.created"]


@pytest.mark.parametrize("until", ["2026-05-31T23:59:59Z", "2026-06-01T00:00:00Z"])
def test_a_claim_ends_after_it_begins(novantra, new, until):
    times = {"validFrom": "2026-06-01T00:00:00Z", "validUntil": until}

    refused = novantra.post(CLAIMS, new | times)

    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert [issue["path"] for issue in refused.json["issues"]] == [["validUntil"]]


def test_a_subject_must_be_there(lite, novantra, new):
    control = make(lite, "controls", controlKey="c-1", title="A control")
    subject = {
        "subjectModuleKey": "controls",
        "subjectResourceType": "control",
        "subjectResourceId": control["id"],
    }

    created = novantra.post(CLAIMS, new | subject)
    half = novantra.post(CLAIMS, new | {"subjectModuleKey": "controls"})
    missing = novantra.post(CLAIMS, new | subject | {"subjectResourceId": "ctrl_0"})

    assert created.json["claim"].items() >= subject.items()
    assert (half.status, missing.status) == (400, 422)


def test_a_repeated_claim_is_made_once(lite, novantra, new):
    headers = {"Idempotency-Key": "one"}
    body = new | {"attachments": [attachment()]}
    first = novantra.post(CLAIMS, body, headers=headers)

    repeat = novantra.post(CLAIMS, body, headers=headers)

    assert (repeat.status, repeat.body) == (201, first.body)
    assert repeat.headers["idempotency-replayed"] == "true"
    assert len(list(lite.collection("evidence-claims").list())) == 1


@pytest.mark.parametrize("status", ["approved", "rejected"])
def test_a_reviewed_claim_is_dated_and_told(lite, clock, novantra, new, status):
    key = novantra.post(CLAIMS, new).json["claim"]["id"]
    clock.advance(60)

    lite.collection("evidence-claims").update(key, status=status, reason=WHY)

    claim = novantra.get(f"{CLAIMS}/{key}").json["claim"]
    assert claim["status"] == status
    assert claim["reviewedAt"] == claim["updatedAt"] == "2026-06-01T12:01:00.000Z"
    assert audit(lite)[-1] == ("console", "evidence.claim.updated", key, WHY)
    assert ledger(lite)[-1] == ("EVIDENCE_CLAIM_UPDATED", key)
    record_type, result = events(lite)[-1]
    assert (record_type, result["claim"]["status"]) == (f"evidence.claim.{status}", status)


def test_a_claim_is_reviewed_once(lite, novantra, new):
    key = novantra.post(CLAIMS, new).json["claim"]["id"]
    lite.collection("evidence-claims").update(key, status="rejected", reason=WHY)

    with pytest.raises(Unprocessable):
        lite.collection("evidence-claims").update(key, status="approved", reason=WHY)

    assert [record_type for record_type, _ in events(lite)][1:] == ["evidence.claim.rejected"]


def test_an_approved_claim_expires_when_its_time_has_passed(lite, clock, novantra, new):
    body = new | {"validUntil": "2026-06-01T13:00:00Z"}
    key = novantra.post(CLAIMS, body).json["claim"]["id"]
    pending = novantra.post(CLAIMS, body).json["claim"]["id"]
    lite.collection("evidence-claims").update(key, status="approved", reason=WHY)
    claims = lite.collection("evidence-claims")

    clock.advance(3599)
    lite.step()
    before = claims.retrieve(key)["status"]
    clock.advance(1)
    lite.step()

    assert (before, claims.retrieve(key)["status"]) == ("approved", "expired")
    assert claims.retrieve(pending)["status"] == "pending"
    assert audit(lite)[-1][:3] == ("system", "evidence.claim.updated", key)
    assert lite.verify() == []
