"""What operators ask for: health, the scrape of Prometheus, the document and its page."""

import json
import random
import urllib.request

import pytest
from conftest import NOON, Clock
from prometheus_client.parser import text_string_to_metric_families
from stored import audit, ledger

import novantra_lite
from novantra_lite import FACTSTORE_SCOPES, NovantraLite, Trail, record_scan

from .trails import make, make_attestation, make_trail

HEALTH, SCRAPE = "/actuator/health", "/actuator/prometheus"
#: What the dashboards of Grafana ask for, by its full name.
GAUGES = [
    "factstore_trails_total",
    "factstore_trails_compliant",
    "factstore_trails_non_compliant",
    "factstore_attestations_total",
    "factstore_attestations_passed",
    "factstore_attestations_failed",
    "factstore_security_scans_total",
    "factstore_security_scans_passed",
    "factstore_security_scans_failed",
    "factstore_compliance_rate",
    "factstore_approvals_pending",
    "factstore_drift_detected",
]


def samples(text):
    """Every sample of an exposition: its name, its labels, its value."""
    families = text_string_to_metric_families(text)
    return [
        (sample.name, sample.labels, sample.value)
        for family in families
        for sample in family.samples
    ]


def scrape(client):
    """The values of an exposition, by the name of the sample."""
    answer = client.get(SCRAPE)
    assert answer.status == 200
    return {name: value for name, _, value in samples(answer.body.decode())}


# --- Health -------------------------------------------------------------------


def test_health_is_public_and_up(lite):
    answer = lite.client().get(HEALTH)

    assert (answer.status, answer.json) == (200, {"status": "UP"})


def test_health_is_down_while_no_workspace_can_be_read(lite):
    lite.workspace.writer.database.connection().execute("DROP TABLE organization")

    answer = lite.client().get(HEALTH)
    ready = lite.client().get("/api/health/ready")

    fault = {"workspace": "workspace", "fault": "The workspace's file cannot be read."}
    assert (answer.status, answer.json) == (503, {"status": "DOWN", "faults": [fault]})
    assert answer.headers["retry-after"] == "1"
    assert (ready.status, ready.json["message"]) == (503, "The workspace's file cannot be read.")


def test_health_names_a_workspace_that_cannot_be_read_beside_those_that_can(tmp_path):
    with NovantraLite(workspaces=tmp_path) as lite:
        lite.create_workspace("alpha")
        broken = lite.create_workspace("beta")
        broken.writer.database.connection().execute("DROP TABLE organization")

        answer = lite.client().get(HEALTH)
        ready = lite.client().get("/api/health/ready")

    faults = [{"workspace": "beta", "fault": "The workspace's file cannot be read."}]
    assert (answer.status, answer.json) == (200, {"status": "UP", "faults": faults})
    assert (ready.status, ready.json) == (200, {"status": "ok", "faults": faults})


def test_the_document_says_what_health_answers_when_it_is_down(lite):
    answers = lite.client().get("/api-docs").json["paths"][HEALTH]["get"]["responses"]

    schemas = {status: answers[status]["content"] for status in ("200", "503")}
    assert schemas["503"] == schemas["200"]
    (schema,) = (value["schema"] for value in schemas["200"].values())
    assert schema["properties"]["status"]["enum"] == ["UP", "DOWN"]


# --- Prometheus ---------------------------------------------------------------


def test_the_gauges_have_the_names_that_dashboards_ask_for(factstore):
    answer = factstore.get(SCRAPE)

    kinds = {
        family.name: family.type for family in text_string_to_metric_families(answer.body.decode())
    }
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert {name: kinds.get(name) for name in GAUGES} == dict.fromkeys(GAUGES, "gauge")
    for name in GAUGES:
        assert f"\n{name} 0.0\n" in answer.body.decode()


