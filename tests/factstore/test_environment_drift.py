"""Baselines, drift and the allow-list."""

import pytest
from stored import audit, events, ledger, tables

from novantra_lite import EnvironmentSnapshot

ONE = "sha256:" + "1" * 64
TWO = "sha256:" + "2" * 64
ENVIRONMENTS = "/api/v1/environments"
NOON = "2026-06-01T12:00:00.000000Z"
LATER = "2026-06-01T12:01:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def path(production):
    return f"{ENVIRONMENTS}/{production['id']}"


@pytest.fixture
def snap(factstore, path):
    """Record a snapshot of artifacts, each told as name=digest."""

    def record(**digests):
        artifacts = [
            {"artifactSha256": digest, "artifactName": name, "artifactTag": "1.0"}
            for name, digest in digests.items()
        ]
        body = {"recordedBy": "agent", "artifacts": artifacts}
        return factstore.post(f"{path}/snapshots", body).json

    return record


@pytest.fixture
def approve(factstore, path):
    """Make a snapshot the baseline."""

    def post(**body):
        return factstore.post(f"{path}/baselines", {"approvedBy": "ada"} | body)

    return post


def drift_events(lite):
    return [data for name, data in events(lite) if name == "factstore.drift.changed"]


def test_a_baseline_is_the_latest_snapshot_unless_told(lite, factstore, production, path, snap):
    snapshot = snap(api=ONE)

    approved = factstore.post(f"{path}/baselines", {"approvedBy": "ada"})

    key = approved.json["id"]
    assert approved.status == 201
    assert list(approved.json.items()) == [
        ("id", key),
        ("environmentId", production["id"]),
        ("snapshotId", snapshot["id"]),
        ("approvedBy", "ada"),
        ("approvedAt", NOON),
        ("description", None),
        ("isActive", True),
    ]
    assert factstore.get(f"{path}/baselines/current").json == approved.json
    assert ("baseline.approved", key) in [entry[1:3] for entry in audit(lite)]
    assert ("BASELINE_APPROVED", key) in ledger(lite)
    assert lite.verify() == []


def test_a_new_baseline_takes_the_place_of_the_one_before(lite, factstore, path, snap, approve):
    first_snapshot = snap(api=ONE)
    snap(api=TWO)
    first = approve().json

    second = approve(snapshotId=first_snapshot["id"].upper(), description="As it was.").json

    assert second["snapshotId"] == first_snapshot["id"]
    assert second["description"] == "As it was."
    assert factstore.get(f"{path}/baselines/current").json == second
    assert ("baseline.updated", first["id"]) in [entry[1:3] for entry in audit(lite)]
    assert lite.verify() == []


@pytest.mark.parametrize(
    "result", [{"approvedBy": None}, {"snapshotId": "x"}, {"approvedBy": "x" * 256}]
)
def test_a_wrong_baseline_is_refused(factstore, approve, result):
    refused = approve(**result)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert next(iter(result)) in refused.json["message"]


def test_an_environment_without_a_baseline_has_none(factstore, path, snap):
    snap()

    current = factstore.get(f"{path}/baselines/current")
    drift = factstore.get(f"{path}/drift")

    assert (current.status, drift.status) == (404, 404)
    assert "production" in current.json["message"]
    assert factstore.get(f"{path}/drift/history").json == []


def test_a_baseline_made_before_any_snapshot_tells_no_drift(factstore, path, snap, approve):
    approved = approve()
    before = factstore.get(f"{path}/drift")
    snap(api=ONE)
    after = factstore.get(f"{path}/drift")

    assert approved.json["snapshotId"] is None
    assert (before.status, after.status) == (404, 404)
    assert "snapshot" in before.json["message"]


def test_an_environment_that_is_deleted_while_its_drift_is_read_is_not_found(
    factstore, path, snap, approve, monkeypatch
):
    snap(api=ONE)
    approve()
    snap(api=TWO)
    last = EnvironmentSnapshot.last

    def then_deleted(**values):
        matches = last(**values)
        factstore.delete(path)
        return matches

    monkeypatch.setattr(EnvironmentSnapshot, "last", then_deleted)

    assert factstore.get(f"{path}/drift").status == 404


