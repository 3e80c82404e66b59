"""Mappings, assessments and the chain of custody."""

import pytest
from stored import audit, ledger, tables

from novantra_lite import Artifact, BuildProvenance, EvidenceFile, Flow

from .trails import make, make_attestation, make_trail

FRAMEWORKS = "/api/v1/frameworks"
MAPPINGS = "/api/v1/compliance/mappings"
ASSESS = "/api/v1/compliance/assess"
ASSESSMENTS = "/api/v1/compliance/assessments"
CUSTODY = "/api/v1/compliance/artifact"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
SOX = "5eed0002-0000-4000-8000-000000000000"
DIGEST = "sha256:" + "A1" * 32


def make_framework(factstore, **controls):
    """A framework whose controls ask for these types; the ids of its controls, by name."""
    key = factstore.post(FRAMEWORKS, {"name": "House", "version": "1"}).json["id"]
    ids = {}
    for name, types in controls.items():
        control = {"controlId": name, "title": name.upper()}
        control["requiredEvidenceTypes"] = types.split()
        ids[name] = factstore.post(f"{FRAMEWORKS}/{key}/controls", control).json["id"]
    return key, ids


def map_control(factstore, control, **members):
    body = {"regulatoryControlId": control, "flowId": NOBODY, "attestationType": "scan"}
    return factstore.post(MAPPINGS, body | members)


def assess(factstore, framework, trail, **members):
    return factstore.post(ASSESS, {"frameworkId": framework, "trailId": trail} | members)


# --- Mappings -----------------------------------------------------------------


def test_a_mapping_is_mandatory_unless_it_says_otherwise(lite, factstore):
    control = f"{SOX[:-1]}1"
    first = map_control(factstore, control.upper())
    second = map_control(factstore, control, isMandatory=False)
    third = map_control(factstore, control, isMandatory=None)

    assert first.status == 201
    assert first.json == {
        "id": first.json["id"],
        "regulatoryControlId": control,
        "flowId": NOBODY,
        "attestationType": "scan",
        "isMandatory": True,
        "createdAt": NOON,
    }
    assert [second.json["isMandatory"], third.json["isMandatory"]] == [False, True]
    assert factstore.get(MAPPINGS).json == [first.json, second.json, third.json]
    assert audit(lite)[-1][1:3] == ("control_mapping.created", third.json["id"])
    assert ledger(lite)[-1] == ("CONTROL_MAPPING_CREATED", third.json["id"])
    assert lite.verify() == []


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"regulatoryControlId": NOBODY}, 404),
        ({"regulatoryControlId": "SOX-ITGC-1"}, 400),
        ({"regulatoryControlId": None}, 400),
        ({"flowId": "payments"}, 400),
        ({"flowId": None}, 400),
        ({"attestationType": None}, 400),
        ({"attestationType": "x" * 101}, 400),
        ({"isMandatory": "yes"}, 400),
    ],
)
def test_a_wrong_mapping_is_refused(lite, factstore, change, status):
    before = tables(lite)

    refused = map_control(factstore, f"{SOX[:-1]}1", **change)

    assert refused.status == status
    assert refused.json["message"]
    assert tables(lite) == before


def test_a_dry_run_of_a_mapping_makes_nothing(lite, factstore):
    before = tables(lite)
    body = {"regulatoryControlId": f"{SOX[:-1]}1", "flowId": NOBODY, "attestationType": "scan"}

    rehearsed = factstore.post(MAPPINGS, body, headers={"X-Dry-Run": "true"})

    assert (rehearsed.status, rehearsed.json["wouldCreate"]["isMandatory"]) == (200, True)
    assert tables(lite) == before


# --- Assessments --------------------------------------------------------------


