"""Artifacts as trails report them."""

import json

import pytest
from stored import audit, events, ledger, tables

from factstore.trails import make, make_trail
from novantra_lite import Approval, Artifact, Attestation, AuditEvent

NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
API = {"imageName": "payments", "imageTag": "1.4.2", "sha256Digest": DIGEST}


@pytest.fixture
def trail(lite):
    """The id of a trail with the URL of its build."""
    return make_trail(lite, commit={"build_url": "https://ci.example/runs/7"})


def path(trail, version="v1"):
    return f"/api/{version}/trails/{trail}/artifacts"


def happenings(lite):
    with lite.workspace.read():
        return [event.json() for event in AuditEvent.select()]


# --- Reporting ----------------------------------------------------------------


def test_an_artifact_needs_a_name_a_tag_and_a_digest(lite, factstore, trail):
    reported = factstore.post(path(trail), API)

    key = reported.json["id"]
    assert reported.status == 201
    assert reported.json == {
        "id": key,
        "trailId": trail,
        "imageName": "payments",
        "imageTag": "1.4.2",
        "sha256Digest": DIGEST,
        "registry": None,
        "reportedAt": NOON,
        "reportedBy": "In-process client",
        "orgSlug": None,
        "artifactType": None,
        "buildUrl": "https://ci.example/runs/7",
        "commitUrl": None,
        "provenanceStatus": "NO_PROVENANCE",
        "complianceState": "UNKNOWN",
        "runningInEnvironments": [],
    }
    assert factstore.get(path(trail)).json == [reported.json]
    assert ("artifact.reported", key) in [entry[1:3] for entry in audit(lite)]
    assert ("ARTIFACT_REPORTED", key) in ledger(lite)
    assert events(lite) == [("factstore.artifact.reported", {"artifact": reported.json})]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_report_is_a_happening_of_its_trail(lite, factstore, trail, version):
    body = API | {"reportedBy": "jenkins", "registry": "ghcr.io"}

    reported = factstore.post(
        path(trail, version), body, headers={"X-Factstore-Region": "eu-central-1"}
    )

    (happening,) = happenings(lite)
    assert reported.status == 201
    assert happening["eventType"] == "ARTIFACT_DEPLOYED"
    assert happening["actor"] == "jenkins"
    assert happening["trailId"] == trail
    assert happening["artifactSha256"] == DIGEST
    assert happening["environmentId"] is None
    assert happening["region"] == "eu-central-1"
    assert json.loads(happening["payload"]) == {
        "artifactId": reported.json["id"],
        "trailId": trail,
        "imageName": "payments",
        "imageTag": "1.4.2",
        "sha256Digest": DIGEST,
        "registry": "ghcr.io",
    }


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_everything_that_may_be_given_is_kept(factstore, trail, acme, version):
    body = API | {
        "sha256Digest": OTHER,
        "registry": "ghcr.io/acme",
        "reportedBy": "jenkins",
        "orgSlug": "acme",
        "artifactType": "OCI",
        "buildUrl": "https://ci.example/runs/8",
        "commitUrl": "https://git.example/0f3e",
    }

    reported = factstore.post(path(trail, version), body | {"environment": "prod"})

    (kept,) = factstore.get(path(trail, version)).json
    assert (reported.status, kept["id"]) == (201, reported.json["id"])
    assert kept.items() >= body.items()


def test_the_names_of_the_reference_are_taken_too(factstore, trail):
    body = {"name": "payments", "tag": 7, "sha256Digest": DIGEST, "reportedBy": None}

    reported = factstore.post(path(trail), body | {"buildUrl": None, "registry": None})

    assert reported.status == 201
    assert (reported.json["imageName"], reported.json["imageTag"]) == ("payments", "7")
    assert reported.json["reportedBy"] == "In-process client"
    assert reported.json["buildUrl"] == "https://ci.example/runs/7"


