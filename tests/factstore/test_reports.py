"""Reports: how trails comply, and the export of one."""

import pytest
from multipart import upload
from stored import tables

import novantra_lite
from novantra_lite import Artifact, BuildProvenance, Flow, Trail

from .trails import COMMIT, evidence_path, make, make_attestation, make_trail

COMPLIANCE = "/api/v1/reports/compliance"
EXPORT = "/api/v1/reports/audit-trail"
NOBODY = "00000000-0000-4000-8000-000000000000"
NOON = "2026-06-01T12:00:00.000000Z"
TOMORROW = "2026-06-02T12:00:00.000000Z"
LATER = "2026-06-05T12:00:00.000000Z"
NUMBERS = ("totalTrails", "compliantTrails", "nonCompliantTrails", "pendingTrails")


def begin(lite, flow, status, at):
    """One more trail of a flow, of this status, that began at a time."""

    def work():
        flow_id = Flow.get(Flow.name == flow).id
        trail = Trail.create(flow=flow_id, created_at=at, **COMMIT)
        trail.change(status=status)
        return trail.id

    return make(lite, work)


@pytest.fixture
def trails(lite, factstore):
    """Trails of two flows, which began on three days."""
    for name in ("payments", "billing"):
        factstore.post("/api/v1/flows", {"name": name})
    return [
        begin(lite, "payments", "COMPLIANT", NOON),
        begin(lite, "payments", "NON_COMPLIANT", NOON),
        begin(lite, "billing", "NON_COMPLIANT", TOMORROW),
        begin(lite, "payments", "PENDING", TOMORROW),
        begin(lite, "payments", "NON_COMPLIANT", LATER),
    ]


def flow_id(factstore, name):
    return next(flow["id"] for flow in factstore.get("/api/v1/flows").json if flow["name"] == name)


# --- Compliance ---------------------------------------------------------------


def test_all_flows_are_reported_on_together(factstore, trails):
    answer = factstore.get(COMPLIANCE)

    expected = {
        "gitCommitSha": "c0ffee",
        "gitBranch": "main",
        "gitAuthor": "Ada",
        "status": "NON_COMPLIANT",
    }
    assert answer.status == 200
    assert answer.json == {
        "flowId": None,
        "flowName": "All Flows",
        "from": None,
        "to": None,
        "totalTrails": 5,
        "compliantTrails": 1,
        "nonCompliantTrails": 3,
        "pendingTrails": 1,
        "complianceRate": 20.0,
        "nonCompliantTrailList": [
            {"id": trails[1], **expected, "createdAt": NOON},
            {"id": trails[2], **expected, "createdAt": TOMORROW},
            {"id": trails[4], **expected, "createdAt": LATER},
        ],
    }


def test_one_flow_is_reported_on_by_its_id(factstore, trails):
    billing = flow_id(factstore, "billing")

    answer = factstore.get(COMPLIANCE, flowId=billing.upper())

    assert answer.json["flowId"] == billing
    assert answer.json["flowName"] == "billing"
    assert [answer.json[name] for name in NUMBERS] == [1, 0, 1, 0]
    assert [trail["id"] for trail in answer.json["nonCompliantTrailList"]] == [trails[2]]


#: From, to, the four numbers, and which of the trails are listed.
PERIODS = [
    (NOON, LATER, [5, 1, 3, 1], [1, 2, 4]),
    (NOON, NOON, [2, 1, 1, 0], [1]),
    ("2026-06-01T12:00:00.000001Z", None, [3, 0, 2, 1], [2, 4]),
    (None, "2026-06-02T11:59:59.999999Z", [2, 1, 1, 0], [1]),
    (None, NOON, [2, 1, 1, 0], [1]),
    (LATER, None, [1, 0, 1, 0], [4]),
    ("2026-06-01", "2026-06-05", [4, 1, 2, 1], [1, 2]),
    ("2026-06-02", "2026-06-03", [2, 0, 1, 1], [2]),
    ("2026-06-02T13:00:00+01:00", "2026-06-02T12:00:00Z", [2, 0, 1, 1], [2]),
    ("2026-06-01T00:00:00Z", "2026-06-01T11:00:00Z", [0, 0, 0, 0], []),
    (LATER, NOON, [0, 0, 0, 0], []),
    ("2026-06-01T13:00:00Z", "2026-06-01T11:00:00Z", [0, 0, 0, 0], []),
    ("0001-01-01", "9999-12-31", [5, 1, 3, 1], [1, 2, 4]),
    ("", "", [5, 1, 3, 1], [1, 2, 4]),
]


@pytest.mark.parametrize(("first", "last", "numbers", "listed"), PERIODS)
def test_the_bounds_of_a_period_belong_to_it(factstore, trails, first, last, numbers, listed):
    bounds = {
        name: record for name, record in (("from", first), ("to", last)) if record is not None
    }

    answer = factstore.get(COMPLIANCE, **bounds)

    assert [answer.json[name] for name in NUMBERS] == numbers
    ids = [trail["id"] for trail in answer.json["nonCompliantTrailList"]]
    assert ids == [trails[item] for item in listed]


def test_flow_and_period_narrow_the_report_together(factstore, trails):
    payments = flow_id(factstore, "payments")

    answer = factstore.get(COMPLIANCE, flowId=payments, **{"from": "2026-06-02", "to": LATER})

    assert (answer.json["from"], answer.json["to"]) == ("2026-06-02T00:00:00.000000Z", LATER)
    assert [answer.json[name] for name in NUMBERS] == [2, 0, 1, 1]
    assert [trail["id"] for trail in answer.json["nonCompliantTrailList"]] == [trails[4]]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"flowId": NOBODY}, 404),
        ({"flowId": "payments"}, 400),
        ({"from": "yesterday"}, 400),
        ({"to": "2026-13-01T00:00:00Z"}, 400),
        ({"to": "2026-06-01T00:00:00"}, 400),
    ],
)
def test_what_cannot_be_meant_is_refused(factstore, query, status):
    refused = factstore.get(COMPLIANCE, **query)

    assert refused.status == status
    assert refused.json["message"]


