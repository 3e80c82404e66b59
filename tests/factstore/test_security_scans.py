"""Security scans and their thresholds."""

import json

import pytest
from stored import audit, events, ledger, tables

from factstore.trails import make_trail
from novantra_lite import Trail

SUMMARY = "/api/v1/security-scans/summary"
NOBODY = "00000000-0000-4000-8000-000000000000"
COUNTS = ("critical", "high", "medium", "low")


def path(trail):
    return f"/api/v1/trails/{trail}/security-scans"


@pytest.fixture
def trail(lite):
    return make_trail(lite, required_attestation_types=["SECURITY_SCAN", "junit"])


def trail_of(lite, key):
    with lite.workspace.read():
        return Trail.find(key)


def set_thresholds(lite, client, trail, **limits):
    """Set the thresholds of a trail's flow."""
    flow = trail_of(lite, trail).flow_id
    body = {f"max{name.title()}": limit for name, limit in limits.items()}
    assert client.post(f"/api/v1/flows/{flow}/security-thresholds", body).status == 201


def counts(*numbers):
    return {f"{name}Vulnerabilities": n for name, n in zip(COUNTS, numbers, strict=False)}


def test_a_scan_needs_only_a_tool_and_a_count(lite, factstore, trail):
    created = factstore.post(path(trail), {"tool": "zap", "criticalVulnerabilities": 0})

    key, attestation = created.json["id"], created.json["attestationId"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("trailId", trail),
        ("attestationId", attestation),
        ("tool", "zap"),
        ("toolVersion", None),
        ("scanType", None),
        ("target", None),
        ("criticalVulnerabilities", 0),
        ("highVulnerabilities", 0),
        ("mediumVulnerabilities", 0),
        ("lowVulnerabilities", 0),
        ("informational", 0),
        ("unknown", 0),
        ("passed", None),
        ("scanDurationSeconds", None),
        ("reportUrl", None),
        ("orgSlug", None),
        ("createdAt", "2026-06-01T12:00:00.000000Z"),
        ("thresholdBreached", False),
        ("breachDetails", []),
    ]
    assert factstore.get(f"/api/v1/security-scans/{key.upper()}").json == created.json
    assert factstore.get(path(trail)).json == [created.json]
    assert audit(lite)[-1][1:3] == ("security_scan.recorded", key)
    assert ledger(lite)[-2:] == [
        ("ATTESTATION_RECORDED", attestation),
        ("SECURITY_SCAN_RECORDED", key),
    ]
    assert [name for name, _ in events(lite)] == ["factstore.attestation.recorded"]
    assert lite.verify() == []


