"""Attestations in both versions."""

import random
import threading

import pytest
from multipart import upload
from stored import audit, events, ledger, tables

from factstore.pipelines import happenings, status_of
from factstore.trails import begin_trail, evidence_path
from novantra_lite import FACTSTORE_SCOPES, NovantraLite

ONE = "sha256:" + "1" * 64
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def trail(lite, factstore):
    return begin_trail(lite, factstore)


@pytest.fixture
def path(trail):
    return f"/api/v1/trails/{trail}/attestations"


@pytest.fixture
def acme(lite, factstore):
    """A trail of the flow `payments` of an organisation."""
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    return begin_trail(lite, factstore, orgSlug="acme")


# --- Recording ----------------------------------------------------------------


def test_an_attestation_needs_only_a_type(lite, factstore, trail, path):
    created = factstore.post(path, {"type": "junit"})

    key = created.json["id"]
    assert created.status == 201
    assert created.json == {
        "id": key,
        "trailId": trail,
        "type": "junit",
        "status": "PENDING",
        "evidenceFileHash": None,
        "evidenceFileName": None,
        "evidenceFileSizeBytes": None,
        "details": None,
        "name": None,
        "evidenceUrl": None,
        "compliant": False,
        "orgSlug": None,
        "artifactFingerprint": None,
        "createdAt": NOON,
        "metadata": None,
    }
    assert factstore.get(path).json == [created.json]
    assert ("attestation.recorded", key) in [entry[1:3] for entry in audit(lite)]
    assert ("ATTESTATION_RECORDED", key) in ledger(lite)
    assert happenings(lite) == [
        (
            "ATTESTATION_RECORDED",
            "system",
            {"attestationId": key, "trailId": trail, "type": "junit", "status": "PENDING"},
            trail,
            None,
        )
    ]
    assert events(lite) == [("factstore.attestation.recorded", {"attestation": created.json})]


def test_everything_that_may_be_given_is_kept(factstore, acme):
    path = f"/api/v1/trails/{acme}/attestations"
    body = {
        "type": "snyk",
        "status": "PASSED",
        "details": "No weaknesses.",
        "name": "dependencies",
        "evidenceUrl": "https://ci.example/1",
        "orgSlug": "acme",
        "metadata": {"count": 0, "ratio": 0.5, "tools": [{"name": "snyk"}], "note": None},
    }

    created = factstore.post(path, body | {"artifactFingerprint": ONE, "visibility": "x"})

    assert created.status == 201
    assert created.json.items() >= body.items()
    assert (created.json["compliant"], created.json["artifactFingerprint"]) == (True, None)
    assert factstore.get(path).json == [created.json]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"description": "From the guide."}, "From the guide."),
        ({"details": None, "description": "From the guide."}, "From the guide."),
        ({"details": "Own.", "description": "From the guide."}, "Own."),
        ({"details": 7}, "7"),
        ({"status": None, "metadata": None}, None),
    ],
)
def test_details_are_taken_as_clients_send_them(factstore, path, given, kept):
    created = factstore.post(path, {"type": "junit"} | given)

    assert (created.status, created.json["details"]) == (201, kept)
    assert created.json["status"] == "PENDING"


@pytest.mark.parametrize(
    "change",
    [
        {"type": None},
        {"type": ["junit"]},
        {"type": "x" * 256},
        {"status": "passed"},
        {"status": "PASS"},
        {"details": {"a": 1}},
        {"name": "x" * 256},
        {"orgSlug": "x" * 256},
        {"metadata": []},
        {"metadata": "x"},
    ],
)
def test_a_wrong_member_is_refused_by_every_form(lite, factstore, acme, change):
    forms = (
        f"/api/v1/trails/{acme}/attestations",
        "/api/v1/attestations",
        f"/api/v2/trails/{acme}/attestations",
        f"/api/v2/attestations/acme/payments/{acme}/{ONE}",
    )
    before = tables(lite)

    refused = [factstore.post(form, {"trailId": acme, "type": "junit"} | change) for form in forms]

    assert [response.status for response in refused] == [400] * 4
    assert all(next(iter(change)) in response.json["message"] for response in refused)
    assert tables(lite) == before


