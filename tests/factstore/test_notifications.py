"""Notifications inside the product, and the happenings that raise them."""

import json

import pytest
from multipart import upload
from stored import audit, tables

from factstore.notification_servers import NOTIFICATIONS, add_rule, deliveries, shown
from factstore.trails import begin_trail, evidence_path, make_attestation
from novantra_lite import Conflict, Trail, record_attestation, write_transaction

ONE = "sha256:" + "1" * 64
TWO = "sha256:" + "2" * 64
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
DIGEST = "sha256:" + "a" * 64
SCAN = {"tool": "zap", "criticalVulnerabilities": 1}


@pytest.fixture
def trail(lite, factstore):
    return begin_trail(lite, factstore, requiredAttestationTypes=["junit"])


@pytest.fixture
def flow(factstore, trail):
    return factstore.get(f"/api/v1/trails/{trail}").json["flowId"]


@pytest.fixture
def production(factstore):
    body = {"name": "production", "type": "K8S"}
    return factstore.post("/api/v1/environments", body).json["id"]


def attest(client, trail, status="FAILED", type="junit", **options):
    body = {"type": type, "status": status}
    return client.post(f"/api/v1/trails/{trail}/attestations", body, **options)


def titles(client):
    return [title for title, *_ in shown(client)]


# The list


@pytest.fixture
def three(factstore, trail, flow):
    """The ids of two warnings and of a critical notification between them, oldest first."""
    add_rule(factstore)
    add_rule(factstore, "TRAIL_NON_COMPLIANT")
    for item in ("junit", "snyk"):
        attest(factstore, trail, type=item)
    return [record["id"] for record in reversed(factstore.get(NOTIFICATIONS).json)]


def test_a_notification_says_what_happened_and_to_what(factstore, trail):
    add_rule(factstore)

    attestation = attest(factstore, trail).json["id"]

    (result,) = factstore.get(NOTIFICATIONS).json
    assert list(result.items()) == [
        ("id", result["id"]),
        ("title", "The attestation 'junit' failed"),
        ("message", f"It was recorded on the trail {trail} (commit c0ffee on main by Ada)."),
        ("severity", "WARNING"),
        ("isRead", False),
        ("entityType", "attestation"),
        ("entityId", attestation),
        ("createdAt", NOON),
    ]


def test_the_newest_comes_first_and_filters_go_together(factstore, three):
    first, second, third = three
    factstore.post(f"{NOTIFICATIONS}/{third}/read")

    def found(query):
        return [record["id"] for record in factstore.get(f"{NOTIFICATIONS}?{query}").json]

    assert found("") == [third, second, first]
    assert found("isRead=false") == [second, first]
    assert found("isRead=true") == [third]
    assert found("severity=WARNING") == [third, first]
    assert found("severity=WARNING&isRead=false") == [first]
    assert found("severity=INFO") == []


def test_a_page_of_the_list_can_be_asked_for(factstore, three):
    page = factstore.get(f"{NOTIFICATIONS}?page=1&size=2&isRead=false").json

    assert [record["id"] for record in page.pop("items")] == [three[0]]
    assert page == {"page": 1, "size": 2, "totalItems": 3, "totalPages": 2}


@pytest.mark.parametrize("query", ["isRead=perhaps", "severity=warning", "severity=FATAL"])
def test_a_filter_that_is_none_is_refused(factstore, query):
    assert factstore.get(f"{NOTIFICATIONS}?{query}").status == 400


def test_reading_one_can_be_repeated_and_is_audited_once(lite, factstore, three):
    path = f"{NOTIFICATIONS}/{three[0]}/read"

    first, again = factstore.post(path), factstore.post(path)

    assert (first.status, first.json["id"], first.json["isRead"]) == (200, three[0], True)
    assert again.json == first.json
    assert factstore.get(f"{NOTIFICATIONS}/unread-count").json == {"count": 2}
    rows = [entry[1:3] for entry in audit(lite)]
    assert rows.count(("notification.read", three[0])) == 1
    assert lite.verify() == []


