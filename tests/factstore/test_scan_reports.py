"""Scan reports, as Trivy, Grype and Snyk write them, in SARIF and CycloneDX: what they count."""

import io
import json

import pytest
from forms import upload
from looking import tables

from factstore.trails import evidence_path, make_attestation, make_trail
from novantra_lite import Attestation, NovantraLite, Problem, Trail

REASON = "The nightly scan."
FOUND = ("critical", "high", "medium", "low")


@pytest.fixture
def trail(lite):
    return make_trail(lite)


def imported(lite, trail, report, name="report.json", **options):
    content = report if isinstance(report, bytes) else json.dumps(report).encode()
    return lite.import_scan(io.BytesIO(content), name, trail=trail, reason=REASON, **options)


def seen(scan):
    """Tool, its version, kind, target, and the counts from critical to informational."""
    named = [scan[name] for name in ("tool", "toolVersion", "scanType", "target")]
    return (*named, [scan[f"{name}Vulnerabilities"] for name in FOUND] + [scan["informational"]])


def trivy(*severities, **others):
    found = [{"VulnerabilityID": "CVE-2019-1549", "Severity": one} for one in severities]
    result = {"Target": "alpine 3.10.2", "Class": "os-pkgs", "Vulnerabilities": found}
    return {
        "SchemaVersion": 2,
        "ArtifactName": "alpine:3.10",
        "ArtifactType": "container_image",
        "Metadata": {"OS": {"Family": "alpine", "Name": "3.10.2"}},
        "Results": [result, *others.pop("results", [])],
        **others,
    }


TRIVY_FILES = {
    "Target": "Dockerfile",
    "Vulnerabilities": None,
    "Misconfigurations": [
        {"ID": "DS002", "Severity": "HIGH", "Status": "FAIL"},
        {"ID": "DS026", "Severity": "LOW", "Status": "PASS"},
        {"ID": "DS001", "Severity": "LOW", "Status": "EXCEPTION"},
    ],
    "Secrets": [{"RuleID": "aws-access-key-id", "Severity": "CRITICAL"}],
    "Licenses": [{"Severity": "CRITICAL", "Name": "AGPL-3.0"}],
    "ExperimentalModifiedFindings": [{"Status": "ignored", "Finding": {"Severity": "HIGH"}}],
}


def grype(*severities, **others):
    found = [{"vulnerability": {"id": "CVE-1", "severity": s}} for s in severities]
    return {
        "matches": found,
        "ignoredMatches": [{"vulnerability": {"id": "CVE-9", "severity": "Critical"}}],
        "source": {"type": "image", "target": {"userInput": "alpine:3.10", "layers": []}},
        "distro": {"name": "alpine", "version": "3.10"},
        "descriptor": {"name": "grype", "version": "0.118.0"},
        **others,
    }


def snyk(*issues, **others):
    found = [{"id": name, "severity": severity} for name, severity in issues]
    return {"ok": not found, "vulnerabilities": found, "projectName": "shop", **others}


def run(*results, driver="CodeQL", rules=(), extensions=(), **told):
    driver = {"name": driver, "rules": [*rules], **told}
    tool = {"driver": driver, "extensions": [{"name": "x", "rules": [*extensions]}]}
    return {"tool": tool, "results": [{"message": {"text": "."}, **one} for one in results]}


def sarif(*runs):
    return {"$schema": "sarif-2.1.0.json", "version": "2.1.0", "runs": [*runs]}


def rule(name, score=None, level=None):
    scored = {"properties": {"security-severity": score, "tags": ["security"]}} if score else {}
    return {"id": name, **scored, **({"defaultConfiguration": {"level": level}} if level else {})}


def cyclonedx(*vulnerabilities, **metadata):
    tools = {"components": [{"type": "application", "name": "trivy", "version": "0.69.1"}]}
    component = {"type": "container", "name": "shop:7", "version": "7"}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "metadata": {"tools": tools, "component": component} | metadata,
        "components": [{"type": "library", "name": "bash", "version": "5.0-4"}],
        "vulnerabilities": [*vulnerabilities],
    }


def rated(*severities, **others):
    return {"id": "CVE-1", "ratings": [{"severity": one} for one in severities], **others}