def test_a_failure_makes_the_trail_non_compliant(lite, factstore, trail, path):
    created = factstore.post(path, {"type": "junit", "status": "FAILED"})

    assert (created.status, created.json["compliant"]) == (201, False)
    assert status_of(lite, trail) == "NON_COMPLIANT"
    assert [name for name, _ in events(lite)] == [
        "factstore.trail.settled",
        "factstore.attestation.recorded",
    ]


def test_the_last_type_that_the_flow_requires_makes_the_trail_compliant(lite, factstore):
    trail = begin_trail(lite, factstore, requiredAttestationTypes=["junit", "snyk"])
    path = f"/api/v1/trails/{trail}/attestations"

    factstore.post(path, {"type": "junit", "status": "PASSED"})
    between = status_of(lite, trail)
    factstore.post(path, {"type": "snyk", "status": "PASSED"})

    assert (between, status_of(lite, trail)) == ("PENDING", "COMPLIANT")


def test_the_trail_may_stand_in_the_body(lite, factstore, trail, path):
    created = factstore.post(
        "/api/v1/attestations",
        {"trailId": trail.upper(), "type": "junit", "status": "PASSED", "metadata": {"a": 1}},
    )

    assert (created.status, created.json["trailId"]) == (201, trail)
    assert factstore.get(path).json == [created.json]
    assert happenings(lite)[0][2]["attestationId"] == created.json["id"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"type": "junit"}, 400),
        ({"type": "junit", "trailId": "nonsense"}, 400),
        ({"type": "junit", "trailId": NOBODY}, 404),
    ],
)
def test_a_body_names_a_trail_that_is_there(factstore, body, status):
    refused = factstore.post("/api/v1/attestations", body)

    assert refused.status == status
    assert ("trailId" if status == 400 else NOBODY) in refused.json["message"]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("nonsense", 400)])
def test_a_trail_that_is_not_there_is_not_found(factstore, version, key, status):
    path = f"/api/{version}/trails/{key}/attestations"

    answers = [factstore.get(path), factstore.post(path, {"type": "junit"})]

    assert [answer.status for answer in answers] == [status, status]


def test_the_first_version_looks_for_the_trail_before_the_organisation(factstore, path):
    body = {"type": "junit", "orgSlug": "nobody"}

    neither = factstore.post(f"/api/v1/trails/{NOBODY}/attestations", body)
    no_organisation = factstore.post(path, body)

    assert (neither.status, no_organisation.status) == (404, 404)
    assert "trail" in neither.json["message"]
    assert "organisation 'nobody'" in no_organisation.json["message"]
    assert factstore.get(path).json == []


# --- Lists --------------------------------------------------------------------


def test_the_list_is_bare_until_a_page_is_asked_for(factstore, trail, path):
    for number in range(5):
        factstore.post(path, {"type": f"type-{number}"})
    whole = factstore.get(path).json

    second = factstore.get(path, page=1, size=2)
    first = factstore.get(path, size=3)
    past = factstore.get(path, page=9)
    bare = factstore.get(f"/api/v2/trails/{trail}/attestations", page=1, size=2)

    assert [record["type"] for record in whole] == [f"type-{number}" for number in range(5)]
    assert second.json == {
        "items": whole[2:4],
        "page": 1,
        "size": 2,
        "totalItems": 5,
        "totalPages": 3,
    }
    assert (first.json["items"], first.json["page"]) == (whole[:3], 0)
    assert past.json == {"items": [], "page": 9, "size": 20, "totalItems": 5, "totalPages": 1}
    assert bare.json == whole


def test_a_list_holds_only_its_own_trail(lite, factstore, path):
    other = begin_trail(lite, factstore, "other")
    factstore.post(path, {"type": "junit"})

    listed = factstore.get(f"/api/v1/trails/{other}/attestations")

    assert (listed.status, listed.json) == (200, [])


