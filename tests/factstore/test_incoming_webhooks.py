"""Webhooks that CI systems send."""

import contextlib
import hashlib
import hmac
import http.client
import json
import random
import threading
import urllib.parse

import pytest
from conftest import Clock
from stored import audit, events, ledger, stored_bytes, tables

from factstore.pipelines import happenings, status_of
from factstore.trails import another_trail
from novantra_lite import FACTSTORE_SCOPES, NovantraLite

CONFIGS = "/api/v1/webhook-configs"
HOOKS = "/api/v1/webhooks"
AT_NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
SECRET = "a secret of the build server"
FORM = "application/x-www-form-urlencoded"
RUN = {
    "action": "completed",
    "workflow_run": {
        "head_sha": "c0ffee",
        "head_branch": "main",
        "conclusion": "success",
        "actor": {"login": "ada"},
    },
    "sender": {"login": "grace"},
}
UNSIGNED = "The signature is missing or does not verify."


@pytest.fixture
def configure(factstore, flow_id):
    """Lets a CI system tell of the flow; the id of its config."""

    def make(source="GENERIC", secret=SECRET, flow_id=flow_id):
        body = {"source": source, "secret": secret, "flowId": flow_id}
        return factstore.post(CONFIGS, body).json["id"]

    return make


@pytest.fixture
def config(configure):
    return configure()


@pytest.fixture
def stranger(lite):
    """A caller without any credentials."""
    return lite.client()


