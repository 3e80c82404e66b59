"""Scan reports, as Trivy, Grype and Snyk write them, in SARIF and CycloneDX: what they count."""

import io
import json
import time
import tracemalloc
from contextlib import closing

import pytest
from multipart import upload
from stored import tables

from factstore.trails import evidence_path, make_attestation, make_trail
from novantra_lite import Attestation, NovantraLite, Problem, Trail, read_file, read_scan

REASON = "The nightly scan."
FOUND = ("critical", "high", "medium", "low")


def imported(lite, trail, report, name="report.json", **options):
    content = report if isinstance(report, bytes) else json.dumps(report).encode()
    return lite.import_scan(io.BytesIO(content), name, trail=trail, reason=REASON, **options)


def seen(scan):
    """Tool, its version, kind, target, and the counts from critical to informational."""
    named = [scan[name] for name in ("tool", "toolVersion", "scanType", "target")]
    return (*named, [scan[f"{name}Vulnerabilities"] for name in FOUND] + [scan["informational"]])


def trivy(*severities, **others):
    matches = [{"VulnerabilityID": "CVE-2019-1549", "Severity": record} for record in severities]
    result = {"Target": "alpine 3.10.2", "Class": "os-pkgs", "Vulnerabilities": matches}
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
    matches = [{"vulnerability": {"id": "CVE-1", "severity": s}} for s in severities]
    return {
        "matches": matches,
        "ignoredMatches": [{"vulnerability": {"id": "CVE-9", "severity": "Critical"}}],
        "source": {"type": "image", "target": {"userInput": "alpine:3.10", "layers": []}},
        "distro": {"name": "alpine", "version": "3.10"},
        "descriptor": {"name": "grype", "version": "0.118.0"},
        **others,
    }


def snyk(*issues, **others):
    matches = [{"id": name, "severity": severity} for name, severity in issues]
    return {"ok": not matches, "vulnerabilities": matches, "projectName": "shop", **others}


def run(*results, driver="CodeQL", rules=(), extensions=(), **values):
    driver = {"name": driver, "rules": [*rules], **values}
    tool = {"driver": driver, "extensions": [{"name": "x", "rules": [*extensions]}]}
    return {"tool": tool, "results": [{"message": {"text": "."}, **record} for record in results]}


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
    return {"id": "CVE-1", "ratings": [{"severity": record} for record in severities], **others}


def scored(*scores, method="CVSSv31"):
    return {"id": "CVE-1", "ratings": [{"score": score, "method": method} for score in scores]}


