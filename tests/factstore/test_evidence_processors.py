"""Evidence processors: reports that say how their attestation ended, and hostile ones."""

import json
import time

import pytest
from forms import upload
from looking import audit, events, ledger

from factstore.trails import evidence_path, make_attestation, make_trail
from novantra_lite import Attestation, Trail


@pytest.fixture
def trail(lite):
    return make_trail(lite, required_attestation_types=["junit"])


def sent(lite, client, trail, type, content, version=1, **values):
    """Status and details of an attestation of a type once a file was uploaded for it."""
    key = make_attestation(lite, trail, type, **values)
    stored = upload(client, evidence_path(trail, key, version), content)
    assert stored.status == 201
    with lite.workspace.read():
        attestation = Attestation.fetch(key)
    details = attestation.details
    return attestation.status, json.loads(details) if details else details


def status_of(lite, trail):
    with lite.workspace.read():
        return Trail.fetch(trail).status


def counts(tests=0, failures=0, errors=0, skipped=0):
    return {"tests": tests, "failures": failures, "errors": errors, "skipped": skipped}


JUNIT = {
    '<testsuite tests="3" failures="0" errors="0" skipped="1"/>': ("PASSED", counts(3, skipped=1)),
    '<testsuite tests="3" failures="1"/>': ("FAILED", counts(3, 1)),
    '<testsuite tests="3" errors="2"/>': ("FAILED", counts(3, errors=2)),
    '<testsuites tests="99"/>': ("PASSED", counts()),
    '<testsuites><testsuite tests="2"/><testsuite tests=" 3 "/></testsuites>': (
        "PASSED",
        counts(5),
    ),
    '<testsuite tests="2"><testsuite tests="2" failures="1"/></testsuite>': (
        "FAILED",
        counts(4, 1),
    ),
    '<testsuite tests="1"><testcase><failure>&lt;no&gt;</failure></testcase></testsuite>': (
        "PASSED",
        counts(1),
    ),
    '<?xml version="1.0" encoding="UTF-8"?>\n<!-- é --><testsuite tests="1" name="é"/>': (
        "PASSED",
        counts(1),
    ),
}


@pytest.mark.parametrize("report", JUNIT)
def test_a_junit_report_is_added_up(lite, factstore, trail, report):
    assert sent(lite, factstore, trail, "junit", report.encode()) == JUNIT[report]


def test_a_junit_report_may_be_in_another_encoding(lite, factstore, trail):
    utf16 = '<?xml version="1.0" encoding="utf-16"?><testsuite tests="1"/>'.encode("utf-16")
    latin = '<?xml version="1.0" encoding="iso-8859-1"?><testsuite tests="1" name="é"/>'

    assert sent(lite, factstore, trail, "junit", utf16) == ("PASSED", counts(1))
    assert sent(lite, factstore, trail, "junit", latin.encode("latin-1")) == ("PASSED", counts(1))


JSON = {
    "snyk": {
        '{"vulnerabilities": []}': ("PASSED", {"vulnerabilities": 0}),
        '{"ok": true}': ("PASSED", {"vulnerabilities": 0}),
        '{"vulnerabilities": [{"id": 1, "status": "x"}, {}]}': ("FAILED", {"vulnerabilities": 2}),
        '\ufeff{"vulnerabilities": [1]}': ("FAILED", {"vulnerabilities": 1}),
        '{"runs": [{"results": []}, {"results": null}, {}]}': ("PASSED", {"vulnerabilities": 0}),
        '{"runs": [{"results": [{}, {}]}, {"results": [{}]}]}': ("FAILED", {"vulnerabilities": 3}),
        '{"runs": [], "vulnerabilities": [1]}': ("PASSED", {"vulnerabilities": 0}),
        '{"runs": 5, "vulnerabilities": [1]}': ("FAILED", {"vulnerabilities": 1}),
        '[{"vulnerabilities": [1]}, {"vulnerabilities": [2]}]': ("FAILED", {"vulnerabilities": 2}),
    },
    "sonar": {
        '{"projectStatus": {"status": "OK"}}': ("PASSED", {"qualityGateStatus": "OK"}),
        '{"projectStatus": {"status": "passed"}}': ("PASSED", {"qualityGateStatus": "passed"}),
        '{"projectStatus": {"status": ""}, "status": "Ok"}': (
            "PASSED",
            {"qualityGateStatus": "Ok"},
        ),
        '{"status": "PASSED"}': ("PASSED", {"qualityGateStatus": "PASSED"}),
        '{"projectStatus": {"status": "ERROR"}, "status": "OK"}': (
            "FAILED",
            {"qualityGateStatus": "ERROR"},
        ),
        '{"status": 5}': ("FAILED", {"qualityGateStatus": "5"}),
        "{}": ("FAILED", {"qualityGateStatus": ""}),
    },
    "jira": {
        "PAY-17": ("PASSED", {"issueRef": "PAY-17"}),
        "\n  PAY-17 \r\n": ("PASSED", {"issueRef": "PAY-17"}),
        "pay-17": ("FAILED", {"issueRef": "pay-17"}),
        "PAY-17x": ("FAILED", {"issueRef": "PAY-17x"}),
        "PAY-١٧": ("FAILED", {"issueRef": "PAY-١٧"}),
        "[]": ("FAILED", {"issueRef": "[]"}),
        '{"issueRef": "PAY-17", "status": "Done"}': (
            "PASSED",
            {"issueRef": "PAY-17", "status": "Done"},
        ),
        ' {"issueRef": "PAY", "status": null}': ("FAILED", {"issueRef": "PAY", "status": ""}),
        "{}": ("FAILED", {"issueRef": "", "status": ""}),
        '{"issueRef": "\\ud800"}': ("FAILED", {"issueRef": "?", "status": ""}),
        '{"issueRef": "a\\u0000"}': ("FAILED", {"issueRef": "a\0", "status": ""}),
    },
}


