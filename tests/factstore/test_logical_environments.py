"""Logical environments and their merged snapshots."""

import pytest
from stored import audit, events, ledger, tables

from factstore.trails import begin_trail

ONE = "sha256:" + "1" * 64
LOGICAL = "/api/v1/logical-environments"
ENVIRONMENTS = "/api/v1/environments"
NOON = "2026-06-01T12:00:00.000000Z"
LATER = "2026-06-01T12:01:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def everything(factstore):
    return factstore.post(LOGICAL, {"name": "everything"}).json


@pytest.fixture
def path(everything):
    return f"{LOGICAL}/{everything['id']}"


@pytest.fixture
def physical(factstore):
    """Make an environment; return its id."""

    def make(name, type="K8S"):
        return factstore.post(ENVIRONMENTS, {"name": name, "type": type}).json["id"]

    return make


def test_a_logical_environment_needs_only_a_name(lite, factstore):
    created = factstore.post(LOGICAL, {"name": "everything"})

    key = created.json["id"]
    assert created.status == 201
    assert created.json == {
        "id": key,
        "name": "everything",
        "description": "",
        "members": [],
        "createdAt": NOON,
        "updatedAt": NOON,
    }
    assert factstore.get(f"{LOGICAL}/{key}").json == created.json
    assert factstore.get(LOGICAL).json == [created.json]
    assert audit(lite)[-1][1:3] == ("logical_environment.created", key)
    assert ledger(lite)[-1] == ("LOGICAL_ENVIRONMENT_CREATED", key)


@pytest.mark.parametrize("result", [{}, {"name": " "}, {"name": "x" * 256}, {"name": ["x"]}])
def test_a_wrong_name_is_refused(factstore, result):
    refused = factstore.post(LOGICAL, result)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "name" in refused.json["message"]


def test_a_name_is_taken_once(factstore, everything):
    other = factstore.post(LOGICAL, {"name": "other"}).json

    created = factstore.post(LOGICAL, {"name": "everything"})
    renamed = factstore.put(f"{LOGICAL}/{other['id']}", {"name": "everything"})

    assert [created.status, renamed.status] == [409, 409]
    assert "everything" in created.json["message"]


def test_it_may_be_renamed_and_described(lite, factstore, clock, everything, path):
    clock.advance(60)

    changed = factstore.put(path, {"name": "all", "description": "All of it."})

    moved = {"name": "all", "description": "All of it.", "updatedAt": LATER}
    assert (changed.status, changed.json) == (200, everything | moved)
    assert factstore.get(path).json == everything | moved
    assert audit(lite)[-1][1:3] == ("logical_environment.updated", everything["id"])


def test_an_environment_may_become_a_member(lite, factstore, clock, everything, path, physical):
    first, second = physical("production"), physical("bucket", "S3")
    factstore.post(f"{path}/members/{second}")
    clock.advance(60)

    added = factstore.post(f"{path}/members/{first.upper()}")

    assert added.status == 200
    assert added.json == everything | {
        "members": [
            {
                "physicalEnvId": second,
                "physicalEnvName": "bucket",
                "physicalEnvType": "S3",
                "addedAt": NOON,
            },
            {
                "physicalEnvId": first,
                "physicalEnvName": "production",
                "physicalEnvType": "K8S",
                "addedAt": LATER,
            },
        ]
    }
    assert factstore.get(LOGICAL).json == [added.json]
    assert audit(lite)[-1][1] == "logical_member.added"
    assert ledger(lite)[-1][0] == "LOGICAL_MEMBER_ADDED"
    assert events(lite) == []


def test_a_member_is_added_once(factstore, path, physical):
    key = physical("production")
    factstore.post(f"{path}/members/{key}")

    refused = factstore.post(f"{path}/members/{key}")

    assert (refused.status, refused.json["error"]) == (409, "Conflict")
    assert "'production'" in refused.json["message"]


def test_a_member_may_be_taken_out(lite, factstore, everything, path, physical):
    key = physical("production")
    factstore.post(f"{path}/members/{key}")

    removed = factstore.delete(f"{path}/members/{key}")
    again = factstore.delete(f"{path}/members/{key}")

    assert (removed.status, removed.body, again.status) == (204, b"", 404)
    assert factstore.get(path).json == everything
    assert factstore.get(f"{ENVIRONMENTS}/{key}").status == 200
    assert audit(lite)[-1][1] == "logical_member.deleted"
    assert lite.verify() == []


def test_a_deleted_one_leaves_its_members_alone(lite, factstore, path, physical):
    key = physical("production")
    factstore.post(f"{path}/members/{key}")

    deleted = factstore.delete(path)

    assert (deleted.status, factstore.get(path).status) == (204, 404)
    assert factstore.get(f"{ENVIRONMENTS}/{key}").status == 200
    assert tables(lite)["logical_member"] == []
    assert lite.verify() == []


