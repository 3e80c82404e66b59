"""What one key with few rights, or one file, can make slow or large: products of limits."""

import json
import threading
import time
import urllib.request

import pytest
from multipart import FORM, form, part
from records import AUTHOR, COMMIT, DIGEST, IMAGE
from stored import ledger

import novantra_lite
from novantra_lite import (
    Artifact,
    Environment,
    Flow,
    NovantraLite,
    PolicyBundle,
    RegoQueue,
    Trail,
    Unavailable,
    novantra_scopes,
    write_transaction,
)

TRAILS, FLOWS, ENVIRONMENTS = "/api/v1/trails", "/api/v1/flows", "/api/v1/environments"
DEPLOYMENT, EVALUATE = "/api/v1/deployment-policies", "/api/v1/gate/evaluate"
REPORT = "/api/v1/reports/compliance"


@pytest.fixture
def flow(factstore):
    return factstore.post(FLOWS, {"name": "shop"}).json["id"]


@pytest.fixture
def trail(factstore, flow):
    return factstore.post(TRAILS, COMMIT | AUTHOR | {"flowId": flow}).json["id"]


def numbered(number):
    """An id that nothing else has."""
    return f"{number:08}-0000-7000-8000-000000000000"


def copy_record(lite, model, key, ids, **changes):
    """Lay down copies of a record under these ids, many at a time; each with the same changes."""

    def work(current):
        row = dict(zip(model.statements().names, model.find(key).row(), strict=True)) | changes
        copies = ([*(row | {"id": own}).values()] for own in ids)
        current.database.connection().executemany(model.statements().insert, copies)

    write_transaction(lite.workspace, work, actor="test")


# --- Lists --------------------------------------------------------------------


@pytest.fixture
def many(lite, trail):
    """The ids of 2,501 trails, in the order in which they were begun."""
    ids = [numbered(number) for number in range(2500)]
    copy_record(lite, Trail, trail, ids)
    return [trail, *ids]


def test_a_long_list_is_complete_and_in_order(factstore, many):
    bare = factstore.get(TRAILS)

    assert [record["id"] for record in bare.json] == many
    assert bare.headers["content-length"] == str(len(bare.body))


def test_a_long_list_comes_over_a_socket_and_its_head_alone(lite, many):
    headers = {"Authorization": f"Bearer {lite.token('factstore:read')}"}
    with lite.listening() as url:
        for method, size in (("GET", 1_000_000), ("HEAD", 0)):
            requests = urllib.request.Request(url + TRAILS, headers=headers, method=method)

            with urllib.request.urlopen(requests, timeout=30) as answer:
                body = answer.read()

            assert (answer.status, len(body) >= size) == (200, True)
            assert int(answer.headers["Content-Length"]) >= 1_000_000
            assert len(body) in (0, int(answer.headers["Content-Length"]))


def test_a_page_of_a_long_list_is_what_stands_there(factstore, many):
    page = factstore.get(TRAILS, page=1, size=1200).json

    assert [record["id"] for record in page.pop("items")] == many[1200:2400]
    assert page == {"page": 1, "size": 1200, "totalItems": 2501, "totalPages": 3}


def test_values_too_large_to_be_joined_come_one_by_one(factstore, many, monkeypatch):
    monkeypatch.setattr(novantra_lite, "_VALUE_BYTES", 20_000)

    page = factstore.get(TRAILS, page=0, size=100)
    report = factstore.get(REPORT)

    assert [record["id"] for record in page.json["items"]] == many[:100]
    assert report.status == 200


def test_a_list_over_the_limit_is_refused_with_advice(clock):
    with NovantraLite(clock=clock, list_limit=100_000) as lite:
        factstore = lite.client(*novantra_lite.FACTSTORE_SCOPES)
        flow = factstore.post(FLOWS, {"name": "shop"}).json["id"]
        trail = factstore.post(TRAILS, COMMIT | AUTHOR | {"flowId": flow}).json["id"]
        copy_record(lite, Trail, trail, map(numbered, range(1500)))

        bare, page = factstore.get(TRAILS), factstore.get(TRAILS, page=0, size=100)

        assert (bare.status, page.status) == (422, 200)
        assert bare.json["message"] == (
            "The answer would be too large: ask for a page of it (page and size, limit and cursor) "
            "or narrow it by a filter, such as a flow or a time."
        )