@pytest.mark.parametrize(("type", "report"), [(t, r) for t, known in JSON.items() for r in known])
def test_a_report_says_how_its_attestation_ended(lite, factstore, trail, type, report):
    assert sent(lite, factstore, trail, type, report.encode()) == JSON[type][report]


WORDS = {
    "xml": "The file is not well-formed XML",
    "root": "The file is not a JUnit report",
    "number": "of a testsuite is not a number.",
    "json": "The file is not JSON in UTF-8.",
    "object": "The report is not a JSON object.",
    "list": "of the report are not a list.",
    "word": "The status of the quality gate is not a word.",
    "issue": "The file does not hold the reference of an issue.",
    "wrong": "The report says that something is wrong",
}
UNREADABLE = [
    *(("junit", content, "xml")
      for content in ("", "no xml", "<testsuite>", "\0", "<testsuite></b>")),
    *(("junit", f'<?xml version="1.0" encoding="{e}"?><testsuite/>', "xml")
      for e in ("big5", "rot13", "nonsense", "utf-7")),
    *(("junit", content, "root") for content in ("<html/>", "<a><testsuite/></a>")),
    *(("junit", f'<testsuite failures="{number}"/>', "number")
      for number in ("", "one", "-1", "1.5", "1e3", "٣", "NaN", "9" * 20)),
    *((type, content, "json") for type in ("snyk", "sonar")
      for content in ("", "no json", '{"a": ', "{} {}", '{"a": NaN}')),
    *((type, content, "object") for type in ("snyk", "sonar") for content in ("5", "null", '"x"')),
    ("snyk", '{"runs": [5]}', "object"),
    ("snyk", '{"runs": [{"results": 5}]}', "list"),
    ("snyk", '{"vulnerabilities": {}}', "list"),
    ("snyk", '{"ok": false, "error": "Authentication failed."}', "wrong"),
    ("snyk", '[{"vulnerabilities": []}, {"ok": false}]', "wrong"),
    ("sonar", "[]", "object"),
    ("sonar", f'{{"status": "{"x" * 256}"}}', "word"),
    ("sonar", '{"status": {"status": "OK"}}', "word"),
    *(("jira", content, "issue") for content in ("", " \n", "PAY-17 " * 50_000)),
    ("jira", "{PAY-17}", "json"),
]  # fmt: skip


@pytest.mark.parametrize(("type", "content", "why"), UNREADABLE)
def test_what_cannot_be_read_has_failed_with_a_sentence(lite, factstore, trail, type, content, why):
    status, details = sent(lite, factstore, trail, type, content.encode())

    assert status == "FAILED"
    assert list(details) == ["error"]
    assert WORDS[why] in details["error"]
    assert status_of(lite, trail) == "NON_COMPLIANT"


@pytest.mark.parametrize("type", ["junit", "snyk", "sonar", "jira"])
def test_bytes_that_are_no_text_have_failed(lite, factstore, trail, type):
    status, details = sent(lite, factstore, trail, type, b"\xff\xfe\x80" + bytes(range(256)))

    assert (status, list(details)) == ("FAILED", ["error"])