def test_everything_that_may_be_told_of_a_scan_is_kept_and_attested(lite, factstore, trail):
    set_thresholds(lite, factstore, trail, critical=1, high=2)
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    body = {
        "tool": "Trivy",
        "toolVersion": "0.69.1",
        "scanType": "CONTAINER",
        "target": "payments:7",
        **counts(1, 2, 3, 4),
        "informational": 5,
        "scanDurationSeconds": 61,
        "reportUrl": "https://ci.example.org/7",
    }

    created = factstore.post(path(trail), body | {"orgSlug": "acme", "passed": True})

    (attestation,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert created.json.items() >= (body | {"orgSlug": "acme"}).items()
    assert list(json.loads(attestation["details"]).items()) == [*body.items(), ("unknown", 0)]
    assert attestation["id"] == created.json["attestationId"]
    assert (attestation["type"], attestation["name"]) == ("SECURITY_SCAN", "security-scan-Trivy")
    assert (attestation["status"], attestation["orgSlug"]) == ("PASSED", "acme")
    assert factstore.get(f"/api/v1/trails/{trail}/audit").json == []


def told(severity, matches, allowed):
    return f"{severity} vulnerabilities: {matches} found, at most {allowed} allowed"


#: Limits, what is found (critical, high, medium, low, informational), and the breaches.
JUDGEMENTS = [
    ({}, (0, 0, 10, 2**31 - 1, 99), []),
    ({}, (1, 0, 0, 0, 0), [told("Critical", 1, 0)]),
    ({}, (0, 0, 11, 0, 0), [told("Medium", 11, 10)]),
    ({"critical": 2, "high": 3, "medium": 4, "low": 5}, (2, 3, 4, 5, 6), []),
    (
        {"critical": 2, "high": 3, "medium": 4, "low": 5},
        (3, 4, 5, 6, 0),
        [told("Critical", 3, 2), told("High", 4, 3), told("Medium", 5, 4), told("Low", 6, 5)],
    ),
    ({"low": -1}, (0, 0, 0, 0, 0), [told("Low", 0, -1)]),
]


@pytest.mark.parametrize(("limits", "matches", "breaches"), JUDGEMENTS)
def test_a_scan_is_held_against_the_thresholds_of_its_flow(
    lite, factstore, trail, limits, matches, breaches
):
    set_thresholds(lite, factstore, trail, **limits)

    scan = factstore.post(
        path(trail), {"tool": "x", **counts(*matches), "informational": matches[4]}
    )

    (attestation,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert scan.status == 201
    assert (scan.json["thresholdBreached"], scan.json["breachDetails"]) == (
        bool(breaches),
        breaches,
    )
    assert attestation["status"] == ("FAILED" if breaches else "PASSED")
    assert trail_of(lite, trail).status == ("NON_COMPLIANT" if breaches else "PENDING")


def test_without_thresholds_nothing_is_a_breach_and_too_much_fails_all_the_same(
    lite, factstore, trail
):
    scan = factstore.post(path(trail), {"tool": "zap", **counts(9, 9, 9, 9)})

    (attestation,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert (scan.json["thresholdBreached"], scan.json["breachDetails"]) == (False, [])
    assert attestation["status"] == "FAILED"
    assert json.loads(attestation["details"])["error"] == (
        "More findings than the default thresholds allow: 0 critical, 0 high, 10 medium."
    )
    assert trail_of(lite, trail).status == "NON_COMPLIANT"


#: What is said of a scan beside its tool.
PASSING = [
    {"criticalVulnerabilities": 0},
    {"informational": 7},
    counts(0, 0, 10, 99),
    {"summary": {"critical": 0}},
    {"summary": {"CRITICAL": 0, "HIGH": "0"}, "status": "completed"},
    {"vulnerabilities": []},
    {"findings": [{"severity": "low"}, {"severity": "INFO"}]},
    {"vulnerabilities": 0},
    {"passed": True},
    {"status": "Passed"},
    {"result": {"success": True}},
    {"critical": 0, "thresholds": {"critical": 3, "high": 9}, "maxHigh": 4},
    {"critical": 0, "errors": [], "failed": False, "error": None},
    {"critical": 0, "layers": [{"status": "scanned"}]},
    {"critical": 0, "tests": {"passed": 12, "failed": 0}},
    {"critical": 0, "info": "the branch main"},
    {"critical": 0, "qualityGate": {"status": "OK"}, "decision": "allow", "compliant": True},
    {"critical": 0, "failedChecks": 0, "exitCode": 0, "secrets": [], "scanner": "x", "runId": 7},
    {"summary": {"critical": 0, "total": 0}, "errorMessage": None, "violations": 0},
    {"counts": [{"severity": "critical", "count": 0}, {"severity": "low", "count": 4}]},
    {"npm": {"medium": 5}, "pip": {"medium": 5}, "medium": 10},
    {"report": {"medium": 6, "findings": [{"severity": "moderate"}] * 6}},
]
FAILING = [
    {},
    {"summary": {}},
    {"summary": None, "target": "shop:7", "scanDurationSeconds": 3},
    {"criticalVulnerabilities": None},
    {"criticalVulnerabilities": 5},
    {"highVulnerabilities": 1},
    {"mediumVulnerabilities": 11},
    {"npm": {"medium": 6}, "pip": {"medium": 6}, "medium": 6},
    {"images": [{"medium": 6}, {"medium": 6}]},
    {"findings": [{"severity": "medium"}] * 6, "issues": [{"severity": "medium"}] * 6},
    {"info": "the branch main"},
    {"unknown": 3},
    {"critical": "3"},
    {"summary": {"CRITICAL": 3}},
    {"summary": {"high_count": 1}},
    {"vulnerabilities": {"critical": 3}},
    {"vulnerabilities": 4},
    {"severityCounts": {"Critical": 2}, "criticalVulnerabilities": 0},
    {"severityCounts": {"critical": "many"}, "passed": True},
    {"severityCounts": {"critical": -1}, "passed": True},
    {"severityCounts": {"critical": True}, "passed": True},
    {"scan": {"report": {"totals": {"highFindings": 1}}}, "passed": True},
    {"findings": [{"severity": "critical"}], "passed": True},
    {"findings": [{"id": "CVE-1"}], "passed": True},
    {"findings": ["CVE-1"], "critical": 0},
    {"results": [{"target": "x", "vulnerabilities": [{"Severity": "HIGH"}]}], "critical": 0},
    {"counts": {"critical": [{"id": "CVE-1"}]}, "passed": True},
    {"status": "FAILED", "critical": 0},
    {"status": "no idea", "critical": 0},
    {"result": "failure", "critical": 0},
    {"result": {"passed": False}, "critical": 0},
    {"summary": {"outcome": "ERROR"}, "passed": True},
    {"checks": [{"status": "failed"}], "critical": 0},
    {"failed": True, "critical": 0},
    {"error": "timeout", "critical": 0},
    {"errors": ["timeout"], "passed": True},
    {"thresholdBreached": True, "critical": 0},
    {"passed": True, "status": "failed"},
    {"vulnerabilities": [{"severity": "MEDIUM", "count": 300}]},
    {"counts": [{"level": "critical", "total": 3}], "passed": True},
    *(
        {name: 3, "passed": True}
        for name in (
            *("vulnerabilities_critical", "criticalVulnerabilitiesFound", "sev_critical"),
            *("newCritical", "fixableCritical", "openCritical", "unfixedHigh", "crit", "blocker"),
        )
    ),
    *(
        {name: value, "critical": 0}
        for name, value in (
            *(("summary", {"total": 4}), ("failedChecks", 12), ("errorCount", 3)),
            *(("policyViolations", 4), ("secrets", [{"RuleID": "x"}]), ("cves", ["CVE-1"])),
            *(("compliant", False), ("decision", "DENY"), ("gate", "FAILED"), ("exitCode", 1)),
            *(("qualityGate", "ERROR"), ("scanFailed", True), ("incomplete", True)),
            *(("errorMessage", "could not pull image"), ("phase", "ABORTED")),
        )
    ),
]
#: What is said where nobody knows what it means.
UNCLEAR = {
    "allowed": False,
    "counts": [{"name": "critical", "value": 3}],
    "message": "Unauthorized",
    "runs": [{"results": [{"level": "error"}]}],
    "hits": 3,
    "grade": "F",
}


@pytest.mark.parametrize(
    ("body", "expected"),
    [*((body, "PASSED") for body in PASSING), *((body, "FAILED") for body in FAILING)],
    ids=str,
)
def test_a_scan_passes_only_by_what_is_said_of_it_wherever_that_stands(
    lite, factstore, trail, body, expected
):
    created = factstore.post(path(trail), {"tool": "zap", **body})

    (attestation,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    metrics = factstore.get("/api/v1/metrics/security").json
    assert created.status == 201
    assert attestation["status"] == expected
    assert ("error" in json.loads(attestation["details"])) == (expected == "FAILED")
    assert (metrics["passedScans"], metrics["failedScans"]) == (
        (1, 0) if expected == "PASSED" else (0, 1)
    )
    assert lite.verify() == []


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_scan_that_says_what_is_not_understood_is_refused(lite, factstore, trail, name):
    before = tables(lite)

    refused = factstore.post(path(trail), {"tool": "zap", "critical": 0, name: UNCLEAR[name]})

    assert (refused.status, "not understood" in refused.json["message"]) == (422, True)
    assert tables(lite) == before


def test_a_scan_counts_as_its_attestation_ended_under_thresholds_too(lite, factstore, trail):
    set_thresholds(lite, factstore, trail, critical=5)

    factstore.post(path(trail), {"tool": "zap", **counts(5)})

    (attestation,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    metrics = factstore.get("/api/v1/metrics/security").json
    assert attestation["status"] == "PASSED"
    assert (metrics["passedScans"], metrics["failedScans"]) == (1, 0)


def test_hostile_names_and_counts_of_a_scan_are_taken_at_once(lite, factstore, trail):
    most = 2**31 - 1
    bodies = [
        {"critical" + "vulns" * 4000 + "x": 0, "high": most, "unknown": most},
        {"severityCounts": {"critical": 10**30}},
        {"findings": [{"severity": {"a": 1}}] * 15_000},
        {"findings": [{"severity": "info"}] * 25_000},
        {"critical": 0, **{f"a{number}": 0 for number in range(25_000)}},
    ]

    answers = [factstore.post(path(trail), {"tool": "zap"} | body) for body in bodies]

    statuses = [
        each["status"] for each in factstore.get(f"/api/v1/trails/{trail}/attestations").json
    ]
    assert [answer.status for answer in answers] == [201] * 5
    assert answers[0].json["highVulnerabilities"] == most
    assert statuses == ["FAILED"] * 5


def test_a_read_judges_by_what_was_in_force_when_the_scan_was_recorded(lite, factstore, trail):
    body = {"tool": "zap", **counts(1)}
    before = factstore.post(path(trail), body).json
    set_thresholds(lite, factstore, trail)
    strict = factstore.post(path(trail), body).json
    set_thresholds(lite, factstore, trail, critical=5)

    listed = factstore.get(path(trail)).json

    assert listed == [before, strict]
    assert [scan["thresholdBreached"] for scan in listed] == [False, True]
    assert factstore.get(f"/api/v1/security-scans/{strict['id']}").json == strict
    assert strict["breachDetails"] == ["Critical vulnerabilities: 1 found, at most 0 allowed"]


def test_a_breach_moves_its_trail_and_a_scan_that_completes_the_facts_does_too(
    lite, clock, factstore, trail
):
    set_thresholds(lite, factstore, trail)
    clock.advance(60)

    factstore.post(path(trail), {"tool": "zap", **counts(1)})
    breached = trail_of(lite, trail)
    factstore.post(f"/api/v1/trails/{trail}/attestations", {"type": "junit", "status": "PASSED"})
    lacking = trail_of(lite, trail).status
    factstore.post(path(trail), {"tool": "zap", **counts(0)})

    assert breached.updated_at == "2026-06-01T12:01:00.000000Z"
    assert (breached.status, lacking) == ("NON_COMPLIANT", "NON_COMPLIANT")
    assert trail_of(lite, trail).status == "COMPLIANT"
    assert [name for name, _ in events(lite)].count("factstore.trail.settled") == 2


GUIDE = {"tool": "zap", "version": "2.15", "passed": True}


@pytest.mark.parametrize(
    ("body", "version", "matches"),
    [
        ({"summary": {"critical": 1, "low": 4}}, "2.15", [1, 0, 0, 4]),
        ({"summary": {"high": 2, "medium": None, "total": 2}}, "2.15", [0, 2, 0, 0]),
        # Of what severity the others are is not said.
        ({"summary": {"high": 2, "total": 9}}, "2.15", [0, 9, 0, 0]),
        ({"summary": {"critical": 1}, "highVulnerabilities": 3}, "2.15", [1, 3, 0, 0]),
        ({"summary": {"critical": 1}, "criticalVulnerabilities": None}, "2.15", [1, 0, 0, 0]),
        ({"summary": None, "toolVersion": "3"}, "3", [0, 0, 0, 0]),
        (
            {"criticalCount": 1, "highCount": 2, "mediumCount": 3, "lowCount": 4},
            "2.15",
            [1, 2, 3, 4],
        ),
        ({"critical": 1, "high": 2, "medium": 3, "low": 4}, "2.15", [1, 2, 3, 4]),
        ({"criticalVulnerabilities": 0, "critical": 5, "criticalCount": 2}, "2.15", [5, 0, 0, 0]),
        ({"summary": {"criticalCount": 4, "lowVulnerabilities": 1}}, "2.15", [4, 0, 0, 1]),
        ({"summary": {"critical": 3}, "critical": 2}, "2.15", [3, 0, 0, 0]),
        ({"unknown": 2, "high": 1}, "2.15", [0, 3, 0, 0]),
        ({"summary": {"unknown": 2}}, "2.15", [0, 2, 0, 0]),
    ],
)
def test_counts_are_taken_in_every_form_and_the_largest_of_what_is_said_twice(
    factstore, trail, body, version, matches
):
    created = factstore.post(path(trail), GUIDE | body)

    assert created.status == 201
    assert created.json["toolVersion"] == version
    assert [created.json[f"{name}Vulnerabilities"] for name in COUNTS] == matches


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (None, "tool: Required"),
        ([], "Expected object"),
        ({}, "tool: Required"),
        ({"tool": None}, "tool: Required"),
        ({"tool": " "}, "tool: Expected text that is not blank"),
        ({"tool": "x" * 101}, "tool: Expected 1 to 100 characters"),
        ({"tool": ["x"]}, "tool: Expected string"),
        ({"tool": "x", "toolVersion": "x" * 51}, "toolVersion: Expected at most 50 characters"),
        ({"tool": "x", "scanType": "sast"}, "scanType: Expected one of: DAST, SAST, SCA, CONTAINE"),
        ({"tool": "x", "target": "x" * 501}, "target: Expected at most 500 characters"),
        ({"tool": "x", **counts(-1)}, "criticalVulnerabilities: Expected a number from 0 to"),
        ({"tool": "x", **counts(0, 2**31)}, "highVulnerabilities: Expected a number from 0 to"),
        ({"tool": "x", "informational": "many"}, "informational: Expected integer"),
        ({"tool": "x", "scanDurationSeconds": 2**63}, "scanDurationSeconds: Expected a number"),
        ({"tool": "x", "summary": []}, "summary: Expected object"),
        ({"tool": "x", "passed": "no idea"}, "passed: Expected"),
        ({"tool": "x", "criticalCount": -1}, "criticalCount: Expected a number from 0 to"),
        ({"tool": "x", "summary": {"low": -1}}, "summary.low: Expected a number from 0 to"),
    ],
)
def test_a_wrong_scan_is_refused(lite, factstore, trail, body, why):
    before = tables(lite)

    refused = factstore.post(path(trail), body)

    assert refused.status == 400
    assert why in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("body", [{"passed": False}, {"summary": {"passed": False}}])
@pytest.mark.parametrize("limits", [None, {}, {"critical": 9, "high": 9}])
def test_a_scan_that_did_not_pass_by_its_own_word_never_passes(
    lite, factstore, trail, body, limits
):
    if limits is not None:
        set_thresholds(lite, factstore, trail, **limits)

    scan = factstore.post(path(trail), {"tool": "zap", **body})

    (attestation,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert (scan.json["passed"], scan.json["thresholdBreached"]) == (False, True)
    assert scan.json["breachDetails"] == ["The scan is recorded as not passed"]
    assert attestation["status"] == "FAILED"
    assert json.loads(attestation["details"])["error"] == "The scan is recorded as not passed."
    assert trail_of(lite, trail).status == "NON_COMPLIANT"
    assert factstore.get("/api/v1/metrics/security").json["failedScans"] == 1
    assert lite.verify() == []


def test_a_scan_that_passed_by_its_own_word_is_held_against_the_thresholds_all_the_same(
    lite, factstore, trail
):
    set_thresholds(lite, factstore, trail)

    factstore.post(path(trail), {"tool": "zap", "passed": True, "criticalCount": 1})

    (attestation,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert attestation["status"] == "FAILED"


def test_what_is_not_there_is_named(lite, factstore, trail):
    before = tables(lite)

    refused = [
        factstore.post(path(NOBODY), {"tool": "zap"}),
        factstore.post(path(trail), {"tool": "zap", "orgSlug": "acme"}),
        factstore.get(path(NOBODY)),
        factstore.get(f"/api/v1/security-scans/{NOBODY}"),
    ]
    malformed = [
        factstore.post(path("x"), {"tool": "zap"}),
        factstore.get(path("x")),
        factstore.get("/api/v1/security-scans/x"),
    ]

    assert [(response.status, response.json["message"]) for response in refused] == [
        (404, f"There is no trail with the id {NOBODY}."),
        (404, "There is no organisation 'acme'."),
        (404, f"There is no trail with the id {NOBODY}."),
        (404, f"There is no security scan with the id {NOBODY}."),
    ]
    assert [response.status for response in malformed] == [400, 400, 400]
    assert tables(lite) == before


def test_the_summary_adds_up_every_scan(lite, factstore, trail):
    empty = factstore.get(SUMMARY).json
    other = make_trail(lite, "reports")
    factstore.post(path(trail), {"tool": "zap", **counts(1, 2, 3, 4)})
    factstore.post(path(other), {"tool": "zap", **counts(0, 5), "informational": 7})

    summed = factstore.get(SUMMARY)

    assert set(empty.values()) == {0}
    assert list(summed.json.items()) == [
        ("totalScans", 2),
        ("totalCritical", 1),
        ("totalHigh", 7),
        ("totalMedium", 3),
        ("totalLow", 4),
        ("scansWithCritical", 1),
    ]


@pytest.mark.parametrize("header", ["X-Dry-Run", "X-Factstore-Dry-Run"])
def test_a_dry_run_judges_and_stores_nothing(lite, factstore, trail, header):
    set_thresholds(lite, factstore, trail)
    before = tables(lite)

    tried = factstore.post(path(trail), {"tool": "zap", **counts(1)}, headers={header: "true"})

    assert (tried.status, tried.json["dryRun"]) == (200, True)
    assert tried.json["wouldCreate"]["thresholdBreached"] is True
    assert tables(lite) == before


def test_a_flow_whose_trails_were_scanned_stays(lite, factstore, trail):
    factstore.post(path(trail), {"tool": "zap"})

    refused = factstore.delete(f"/api/v1/flows/{trail_of(lite, trail).flow_id}")

    assert refused.status == 409
    assert refused.json["message"] == "This flow is still in use by attestation records."


def test_recording_takes_the_scope_to_write(lite, trail):
    reader, writer = lite.client("factstore:read"), lite.client("factstore:write")

    assert reader.post(path(trail), {"tool": "zap"}).status == 403
    assert writer.post(path(trail), {"tool": "zap"}).status == 201
    assert writer.get(SUMMARY).status == 403
    assert reader.get(SUMMARY).json["totalScans"] == 1
