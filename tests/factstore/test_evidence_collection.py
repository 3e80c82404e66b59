"""Coverage, bulk collection, gaps and the evidence summary."""

import json

import pytest
from stored import audit, events, ledger, tables

from factstore.pipelines import happenings, status_of
from factstore.trails import another_trail, begin_trail

COLLECT = "/api/v1/evidence/collect"
GAPS = "/api/v1/evidence/gaps"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def trail(lite, factstore):
    return begin_trail(lite, factstore, requiredAttestationTypes=["junit", "snyk"])


@pytest.fixture
def path(trail):
    return f"/api/v1/trails/{trail}/coverage"


def attestations(client, trail):
    return client.get(f"/api/v1/trails/{trail}/attestations").json


def statements(lite, client, path):
    """The answer to a read, and the SQL of every statement that it took."""
    seen, connection = [], lite.workspace.reader.connection()
    connection.set_trace_callback(seen.append)
    answer = client.get(path)
    connection.set_trace_callback(None)
    return answer, seen


# --- Coverage -----------------------------------------------------------------


def test_a_report_of_coverage_needs_only_its_tool_and_a_figure(lite, factstore, trail, path):
    created = factstore.post(path, {"tool": "jacoco", "lineCoverage": 80})

    key, (attestation,) = created.json["id"], attestations(factstore, trail)
    assert created.status == 201
    assert created.json == {
        "id": key,
        "trailId": trail,
        "tool": "jacoco",
        "lineCoverage": 80.0,
        "branchCoverage": None,
        "minCoverage": None,
        "passed": True,
        "reportFileName": None,
        "reportFileHash": None,
        "details": None,
        "createdAt": NOON,
    }
    assert factstore.get(path).json == [created.json]
    assert (attestation["type"], attestation["status"]) == ("test-coverage", "PASSED")
    assert attestation["name"] == "jacoco"
    assert ("coverage_report.reported", key) in [entry[1:3] for entry in audit(lite)]
    assert [event for event, _ in ledger(lite)][-2:] == [
        "COVERAGE_REPORT_REPORTED",
        "ATTESTATION_RECORDED",
    ]
    assert happenings(lite) == []
    assert events(lite) == [("factstore.attestation.recorded", {"attestation": attestation})]


def test_everything_that_may_be_told_of_coverage_is_kept(lite, factstore, trail, path):
    body = {
        "tool": "jacoco",
        "lineCoverage": 85.71428571428571,
        "branchCoverage": 66.66666666666667,
        "minCoverage": 66,
        "reportFileName": "jacoco.xml",
        "reportFileHash": "ab" * 32,
        "details": "Unit tests only.",
    }

    created = factstore.post(path, body)

    (attestation,) = attestations(factstore, trail)
    assert created.status == 201
    assert created.json.items() >= (body | {"passed": True}).items()
    assert factstore.get(path).json == [created.json]
    assert json.loads(attestation["details"]) == {
        "tool": "jacoco",
        "lineCoverage": 85.71428571428571,
        "branchCoverage": 66.66666666666667,
        "minCoverage": 66.0,
        "coverageReportId": created.json["id"],
    }
    assert lite.verify() == []