@pytest.mark.parametrize(
    "query", [{"page": -1}, {"size": 0}, {"size": "many"}, {"page": 2**31}, {"size": -(2**70)}]
)
def test_a_page_that_cannot_be_is_refused(factstore, path, query):
    refused = factstore.get(path, **query)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(query)) in refused.json["message"]


# --- The second version -------------------------------------------------------


def test_the_second_version_answers_with_the_short_result(lite, factstore, acme):
    path = f"/api/v2/trails/{acme}/attestations"
    body = {
        "type": "junit",
        "status": "PASSED",
        "details": "All green.",
        "name": "unit",
        "evidenceUrl": "https://ci.example/1",
        "orgSlug": "acme",
        "artifactFingerprint": ONE,
    }

    created = factstore.post(path, body | {"flowName": "payments"})

    key = created.json["id"]
    assert (created.status, created.json) == (
        201,
        {"id": key, "status": "created", "timestamp": NOON},
    )
    listed = factstore.get(path).json
    assert len(listed) == 1
    assert listed[0].items() >= (body | {"id": key, "trailId": acme}).items()
    assert [event[2]["attestationId"] for event in happenings(lite)] == [key]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"orgSlug": "nobody", "flowName": "nothing"}, "organisation 'nobody'"),
        ({"orgSlug": "acme", "flowName": "nothing"}, "flow 'nothing'"),
        ({"orgSlug": "acme", "flowName": "loose"}, "flow 'loose'"),
        ({"orgSlug": "acme", "flowName": "payments"}, "trail"),
        ({"orgSlug": "acme"}, "trail"),
        ({"flowName": "nothing"}, "trail"),
    ],
)
def test_the_second_version_looks_for_organisation_flow_and_trail(
    lite, factstore, acme, given, named
):
    begin_trail(lite, factstore, "loose")

    refused = factstore.post(f"/api/v2/trails/{NOBODY}/attestations", {"type": "junit"} | given)

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert named in refused.json["message"]


def test_a_flow_name_without_an_organisation_is_not_looked_for(factstore, trail):
    created = factstore.post(
        f"/api/v2/trails/{trail}/attestations", {"type": "junit", "flowName": "nothing"}
    )

    assert created.status == 201


def test_a_path_may_name_organisation_flow_trail_and_fingerprint(lite, factstore, acme):
    other = begin_trail(lite, factstore, "other")

    created = factstore.post(
        f"/api/v2/attestations/acme/payments/{acme.upper()}/{ONE}",
        {"type": "junit", "status": "PASSED", "orgSlug": "elsewhere"},
    )
    foreign = factstore.post(
        f"/api/v2/attestations/acme/payments/{other}/{'1' * 64}", {"type": "junit"}
    )

    assert (created.status, foreign.status) == (201, 201)
    assert created.json["trailId"] == acme
    assert created.json["orgSlug"] == "acme"
    assert created.json["artifactFingerprint"] == ONE
    assert foreign.json["artifactFingerprint"] == ONE
    assert factstore.get(f"/api/v1/trails/{acme}/attestations").json == [created.json]
    assert [event[3] for event in happenings(lite)] == [acme, other]


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        (f"nobody/payments/{NOBODY}/{ONE}", 404, "organisation 'nobody'"),
        (f"nobody/payments/nonsense/{ONE}", 404, "organisation 'nobody'"),
        (f"acme/nothing/nonsense/{ONE}", 404, "flow 'nothing'"),
        (f"acme/loose/nonsense/{ONE}", 404, "flow 'loose'"),
        (f"acme/payments/nonsense/{ONE}", 400, "trailId"),
        (f"acme/payments/{NOBODY}/{ONE}", 404, NOBODY),
        (f"acme/payments/{NOBODY}/{'x' * 64}", 400, "artifactFingerprint"),
        (f"acme/payments/{NOBODY}/%00", 400, "artifactFingerprint"),
        ("%00/payments/nonsense/{ONE}", 404, "organisation"),
    ],
)
def test_every_part_of_a_path_is_looked_for_in_turn(lite, factstore, acme, path, status, named):
    begin_trail(lite, factstore, "loose")

    refused = factstore.post(f"/api/v2/attestations/{path}", {"type": "junit"})

    assert refused.status == status
    assert named in refused.json["message"]
    assert factstore.get(f"/api/v1/trails/{acme}/attestations").json == []