@pytest.mark.parametrize(
    ("method", "below"),
    [
        ("GET", ""),
        ("PUT", ""),
        ("DELETE", ""),
        ("GET", "/snapshots/latest"),
        ("POST", f"/members/{NOBODY}"),
        ("DELETE", f"/members/{NOBODY}"),
    ],
)
def test_one_that_is_not_there_is_not_found(factstore, method, below):
    missing = factstore.request(method, f"{LOGICAL}/{NOBODY}{below}", json={})
    nonsense = factstore.request(method, f"{LOGICAL}/nonsense{below}", json={})

    assert (missing.status, nonsense.status) == (404, 400)
    assert NOBODY in missing.json["message"]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_member_that_is_no_environment_is_not_found(factstore, path, method):
    missing = factstore.request(method, f"{path}/members/{NOBODY}")
    nonsense = factstore.request(method, f"{path}/members/nonsense")

    assert (missing.status, nonsense.status) == (404, 400)


def test_a_dry_run_changes_nothing(lite, factstore, everything, path, physical):
    inside, outside = physical("inside"), physical("outside")
    factstore.post(f"{path}/members/{inside}")
    before = tables(lite)
    dry = {"headers": {"X-Dry-Run": "true"}}

    create = factstore.post(LOGICAL, {"name": "other"}, **dry)
    added = factstore.post(f"{path}/members/{outside}", **dry)
    removed = factstore.delete(f"{path}/members/{inside}", **dry)
    taken = factstore.post(f"{path}/members/{inside}", **dry)

    assert create.json["wouldCreate"]["name"] == "other"
    assert len(added.json["result"]["members"]) == 2
    assert removed.json["wouldDelete"]["environmentId"] == inside
    assert [create.status, added.status, removed.status, taken.status] == [200, 200, 200, 409]
    assert tables(lite) == before


def test_without_members_a_merged_snapshot_is_empty(factstore, everything, path):
    merged = factstore.get(f"{path}/snapshots/latest")

    assert merged.status == 200
    assert list(merged.json.items()) == [
        ("logicalEnvId", everything["id"]),
        ("logicalEnvName", "everything"),
        ("complianceStatus", "NON_COMPLIANT"),
        ("memberSnapshots", []),
        ("mergedArtifacts", []),
    ]


def test_a_merged_snapshot_puts_the_latest_of_the_members_together(factstore, path, physical):
    api = {"artifactSha256": ONE, "artifactName": "api", "artifactTag": "1.0", "instanceCount": 2}
    first, second = physical("first"), physical("second")
    for key in (first, second):
        factstore.post(f"{path}/members/{key}")
    old = {"recordedBy": "agent", "artifacts": [api | {"artifactName": "old"}]}
    factstore.post(f"{ENVIRONMENTS}/{first}/snapshots", old)
    factstore.post(f"{ENVIRONMENTS}/{first}/snapshots", {"recordedBy": "x", "artifacts": [api] * 2})

    half = factstore.get(f"{path}/snapshots/latest").json
    factstore.post(f"{ENVIRONMENTS}/{second}/snapshots", {"recordedBy": "x", "artifacts": [api]})
    whole = factstore.get(f"{path}/snapshots/latest").json

    expected = {"physicalEnvId": first, "physicalEnvName": "first"}
    two = {"physicalEnvId": second, "physicalEnvName": "second"}
    assert half["memberSnapshots"] == [
        expected | {"snapshotIndex": 2, "recordedAt": NOON, "artifactCount": 2},
        two | {"snapshotIndex": None, "recordedAt": None, "artifactCount": 0},
    ]
    assert half["complianceStatus"] == "NON_COMPLIANT"
    assert whole["complianceStatus"] == "COMPLIANT"
    assert whole["mergedArtifacts"] == [api | expected, api | expected, api | two]


def test_a_merged_snapshot_of_what_does_not_comply_does_not_comply(lite, factstore, path, physical):
    trail = begin_trail(lite, factstore, requiredAttestationTypes=["junit"])
    digest = "sha256:" + "a" * 64
    artifact = {"imageName": "api", "imageTag": "1", "sha256Digest": digest}
    factstore.post(f"/api/v1/trails/{trail}/artifacts", artifact)
    for name, digests in (("first", [digest]), ("second", ["sha256:" + "b" * 64])):
        factstore.post(f"{path}/members/{(key := physical(name))}")
        running = [
            {"artifactSha256": record, "artifactName": "x", "artifactTag": ""} for record in digests
        ]
        snapshot = {"recordedBy": "agent", "artifacts": running}
        factstore.post(f"{ENVIRONMENTS}/{key}/snapshots", snapshot)
    before = factstore.get(f"{path}/snapshots/latest").json["complianceStatus"]

    passed = {"type": "junit", "status": "PASSED"}
    factstore.post(f"/api/v1/trails/{trail}/attestations", passed)
    after = factstore.get(f"{path}/snapshots/latest").json["complianceStatus"]

    assert (before, after) == ("NON_COMPLIANT", "COMPLIANT")


def test_a_merged_snapshot_takes_the_same_queries_for_any_number_of_members(
    lite, factstore, path, physical
):
    requests = []
    connection = lite.workspace.reader.connection()
    connection.set_trace_callback(requests.append)

    factstore.get(f"{path}/snapshots/latest")
    none = len(requests)
    for number in range(5):
        key = physical(f"env-{number}")
        factstore.post(f"{ENVIRONMENTS}/{key}/snapshots", {"recordedBy": "agent"})
        factstore.post(f"{path}/members/{key}")
    requests.clear()
    factstore.get(f"{path}/snapshots/latest")
    connection.set_trace_callback(None)

    assert len(requests) == none