def test_each_control_tells_what_satisfies_it_and_what_is_missing(lite, factstore, acme, trail):
    framework, _ = make_framework(
        factstore, full="scan test", half="lint scan", none="lint", any=""
    )
    make_attestation(lite, trail, "test", status="PASSED")
    make_attestation(lite, trail, "scan", status="PASSED")
    before = factstore.get(f"/api/v1/trails/{trail}").json

    assessed = assess(factstore, framework, trail.upper(), orgSlug="acme")

    key = assessed.json["id"]
    names = ("controlId", "title", "status", "satisfiedBy", "missingEvidence")
    assert assessed.status == 201
    assert assessed.json == {
        "id": key,
        "frameworkId": framework,
        "trailId": trail,
        "overallStatus": "PARTIAL",
        "controlResults": [
            dict(zip(names, row, strict=True))
            for row in (
                ("full", "FULL", "SATISFIED", ["scan", "test"], []),
                ("half", "HALF", "PARTIAL", ["scan"], ["lint"]),
                ("none", "NONE", "NOT_SATISFIED", [], ["lint"]),
                ("any", "ANY", "SATISFIED", [], []),
            )
        ],
        "orgSlug": "acme",
        "assessedAt": NOON,
    }
    assert factstore.get(f"{ASSESSMENTS}/{key}").json == assessed.json
    assert factstore.get(ASSESSMENTS).json == [assessed.json]
    assert factstore.get(f"/api/v1/trails/{trail}").json == before
    assert audit(lite)[-1][1:3] == ("compliance_assessment.recorded", key)
    assert ledger(lite)[-1] == ("COMPLIANCE_ASSESSMENT_RECORDED", key)
    assert lite.verify() == []


@pytest.mark.parametrize(
    ("recorded", "status"),
    [
        ([("scan", "PASSED")], "SATISFIED"),
        ([("scan", "FAILED")], "NOT_SATISFIED"),
        ([("scan", "PENDING")], "NOT_SATISFIED"),
        ([("SCAN", "PASSED")], "NOT_SATISFIED"),
        ([("scan", "PASSED"), ("scan", "FAILED")], "NOT_SATISFIED"),
        ([("scan", "PASSED"), ("scan", "PENDING")], "SATISFIED"),
        ([("scan", "FAILED"), ("scan", "PASSED")], "SATISFIED"),
    ],
)
def test_evidence_is_what_has_passed_by_its_exact_type(lite, factstore, trail, recorded, status):
    framework, _ = make_framework(factstore, one="scan")
    for record_type, outcome in recorded:
        make_attestation(lite, trail, record_type, status=outcome)

    assessed = assess(factstore, framework, trail).json

    assert assessed["controlResults"][0]["status"] == status


def test_attestations_of_other_trails_are_no_evidence(lite, factstore, trail):
    framework, _ = make_framework(factstore, one="scan")
    make_attestation(lite, make_trail(lite, "other"), "scan", status="PASSED")

    assessed = assess(factstore, framework, trail).json

    assert assessed["overallStatus"] == "NON_COMPLIANT"


@pytest.mark.parametrize(
    ("controls", "optional", "overall"),
    [
        ({}, "", "COMPLIANT"),
        ({"a": "scan"}, "", "COMPLIANT"),
        ({"a": "lint"}, "", "NON_COMPLIANT"),
        ({"a": "lint", "b": "test"}, "", "NON_COMPLIANT"),
        ({"a": "scan", "b": "lint"}, "", "PARTIAL"),
        ({"a": "scan lint"}, "", "PARTIAL"),
        ({"a": "scan", "b": "lint"}, "b", "COMPLIANT"),
        ({"a": "scan", "b": "lint"}, "a", "NON_COMPLIANT"),
        ({"a": "lint", "b": "test"}, "a b", "COMPLIANT"),
    ],
)
def test_the_overall_status_follows_from_the_mandatory_controls(
    lite, factstore, trail, controls, optional, overall
):
    framework, ids = make_framework(factstore, **controls)
    make_attestation(lite, trail, "scan", status="PASSED")
    for name in optional.split():
        map_control(factstore, ids[name], isMandatory=False)

    assessed = assess(factstore, framework, trail).json

    assert assessed["overallStatus"] == overall
    assert [assessment["controlId"] for assessment in assessed["controlResults"]] == list(controls)


def test_one_mandatory_mapping_of_any_flow_is_enough(lite, factstore, trail):
    framework, ids = make_framework(factstore, a="lint")
    map_control(factstore, ids["a"], isMandatory=False)
    before = assess(factstore, framework, trail).json
    map_control(factstore, ids["a"], isMandatory=True, attestationType="other")

    after = assess(factstore, framework, trail).json

    assert [before["overallStatus"], after["overallStatus"]] == ["COMPLIANT", "NON_COMPLIANT"]