LAUGHS = "".join(
    f'<!ENTITY lol{n} "{f"&lol{n - 1};" * 10}">' for n in range(1, 10)
)  # ten to the ninth laughs
HOSTILE = {
    "billion laughs": f'<!DOCTYPE x [<!ENTITY lol0 "lol">{LAUGHS}]><testsuite>&lol9;</testsuite>',
    "an external entity": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    "<testsuite>&e;</testsuite>",
    "an external entity in an attribute": '<!DOCTYPE x [<!ENTITY e "9">]><testsuite tests="&e;"/>',
    "an external document type": '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><testsuite/>',
    "a parameter entity": '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>'
    "<testsuite/>",
    "a plain document type": "<!DOCTYPE testsuite><testsuite/>",
    "an entity that nobody declared": "<testsuite>&secret;</testsuite>",
    "a great depth": "<testsuite>" * 500_000,
    "an endless tag": f"<testsuite name='{'x' * 9_000_000}'/>",
    "an endless comment": f"<testsuite><!--{'x' * 9_000_000}--></testsuite>",
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_xml_is_refused_at_once(lite, factstore, trail, how):
    begin = time.process_time()

    status, details = sent(lite, factstore, trail, "junit", HOSTILE[how].encode())

    assert (status, list(details)) == ("FAILED", ["error"])
    assert details["error"].startswith(("The XML ", "The file is not well-formed XML: undefined"))
    assert "root:" not in details["error"]
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("opening", ["[", '{"vulnerabilities":', '{"runs":[{"results":['])
def test_json_of_a_great_depth_is_refused_at_once(lite, factstore, trail, opening):
    status, details = sent(lite, factstore, trail, "snyk", opening.encode() * 100_000)

    assert (status, details) == ("FAILED", {"error": "The file is not JSON in UTF-8."})


def test_json_of_countless_values_is_refused(lite, factstore, trail):
    content = b'{"vulnerabilities": [' + b"0," * 3_000_001 + b"0]}"

    status, details = sent(lite, factstore, trail, "snyk", content)

    assert (status, details) == ("FAILED", {"error": "The JSON holds more than 3,000,000 values."})


def test_a_report_larger_than_what_stays_in_memory_is_read_whole(lite, factstore, trail):
    finding = b'{"ruleId": "x", "message": {"text": "' + b"long " * 400 + b'"}}'
    suite = b'<testsuite tests="1"><testcase name="' + b"long " * 400 + b'"/></testsuite>'
    sarif = b'{"runs": [{"results": [' + b",".join([finding] * 1000) + b"]}]}"
    junit = b"<testsuites>" + suite * 1000 + b"</testsuites>"

    assert sent(lite, factstore, trail, "snyk", sarif) == ("FAILED", {"vulnerabilities": 1000})
    assert sent(lite, factstore, trail, "junit", junit) == ("PASSED", counts(1000))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("type", ["junit", "JUnit", "JUNIT"])
def test_both_versions_process_a_type_in_any_letter_case(lite, factstore, trail, type, version):
    told = sent(lite, factstore, trail, type, b'<testsuite tests="1"/>', version)

    assert told == ("PASSED", counts(1))


@pytest.mark.parametrize("type", ["scan", "junit-report", "", "pull-request"])
def test_other_types_stay_as_they_were_recorded(lite, factstore, trail, type):
    told = sent(lite, factstore, trail, type, b"<broken", status="PASSED", details='"mine"')

    assert told == ("PASSED", "mine")
    assert status_of(lite, trail) == "PENDING"


def test_a_report_settles_its_trail(lite, factstore, trail):
    key = make_attestation(lite, trail, "junit")
    path = evidence_path(trail, key)

    upload(factstore, path, b'<testsuite failures="1"/>')
    failed = status_of(lite, trail)
    upload(factstore, path, b'<testsuite tests="1"/>')
    passed = status_of(lite, trail)

    assert (failed, passed) == ("NON_COMPLIANT", "COMPLIANT")
    assert [entry[1] for entry in audit(lite)[-6:]] == [
        *("evidence_file.stored", "attestation.updated", "trail.updated")
    ] * 2
    assert ledger(lite)[-1] == ("TRAIL_UPDATED", trail)
    settled = [(name, data["trail"]["status"]) for name, data in events(lite)]
    assert settled == [
        ("factstore.trail.settled", "NON_COMPLIANT"),
        ("factstore.trail.settled", "COMPLIANT"),
    ]
    assert lite.verify() == []


def test_a_dry_run_tells_the_outcome_and_leaves_the_trail_alone(lite, factstore, trail):
    key = make_attestation(lite, trail, "junit")

    rehearsed = upload(
        factstore, evidence_path(trail, key, 2), b'<testsuite failures="1"/>', X_Dry_Run="true"
    )

    told = rehearsed.json["wouldCreate"]
    assert (rehearsed.status, told["id"], told["status"]) == (200, key, "FAILED")
    assert told["evidenceFileName"] == "report.xml"
    assert status_of(lite, trail) == "PENDING"
    with lite.workspace.read():
        assert Attestation.fetch(key).status == "PENDING"
