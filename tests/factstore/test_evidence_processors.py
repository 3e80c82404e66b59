"""Evidence processors: reports that say how their attestation ended, and hostile ones."""

import json
import time

import pytest
from multipart import FORM, form, part, upload
from stored import audit, events, ledger

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
        attestation = Attestation.find(key)
    details = attestation.details
    return attestation.status, json.loads(details) if details else details


def status_of(lite, trail):
    with lite.workspace.read():
        return Trail.find(trail).status


def counts(tests=0, failures=0, errors=0, skipped=0, **others):
    return {"tests": tests, "failures": failures, "errors": errors, "skipped": skipped, **others}


EMPTY = {"error": "The report contains no test case."}
SKIPPED = {"error": "Tests executed: 0; required: at least 1."}
CASE = '<testcase name="t"/>'
SUITE = f'<testsuite tests="1">{CASE}</testsuite>'
FAILED_SUITE = '<testsuite><testcase name="t"><failure/></testcase></testsuite>'


JUNIT = {
    # A summary is no test.
    '<testsuite tests="3" failures="0" errors="0" skipped="1"/>': (
        "FAILED",
        counts(3, skipped=1, **EMPTY),
    ),
    '<testsuite tests="3" failures="1"/>': ("FAILED", counts(3, 1, **EMPTY)),
    '<testsuites tests="3" failures="1"/>': ("FAILED", counts(3, 1, **EMPTY)),
    '<testsuites tests="99"/>': ("FAILED", counts(99, **EMPTY)),
    "<testsuites/>": ("FAILED", counts(**EMPTY)),
    "<testsuite/>": ("FAILED", counts(**EMPTY)),
    '<testsuites><testsuite name="s"><properties/></testsuite></testsuites>': (
        "FAILED",
        counts(**EMPTY),
    ),
    # The larger of what is counted and what is claimed.
    FAILED_SUITE: ("FAILED", counts(1, 1, failedTests=["t"])),
    '<testsuite tests="1" failures="0"><testcase classname="a.B" name="t">'
    "<failure>&lt;no&gt;</failure></testcase></testsuite>": (
        "FAILED",
        counts(1, 1, failedTests=["a.B.t"]),
    ),
    "<testsuite><testcase><error/></testcase></testsuite>": (
        "FAILED",
        counts(1, errors=1, failedTests=["a test without a name"]),
    ),
    f'<testsuite tests="3" failures="1">{CASE}</testsuite>': ("FAILED", counts(3, 1)),
    f'<testsuites failures="1"><testsuite>{CASE}</testsuite></testsuites>': (
        "FAILED",
        counts(1, 1),
    ),
    f'<testsuite errors="2">{CASE}</testsuite>': ("FAILED", counts(1, errors=2)),
    f'<testsuite tests="2" failures="" errors="0.0" skipped=" 0 ">{CASE * 2}</testsuite>': (
        "PASSED",
        counts(2),
    ),
    f'<testsuite tests="1.0">{CASE}</testsuite>': ("PASSED", counts(1)),
    f"<testsuite>{CASE * 3}</testsuite>": ("PASSED", counts(3)),
    # Each case once, however suites nest.
    f'<testsuites tests="5"><testsuite tests="2">{CASE * 2}</testsuite>'
    f'<testsuite tests=" 3 ">{CASE * 3}</testsuite></testsuites>': ("PASSED", counts(5)),
    f'<testsuite tests="2"><testsuite tests="2">{CASE * 2}</testsuite></testsuite>': (
        "PASSED",
        counts(2),
    ),
    f'<testsuites tests="3"><testsuite tests="3" failures="1"><testsuite tests="3" failures="1">'
    f"{CASE * 2}<testcase name='u'><failure/><failure/></testcase>"
    "</testsuite></testsuite></testsuites>": ("FAILED", counts(3, 1, failedTests=["u"])),
    # What broke off before a test of it ran.
    f'<testsuite>{CASE}<error message="No database."/></testsuite>': (
        "FAILED",
        counts(1, errors=1, failedTests=["No database."]),
    ),
    # Reruns of surefire: a flaky test has passed in the end.
    '<testsuite tests="1"><testcase name="t"><flakyFailure/><flakyError/></testcase></testsuite>': (
        "PASSED",
        counts(1),
    ),
    '<testsuite tests="1" failures="1"><testcase name="t"><failure/><rerunFailure/><rerunError/>'
    "</testcase></testsuite>": ("FAILED", counts(1, 1, failedTests=["t"])),
    '<testsuite><testcase name="t"><rerunFailure/></testcase></testsuite>': (
        "FAILED",
        counts(1, 1, failedTests=["t"]),
    ),
    # What was skipped was not tested.
    f'<testsuite>{CASE}<testcase name="u"><skipped message="later"/></testcase></testsuite>': (
        "PASSED",
        counts(2, skipped=1),
    ),
    '<testsuite tests="1"><testcase name="t"><skipped/></testcase></testsuite>': (
        "FAILED",
        counts(1, skipped=1, **SKIPPED),
    ),
    f'<testsuite tests="2" skipped="2">{CASE * 2}</testsuite>': (
        "FAILED",
        counts(2, skipped=2, **SKIPPED),
    ),
    '<testsuite><testcase name="t" status="notrun"/></testsuite>': (
        "FAILED",
        counts(1, skipped=1, **SKIPPED),
    ),
    f'<testsuite>{CASE}<testcase name="u" status="failed"/></testsuite>': (
        "FAILED",
        counts(2, 1, failedTests=["u"]),
    ),
    '<testsuite><testcase name="t"><skipped/><failure/></testcase></testsuite>': (
        "FAILED",
        counts(1, 1, failedTests=["t"]),
    ),
    # What the output of a test holds is none of its results.
    f"<testsuite>{CASE}<system-out>\x1b[32mok\x1b[0m \x00&#27;[0m&#x1B;&#55357;&#56832;\ufffe"
    "</system-out></testsuite>": ("PASSED", counts(1)),
    f"<testsuite>{CASE}<system-out><![CDATA[\x08<failure/>]]></system-out></testsuite>": (
        "PASSED",
        counts(1),
    ),
    f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- é --><testsuite name="é">{CASE}</testsuite>': (
        "PASSED",
        counts(1),
    ),
    f'<?xml version="1.0"?><!DOCTYPE testsuite><testsuite>{CASE}</testsuite>': (
        "PASSED",
        counts(1),
    ),
    f"<!DOCTYPE testsuite [<!ELEMENT testsuite ANY>]><testsuite>{CASE}</testsuite>": (
        "PASSED",
        counts(1),
    ),
    '<j:testsuite xmlns:j="urn:j"><j:testcase name="t"><j:failure/></j:testcase></j:testsuite>': (
        "FAILED",
        counts(1, 1, failedTests=["t"]),
    ),
}