def test_all_are_read_at_once(lite, factstore, three):
    answer = factstore.post(f"{NOTIFICATIONS}/read-all")

    assert (answer.status, answer.body) == (204, b"")
    assert factstore.get(f"{NOTIFICATIONS}/unread-count").json == {"count": 0}
    assert audit(lite)[-1][1:3] == ("notification.read", "all")
    before = len(audit(lite))
    factstore.post(f"{NOTIFICATIONS}/read-all")
    assert len(audit(lite)) == before


def test_a_dry_run_reads_nothing(lite, factstore, three):
    before = tables(lite)

    response = factstore.post(f"{NOTIFICATIONS}/{three[0]}/read", headers={"X-Dry-Run": "true"})
    every = factstore.post(f"{NOTIFICATIONS}/read-all", headers={"X-Dry-Run": "true"})

    assert response.json["result"]["isRead"] is True
    assert every.json == {"dryRun": True, "result": None}
    assert tables(lite) == before


@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("one", 400)])
def test_a_notification_that_is_not_there_cannot_be_read(factstore, key, status):
    assert factstore.post(f"{NOTIFICATIONS}/{key}/read").status == status


def test_the_count_looks_only_at_what_is_unread(lite):
    with lite.workspace.read():
        plan = lite.workspace.reader.connection().execute(
            "EXPLAIN QUERY PLAN SELECT count(*) FROM notification WHERE is_read = 0"
        )

        assert "COVERING INDEX notification_is_read (is_read=?)" in plan.fetchone()[3]


# What raises them


def v1(client, trail):
    return attest(client, trail)


def v2(client, trail):
    return client.post(
        f"/api/v2/trails/{trail}/attestations", {"type": "junit", "status": "FAILED"}
    )


def coverage(client, trail):
    body = {"tool": "jacoco", "lineCoverage": 10.0, "minCoverage": 80.0}
    return client.post(f"/api/v1/trails/{trail}/coverage", body)


def collected(client, trail):
    item = {"trailId": trail, "evidenceType": "junit", "tool": "ci", "details": "{}"}
    return client.post("/api/v1/evidence/collect", {"items": [item]})


def scanned(client, trail):
    flow = client.get(f"/api/v1/trails/{trail}").json["flowId"]
    client.post(f"/api/v1/flows/{flow}/security-thresholds", {})
    return client.post(f"/api/v1/trails/{trail}/security-scans", SCAN)