@pytest.mark.parametrize(
    ("line", "branch", "least", "passed"),
    [
        (10.0, 10.0, None, True),
        (None, None, None, False),
        (0.0, None, None, True),
        (80.0, None, 80.0, True),
        (None, 80.0, 80.0, True),
        (80.0, 80.0, 80.0, True),
        (79.99, None, 80.0, False),
        (90.0, 79.99, 80.0, False),
        (79.99, 90.0, 80.0, False),
        (None, None, 80.0, False),
        (None, None, 0.0, False),
        (0.0, None, 0.0, True),
        (100.0, 100.0, 100.0, True),
        (101.0, None, 80.0, False),
        (-1.0, None, -2.0, False),
        (-1.0, None, None, False),
    ],
)
def test_every_figure_given_must_reach_the_minimum(
    lite, factstore, trail, path, line, branch, least, passed
):
    figures = {"lineCoverage": line, "branchCoverage": branch, "minCoverage": least}

    created = factstore.post(path, {"tool": "jacoco"} | figures)

    (attestation,) = attestations(factstore, trail)
    assert (created.status, created.json["passed"]) == (201, passed)
    assert attestation["status"] == ("PASSED" if passed else "FAILED")
    assert status_of(lite, trail) == ("PENDING" if passed else "NON_COMPLIANT")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"passed": False}, "The report is recorded as not passed."),
        ({"status": "FAILED"}, "The member 'status' is 'FAILED', which does not pass."),
        ({"status": "who knows"}, "The member 'status' is 'who knows', which does not pass."),
        ({"result": {"passed": False}}, "The report is recorded as not passed."),
        ({"error": "no data"}, "The member 'error' is 'no data', which does not pass."),
        ({"minCoverage": 91}, "A figure is below the minimum of 91 percent."),
        ({"lineCoverage": 900}, "A figure is not a percentage from 0 to 100."),
        (
            {"lineCoverage": None, "passed": True},
            "The report has no figure: lineCoverage or branchCoverage is needed.",
        ),
    ],
)
def test_coverage_that_failed_by_its_own_word_or_has_no_figure_never_passes(
    factstore, trail, path, body, error
):
    created = factstore.post(path, {"tool": "jacoco", "lineCoverage": 90} | body)

    (attestation,) = attestations(factstore, trail)
    assert (created.status, created.json["passed"]) == (201, False)
    assert attestation["status"] == "FAILED"
    assert json.loads(attestation["details"])["error"] == error


@pytest.mark.parametrize("name", ["coverage", "minLineCoverage", "min_coverage", "threshold"])
def test_coverage_that_says_what_is_not_known_is_refused(factstore, trail, path, name):
    refused = factstore.post(path, {"tool": "jacoco", "lineCoverage": 90, name: 97})

    assert (refused.status, name in refused.json["message"]) == (422, True)
    assert attestations(factstore, trail) == []


def test_coverage_may_say_that_it_passed(factstore, trail, path):
    body = {"tool": "jacoco", "lineCoverage": 90, "passed": True, "status": "OK"}

    created = factstore.post(path, body)

    assert (created.status, created.json["passed"]) == (201, True)
    assert [each["status"] for each in attestations(factstore, trail)] == ["PASSED"]


@pytest.mark.parametrize(
    "change",
    [
        {"tool": None},
        {"tool": "x" * 256},
        {"lineCoverage": "80"},
        {"branchCoverage": True},
        {"minCoverage": [80]},
        {"passed": "false"},
        {"minCoverage": 2**60},
        {"reportFileName": "x" * 256},
        {"reportFileHash": "AB"},
        {"details": {}},
    ],
)
def test_a_wrong_member_of_a_report_is_refused(lite, factstore, path, change):
    before = tables(lite)

    refused = factstore.post(path, {"tool": "jacoco"} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


def test_a_number_that_no_float_holds_is_refused(factstore, path):
    refused = factstore.post(path, body=b'{"tool": "x", "lineCoverage": 1e999}')

    assert refused.status == 400


@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("nonsense", 400)])
def test_what_is_asked_of_no_trail_is_not_found(factstore, key, status):
    answers = [
        factstore.get(f"/api/v1/trails/{key}/coverage"),
        factstore.post(f"/api/v1/trails/{key}/coverage", {"tool": "jacoco"}),
        factstore.get(f"/api/v1/trails/{key}/evidence-summary"),
    ]

    assert [answer.status for answer in answers] == [status] * 3


def test_a_dry_run_of_a_report_stores_neither_report_nor_attestation(lite, factstore, path):
    before = tables(lite)

    response = factstore.post(
        path, {"tool": "jacoco", "minCoverage": 80}, headers={"X-Dry-Run": "true"}
    )

    assert (response.status, response.json["dryRun"]) == (200, True)
    assert response.json["wouldCreate"]["passed"] is False
    assert tables(lite) == before


# --- The summary --------------------------------------------------------------