@pytest.mark.parametrize("report", JUNIT)
def test_a_junit_report_is_added_up(lite, factstore, trail, report):
    assert sent(lite, factstore, trail, "junit", report.encode()) == JUNIT[report]


NAMED = [
    *("utf-16", "utf-16-le", "utf-8-sig", "iso-8859-1", "windows-1252", "big5", "shift_jis"),
    *("gb18030", "euc-jp", "koi8-r"),
]


@pytest.mark.parametrize("name", NAMED)
def test_a_junit_report_may_be_in_another_encoding(lite, factstore, trail, name):
    word = {"big5": "測試", "gb18030": "测试", "koi8-r": "тест"}.get(name, "テスト")
    word = "é" if name in ("iso-8859-1", "windows-1252") else word
    case = f'<testcase name="{word}"><failure/></testcase>'
    declared = "utf-8" if name == "utf-8-sig" else name.removesuffix("-le")
    report = f'<?xml version="1.0" encoding="{declared}"?><testsuite>{case}</testsuite>'

    result = sent(lite, factstore, trail, "junit", report.encode(name))

    assert result == ("FAILED", counts(1, 1, failedTests=[word]))


def test_a_report_in_utf_8_may_say_that_it_is_in_utf_16(lite, factstore, trail):
    report = f'<?xml version="1.0" encoding="utf-16"?>{SUITE}'.encode()

    assert sent(lite, factstore, trail, "junit", report) == ("PASSED", counts(1))