GRYPE_TOOLS = [{"vendor": "anchore", "name": "grype"}]
TRIVY = ("Trivy", None, "CONTAINER", "alpine:3.10")
GRYPE = ("Grype", "0.118.0", "CONTAINER", "alpine:3.10")
SNYK = ("Snyk", None, "SCA", "shop")
CODEQL = ("CodeQL", None, None, None)
CYCLONEDX = ("trivy", "0.69.1", "CONTAINER", "shop:7")
REPORTS = {
    "trivy": (
        trivy("CRITICAL", "HIGH", "HIGH", "MEDIUM", "LOW", "UNKNOWN", Trivy={"Version": "0.69.1"}),
        ("Trivy", "0.69.1", *TRIVY[2:], [1, 3, 1, 1, 0]),
    ),
    "trivy, beyond vulnerabilities": (
        trivy("LOW", results=[TRIVY_FILES], ArtifactType="repository", ArtifactName="."),
        ("Trivy", None, "SCA", ".", [2, 1, 0, 1, 0]),
    ),
    "trivy, nothing scanned": (
        {"SchemaVersion": 2, "ArtifactName": ".", "ArtifactType": "filesystem"},
        ("Trivy", None, "SCA", ".", [0, 0, 0, 0, 0]),
    ),
    "grype": (
        grype("Critical", "High", "Medium", "Low", "Negligible", "Unknown", ""),
        (*GRYPE, [1, 3, 1, 1, 1]),
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
    "snyk, one id of two severities": (
        snyk(("A", "high"), ("A", "low"), ("A", "low")),
        (*SNYK, [0, 1, 0, 1, 0]),
    ),
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
        (*CODEQL, [2, 2, 1, 3, 0]),
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
        (*CODEQL, [0, 4, 1, 0, 1]),
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
        (*CYCLONEDX, [1, 4, 0, 0, 1]),
    ),
    "cyclonedx by score": (
        cyclonedx(scored(9.8, 4), scored("7.0"), scored(0), scored(9, method="OWASP")),
        (*CYCLONEDX, [1, 2, 0, 0, 1]),
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


def results_of(*results, **tool):
    return sarif(run(*results, **tool))


def vector(text, **others):
    return {"id": "CVE-1", "ratings": [{"vector": text, **others}]}


def stated(state, *severities):
    ratings = {"ratings": [{"severity": word} for word in severities]} if severities else {}
    return cyclonedx({"id": "CVE-2021-44228", "analysis": {"state": state}, **ratings})


CODEQL_PACK = {
    "tool": {
        "driver": {"name": "CodeQL", "rules": [rule("other", "1.0")]},
        "extensions": [
            {"name": "a", "rules": [rule("x", "2.0")]},
            {"name": "b", "guid": "b1", "rules": [rule("y", "5.0"), rule("java/xxe", "9.8")]},
        ],
    }
}


def packed(**result):
    return sarif({**CODEQL_PACK, "results": [result]})


#: Reports of one finding, its severity, and whether that is known.
ONE_FINDING = {
    "trivy: unknown": (trivy("UNKNOWN"), "high", 1),
    "trivy: another word": (trivy("HUGE"), "high", 1),
    "grype: unknown": (grype("Unknown"), "high", 1),
    "grype: none": (grype(""), "high", 1),
    "snyk: another word": (snyk(("A", "urgent")), "high", 1),
    "vex: exploitable": (stated("exploitable"), "high", 1),
    "vex: affected": (stated("affected"), "high", 1),
    "vex: in triage": (stated("in_triage"), "high", 1),
    "vex: under investigation": (stated("under_investigation"), "high", 1),
    "vex: a state that is no text": (stated(""), "high", 1),
    "vex: exploitable, rated": (stated("exploitable", "low"), "low", 0),
    "cyclonedx: one source knows": (cyclonedx(rated("unknown", "medium")), "medium", 0),
    "cyclonedx: another word": (cyclonedx(rated("bad")), "high", 1),
    "cyclonedx: a score that is none": (cyclonedx(scored(-1)), "high", 1),
    "cyclonedx: a score without a method": (cyclonedx(scored(2, method="")), "high", 1),
    "cyclonedx: the worst, without one": (cyclonedx(scored(9.8, method="")), "critical", 0),
    "cyclonedx: a score beside unknown": (
        cyclonedx(vector("", severity="unknown", score=9.8, method="CVSSv31")),
        "critical",
        0,
    ),
    "cyclonedx: another method": (cyclonedx(scored(3, method="SSVC")), "high", 1),
    # Vectors and scores as NVD publishes them: 9.8, 10.0, 6.1, 5.5, 3.7, 0.0, 7.8.
    **{
        f"cyclonedx: {text}": (cyclonedx(vector(text, method="CVSSv31")), severity, unknown)
        for text, severity, unknown in (
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "critical", 0),
            ("AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", "critical", 0),
            ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", "medium", 0),
            ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:N/I:N/A:H/E:P", "medium", 0),
            ("CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:N/I:L/A:N", "low", 0),
            ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", "informational", 0),
            ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", "high", 0),
            ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", "high", 1),
            ("AV:N/AC:L/Au:N/C:C/I:C/A:C", "high", 1),
            ("CVSS:3.1/AV:N", "high", 1),
            ("/" * 1_000_000, "high", 1),
        )
    },
    "sarif: a word": (results_of({"properties": {"security-severity": "LOW"}}), "low", 0),
    "sarif: undefined": (
        results_of({"properties": {"security-severity": "undefined"}, "level": "note"}),
        "low",
        0,
    ),
    "sarif: undefined, without a level": (
        results_of({"properties": {"security-severity": "undefined"}}),
        "high",
        1,
    ),
    "sarif: too high a score": (
        results_of({"ruleId": "a", "level": "error"}, rules=[rule("a", "10.1")]),
        "high",
        0,
    ),
    "sarif: another level": (results_of({"level": "fatal"}), "high", 1),
    "sarif: the score of the rule": (
        results_of(
            {"ruleId": "a", "properties": {"security-severity": "x"}}, rules=[rule("a", "9")]
        ),
        "critical",
        0,
    ),
    # Rules in extensions, by index, by name, by id and by a parent's id.
    "sarif: rule.index": (
        packed(rule={"index": 1, "toolComponent": {"index": 1}}, ruleId="java/xxe"),
        "critical",
        0,
    ),
    "sarif: rule.index alone": (
        packed(rule={"index": 1, "toolComponent": {"index": 1}}),
        "critical",
        0,
    ),
    "sarif: ruleIndex of a component": (
        packed(rule={"toolComponent": {"name": "b"}}, ruleIndex=1),
        "critical",
        0,
    ),
    "sarif: component by guid": (
        packed(rule={"index": 1, "toolComponent": {"guid": "b1"}}),
        "critical",
        0,
    ),
    "sarif: by id in an extension": (packed(ruleId="java/xxe"), "critical", 0),
    "sarif: by rule.id": (packed(rule={"id": "java/xxe"}), "critical", 0),
    "sarif: an index into the wrong component": (
        packed(ruleId="java/xxe", ruleIndex=0),
        "critical",
        0,
    ),
    "sarif: ruleIndex alone": (packed(ruleIndex=0), "low", 0),
    "sarif: a parent": (packed(ruleId="java/xxe/7/8"), "critical", 0),
    "sarif: an index with a parent's id": (
        results_of({"ruleId": "CA1000/1", "ruleIndex": 0}, rules=[rule("CA1000", "9.1")]),
        "critical",
        0,
    ),
    "sarif: no such rule": (packed(ruleId="gone", ruleIndex=7), "medium", 0),
    "sarif: no index": (packed(ruleId="gone", ruleIndex=-1), "medium", 0),
    # What nobody has decided yet.
    "sarif: open": (results_of({"kind": "open", "level": "none"}), "medium", 0),
    "sarif: review": (
        results_of({"kind": "review", "level": "none", "ruleId": "a"}, rules=[rule("a", "8.0")]),
        "high",
        0,
    ),
    "sarif: another kind": (results_of({"kind": "bad", "level": "error"}), "high", 0),
    "sarif: one accepted, one rejected": (
        results_of({"suppressions": [{"status": "accepted"}, {"status": "rejected"}]}),
        "medium",
        0,
    ),
    "sarif: one accepted, one under review": (
        results_of({"suppressions": [{"status": "underReview"}, {"kind": "inSource"}]}),
        "medium",
        0,
    ),
    "sarif: another status": (results_of({"suppressions": [{"status": "maybe"}]}), "medium", 0),
    # A rating that promises no harm does not outrank the level, nor the rule's rating.
    "sarif: a score of zero beside an error": (
        results_of({"ruleId": "a", "level": "error"}, rules=[rule("a", "0.0")]),
        "high",
        0,
    ),
    "sarif: a word of no harm beside an error": (
        results_of({"level": "error", "properties": {"security-severity": "info"}}),
        "high",
        0,
    ),
    "sarif: a score of zero beside the score of the rule": (
        results_of(
            {"ruleId": "a", "properties": {"security-severity": 0}}, rules=[rule("a", "9.8")]
        ),
        "critical",
        0,
    ),
    "sarif: a score of zero without a level": (
        results_of({"ruleId": "a"}, rules=[rule("a", "0.0")]),
        "medium",
        0,
    ),
    "sarif: a failure of no level": (results_of({"kind": "fail", "level": "none"}), "medium", 0),
    "sarif: information of a level": (
        results_of({"kind": "informational", "level": "note"}),
        "low",
        0,
    ),
    "sarif: information by a rule that finds errors": (
        results_of({"kind": "informational", "ruleId": "a"}, rules=[rule("a", level="error")]),
        "informational",
        0,
    ),
    # What invocations made of the level of a rule.
    **{
        f"sarif: {name}": (
            sarif(
                run(result, rules=[rule("a", level="note"), rule("b")])
                | {
                    "invocations": [
                        {"executionSuccessful": True, "ruleConfigurationOverrides": overrides}
                        for overrides in (
                            [
                                {"descriptor": {"id": "a"}, "configuration": {"level": "error"}},
                                {"descriptor": {"index": 1}, "configuration": {"level": "none"}},
                            ],
                            [{"descriptor": {"index": 0}, "configuration": {"level": "warning"}}],
                        )
                    ]
                }
            ),
            severity,
            0,
        )
        for name, result, severity in (
            ("the worst of all invocations", {"ruleId": "a"}, "high"),
            (
                "the second invocation",
                {"ruleIndex": 0, "provenance": {"invocationIndex": 1}},
                "medium",
            ),
            (
                "an invocation of another rule",
                {"ruleId": "b", "provenance": {"invocationIndex": 1}},
                "medium",
            ),
            (
                "an invocation that is not there",
                {"ruleId": "a", "provenance": {"invocationIndex": 7}},
                "low",
            ),
            ("a rule that is switched off", {"ruleId": "b"}, "informational"),
            ("a level of the result", {"ruleId": "a", "level": "note"}, "low"),
        )
    },
    # The worst that a rating says.
    "cyclonedx: no harm beside a score": (
        cyclonedx(vector("", severity="none", score=9.8, method="CVSSv31")),
        "critical",
        0,
    ),
    "cyclonedx: a score of zero beside a vector": (
        cyclonedx(vector("AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", score=0, method="CVSSv31")),
        "critical",
        0,
    ),
    "cyclonedx: a low score beside a word": (
        cyclonedx(vector("", severity="high", score=2, method="CVSSv31")),
        "high",
        0,
    ),
    "cyclonedx: version 2 has no critical": (cyclonedx(scored(9.3, method="CVSSv2")), "high", 0),
    "vex: exploitable, and of no harm": (stated("exploitable", "none"), "high", 1),
    "vex: cleared, but for a version": (
        cyclonedx(
            rated(
                "low",
                analysis={"state": "false_positive"},
                affects=[{"ref": "x", "versions": [{"version": "7", "status": "affected"}]}],
            )
        ),
        "low",
        0,
    ),
    "cyclonedx: in a component": (
        cyclonedx() | {"components": [{"components": [{"vulnerabilities": [rated("low")]}]}]},
        "low",
        0,
    ),
    "trivy: a failure that is only summed up": (
        trivy(
            results=[
                {
                    "MisconfSummary": {"Successes": 3, "Failures": 1},
                    "Misconfigurations": [{"Severity": "HIGH", "Status": "PASS"}],
                }
            ]
        ),
        "high",
        1,
    ),
    "trivy: a failure that is listed, too": (
        trivy(
            results=[
                {"MisconfSummary": {"Failures": 1}, "Misconfigurations": [{"Severity": "LOW"}]}
            ]
        ),
        "low",
        0,
    ),
    "trivy: beside the results": (trivy(Secrets=[{"Severity": "LOW"}]), "low", 0),
    "snyk: an issue that is only counted": (snyk(uniqueCount=1), "high", 1),
    "snyk: an issue that is listed, too": (snyk(("A", "low"), uniqueCount=1), "low", 0),
    "snyk: a license": (snyk(issues={"licenses": [{"id": "L", "severity": "low"}]}), "low", 0),
    "snyk: a word that it does not have": (snyk(("A", "none")), "high", 1),
    "snyk: an application of an image": (
        snyk(ok=True, docker={}, applications=[snyk(("A", "critical"))]),
        "critical",
        0,
    ),
    "snyk: an image that is not ok by an application": (
        snyk(ok=False, applications=[snyk(("A", "critical"))]),
        "critical",
        0,
    ),
    "snyk: infrastructure as code": (
        snyk(ok=False, infrastructureAsCodeIssues=[{"id": "SNYK-CC-1", "severity": "high"}]),
        "high",
        0,
    ),
}


@pytest.mark.parametrize("name", ONE_FINDING)
def test_a_finding_is_counted_once_by_its_severity_or_as_unknown(lite, trail, name):
    report, severity, unknown = ONE_FINDING[name]

    scan = imported(lite, trail, report)

    counts = seen(scan)[-1]
    assert (counts, scan["unknown"]) == (
        [int(severity == item) for item in (*FOUND, "informational")],
        unknown,
    )


@pytest.mark.parametrize("setting", ["CRITICAL", "HIGH", "MEDIUM", "LOW"])
def test_a_setting_says_what_an_unknown_severity_counts_as(setting):
    with NovantraLite(unknown_severity=setting) as lite:
        trail = make_trail(lite)

        scan = imported(lite, trail, trivy("UNKNOWN", "UNKNOWN", "LOW"))

    expected = {"CRITICAL": [2, 0, 0, 1, 0], "HIGH": [0, 2, 0, 1, 0], "MEDIUM": [0, 0, 2, 1, 0]}
    assert seen(scan)[-1] == expected.get(setting, [0, 0, 0, 3, 0])
    assert scan["unknown"] == 2


def test_an_unknown_severity_must_be_one_of_four_words():
    with pytest.raises(Problem, match="unknown_severity is one of CRITICAL, HIGH, MEDIUM, LOW"):
        NovantraLite(unknown_severity="NONE")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_report_may_be_in_any_encoding_of_unicode(lite, trail, encoding):
    report = json.dumps(results_of({}, driver="Scännér"), ensure_ascii=False).encode(encoding)

    assert seen(imported(lite, trail, report)) == ("Scännér", None, None, None, [0, 0, 1, 0, 0])


@pytest.mark.parametrize("rule_id", ["/" * 1_000_000, "a/" * 500_000, "x" * 1_000_000])
def test_an_id_of_a_rule_with_countless_parents_takes_no_time(lite, trail, rule_id):
    begin = time.process_time()

    scan = imported(lite, trail, results_of({"ruleId": rule_id}, rules=[rule("a", "9.9")]))

    assert scan["criticalVulnerabilities"] == int(rule_id.startswith("a"))
    assert time.process_time() - begin < 2


def test_many_extensions_take_no_time(lite, trail):
    extensions = [{"name": str(n), "rules": [rule(str(n), "9.9")]} for n in range(20_000)]
    report = sarif(
        {"tool": {"driver": {"name": "x"}, "extensions": extensions}, "results": [{"ruleId": "7"}]}
    )
    begin = time.process_time()

    scan = imported(lite, trail, report)

    assert scan["criticalVulnerabilities"] == 1
    assert time.process_time() - begin < 5


def test_many_overrides_of_a_rule_with_many_results_are_read(lite, trail):
    override = {"descriptor": {"id": "a"}, "configuration": {"level": "note"}}
    invocation = {"executionSuccessful": True, "ruleConfigurationOverrides": [override] * 20_000}
    results = [{"ruleId": "a", "provenance": {"invocationIndex": 0}}] * 20_000
    report = sarif(run(*results) | {"invocations": [invocation]})

    scan = imported(lite, trail, report)

    assert scan["lowVulnerabilities"] == 20_000


def test_what_is_not_read_of_a_large_report_takes_no_memory():
    results = [
        {"ruleId": "a", "level": "note", "codeFlows": [{"text": f"{number} " + "x" * 1000}]}
        for number in range(8_000)
    ]
    content = json.dumps(sarif(run(*results))).encode()
    with closing(read_file(io.BytesIO(content), "scan.json", 1 << 24)) as upload:
        tracemalloc.start()
        counts = read_scan(upload).counts
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert counts == {"low": 8_000}
    assert most < 2 * len(content)


def test_a_fault_at_a_great_depth_is_told(lite, trail):
    deep = {"components": 5}
    for _ in range(400):
        deep = {"components": [deep]}

    with pytest.raises(Problem, match=r"\.components\[0\]\.components: Expected a list") as refused:
        imported(lite, trail, cyclonedx() | deep)

    assert refused.value.status == 400


FAILED_RUN = run() | {
    "invocations": [{"executionSuccessful": True}, {"executionSuccessful": False}]
}


def test_a_scan_that_failed_is_recorded_as_not_passed(lite, factstore, trail):
    scan = imported(lite, trail, sarif(run(), FAILED_RUN))

    (attestation,) = factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert (scan["passed"], scan["thresholdBreached"]) == (False, True)
    assert scan["breachDetails"] == ["The scan is recorded as not passed"]
    assert attestation["status"] == "FAILED"
    assert json.loads(attestation["details"])["error"] == (
        "report.runs[1].invocations[1]: The tool reports that its run was not successful."
    )
    assert status_of(lite, trail) == "NON_COMPLIANT"


def test_an_import_and_an_upload_of_one_report_end_alike(lite, factstore, trail):
    for report, status in ((trivy("LOW"), "FAILED"), (trivy(), "PASSED")):
        imported(lite, trail, report)

        attestation = factstore.get(f"/api/v1/trails/{trail}/attestations").json[-1]
        assert attestation["status"] == status
        assert sent(lite, factstore, trail, "trivy", report)[0] == status


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
ANY = UNKNOWN + "SARIF, CycloneDX, Grype, Trivy, Snyk, ZAP."
BROKEN = [
    (b"", "The file is not JSON in UTF-8. Line 1, column 1: Expecting value."),
    (b'{"runs": [\n  {"tool": }\n]}', "The file is not JSON in UTF-8. Line 2, column 12:"),
    (b'{"runs": NaN}', "The file is not JSON in UTF-8."),
    (b"\xff\xfe\x80", "The file is not JSON in UTF-8."),
    (b"[" * 100_000, "The file is not JSON in UTF-8."),
    (b'{"matches": [' + b"0," * 3_000_001 + b"0]}", "The JSON holds more than 3,000,000 values."),
    *((one, ANY) for one in (5, None, "x", {}, {"SPDXID": "x"}, {"ok": False, "error": "no"})),
    ([], "report: The report contains no project."),
    ([5], "report[0]: Expected an object."),
    ([snyk(), {"ok": False, "error": "x"}], "report[1].vulnerabilities: Expected a list."),
    (snyk(applications={}), "report.applications: Expected a list."),
    (snyk(ok=False), "report: Snyk reports a problem without details."),
    (snyk(ok=None), "report: The report is not Snyk's: it has no `ok`."),
    ({"vulnerabilities": []}, "report: The report is not Snyk's: it has no `ok`."),
    ({"ok": True}, ANY),
    ({"message": "Unauthorized"}, ANY),
    (snyk(applications=[{"ok": True}]), "report.applications[0].vulnerabilities: Expected a list."),
    (
        b'{"ok": true, "vulnerabilities": [{"id": "A"}], "vulnerabilities": []}',
        "An object in the JSON has two members of one name.",
    ),
    (snyk(("A", {})), "report.vulnerabilities[0].severity: Expected text."),
    ({"Results": []}, "The file is not Trivy's: SchemaVersion and ArtifactName are missing."),
    (trivy(ArtifactName=None), "The file is not Trivy's: SchemaVersion and ArtifactName are missi"),
    (grype(descriptor={}), "The file is not Grype's: its descriptor does not name grype."),
    (sarif(), "The SARIF file contains no run: nothing was scanned."),
    ({"version": "1.0.0", "runs": [run()]}, "report.version: Expected SARIF 2.1.0."),
    ({"runs": [run()]}, "report.version: Expected SARIF 2.1.0."),
    (sarif(run(driver="")), "report.runs[0].tool.driver.name: Expected the name of a tool."),
    (trivy(SchemaVersion=3), "report.SchemaVersion: Expected 2."),
    (
        {"SchemaVersion": 2, "ArtifactName": "x"},
        "The file is not Trivy's: it has neither Results nor ArtifactType.",
    ),
    (
        trivy(results=[{"MisconfSummary": {"Failures": -1}}]),
        "report.Results[1].MisconfSummary.Failures: Expected a number.",
    ),
    (
        snyk(applications=[snyk(applications=[snyk()])]),
        "report.applications[0]: Applications of applications are not read.",
    ),
    (
        sarif(run() | {"externalPropertyFileReferences": {"results": [{"location": {}}]}}),
        "report.runs[0]: The results are in another file.",
    ),
    (cyclonedx() | {"bomFormat": "x"}, "The file is not CycloneDX: it has another bomFormat."),
    (trivy(Results={}), "report.Results: Expected a list."),
    (trivy(Results=[{"Secrets": 5}]), "report.Results[0].Secrets: Expected a list."),
    (trivy(Trivy=5), "report.Trivy: Expected an object."),
    ({"matches": None}, "report.matches: Expected a list."),
    (grype(matches=[None]), "report.matches[0]: Expected an object."),
    (grype(matches=[{"vulnerability": []}]), "report.matches[0].vulnerability: Expected an objec"),
    (grype(source={"type": []}), "report.source.type: Expected text."),
    ({"runs": {}}, "report.runs: Expected a list."),
    (sarif({"tool": {}, "results": None}), "report.runs[0].results: Expected a list."),
    (BOM, "The CycloneDX document lists components, but no vulnerabilities."),
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
        attestation = Attestation.find(key)
    return attestation.status, json.loads(attestation.details)


def status_of(lite, trail):
    with lite.workspace.read():
        return Trail.find(trail).status


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("type", "clean", "matches", "tool"),
    [
        ("trivy", trivy(), trivy("LOW"), "Trivy"),
        ("Trivy", cyclonedx(), sarif(run({}, driver="Trivy")), "Trivy"),
        ("grype", grype(), grype("Low"), "Grype"),
        ("GRYPE", cyclonedx(tools=GRYPE_TOOLS), sarif(run({}, driver="grype")), "grype"),
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
    lite, factstore, trail, type, clean, matches, tool, version
):
    passed, _ = sent(lite, factstore, trail, type, clean, version)
    before = status_of(lite, trail)
    failed, details = sent(lite, factstore, trail, type, matches, version)

    assert (passed, before) == ("PASSED", "PENDING")
    assert (failed, status_of(lite, trail)) == ("FAILED", "NON_COMPLIANT")
    assert details["tool"] == tool
    assert sum(details[f"{name}Vulnerabilities"] for name in FOUND) == 1


def test_with_thresholds_a_report_passes_within_them(lite, factstore, trail):
    with lite.workspace.read():
        flow = Trail.find(trail).flow_id
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
        ("unknown", 0),
    ]
    assert factstore.get("/api/v1/security-scans/summary").json["totalScans"] == 0


@pytest.mark.parametrize(
    ("type", "report", "why"),
    [
        ("trivy", grype(), "The report is of 'Grype', and not of trivy."),
        ("grype", trivy(), "The report is of 'Trivy', and not of grype."),
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