def test_without_trails_nothing_complies(factstore):
    answer = factstore.get(COMPLIANCE)

    assert answer.json["complianceRate"] == 0.0
    assert answer.json["nonCompliantTrailList"] == []


@pytest.mark.parametrize(
    ("compliant", "pending", "rate"),
    [
        (1, 2, 33.33),
        (2, 1, 66.67),
        (1, 7, 12.5),
        (1, 19_999, 0.01),
        (1, 20_000, 0.0),
        (3, 0, 100.0),
    ],
)
def test_the_rate_is_rounded_half_up_to_two_decimals(compliant, pending, rate):
    counted = {"COMPLIANT": compliant, "PENDING": pending}

    assert novantra_lite.trail_totals(counted)["complianceRate"] == rate


def statements(lite, client, path, **query):
    """How many statements an answer takes, once the caller is known."""
    seen, connection = [], lite.workspace.reader.connection()
    assert client.get(path, **query).status == 200
    connection.set_trace_callback(seen.append)
    client.get(path, **query)
    connection.set_trace_callback(None)
    return len(seen)


def test_a_report_takes_one_statement_and_one_for_the_name_of_the_flow(lite, factstore, trails):
    payments = flow_id(factstore, "payments")

    assert statements(lite, factstore, COMPLIANCE, **{"from": NOON}) == 1
    assert statements(lite, factstore, COMPLIANCE, flowId=payments) == 2


# --- Export of a trail --------------------------------------------------------


def report_artifact(lite, trail, **provenance):
    """An artifact of a trail, with provenance of this status."""

    def work():
        artifact = Artifact.create(
            trail=trail,
            image_name="app",
            image_tag="1",
            sha256_digest="sha256:" + "a1" * 32,
            reported_by="ci",
        )
        if provenance:
            BuildProvenance.create(
                artifact=artifact.id, builder_id="ci", builder_type="GENERIC", **provenance
            )
        return artifact.id

    return make(lite, work)


def test_an_export_holds_everything_that_was_recorded_for_a_trail(lite, factstore, trail, clock):
    other = make_trail(lite, "billing")
    report_artifact(lite, trail)
    kept = [make_attestation(lite, trail, type) for type in ("scan", "lint")]
    for attestation in (*reversed(kept), make_attestation(lite, other)):
        where = trail if attestation in kept else other
        assert upload(factstore, evidence_path(where, attestation), b"<a/>").status == 201
    clock.advance(60)

    answer = factstore.get(f"{EXPORT}/{trail}")

    recorded = factstore.get(f"/api/v1/trails/{trail}").json
    assert answer.status == 200
    assert answer.json == {
        "trailId": trail,
        "exportedAt": "2026-06-01T12:01:00.000000Z",
        "trail": recorded,
        "flow": factstore.get(f"/api/v1/flows/{recorded['flowId']}").json,
        "artifacts": factstore.get(f"/api/v1/trails/{trail}/artifacts").json,
        "attestations": factstore.get(f"/api/v1/trails/{trail}/attestations").json,
        "evidenceFiles": factstore.get(f"/api/v1/trails/{trail}/evidence").json,
    }
    assert [
        evidence_file["attestationId"] for evidence_file in answer.json["evidenceFiles"]
    ] == kept[::-1]
    assert answer.json["attestations"][0]["evidenceFileName"] == "report.xml"


def test_an_export_tells_the_true_status_of_provenance(lite, factstore, trail):
    report_artifact(lite, trail, provenance_status="PROVENANCE_VERIFIED")
    report_artifact(lite, trail)

    artifacts = factstore.get(f"{EXPORT}/{trail}").json["artifacts"]

    assert [artifact["provenanceStatus"] for artifact in artifacts] == [
        "PROVENANCE_VERIFIED",
        "NO_PROVENANCE",
    ]


def test_an_empty_trail_is_exported_too(factstore, trail):
    answer = factstore.get(f"{EXPORT}/{trail.upper()}")

    assert answer.json["trailId"] == trail
    assert [answer.json[name] for name in ("artifacts", "attestations", "evidenceFiles")] == [
        [],
        [],
        [],
    ]


@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("f00d", 400)])
def test_a_trail_that_is_not_there_is_not_exported(factstore, key, status):
    refused = factstore.get(f"{EXPORT}/{key}")

    assert refused.status == status
    assert refused.json["message"]


def test_an_export_takes_one_statement_whatever_was_recorded(lite, factstore, trail):
    for number in range(20):
        make_attestation(lite, trail, f"scan-{number}")
        report_artifact(lite, trail)

    exported = factstore.get(f"{EXPORT}/{trail}").json

    assert (len(exported["attestations"]), len(exported["artifacts"])) == (20, 20)
    assert statements(lite, factstore, f"{EXPORT}/{trail}") == 1


# --- Both ---------------------------------------------------------------------


@pytest.mark.parametrize("path", [COMPLIANCE, f"{EXPORT}/{NOBODY}"])
def test_reports_need_the_scope_to_read(lite, path):
    assert lite.client().get(path).status == 401
    assert lite.client("factstore:write").get(path).status == 403


def test_reports_store_nothing(lite, factstore, trails):
    before = tables(lite)

    factstore.get(COMPLIANCE)
    factstore.get(f"{EXPORT}/{trails[0]}")

    assert tables(lite) == before