@pytest.mark.parametrize(
    "change",
    [
        {"imageName": None},
        {"imageName": " "},
        {"imageName": "x" * 256},
        {"imageName": ["payments"]},
        {"imageTag": ""},
        {"sha256Digest": None},
        {"sha256Digest": ""},
        {"sha256Digest": "garbage"},
        {"sha256Digest": "sha512:" + "ab" * 32},
        {"sha256Digest": "sha256:" + "ab" * 31},
        {"sha256Digest": "sha256:" + "ag" * 32},
        {"sha256Digest": DIGEST + "\n"},
        {"registry": "x" * 256},
        {"reportedBy": "x" * 256},
        {"orgSlug": {}},
        {"artifactType": "docker"},
        {"buildUrl": "x" * 2049},
    ],
)
def test_a_wrong_member_is_refused(lite, factstore, trail, change):
    before = tables(lite)

    refused = factstore.post(path(trail), API | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize(
    "change",
    [
        {"imageName": None},
        {"imageTag": "x" * 256},
        {"sha256Digest": "x" * 256},
        {"reportedBy": None},
    ],
)
def test_the_second_version_refuses_only_what_is_missing_or_too_long(
    lite, factstore, trail, change
):
    before = tables(lite)

    refused = factstore.post(path(trail, "v2"), API | {"reportedBy": "ci"} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(change)) in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    "digest", [DIGEST, "ab" * 32, "AB" * 32, "SHA256:" + "AB" * 32, "sha256:" + "aB" * 32]
)
def test_a_digest_is_stored_in_one_spelling_and_found_in_every_one(
    factstore, trail, version, digest
):
    reported = factstore.post(
        path(trail, version), API | {"sha256Digest": digest, "reportedBy": "ci"}
    )

    (kept,) = factstore.get(path(trail)).json
    assert reported.status == 201
    assert kept["sha256Digest"] == DIGEST
    for spelling in (DIGEST, "ab" * 32, "AB" * 32, DIGEST.upper()):
        assert factstore.get("/api/v1/artifacts", sha256=spelling).json == [kept]
        assert factstore.get("/api/v2/artifacts", sha256=spelling).json == kept
        assert factstore.get(f"/api/v1/compliance/artifact/{spelling}").status == 200


@pytest.mark.parametrize("older", ["ab" * 32, "AB" * 32, "sha256:" + "AB" * 32])
def test_what_an_older_version_stored_is_found_and_runs(lite, factstore, trail, older):
    values = {"image_name": "payments", "image_tag": "1", "sha256_digest": older}
    make(lite, lambda: Artifact.create(trail=trail, **values))
    body = factstore.post("/api/v1/environments", {"name": "prod", "type": "K8S"}).json["id"]
    flow = factstore.get(f"/api/v1/trails/{trail}").json["flowId"]
    running = {"artifactSha256": DIGEST, "artifactName": "payments", "artifactTag": "1"}

    snapshot = {"recordedBy": "agent", "artifacts": [running]}
    factstore.post(f"/api/v1/environments/{body}/snapshots", snapshot)
    (result,) = factstore.get("/api/v1/artifacts", sha256=DIGEST).json
    verdict = factstore.post("/api/v1/assert", {"sha256Digest": DIGEST, "flowId": flow}).json

    assert (result["sha256Digest"], result["runningInEnvironments"]) == (older, ["prod"])
    assert verdict["compliant"] is True
    assert lite.verify() == []


def test_the_second_version_answers_briefly(factstore, trail):
    body = {"imageName": " ", "imageTag": "", "sha256Digest": DIGEST, "reportedBy": ""}

    reported = factstore.post(path(trail, "v2"), body)

    assert reported.status == 201
    assert reported.json == {"id": reported.json["id"], "status": "created", "timestamp": NOON}
    (kept,) = factstore.get(path(trail, "v2")).json
    assert kept["id"] == reported.json["id"]
    assert kept.items() >= body.items()


def test_the_same_digest_may_be_reported_again(factstore, trail):
    first = factstore.post(path(trail), API)
    second = factstore.post(path(trail), API)

    assert [first.status, second.status] == [201, 201]
    assert factstore.get(path(trail)).json == [first.json, second.json]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("ask", [{"headers": {"X-Dry-Run": "true"}}, {"dryRun": "true"}])
def test_a_dry_run_tells_the_artifact_and_stores_nothing(lite, factstore, trail, version, ask):
    before = tables(lite)

    response = factstore.post(path(trail, version), API | {"reportedBy": "ci"}, **ask)
    unknown = factstore.post(path(NOBODY, version), API | {"reportedBy": "ci"}, **ask)

    assert (response.status, response.json["dryRun"], unknown.status) == (200, True, 404)
    assert response.json["wouldCreate"].items() >= {"trailId": trail, **API}.items()
    assert tables(lite) == before


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_trail_that_is_not_there_is_not_found(lite, factstore, version):
    before = tables(lite)

    listed = factstore.get(path(NOBODY, version))
    reported = factstore.post(path(NOBODY, version), API | {"reportedBy": "ci"})
    nonsense = factstore.get(path("nonsense", version))

    assert [listed.status, reported.status, nonsense.status] == [404, 404, 400]
    assert NOBODY in reported.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_organisation_that_is_not_there_is_not_found(lite, factstore, trail, version):
    before = tables(lite)

    refused = factstore.post(path(trail, version), API | {"reportedBy": "ci", "orgSlug": "nobody"})

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert "nobody" in refused.json["message"]
    assert tables(lite) == before


# --- Finding ------------------------------------------------------------------