def sign(body, secret=SECRET):
    """What GitHub puts into its header."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def send(client, result, source="generic", delivery="one", secret=SECRET, **headers):
    """Send a signed webhook."""
    body = result if isinstance(result, bytes) else json.dumps(result).encode()
    signed = {"X-Webhook-Signature": sign(body, secret), "X-Delivery-Id": delivery}
    headers = signed | {name.replace("_", "-"): value for name, value in headers.items()}
    headers = {name: value for name, value in headers.items() if value is not None}
    return client.request("POST", f"{HOOKS}/{source}", body=body, headers=headers)


def deliveries(factstore, config):
    """Id, event, status and message of every delivery under a config."""
    body = factstore.get(f"{CONFIGS}/{config}/deliveries").json
    return [
        (record["deliveryId"], record["eventType"], record["status"], record["statusMessage"])
        for record in body
    ]


def trails(factstore):
    return factstore.get("/api/v1/trails").json


def attestations(factstore, trail):
    """Type, status and details of every attestation of a trail."""
    body = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    return [(record["type"], record["status"], record["details"]) for record in body]


# --- Configs ------------------------------------------------------------------


def test_a_config_is_told_without_its_secret(lite, factstore, flow_id):
    body = {"source": "GitHub", "secret": SECRET, "flowId": flow_id}

    made = factstore.post(CONFIGS, body)

    key = made.json["id"]
    assert made.status == 201
    assert list(made.json.items()) == [
        ("id", key),
        ("source", "GITHUB"),
        ("flowId", flow_id),
        ("isActive", True),
        ("createdAt", AT_NOON),
        ("allowedTypes", None),
    ]
    assert factstore.get(CONFIGS).json == [made.json]
    assert audit(lite)[-1][1:3] == ("webhook_config.created", key)
    assert ledger(lite)[-1] == ("WEBHOOK_CONFIG_CREATED", key)
    assert SECRET.encode() not in stored_bytes(lite)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"source": "TRAVIS"}, 400),
        ({"source": 5}, 400),
        ({"source": None}, 400),
        ({"secret": None}, 400),
        ({"secret": ""}, 400),
        ({"secret": " "}, 400),
        ({"secret": "x" * 256}, 400),
        ({"flowId": "payments"}, 400),
        ({"flowId": None}, 400),
        ({"flowId": NOBODY}, 404),
    ],
)
def test_a_config_that_cannot_be_is_refused(lite, factstore, flow_id, change, status):
    before = tables(lite)
    body = {"source": "GENERIC", "secret": SECRET, "flowId": flow_id}

    refused = factstore.post(CONFIGS, body | change)

    assert refused.status == status
    assert tables(lite) == before


def test_a_dry_run_of_a_config_stores_nothing(lite, factstore, flow_id):
    before = tables(lite)
    body = {"source": "GENERIC", "secret": SECRET, "flowId": flow_id}

    response = factstore.post(CONFIGS, body, headers={"X-Dry-Run": "true"})

    assert (response.status, response.json["wouldCreate"]["source"]) == (200, "GENERIC")
    assert "secret" not in response.json["wouldCreate"]
    assert tables(lite) == before


def test_only_who_governs_sees_and_sets_up_configs(lite, config, flow_id):
    client = lite.client("factstore:read", "factstore:write")
    body = {"source": "GENERIC", "secret": SECRET, "flowId": flow_id}

    answers = [
        client.get(CONFIGS),
        client.post(CONFIGS, body),
        client.delete(f"{CONFIGS}/{config}"),
        client.get(f"{CONFIGS}/{config}/deliveries"),
    ]

    assert [answer.status for answer in answers] == [403, 403, 403, 200]


def test_a_config_goes_with_its_deliveries(lite, factstore, stranger, config):
    send(stranger, {"eventType": "build.started"})

    gone = factstore.delete(f"{CONFIGS}/{config}")

    assert (gone.status, gone.body) == (204, b"")
    assert factstore.get(CONFIGS).json == []
    assert factstore.get(f"{CONFIGS}/{config}/deliveries").status == 404
    assert tables(lite)["webhook_delivery"] == []
    assert audit(lite)[-1][1:3] == ("webhook_config.deleted", config)
    assert send(stranger, {"eventType": "build.started"}).status == 400
    assert len(trails(factstore)) == 1
    assert lite.verify() == []


@pytest.mark.parametrize("path", ["", "/deliveries"])
def test_a_config_that_is_not_there_is_not_found(factstore, path):
    method = "GET" if path else "DELETE"

    answers = [factstore.request(method, f"{CONFIGS}/{key}{path}") for key in (NOBODY, "x")]

    assert [answer.status for answer in answers] == [404, 400]


def test_a_flow_with_a_config_stays(factstore, config, flow_id):
    refused = factstore.delete(f"/api/v1/flows/{flow_id}")

    assert refused.status == 409
    assert refused.json["message"] == "This flow is still in use by webhook config records."
    assert factstore.delete(f"{CONFIGS}/{config}").status == 204
    assert factstore.delete(f"/api/v1/flows/{flow_id}").status == 204


# --- Signatures ---------------------------------------------------------------


@pytest.mark.parametrize(
    "spelled",
    [str, str.upper, lambda signature: signature.removeprefix("sha256=")],
    ids=["as GitHub has it", "in capitals", "bare"],
)
@pytest.mark.parametrize("header", ["X-Hub-Signature-256", "X-Webhook-Signature"])
def test_a_signature_is_taken_in_every_documented_form(
    factstore, stranger, config, header, spelled
):
    body = b'{"eventType": "build.started"}'
    headers = {header: spelled(sign(body)), "X-Delivery-Id": "one"}

    taken = stranger.request("POST", f"{HOOKS}/Generic", body=body, headers=headers)

    assert (taken.status, taken.json["accepted"], taken.json["deliveryId"]) == (200, True, "one")
    assert [row[:3] for row in deliveries(factstore, config)] == [
        ("one", "build.started", "SUCCESS")
    ]


BODY = b'{"eventType": "build.started"}'


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Webhook-Signature": ""},
        {"X-Webhook-Signature": "sha256="},
        {"X-Webhook-Signature": sign(BODY)[:-1]},
        {"X-Webhook-Signature": "sha1=" + sign(BODY)[7:]},
        {"X-Webhook-Signature": sign(BODY + b" ")},
        {"X-Webhook-Signature": sign(BODY, "another secret")},
        {"X-Webhook-Signature": "\xe4" * 64},
        {"X-Hub-Signature-256": "sha256=" + "0" * 64, "X-Webhook-Signature": sign(BODY)},
        {"X-Dry-Run": "true"},
        {"Idempotency-Key": "k"},
    ],
)
def test_without_a_valid_signature_nothing_happens(lite, stranger, config, headers):
    before = tables(lite)

    refused = stranger.request("POST", f"{HOOKS}/generic", body=BODY, headers=headers)

    entries = audit(lite)
    kept = tables(lite)
    assert (refused.status, refused.json["message"]) == (400, UNSIGNED)
    assert entries[-1][:2] == ("unknown", "api.authentication.refused")
    assert {name for name in kept if kept[name] != before[name]} == {"audit_entry"}


@pytest.mark.parametrize("source", ["github", "jenkins", "circleci", "gitlab"])
def test_a_config_is_for_its_own_source(stranger, config, source):
    refused = send(stranger, {"eventType": "build.started"}, source)

    assert (refused.status, refused.json["message"]) == (400, UNSIGNED)


def test_a_source_that_is_none_is_refused(stranger, config):
    refused = send(stranger, {"eventType": "build.started"}, "travis")

    assert refused.status == 400
    assert refused.json["message"] == (
        "source: Expected one of: GITHUB, JENKINS, CIRCLECI, GITLAB, GENERIC"
    )


def test_whatever_scopes_a_token_has_a_webhook_needs_its_signature(factstore, config):
    refused = factstore.post(f"{HOOKS}/generic", {"eventType": "build.started"})

    assert (refused.status, refused.json["message"]) == (400, UNSIGNED)


def test_the_secret_that_verifies_decides_the_flow(factstore, stranger, configure, flow_id):
    other = factstore.post("/api/v1/flows", {"name": "payouts"}).json["id"]
    first, second = configure(), configure(secret="second", flow_id=other)

    send(stranger, {"eventType": "build.started"}, secret="second")
    send(stranger, {"eventType": "build.started"})

    assert [trail["flowId"] for trail in trails(factstore)] == [other, flow_id]
    assert [len(deliveries(factstore, key)) for key in (first, second)] == [1, 1]


def test_a_config_that_is_not_active_takes_nothing(lite, stranger, config):
    connection = lite.workspace.writer.database.connection()
    connection.execute("UPDATE webhook_config SET is_active = 0")

    refused = send(stranger, {"eventType": "build.started"})

    assert (refused.status, refused.json["message"]) == (400, UNSIGNED)


def test_webhooks_that_are_not_signed_are_limited_by_address_and_signed_ones_are_not(
    flow_id, lite, stranger, config
):
    for number in range(lite.settings.rate_address):
        assert send(stranger, BODY, secret="guess", delivery=str(number)).status == 400

    refused = send(stranger, BODY, secret="guess")
    taken = send(stranger, BODY)

    assert (refused.status, refused.headers["retry-after"]) == (429, "60")
    assert taken.status < 300
    assert taken.headers["x-ratelimit-remaining"] == "1199"


def test_the_workspace_whose_secret_verifies_takes_the_webhook(tmp_path):
    options = {"clock": Clock(), "random": random.Random(5), "workspaces": tmp_path}
    with NovantraLite(**options) as lite:
        for slug in ("acme", "globex"):
            lite.create_workspace(slug)
    flows = {}
    for slug in ("acme", "globex"):
        with NovantraLite(**options, workspace=slug) as lite:
            client = lite.client(*FACTSTORE_SCOPES)
            flows[slug] = client.post("/api/v1/flows", {"name": slug}).json["id"]
            for secret in (f"of {slug}", "of both"):
                body = {"source": "GENERIC", "secret": secret, "flowId": flows[slug]}
                assert client.post(CONFIGS, body).status == 201

    with NovantraLite(**options, workspace="globex") as lite:
        taken = send(lite.client(), BODY, secret="of globex")
        refused = [send(lite.client(), BODY, secret=secret) for secret in ("of both", "of none")]
        counts = []
        for slug in ("acme", "globex"):
            with lite.workspaces[slug].read():
                row = lite.workspaces[slug].fetch_row("SELECT count(*), min(flow_id) FROM trail")
                counts.append(row)

    assert taken.status == 200
    assert [answer.status for answer in refused] == [400, 400]
    assert [answer.json["message"] for answer in refused] == [UNSIGNED, UNSIGNED]
    assert counts == [(0, None), (1, flows["globex"])]


# --- Deliveries ---------------------------------------------------------------


def test_a_delivery_is_told_with_what_came_of_it(lite, factstore, stranger, config):
    send(stranger, {"eventType": "deploy.dreamt"})

    (result,) = factstore.get(f"{CONFIGS}/{config}/deliveries").json
    assert result == {
        "id": result["id"],
        "webhookConfigId": config,
        "deliveryId": "one",
        "source": "GENERIC",
        "eventType": "deploy.dreamt",
        "status": "SUCCESS",
        "statusMessage": "The event deploy.dreamt was recorded; nothing follows from it.",
        "receivedAt": AT_NOON,
    }
    assert trails(factstore) == []
    assert audit(lite)[-1][:3] == (f"webhook:{config}", "webhook_delivery.taken", result["id"])
    assert ledger(lite)[-1] == ("WEBHOOK_DELIVERY_TAKEN", result["id"])
    assert events(lite) == []
    assert lite.verify() == []


def test_a_delivery_that_comes_again_does_nothing(lite, factstore, stranger, config):
    send(stranger, {"eventType": "build.failed"})
    before = tables(lite)

    again = send(stranger, {"eventType": "build.failed"})

    assert again.status == 200
    assert again.json == {
        "accepted": True,
        "deliveryId": "one",
        "message": "This delivery was received before; it is ignored.",
    }
    assert tables(lite) == before


def test_the_same_id_under_another_config_is_another_delivery(factstore, stranger, configure):
    first, second = configure(), configure(secret="second")

    send(stranger, {"eventType": "build.started"})
    send(stranger, {"eventType": "build.started"}, secret="second")

    assert [len(deliveries(factstore, key)) for key in (first, second)] == [1, 1]


def test_the_id_of_a_delivery_is_taken_from_either_header_or_made(factstore, stranger, config):
    named = send(stranger, BODY, X_GitHub_Delivery="two")
    github = send(stranger, BODY + b" ", delivery=None, X_GitHub_Delivery="two")
    made = send(stranger, BODY + b"\n", delivery=None)
    long = send(stranger, BODY + b"\t", delivery="x" * 256)

    assert [answer.status for answer in (named, github, made, long)] == [200, 200, 200, 400]
    assert [row[0] for row in deliveries(factstore, config)] == [
        "one",
        "two",
        made.json["deliveryId"],
    ]
    assert len(made.json["deliveryId"]) == 36


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not JSON in UTF-8."),
        (b"{", "The body is not JSON in UTF-8."),
        (b'{"eventType": "build.failed", "details": "\xff"}', "The body is not JSON in UTF-8."),
        (b"[]", "The body is not a JSON object."),
        (b"{}", "eventType: Required"),
        (b'{"eventType": " "}', "eventType: Required"),
        (b'{"eventType": ["build.failed"]}', "eventType: Expected string"),
        (b'{"eventType": "build.failed", "trailId": "x"}', "trailId: Expected a UUID"),
        (
            b'{"eventType": "build.failed", "attestationStatus": "passed"}',
            "attestationStatus: Expected one of: PASSED, FAILED, PENDING",
        ),
        (
            b'{"eventType": "build.failed", "details": "\\u0000"}',
            "Expected text without NUL and lone surrogates",
        ),
        (b"[" * 40 + b"]" * 40, "Expected at most 32 levels of nesting"),
    ],
)
def test_what_cannot_be_read_is_recorded_and_refused(
    lite, factstore, stranger, config, body, message
):
    refused = send(stranger, body)
    again = send(stranger, BODY)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert message in refused.json["message"]
    assert deliveries(factstore, config) == [("one", None, "FAILED", refused.json["message"])]
    assert (again.status, again.json["accepted"]) == (200, True)
    assert trails(factstore) == []
    assert lite.verify() == []


def test_a_body_over_the_limit_is_refused(lite, factstore, stranger, config):
    refused = send(stranger, b" " * (lite.settings.json_limit + 1))

    assert refused.status == 413
    assert deliveries(factstore, config) == []


def test_a_body_of_another_kind_is_refused(factstore, stranger, config):
    refused = send(stranger, BODY, Content_Type="text/xml")

    assert refused.status == 415
    assert deliveries(factstore, config) == []


def test_what_fails_while_it_acts_leaves_nothing(
    lite, factstore, stranger, config, monkeypatch, caplog
):
    before = tables(lite)
    with monkeypatch.context() as patch:
        patch.setattr("novantra_lite.record_attestation", None)
        failed = send(stranger, {"eventType": "build.failed"})
    after = tables(lite)

    again = send(stranger, {"eventType": "build.failed"})

    assert (failed.status, again.status) == (500, 200)
    assert after == before
    assert [row[:3] for row in deliveries(factstore, config)] == [
        ("one", "build.failed", "SUCCESS")
    ]


def test_a_dry_run_of_a_signed_webhook_tells_and_stores_nothing(lite, stranger, config):
    before = tables(lite)

    response = send(stranger, {"eventType": "build.started"}, X_Dry_Run="true")

    assert response.status == 200
    assert response.json["result"]["deliveryId"] == "one"
    assert tables(lite) == before


def test_deliveries_come_in_pages_where_that_is_asked_for(factstore, stranger, config):
    for name in ("one", "two", "three"):
        send(stranger, {"eventType": "build.started", "details": name}, delivery=name)

    page = factstore.get(f"{CONFIGS}/{config}/deliveries", page=1, size=2).json

    assert [record["deliveryId"] for record in page["items"]] == ["three"]
    assert (page["totalItems"], page["totalPages"]) == (3, 2)


# --- Effects ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "attested", "status"),
    [
        ("build.succeeded", ("BUILD", "PASSED", "42 targets"), "PENDING"),
        ("build.failed", ("BUILD", "FAILED", "42 targets"), "NON_COMPLIANT"),
        ("test.passed", ("TEST", "PASSED", "42 targets"), "PENDING"),
        ("test.failed", ("TEST", "FAILED", "42 targets"), "NON_COMPLIANT"),
        ("scan.passed", ("SECURITY_SCAN", "PASSED", "42 targets"), "PENDING"),
        ("scan.failed", ("SECURITY_SCAN", "FAILED", "42 targets"), "NON_COMPLIANT"),
    ],
)
def test_an_outcome_is_attested_of_the_trail(
    lite, factstore, stranger, config, flow_id, event, attested, status
):
    trail = another_trail(lite, flow_id)
    body = {"eventType": event, "trailId": trail.upper(), "details": "42 targets"}

    taken = send(stranger, body, "GENERIC")

    record_type, outcome, _ = attested
    (made,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert taken.json["message"] == (
        f"The attestation {record_type} {outcome} was recorded on the trail {trail}."
    )
    assert attestations(factstore, trail) == [attested]
    assert status_of(lite, trail) == status
    payload = {
        "attestationId": made["id"],
        "trailId": trail,
        "type": record_type,
        "status": outcome,
        "source": "GENERIC",
        "deliveryId": "one",
    }
    assert happenings(lite) == [("ATTESTATION_RECORDED", "system", payload, trail, None)]
    assert "factstore.attestation.recorded" in [name for name, _ in events(lite)]
    assert (f"webhook:{config}", "attestation.recorded", made["id"], "") in audit(lite)
    assert ("ATTESTATION_RECORDED", made["id"]) in ledger(lite)


@pytest.mark.parametrize(
    ("given", "attested"),
    [
        ({"attestationType": "sonar", "attestationStatus": "FAILED"}, ("sonar", "FAILED", None)),
        ({"attestationType": "sonar"}, ("BUILD", "PASSED", None)),
        ({"attestationStatus": "FAILED"}, ("BUILD", "FAILED", None)),
        ({"attestationStatus": "PENDING"}, ("BUILD", "PENDING", None)),
        ({"attestationType": None, "attestationStatus": "FAILED"}, ("BUILD", "FAILED", None)),
        ({"attestationType": "sonar", "attestationStatus": "PENDING"}, ("sonar", "PENDING", None)),
        ({"status": "success", "tests": {"passed": 12, "failed": 0}}, ("BUILD", "PASSED", None)),
        ({"status": "cancelled"}, ("BUILD", "FAILED", None)),
        ({"conclusion": "no idea"}, ("BUILD", "FAILED", None)),
        ({"build": {"phase": "FINALIZED", "status": "FAILURE"}}, ("BUILD", "FAILED", None)),
        ({"tests": {"passed": 11, "failed": 1}}, ("BUILD", "FAILED", None)),
        (
            {"attestationType": "sonar", "attestationStatus": "PASSED", "result": "UNSTABLE"},
            ("sonar", "FAILED", None),
        ),
    ],
)
def test_a_type_counts_beside_a_status_and_the_worst_of_what_is_said(
    factstore, stranger, config, given, attested
):
    send(stranger, {"eventType": "build.succeeded"} | given)

    (trail,) = trails(factstore)
    assert attestations(factstore, trail["id"]) == [attested]


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({"eventType": "scan.passed", "critical": 3}, "FAILED"),
        ({"eventType": "scan.passed", "vulnerabilities": [{"severity": "CRITICAL"}]}, "FAILED"),
        ({"eventType": "scan.passed", "summary": {"critical": 4}}, "FAILED"),
        ({"eventType": "scan.passed", "findings": 1}, "FAILED"),
        ({"eventType": "scan.passed", "critical": 0, "low": 4, "vulnerabilities": 4}, "PASSED"),
        *(
            ({"eventType": "test.passed", name: value}, "FAILED")
            for name, value in (
                *(("failedTests", 3), ("failureCount", 3), ("tests", 0), ("exitCode", 1)),
                *(("compliant", False), ("buildPhase", "ABORTED")),
            )
        ),
        ({"eventType": "test.passed", "failedTests": 0, "tests": 4, "exitCode": 0}, "PASSED"),
        ({"eventType": "test.passed", "buildPhase": "FINALIZED", "queue": "x"}, "PASSED"),
    ],
)
def test_an_event_that_passed_fails_by_what_it_found(factstore, stranger, config, result, status):
    send(stranger, result)

    (trail,) = trails(factstore)
    assert [each[1] for each in attestations(factstore, trail["id"])] == [status]


@pytest.mark.parametrize("event", ["build.failed", "test.failed", "scan.failed"])
@pytest.mark.parametrize("status", ["PASSED", "PENDING", "FAILED"])
@pytest.mark.parametrize("type", [{}, {"attestationType": "junit"}], ids=["no type", "junit"])
def test_an_event_of_a_failure_fails_whatever_status_comes_with_it(
    factstore, stranger, config, event, status, type
):
    send(stranger, {"eventType": event, "attestationStatus": status, "status": "success"} | type)

    (trail,) = trails(factstore)
    assert [each[1] for each in attestations(factstore, trail["id"])] == ["FAILED"]
    assert trail["status"] == "NON_COMPLIANT"


@pytest.mark.parametrize(
    "event", ["build.passed", "BUILD.SUCCEEDED", "test.ok", "scan.clean", "build"]
)
def test_a_word_for_an_event_that_is_not_known_passes_nothing(factstore, stranger, config, event):
    body = {"eventType": event, "attestationType": "junit", "attestationStatus": "PASSED"}

    taken = send(stranger, body)

    assert taken.json["message"] == f"The event {event} was recorded; nothing follows from it."
    assert trails(factstore) == []


@pytest.mark.parametrize(
    ("event", "member"),
    [("deployment.triggered", "deploymentActor"), ("approval.granted", "pullRequestReviewer")],
)
def test_an_event_names_who_deployed_or_reviewed(
    lite, factstore, stranger, config, flow_id, event, member
):
    trail = another_trail(lite, flow_id)

    send(stranger, {"eventType": event, "trailId": trail, "gitAuthor": "grace"})
    named = factstore.get(f"/api/v1/trails/{trail}").json
    send(stranger, {"eventType": event, "trailId": trail}, delivery="two")
    cleared = factstore.get(f"/api/v1/trails/{trail}").json

    assert (named[member], cleared[member]) == ("grace", None)
    assert (named["gitAuthor"], cleared["gitAuthor"]) == ("Ada", "Ada")
    assert (f"webhook:{config}", "trail.updated", trail, "") in audit(lite)
    assert attestations(factstore, trail) == []


def test_a_trail_is_found_by_its_commit_within_the_flow(lite, factstore, stranger, config, flow_id):
    other = factstore.post("/api/v1/flows", {"name": "payouts"}).json["id"]
    another_trail(lite, other)
    first, _ = another_trail(lite, flow_id), another_trail(lite, flow_id)

    send(stranger, {"eventType": "test.passed", "gitCommitSha": "c0ffee"})

    assert attestations(factstore, first) == [("TEST", "PASSED", None)]
    assert len(trails(factstore)) == 3


@pytest.mark.parametrize("event", ["test.passed", "build.started", "approval.granted"])
@pytest.mark.parametrize("where", ["in another flow", "nowhere"])
def test_a_trail_of_another_flow_is_as_if_it_were_not_there(
    lite, factstore, stranger, config, event, where
):
    other = factstore.post("/api/v1/flows", {"name": "payouts"}).json["id"]
    trail = another_trail(lite, other)
    named = trail if where == "in another flow" else NOBODY
    before = tables(lite)

    refused = send(stranger, {"eventType": event, "trailId": named, "gitCommitSha": "c0ffee"})

    assert refused.status == 404
    assert refused.json["message"] == f"The flow of this webhook has no trail {named}."
    assert tables(lite) == before


def test_a_config_attests_only_the_types_that_it_allows(lite, factstore, stranger, flow_id):
    values = {"source": "GENERIC", "secret": SECRET, "flowId": flow_id, "allowedTypes": ["BUILD"]}
    assert factstore.post(CONFIGS, values).json["allowedTypes"] == ["BUILD"]
    trail = another_trail(lite, flow_id)
    body = {"trailId": trail, "attestationType": "SNYK", "attestationStatus": "PASSED"}

    answers = [
        send(stranger, {"eventType": "build.succeeded", "trailId": trail}, delivery="one"),
        send(stranger, {"eventType": "scan.passed", "trailId": trail}, delivery="two"),
        send(stranger, {"eventType": "build.succeeded", **body}, delivery="three"),
    ]

    assert [answer.status for answer in answers] == [200, 403, 403]
    message = "This webhook may not attest SNYK; it may attest BUILD."
    assert answers[2].json["message"] == message
    assert attestations(factstore, trail) == [("BUILD", "PASSED", None)]


def test_a_config_that_allows_no_type_attests_nothing(lite, factstore, stranger, flow_id):
    body = {"source": "GENERIC", "secret": SECRET, "flowId": flow_id, "allowedTypes": []}
    factstore.post(CONFIGS, body)
    trail = another_trail(lite, flow_id)

    refused = send(stranger, {"eventType": "test.passed", "trailId": trail})

    assert (refused.status, attestations(factstore, trail)) == (403, [])


def test_a_copy_of_a_signed_body_does_nothing_under_another_id(
    lite, factstore, clock, stranger, config, flow_id
):
    trail = another_trail(lite, flow_id)
    send(stranger, {"eventType": "test.passed", "trailId": trail}, delivery="one")
    send(stranger, {"eventType": "test.failed", "trailId": trail}, delivery="two")
    before = tables(lite)
    clock.advance(10**7)

    again = send(stranger, {"eventType": "test.passed", "trailId": trail}, delivery="three")

    assert again.json == {
        "accepted": True,
        "deliveryId": "three",
        "message": "This delivery was received before; it is ignored.",
    }
    assert tables(lite) == before


@pytest.mark.parametrize("source", ["GITHUB", "JENKINS", "CIRCLECI", "GITLAB", "GENERIC"])
@pytest.mark.parametrize("is_success", [True, False])
def test_copies_of_a_signed_body_leave_one_delivery_whatever_the_source(
    lite, factstore, stranger, configure, source, is_success
):
    config = configure(source)
    body = {"eventType": "build.succeeded" if is_success else "build.failed", "gitCommitSha": "c0"}
    if source == "GITHUB":
        run = RUN["workflow_run"] | {"conclusion": "success" if is_success else "failure"}
        body = RUN | {"workflow_run": run}
    send(stranger, body, source.lower())
    before = tables(lite)

    copies = [
        send(stranger, body, source.lower(), f"copy-{number}", X_GitHub_Delivery=f"other-{number}")
        for number in range(5)
    ]

    assert [copy.status for copy in copies] == [200] * 5
    assert all("was received before" in copy.json["message"] for copy in copies)
    assert tables(lite) == before
    assert len(deliveries(factstore, config)) == 1


@pytest.mark.parametrize(
    ("body", "headers"), [(b"{", {}), (json.dumps(RUN).encode(), {"Content_Type": FORM})]
)
def test_copies_of_what_cannot_be_read_are_kept_once(
    lite, factstore, stranger, configure, body, headers
):
    config = configure("GITHUB")
    first = send(stranger, body, "github", **headers)

    copies = [send(stranger, body, "github", f"copy-{n}", **headers) for n in range(5)]

    assert [answer.status for answer in (first, *copies)] == [400] * 6
    assert [row[2] for row in deliveries(factstore, config)] == ["FAILED"]


def test_a_failure_that_names_no_trail_begins_one_trail_only(lite, factstore, stranger, config):
    for number in range(3):
        send(stranger, {"eventType": "build.failed"}, delivery=str(number))

    assert len(trails(factstore)) == 1


def test_a_failure_in_the_same_words_fails_again(lite, factstore, stranger, config, flow_id):
    trail = another_trail(lite, flow_id)

    for number, event in enumerate(("test.failed", "test.passed", "test.failed")):
        send(stranger, {"eventType": event, "trailId": trail}, delivery=str(number))

    statuses = [status for _, status, _ in attestations(factstore, trail)]
    assert statuses == ["FAILED", "PASSED", "FAILED"]
    assert factstore.get(f"/api/v1/trails/{trail}").json["status"] == "NON_COMPLIANT"


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, ("unknown", "unknown", "webhook", "webhook@factstore")),
        (
            {"gitCommitSha": "", "gitBranch": " ", "gitAuthor": None},
            ("unknown", "unknown", "webhook", "webhook@factstore"),
        ),
        (
            {
                "gitCommitSha": "beef",
                "gitBranch": "main",
                "gitAuthor": "ada",
                "gitAuthorEmail": "ada@example.org",
            },
            ("beef", "main", "ada", "ada@example.org"),
        ),
    ],
)
def test_a_trail_that_is_not_there_is_begun(
    lite, factstore, stranger, config, flow_id, given, made
):
    taken = send(stranger, {"eventType": "build.started"} | given)

    (trail,) = trails(factstore)
    members = ("gitCommitSha", "gitBranch", "gitAuthor", "gitAuthorEmail")
    assert tuple(trail[member] for member in members) == made
    assert (trail["flowId"], trail["status"]) == (flow_id, "PENDING")
    assert taken.json["message"] == (
        f"The event build.started was recorded for the trail {trail['id']}."
    )
    assert (f"webhook:{config}", "trail.begun", trail["id"], "") in audit(lite)


def test_a_trail_is_compliant_once_a_webhook_brings_what_its_flow_requires(
    factstore, stranger, configure
):
    body = {"name": "payouts", "requiredAttestationTypes": ["BUILD"]}
    configure(flow_id=factstore.post("/api/v1/flows", body).json["id"])

    send(stranger, {"eventType": "build.succeeded"})

    assert [trail["status"] for trail in trails(factstore)] == ["COMPLIANT"]


# --- GitHub -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "event", "attested"),
    [
        ({"action": "requested"}, "build.started", []),
        ({"action": "in_progress"}, "build.started", []),
        ({}, "build.succeeded", [("BUILD", "PASSED", None)]),
        ({"workflow_run": {"conclusion": "failure"}}, "build.failed", [("BUILD", "FAILED", None)]),
        ({"workflow_run": {"conclusion": None}}, "build.failed", [("BUILD", "FAILED", None)]),
        ({"workflow_run": None}, "build.failed", [("BUILD", "FAILED", None)]),
        *(
            ({"workflow_run": {"conclusion": word}}, "build.failed", [("BUILD", "FAILED", None)])
            for word in (
                *("action_required", "cancelled", "neutral", "skipped", "stale"),
                *("startup_failure", "timed_out", "Success", "", ["success"], True),
            )
        ),
    ],
)
def test_a_workflow_run_of_github_is_a_build(
    factstore, stranger, configure, change, event, attested
):
    config = configure("GITHUB")

    send(stranger, RUN | change, "github")

    (trail,) = trails(factstore)
    assert [row[1:3] for row in deliveries(factstore, config)] == [(event, "SUCCESS")]
    assert attestations(factstore, trail["id"]) == attested
    assert trail["gitAuthor"] == "grace"


def test_who_ran_the_workflow_is_the_author_where_no_sender_is_told(factstore, stranger, configure):
    configure("GITHUB")

    send(stranger, {name: RUN[name] for name in ("action", "workflow_run")}, "github")

    (trail,) = trails(factstore)
    assert trail["gitAuthor"] == "ada"
    assert (trail["gitCommitSha"], trail["gitBranch"]) == ("c0ffee", "main")


@pytest.mark.parametrize(
    "result", [{"zen": "Design for failure."}, {"action": "opened"}, {"action": ["completed"]}]
)
def test_what_else_github_tells_is_recorded_without_effect(factstore, stranger, configure, result):
    config = configure("GITHUB")

    taken = send(stranger, result, "github")

    assert taken.status == 200
    assert [row[1:3] for row in deliveries(factstore, config)] == [("unknown", "SUCCESS")]
    assert trails(factstore) == []


def test_another_event_of_github_is_no_build_though_it_completes(factstore, stranger, configure):
    config = configure("GITHUB")
    body = {"action": "completed", "check_suite": {"conclusion": "success"}}

    taken = send(stranger, body, "github", X_GitHub_Event="check_suite")

    assert taken.status == 200
    assert [row[1:3] for row in deliveries(factstore, config)] == [("unknown", "SUCCESS")]
    assert trails(factstore) == []


@pytest.mark.parametrize("source", ["JENKINS", "CIRCLECI", "GITLAB", "GENERIC"])
def test_every_other_source_sends_the_generic_shape(factstore, stranger, configure, source):
    configure(source)

    send(stranger, {"eventType": "test.passed", "gitCommitSha": "beef"}, source.lower())

    (trail,) = trails(factstore)
    assert attestations(factstore, trail["id"]) == [("TEST", "PASSED", None)]


def test_github_may_send_its_json_in_a_form(factstore, stranger, configure):
    config = configure("GITHUB")
    body = urllib.parse.urlencode({"payload": json.dumps(RUN)}).encode()

    taken = send(stranger, body, "github", Content_Type=FORM)
    refused = send(stranger, b"payload", "github", delivery="two", Content_Type=FORM)

    (trail,) = trails(factstore)
    assert (taken.status, refused.status) == (200, 400)
    assert attestations(factstore, trail["id"]) == [("BUILD", "PASSED", None)]
    assert [row[2] for row in deliveries(factstore, config)] == ["SUCCESS", "FAILED"]


def test_github_calls_over_a_socket(lite, factstore, configure):
    config = configure("GITHUB")
    body = json.dumps(RUN, indent=2).encode()
    headers = {
        "User-Agent": "GitHub-Hookshot/044aadd",
        "Accept": "*/*",
        "Content-Type": "application/json",
        "X-GitHub-Event": "workflow_run",
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-GitHub-Hook-ID": "292430182",
        "X-Hub-Signature": "sha1=" + hmac.new(SECRET.encode(), body, "sha1").hexdigest(),
        "X-Hub-Signature-256": sign(body),
    }

    with lite.listening() as url:
        answers = at_once(urllib.parse.urlsplit(url).netloc, body, headers, times=4)

    (trail,) = trails(factstore)
    assert sorted(answers) == [(200, "72d3162e-cc78-11e3-81ab-4c9367dc0958")] * 4
    assert attestations(factstore, trail["id"]) == [("BUILD", "PASSED", None)]
    assert [row[:3] for row in deliveries(factstore, config)] == [
        ("72d3162e-cc78-11e3-81ab-4c9367dc0958", "build.succeeded", "SUCCESS")
    ]


def at_once(host, body, headers, times):
    """Status and delivery id of the answers to the same request, sent so many times together."""
    answers, ready = [], threading.Barrier(times)

    def call():
        with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as connection:
            ready.wait(30)
            connection.request("POST", f"{HOOKS}/github", body, headers)
            answer = connection.getresponse()
            answers.append((answer.status, json.loads(answer.read())["deliveryId"]))

    threads = [threading.Thread(target=call) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_the_trails_of_a_commit_are_found_by_an_index(lite):
    plan = lite.workspace.reader.connection().execute(
        "EXPLAIN QUERY PLAN SELECT * FROM trail WHERE flow_id = 1 AND git_commit_sha = 2 "
        "ORDER BY rowid LIMIT 1"
    )

    assert [row[3] for row in plan] == [
        "SEARCH trail USING INDEX trail_lookup (flow_id=? AND git_commit_sha=?)"
    ]


def test_the_document_says_how_a_webhook_is_authenticated(lite):
    document = lite.client().get("/api/v1/openapi.json").json

    described = document["paths"]["/api/v1/webhooks/{source}"]["post"]
    assert described["security"] == []
    assert {parameter["name"] for parameter in described["parameters"]} == {
        "source",
        "X-Hub-Signature-256",
        "X-Webhook-Signature",
        "X-Delivery-Id",
        "X-GitHub-Delivery",
        "X-Dry-Run",
    }
    assert set(described["requestBody"]["content"]) == {"application/json", FORM}