def test_bytes_of_no_encoding_in_the_output_of_a_test_do_not_fail_it(lite, factstore, trail):
    report = b"<testsuite><testcase/><system-out>\xff\xfe</system-out></testsuite>"

    assert sent(lite, factstore, trail, "junit", report) == ("PASSED", counts(1))


def test_a_control_character_may_stand_between_two_pieces_of_a_report(lite, factstore, trail):
    for shift in range(8):
        output = " " * (262_144 - len("<testsuite><testcase/><system-out>") - shift) + "&#27;"
        report = f"<testsuite><testcase/><system-out>{output}</system-out></testsuite>"

        assert sent(lite, factstore, trail, "junit", report.encode())[0] == "PASSED"


def test_the_names_of_failed_tests_are_kept_as_far_as_they_can_be_read(lite, factstore, trail):
    case = '<testcase classname="{}" name="{}"><failure/></testcase>'
    cases = "".join(case.format("x" * 300, number) for number in range(30))

    status, details = sent(
        lite, factstore, trail, "junit", f"<testsuite>{cases}</testsuite>".encode()
    )

    assert (status, details["failures"]) == ("FAILED", 30)
    assert details["failedTests"] == ["x" * 200] * 20


def asking(client, path, content, minimum, name="report.xml"):
    """Upload a report and ask for at least so many tests."""
    field = part(minimum.encode(), 'form-data; name="minimumTests"', "")
    file = part(content, f'form-data; name="file"; filename="{name}"')
    return client.request("POST", path, body=form(file, field), headers=FORM)


@pytest.mark.parametrize("version", [1, 2])
def test_an_upload_may_ask_for_a_number_of_tests_that_were_executed(
    lite, factstore, trail, version
):
    report = f"<testsuite tests='4'>{CASE * 3}<testcase><skipped/></testcase></testsuite>".encode()
    enough, lacking = (make_attestation(lite, trail, "junit") for _ in range(2))

    for key, minimum in ((enough, "3"), (lacking, "4")):
        assert asking(factstore, evidence_path(trail, key, version), report, minimum).status == 201

    with lite.workspace.read():
        enough, lacking = map(Attestation.find, (enough, lacking))
    assert (enough.status, lacking.status) == ("PASSED", "FAILED")
    assert json.loads(lacking.details)["error"] == "Tests executed: 3; required: at least 4."


def test_the_tests_of_all_files_of_an_attestation_are_counted_together(lite, factstore, trail):
    key = make_attestation(lite, trail, "junit")
    path, statuses = evidence_path(trail, key), []
    skipped = b"<testsuite><testcase name='t'><skipped/></testcase></testsuite>"

    for name, report in (
        ("a.xml", f"<testsuite>{CASE * 2}</testsuite>".encode()),
        ("disabled.xml", skipped),
        ("b.xml", f"<testsuite tests='1'>{CASE}</testsuite>".encode()),
        ("b.xml", skipped),
    ):
        assert asking(factstore, path, report, "3", name).status == 201
        with lite.workspace.read():
            statuses.append(Attestation.find(key).status)

    assert statuses == ["FAILED", "FAILED", "PASSED", "FAILED"]