def test_the_gauges_say_what_holds_when_they_are_asked_for(lite, factstore):
    trails = [make_trail(lite, name) for name in ("payments", "billing", "lending", "audit")]
    for status in ("PASSED", "PASSED", "FAILED", "PENDING"):
        make_attestation(lite, trails[0], status=status)
    values = {"tool": "trivy", "high_vulnerabilities": 1}
    make(lite, lambda: record_scan(Trail.find(trails[1]), values))
    make(lite, lambda: record_scan(Trail.find(trails[1]), {"tool": "trivy"}))
    for trail, status in zip(trails, ("COMPLIANT", "NON_COMPLIANT", "COMPLIANT"), strict=False):
        make(lite, lambda key=trail, status=status: Trail.find(key).change(status=status))

    result = scrape(factstore)

    # Each scan is an attestation too; one found more than passes without thresholds.
    assert {name: result[name] for name in GAUGES} == {
        "factstore_trails_total": 4.0,
        "factstore_trails_compliant": 2.0,
        "factstore_trails_non_compliant": 1.0,
        "factstore_attestations_total": 6.0,
        "factstore_attestations_passed": 3.0,
        "factstore_attestations_failed": 2.0,
        "factstore_security_scans_total": 2.0,
        "factstore_security_scans_passed": 1.0,
        "factstore_security_scans_failed": 1.0,
        "factstore_compliance_rate": 50.0,
        "factstore_approvals_pending": 0.0,
        "factstore_drift_detected": 0.0,
    }


def test_approvals_are_pending_until_somebody_decides_or_their_time_is_over(lite, factstore, clock):
    trail = make_trail(lite)
    for deadline in (None, "2026-06-01T12:05:00Z", "2026-06-01T13:00:00Z"):
        body = {"requiredApprovers": ["eve"], "deadline": deadline}
        response = factstore.post(f"/api/v1/trails/{trail}/approvals", body)
        assert response.status == 200
    before = scrape(factstore)["factstore_approvals_pending"]

    clock.advance(600)
    expired = scrape(factstore)["factstore_approvals_pending"]
    factstore.post(f"/api/v1/approvals/{response.json['id']}/approve", {"approverIdentity": "eve"})

    assert (before, expired) == (3.0, 2.0)
    assert scrape(factstore)["factstore_approvals_pending"] == 1.0


def test_drift_counts_the_environments_that_differ_from_their_baseline_now(lite, factstore):
    environments = []
    for name in ("production", "staging", "elsewhere"):
        made = factstore.post("/api/v1/environments", {"name": name, "type": "K8S"}).json
        environments.append(f"/api/v1/environments/{made['id']}")
    digests = ["sha256:" + digit * 64 for digit in "ab"]

    def run(environment, digest):
        artifact = {"artifactSha256": digest, "artifactName": "app", "artifactTag": "1"}
        body = {"recordedBy": "ci", "artifacts": [artifact]}
        return factstore.post(f"{environment}/snapshots", body).json["id"]

    for environment in environments[:2]:
        baseline = {"snapshotId": run(environment, digests[0]), "approvedBy": "eve"}
        assert factstore.post(f"{environment}/baselines", baseline).status == 201
    counted = [scrape(factstore)["factstore_drift_detected"]]
    for environment, digest in ((0, 1), (1, 1), (0, 0)):
        run(environments[environment], digests[digest])
        counted.append(scrape(factstore)["factstore_drift_detected"])

    assert counted == [0.0, 1.0, 2.0, 1.0]


def test_operators_hear_of_the_file_and_of_what_waits(lite, factstore):
    lite.webhooks.add("https://93.184.215.14/hook", ["factstore.attestation.recorded"])
    factstore.post("/api/v1/flows", {"name": "payments"})
    trail = make_trail(lite, "billing")
    factstore.post(f"/api/v1/trails/{trail}/attestations", {"type": "scan"})

    result = scrape(factstore)

    assert result["novantra_lite_deliveries_waiting"] == 1.0
    assert result["novantra_lite_audit_entries_total"] == len(audit(lite))
    assert result["novantra_lite_ledger_entries_total"] == len(ledger(lite))
    assert result["novantra_lite_file_bytes"] == novantra_lite.file_bytes(lite.workspace) > 100_000
    info = f'novantra_lite_info{{version="{novantra_lite.__version__}"}} 1.0'
    assert info in factstore.get(SCRAPE).body.decode()