def test_artifacts_are_found_by_their_digest_in_the_order_of_reporting(lite, factstore):
    trails = [make_trail(lite, "one"), make_trail(lite, "two")]
    first, second = [factstore.post(path(trail), API).json for trail in trails]
    factstore.post(path(trails[0]), API | {"sha256Digest": OTHER})

    response = factstore.get("/api/v1/artifacts", sha256=DIGEST)
    mine = factstore.get(path(trails[1]))

    assert (response.status, response.json) == (200, [first, second])
    assert mine.json == [second]


def test_the_second_version_finds_one_artifact_the_first(lite, factstore):
    trails = [make_trail(lite, "one"), make_trail(lite, "two")]
    first, _ = [factstore.post(path(trail), API).json for trail in trails]

    response = factstore.get("/api/v2/artifacts", sha256=DIGEST)
    none = factstore.get("/api/v2/artifacts", sha256=OTHER)

    assert (response.status, response.json) == (200, first)
    assert (none.status, none.json["error"]) == (404, "Not Found")
    assert OTHER in none.json["message"]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("query", [{}, {"sha256": ""}, {"sha256": "\0"}, {"sha256": "x" * 256}])
def test_a_search_without_a_digest_is_refused(factstore, version, query):
    refused = factstore.get(f"/api/{version}/artifacts", **query)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "sha256" in refused.json["message"]


# --- Compliance ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("required", "recorded", "state"),
    [
        ([], [("junit", "PASSED")], "UNKNOWN"),
        ([], [("junit", "FAILED")], "NON_COMPLIANT"),
        (["junit", "snyk"], [], "NON_COMPLIANT"),
        (["junit", "snyk"], [("junit", "PASSED")], "NON_COMPLIANT"),
        (["junit"], [("junit", "PENDING")], "NON_COMPLIANT"),
        (["junit"], [("junit", "PASSED"), ("junit", "FAILED")], "NON_COMPLIANT"),
        (["junit"], [("junit", "FAILED"), ("junit", "PASSED")], "COMPLIANT"),
        (["junit"], [("junit", "PASSED"), ("snyk", "FAILED")], "NON_COMPLIANT"),
        (["junit", "snyk"], [("snyk", "PASSED"), ("junit", "PASSED")], "COMPLIANT"),
    ],
)
def test_an_artifact_is_as_compliant_as_its_own_trail(lite, factstore, required, recorded, state):
    trail = make_trail(lite, required_attestation_types=required)
    other = make_trail(lite, name="other", required_attestation_types=["never"])
    for record in (trail, other):
        factstore.post(path(record), API)
    for type, status in recorded:
        make(lite, lambda t=type, s=status: Attestation.create(trail=trail, type=t, status=s))

    response = factstore.get("/api/v1/artifacts", sha256=DIGEST)

    assert [record["complianceState"] for record in response.json] == [state, "NON_COMPLIANT"]


def test_a_flow_with_artifacts_is_not_deleted(lite, factstore, trail):
    factstore.post(path(trail), API)
    flow = factstore.get("/api/v1/flows").json[0]["id"]
    make(lite, lambda: Approval.create(trail=trail, flow=flow))
    before = tables(lite)

    refused = factstore.delete(f"/api/v1/flows/{flow}")

    assert (refused.status, refused.json["error"]) == (409, "Conflict")
    assert "artifact" in refused.json["message"]
    assert tables(lite) == before


# --- Environments -------------------------------------------------------------


def test_an_artifact_runs_where_the_newest_snapshot_holds_its_digest(factstore, trail):
    artifact = factstore.post(path(trail), API).json
    paths = []
    for name in ("staging", "prod", "empty"):
        made = factstore.post("/api/v1/environments", {"name": name, "type": "K8S"}).json
        paths.append(f"/api/v1/environments/{made['id']}/snapshots")
    running = {"artifactName": "p", "artifactTag": "1", "instanceCount": 1}
    staging, prod, _ = paths

    def snapshot(where, *digests):
        artifacts = [running | {"artifactSha256": digest} for digest in digests]
        taken = factstore.post(where, {"recordedBy": "agent", "artifacts": artifacts})
        (result,) = factstore.get("/api/v1/artifacts", sha256=DIGEST).json
        return taken.status, result["runningInEnvironments"]

    answers = [
        snapshot(prod, OTHER, DIGEST),
        snapshot(staging, DIGEST, DIGEST),
        snapshot(prod, OTHER),
        snapshot(prod, DIGEST.upper()),
        snapshot(staging),
        snapshot(prod),
    ]

    assert artifact["runningInEnvironments"] == []
    assert answers == [
        (201, ["prod"]),
        (201, ["staging", "prod"]),
        (201, ["staging"]),
        (201, ["staging", "prod"]),
        (201, ["prod"]),
        (201, []),
    ]