def test_a_report_over_the_limit_is_refused_with_advice(lite, factstore, many, monkeypatch):
    copy_record(lite, Trail, many[0], map(numbered, range(5000, 5200)), status="NON_COMPLIANT")
    monkeypatch.setattr(novantra_lite, "_VALUE_BYTES", 20_000)

    refused = factstore.get(REPORT)

    assert (refused.status, refused.json["error"]) == (422, "Unprocessable Entity")


def test_a_read_that_takes_too_long_is_ended_with_advice(clock):
    with NovantraLite(clock=clock, read_deadline=0.01) as lite:
        factstore = lite.client(*novantra_lite.FACTSTORE_SCOPES)
        flow = factstore.post(FLOWS, {"name": "shop"}).json["id"]
        trail = factstore.post(TRAILS, COMMIT | AUTHOR | {"flowId": flow}).json["id"]
        copy_record(lite, Trail, trail, map(numbered, range(10_000)))

        ended, short = factstore.get(TRAILS), factstore.get(f"{TRAILS}/{trail}")

        assert (ended.status, short.status) == (503, 200)
        assert ended.json["message"] == (
            "This read was ended after 0.01 seconds (setting read_deadline): ask for less, by a "
            "page, a filter or a shorter time."
        )


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/trails",
        "/api/v1/trails/{trail}/audit",
        "/api/v1/trails/{trail}/artifacts",
        "/api/v1/trails/{trail}/evidence",
        "/api/v1/trails/{trail}/coverage",
        "/api/v1/trails/{trail}/approvals",
        "/api/v1/trails/{trail}/security-scans",
        "/api/v1/artifacts",
        "/api/v1/approvals",
        "/api/v1/opa/decisions",
        "/api/v1/compliance/assessments",
        "/api/v1/integrations/jira/tickets",
    ],
)
def test_what_grows_without_end_can_be_asked_for_by_the_page(factstore, trail, path):
    number = {"/api/v1/trails": 1}.get(path, 0)

    page = factstore.get(path.format(trail=trail), page=0, size=1, sha256=DIGEST)
    refused = factstore.get(path.format(trail=trail), size=2_000_000_000, sha256=DIGEST)

    assert (page.status, page.json["totalItems"]) == (200, number)
    assert refused.status == 400


@pytest.mark.parametrize("list", ["snapshots", "drift/history"])
def test_a_page_of_an_environment_that_is_not_there_is_not_found(factstore, list):
    missing = factstore.get(f"{ENVIRONMENTS}/{numbered(1)}/{list}", page=0)

    assert missing.status == 404


# --- Texts that are remembered ------------------------------------------------


def test_a_long_date_time_is_refused_and_not_remembered(lite, factstore):
    novantra = lite.client(*novantra_scopes())
    text = "2026-01-01T00:00:00." + "0" * 5000 + "Z"

    refused = factstore.get(REPORT, **{"from": text})
    other = novantra.get("/api/v1/governance/findings", createdAfter=text)

    assert (refused.status, other.status) == (400, 400)
    assert "Expected a date-time such as 2026-07-30T23:59:59Z" in refused.json["message"]


# --- Patterns -----------------------------------------------------------------


def test_many_long_patterns_are_refused_before_they_are_compiled(factstore):
    patterns = [f"{number}[a-z]" + "[b-y]" * 50 for number in range(1000)]
    body = {"name": "x", "type": "K8S", "scope": {"include": {"patterns": patterns}}}

    refused = factstore.post(ENVIRONMENTS, body)

    assert (refused.status, refused.json["message"]) == (
        400,
        "scope.include.patterns: Expected at most 25000 characters in all patterns together",
    )