def test_controls_of_one_name_are_mandatory_together(lite, factstore, trail):
    framework, ids = make_framework(factstore, a="lint")
    twin = {"controlId": "a", "title": "A", "requiredEvidenceTypes": ["scan"]}
    factstore.post(f"{FRAMEWORKS}/{framework}/controls", twin)
    map_control(factstore, ids["a"], isMandatory=False)
    make_attestation(lite, trail, "scan", status="PASSED")

    assessed = assess(factstore, framework, trail).json

    assert [assessment["status"] for assessment in assessed["controlResults"]] == [
        "NOT_SATISFIED",
        "SATISFIED",
    ]
    assert assessed["overallStatus"] == "PARTIAL"


def test_an_assessment_stays_as_it_was_made(lite, factstore, trail):
    framework, _ = make_framework(factstore, one="scan")
    first = assess(factstore, framework, trail).json
    make_attestation(lite, trail, "scan", status="PASSED")
    control = {"controlId": "two", "title": "Two", "requiredEvidenceTypes": ["lint"]}
    factstore.post(f"{FRAMEWORKS}/{framework}/controls", control)

    second = assess(factstore, framework, trail).json

    assert factstore.get(ASSESSMENTS).json == [first, second]
    assert [first["overallStatus"], second["overallStatus"]] == ["NON_COMPLIANT", "PARTIAL"]


def test_assessments_and_mappings_outlive_the_flow_and_its_trail(lite, factstore, trail):
    flow = factstore.get(f"/api/v1/trails/{trail}").json["flowId"]
    mapping = map_control(factstore, f"{SOX[:-1]}1", flowId=flow).json
    assessed = assess(factstore, SOX, trail).json

    deleted = factstore.delete(f"/api/v1/flows/{flow}")

    assert deleted.status == 204
    assert factstore.get(f"/api/v1/trails/{trail}").status == 404
    assert factstore.get(MAPPINGS).json == [mapping]
    assert factstore.get(ASSESSMENTS).json == [assessed]
    assert lite.verify() == []


def test_the_framework_is_looked_for_before_the_trail(lite, factstore, trail):
    before = tables(lite)

    both = assess(factstore, NOBODY, NOBODY)
    no_trail = assess(factstore, SOX, NOBODY)
    no_organisation = assess(factstore, SOX, trail, orgSlug="nobody")

    assert [both.status, no_trail.status, no_organisation.status] == [404, 404, 404]
    assert "framework" in both.json["message"]
    assert "trail" in no_trail.json["message"]
    assert "organisation 'nobody'" in no_organisation.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize(
    "change",
    [
        {"frameworkId": None},
        {"frameworkId": "SOX"},
        {"trailId": None},
        {"trailId": "x"},
        {"orgSlug": "x" * 256},
    ],
)
def test_a_wrong_request_to_assess_is_refused(factstore, trail, change):
    refused = factstore.post(ASSESS, {"frameworkId": SOX, "trailId": trail} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]


def test_a_dry_run_of_an_assessment_keeps_nothing(lite, factstore, trail):
    before = tables(lite)
    body = {"frameworkId": SOX, "trailId": trail}

    rehearsed = factstore.post(ASSESS, body, headers={"X-Dry-Run": "true"})

    assert (rehearsed.status, rehearsed.json["dryRun"]) == (200, True)
    assert rehearsed.json["wouldCreate"]["overallStatus"] == "NON_COMPLIANT"
    assert tables(lite) == before


@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("x", 400)])
def test_an_assessment_that_is_not_there_is_not_found(factstore, key, status):
    refused = factstore.get(f"{ASSESSMENTS}/{key}")

    assert refused.status == status


def queries(connection, work):
    """What a piece of work asks the file."""
    seen = []
    connection.set_trace_callback(seen.append)
    work()
    connection.set_trace_callback(None)
    return [request for request in seen if "FROM" in request and not request.startswith("--")]


def test_assessing_asks_the_file_as_often_for_many_controls_as_for_one(lite, factstore, trail):
    small, _ = make_framework(factstore, a="scan")
    large, ids = make_framework(factstore, **{f"c{number}": "scan lint" for number in range(30)})
    for control in ids.values():
        map_control(factstore, control)
    connection = lite.workspace.writer.database.connection()

    few = queries(connection, lambda: assess(factstore, small, trail))
    many = queries(connection, lambda: assess(factstore, large, trail))

    assert len(few) == len(many) <= 8


# --- Chain of custody ---------------------------------------------------------


def report_artifact(lite, trail, digest=DIGEST, name="app"):
    values = {"image_name": name, "image_tag": "1", "sha256_digest": digest}
    return make(lite, lambda: Artifact.create(trail=trail, **values)).id


