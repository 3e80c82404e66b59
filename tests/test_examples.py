"""The examples and the README do what they say: each runs as a process, against a real server."""

import contextlib
import csv
import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from processes import serving

import novantra_lite
from novantra_lite import NovantraLite

ROOT = Path(__file__).parents[1]
SCRIPTS = os.path.dirname(sys.executable)
WHY = "Arranged by a test."


def environment(**own):
    """The environment of a process: this one's, less what would lead it to another register."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("NOVANTRA")}
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return mine | {"PATH": path, "PYTHONPATH": str(ROOT)} | own


def run(*command, cwd=ROOT, **own):
    """Run a process to its end; Python's scripts by the interpreter of this one."""
    command = [sys.executable, *command] if command[0].endswith(".py") else command
    options = {"cwd": cwd, "env": environment(**own), "capture_output": True, "text": True}
    return subprocess.run(command, timeout=60, check=False, **options)


@contextlib.contextmanager
def running(*command, ends=0, **own):
    """A process that answers until this block ends; told to stop then, it ends with this status."""
    options = {"cwd": ROOT, "env": environment(**own), "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *command], **options) as process:
        try:
            yield process.stdout
        finally:
            process.terminate()
            status = process.wait(30)
    assert status == ends


def fetch(url, body=None, **headers):
    """Status and text of an answer, refusals included."""
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


@contextlib.contextmanager
def served(lite, *scopes):
    """What an integration knows of a register that answers: URL, client id, secret."""
    account = lite.accounts.create("Example", scopes)
    with lite.listening() as url:
        yield {
            "NOVANTRA_URL": url,
            "NOVANTRA_CLIENT_ID": account.client_id,
            "NOVANTRA_CLIENT_SECRET": account.client_secret,
        }


def blocks(language):
    """The code blocks of the README in one language, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def block_with(language, words):
    """The one code block that holds these words."""
    (results,) = (block for block in blocks(language) if words in block)
    return results


# --- Drift check --------------------------------------------------------------


def write_cmms(path, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("assetKey", "displayName", "status"), *rows])
    return str(path)


@pytest.fixture
def hangar():
    """A register of 250 assets: more than one page."""
    with NovantraLite() as lite:
        rows = (
            (line, {"assetKey": f"jack-{line}", "assetKind": "tool", "displayName": f"Jack {line}"})
            for line in range(1, 251)
        )
        lite.collection("assets").import_rows(rows, reason=WHY)
        yield lite


def test_the_drift_check_finds_what_is_missing_extra_and_different(hangar, tmp_path):
    rows = [(f"jack-{number}", f"Jack {number}", "active") for number in range(2, 250)]
    rows += [("jack-250", "Jack 250", "scrapped"), ("jack-999", "Jack 999", "active")]
    file = write_cmms(tmp_path / "cmms.csv", rows)

    with served(hangar, "assets:read") as register:
        done = run("examples/drift_check.py", file, **register)

    assert done.returncode == 1
    assert sorted(done.stdout.splitlines()) == [
        "250 rows compared, 3 differences.",
        "different  jack-250: status is active, not scrapped",
        "extra      jack-1: only in the register",
        "missing    jack-999: not in the register",
    ]


def test_the_drift_check_is_content_when_both_agree(hangar, tmp_path):
    rows = [(f"jack-{number}", f"Jack {number}", "active") for number in range(1, 251)]
    file = write_cmms(tmp_path / "cmms.csv", rows)

    with served(hangar, "assets:read") as register:
        done = run("examples/drift_check.py", file, **register)

    assert (done.returncode, done.stdout) == (0, "250 rows compared, 0 differences.\n")


def test_the_drift_check_does_not_take_a_refusal_for_drift(hangar, tmp_path):
    file = write_cmms(tmp_path / "cmms.csv", [("jack-1", "Jack 1", "active")])

    with served(hangar, "governance.risks:read") as register:
        done = run("examples/drift_check.py", file, **register)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Not compared: /api/v1/assets?limit=200: ")


def test_the_drift_check_takes_a_date_for_its_first_moment(lite, tmp_path):
    asset = {"assetKey": "jack-1", "assetKind": "tool", "displayName": "Jack 1"}
    commissioned = {"commissionedAt": "2013-01-05T00:00:00.000Z"}
    lite.collection("assets").create(reason=WHY, **asset, **commissioned)
    text = "sep=;\r\nassetKey;commissionedAt;decommissionedAt;;\r\n jack-1 ;2013-01-05;;;\r\n"
    file = tmp_path / "cmms.csv"
    file.write_bytes(text.encode("utf-16"))

    with served(lite, "assets:read") as register:
        done = run("examples/drift_check.py", str(file), **register)

    assert (done.returncode, done.stdout) == (0, "1 rows compared, 0 differences.\n")


@pytest.mark.parametrize("name", ["cmms.json", "cmms.ndjson", "cmms.tsv"])
def test_the_drift_check_reads_what_an_import_reads(hangar, tmp_path, name):
    file = tmp_path / name
    with file.open("w", encoding="utf-8", newline="") as stream:
        columns = ["assetKey", "displayName"]
        novantra_lite.write_rows(hangar.collection("assets").list(), stream, name[5:], columns)

    with served(hangar, "assets:read") as register:
        done = run("examples/drift_check.py", str(file), **register)

    assert (done.returncode, done.stdout) == (0, "250 rows compared, 0 differences.\n")


def test_the_drift_check_names_active_assets_that_nobody_has_in_custody(lite, tmp_path):
    assets, custody = lite.collection("assets"), lite.collection("custody-assignments")
    for key, status in (("a", "active"), ("b", "active"), ("c", "active"), ("d", "scrapped")):
        asset = {"assetKey": key, "assetKind": "tool", "displayName": key.upper()}
        made = assets.create(reason=WHY, **asset, status=status)
        if key in "ab":
            custodian = {"subjectModuleKey": "membership", "subjectResourceId": "user_1"}
            custodian |= {"subjectResourceType": "member-user", "assetId": made["id"]}
            status = "active" if key == "a" else "ended"
            custody.create(reason=WHY, assignmentKey=f"of-{key}", status=status, **custodian)
    file = tmp_path / "cmms.csv"
    file.write_text("assetKey\na\nb\nc\nd\n", encoding="utf-8")

    with served(lite, "assets:read") as register:
        done = run("examples/drift_check.py", str(file), "--custody", **register)

    assert done.returncode == 1
    assert sorted(done.stdout.splitlines()) == [
        "4 rows compared, 2 differences.",
        "custody    b: active, and nobody has it in custody",
        "custody    c: active, and nobody has it in custody",
    ]


def test_the_drift_check_reports_a_key_that_comes_twice(hangar, tmp_path):
    rows = [(f"jack-{number}", f"Jack {number}", "active") for number in range(1, 251)]
    file = write_cmms(tmp_path / "cmms.csv", [*rows, (" jack-3", "Jack", "active")])

    with served(hangar, "assets:read") as register:
        done = run("examples/drift_check.py", file, **register)

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "twice      jack-3: in lines 4 and 252",
        "250 rows compared, 1 differences.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('assetKey\na\n"b', "The row in line 3 is not CSV"),
        ("assetKey,title\na,b\n", "Assets of the register have no title."),
        ("displayName\na\n", "line 2: a row needs an assetKey."),
        ("assetKey\na,b\n", "line 2: 2 cells under a header of 1"),
        ("assetKey\n", "has no rows."),
        (None, "There is no file"),
        ("assetKey\na\n", "NOVANTRA_CLIENT_ID is not set"),
    ],
)
def test_the_drift_check_says_in_a_sentence_why_it_cannot_compare(tmp_path, text, message):
    file = tmp_path / "cmms.csv"
    if text is not None:
        file.write_text(text, encoding="utf-8")

    done = run("examples/drift_check.py", str(file))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Not compared: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


# --- SARIF --------------------------------------------------------------------


def sarif(tmp_path, *results, rules=()):
    driver = {"name": "Scanner", "rules": list(rules)}
    log = {"version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": list(results)}]}
    path = tmp_path / "scan.sarif"
    path.write_text(json.dumps(log), encoding="utf-8")
    return str(path)


def result(text, *statuses):
    """A result of a scan, suppressed as often as there are statuses; an empty one says nothing."""
    suppressions = [
        {"kind": "external"} | ({"status": status} if status else {}) for status in statuses
    ]
    suppressed = {"suppressions": suppressions} if suppressions else {}
    return {"ruleId": "X1", "message": {"text": text}, **suppressed}


RESULTS = (
    result("open"),
    result("suppressed", ""),
    result("suppressed and accepted", "accepted"),
    result("rejected", "rejected"),
    result("under review", "underReview"),
    result("one accepted, one rejected", "accepted", "rejected"),
    result("under review and rejected", "underReview", "rejected"),
)


def test_scanner_results_become_findings_once_without_the_suppressed_ones(lite, tmp_path):
    file = sarif(tmp_path, *RESULTS)
    with served(lite, "governance.findings:write") as register:
        first = run("examples/push_sarif.py", file, **register)
        second = run("examples/push_sarif.py", file, **register)

    assert first.stdout == "5 added, 0 known, 0 refused\n"
    assert second.stdout == "0 added, 5 known, 0 refused\n"
    assert [finding["title"] for finding in lite.collection("findings").list()] == [
        "X1: open",
        "X1: rejected",
        "X1: under review",
        "X1: one accepted, one rejected",
        "X1: under review and rejected",
    ]


def test_a_finding_says_which_scanner_saw_what_and_where(lite, tmp_path):
    values = {"artifactLocation": {"uri": "pump/list.h"}, "region": {"startLine": 25}}
    file = sarif(tmp_path, result("Unset value.") | {"locations": [{"physicalLocation": values}]})
    with served(lite, "governance.findings:write") as register:
        run("examples/push_sarif.py", file, **register)

    (results,) = lite.collection("findings").list()
    assert results["title"] == "X1: Unset value."
    assert results["description"] == "Unset value.\n\npump/list.h:25"
    assert results["severity"] == "medium"
    assert results["sourceKind"] == "module_signal"
    assert results["sourceModuleKey"] == "Scanner"
    assert results["sourceResourceId"] == "X1"


def test_a_scan_after_the_keys_are_forgotten_adds_nothing_either(lite, clock, tmp_path):
    file = sarif(tmp_path, result("open"))
    with served(lite, "governance.findings:write") as register:
        run("examples/push_sarif.py", file, **register)
        clock.advance(7 * 86_400)
        lite.step()
        again = run("examples/push_sarif.py", file, **register)

    assert again.stdout == "0 added, 1 known, 0 refused\n"


def test_severities_come_from_scores_levels_and_rules(lite, tmp_path):
    rules = [
        {"id": "score", "properties": {"security-severity": "9.8"}},
        {"id": "rule", "defaultConfiguration": {"level": "note"}},
        {"id": "words", "messageStrings": {"default": {"text": "No {0} in {1}"}}},
    ]
    results = [
        {"ruleId": "score", "level": "note", "message": {"text": "by the rule's score"}},
        {"message": {"text": "own score"}, "properties": {"security-severity": "7.0"}},
        {"ruleId": "rule", "message": {"text": "by the rule's level"}},
        {"level": "error", "message": {"text": "by its level"}},
        {"ruleId": "words", "message": {"id": "default", "arguments": ["lock", "door"]}},
        {"kind": "pass", "message": {"text": "passed"}},
        {"baselineState": "absent", "message": {"text": "gone"}},
    ]
    file = sarif(tmp_path, *results, rules=rules)

    with served(lite, "governance.findings:write") as register:
        run("examples/push_sarif.py", file, **register)

    stored = {
        finding["title"]: finding["severity"] for finding in lite.collection("findings").list()
    }
    assert stored == {
        "score: by the rule's score": "critical",
        "own score": "high",
        "rule: by the rule's level": "low",
        "by its level": "high",
        "words: No lock in door": "medium",
    }


def located(text, uri, line, fingerprint="39fa2ee980eb94b0:1"):
    values = {"artifactLocation": {"uri": uri}, "region": {"startLine": line}}
    prints = (
        {"partialFingerprints": {"primaryLocationLineHash": fingerprint}} if fingerprint else {}
    )
    return result(text) | {"locations": [{"physicalLocation": values}]} | prints


def test_results_of_one_fingerprint_in_several_places_are_findings_of_their_own(lite, tmp_path):
    file = sarif(
        tmp_path,
        located("Hard-coded password.", "a.py", 7),
        located("Hard-coded password.", "b.py", 7),
        located("Hard-coded password.", "b.py", 9),
        located("Hard-coded password.", "b.py", 9) | {"ruleId": "X2"},
        located("Hard-coded password.", "b.py", 9, "0000000000000000:1"),
        located("Unset value.", "b.py", 9, ""),
        located("Unused value.", "b.py", 9, ""),
        located("Hard-coded password, in other words.", "a.py", 7),
    )

    with served(lite, "governance.findings:write") as register:
        done = run("examples/push_sarif.py", file, **register)

    assert done.stdout == "7 added, 1 known, 0 refused\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_file_of_another_encoding_is_pushed_with_rules_of_extensions(lite, tmp_path, encoding):
    rule = {"id": "java/xxe", "properties": {"security-severity": "9.8"}}
    reference = {"index": 0, "toolComponent": {"index": 0}}
    log = {
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {"name": "CodeQL"},
                    "extensions": [{"name": "codeql/java-queries", "rules": [rule]}],
                },
                "artifacts": [{"location": {"uri": "src/A.java"}}],
                "results": [
                    {
                        "rule": reference,
                        "message": {"text": "XXE in café"},
                        "locations": [{"physicalLocation": {"artifactLocation": {"index": 0}}}],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "scan.sarif"
    file.write_text(json.dumps(log, ensure_ascii=False), encoding=encoding)

    with served(lite, "governance.findings:write") as register:
        done = run("examples/push_sarif.py", str(file), **register)

    (finding,) = lite.collection("findings").list()
    assert (done.returncode, done.stderr) == (0, "")
    assert (finding["title"], finding["severity"]) == ("java/xxe: XXE in café", "critical")
    assert finding["description"] == "XXE in café\n\nsrc/A.java"


def test_a_scan_that_failed_is_pushed_as_far_as_it_went_and_ends_in_status_1(lite, tmp_path):
    file = Path(sarif(tmp_path, result("open")))
    log = json.loads(file.read_text())
    log["runs"][0]["invocations"] = [{"executionSuccessful": False}]
    file.write_text(json.dumps(log))

    with served(lite, "governance.findings:write") as register:
        done = run("examples/push_sarif.py", str(file), **register)

    assert (done.returncode, done.stdout) == (1, "1 added, 0 known, 0 refused\n")
    assert done.stderr == (
        f"{file}: report.runs[0].invocations[0]: "
        "The tool reports that its run was not successful.\n"
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "The file is not JSON in UTF-8. Line 1, column 1: Expecting value."),
        ("[]", "report: Expected an object."),
        ('{"version": "1.0.0", "runs": []}', "report.version: Expected SARIF 2.1.0."),
        ('{"version": "2.1.0"}', "report.runs: Expected a list."),
        (
            '{"version": "2.1.0", "runs": []}',
            "The SARIF file contains no run: nothing was scanned.",
        ),
        (
            '{"version": "2.1.0", "runs": [{"tool": {}}]}',
            "report.runs[0].results: Expected a list.",
        ),
        (
            '{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": '
            '[{"message": "x"}]}]}',
            "report.runs[0].results[0].message: Expected an object.",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(tmp_path, content, why):
    file = tmp_path / "scan.sarif"
    file.write_text(content)
    own = dict.fromkeys(("NOVANTRA_CLIENT_ID", "NOVANTRA_CLIENT_SECRET"), "x")

    done = run("examples/push_sarif.py", str(file), NOVANTRA_URL="http://127.0.0.1:9", **own)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{file}: {why}\n")


def test_what_a_push_lacks_is_named(tmp_path):
    file = sarif(tmp_path, result("open"))
    own = dict.fromkeys(("NOVANTRA_CLIENT_ID", "NOVANTRA_CLIENT_SECRET"), "x")

    unset = run("examples/push_sarif.py", file, **own)
    absent = run("examples/push_sarif.py", file + "x", NOVANTRA_URL="http://127.0.0.1:9", **own)
    away = run("examples/push_sarif.py", file, NOVANTRA_URL="http://127.0.0.1:9", **own)

    assert [done.returncode for done in (unset, absent, away)] == [1, 1, 1]
    assert unset.stderr == "Set NOVANTRA_URL in the environment.\n"
    assert "No such file" in absent.stderr
    assert "refused" in away.stderr
    assert all(done.stderr.count("\n") == 1 for done in (unset, absent, away))


class Busy(NovantraLite):
    """A register whose next minute begins as soon as it has refused somebody for the rate."""

    def __call__(self, environ, start_response):
        def started(status, *rest):
            if status.startswith("429"):
                self.refused += 1
                self.source.clock.advance(60)
            return start_response(status, *rest)

        return super().__call__(environ, started)

    refused = 0


def test_a_push_that_is_over_the_rate_waits_and_goes_on(clock, tmp_path):
    clock.advance(59)
    file = sarif(tmp_path, *RESULTS)
    with Busy(clock=clock, rate_writes=3) as lite:
        with served(lite, "governance.findings:write") as register:
            done = run("examples/push_sarif.py", file, **register)

        assert lite.refused == 1
        assert done.stdout == "5 added, 0 known, 0 refused\n"


# --- Webhook receiver ---------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_receiver_works_on_each_verified_event_once(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    with NovantraLite(webhook_private_targets=("127.0.0.0/8",)) as lite:
        endpoint = lite.webhooks.add(f"http://{address}/", ["finding.created"])
        findings = lite.collection("findings")
        store = str(tmp_path / "events.db")
        own = {"WEBHOOK_SECRET": endpoint["secret"], "WEBHOOK_STORE": store}
        own |= {"WEBHOOK_LISTEN": address, "ends": -signal.SIGTERM}
        with running("examples/webhook_receiver.py", **own) as printed:
            printed.readline()

            first = findings.create(title="First", severity="low", findingKey="a", reason=WHY)
            arrivals = [lite.step()]
            lite.webhooks.redeliver(lite.webhooks.deliveries()[0]["id"])
            arrivals.append(lite.step())
            second = findings.create(title="Second", severity="low", findingKey="b", reason=WHY)
            arrivals.append(lite.step())
            worked_on = [printed.readline(), printed.readline()]
            forged = fetch(f"http://{address}/", b'{"id": "evt_1", "type": "forged"}')

    assert arrivals == [1, 1, 1]
    assert f'"id": "{first["id"]}"' in worked_on[0]
    assert f'"id": "{second["id"]}"' in worked_on[1]
    assert forged == (401, "")


# --- Mounted ------------------------------------------------------------------


def test_the_register_answers_below_a_path_of_another_application(tmp_path):
    file = str(tmp_path / "register.db")
    with NovantraLite(file) as lite:
        lite.collection("findings").create(
            title="Label is worn", severity="low", findingKey="a", reason=WHY
        )
        token = lite.token("governance.findings:read")

    with running("examples/mounted.py", PORT="0", NOVANTRA_LITE_DATABASE=file) as printed:
        base = re.search(r"http://\S+", printed.readline())[0]
        own = fetch(base)
        bearer = {"Authorization": f"Bearer {token}"}
        page = fetch(f"{base}register/api/v1/governance/findings", **bearer)
        root = fetch(f"{base}register/")

    assert own == (200, "Open findings: 1. The register is at /register/docs.\n")
    assert page[0] == 200
    assert json.loads(page[1])["findings"][0]["title"] == "Label is worn"
    assert root[0] == 200
    assert "<!doctype html>" in root[1].lower()
    with NovantraLite(file) as lite:
        assert lite.verify() == []


# --- Test double --------------------------------------------------------------


def test_the_example_of_a_test_double_passes_as_a_test_run_of_its_own():
    done = run("pytest", "-n0", "-p", "no:cacheprovider", "examples/test_with_novantra.py")

    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


# --- README -------------------------------------------------------------------


def test_the_curl_lines_of_the_readme_run_as_printed():
    lines = block_with("sh", "curl")

    command = "-m", "novantra_lite", "serve", "--demo", "--listen", "127.0.0.1:0", "--json"
    with running(*command) as printed:
        payload = json.loads(printed.readline())
        names = {"url": "URL", "clientId": "CLIENT_ID", "clientSecret": "CLIENT_SECRET"}
        register = {f"NOVANTRA_{name}": payload[member] for member, name in names.items()}
        done = run("bash", "-euo", "pipefail", "-c", lines, **register)

    assert done.returncode == 0, done.stderr
    decoder, answers, text = json.JSONDecoder(), [], done.stdout
    while text:
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:].lstrip()
    organization, assets, made, findings = answers
    assert organization["organization"]["slug"] == payload["workspace"]
    assert len(assets["assets"]) == 2
    assert assets["pagination"]["nextCursor"]
    assert findings["findings"][0] == made["finding"]
    assert len(findings["findings"]) > 1


def test_the_python_lines_of_the_readme_run_as_printed(tmp_path):
    (lines,) = blocks("python")
    (tmp_path / "ten_lines.py").write_text(lines, encoding="utf-8")

    done = run("ten_lines.py", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("201\n{'assets': [{")
    assert "'assetKey': 'jack-7'" in done.stdout


# --- From commit to gate ------------------------------------------------------

JUNIT = '<testsuite tests="{tests}" failures="{failures}">{cases}</testsuite>'


def delivered(tmp_path, failures=0):
    """What a pipeline has at its end: what was built, and the reports of tests and scanner."""
    built, junit, sarif = (tmp_path / name for name in ("payments.tgz", "junit.xml", "scan.sarif"))
    built.write_bytes(b"\x1f\x8b built")
    cases = '<testcase name="t"/>' * 12
    junit.write_text(JUNIT.format(tests=12, failures=failures, cases=cases), encoding="utf-8")
    tool = '"tool": {"driver": {"name": "x"}}'
    sarif.write_text(f'{{"version": "2.1.0", "runs": [{{{tool}, "results": []}}]}}', "utf-8")
    return str(built), str(junit), str(sarif)


def credentials(lite, kind):
    """What a pipeline presents: an API key, or a token with the same scopes."""
    scopes = ("factstore:read", "factstore:write")
    return lite.api_keys.create("ci")["apiKey"] if kind == "key" else lite.token(*scopes)


def manager(lite):
    """The key of who decides, which is not the pipeline's."""
    scopes = ("factstore:read", "factstore:govern")
    return {"FACTSTORE_MANAGER_KEY": lite.api_keys.create("release manager", scopes)["apiKey"]}


PIPELINES = [("examples/pipeline.py",)]
if shutil.which("jq") and shutil.which("curl"):
    PIPELINES.append(("bash", "examples/pipeline.sh"))


@pytest.mark.parametrize("type", ["key", "token"])
@pytest.mark.parametrize("command", PIPELINES, ids=lambda command: command[-1])
def test_a_build_goes_from_commit_to_gate_and_a_second_one_finds_what_is_there(
    tmp_path, command, type
):
    files = delivered(tmp_path)
    with NovantraLite(rate_limits=False) as lite, lite.listening() as url:
        own = {"FACTSTORE_URL": url, "FACTSTORE_API_KEY": credentials(lite, type), **manager(lite)}

        first = run(*command, *files, **own)
        second = run(*command, *files, **own)

        client = lite.client("factstore:read")
        trails = client.get("/api/v1/trails").json
        gates = client.get("/api/v1/gate/results").json
        faults = lite.verify()
    lines = first.stdout.splitlines()
    assert (first.returncode, first.stderr) == (0, "")
    assert lines[0].startswith("junit: PASSED ")
    assert lines[1].startswith("sarif: PASSED ")
    assert lines[2].startswith("Before the approval: ")
    assert lines[3] == "Approval: APPROVED"
    assert lines[5:] == ["Gate: ALLOWED. Every policy is met.", lines[6]]
    assert lines[6].lower() == "drift from the baseline: false"
    assert (second.returncode, second.stderr) == (0, "")
    assert [trail["status"] for trail in trails] == ["COMPLIANT", "COMPLIANT"]
    assert [gate["decision"] for gate in gates] == ["ALLOWED", "ALLOWED"]
    assert faults == []


def second_key(said):
    """A key of another service account, which the first key of a served file may make."""

    def post(path, body):
        headers = {"X-Api-Key": said["apiKey"], "Content-Type": "application/json"}
        request = urllib.request.Request(said["url"] + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    account = post("/api/v1/service-accounts", {"name": "release manager"})["id"]
    query = {"label": "manager", "scopes": ["factstore:read", "factstore:govern"]}
    return post(f"/api/v1/service-accounts/{account}/api-keys", query)["plainTextKey"]


def test_the_first_key_of_a_served_file_takes_a_build_through(tmp_path):
    with serving(tmp_path / "register.db") as server:
        said = server.said | json.loads(Path(server.said["credentialsFile"]).read_text())
        own = {"FACTSTORE_URL": said["url"], "FACTSTORE_API_KEY": said["apiKey"]}
        own["FACTSTORE_MANAGER_KEY"] = second_key(said)
        done = run("examples/pipeline.py", *delivered(tmp_path), **own)
        server.send_signal(signal.SIGTERM)
        ended = server.wait(60)

    assert (done.returncode, done.stderr) == (0, "")
    assert "Gate: ALLOWED. Every policy is met.\n" in done.stdout
    assert ended == 0


@pytest.mark.parametrize("command", PIPELINES, ids=lambda command: command[-1])
def test_a_build_whose_tests_fail_is_stopped_at_the_gate_with_the_reason(tmp_path, command):
    files = delivered(tmp_path, failures=2)
    with NovantraLite(rate_limits=False) as lite, lite.listening() as url:
        own = {"FACTSTORE_API_KEY": credentials(lite, "key"), **manager(lite)}
        done = run(*command, *files, FACTSTORE_URL=url, **own)

    assert done.returncode == 1
    assert "junit: FAILED" in done.stdout
    assert "Gate: BLOCKED." in done.stdout
    assert "'payments to production'" in done.stdout


@pytest.mark.parametrize("command", PIPELINES, ids=lambda command: command[-1])
def test_a_pipeline_with_a_wrong_key_says_what_the_server_said(tmp_path, command):
    with NovantraLite() as lite, lite.listening() as url:
        done = run(*command, *delivered(tmp_path), FACTSTORE_URL=url, FACTSTORE_API_KEY="fss_1")

    assert done.returncode not in (0, None)
    assert "The API key does not exist, or was revoked." in done.stderr


def test_the_commands_of_the_readme_run_one_after_the_other(tmp_path):
    lines = "".join(
        block for block in blocks("sh") if "pip install" not in block and "curl" not in block
    )

    done = run("bash", "-euo", "pipefail", "-c", lines, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    (asset,) = (tmp_path / "all-assets.ndjson").read_text(encoding="utf-8").splitlines()
    assert json.loads(asset)["displayName"] == "Axle jack"
    assert "assets: 1 created, 0 updated, 0 unchanged, 0 refused.\n" in done.stdout
    assert done.stdout.endswith("Sound: the file, the ledger and the audit chain.\n")


def test_the_settings_command_and_the_reference_page_show_every_setting(lite):
    existing = novantra_lite.Settings.KNOWN

    printed = run("novantra_lite.py", "settings").stdout
    listed = json.loads(run("novantra_lite.py", "settings", "--json").stdout)
    page = html.unescape(re.sub("<[^>]+>", "", lite.client().get("/docs").body.decode()))

    assert [setting["name"] for setting in listed] == list(existing)
    words = " ".join(printed.split())
    for setting in listed:
        name, variable = setting["name"], setting["variables"][0]
        assert variable == f"NOVANTRA_LITE_{name.upper()}"
        assert setting["description"] == existing[name].explanation
        assert f"{name} = {setting['default']}".rstrip() in printed.splitlines()
        assert " ".join(setting["description"].split()) in words
        assert re.search(rf"^ {{4}}{variable}\b", printed, re.M)
        assert f"{name}\n{setting['default']}\n{setting['description'].replace('`', '')}" in page


def test_the_settings_command_says_what_is_in_force_and_prints_no_secret():
    variables = {"NOVANTRA_LITE_LISTEN": "0.0.0.0:80", "VAULT_TOKEN": "hvs.secret"}

    done = run("novantra_lite.py", "settings", **variables)
    listed = json.loads(run("novantra_lite.py", "settings", "--json", **variables).stdout)
    wrong = run("novantra_lite.py", "settings", NOVANTRA_LITE_THREADS="many")

    lines = done.stdout.splitlines()
    assert "listen = 0.0.0.0:80 (from NOVANTRA_LITE_LISTEN; default: 127.0.0.1:8080)" in lines
    assert "vault_token = (set) (from VAULT_TOKEN; default: none)" in lines
    assert "hvs.secret" not in done.stdout + json.dumps(listed)
    by_name = {setting["name"]: setting for setting in listed}
    assert by_name["listen"] == {
        "name": "listen",
        "variables": ["NOVANTRA_LITE_LISTEN"],
        "flag": "serve --listen",
        "default": "127.0.0.1:8080",
        "description": "Address and port to serve on; port 0 picks a free one.",
        "value": "0.0.0.0:80",
        "source": "NOVANTRA_LITE_LISTEN",
    }
    assert by_name["threads"]["source"] == ""
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.endswith("The setting threads needs a number, not 'many'.\n")


def test_the_flags_of_settings_are_options_of_the_commands():
    flags = {name: setting.flag for name, setting in novantra_lite.Settings.KNOWN.items()}

    for flag in filter(None, flags.values()):
        words, option = flag.rpartition("--")[0].split() or ["verify"], flag.split()[-1]
        assert option in run("novantra_lite.py", *words, "--help").stdout.split()
    options = {
        options["dest"]
        for command in novantra_lite.COMMANDS.values()
        for _, options in command.arguments
        if options.get("dest") in flags
    }
    assert options == {name for name, flag in flags.items() if " " in flag}


def test_the_routes_command_and_the_reference_page_show_every_operation(lite):
    head, *printed = run("novantra_lite.py", "routes").stdout.splitlines()
    listed = json.loads(run("novantra_lite.py", "routes", "--json").stdout)
    document = json.loads(run("novantra_lite.py", "openapi").stdout)
    page = lite.client().get("/docs").body.decode()

    operations = {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    assert len(operations) > 280
    assert {(route["method"], route["path"]) for route in listed} == operations.keys()
    assert head.split() == ["Method", "Path", "Scope", "Id", "Summary"]
    column = head.index("Path")
    assert {line.find("/") for line in printed} == {column}
    for route, line in zip(listed, printed, strict=True):
        operation = operations[route["method"], route["path"]]
        assert (route["id"], route["summary"]) == (operation["operationId"], operation["summary"])
        assert route["scope"] == operation.get("x-scope", "")
        words = [route["method"], route["path"], route["scope"] or "-", route["id"]]
        assert line.split(maxsplit=4) == [*words, route["summary"]]
        assert f'<div class="body" id="{route["id"]}">' in page


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 25_000


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Commands")[2].partition("\n## ")[0]

    details = set(re.findall(r"[a-z]+", table))

    assert {word for path in novantra_lite.COMMANDS for word in path.split()} <= details