def test_a_summary_of_nothing_lacks_everything(factstore, trail):
    summary = factstore.get(f"/api/v1/trails/{trail}/evidence-summary")

    assert (summary.status, summary.json) == (
        200,
        {
            "trailId": trail,
            "collectedTypes": [],
            "coverageReports": [],
            "totalAttestations": 0,
            "passedAttestations": 0,
            "failedAttestations": 0,
            "pendingAttestations": 0,
            "isComplete": False,
            "missingRequiredTypes": ["junit", "snyk"],
        },
    )


def test_a_summary_counts_by_status_and_takes_a_failure_for_collected(factstore, trail, path):
    for record_type, status in (
        ("zap", "PENDING"),
        ("snyk", "FAILED"),
        ("zap", "PASSED"),
        ("junit", "PENDING"),
    ):
        factstore.post(
            f"/api/v1/trails/{trail}/attestations", {"type": record_type, "status": status}
        )
    report = factstore.post(path, {"tool": "jacoco", "lineCoverage": 66.66666666666667}).json

    summary = factstore.get(f"/api/v1/trails/{trail}/evidence-summary")

    assert summary.json == {
        "trailId": trail,
        "collectedTypes": ["zap", "snyk", "junit", "test-coverage"],
        "coverageReports": [report],
        "totalAttestations": 5,
        "passedAttestations": 2,
        "failedAttestations": 1,
        "pendingAttestations": 2,
        "isComplete": True,
        "missingRequiredTypes": [],
    }


def test_a_summary_is_complete_where_nothing_is_required(lite, factstore):
    trail = begin_trail(lite, factstore)

    summary = factstore.get(f"/api/v1/trails/{trail}/evidence-summary").json

    assert (summary["isComplete"], summary["missingRequiredTypes"]) == (True, [])


def test_a_summary_takes_as_many_statements_for_many_attestations(lite, factstore, trail):
    summary_path = f"/api/v1/trails/{trail}/evidence-summary"
    _, few = statements(lite, factstore, summary_path)
    items = [item(trail, f"type-{number}") for number in range(200)]
    factstore.post(COLLECT, {"items": items})

    summary, many = statements(lite, factstore, summary_path)

    assert summary.json["totalAttestations"] == 200
    assert len(many) == len(few) == 4


# --- Collection ---------------------------------------------------------------


def item(trail, kind="junit", **more):
    return {"trailId": trail, "evidenceType": kind, "tool": "agent", "passed": True} | more


def test_a_collection_records_what_it_can(lite, factstore, trail):
    other = begin_trail(lite, factstore, "other")

    answer = factstore.post(
        COLLECT,
        {
            "items": [
                item(trail.upper(), details="All green."),
                item(NOBODY),
                item(other, "snyk", passed=False),
                item(trail, "snyk"),
                item(other, "zap", passed=None, tool=7),
            ]
        },
    )

    own, others = attestations(factstore, trail), attestations(factstore, other)
    assert answer.status == 201
    assert answer.json == {
        "results": [
            {
                "trailId": trail,
                "evidenceType": "junit",
                "attestationId": own[0]["id"],
                "passed": True,
            },
            {
                "trailId": other,
                "evidenceType": "snyk",
                "attestationId": others[0]["id"],
                "passed": False,
            },
            {
                "trailId": trail,
                "evidenceType": "snyk",
                "attestationId": own[1]["id"],
                "passed": True,
            },
            {
                "trailId": other,
                "evidenceType": "zap",
                "attestationId": others[1]["id"],
                "passed": False,
            },
        ],
        "accepted": 4,
        "failed": 1,
    }
    assert [record["status"] for record in own + others] == ["PASSED", "PASSED", "FAILED", "FAILED"]
    assert (own[0]["name"], own[0]["details"]) == ("agent", "All green.")
    assert others[1]["name"] == "7"
    assert (status_of(lite, trail), status_of(lite, other)) == ("COMPLIANT", "NON_COMPLIANT")
    recorded = [entry[2] for entry in audit(lite) if entry[1] == "attestation.recorded"]
    assert recorded == [own[0]["id"], others[0]["id"], own[1]["id"], others[1]["id"]]
    assert [name for name, _ in events(lite)].count("factstore.attestation.recorded") == 4
    assert happenings(lite) == []
    assert lite.verify() == []