#: Types as people write them, a file of theirs, and what it says of the attestation.
DOCUMENTED = [
    ("junit", b'<testsuite tests="1"><testcase name="t"/></testsuite>', "PASSED"),
    ("JUnit", b'<testsuite tests="2" failures="1"/>', "FAILED"),
    ("snyk", b'{"ok": true, "vulnerabilities": []}', "PASSED"),
    ("SNYK", b'{"runs": [{"results": [{}]}]}', "FAILED"),
    ("sonar", b'{"projectStatus": {"status": "OK"}}', "PASSED"),
    ("Sonar", b'{"projectStatus": {"status": "ERROR"}}', "FAILED"),
    ("jira", b"PAY-17", "PASSED"),
    ("JIRA", b"none", "FAILED"),
    ("generic", b"<testsuite/>", "PENDING"),
    ("pull-request", b"{}", "PENDING"),
    ("pull_request", b"{}", "PENDING"),
    ("custom:threat-model", b"<testsuite failures='1'/>", "PENDING"),
]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("type", "content", "status"), DOCUMENTED)
def test_every_type_is_attested_by_path_and_read_from_its_file(
    factstore, acme, type, content, status, version
):
    path = f"/api/v2/attestations/acme/payments/{acme}/{ONE}"

    made = factstore.post(path, {"type": type}).json
    uploaded = upload(factstore, evidence_path(acme, made["id"], version), content)

    (result,) = factstore.get(f"/api/v2/trails/{acme}/attestations").json
    assert uploaded.status == 201
    assert (made["type"], made["status"]) == (type, "PENDING")
    assert (result["type"], result["status"]) == (type, status)
    assert result["evidenceFileSizeBytes"] == len(content)
    failed = "NON_COMPLIANT" if status == "FAILED" else "PENDING"
    assert factstore.get(f"/api/v1/trails/{acme}").json["status"] == failed


# --- Rehearsals and repeats ---------------------------------------------------


def test_a_dry_run_of_every_form_gives_the_whole_attestation(lite, factstore, acme):
    forms = (
        f"/api/v1/trails/{acme}/attestations",
        "/api/v1/attestations",
        f"/api/v2/trails/{acme}/attestations",
        f"/api/v2/attestations/acme/payments/{acme}/{ONE}",
    )
    body = {"trailId": acme, "type": "junit", "status": "FAILED", "name": "unit"}
    before = tables(lite)

    rows = [factstore.post(form, body, headers={"X-Dry-Run": "true"}) for form in forms]

    assert [record.status for record in rows] == [200] * 4
    for record in rows:
        assert record.json["dryRun"] is True
        assert record.json["wouldCreate"].items() >= body.items()
        assert record.json["wouldCreate"]["compliant"] is False
    assert tables(lite) == before


def test_a_repeat_with_the_same_key_records_nothing_more(factstore, path):
    headers = {"Idempotency-Key": "build-1"}

    first = factstore.post(path, {"type": "junit"}, headers=headers)
    again = factstore.post(path, {"type": "junit"}, headers=headers)

    assert (again.status, again.json) == (201, first.json)
    assert factstore.get(path).json == [first.json]


def test_reading_does_not_permit_recording(lite, trail, path):
    reader = lite.client("factstore:read")

    refused = reader.post(path, {"type": "junit"})

    assert (refused.status, reader.get(path).json) == (403, [])