def test_a_scope_that_changes_under_a_snapshot_is_not_matched_by_the_writer(factstore, monkeypatch):
    key = factstore.post(ENVIRONMENTS, {"name": "x", "type": "K8S"}).json["id"]
    covered = Environment.covered

    def change_meanwhile(environment, names):
        result = covered(environment, names)
        factstore.put(f"{ENVIRONMENTS}/{key}", {"scope": {"include": {"patterns": ["a+"]}}})
        return result

    monkeypatch.setattr(Environment, "covered", change_meanwhile)
    body = {"recordedBy": "agent", "artifacts": []}

    refused = factstore.post(f"{ENVIRONMENTS}/{key}/snapshots", body)

    assert (refused.status, refused.json["message"]) == (
        409,
        "The scope of environment 'x' was changed just now; send the snapshot again.",
    )


def test_a_collection_has_the_status_of_a_trail_follow_once(lite, factstore, flow, trail):
    factstore.put(f"{FLOWS}/{flow}", {"requiredAttestationTypes": ["junit"]})
    item = {"trailId": trail, "evidenceType": "junit", "tool": "t", "details": ""}
    items = [item | {"passed": number % 2 == 1} for number in range(100)]

    collected = factstore.post("/api/v1/evidence/collect", {"items": items})

    assert (collected.status, collected.json["accepted"]) == (201, 100)
    assert factstore.get(f"{TRAILS}/{trail}").json["status"] == "COMPLIANT"
    assert [event for event, _ in ledger(lite)].count("TRAIL_UPDATED") == 1


# --- The gate -----------------------------------------------------------------


def report_everywhere(lite, factstore, flow, trail, number):
    """Have so many trails, each of a flow of its own, report one artifact."""
    artifact = factstore.post(f"{TRAILS}/{trail}/artifacts", IMAGE).json["id"]
    for own in map(numbered, range(number)):
        copy_record(lite, Flow, flow, [own], name=own)
        copy_record(lite, Trail, trail, [own], flow=own)
        copy_record(lite, Artifact, artifact, [own], trail=own)


def test_policies_times_types_times_reports_make_a_small_result(lite, factstore, flow, trail):
    report_everywhere(lite, factstore, flow, trail, 19)
    types = [f"{number}".rjust(200, "x") for number in range(1000)]
    for name in "abcde":
        body = {"name": name, "flowId": flow, "requiredAttestationTypes": types}
        factstore.post(DEPLOYMENT, body)

    result = factstore.post(EVALUATE, {"artifactSha256": DIGEST})
    audited = factstore.get("/api/v1/audit", eventType="GATE_BLOCKED")

    assert (result.json["decision"], len(result.json["blockReasons"])) == ("BLOCKED", 101)
    assert result.json["blockReasons"][100] == "10000 or more further reasons are not listed."
    assert len(result.body) < 200_000
    assert len(audited.body) < 100_000


def test_the_gate_is_shut_for_an_artifact_of_too_many_reports(lite, factstore, flow, trail):
    report_everywhere(lite, factstore, flow, trail, 500)

    result = factstore.post(EVALUATE, {"artifactSha256": DIGEST}).json

    assert (result["decision"], result["reason"]) == (
        "BLOCKED",
        "More than 500 reports decide on this artifact: too many for the gate.",
    )


# --- Policies in Rego ---------------------------------------------------------


def test_what_a_policy_would_be_given_is_bounded(lite, factstore):
    values = {"name": "p", "version": "1", "rego_content": "package p", "modules": "{}"}
    values |= {"syntax": "v1", "status": "ACTIVE"}
    write_transaction(lite.workspace, lambda current: PolicyBundle.create(**values), actor="test")
    attestations = [{"name": "x" * 10_000} for _ in range(100)]

    refused = factstore.post(
        "/api/v1/opa/evaluate", {"artifactName": "shop", "attestations": attestations}
    )

    assert (refused.status, refused.json["message"]) == (
        422,
        "The input and the records that it names exceed the limit of 1000000 bytes.",
    )