@pytest.mark.parametrize(
    ("items", "failed"), [([], 0), ([item(NOBODY)], 1), ([item(NOBODY)] * 1000, 1000)]
)
def test_a_collection_of_nothing_known_is_answered_all_the_same(factstore, items, failed):
    answer = factstore.post(COLLECT, {"items": items})

    assert answer.status == 201
    assert answer.json == {"results": [], "accepted": 0, "failed": failed}


@pytest.mark.parametrize(
    "wrong",
    [
        "x",
        None,
        [],
        {},
        item("nonsense"),
        item(None),
        item(7),
        item(NOBODY, None),
        item(NOBODY, "x" * 256),
        item(NOBODY, tool=None),
        item(NOBODY, passed="yes"),
        item(NOBODY, details={}),
    ],
)
def test_one_malformed_item_refuses_the_whole_collection(lite, factstore, trail, wrong):
    before = tables(lite)

    refused = factstore.post(COLLECT, {"items": [item(trail), wrong]})

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "items.1" in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("body", [{}, {"items": None}, {"items": {}}, {"items": [item("")] * 1001}])
def test_a_collection_is_a_list_of_at_most_a_thousand(factstore, body):
    refused = factstore.post(COLLECT, body)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "items" in refused.json["message"]


def test_a_dry_run_of_a_collection_stores_nothing(lite, factstore, trail):
    before = tables(lite)

    response = factstore.post(
        COLLECT, {"items": [item(trail), item(NOBODY)]}, headers={"X-Dry-Run": "true"}
    )

    assert (response.status, response.json["dryRun"]) == (200, True)
    assert (response.json["wouldCreate"]["accepted"], response.json["wouldCreate"]["failed"]) == (
        1,
        1,
    )
    assert tables(lite) == before


# --- Gaps ---------------------------------------------------------------------


def test_gaps_are_the_trails_that_lack_a_required_type_altogether(lite, factstore):
    flow = factstore.post(
        "/api/v1/flows", {"name": "payments", "requiredAttestationTypes": ["zap", "junit", "snyk"]}
    ).json["id"]
    begin_trail(lite, factstore, "asks for nothing")
    empty, half, whole = (another_trail(lite, flow) for _ in range(3))
    factstore.post(
        COLLECT,
        {
            "items": [
                item(half, "junit", passed=False),
                *(
                    item(whole, record_type, passed=record_type != "zap")
                    for record_type in ("zap", "junit", "snyk")
                ),
            ]
        },
    )

    gaps = factstore.get(GAPS)

    expected = {"gitCommitSha": "c0ffee", "gitBranch": "main", "flowId": flow}
    assert gaps.status == 200
    assert gaps.json == {
        "gaps": [
            {
                "trailId": empty,
                **expected,
                "missingTypes": ["zap", "junit", "snyk"],
                "trailStatus": "PENDING",
            },
            {
                "trailId": half,
                **expected,
                "missingTypes": ["zap", "snyk"],
                "trailStatus": "NON_COMPLIANT",
            },
        ],
        "totalTrailsWithGaps": 2,
    }


def test_the_gaps_of_one_flow_can_be_asked_for(lite, factstore):
    first, second = (
        factstore.post("/api/v1/flows", {"name": name, "requiredAttestationTypes": ["junit"]}).json[
            "id"
        ]
        for name in ("payments", "billing")
    )
    another_trail(lite, first)
    lacking = another_trail(lite, second)

    gaps = factstore.get(GAPS, flowId=second).json

    assert [gap["trailId"] for gap in gaps["gaps"]] == [lacking]
    assert gaps["totalTrailsWithGaps"] == 1


def test_there_are_no_gaps_without_trails(factstore):
    gaps = factstore.get(GAPS)

    assert (gaps.status, gaps.json) == (200, {"gaps": [], "totalTrailsWithGaps": 0})


def test_gaps_take_one_statement_whatever_the_number_of_trails(lite, factstore, trail):
    _, few = statements(lite, factstore, GAPS)
    for number in range(30):
        begin_trail(lite, factstore, f"flow-{number}", requiredAttestationTypes=["junit"])

    gaps, many = statements(lite, factstore, GAPS)

    assert gaps.json["totalTrailsWithGaps"] == 31
    assert (len(few), len(many)) == (1, 1)