def test_a_file_that_comes_again_does_not_ask_for_less(lite, factstore, trail):
    key = make_attestation(lite, trail, "junit")
    path, report = evidence_path(trail, key), f"<testsuite>{CASE}</testsuite>".encode()

    first = asking(factstore, path, report, "5")
    again = upload(factstore, path, report)

    with lite.workspace.read():
        attestation = Attestation.find(key)
    assert (first.status, again.status, attestation.status) == (201, 201, "FAILED")


@pytest.mark.parametrize(
    ("type", "minimum", "why"),
    [
        ("junit", "0", "minimumTests: Expected a number from 1"),
        ("junit", "-1", "minimumTests: Expected a number from 1"),
        ("junit", "many", "minimumTests: Expected"),
        ("sarif", "1", "minimumTests: Only a report of type junit has tests"),
        ("generic", "1", "minimumTests: Only a report of type junit has tests"),
    ],
)
def test_a_number_of_tests_that_means_nothing_is_refused(
    lite, factstore, trail, type, minimum, why
):
    path = evidence_path(trail, make_attestation(lite, trail, type))

    refused = asking(factstore, path, SUITE.encode(), minimum)

    assert refused.status == 400
    assert why in refused.json["message"]


def no_key(said):
    """Why a reference is none."""
    return f"Expected the key of an issue, like PAY-17, and not '{said}'."


JSON = {
    "sonar": {
        '{"projectStatus": {"status": "OK"}}': ("PASSED", {"qualityGateStatus": "OK"}),
        '{"projectStatus": {"status": "passed"}}': ("FAILED", {"qualityGateStatus": "passed"}),
        '{"projectStatus": {"status": ""}, "status": "OK"}': (
            "FAILED",
            {"qualityGateStatus": "OK"},
        ),
        '{"status": "SUCCESS", "qualityGate": {"status": "OK", "conditions": '
        '[{"status": "OK"}, {"status": "NO_VALUE"}]}}': ("PASSED", {"qualityGateStatus": "OK"}),
        '{"status": "PASSED"}': ("PASSED", {"qualityGateStatus": "PASSED"}),
        '{"projectStatus": {"status": "ERROR"}, "status": "OK"}': (
            "FAILED",
            {"qualityGateStatus": "ERROR"},
        ),
        '{"projectStatus": {"status": "OK", "conditions": [{"status": "OK"}]}}': (
            "PASSED",
            {"qualityGateStatus": "OK"},
        ),
        '{"projectStatus": {"status": "OK", "conditions": [{"status": "ERROR"}]}}': (
            "FAILED",
            {"qualityGateStatus": "OK"},
        ),
        '{"status": 5}': ("FAILED", {"qualityGateStatus": "5"}),
        "{}": ("FAILED", {"qualityGateStatus": ""}),
    },
    "jira": {
        "PAY-17": ("PASSED", {"issueRef": "PAY-17"}),
        "\n  PAY-17 \r\n": ("PASSED", {"issueRef": "PAY-17"}),
        "pay-17": ("FAILED", {"issueRef": "pay-17", "error": no_key("pay-17")}),
        "PAY-17x": ("FAILED", {"issueRef": "PAY-17x", "error": no_key("PAY-17x")}),
        "PAY-١٧": ("FAILED", {"issueRef": "PAY-١٧", "error": no_key("PAY-١٧")}),
        "[]": ("FAILED", {"error": "report: Expected an object."}),
        '{"issueRef": "PAY-17", "status": "Done"}': (
            "PASSED",
            {"issueRef": "PAY-17", "status": "Done"},
        ),
        ' {"issueRef": "PAY", "status": null}': (
            "FAILED",
            {"issueRef": "PAY", "status": "", "error": no_key("PAY")},
        ),
        "{}": ("FAILED", {"issueRef": "", "status": "", "error": no_key("")}),
        '{"issueRef": "\\ud800"}': (
            "FAILED",
            {"issueRef": "?", "status": "", "error": no_key("\\ud800")},
        ),
        '{"issueRef": "a\\u0000"}': (
            "FAILED",
            {"issueRef": "a\0", "status": "", "error": no_key("a\\x00")},
        ),
    },
}