def test_drift_is_what_differs_from_the_baseline(
    lite, factstore, clock, production, path, snap, approve
):
    snap(api=ONE, db=ONE, web=ONE)
    baseline = approve().json
    clock.advance(60)
    snapshot = snap(api=TWO, db=ONE, job=ONE)

    drift = factstore.get(f"{path}/drift")

    key = drift.json["id"]
    api = {"artifactName": "api", "artifactTag": "1.0"}
    assert (drift.status, list(drift.json.items())) == (
        200,
        [
            ("id", key),
            ("environmentId", production["id"]),
            ("baselineId", baseline["id"]),
            ("snapshotId", snapshot["id"]),
            ("generatedAt", LATER),
            ("hasDrift", True),
            ("added", [api | {"artifactName": "job", "sha256From": None, "sha256To": ONE}]),
            ("removed", [api | {"artifactName": "web", "sha256From": ONE, "sha256To": None}]),
            ("updated", [api | {"sha256From": ONE, "sha256To": TWO}]),
        ],
    )
    assert audit(lite)[-1][1:3] == ("drift_report.recorded", key)
    assert ledger(lite)[-1] == ("DRIFT_REPORT_RECORDED", key)
    assert drift_events(lite) == [
        {"environmentName": "production", "driftPolicy": "WARN", "report": drift.json}
    ]
    assert lite.verify() == []


def test_reading_the_drift_stores_nothing(lite, factstore, path, snap, approve):
    snap(api=ONE)
    approve()
    before = tables(lite)

    factstore.get(f"{path}/drift")
    factstore.get(f"{path}/drift/history")

    assert tables(lite) == before


def test_a_report_is_kept_when_the_drift_changes_and_only_then(
    lite, factstore, path, snap, approve
):
    snap(api=ONE, web=ONE)
    approve()
    snap(api=TWO, web=ONE)
    snap(web=ONE, api=TWO)
    same = factstore.get(f"{path}/drift").json
    last = snap(api=ONE, web=ONE)

    history = factstore.get(f"{path}/drift/history").json

    now = factstore.get(f"{path}/drift").json
    assert [report["hasDrift"] for report in history] == [False, True, False]
    assert same["id"] == history[1]["id"]
    assert same["snapshotId"] != history[1]["snapshotId"]
    assert now == history[2] | {"snapshotId": last["id"]}
    assert [data["report"]["hasDrift"] for data in drift_events(lite)] == [True, False]


def test_a_new_baseline_gets_a_report_of_its_own(lite, factstore, path, snap, approve):
    snap(api=ONE)
    first = approve().json
    snap(api=TWO)

    second = approve().json

    history = factstore.get(f"{path}/drift/history").json
    assert [report["baselineId"] for report in history] == [first["id"], first["id"], second["id"]]
    assert factstore.get(f"{path}/drift").json == history[2]
    assert [data["report"]["hasDrift"] for data in drift_events(lite)] == [True, False]


def test_a_baseline_of_no_known_snapshot_compares_with_nothing(factstore, path, snap, approve):
    snap(api=ONE)

    approve(snapshotId=NOBODY)

    drift = factstore.get(f"{path}/drift").json
    assert [entry["artifactName"] for entry in drift["added"]] == ["api"]
    assert (drift["removed"], drift["updated"], drift["hasDrift"]) == ([], [], True)


def test_a_baseline_stays_what_it_was_when_its_snapshot_goes(factstore, path, snap, approve):
    other = factstore.post(ENVIRONMENTS, {"name": "test", "type": "K8S"}).json["id"]
    artifacts = [{"artifactSha256": ONE, "artifactName": "api", "artifactTag": "1.0"}]
    body = {"recordedBy": "agent", "artifacts": artifacts}
    tested = factstore.post(f"{ENVIRONMENTS}/{other}/snapshots", body).json
    snap(api=ONE)
    approve(snapshotId=tested["id"])

    factstore.delete(f"{ENVIRONMENTS}/{other}")
    snap(api=TWO)

    assert len(factstore.get(f"{path}/drift").json["updated"]) == 1


@pytest.mark.parametrize(("policy", "raised"), [("WARN", 1), ("BLOCK", 1), ("IGNORE", 0)])
def test_an_environment_may_ignore_drift(lite, factstore, path, snap, approve, policy, raised):
    factstore.put(path, {"driftPolicy": policy})
    snap(api=ONE)
    approve()

    snap(api=TWO)

    assert factstore.get(f"{path}/drift").json["hasDrift"] is True
    assert [data["driftPolicy"] for data in drift_events(lite)] == [policy] * raised


