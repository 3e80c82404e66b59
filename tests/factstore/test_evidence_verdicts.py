"""What a file says of its attestation, for every type that is read: only a clean report passes."""

import json

import pytest
from forms import upload

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
}
#: The types that take reports of a tool beside their own.
TAKES = {
    "snyk": {"snyk", "sarif"},
    "trivy": {"trivy", "sarif", "cyclonedx", "vex"},
    "grype": {"grype", "sarif", "cyclonedx", "vex"},
    "cyclonedx": {"cyclonedx", "vex"},
    "vex": {"cyclonedx", "vex"},
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
    ],
    "snyk": [
        {"ok": False, "vulnerabilities": []},
        {"ok": True, "vulnerabilities": [{"id": "A", "severity": "low"}]},
        {"ok": False, "vulnerabilities": [{"id": "A"}]},
        [CLEAN["snyk"], {"ok": False, "error": "x", "path": "."}],
        *(CLEAN["snyk"] | {name: "x"} for name in ("error", "errors", "message")),
        CLEAN["snyk"] | {"applications": [{"ok": False, "vulnerabilities": [{"id": "A"}]}]},
        CLEAN["snyk"] | {"applications": [{"ok": False, "vulnerabilities": []}]},
    ],
    "sonar": [
        {"projectStatus": {"status": "ERROR"}},
        {"projectStatus": {"status": "NONE"}},
        {"projectStatus": {"status": "OK", "conditions": [{"status": "ERROR"}]}},
        {"projectStatus": {"status": "ERROR"}, "status": "OK"},
        {"projectStatus": {"status": "OK"}, "status": "ERROR"},
        {"status": "OK", "conditions": [{"status": "ERROR"}]},
        {"projectStatus": {"status": "OK", "conditions": [{"status": "FAILED"}]}},
    ],
    "jira": [b"pay-17", b"PAY", b"PAY-17 PAY-18", {"issueRef": "", "status": "Done"}],
    "trivy": [
        CLEAN["trivy"] | {"Results": [{name: [{"Severity": severity}]}]}
        for name in ("Vulnerabilities", "Misconfigurations", "Secrets", "Licenses")
        for severity in ("LOW", "UNKNOWN", "", None)
    ],
    "grype": [
        CLEAN["grype"] | {"matches": [{"vulnerability": {"severity": severity}}]}
        for severity in ("Low", "Unknown", "")
    ],
    "sarif": [
        {"version": "2.1.0", "runs": []},
        {"version": "2.1.0", "runs": [{"results": [{"level": "note"}]}]},
        {"version": "2.1.0", "runs": [{"results": [{"kind": "review", "level": "none"}]}]},
        {"version": "2.1.0", "runs": [{"results": [{"kind": "open"}]}]},
        {
            "version": "2.1.0",
            "runs": [{"results": [], "invocations": [{"executionSuccessful": False}]}],
        },
        {"version": "2.1.0", "runs": [{"results": [], "invocations": [{"exitCode": 137}]}]},
        {
            "version": "2.1.0",
            "runs": [{"results": []}],
            "inlineExternalProperties": [{"results": [{"level": "error"}]}],
        },
        {
            "version": "2.1.0",
            "runs": [
                {"results": [{"suppressions": [{"status": "accepted"}, {"status": "rejected"}]}]}
            ],
        },
    ],
    "cyclonedx": [
        CLEAN["cyclonedx"] | {"vulnerabilities": [vulnerability]}
        for vulnerability in (
            {"id": "CVE-1"},
            {"id": "CVE-1", "ratings": [{"severity": "unknown"}]},
            {"id": "CVE-1", "ratings": [{"score": 2.1}]},
            {"id": "CVE-1", "ratings": [{"vector": "AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]},
        )
    ],
    "vex": [
        CLEAN["vex"] | {"vulnerabilities": [{"id": "CVE-1", "analysis": {"state": state}}]}
        for state in ("exploitable", "in_triage", "affected", "under_investigation", "", "fixed?")
    ],
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
        attestation = Attestation.fetch(key)
    return attestation.status, json.loads(attestation.details)


def test_every_type_that_is_read_stands_in_the_table():
    types = {*novantra_lite.PROCESSORS, *novantra_lite.SCAN_TYPES}

    assert types == set(CLEAN) == set(FAILING)


@pytest.mark.parametrize("type", CLEAN)
def test_a_clean_report_passes(register, type):
    status, details = verdict(register, type, CLEAN[type])

    assert status == "PASSED"
    assert "error" not in details


@pytest.mark.parametrize(
    ("type", "content"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_what_is_empty_foreign_unreadable_or_failing_never_passes(register, type, content):
    lite, _, trail = register

    status, details = verdict(register, type, content)

    assert status == "FAILED"
    assert details
    with lite.workspace.read():
        assert Trail.fetch(trail).status == "NON_COMPLIANT"