@pytest.mark.parametrize(
    ("type", "report"), [(t, r) for t, existing in JSON.items() for r in existing]
)
def test_a_report_says_how_its_attestation_ended(lite, factstore, trail, type, report):
    assert sent(lite, factstore, trail, type, report.encode()) == JSON[type][report]


WORDS = {
    "xml": "The file is not well-formed XML",
    "root": "The file is not a JUnit report",
    "number": "of a testsuite is not a number.",
    "json": "The file is not JSON in UTF-8.",
    "object": "report: Expected an object.",
    "word": "The status of the quality gate is longer than 255 characters.",
    "text": "report.status: Expected text",
    "issue": "The file does not contain the reference of an issue.",
}
UNREADABLE = [
    *(("junit", content, "xml")
      for content in ("", "no xml", "<testsuite>", "\0", "<testsuite></b>")),
    *(("junit", f'<?xml version="1.0" encoding="{e}"?><testsuite/>', "xml")
      for e in ("rot13", "nonsense", "utf-7", "punycode", "unicode_escape")),
    *(("junit", content, "root") for content in ("<html/>", "<a><testsuite/></a>")),
    *(("junit", f'<testsuite failures="{number}"/>', "number")
      for number in ("one", "-1", "1.5", "1e3", "٣", "NaN", "9" * 20)),
    *((type, content, "json") for type in ("snyk", "sonar")
      for content in ("", "no json", '{"a": ', "{} {}", '{"a": NaN}')),
    *(("sonar", content, "object") for content in ("5", "null", '"x"')),
    ("sonar", "[]", "object"),
    ("sonar", f'{{"status": "{"x" * 256}"}}', "word"),
    ("sonar", '{"status": {"status": "OK"}}', "text"),
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
    "a public document type": '<!DOCTYPE x PUBLIC "-//x" "http://127.0.0.1:9/"><testsuite/>',
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
    tool = b'{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "SnykCode"}}, "results": ['
    sarif = tool + b",".join([finding] * 1000) + b"]}]}"
    junit = b"<testsuites>" + suite * 1000 + b"</testsuites>"

    status, details = sent(lite, factstore, trail, "snyk", sarif)

    assert (status, details["vulnerabilities"]) == ("FAILED", 1000)
    assert sent(lite, factstore, trail, "junit", junit) == ("PASSED", counts(1000))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("type", ["junit", "JUnit", " JUNIT"])
def test_both_versions_process_a_type_in_any_letter_case(lite, factstore, trail, type, version):
    result = sent(lite, factstore, trail, type, SUITE.encode(), version)

    assert result == ("PASSED", counts(1))


@pytest.mark.parametrize("type", ["scans", "junit-report", "", "pull-request"])
def test_other_types_stay_as_they_were_recorded(lite, factstore, trail, type):
    result = sent(lite, factstore, trail, type, b"<broken", status="PASSED", details='"mine"')

    assert result == ("PASSED", "mine")
    assert status_of(lite, trail) == "PENDING"


def test_a_report_settles_its_trail(lite, factstore, trail):
    key = make_attestation(lite, trail, "junit")
    path = evidence_path(trail, key)

    upload(factstore, path, FAILED_SUITE.encode())
    failed = status_of(lite, trail)
    upload(factstore, path, SUITE.encode())
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
        factstore, evidence_path(trail, key, 2), FAILED_SUITE.encode(), X_Dry_Run="true"
    )

    body = rehearsed.json["wouldCreate"]
    assert (rehearsed.status, body["id"], body["status"]) == (200, key, "FAILED")
    assert body["evidenceFileName"] == "report.xml"
    assert status_of(lite, trail) == "PENDING"
    with lite.workspace.read():
        assert Attestation.find(key).status == "PENDING"
