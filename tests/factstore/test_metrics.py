"""Metrics and the dashboard: what everything that was recorded adds up to."""

import pytest

from novantra_lite import Trail, record_scan

from .trails import make, make_attestation, make_trail

METRICS = "/api/v1/metrics"
STATS = "/api/v1/dashboard/stats"
NOON = "2026-06-01T12:00:00.000000Z"


def make_trails(lite, **statuses):
    """Trails by status, each of a flow of its own."""
    for status, number in statuses.items():
        for count in range(number):
            trail = make_trail(lite, f"{status}-{count}")
            make(lite, lambda key=trail, status=status: Trail.find(key).change(status=status))
    return trail


def test_compliance_is_counted_and_its_rate_is_not_rounded(lite, factstore):
    trail = make_trails(lite, COMPLIANT=1, NON_COMPLIANT=1, PENDING=1)
    for status in ("PASSED", "PASSED", "FAILED", "PENDING"):
        make_attestation(lite, trail, status=status)

    answer = factstore.get(f"{METRICS}/compliance")

    assert answer.status == 200
    assert answer.json == {
        "totalTrails": 3,
        "compliantTrails": 1,
        "nonCompliantTrails": 1,
        "complianceRate": 33.333333333333336,
        "totalAttestations": 4,
        "passedAttestations": 2,
        "failedAttestations": 1,
        "generatedAt": NOON,
    }


def test_a_scan_fails_with_anything_critical_or_high(lite, factstore):
    trail = make_trail(lite)
    for counts in (
        {"critical_vulnerabilities": 1, "low_vulnerabilities": 3},
        {"high_vulnerabilities": 2},
        {"medium_vulnerabilities": 5, "informational": 9},
        {},
    ):
        make(
            lite, lambda counts=counts: record_scan(Trail.find(trail), {"tool": "trivy", **counts})
        )

    answer = factstore.get(f"{METRICS}/security")

    assert answer.status == 200
    assert answer.json == {
        "totalScans": 4,
        "passedScans": 2,
        "failedScans": 2,
        "totalCritical": 1,
        "totalHigh": 2,
        "totalMedium": 5,
        "totalLow": 3,
        "generatedAt": NOON,
    }


def test_the_dashboard_counts_flows_and_trails(lite, factstore):
    make_trails(lite, COMPLIANT=2, PENDING=1)
    factstore.post("/api/v1/flows", {"name": "without trails"})

    answer = factstore.get(STATS)

    assert answer.status == 200
    assert answer.json == {
        "totalFlows": 4,
        "totalTrails": 3,
        "compliantTrails": 2,
        "nonCompliantTrails": 0,
        "pendingTrails": 1,
        "complianceRate": 66.67,
    }


@pytest.mark.parametrize("path", [f"{METRICS}/compliance", f"{METRICS}/security", STATS])
def test_an_empty_workspace_adds_up_to_nothing(factstore, path):
    body = factstore.get(path).json

    assert {value for name, value in body.items() if name != "generatedAt"} == {0}


@pytest.mark.parametrize("path", [f"{METRICS}/compliance", f"{METRICS}/security", STATS])
def test_numbers_need_the_scope_to_read(lite, path):
    assert lite.client().get(path).status == 401
    assert lite.client("factstore:write").get(path).status == 403


def test_numbers_follow_the_operations_that_change_them(factstore):
    flow = factstore.post(
        "/api/v1/flows", {"name": "payments", "requiredAttestationTypes": ["scan"]}
    ).json["id"]
    begun = {"flowId": flow, "gitCommitSha": "f00d", "gitBranch": "main"}
    begun |= {"gitAuthor": "ada", "gitAuthorEmail": "ada@example.org"}
    trail = factstore.post("/api/v1/trails", begun).json["id"]
    path = f"/api/v1/trails/{trail}/attestations"

    factstore.post(path, {"type": "scan", "status": "PASSED"}, headers={"X-Dry-Run": "true"})
    rehearsed = factstore.get(STATS).json
    factstore.post(path, {"type": "scan", "status": "PASSED"})

    assert (rehearsed["pendingTrails"], rehearsed["compliantTrails"]) == (1, 0)
    assert factstore.get(STATS).json["compliantTrails"] == 1
    assert factstore.get(f"{METRICS}/compliance").json["passedAttestations"] == 1