def test_a_thousand_attestations_from_eight_threads_are_all_there(clock):
    with NovantraLite(clock=clock, random=random.Random(7), rate_limits=False) as lite:
        client, statuses = lite.client(*FACTSTORE_SCOPES), []
        path = f"/api/v1/trails/{begin_trail(lite, client)}/attestations"

        def record(worker):
            for number in range(125):
                answer = client.post(path, {"type": f"{worker}-{number}", "status": "PASSED"})
                statuses.append(answer.status)

        threads = [threading.Thread(target=record, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        listed = client.get(path).json
        expected = {f"{worker}-{number}" for worker in range(8) for number in range(125)}
        assert statuses == [201] * 1000
        assert (len(listed), {item["type"] for item in listed}) == (1000, expected)
        assert client.get(path, size=1).json["totalItems"] == 1000
        assert len(happenings(lite)) == 1000
        assert lite.verify() == []


# --- What the trail says ------------------------------------------------------


def test_what_failed_counts_until_it_has_passed_whatever_else_is_recorded(lite, factstore):
    trail = begin_trail(lite, factstore, requiredAttestationTypes=["junit"])
    path = f"/api/v1/trails/{trail}/attestations"
    steps = [
        *[("junit", "PASSED"), ("scan", "FAILED"), ("note", "PENDING"), ("lint", "PASSED")],
        *[("scan", "PASSED"), ("junit", "FAILED"), ("note", "PENDING"), ("junit", "PASSED")],
    ]

    rows = []
    for type, status in steps:
        factstore.post(path, {"type": type, "status": status})
        rows.append(status_of(lite, trail))

    good, bad = "COMPLIANT", "NON_COMPLIANT"
    assert rows == [good, bad, bad, bad, good, bad, bad, good]


def test_a_trail_is_pending_again_once_more_is_required(lite, factstore):
    trail = begin_trail(lite, factstore, requiredAttestationTypes=["junit"])
    path = f"/api/v1/trails/{trail}/attestations"
    factstore.post(path, {"type": "junit", "status": "PASSED"})
    flow = factstore.get(f"/api/v1/trails/{trail}").json["flowId"]
    before = status_of(lite, trail)

    factstore.put(f"/api/v1/flows/{flow}", {"requiredAttestationTypes": ["junit", "sbom"]})
    factstore.post(path, {"type": "note"})

    assert (before, status_of(lite, trail)) == ("COMPLIANT", "PENDING")


def test_an_artifact_of_which_the_template_requires_something_makes_its_trail_wait(lite, factstore):
    template = """
        trail:
          attestations:
            - name: unit
              type: junit
            - name: sbom
              type: sbom
              if: matches(artifact.name, "svc-.*")
    """
    trail = begin_trail(lite, factstore, templateYaml=template)
    factstore.post(
        f"/api/v1/trails/{trail}/attestations",
        {"type": "junit", "name": "unit", "status": "PASSED"},
    )
    before = status_of(lite, trail)

    made = {
        "imageName": "svc-a",
        "imageTag": "1",
        "sha256Digest": "sha256:" + "a" * 64,
        "reportedBy": "ci",
    }
    created = factstore.post(f"/api/v1/trails/{trail}/artifacts", made)

    assert (created.status, before, status_of(lite, trail)) == (201, "COMPLIANT", "PENDING")


def test_what_has_no_name_fails_and_passes_by_its_type(lite, factstore):
    template = "trail: {attestations: [{name: unit, type: junit}]}"
    trail = begin_trail(lite, factstore, templateYaml=template)
    path = f"/api/v1/trails/{trail}/attestations"

    rows = []
    for member in (
        {"type": "junit", "name": "unit", "status": "PASSED"},
        {"type": "scan", "status": "FAILED"},
        {"type": "lint", "status": "PASSED"},
        {"type": "scan", "status": "PASSED"},
    ):
        factstore.post(path, member)
        rows.append(status_of(lite, trail))

    assert rows == ["COMPLIANT", "NON_COMPLIANT", "NON_COMPLIANT", "COMPLIANT"]