def keep_file(lite, attestation, name):
    values = {"file_name": name, "content_type": "text/plain"}
    external = {"sha256_hash": "b" * 64, "file_size_bytes": 1, "external_url": "https://x/y"}
    return make(lite, lambda: EvidenceFile.create(attestation=attestation, **values, **external)).id


def test_a_digest_leads_to_everything_behind_it(lite, factstore, trail):
    artifact = report_artifact(lite, trail)
    first = make_attestation(lite, trail, "scan", status="PASSED")
    second = make_attestation(lite, trail, "test", status="PASSED")
    files = [
        keep_file(lite, second, "late.txt"),
        keep_file(lite, first, "early.txt"),
        keep_file(lite, second, "later.txt"),
    ]
    elsewhere = make_trail(lite, "other")
    keep_file(lite, make_attestation(lite, elsewhere, "scan"), "else.txt")

    response = factstore.get(f"{CUSTODY}/{DIGEST}")

    body = response.json
    flow = body["trail"]["flowId"]
    assert response.status == 200
    assert list(body) == [
        "sha256Digest",
        "artifact",
        "trail",
        "flow",
        "attestations",
        "evidenceFiles",
        "complianceStatus",
    ]
    assert body["sha256Digest"] == DIGEST
    assert body["artifact"]["id"] == artifact
    assert [body["artifact"]] == factstore.get(f"/api/v1/trails/{trail}/artifacts").json
    assert body["trail"] == factstore.get(f"/api/v1/trails/{trail}").json
    assert body["flow"] == factstore.get(f"/api/v1/flows/{flow}").json
    assert body["attestations"] == factstore.get(f"/api/v1/trails/{trail}/attestations").json
    assert [evidence_file["id"] for evidence_file in body["evidenceFiles"]] == [
        files[1],
        files[0],
        files[2],
    ]
    assert body["complianceStatus"] == "COMPLIANT"


def test_a_bare_artifact_has_an_empty_chain(lite, factstore, trail):
    report_artifact(lite, trail)

    body = factstore.get(f"{CUSTODY}/{DIGEST}").json

    assert (body["attestations"], body["evidenceFiles"]) == ([], [])
    assert body["artifact"]["provenanceStatus"] == "NO_PROVENANCE"


def test_the_status_of_provenance_is_the_recorded_one(lite, factstore, trail):
    artifact = report_artifact(lite, trail)
    values = {"builder_id": "ci", "builder_type": "GENERIC"}
    status = {"provenance_status": "PROVENANCE_VERIFIED"}
    make(lite, lambda: BuildProvenance.create(artifact=artifact, **values, **status))

    body = factstore.get(f"{CUSTODY}/{DIGEST}").json

    assert body["artifact"]["provenanceStatus"] == "PROVENANCE_VERIFIED"


@pytest.mark.parametrize(
    ("required", "recorded", "status"),
    [
        ([], [], "COMPLIANT"),
        ([], [("test", "FAILED")], "NON_COMPLIANT"),
        (["scan"], [], "NON_COMPLIANT"),
        (["scan"], [("scan", "PENDING")], "NON_COMPLIANT"),
        (["scan"], [("Scan", "PASSED")], "NON_COMPLIANT"),
        (["scan"], [("scan", "PASSED")], "COMPLIANT"),
        (["scan"], [("scan", "PASSED"), ("scan", "FAILED")], "NON_COMPLIANT"),
        (["scan"], [("scan", "FAILED"), ("scan", "PASSED")], "COMPLIANT"),
        (["scan"], [("scan", "PASSED"), ("test", "FAILED")], "NON_COMPLIANT"),
        (["scan", "test"], [("scan", "PASSED")], "NON_COMPLIANT"),
    ],
)
def test_an_artifact_complies_once_all_that_its_flow_requires_has_passed(
    lite, factstore, required, recorded, status
):
    trail = make_trail(lite, required_attestation_types=required)
    report_artifact(lite, trail)
    for record_type, outcome in recorded:
        make_attestation(lite, trail, record_type, status=outcome)

    body = factstore.get(f"{CUSTODY}/{DIGEST}").json

    assert body["complianceStatus"] == status