@pytest.mark.parametrize("door", [v1, v2, coverage, collected, scanned])
def test_an_attestation_that_fails_is_told_of_by_whichever_door_it_came(factstore, trail, door):
    failed, settled = add_rule(factstore), add_rule(factstore, "TRAIL_NON_COMPLIANT")

    assert door(factstore, trail).status in (200, 201)

    (attestation,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert shown(factstore) == [
        ("A trail is not compliant", "CRITICAL", "trail", trail),
        (f"The attestation '{attestation['type']}' failed", "WARNING", "attestation",
         attestation["id"]),
    ]  # fmt: skip
    assert deliveries(factstore, failed) == deliveries(factstore, settled) == [("SENT", 1, None)]


def test_evidence_that_fails_its_attestation_is_told_of_once(lite, factstore, trail):
    add_rule(factstore)
    key = make_attestation(lite, trail, "junit")

    for _ in range(2):
        upload(factstore, evidence_path(trail, key), b'<testsuite tests="1" failures="1"/>')

    assert shown(factstore) == [("The attestation 'junit' failed", "WARNING", "attestation", key)]


def test_what_passes_or_waits_raises_nothing(lite, factstore, trail):
    for trigger in ("ATTESTATION_FAILED", "TRAIL_NON_COMPLIANT"):
        add_rule(factstore, trigger)

    attest(factstore, trail, "PENDING")
    attest(factstore, trail, "PASSED")

    assert factstore.get(NOTIFICATIONS).json == []


def test_a_trail_is_told_of_when_it_turns_and_not_again(factstore, trail):
    rule = add_rule(factstore, "TRAIL_NON_COMPLIANT")

    for _ in range(3):
        attest(factstore, trail)

    assert deliveries(factstore, rule) == [("SENT", 1, None)]


def test_a_gate_that_shuts_is_told_of(factstore, flow, trail, production):
    body = {"name": "strict", "environmentId": production, "flowId": flow, "enforceApprovals": True}
    assert factstore.post("/api/v1/deployment-policies", body).status == 200
    image = {"imageName": "shop", "imageTag": "1.0", "sha256Digest": DIGEST, "reportedBy": "ci"}
    assert factstore.post(f"/api/v1/trails/{trail}/artifacts", image).status == 201
    rule = add_rule(
        factstore, "GATE_BLOCKED", filterFlowId=flow, filterEnvironmentId=production.upper()
    )
    add_rule(factstore, "GATE_BLOCKED", filterEnvironmentId=NOBODY)

    query = {"artifactSha256": DIGEST, "environmentId": production, "requestedBy": "ada"}
    result = factstore.post("/api/v1/gate/evaluate", query).json

    assert result["decision"] == "BLOCKED"
    assert shown(factstore) == [
        ("The gate of production blocks", "CRITICAL", "gate_result", result["id"])
    ]
    (delivery,) = factstore.get(f"/api/v1/notification-rules/{rule}/deliveries").json
    assert json.loads(delivery["payload"]) == {
        "triggerEvent": "GATE_BLOCKED",
        "title": "The gate of production blocks",
        "message": result["reason"],
        "severity": "CRITICAL",
        "entityType": "gate_result",
        "entityId": result["id"],
        "filterFlowId": flow,
        "extraPayload": {
            "artifactSha256": DIGEST,
            "requestedBy": "ada",
            "environmentId": production,
        },
    }


def test_a_gate_that_opens_is_not_told_of(factstore, production):
    add_rule(factstore, "GATE_BLOCKED")

    body = {"artifactSha256": DIGEST, "environmentId": production}
    assert factstore.post("/api/v1/gate/evaluate", body).json["decision"] == "ALLOWED"

    assert factstore.get(NOTIFICATIONS).json == []


def test_a_message_keeps_to_a_length_however_many_reasons_there_are(factstore, flow):
    types = [f"{number}-{'x' * 100}" for number in range(30)]
    body = {"name": "strict", "flowId": flow, "requiredAttestationTypes": types}
    assert factstore.post("/api/v1/deployment-policies", body).status == 200
    rule = add_rule(factstore, "GATE_BLOCKED")

    factstore.post("/api/v1/gate/evaluate", {"artifactSha256": DIGEST})

    (body,) = factstore.get(NOTIFICATIONS).json
    assert len(body["message"]) == 2000
    assert deliveries(factstore, rule) == [("SENT", 1, None)]


def test_an_assertion_that_does_not_hold_stops_as_a_gate_does(factstore, flow):
    rule = add_rule(factstore, "GATE_BLOCKED", filterFlowId=flow)

    verdict = factstore.post("/api/v1/assert", {"sha256Digest": DIGEST, "flowId": flow}).json

    assert verdict["compliant"] is False
    assert shown(factstore) == [
        ("An artifact does not meet the flow 'payments'", "CRITICAL", None, None)
    ]
    assert deliveries(factstore, rule) == [("SENT", 1, None)]


def snap(client, environment, digest):
    artifact = {"artifactSha256": digest, "artifactName": "shop", "artifactTag": "1.0"}
    body = {"recordedBy": "agent", "artifacts": [artifact]}
    assert client.post(f"/api/v1/environments/{environment}/snapshots", body).status == 201


def test_drift_is_told_of_when_it_appears(factstore, production):
    path = f"/api/v1/environments/{production}"
    rule = add_rule(factstore, "DRIFT_DETECTED", filterEnvironmentId=production)
    snap(factstore, production, ONE)
    factstore.post(f"{path}/baselines", {"approvedBy": "ada"})

    for digest in (TWO, TWO, ONE):
        snap(factstore, production, digest)

    report = next(r for r in factstore.get(f"{path}/drift/history").json if r["hasDrift"])
    assert shown(factstore) == [
        ("The environment 'production' has drifted", "WARNING", "drift_report", report["id"])
    ]
    assert deliveries(factstore, rule) == [("SENT", 1, None)]


def test_an_environment_that_ignores_drift_raises_nothing(factstore):
    body = {"name": "sandbox", "type": "K8S", "driftPolicy": "IGNORE"}
    key = factstore.post("/api/v1/environments", body).json["id"]
    add_rule(factstore, "DRIFT_DETECTED")
    snap(factstore, key, ONE)
    factstore.post(f"/api/v1/environments/{key}/baselines", {"approvedBy": "ada"})

    snap(factstore, key, TWO)

    assert factstore.get(NOTIFICATIONS).json == []


def test_approvals_are_told_of_when_asked_for_and_when_refused(factstore, flow, trail):
    add_rule(factstore, "APPROVAL_REQUIRED", filterFlowId=flow)
    add_rule(factstore, "APPROVAL_REJECTED", filterFlowId=flow)

    response = factstore.post(f"/api/v1/trails/{trail}/approvals", {"requiredApprovers": ["eve"]})
    key = response.json["id"]
    said = {"approverIdentity": "eve", "comments": "Not on a Friday."}
    factstore.post(f"/api/v1/approvals/{key}/reject", said)

    assert shown(factstore) == [
        ("A release was rejected", "WARNING", "approval", key),
        ("A release waits for approval", "INFO", "approval", key),
    ]
    message = factstore.get(NOTIFICATIONS).json[0]["message"]
    assert message == "eve rejected it: Not on a Friday."


def test_an_approval_that_is_granted_is_not_told_of(factstore, trail):
    add_rule(factstore, "APPROVAL_REJECTED")
    key = factstore.post(f"/api/v1/trails/{trail}/approvals", {}).json["id"]

    factstore.post(f"/api/v1/approvals/{key}/approve", {"approverIdentity": "eve"})

    assert factstore.get(NOTIFICATIONS).json == []


# Which rules


def test_each_rule_tells_once_where_its_filters_fit(lite, factstore, flow, trail):
    fitting = [add_rule(factstore), add_rule(factstore, filterFlowId=flow)]
    others = [
        add_rule(factstore, filterFlowId=NOBODY),
        add_rule(factstore, filterEnvironmentId=NOBODY),
        add_rule(factstore, "GATE_BLOCKED"),
    ]
    off = add_rule(factstore)
    factstore.put(f"/api/v1/notification-rules/{off}", {"isActive": False})

    attest(factstore, trail)

    assert [len(deliveries(factstore, rule)) for rule in [*fitting, *others, off]] == [
        1, 1, 0, 0, 0, 0,
    ]  # fmt: skip
    assert titles(factstore) == ["The attestation 'junit' failed"] * 2


def test_what_is_rehearsed_or_rolled_back_raises_nothing(lite, factstore, flow, trail):
    for channel, url in (("IN_APP", ""), ("WEBHOOK", "https://93.184.216.34/hook")):
        for trigger in ("ATTESTATION_FAILED", "TRAIL_NON_COMPLIANT", "GATE_BLOCKED"):
            add_rule(factstore, trigger, channel, url)
    before = tables(lite)

    def work(current):
        record_attestation(Trail.find(trail), {}, type="junit", status="FAILED")
        raise Conflict("Something else was there first.")

    attest(factstore, trail, headers={"X-Dry-Run": "true"})
    body = {"sha256Digest": DIGEST, "flowId": flow}
    factstore.post("/api/v1/assert?dryRun=true", body)
    with pytest.raises(Conflict):
        write_transaction(lite.workspace, work, actor="test")

    assert tables(lite) == before


def test_a_repeated_request_is_told_of_once(factstore, trail):
    add_rule(factstore)

    for _ in range(2):
        attest(factstore, trail, headers={"Idempotency-Key": "build-7"})

    assert len(factstore.get(NOTIFICATIONS).json) == 1