def test_several_workspaces_are_told_apart_by_a_label_and_see_only_themselves(tmp_path):
    options = {"clock": Clock(), "random": random.Random(7)}
    with NovantraLite(workspaces=tmp_path, workspace="alpha", **options) as lite:
        for slug in ("alpha", "beta"):
            lite.create_workspace(slug)
        make_trail(lite)

        mine = samples(lite.client("factstore:read").get(SCRAPE).body.decode())
    with NovantraLite(workspaces=tmp_path, workspace="beta", **options) as lite:
        theirs = samples(lite.client("factstore:read").get(SCRAPE).body.decode())

    assert ("factstore_trails_total", {"workspace": "alpha"}, 1.0) in mine
    assert ("factstore_trails_total", {"workspace": "beta"}, 0.0) in theirs
    assert {labels.get("workspace") for _, labels, _ in mine} == {"alpha", None}
    assert {labels.get("workspace") for _, labels, _ in theirs} == {"beta", None}


def test_a_scrape_needs_the_scope_to_read(lite):
    assert lite.client().get(SCRAPE).status == 401
    assert lite.client("factstore:write").get(SCRAPE).status == 403


def test_an_open_factstore_is_scraped_without_credentials(clock):
    with NovantraLite(clock=clock, factstore_auth="open") as lite:
        assert scrape(lite.client())["factstore_trails_total"] == 0.0


def test_a_real_scrape_presents_an_api_key_as_a_bearer_token():
    with NovantraLite(clock=lambda: NOON, random=random.Random(7)) as lite:
        make_trail(lite)
        key = lite.api_keys.create("prometheus", ["factstore:read"])["apiKey"]
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        headers = {"Authorization": f"Bearer {key}", "Accept": accept}

        with lite.listening() as url:
            request = urllib.request.Request(url + SCRAPE, headers=headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                media, text = answer.headers["Content-Type"], answer.read().decode()

    assert media == "text/plain; version=0.0.4; charset=utf-8"
    assert ("factstore_trails_total", {}, 1.0) in samples(text)


def test_a_scrape_takes_a_fixed_number_of_statements(lite, factstore):
    seen, connection = [], lite.workspace.reader.connection()
    scrape(factstore)
    connection.set_trace_callback(seen.append)
    scrape(factstore)
    first = len(seen)
    for name in range(10):
        make_attestation(lite, make_trail(lite, f"flow-{name}"))

    seen.clear()
    scrape(factstore)

    connection.set_trace_callback(None)
    assert len(seen) == first
    assert first < 15


# --- The document, the page, and paths that are not there ---------------------


def test_the_openapi_document_is_there_under_its_other_name(lite):
    answer = lite.client().get("/api-docs")

    assert answer.status == 200
    assert answer.body == lite.client().get("/api/v1/openapi.json").body
    assert json.loads(answer.body)["openapi"] == "3.1.0"


def test_the_page_of_the_reference_server_leads_to_ours(lite):
    answer = lite.client().get("/swagger-ui.html")

    assert (answer.status, answer.headers["location"], answer.body) == (302, "/docs", b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/actuator", 404),
        ("GET", "/actuator/env", 404),
        ("GET", "/actuator/health/liveness", 404),
        ("GET", "/api-docs/swagger-config", 404),
        ("POST", "/actuator/health", 405),
        ("DELETE", "/actuator/prometheus", 405),
        ("PUT", "/api-docs", 405),
        ("POST", "/swagger-ui.html", 405),
    ],
)
def test_what_is_not_there_is_worded_the_factstore_way(lite, method, path, status):
    refused = lite.client(*FACTSTORE_SCOPES).request(method, path)

    assert refused.status == status
    assert list(refused.json) == ["status", "error", "message", "timestamp"]