def test_an_artifact_that_waits_for_its_approval_does_not_comply(lite, factstore, trail):
    waiting = make_trail(lite, "waiting", requires_approval=True)
    report_artifact(lite, waiting)

    before = factstore.get(f"{CUSTODY}/{DIGEST}").json["complianceStatus"]
    key = factstore.post(f"/api/v1/trails/{waiting}/approvals", {"trailId": waiting}).json["id"]
    factstore.post(f"/api/v1/approvals/{key}/approve", {"approverIdentity": "grace"})
    after = factstore.get(f"{CUSTODY}/{DIGEST}").json["complianceStatus"]

    assert (before, after) == ("NON_COMPLIANT", "COMPLIANT")


def test_the_trail_of_a_flow_that_reported_a_digest_last_is_traced(lite, factstore, trail):
    report_artifact(lite, trail, name="first")
    make_attestation(lite, trail, "scan", status="FAILED")
    flow = factstore.get(f"/api/v1/trails/{trail}").json["flowId"]
    commit = {"gitCommitSha": "f00d", "gitBranch": "main", "gitAuthor": "ada"}
    again = factstore.post(
        "/api/v1/trails", {"flowId": flow, "gitAuthorEmail": "ada@example.org", **commit}
    ).json["id"]
    before = factstore.get(f"{CUSTODY}/{DIGEST}").json
    report_artifact(lite, again, name="again")

    after = factstore.get(f"{CUSTODY}/{DIGEST}").json

    assert (before["trail"]["id"], before["complianceStatus"]) == (trail, "NON_COMPLIANT")
    assert (after["trail"]["id"], after["complianceStatus"]) == (again, "COMPLIANT")


def test_of_several_flows_the_one_that_says_the_worst_is_traced(lite, factstore, trail):
    report_artifact(lite, trail, name="first")
    other = make_trail(lite, "other", required_attestation_types=["scan"])
    report_artifact(lite, other, name="second")
    report_artifact(lite, make_trail(lite, "third"), name="third")

    body = factstore.get(f"{CUSTODY}/{DIGEST}").json

    assert (body["artifact"]["imageName"], body["trail"]["id"]) == ("second", other)
    assert body["complianceStatus"] == "NON_COMPLIANT"


def test_the_first_artifact_with_a_digest_is_traced(lite, factstore, trail):
    report_artifact(lite, trail, name="first")
    report_artifact(lite, make_trail(lite, "other"), name="second")

    body = factstore.get(f"{CUSTODY}/{DIGEST}").json

    assert (body["artifact"]["imageName"], body["trail"]["id"]) == ("first", trail)


@pytest.mark.parametrize(
    ("digest", "status"),
    [
        (DIGEST.lower(), 200),
        (DIGEST.removeprefix("sha256:"), 200),
        ("ab" * 32, 404),
        ("nonsense", 400),
        ("%F0%9F%92%A5", 400),
    ],
)
def test_a_digest_is_found_in_every_spelling(lite, factstore, trail, digest, status):
    # An older version stored it so.
    report_artifact(lite, trail)

    traced = factstore.get(f"{CUSTODY}/{digest}")

    assert traced.status == status
    assert ("sha256" in traced.json["message"]) if status != 200 else traced.json["artifact"]


def test_tracing_asks_the_file_as_often_for_much_evidence_as_for_none(lite, factstore, trail):
    report_artifact(lite, trail)
    # The account behind the token is looked up only once.
    factstore.get(f"{CUSTODY}/{DIGEST}")
    connection = lite.workspace.reader.connection()
    few = queries(connection, lambda: factstore.get(f"{CUSTODY}/{DIGEST}"))
    for _ in range(20):
        keep_file(lite, make_attestation(lite, trail, "scan", status="PASSED"), "a.txt")

    many = queries(connection, lambda: factstore.get(f"{CUSTODY}/{DIGEST}"))

    assert len(few) == len(many) <= 12


def test_reading_asks_for_the_scope_to_read_and_writing_for_that_to_write(lite, trail):
    reader, writer = lite.client("factstore:read"), lite.client("factstore:write")
    body = {"frameworkId": SOX, "trailId": trail}

    refused = [reader.post(ASSESS, body).status, writer.get(ASSESSMENTS).status]
    done = [writer.post(ASSESS, body).status, reader.get(ASSESSMENTS).status]

    assert (refused, done) == ([403, 403], [201, 200])


def test_an_organisation_that_was_assessed_for_stays(lite, factstore, acme, trail):
    assess(factstore, SOX, trail, orgSlug="acme")

    refused = factstore.delete("/api/v1/organisations/acme")

    assert refused.status == 409
    assert "compliance assessment" in refused.json["message"]
    with lite.workspace.read():
        assert Flow.select().count() == 1