# --- Allow-list ---------------------------------------------------------------


@pytest.fixture
def allow(factstore, path):
    """Add an entry to the allow-list."""

    def post(**body):
        return factstore.post(
            f"{path}/allowlist", {"reason": "Hot fix", "approvedBy": "ada"} | body
        )

    return post


def test_an_entry_lets_a_digest_in(lite, factstore, production, path, allow):
    added = allow(sha256=ONE)

    key = added.json["id"]
    assert added.status == 201
    assert list(added.json.items()) == [
        ("id", key),
        ("environmentId", production["id"]),
        ("sha256", ONE),
        ("namePattern", None),
        ("reason", "Hot fix"),
        ("approvedBy", "ada"),
        ("createdAt", NOON),
        ("expiresAt", None),
        ("status", "ACTIVE"),
        ("isEffective", True),
    ]
    assert factstore.get(f"{path}/allowlist").json == [added.json]
    assert audit(lite)[-1][1:] == ("allowlist_entry.added", key, "Hot fix")
    assert ledger(lite)[-1] == ("ALLOWLIST_ENTRY_ADDED", key)
    assert events(lite) == []
    assert lite.verify() == []


@pytest.mark.parametrize(
    ("result", "member"),
    [
        ({}, "namePattern"),
        ({"sha256": None, "namePattern": None}, "namePattern"),
        ({"sha256": "", "namePattern": ""}, "namePattern"),
        ({"namePattern": "("}, "namePattern"),
        ({"namePattern": "(?=a)a"}, "namePattern"),
        ({"namePattern": "x" * 501}, "namePattern"),
        ({"sha256": ONE, "reason": None}, "reason"),
        ({"sha256": ONE, "approvedBy": None}, "approvedBy"),
        ({"sha256": ONE, "expiresAt": "tomorrow"}, "expiresAt"),
        ({"sha256": ONE, "expiresAt": "2026-06-01T12:00:00"}, "expiresAt"),
    ],
)
def test_a_wrong_entry_is_refused(lite, allow, result, member):
    before = tables(lite)

    refused = allow(**result)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert member in refused.json["message"]
    assert tables(lite) == before


def test_an_empty_text_beside_a_name_pattern_names_nothing(allow):
    added = allow(sha256="", namePattern="web-.*")

    assert added.status == 201
    assert (added.json["sha256"], added.json["namePattern"]) == (None, "web-.*")


def test_an_entry_ends_with_its_time_and_stays_active(factstore, clock, path, allow):
    added = allow(sha256=ONE, expiresAt="2026-06-01T14:01:00+02:00").json
    clock.advance(59)
    before = factstore.get(f"{path}/allowlist").json

    clock.advance(1)

    assert (added["expiresAt"], before) == (LATER, [added])
    assert factstore.get(f"{path}/allowlist").json == [added | {"isEffective": False}]


def test_an_entry_may_be_added_twice(factstore, path, allow):
    both = [allow(sha256=ONE).json, allow(sha256=ONE).json]

    assert factstore.get(f"{path}/allowlist").json == both


def test_a_removed_entry_stays_in_the_list(lite, factstore, path, allow):
    added = allow(sha256=ONE).json
    entry = f"{path}/allowlist/{added['id']}"

    rehearsed = factstore.delete(entry, headers={"X-Dry-Run": "true"})
    removed = factstore.delete(entry)
    again = factstore.delete(entry)

    gone = added | {"status": "REMOVED", "isEffective": False}
    assert (removed.status, removed.json, again.status) == (200, gone, 409)
    assert rehearsed.json["dryRun"] is True
    assert added["id"] in again.json["message"]
    assert factstore.get(f"{path}/allowlist").json == [gone]
    assert audit(lite)[-1][1:3] == ("allowlist_entry.updated", added["id"])
    assert ledger(lite)[-1] == ("ALLOWLIST_ENTRY_UPDATED", added["id"])


def test_an_entry_of_another_environment_is_not_found(factstore, path, allow):
    added = allow(sha256=ONE).json
    other = factstore.post(ENVIRONMENTS, {"name": "test", "type": "S3"}).json["id"]

    refused = factstore.delete(f"{ENVIRONMENTS}/{other}/allowlist/{added['id']}")

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert factstore.get(f"{path}/allowlist").json == [added]