class Waiting(threading.Thread):
    """Waits in a queue, notes its turn, and holds it until it is let go."""

    def __init__(self, queue, owner, turns):
        super().__init__()
        self.queue, self.owner, self.turns = queue, owner, turns
        self.refusal = None
        self.start()

    def run(self):
        try:
            with self.queue.turn(self.owner):
                self.turns.append(self.owner)
        except Unavailable as problem:
            self.refusal = problem


def begin_waiting(queue, owner, turns):
    """A thread that has joined the queue, or was refused."""
    before = queue.waiting(owner)
    thread = Waiting(queue, owner, turns)
    while thread.is_alive() and queue.waiting(owner) == before:
        time.sleep(0.001)
    return thread


def test_one_workspace_does_not_keep_another_from_its_turn():
    queue, turns = RegoQueue(20.0), []

    with queue.turn("first"):
        threads = [begin_waiting(queue, owner, turns) for owner in ("first",) * 5 + ("second",)]
    for thread in threads:
        thread.join()

    assert turns == ["first", "second", "first", "first", "first", "first"]


def test_who_would_wait_behind_too_many_is_refused_at_once():
    queue, turns = RegoQueue(20.0), []

    with queue.turn("busy"):
        threads = [begin_waiting(queue, "busy", turns) for _ in range(17)]
        other = begin_waiting(queue, "other", turns)
    for thread in [*threads, other]:
        thread.join()

    refused = [thread.refusal for thread in threads if thread.refusal]
    assert [str(problem) for problem in refused] == [
        "Too many policies wait to be evaluated; try again."
    ]
    assert refused[0].headers == {"Retry-After": "60"}
    assert len(turns) == 17


def test_who_waits_too_long_is_refused():
    queue = RegoQueue(0.1)

    with (
        queue.turn("busy"),
        pytest.raises(Unavailable, match="Too many policies wait"),
        queue.turn("other"),
    ):
        pass

    assert queue.waiting("other") == 0


# --- Files --------------------------------------------------------------------


def upload(factstore, trail, type, content):
    """The status and the details of an attestation of this type, after a file was uploaded."""
    path = f"{TRAILS}/{trail}/attestations"
    key = factstore.post(path, {"type": type, "status": "PENDING"}).json["id"]
    headers, body = FORM, form(part(content))
    taken = factstore.request("POST", f"{path}/{key}/evidence", body=body, headers=headers)
    assert taken.status == 201
    (attestation,) = factstore.get(path).json
    return attestation["status"], json.loads(attestation["details"])


@pytest.mark.parametrize(
    "run",
    [
        b'{"tool":{"driver":{"name":"x"}},"results":[' + b",".join([b"{}"] * 250_001) + b"]}",
        b'{"results":[],"tool":{"driver":{"name":"x"},"extensions":['
        + b",".join([b"{}"] * 250_001)
        + b"]}}",
    ],
    ids=["results", "extensions"],
)
def test_a_report_of_too_many_elements_fails_at_once(factstore, trail, run):
    status, details = upload(
        factstore, trail, "sarif", b'{"version":"2.1.0","runs":[' + run + b"]}"
    )

    assert (status, list(details)) == ("FAILED", ["error"])
    assert details["error"].endswith(": The document holds more than 250,000 list items.")


def test_a_rule_id_of_a_million_slashes_is_read_in_one_pass(factstore, trail):
    content = b'{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"ruleId":"'
    content += b"a/" * 1_000_000 + b'"}]}]}'

    status, details = upload(factstore, trail, "sarif", content)

    assert (status, details["mediumVulnerabilities"]) == ("FAILED", 1)


def test_a_junit_report_of_too_many_suites_fails(factstore, trail):
    content = b"<testsuites>" + b"<a/>" * 500_000 + b"</testsuites>"

    status, details = upload(factstore, trail, "junit", content)

    assert (status, details) == (
        "FAILED",
        {"error": "The XML is nested too deep, or holds too many elements."},
    )
