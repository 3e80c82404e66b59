"""What a file says of its attestation, for every type that is read: only a clean report passes."""

import json

import pytest
from multipart import FORM, form, part, upload

import novantra_lite
from factstore.trails import evidence_path, make_attestation, make_trail
from novantra_lite import Attestation, NovantraLite, Trail

CLEAN = {
    "junit": b'<testsuite tests="1"><testcase name="t"/></testsuite>',
    "snyk": {"ok": True, "vulnerabilities": [], "projectName": "shop"},
    "sonar": {"projectStatus": {"status": "OK", "conditions": []}},
    "jira": {"issueRef": "PAY-17", "status": "Done"},
    "trivy": {"SchemaVersion": 2, "ArtifactName": "shop:7", "Results": [{"Target": "alpine"}]},
    "grype": {"matches": [], "descriptor": {"name": "grype", "version": "0.118.0"}},
    "sarif": {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": []}]},
    "cyclonedx": {"bomFormat": "CycloneDX", "specVersion": "1.6", "vulnerabilities": []},
    "vex": {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "vulnerabilities": [{"id": "CVE-1", "analysis": {"state": "not_affected"}}],
    },
    "zap": {
        **{"@programName": "ZAP", "@version": "2.16.1"},
        "site": [{"@name": "https://shop", "alerts": [{"riskcode": "0", "confidence": "2"}]}],
    },
    "sast": {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": []}]},
}
#: What else is a scan by its name: in any format, or of the tool that the name begins with.
SCANS = {
    *("security_scan", "security-scan", "vulnerability-scan", "vulnerability_scan", "scan"),
    *("container-scan", "container_scan", "sca", "dast", "semgrep", "codeql", "trivy-scan"),
    *("sca_scan", "sca-scan", "dast_scan", "dast-scan", "sast_scan", "sast-scan", "secret-scan"),
    *("dependency-check", "dependency-scan", "dependency_scan", "secret_scan", "license-scan"),
}
#: The types that take reports of a tool beside their own.
TAKES = {
    "cyclonedx": {"cyclonedx", "vex"},
    "vex": {"cyclonedx", "vex"},
    "sarif": {"sarif", "sast"},
    "sast": {"snyk", "trivy", "grype", "sarif", "cyclonedx", "vex", "zap", "sast"},
}
EMPTY = {
    "no bytes": b"",
    "white space": b" \r\n\t",
    "a byte order mark": b"\xef\xbb\xbf",
    "an object": {},
    "a list": [],
    "null": None,
    "a list of an empty object": [{}],
    "an element": b"<a/>",
}
FOREIGN = {
    "an error message": {"message": "Unauthorized"},
    "an error": {"ok": False, "error": "Authentication failed.", "path": "."},
    "a page of an error": b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
    "a state of health": {"status": "PASSED", "health": "RED"},
    "findings beside a status": {"status": "OK", "vulnerabilities": [{"severity": "high"}]},
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "an archive": b"\x1f\x8b\x08\0\0\0\0\0\0\3",
    "prose": b"All tests have passed.",
    "a list of components": {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": []},
    "another list of components": {"spdxVersion": "SPDX-2.3", "packages": []},
    "an audit of npm": {"auditReportVersion": 2, "vulnerabilities": {}, "metadata": {}},
    "an audit of pip": {"dependencies": [], "fixes": []},
    "a scan of code": {"errors": [], "results": [], "paths": {"scanned": []}, "version": "1.9"},
    "a scan of an unknown tool": {"vulnerabilities": []},
    "a scan by another tool": {"version": "15.0", "scan": {"status": "x"}, "vulnerabilities": []},
    "matches of another tool": {"matches": []},
    "results of another tool": {"Results": []},
    "runs of another tool": {"runs": [{"stats": {"failures": 0}, "tests": []}]},
    "older SARIF": {"version": "1.0.0", "runs": [{"results": []}]},
    "test results of .NET": b'<TestRun><ResultSummary outcome="Completed"/></TestRun>',
    "test results of NUnit": b'<test-run result="Passed" total="1" failed="0"/>',
    "coverage": b'<coverage line-rate="1"><packages/></coverage>',
}


def whole(type):
    """The clean report of a type as bytes."""
    report = CLEAN[type]
    return report if isinstance(report, bytes) else json.dumps(report).encode()


UNREADABLE = {
    "cut off": lambda type: whole(type)[:-1],
    "twice": lambda type: whole(type) * 2,
    "bytes of no encoding": lambda type: b"\x80\xff" + whole(type),
    "half of UTF-16": lambda type: whole(type).decode().encode("utf-16")[:-3],
    "NUL before it": lambda type: b"\0\0\0" + whole(type),
    "a great depth": lambda type: b"[" * 100_000 + whole(type),
    "an endless tag": lambda type: b"<testsuite name='" + b"x" * 9_000_000,
}
CASE = b'<testcase name="t"/>'


def sarif(*results, rule=None, **members):
    """A SARIF file of one run."""
    driver = {"name": "x", "rules": [rule or {"id": "a"}]}
    return {
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [*results], **members}],
    }


def invoked(**members):
    """A SARIF file of a run that was successful, but for what its invocation says beside that."""
    return sarif(invocations=[{"executionSuccessful": True, **members}])


def overridden(level, **result):
    """A SARIF file with a result of a rule that an invocation gave another level."""
    override = {"descriptor": {"index": 0}, "configuration": {"level": level}}
    return sarif(
        {"ruleId": "a", **result},
        rule={"id": "a", "defaultConfiguration": {"level": "none"}},
        invocations=[{"executionSuccessful": True, "ruleConfigurationOverrides": [override]}],
    )


def scored(score, **result):
    """A SARIF file with a result of a rule that has this security-severity."""
    return sarif(
        {"ruleId": "a", **result}, rule={"id": "a", "properties": {"security-severity": score}}
    )


def made_by(driver):
    """A SARIF file of these tools, without a result."""
    runs = [{"tool": {"driver": {"name": name}}, "results": []} for name in driver.split("+")]
    return {"version": "2.1.0", "runs": runs}


def bom_by(name):
    """A CycloneDX document without a vulnerability, by a tool of this name."""
    return CLEAN["cyclonedx"] | {"metadata": {"tools": {"components": [{"name": name}]}}}


def affecting(*parts, state="resolved"):
    """A CycloneDX document of one vulnerability, with the versions of each part."""
    affects = [{"ref": f"r{number}", "versions": part} for number, part in enumerate(parts)]
    return bom(analysis={"state": state}, affects=affects)


def bom(**vulnerability):
    """A CycloneDX document of one vulnerability."""
    return CLEAN["cyclonedx"] | {"vulnerabilities": [{"id": "CVE-1", **vulnerability}]}


def rating(**members):
    """A CycloneDX document of one vulnerability with one rating."""
    return bom(ratings=[members])


#: A suite that claims what its cases do not hold, and so on: each says of itself that it failed.
FAILING = {
    "junit": [
        b'<testsuite name="s"><testcase name="t"><failure/></testcase></testsuite>',
        b'<testsuite failures="0"><testcase name="t"><error/></testcase></testsuite>',
        b'<testsuite tests="2" failures="1"><testcase name="t"/></testsuite>',
        b'<testsuites tests="3" failures="1"/>',
        b'<testsuites tests="3" failures="0"/>',
        b"<testsuites/>",
        b'<testsuite tests="1" skipped="1"><testcase><skipped/></testcase></testsuite>',
        *(
            b'<testsuite><testcase name="t" %s/></testsuite>' % said
            for said in (
                *(
                    b'result="failed"',
                    b'status="timeout"',
                    b'status="aborted"',
                    b'status="failed "',
                ),
                *(b'success="false"', b'success="False"', b'passed="no"', b'Status="Timed Out"'),
                *(b'outcome="Broken"', b'result="xpass"', b'status="?"', b'status="0"'),
                *(b'failures="1"', b'failed="true"', b'x:status="failed"'),
            )
        ),
        *(
            b"<testsuite %s>%s</testsuite>" % (claim, CASE)
            for claim in (
                *(b'failed="3"', b'Failures="3"', b'tests="1" error="1"', b'timeout="1"'),
                *(b'failures="0" FAILED="1"', b'crashed="1"', b'aborted="true"', b'timed_out="2"'),
                *(b'failures="-1"', b'failures="many"', b'test_failures="1"', b'errorCount="1"'),
                *(b'tests="30"', b'tests="30" failures="0" skipped="28"', b'tests="-1"'),
                *(b'status="FAIL"', b'result="error"', b'success="False"'),
            )
        ),
        b'<testsuites tests="3"><testsuite tests="1">%s</testsuite></testsuites>' % CASE,
        b'<testsuites><testsuite tests="2">%s</testsuite><testsuite/></testsuites>' % CASE,
        *(
            b'<testsuite><testcase name="t">%s</testcase></testsuite>' % child
            for child in (
                *(b"<abort/>", b"<crash/>", b"<Timeout/>", b"<exception/>", b"<failed/>"),
                *(b'<x:failure xmlns:x="u"/>', b"<failures><failure/></failures>"),
            )
        ),
        b"<testsuite>%s<crashed/></testsuite>" % CASE,
        # As another tool's suites may be named, too.
        *(
            claim % CASE
            for claim in (
                b'<testsuite name="pytest" tests="500" failures="0" errors="0">%s</testsuite>',
                b'<testsuite name="x" hostname="tbd" tests="500" failures="0">%s</testsuite>',
                b'<testsuites><testsuite name="pytest" tests="5">%s</testsuite></testsuites>',
                b'<testsuites><testsuite hostname="tbd" tests="5">%s</testsuite></testsuites>',
                b'<testsuite name="pytest tests" tests="5">%s</testsuite>',
                b'<testsuite doctest_version="2" tests="5">%s</testsuite>',
            )
        ),
    ],
    "snyk": [
        {"ok": False, "vulnerabilities": []},
        {"ok": True, "vulnerabilities": [{"id": "A", "severity": "low"}]},
        {"ok": False, "vulnerabilities": [{"id": "A"}]},
        [CLEAN["snyk"], {"ok": False, "error": "x", "path": "."}],
        *(CLEAN["snyk"] | {name: "x"} for name in ("error", "errors", "message")),
        CLEAN["snyk"] | {"applications": [{"ok": False, "vulnerabilities": [{"id": "A"}]}]},
        CLEAN["snyk"] | {"applications": [{"ok": False, "vulnerabilities": []}]},
        CLEAN["snyk"] | {"applications": [CLEAN["snyk"] | {"applications": [CLEAN["snyk"]]}]},
        *(
            CLEAN["snyk"] | {"vulnerabilities": [{"id": "A", "severity": word}]}
            for word in ("none", "info", "negligible", "informational")
        ),
        CLEAN["snyk"] | {"uniqueCount": 5},
        CLEAN["snyk"] | {"uniqueCount": "many"},
        CLEAN["snyk"] | {"issues": [{"severity": "low"}]},
        CLEAN["snyk"] | {"issues": {"vulnerabilities": [], "licenses": [{"severity": "low"}]}},
        CLEAN["snyk"] | {"licenseIssues": [{"severity": "low"}]},
        {"ok": True, "issues": {"vulnerabilities": [], "licenses": []}},
        *(
            CLEAN["snyk"] | said
            for said in (
                {"error": {"code": "SNYK-9999"}},
                {"errors": {"a": 1}},
                {"message": {"text": "x"}},
                {"errorMessage": "x"},
                {"failures": [{"path": "x", "error": "y"}]},
                {"applications": [CLEAN["snyk"] | {"error": {"code": "x"}}]},
            )
        ),
        {"ok": True, "infrastructureAsCodeIssues": [{"severity": "low"}]},
        {"infrastructureAsCodeIssues": []},
        *(made_by(name) for name in ("OtherTool", "Snyk+ESLint")),
    ],
    "sonar": [
        {"projectStatus": {"status": "ERROR"}},
        {"projectStatus": {"status": "NONE"}},
        {"projectStatus": {"status": "OK", "conditions": [{"status": "ERROR"}]}},
        {"projectStatus": {"status": "ERROR"}, "status": "OK"},
        {"projectStatus": {"status": "OK"}, "status": "ERROR"},
        {"status": "OK", "conditions": [{"status": "ERROR"}]},
        {"projectStatus": {"status": "OK", "conditions": [{"status": "FAILED"}]}},
        {"projectStatus": {"status": "OK", "conditions": [{"status": ""}]}},
        {"projectStatus": {"status": "OK", "conditions": [{"metricKey": "coverage"}]}},
        *({"projectStatus": {"status": word}} for word in ("ok", "Ok", "OK ", "WARN", "SUCCESS")),
        {"status": "SUCCESS"},
        {"status": "SUCCESS", "qualityGate": {"status": "ERROR"}},
        {"status": "SUCCESS", "qualityGate": {}},
        {"status": "SUCCESS", "projectStatus": {"status": "OK"}},
        {"status": "FAILED", "qualityGate": {"status": "OK"}},
        {"status": "OK", "qualityGate": {"status": "OK", "conditions": [{"status": "ERROR"}]}},
        {"projectStatus": {"status": "OK", "qualityGate": {"status": "ERROR"}}},
        {"projectStatus": {"status": ""}, "status": "OK"},
        {"projectStatus": {"status": "OK"}, "errors": [{"msg": "Insufficient privileges"}]},
        {"projectStatus": {"status": "OK", "errors": [{"msg": "No analysis"}]}},
        {"projectStatus": {"status": "OK"}, "errors": {"msg": "x"}},
        {"projectStatus": {"status": "OK", "errorMessage": {"text": "x"}}},
    ],
    "jira": [
        *(b"pay-17", b"PAY", b"PAY-17 PAY-18", {"issueRef": "", "status": "Done"}),
        *(b"UTF-8", b"UTF-16", b"PAY-0", b"PAY-017"),
        {"issueRef": "PAY-17", "errorMessages": ["Issue does not exist"], "errors": {}},
        {"issueRef": "PAY-17", "errors": {"status": "Unknown"}},
        {"errorMessages": [], "errors": {"summary": "Specify a summary"}, "issueRef": "PAY-17"},
        *(b"CVE-2021", b"SHA-256", b"ISO-8601", b'"CVE-2021"', b"2PAY-1"),
        {"issues": []},
        {"issues": [{"key": "PAY-17"}, {"key": "none"}]},
        {"name": "PAY-17"},
        [{"key": "PAY-17"}],
    ],
    "trivy": [
        *(
            CLEAN["trivy"] | {"Results": [{name: [{"Severity": severity}]}]}
            for name in ("Vulnerabilities", "Misconfigurations", "Secrets", "Licenses", "Checks")
            for severity in ("LOW", "UNKNOWN", "NONE", "", None)
        ),
        CLEAN["trivy"] | {"Results": [{"MisconfSummary": {"Successes": 9, "Failures": 1}}]},
        CLEAN["trivy"] | {"Vulnerabilities": [{"Severity": "LOW"}]},
        CLEAN["trivy"] | {"Results": [{"Results": [{"Secrets": [{"Severity": "LOW"}]}]}]},
        CLEAN["trivy"] | {"SchemaVersion": 3},
        *(CLEAN["trivy"] | {"error": said} for said in ("x", {"code": "y"})),
        *(made_by(name) for name in ("ESLint", "Trivy+ESLint", "Grype")),
        *(bom_by(name) for name in ("cdxgen", "grype")),
        {"SchemaVersion": 2, "ArtifactName": "shop:7"},
        {"SchemaVersion": 2, "ArtifactName": "shop:7", "Results": []},
    ],
    "grype": [
        CLEAN["grype"] | {"matches": [{"vulnerability": {"severity": severity}}]}
        for severity in ("Low", "Unknown", "None", "info", "")
    ]
    + [made_by("ESLint"), bom_by("cdxgen")],
    "sarif": [
        {"version": "2.1.0", "runs": []},
        {"version": "2.1.0", "runs": [{"results": []}]},
        {"version": "2.1.0", "runs": [{"tool": {"driver": {"name": " "}}, "results": []}]},
        {name: value for name, value in CLEAN["sarif"].items() if name != "version"},
        sarif(results=None),
        sarif({"level": "note"}),
        *(sarif({"kind": kind, "level": "none"}) for kind in ("review", "open", "fail", "bad")),
        sarif({"kind": "open"}),
        sarif({"kind": "informational", "level": "error"}),
        sarif(invocations=[{"executionSuccessful": False}]),
        sarif(invocations=[{"exitCode": 137}]),
        sarif(conversion={"invocation": {"executionSuccessful": False}}),
        invoked(processStartFailureMessage="No such file."),
        invoked(exitSignalName="SIGKILL"),
        invoked(exitSignalNumber=9),
        *(
            invoked(**{f"tool{name}Notifications": [{"level": level, "message": {"text": "x"}}]})
            for name in ("Execution", "Configuration")
            for level in ("error", "Error", "fatal")
        ),
        sarif() | {"inlineExternalProperties": [{"results": [{"level": "error"}]}]},
        sarif({"suppressions": [{"status": "accepted"}, {"status": "rejected"}]}),
        *(
            scored(score, level=level)
            for score in ("0.0", "0", "none", "info", "None")
            for level in ("error", "warning", "note")
        ),
        scored("0.0"),
        scored("9.8", properties={"security-severity": "0.0"}),
        scored("9.8", properties={"security-severity": "none"}, level="none"),
        overridden("error"),
        overridden("error", provenance={"invocationIndex": 0}),
        overridden("note", provenance={"invocationIndex": -1}),
    ],
    "cyclonedx": [
        CLEAN["cyclonedx"] | {"vulnerabilities": [vulnerability]}
        for vulnerability in (
            {"id": "CVE-1"},
            {"id": "CVE-1", "ratings": [{"severity": "unknown"}]},
            {"id": "CVE-1", "ratings": [{"score": 2.1}]},
            {"id": "CVE-1", "ratings": [{"vector": "AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]},
        )
    ]
    + [
        *(rating(severity=word, score=9.8, method="CVSSv31") for word in ("none", "info")),
        rating(severity="none", score=9.8),
        rating(severity="none", vector="AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"),
        rating(score=0, method="CVSSv31", vector="AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"),
        rating(score=0, method="CVSSv4", vector="CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H"),
        rating(score=0),
        CLEAN["cyclonedx"] | {"components": [{"vulnerabilities": [{"id": "CVE-1"}]}]},
        CLEAN["cyclonedx"]
        | {"components": [{"components": [{"vulnerabilities": [{"id": "CVE-1"}]}]}]},
    ],
    "vex": [
        *(
            bom(analysis={"state": state}, ratings=[{"severity": word}])
            for state in ("exploitable", "in_triage")
            for word in ("none", "info")
        ),
        bom(
            analysis={"state": "not_affected"},
            affects=[{"ref": "x", "versions": [{"version": "1", "status": "affected"}]}],
        ),
        affecting([{"version": "1"}]),
        affecting([{"version": "1"}], state="not_affected"),
        affecting(
            [{"version": "1", "status": "affected"}], [{"version": "2", "status": "unaffected"}]
        ),
    ]
    + [
        CLEAN["vex"] | {"vulnerabilities": [{"id": "CVE-1", "analysis": {"state": state}}]}
        for state in ("exploitable", "in_triage", "affected", "under_investigation", "", "fixed?")
    ],
    "zap": [
        *(
            CLEAN["zap"] | {"site": [{"alerts": [{"riskcode": risk}]}]}
            for risk in ("3", 2, "1", "4", "", None, "High")
        ),
        *(CLEAN["zap"] | {"site": site} for site in ([], [{}], {}, [{"alerts": {}}])),
        CLEAN["zap"] | {"@programName": "Other"},
        CLEAN["zap"] | {"error": {"code": 1}},
        {"site": [{"alerts": []}]},
        made_by("ESLint"),
    ],
    "sast": [scored("9.8"), sarif({"level": "note"})],
}
#: Reports that tools write when all is well, for each type.
PASSING = {
    # In order: surefire with what it skipped, and with a flaky test; gradle; go-junit-report;
    # googletest; ginkgo; Qt; phpunit; mocha, which leaves out what is pending; node, which counts
    # what is directly in a suite; planemo; NUnit.
    "junit": [
        b'<testsuite name="a.B" time="0.1" tests="2" errors="0" skipped="1" failures="0">'
        b'<properties><property name="java.version" value="21"/></properties>'
        b'<testcase name="t" classname="a.B" time="0.1"/>'
        b'<testcase name="u" classname="a.B"><skipped message="later"/></testcase></testsuite>',
        b'<testsuite tests="1" errors="0" skipped="0" failures="0" flakes="1"><testcase name="t">'
        b'<flakyFailure message="x" type="y"><stackTrace>z</stackTrace><system-out/></flakyFailure>'
        b"</testcase></testsuite>",
        b'<testsuite name="a.B" tests="1" skipped="0" failures="0" errors="0" hostname="ci">'
        b'<properties/><testcase name="t()" classname="a.B" time="0.1"/><system-out/><system-err/>'
        b"</testsuite>",
        b'<testsuites tests="1"><testsuite name="example.org/x" tests="1" failures="0" errors="0">'
        b'<properties><property name="go.version" value="go1.25"/></properties>'
        b'<testcase name="TestT" classname="x" time="0.010"/></testsuite></testsuites>',
        b'<testsuites tests="2" failures="0" disabled="1" errors="0" name="AllTests">'
        b'<testsuite name="S" tests="2" failures="0" disabled="1" skipped="0" errors="0">'
        b'<testcase name="a" file="s.cc" line="7" status="run" result="completed" classname="S"/>'
        b'<testcase name="b" status="notrun" result="suppressed" classname="S"/>'
        b"</testsuite></testsuites>",
        b'<testsuites tests="2" disabled="1" errors="0" failures="0"><testsuite name="s" tests="2"'
        b' disabled="1" skipped="0" errors="0" failures="0"><testcase name="a" status="passed"/>'
        b'<testcase name="b" status="pending"><skipped message="pending"/></testcase>'
        b"</testsuite></testsuites>",
        b'<testsuite errors="0" failures="0" tests="2" name="q"><testcase result="pass" name="a"/>'
        b'<testcase result="xfail" name="b"/></testsuite>',
        b'<testsuites><testsuite name="" tests="1" assertions="7" errors="0" warnings="0"'
        b' failures="0" skipped="0"><testsuite name="T" tests="1" assertions="7" errors="0"'
        b' failures="0"><testcase name="t" assertions="7"/></testsuite></testsuite></testsuites>',
        b'<testsuites name="Mocha Tests" tests="3" failures="0" skipped="1"><testsuite name="Root"'
        b' tests="0" failures="0"/><testsuite name="s" tests="3" failures="0"><testcase name="a"/>'
        b'<testcase name="b"/></testsuite></testsuites>',
        b'<testsuites><testsuite name="s" disabled="0" errors="0" tests="2" failures="0"'
        b' skipped="0"><testcase name="a"/><testsuite name="u" tests="2"><testcase name="b"/>'
        b'<testcase name="c"/></testsuite></testsuite></testsuites>',
        b'<testsuite name="s" tests="2" errors="0" failures="0" skip="1">%s'
        b'<testcase name="u"><skipped/></testcase></testsuite>' % CASE,
        b'<testsuite result="Success" success="True" tests="1"><testcase name="t" executed="True"'
        b' result="Success" success="True" asserts="3"/></testsuite>',
        # What these call tests are assertions, or subtests that are not listed.
        b'<testsuites><testsuite name="t" errors="0" failures="0" skipped="0" tests="30"'
        b' hostname="tbd" time="0.1"><testcase classname="t.global" name="a" status="run"/>'
        b"</testsuite></testsuites>",
        b'<testsuites><testsuite name="t" errors="0" failures="0" tests="30"'
        b' doctest_version="2.4.11"><testcase classname="a.cpp" name="a" status="run"/>'
        b"</testsuite></testsuites>",
        b'<testsuites name="pytest tests"><testsuite name="api" errors="0" failures="0"'
        b' skipped="0" tests="6"><testcase classname="test_s" name="test_b" time="0.003"/>'
        b"</testsuite></testsuites>",
        b'<testsuites name="pytest tests"><testsuite name="pytest" errors="0" failures="0"'
        b' skipped="0" tests="11"><testcase classname="test_s" name="test_b" time="0.003"/>'
        b"</testsuite></testsuites>",
    ],
    "snyk": [
        CLEAN["snyk"]
        | {
            **{"dependencyCount": 85, "uniqueCount": 0, "filesystemPolicy": False, "path": "/s"},
            "filtered": {"ignore": [{"id": "A", "severity": "high"}], "patch": []},
            "licensesPolicy": {"severities": {}, "orgLicenseRules": {"X": {"severity": "high"}}},
        },
        CLEAN["snyk"] | {"docker": {"baseImage": "node"}, "applications": [CLEAN["snyk"]]},
        CLEAN["snyk"] | {"infrastructureAsCodeIssues": []},
        {"meta": {"isPrivate": True}, "ok": True, "infrastructureAsCodeIssues": []},
        *(made_by(name) for name in ("SnykCode", "Snyk Open Source+Snyk Container")),
    ],
    "sonar": [
        {
            "projectStatus": {
                **{"status": "OK", "ignoredConditions": False, "caycStatus": "compliant"},
                "conditions": [{"status": "OK", "metricKey": "coverage", "actualValue": "91"}],
            }
        },
        {
            **{"serverUrl": "https://sonar.example.org", "taskId": "A", "status": "SUCCESS"},
            "qualityGate": {"name": "way", "status": "OK", "conditions": [{"status": "NO_VALUE"}]},
        },
    ],
    "jira": [
        *(b"PAY-17", b"P2P-17", b"PAY_X-17", b'"PAY-17"', b"A-1"),
        {"id": "10002", "key": "PAY-17", "fields": {"summary": "Fix", "status": {"id": "3"}}},
        {"startAt": 0, "total": 1, "issues": [{"key": "PAY-17", "fields": {}}]},
    ],
    "trivy": [
        *(made_by("Trivy"), bom_by("trivy")),
        {
            **{"SchemaVersion": 2, "Trivy": {"Version": "0.69.1"}, "ArtifactName": "."},
            **{"ArtifactType": "filesystem", "CreatedAt": "2026-01-01T00:00:00Z"},
        },
        CLEAN["trivy"]
        | {
            "Results": [
                {
                    "MisconfSummary": {"Successes": 20, "Failures": 0},
                    "Misconfigurations": [{"Severity": "HIGH", "Status": "PASS"}],
                }
            ]
        },
    ],
    "grype": [
        CLEAN["grype"]
        | {"matches": [{"vulnerability": {"id": "CVE-1", "severity": "Negligible"}}]},
        *(made_by("Grype"), bom_by("grype")),
    ],
    "sarif": [
        # An exit code is the tool's own.
        invoked(exitCode=0, toolExecutionNotifications=[], toolConfigurationNotifications=[]),
        invoked(exitCode=1),
        invoked(
            toolExecutionNotifications=[
                {"level": level, "descriptor": {"id": "x"}} for level in ("none", "note", "warning")
            ]
        ),
        invoked(toolConfigurationNotifications=[{"message": {"text": "A setting is old."}}]),
        sarif({"level": "none", "ruleId": "a"}),
        sarif({"kind": "pass", "level": "none"}, {"kind": "informational", "level": "none"}),
        scored("0.0", level="none"),
        overridden("none", provenance={"invocationIndex": 0}),
        overridden("error", provenance={"invocationIndex": 1}),
        CLEAN["sarif"] | {"version": "2.1.0-rtm.5"},
    ],
    "cyclonedx": [
        rating(severity="none", score=0, method="CVSSv31"),
        rating(severity="info"),
        rating(severity="none", score=0),
        rating(severity="info", method="SSVC", vector="SSVCv2/E:N/A:N"),
        rating(score=0.0, method="CVSSv31", vector="CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N"),
    ],
    "vex": [
        bom(analysis={"state": "not_affected"}, affects=[{"ref": "x"}]),
        bom(
            analysis={"state": "resolved"},
            ratings=[{"severity": "high"}],
            affects=[
                {
                    "ref": "x",
                    "versions": [
                        {"version": "1", "status": "affected"},
                        {"version": "2", "status": "unaffected"},
                    ],
                }
            ],
        ),
        affecting([{"version": "2", "status": "unaffected"}], state="not_affected"),
    ],
    "zap": [made_by("OWASP ZAP"), {"@version": "2.11", "site": [{"@name": "x", "alerts": []}]}],
    "sast": [made_by("CodeQL"), CLEAN["zap"]],
}
#: What a file is called, its bytes or what they are as JSON, and the type that it is sent for.
CASES = [
    *(
        (f"{type}: {how} ({name})", type, content)
        for type in CLEAN
        for how, documents in (("empty", EMPTY), ("foreign", FOREIGN))
        for name, content in documents.items()
    ),
    *(
        (f"{type}: unreadable ({how})", type, make(type))
        for type in CLEAN
        for how, make in UNREADABLE.items()
    ),
    *(
        (f"{type}: clean, of {other}", type, CLEAN[other])
        for type in CLEAN
        for other in CLEAN
        if other not in TAKES.get(type, {type})
    ),
    *(
        (f"{type}: failing ({number})", type, content)
        for type, documents in FAILING.items()
        for number, content in enumerate(documents)
    ),
]


@pytest.fixture(scope="module")
def register():
    with NovantraLite(rate_limits=False) as lite:
        yield lite, lite.client("factstore:write"), make_trail(lite)


def verdict(register, type, content):
    """The status and the details of a PASSED attestation once a file was uploaded for it."""
    lite, client, trail = register
    key = make_attestation(lite, trail, type)
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    assert upload(client, evidence_path(trail, key), content).status == 201
    with lite.workspace.read():
        attestation = Attestation.find(key)
    return attestation.status, json.loads(attestation.details)


def test_every_type_that_is_read_stands_in_the_table():
    types = {*novantra_lite.PROCESSORS, *novantra_lite.SCAN_TYPES}

    assert types - SCANS == set(CLEAN) == set(FAILING) == set(PASSING)
    assert types >= SCANS


@pytest.mark.parametrize(
    ("type", "content"),
    [(type, content) for type, clean in CLEAN.items() for content in (clean, *PASSING[type])],
)
def test_a_clean_report_passes(register, type, content):
    status, details = verdict(register, type, content)

    assert status == "PASSED"
    assert "error" not in details


@pytest.mark.parametrize("type", sorted({*SCANS, "SECURITY_SCAN", " Scan "}))
def test_a_scan_of_any_type_is_judged_by_its_report(register, type):
    tool = type if type in ("semgrep", "codeql", "dependency-check") else "Trivy"
    finding = made_by(tool)
    finding["runs"][0]["results"] = [{"properties": {"security-severity": "9.8"}}]

    statuses = [verdict(register, type, content)[0] for content in (made_by(tool), finding, b"{}")]

    assert statuses == ["PASSED", "FAILED", "FAILED"]


@pytest.mark.parametrize("type", ["zap", "sast"])
def test_a_scan_that_was_not_judged_yet_passes_by_its_report(register, type):
    lite, client, trail = register
    body = {"type": type, "status": "PENDING"}
    key = client.post(f"/api/v1/trails/{trail}/attestations", body).json["id"]

    upload(client, evidence_path(trail, key), whole(type))

    with lite.workspace.read():
        assert Attestation.find(key).status == "PASSED"


def test_a_reference_that_is_none_says_why(register):
    status, details = verdict(register, "jira", {"name": "PAY-17"})

    assert (status, "Expected the key of an issue" in details["error"]) == ("FAILED", True)


@pytest.mark.parametrize("name", ["minimumtests", "minTests", "minimum_tests"])
def test_a_field_that_asks_for_something_in_other_words_is_refused(register, name):
    lite, client, trail = register
    path = evidence_path(trail, make_attestation(lite, trail, "junit"))

    body = form(part(whole("junit")), part(b"5", f'form-data; name="{name}"', ""))
    refused = client.request("POST", path, body=body, headers=FORM)

    assert (refused.status, name in refused.json["message"]) == (422, True)


@pytest.mark.parametrize(
    ("type", "content"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_what_is_empty_foreign_unreadable_or_failing_never_passes(register, type, content):
    lite, _, trail = register

    status, details = verdict(register, type, content)

    assert status == "FAILED"
    assert details
    with lite.workspace.read():
        assert Trail.find(trail).status == "NON_COMPLIANT"


# --- Files of one attestation -------------------------------------------------


@pytest.mark.parametrize("name", ["", "-", "m2/report"])
@pytest.mark.parametrize("type", CLEAN)
def test_a_clean_file_of_another_or_no_name_undoes_no_failure(register, type, name):
    lite, client, trail = register
    key = make_attestation(lite, trail, type)
    path, first = evidence_path(trail, key), "m1/report" if name else ""

    upload(client, path, b"", name=first)
    upload(client, path, whole(type), name=name)

    with lite.workspace.read():
        assert Attestation.find(key).status == "FAILED"


@pytest.mark.parametrize("type", CLEAN)
def test_a_clean_file_does_not_overrule_a_declared_failure(register, type):
    lite, client, trail = register
    body = {"type": type, "status": "FAILED"}
    key = client.post(f"/api/v1/trails/{trail}/attestations", body).json["id"]

    upload(client, evidence_path(trail, key), whole(type))

    with lite.workspace.read():
        attestation = Attestation.find(key)
    assert attestation.status == "FAILED"
    assert json.loads(attestation.details)["error"]