def scored(*scores, method="CVSSv31"):
    return {"id": "CVE-1", "ratings": [{"score": one, "method": method} for one in scores]}


TRIVY = ("Trivy", None, "CONTAINER", "alpine:3.10")
GRYPE = ("Grype", "0.118.0", "CONTAINER", "alpine:3.10")
SNYK = ("Snyk", None, "SCA", "shop")
CODEQL = ("CodeQL", None, None, None)
CYCLONEDX = ("trivy", "0.69.1", "CONTAINER", "shop:7")
REPORTS = {
    "trivy": (
        trivy("CRITICAL", "HIGH", "HIGH", "MEDIUM", "LOW", "UNKNOWN", Trivy={"Version": "0.69.1"}),
        ("Trivy", "0.69.1", *TRIVY[2:], [1, 2, 1, 1, 1]),
    ),
    "trivy, beyond vulnerabilities": (
        trivy("LOW", results=[TRIVY_FILES], ArtifactType="repository", ArtifactName="."),
        ("Trivy", None, "SCA", ".", [1, 1, 0, 1, 0]),
    ),
    "trivy, nothing scanned": (
        {"SchemaVersion": 2, "ArtifactName": ".", "ArtifactType": "filesystem"},
        ("Trivy", None, "SCA", ".", [0, 0, 0, 0, 0]),
    ),
    "grype": (
        grype("Critical", "High", "Medium", "Low", "Negligible", "Unknown", ""),
        (*GRYPE, [1, 1, 1, 1, 3]),
    ),
    "grype of a directory": (
        grype(source={"type": "directory", "target": "/src"}),
        ("Grype", "0.118.0", "SCA", "/src", [0, 0, 0, 0, 0]),
    ),
    "snyk": (
        snyk(("A", "critical"), ("B", "high"), ("C", "medium"), ("D", "low")),
        (*SNYK, [1, 1, 1, 1, 0]),
    ),
    "snyk, one issue on several paths": (snyk(*[("A", "high")] * 3), (*SNYK, [0, 1, 0, 0, 0])),
    "snyk, several projects": (
        [snyk(("A", "high")), snyk(("A", "high"), ("B", "low"), projectName="admin")],
        ("Snyk", None, "SCA", "shop, admin", [0, 2, 0, 1, 0]),
    ),
    "snyk, an image and what runs in it": (
        snyk(
            ("A", "low"),
            docker={"baseImage": "node"},
            projectName="docker-image|shop",
            applications=[snyk(("B", "critical"))],
        ),
        ("Snyk", None, "CONTAINER", "docker-image|shop, shop", [1, 0, 0, 1, 0]),
    ),
    "sarif by level": (
        sarif(run(*({"level": one} for one in ("error", "warning", "note", "none")), {})),
        (*CODEQL, [0, 1, 2, 1, 1]),
    ),
    "sarif by score": (
        sarif(
            run(
                *({"ruleId": one, "level": "note"} for one in "abcdefgh"),
                rules=[
                    *(rule("a", "10.0"), rule("b", "9.0"), rule("c", "8.9"), rule("d", "7")),
                    *(rule("e", "4.0"), rule("f", "3.9"), rule("g", "0.1"), rule("h", "0.0")),
                ],
            )
        ),
        (*CODEQL, [2, 2, 1, 2, 1]),
    ),
    "sarif by rule, wherever that is told": (
        sarif(
            run(
                {"ruleId": "py/sql"},
                {"ruleId": "py/sql/7"},
                {"ruleIndex": 1},
                {"rule": {"id": "py/xss"}},
                {"ruleId": "py/gone"},
                {"properties": {"security-severity": 1.5}, "ruleId": "py/sql"},
                rules=[rule("py/sql", "9.8"), rule("py/style", level="error")],
                extensions=[rule("py/xss", "6.1")],
                semanticVersion="2.20.0",
            )
        ),
        ("CodeQL", "2.20.0", None, None, [2, 1, 2, 1, 0]),
    ),
    "sarif, less what does not count": (
        sarif(
            run(
                {"level": "error", "kind": "pass"},
                {"level": "error", "kind": "notApplicable"},
                {"level": "error", "baselineState": "absent"},
                {"level": "error", "suppressions": [{"kind": "inSource"}]},
                {
                    "level": "error",
                    "suppressions": [{"status": "rejected"}, {"status": "accepted"}],
                },
                {"level": "error", "suppressions": [{"status": "rejected"}]},
                {"level": "error", "suppressions": [{"status": "underReview"}]},
                {"level": "error", "suppressions": [], "baselineState": "new"},
                {"kind": "open"},
                {"kind": "informational"},
            )
        ),
        (*CODEQL, [0, 3, 1, 0, 1]),
    ),
    "sarif of several tools": (
        sarif(
            run({}, driver="Semgrep OSS", version="1.9"),
            run({}, driver="KICS", version="2.1"),
            run(driver="KICS", version="2.1"),
        ),
        ("Semgrep OSS, KICS", None, None, None, [0, 0, 2, 0, 0]),
    ),
    "cyclonedx": (
        cyclonedx(
            rated("low", "critical", "medium"),
            rated("high"),
            rated("none"),
            rated("info", "unknown"),
            rated(),
            {"id": "CVE-2"},
        ),
        (*CYCLONEDX, [1, 1, 0, 0, 4]),
    ),
    "cyclonedx by score": (
        cyclonedx(scored(9.8, 4), scored("7.0"), scored(0), scored(9, method="OWASP")),
        (*CYCLONEDX, [1, 1, 0, 0, 2]),
    ),
    "vex": (
        cyclonedx(
            *(
                rated("critical", analysis={"state": state})
                for state in (
                    *("resolved", "resolved_with_pedigree", "false_positive", "not_affected"),
                    *("exploitable", "in_triage"),
                )
            ),
            tools=[{"vendor": "Acme", "name": "triage", "version": "1"}],
            component=None,
        ),
        ("triage", "1", "SCA", None, [2, 0, 0, 0, 0]),
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_counted_as_its_tool_means_it(lite, trail, name):
    report, expected = REPORTS[name]

    assert seen(imported(lite, trail, report)) == expected


def test_an_import_is_recorded_as_a_scan_and_keeps_the_report(lite, factstore, trail):
    report = json.dumps(trivy("HIGH")).encode()

    scan = imported(lite, trail, report, "trivy.json")

    (evidence,) = factstore.get(f"/api/v1/trails/{trail}/evidence").json
    (attestation,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert factstore.get(f"/api/v1/security-scans/{scan['id']}").json == scan
    assert factstore.get(f"/api/v1/evidence/{evidence['sha256Hash']}").body == report
    assert (evidence["fileName"], evidence["attestationId"]) == ("trivy.json", attestation["id"])
    assert attestation["evidenceFileHash"] == evidence["sha256Hash"]
    assert attestation["name"] == "security-scan-Trivy"
    assert lite.verify() == []


def test_an_import_carries_the_label_of_its_trail_and_breaches_its_thresholds(lite, factstore):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    flow = factstore.post("/api/v1/flows", {"name": "payments"}).json["id"]
    factstore.post(f"/api/v1/flows/{flow}/security-thresholds", {"maxHigh": 1})
    trail = factstore.post(
        "/api/v1/trails",
        {
            **{"flowId": flow, "gitCommitSha": "f00d", "gitBranch": "main", "orgSlug": "acme"},
            **{"gitAuthor": "ada", "gitAuthorEmail": "ada@example.org"},
        },
    ).json["id"]

    scan = imported(lite, trail.upper(), grype("High", "High"))

    assert scan["orgSlug"] == "acme"
    assert scan["breachDetails"] == ["High vulnerabilities: 2 found, at most 1 allowed"]
    assert factstore.get(f"/api/v1/trails/{trail}").json["status"] == "NON_COMPLIANT"


def test_names_are_cut_to_what_a_scan_holds_and_made_fit_to_be_shown(lite, trail):
    long, hidden = cyclonedx(), grype()
    long["metadata"]["component"]["name"] = "x" * 501
    long["metadata"]["tools"]["components"][0] |= {"name": "y" * 101, "version": "z" * 51}
    hidden["source"]["target"]["userInput"] = "a\0l\ud800p\nine"

    cut, shown = imported(lite, trail, long), imported(lite, trail, hidden)

    assert seen(cut)[:4] == ("y" * 100, "z" * 50, "CONTAINER", "x" * 500)
    assert shown["target"] == "alpine"


BOM = {name: value for name, value in cyclonedx().items() if name != "vulnerabilities"}
UNKNOWN = "The file is in none of these formats: "
ANY = UNKNOWN + "Trivy, Grype, Snyk, SARIF, CycloneDX."
BROKEN = [
    (b"", "The file is not JSON in UTF-8. Line 1, column 1: Expecting value."),
    (b'{"runs": [\n  {"tool": }\n]}', "The file is not JSON in UTF-8. Line 2, column 12:"),
    (b'{"runs": NaN}', "The file is not JSON in UTF-8."),
    (b"\xff\xfe\x80", "The file is not JSON in UTF-8."),
    (b"[" * 100_000, "The file is not JSON in UTF-8."),
    (b'{"matches": [' + b"0," * 3_000_001 + b"0]}", "The JSON holds more than 3,000,000 values."),
    *((one, ANY) for one in (5, None, "x", {}, {"SPDXID": "x"}, {"ok": False, "error": "no"})),
    ([], "report: The report holds no project."),
    ([5], "report[0]: Expected an object."),
    ([snyk(), {"ok": False, "error": "x"}], "report[1].vulnerabilities: Expected a list."),
    (snyk(applications={}), "report.applications: Expected a list."),
    (snyk(("A", "urgent")), "report.vulnerabilities[0].severity: 'urgent' is no severity."),
    (snyk(("A", {})), "report.vulnerabilities[0].severity: Expected text."),
    (trivy("HUGE"), "report.Results[0].Vulnerabilities[0].Severity: 'huge' is no severity."),
    (trivy(Results={}), "report.Results: Expected a list."),
    (trivy(Results=[{"Secrets": 5}]), "report.Results[0].Secrets: Expected a list."),
    (trivy(Trivy=5), "report.Trivy: Expected an object."),
    ({"matches": None}, "report.matches: Expected a list."),
    (grype(matches=[None]), "report.matches[0]: Expected an object."),
    (grype(matches=[{"vulnerability": []}]), "report.matches[0].vulnerability: Expected an objec"),
    (grype(source={"type": []}), "report.source.type: Expected text."),
    ({"runs": {}}, "report.runs: Expected a list."),
    (sarif({"tool": {}, "results": None}), "report.runs[0].results: Expected a list."),
    (sarif(run({"level": "fatal"})), "report.runs[0].results[0].level: 'fatal' is no severity."),
    (
        sarif(run({"properties": {"security-severity": "high"}})),
        "report.runs[0].results[0].properties.security-severity: Expected a score from 0 to 10.",
    ),
    (
        sarif(run({"ruleId": "a"}, rules=[rule("a", "10.1")])),
        "report.runs[0].tool.driver.rules[0].properties.security-severity: Expected a score from",
    ),
    (BOM, "The CycloneDX document lists components, but no vulnerabilities."),
    (cyclonedx({"ratings": [{"severity": "bad"}]}), "report.vulnerabilities[0].ratings[0].severi"),
    (cyclonedx(scored(-1)), "report.vulnerabilities[0].ratings[0].score: Expected a score from"),
    (cyclonedx(tools={"components": 5}), "report.metadata.tools.components: Expected a list."),
]


@pytest.mark.parametrize(("report", "why"), BROKEN)
def test_a_broken_report_is_refused_with_what_is_wrong_and_where(lite, trail, report, why):
    before = tables(lite)

    with pytest.raises(Problem) as refused:
        imported(lite, trail, report, "scan.json")

    assert refused.value.status == 400
    assert str(refused.value).startswith(f"scan.json: {why}")
    assert tables(lite) == before


def test_a_dry_run_of_an_import_tells_all_and_stores_nothing(lite, trail):
    before = tables(lite)

    scan = imported(lite, trail, trivy("LOW"), dry_run=True)

    assert seen(scan) == (*TRIVY, [0, 0, 0, 1, 0])
    assert tables(lite) == before


@pytest.mark.parametrize("key", ["x", "", "00000000-0000-4000-8000-000000000000"])
def test_an_import_for_no_trail_is_refused(lite, key):
    with pytest.raises(Problem, match="There is no trail with the id") as refused:
        imported(lite, key, trivy())

    assert refused.value.status == 404


def test_an_import_is_bounded_as_an_upload_is():
    with NovantraLite(upload_limit=1000) as lite:
        trail = make_trail(lite)

        with pytest.raises(Problem, match="The file is over the limit of 1000 bytes") as refused:
            imported(lite, trail, b" " * 1001)

        assert refused.value.status == 413


# --- As evidence --------------------------------------------------------------


def sent(lite, client, trail, type, report, version=1):
    """Status and details of an attestation of a type once a report was uploaded for it."""
    key = make_attestation(lite, trail, type)
    content = report if isinstance(report, bytes) else json.dumps(report).encode()
    stored = upload(client, evidence_path(trail, key, version), content, kind="application/json")
    assert stored.status == 201
    with lite.workspace.read():
        attestation = Attestation.fetch(key)
    return attestation.status, json.loads(attestation.details)


def status_of(lite, trail):
    with lite.workspace.read():
        return Trail.fetch(trail).status


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("type", "clean", "found", "tool"),
    [
        ("trivy", trivy("UNKNOWN"), trivy("LOW"), "Trivy"),
        ("Trivy", cyclonedx(), sarif(run({}, driver="Trivy")), "Trivy"),
        ("grype", grype(), grype("Low"), "Grype"),
        ("GRYPE", cyclonedx(), sarif(run({}, driver="grype")), "grype"),
        ("sarif", sarif(run()), sarif(run({})), "CodeQL"),
        ("cyclonedx", cyclonedx(), cyclonedx(rated("low")), "trivy"),
        (
            "vex",
            cyclonedx(rated("high", analysis={"state": "not_affected"})),
            cyclonedx(rated("high", analysis={"state": "exploitable"})),
            "trivy",
        ),
    ],
)
def test_without_thresholds_a_report_passes_when_nothing_was_found(
    lite, factstore, trail, type, clean, found, tool, version
):
    passed, _ = sent(lite, factstore, trail, type, clean, version)
    before = status_of(lite, trail)
    failed, details = sent(lite, factstore, trail, type, found, version)

    assert (passed, before) == ("PASSED", "PENDING")
    assert (failed, status_of(lite, trail)) == ("FAILED", "NON_COMPLIANT")
    assert details["tool"] == tool
    assert sum(details[f"{name}Vulnerabilities"] for name in FOUND) == 1


def test_with_thresholds_a_report_passes_within_them(lite, factstore, trail):
    with lite.workspace.read():
        flow = Trail.fetch(trail).flow_id
    factstore.post(f"/api/v1/flows/{flow}/security-thresholds", {"maxHigh": 2})

    within, details = sent(lite, factstore, trail, "grype", grype("High", "High", "Low"))
    beyond, _ = sent(lite, factstore, trail, "grype", grype("High", "High", "High"))

    assert (within, beyond) == ("PASSED", "FAILED")
    assert list(details.items()) == [
        ("tool", "Grype"),
        ("toolVersion", "0.118.0"),
        ("scanType", "CONTAINER"),
        ("target", "alpine:3.10"),
        ("criticalVulnerabilities", 0),
        ("highVulnerabilities", 2),
        ("mediumVulnerabilities", 0),
        ("lowVulnerabilities", 1),
        ("informational", 0),
        ("scanDurationSeconds", None),
        ("reportUrl", None),
    ]
    assert factstore.get("/api/v1/security-scans/summary").json["totalScans"] == 0


@pytest.mark.parametrize(
    ("type", "report", "why"),
    [
        ("trivy", grype(), UNKNOWN + "Trivy, SARIF, CycloneDX."),
        ("grype", trivy(), UNKNOWN + "Grype, SARIF, CycloneDX."),
        ("sarif", cyclonedx(), UNKNOWN + "SARIF."),
        ("vex", BOM, "The CycloneDX document lists components, but no vulnerabilities."),
        ("trivy", b"<xml/>", "The file is not JSON in UTF-8. Line 1, column 1:"),
        ("sarif", sarif({}), "report.runs[0].results: Expected a list."),
    ],
)
def test_a_report_of_another_kind_or_none_has_failed(lite, factstore, trail, type, report, why):
    status, details = sent(lite, factstore, trail, type, report)

    assert (status, list(details)) == ("FAILED", ["error"])
    assert details["error"].startswith(why)
