"""Environments and their snapshots."""

import random
import threading
import time

import pytest
from stored import audit, events, ledger, tables

from factstore.trails import begin_trail
from novantra_lite import (
    FACTSTORE_SCOPES,
    Artifact,
    Attestation,
    Environment,
    EnvironmentSnapshot,
    Event,
    NovantraLite,
    SnapshotArtifact,
    Trail,
    write_transaction,
)

ONE = "sha256:" + "1" * 64
TWO = "sha256:" + "2" * 64
THREE = "sha256:" + "3" * 64
ENVIRONMENTS = "/api/v1/environments"
NOON = "2026-06-01T12:00:00.000000Z"
LATER = "2026-06-01T12:01:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"


#: Digests of artifacts whose trails stand so.
NAMED = {
    name: f"sha256:{number:064}"
    for number, name in enumerate(("good", "missing", "failed", "free", "both", "nobody"))
}


def an_artifact(name, digest=ONE, tag="1.0", count=1):
    return {
        "artifactSha256": NAMED.get(digest, digest),
        "artifactName": name,
        "artifactTag": tag,
        "instanceCount": count,
    }


def recorded(factstore, environment, name):
    """The names that a snapshot of one artifact of this name keeps."""
    body = {"recordedBy": "agent", "artifacts": [an_artifact(name)]}
    path = f"{ENVIRONMENTS}/{environment['id']}/snapshots"
    kept = factstore.post(path, body).json["artifacts"]
    return [artifact["artifactName"] for artifact in kept]


@pytest.fixture
def path(production):
    return f"{ENVIRONMENTS}/{production['id']}"


@pytest.fixture
def snap(factstore, path):
    """Record a snapshot of these artifacts."""

    def record(*artifacts):
        body = {"recordedBy": "agent", "artifacts": list(artifacts)}
        return factstore.post(f"{path}/snapshots", body).json

    return record


def test_an_environment_needs_a_name_and_a_type(lite, factstore):
    created = factstore.post(ENVIRONMENTS, {"name": "production", "type": "K8S"})

    key = created.json["id"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("name", "production"),
        ("type", "K8S"),
        ("description", ""),
        ("orgSlug", None),
        ("driftPolicy", "WARN"),
        ("scope", None),
        ("createdAt", NOON),
        ("updatedAt", NOON),
        ("complianceState", "UNKNOWN"),
    ]
    assert factstore.get(f"{ENVIRONMENTS}/{key.upper()}").json == created.json
    assert audit(lite)[-2][1:3] == ("environment.created", key)
    assert ledger(lite)[-2] == ("ENVIRONMENT_CREATED", key)
    assert events(lite) == []


def test_everything_that_may_be_given_is_kept(factstore):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    body = {
        "name": "production",
        "type": "ECS",
        "description": "Where the money is.",
        "orgSlug": "acme",
        "driftPolicy": "BLOCK",
        "scope": {
            "include": {"names": ["api"], "patterns": ["web-.*"]},
            "exclude": {"names": ["web-test"], "patterns": []},
        },
    }

    created = factstore.post(ENVIRONMENTS, body)

    assert created.status == 201
    assert created.json.items() >= body.items()


@pytest.mark.parametrize(
    ("scope", "kept"),
    [
        (None, None),
        ({}, None),
        ({"include": None, "exclude": {"names": None, "patterns": [" "]}}, None),
        (
            {"include": {"names": ["api", "", " "]}},
            {
                "include": {"names": ["api"], "patterns": []},
                "exclude": {"names": [], "patterns": []},
            },
        ),
    ],
)
def test_a_scope_is_kept_without_blanks_and_is_null_when_nothing_is_left(factstore, scope, kept):
    body = {"name": "production", "type": "K8S", "scope": scope}

    created = factstore.post(ENVIRONMENTS, body)

    assert (created.status, created.json["scope"]) == (201, kept)


@pytest.mark.parametrize(
    ("change", "member"),
    [
        ({"name": None}, "name"),
        ({"name": " "}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"type": None}, "type"),
        ({"type": "k8s"}, "type"),
        ({"driftPolicy": "STRICT"}, "driftPolicy"),
        ({"scope": []}, "scope"),
        ({"scope": {"include": []}}, "scope.include"),
        ({"scope": {"include": {"names": "api"}}}, "scope.include.names"),
        ({"scope": {"exclude": {"patterns": ["ok", "("]}}}, "scope.exclude.patterns.1"),
        ({"scope": {"include": {"patterns": ["x" * 501]}}}, "scope.include.patterns.0"),
    ],
)
def test_a_wrong_member_is_refused(lite, factstore, change, member):
    before = tables(lite)

    refused = factstore.post(ENVIRONMENTS, {"name": "production", "type": "K8S"} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert refused.json["message"].startswith(f"{member}: ")
    assert tables(lite) == before


@pytest.mark.parametrize(
    "pattern",
    [
        "a{99999999999999999999}",
        "a{9999}",
        r"(a)\1",
        "(?=a)a",
        "(" * 200 + "a?" + "){9}" * 200,
        "(",
        "[[a]-",
        "[a&&b]",
        "a{x",
        "(?P<name>a)",
        "a(?i)b",
        r"\pL",
        r"\Aa\z",
    ],
)
def test_what_is_no_regular_expression_of_a_sane_size_is_refused(factstore, pattern):
    body = {"name": "x", "type": "K8S", "scope": {"include": {"patterns": [pattern]}}}

    refused = factstore.post(ENVIRONMENTS, body)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert "scope.include.patterns.0: Expected" in refused.json["message"]


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("api", "api", True),
        ("api", "api-2", False),
        ("(api|web)-v[0-9]+", "web-v12", True),
        ("team-.*-svc-.*?(-test)?", "team-a-svc-b-test", True),
        ("a{2,3}", "aaaa", False),
        ("(?i)API", "api", True),
    ],
)
def test_a_pattern_is_held_against_the_whole_name(factstore, pattern, name, matches):
    body = {"name": "x", "type": "K8S", "scope": {"include": {"patterns": [pattern]}}}

    taken = factstore.post(ENVIRONMENTS, body)

    assert taken.status == 201
    assert recorded(factstore, taken.json, name) == ([name] if matches else [])


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a?){30}a{30}b", "(a|aa)*b", "((a*)b*)*c"])
def test_a_pattern_with_many_ways_to_match_keeps_nobody_waiting(factstore, pattern):
    body = {"name": "x", "type": "K8S", "scope": {"include": {"patterns": [pattern]}}}

    environment = factstore.post(ENVIRONMENTS, body).json

    assert recorded(factstore, environment, "a" * 250) == []


def test_many_patterns_times_many_names_are_refused_in_bounded_time(lite, factstore):
    patterns = [f"(a|b)*a(a|b){{60}}{number}" for number in range(300)]
    body = {"name": "x", "type": "K8S", "scope": {"exclude": {"patterns": patterns}}}
    environment = factstore.post(ENVIRONMENTS, body).json["id"]
    # Letters without a rhythm: each name leads the matcher to states that it has not met.
    letters = random.Random(1)
    names = [
        an_artifact("".join(letters.choices("ab", k=240)) + f"{number}") for number in range(2000)
    ]
    before, start = tables(lite), time.monotonic()

    refused = factstore.post(
        f"{ENVIRONMENTS}/{environment}/snapshots", {"recordedBy": "agent", "artifacts": names}
    )

    assert (refused.status, refused.json["error"]) == (422, "Unprocessable Entity")
    assert refused.json["message"].startswith("The patterns of the environment's scope take too")
    assert time.monotonic() - start < 8
    assert tables(lite) == before


def test_a_stored_pattern_that_cannot_be_used_is_named(lite, factstore):
    environment = factstore.post(ENVIRONMENTS, {"name": "x", "type": "K8S"}).json["id"]
    half = {"names": [], "patterns": [r"api\é"]}
    scope = {"include": half, "exclude": {"names": [], "patterns": []}}
    write_transaction(
        lite.workspace, lambda current: Environment.find(environment).change(scope=scope), actor="x"
    )

    refused = factstore.post(
        f"{ENVIRONMENTS}/{environment}/snapshots",
        {"recordedBy": "agent", "artifacts": [an_artifact("api")]},
    )

    assert refused.status == 422
    assert refused.json["message"].endswith(r"has a pattern that cannot be used: api\é")


def test_a_name_is_taken_once(factstore, production):
    other = factstore.post(ENVIRONMENTS, {"name": "test", "type": "S3"}).json

    created = factstore.post(ENVIRONMENTS, {"name": "production", "type": "S3"})
    renamed = factstore.put(f"{ENVIRONMENTS}/{other['id']}", {"name": "production"})
    own = factstore.put(f"{ENVIRONMENTS}/{other['id']}", {"name": "test"})

    assert [created.status, renamed.status, own.status] == [409, 409, 200]
    assert "production" in created.json["message"]
    assert "production" in renamed.json["message"]


def test_an_organisation_that_is_not_there_is_not_found(factstore):
    refused = factstore.post(ENVIRONMENTS, {"name": "x", "type": "S3", "orgSlug": "nobody"})

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert factstore.get(ENVIRONMENTS).json == []


def test_the_list_is_bare_until_a_page_is_asked_for(factstore):
    for number in range(25):
        factstore.post(ENVIRONMENTS, {"name": f"env-{number}", "type": "S3"})

    bare = factstore.get(ENVIRONMENTS)
    first = factstore.get(ENVIRONMENTS, page=0)
    last = factstore.get(ENVIRONMENTS, page=2, size=10)
    past = factstore.get(ENVIRONMENTS, size=10, page=9)

    names = [f"env-{number}" for number in range(25)]
    assert [record["name"] for record in bare.json] == names
    assert [record["name"] for record in first.json["items"]] == names[:20]
    assert [record["name"] for record in last.json["items"]] == names[20:]
    counts = {"page": 2, "size": 10, "totalItems": 25, "totalPages": 3}
    assert last.json == {"items": last.json["items"]} | counts
    assert past.json["items"] == []


@pytest.mark.parametrize("query", [{"page": -1}, {"size": 0}, {"page": "x"}])
def test_a_page_that_cannot_be_is_refused(factstore, query):
    refused = factstore.get(ENVIRONMENTS, **query)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")


def test_a_change_moves_only_what_is_given(lite, factstore, clock, production, path):
    clock.advance(60)

    changed = factstore.put(path, {"type": "DOCKER", "description": None, "orgSlug": "x"})

    moved = production | {"type": "DOCKER", "updatedAt": LATER}
    assert (changed.status, changed.json) == (200, moved)
    assert factstore.get(path).json == moved
    assert audit(lite)[-1][1:3] == ("environment.updated", production["id"])
    assert ledger(lite)[-1] == ("ENVIRONMENT_UPDATED", production["id"])


def test_an_empty_change_moves_the_time(factstore, clock, production, path):
    clock.advance(60)

    changed = factstore.put(path, {})

    assert changed.json == production | {"updatedAt": LATER}


def test_a_new_scope_replaces_all_four_lists(factstore, path):
    full = {"names": ["a"], "patterns": ["b"]}
    factstore.put(path, {"scope": {"include": full, "exclude": full}})

    kept = factstore.put(path, {"scope": None})
    replaced = factstore.put(path, {"scope": {"exclude": {"names": ["c"]}}})
    emptied = factstore.put(path, {"scope": {}})

    assert kept.json["scope"] == {"include": full, "exclude": full}
    assert replaced.json["scope"] == {
        "include": {"names": [], "patterns": []},
        "exclude": {"names": ["c"], "patterns": []},
    }
    assert emptied.json["scope"] is None


def test_a_deleted_environment_takes_along_what_hangs_on_it(lite, factstore, path, snap):
    logical = factstore.post("/api/v1/logical-environments", {"name": "all"}).json
    member = f"/api/v1/logical-environments/{logical['id']}"
    factstore.post(f"{member}/members/{path.rpartition('/')[2]}")
    snap(an_artifact("api"))
    factstore.post(f"{path}/baselines", {"approvedBy": "ada"})
    factstore.post(f"{path}/allowlist", {"sha256": ONE, "reason": "y", "approvedBy": "z"})

    deleted = factstore.delete(path)
    again = factstore.delete(path)

    assert (deleted.status, deleted.body, again.status) == (204, b"", 404)
    gone = [
        "environment", "environment_snapshot", "snapshot_artifact", "baseline", "drift_report",
        "allowlist_entry", "logical_member",
    ]  # fmt: skip
    assert {name: rows for name, rows in tables(lite).items() if name in gone and rows} == {}
    assert {event for event, _ in ledger(lite)} >= {
        "ENVIRONMENT_DELETED", "ENVIRONMENT_SNAPSHOT_DELETED", "BASELINE_DELETED",
        "DRIFT_REPORT_DELETED", "ALLOWLIST_ENTRY_DELETED", "LOGICAL_MEMBER_DELETED",
    }  # fmt: skip
    assert factstore.get(member).json["members"] == []
    assert lite.verify() == []


BELOW = [
    ("GET", ""),
    ("PUT", ""),
    ("DELETE", ""),
    ("GET", "/snapshots"),
    ("POST", "/snapshots"),
    ("GET", "/snapshots/latest"),
    ("GET", "/snapshots/1"),
    ("GET", "/diff?from=1&to=2"),
    ("POST", "/baselines"),
    ("GET", "/baselines/current"),
    ("GET", "/drift"),
    ("GET", "/drift/history"),
    ("GET", "/allowlist"),
    ("POST", "/allowlist"),
    ("DELETE", f"/allowlist/{NOBODY}"),
]


@pytest.mark.parametrize(("method", "below"), BELOW)
def test_an_environment_that_is_not_there_is_not_found(factstore, method, below):
    body = {"recordedBy": "a", "approvedBy": "b", "reason": "c", "sha256": ONE}

    missing = factstore.request(method, f"{ENVIRONMENTS}/{NOBODY}{below}", json=body)
    nonsense = factstore.request(method, f"{ENVIRONMENTS}/nonsense{below}", json=body)

    assert (missing.status, missing.json["error"]) == (404, "Not Found")
    assert NOBODY in missing.json["message"]
    assert (nonsense.status, nonsense.json["error"]) == (400, "Bad Request")


def test_a_dry_run_changes_nothing(lite, factstore, production, path):
    before = tables(lite)
    dry = {"headers": {"X-Dry-Run": "true"}}
    body = {"recordedBy": "agent", "artifacts": [an_artifact("api")]}

    create = factstore.post(ENVIRONMENTS, {"name": "test", "type": "S3"}, **dry)
    change = factstore.put(path, {"name": "other"}, **dry)
    delete = factstore.delete(path, **dry)
    snapshot = factstore.post(f"{path}/snapshots", body, **dry)
    taken = factstore.post(ENVIRONMENTS, {"name": "production", "type": "S3"}, **dry)

    assert create.json["wouldCreate"]["name"] == "test"
    assert change.json["wouldUpdate"]["name"] == "other"
    assert delete.json == {"dryRun": True, "wouldDelete": production}
    assert snapshot.json["wouldCreate"]["artifacts"][0]["artifactName"] == "api"
    assert [create.status, change.status, delete.status, snapshot.status] == [200] * 4
    assert taken.status == 409
    assert tables(lite) == before


# --- Snapshots ----------------------------------------------------------------


def test_a_snapshot_tells_what_runs(lite, factstore, production, path):
    body = {"recordedBy": "agent", "artifacts": [an_artifact("api", ONE, "1.0", 3)]}

    recorded = factstore.post(f"{path}/snapshots", body)

    key = recorded.json["id"]
    assert recorded.status == 201
    assert list(recorded.json.items()) == [
        ("id", key),
        ("environmentId", production["id"]),
        ("snapshotIndex", 1),
        ("recordedAt", NOON),
        ("recordedBy", "agent"),
        (
            "artifacts",
            [
                {
                    "artifactSha256": ONE,
                    "artifactName": "api",
                    "artifactTag": "1.0",
                    "instanceCount": 3,
                    "complianceState": "UNKNOWN",
                }
            ],
        ),
    ]
    assert factstore.get(f"{path}/snapshots/latest").json == recorded.json
    assert factstore.get(f"{path}/snapshots/1").json == recorded.json
    assert factstore.get(f"{path}/snapshots").json == [recorded.json]
    assert audit(lite)[-1][1:3] == ("environment_snapshot.recorded", key)
    assert ledger(lite)[-1] == ("ENVIRONMENT_SNAPSHOT_RECORDED", key)
    assert lite.verify() == []


def test_the_ledger_proves_the_artifacts_of_a_snapshot(lite, snap):
    key = snap(an_artifact("api"))["id"]

    def forge(current):
        EnvironmentSnapshot.update(artifacts=[]).where(EnvironmentSnapshot.id == key).execute()

    write_transaction(lite.workspace, forge, actor="mallory")

    assert lite.verify() == [f"Environment snapshot {key} is not what the ledger recorded."]


@pytest.mark.parametrize("result", [{}, {"artifacts": None}, {"artifacts": []}])
def test_a_snapshot_may_be_empty(factstore, path, result):
    recorded = factstore.post(f"{path}/snapshots", {"recordedBy": "agent"} | result)

    assert (recorded.status, recorded.json["artifacts"]) == (201, [])
    assert factstore.get(f"{path}/snapshots/latest").json == recorded.json


def test_names_and_tags_are_taken_as_they_are(factstore, path):
    odd = {"artifactSha256": ONE, "artifactName": "", "artifactTag": 1.5, "instanceCount": None}

    recorded = factstore.post(f"{path}/snapshots", {"recordedBy": "", "artifacts": [odd, odd]})

    kept = {"artifactSha256": ONE, "artifactName": "", "artifactTag": "1.5", "instanceCount": 1}
    assert recorded.status == 201
    assert recorded.json["artifacts"] == [kept | {"complianceState": "UNKNOWN"}] * 2


@pytest.mark.parametrize(
    "change",
    [
        {"recordedBy": None},
        {"recordedBy": "x" * 256},
        {"artifacts": {}},
        {"artifacts": ["api"]},
        {"artifacts": [{"artifactName": "api", "artifactTag": "1.0"}]},
        {"artifacts": [an_artifact("x" * 256)]},
        {"artifacts": [an_artifact("api", count="three")]},
        {"artifacts": [an_artifact("api", count=2**31)]},
        {"artifacts": [an_artifact("a\0b")]},
        {"artifacts": [an_artifact("api", "")]},
        {"artifacts": [an_artifact("api", "sha256:12")]},
    ],
)
def test_a_wrong_snapshot_is_refused(lite, factstore, path, change):
    before = tables(lite)

    refused = factstore.post(f"{path}/snapshots", {"recordedBy": "agent"} | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert tables(lite) == before


def test_every_snapshot_is_kept_and_numbered_from_one(factstore, path, snap):
    recorded = [snap(an_artifact("api")) for _ in range(3)]

    listed = factstore.get(f"{path}/snapshots")

    assert [record["snapshotIndex"] for record in recorded] == [1, 2, 3]
    assert listed.json == recorded
    assert factstore.get(f"{path}/snapshots/latest").json == recorded[2]
    assert factstore.get(f"{path}/snapshots/2").json == recorded[1]


@pytest.mark.parametrize(
    ("index", "status"),
    [("latest", 404), ("0", 404), ("7", 404), ("-1", 400), ("x", 400), ("9" * 30, 400)],
)
def test_a_snapshot_that_is_not_there_is_not_found(factstore, path, index, status):
    refused = factstore.get(f"{path}/snapshots/{index}")

    assert refused.status == status
    assert ("production" in refused.json["message"]) == (status == 404)


def test_eight_threads_leave_no_gap_between_the_indexes():
    with NovantraLite(rate_limits=False, random=random.Random(7)) as lite:
        client = lite.client("factstore:read", "factstore:write")
        key = client.post(ENVIRONMENTS, {"name": "production", "type": "K8S"}).json["id"]
        path = f"{ENVIRONMENTS}/{key}/snapshots"
        body = {"recordedBy": "agent", "artifacts": [an_artifact("api")]}

        def record():
            for _ in range(10):
                assert client.post(path, body).status == 201

        threads = [threading.Thread(target=record) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [item["snapshotIndex"] for item in client.get(path).json] == list(range(1, 81))
        with lite.workspace.read():
            assert SnapshotArtifact.select().count() == 80
            deployed = Event.select().where(Event.type == "factstore.artifact.deployed")
            assert deployed.count() == 1
        assert lite.verify() == []


BOTH = {"include": {"names": ["api"], "patterns": ["web-.*"]}, "exclude": {"names": ["web-2"]}}
EXCLUDING = {"exclude": {"names": ["api"], "patterns": ["web-.*"]}}


@pytest.mark.parametrize(
    ("type", "scope", "kept"),
    [
        ("K8S", None, ["api", "web-1", "web-2", "db"]),
        ("K8S", BOTH, ["api", "web-1"]),
        ("ECS", BOTH, ["api", "web-1"]),
        ("LAMBDA", BOTH, ["api", "web-1"]),
        ("DOCKER", BOTH, ["api"]),
        ("S3", BOTH, ["api", "web-1", "web-2", "db"]),
        ("GENERIC", BOTH, ["api", "web-1", "web-2", "db"]),
        ("K8S", EXCLUDING, ["db"]),
        ("DOCKER", EXCLUDING, ["web-1", "web-2", "db"]),
        ("DOCKER", {"include": {"patterns": ["x"]}}, ["api", "web-1", "web-2", "db"]),
        ("K8S", {"include": {"patterns": ["w"]}}, []),
        ("K8S", {"include": {"names": ["web"]}}, []),
    ],
)
def test_a_scope_says_what_a_snapshot_holds(factstore, type, scope, kept):
    body = {"name": "production", "type": type, "scope": scope}
    key = factstore.post(ENVIRONMENTS, body).json["id"]
    running = [an_artifact(name) for name in ("api", "web-1", "web-2", "db")]

    recorded = factstore.post(
        f"{ENVIRONMENTS}/{key}/snapshots", {"recordedBy": "agent", "artifacts": running}
    )

    assert [record["artifactName"] for record in recorded.json["artifacts"]] == kept


def test_the_first_sighting_of_a_digest_is_told(lite, factstore, production, snap):
    snap(an_artifact("api", ONE), an_artifact("api", ONE, "again"))
    snap(an_artifact("web", ONE), an_artifact("web", TWO))

    expected = {"environmentId": production["id"], "environmentName": "production"}
    assert events(lite) == [
        (
            "factstore.artifact.deployed",
            {**expected, "snapshotIndex": 1, **an_artifact("api", ONE)},
        ),
        (
            "factstore.artifact.deployed",
            {**expected, "snapshotIndex": 2, **an_artifact("web", TWO)},
        ),
    ]


def test_each_environment_has_sightings_and_indexes_of_its_own(lite, factstore, snap):
    snap(an_artifact("api"))
    other = factstore.post(ENVIRONMENTS, {"name": "test", "type": "K8S"}).json["id"]

    recorded = factstore.post(
        f"{ENVIRONMENTS}/{other}/snapshots",
        {"recordedBy": "agent", "artifacts": [an_artifact("api")]},
    )

    assert recorded.json["snapshotIndex"] == 1
    assert [data["environmentName"] for _, data in events(lite)] == ["production", "test"]


@pytest.fixture
def reported(lite, factstore):
    """Artifacts whose digests say how their trails stand."""
    needy = factstore.post("/api/v1/flows", {"name": "f", "requiredAttestationTypes": ["a", "b"]})
    free = factstore.post("/api/v1/flows", {"name": "free"})

    def report(flow, digest, **states):
        commit = {"git_commit_sha": "c", "git_branch": "b"}
        author = {"git_author": "ada", "git_author_email": ""}
        trail = Trail.create(flow=flow.json["id"], **commit, **author)
        Artifact.create(trail=trail.id, image_name="x", image_tag="1", sha256_digest=NAMED[digest])
        for type, status in states.items():
            Attestation.create(trail=trail.id, type=type, status=status)

    def fill(current):
        report(needy, "good", a="FAILED")
        report(needy, "good", a="PASSED", b="PASSED")
        report(free, "both")
        report(needy, "both", a="PASSED", b="PASSED")
        report(needy, "missing", a="PASSED")
        report(needy, "failed", a="PASSED", b="FAILED")
        report(free, "free")

    write_transaction(lite.workspace, fill, actor="test")


def test_the_trail_that_reported_a_digest_last_says_whether_it_complies(
    factstore, path, snap, reported
):
    names = ["good", "missing", "failed", "free", "both", "nobody"]

    recorded = snap(*[an_artifact(name, name) for name in names])

    states = [record["complianceState"] for record in recorded["artifacts"]]
    assert states == ["COMPLIANT", "NON_COMPLIANT", "NON_COMPLIANT", *["UNKNOWN"] * 3]
    assert factstore.get(f"{path}/snapshots").json == [recorded]


@pytest.mark.parametrize(
    ("digests", "state"),
    [
        (None, "UNKNOWN"),
        ([], "UNKNOWN"),
        (["good"], "COMPLIANT"),
        (["good", "free"], "UNKNOWN"),
        (["good", "both"], "UNKNOWN"),
        (["good", "missing", "nobody"], "NON_COMPLIANT"),
    ],
)
def test_the_newest_snapshot_says_whether_an_environment_with_policies_complies(
    factstore, production, path, snap, reported, digests, state
):
    for held in [] if digests is None else [["failed"], digests]:
        snap(*[an_artifact("api", digest) for digest in held])
    before = factstore.get(path).json["complianceState"]
    policy = factstore.post("/api/v1/policies", {"name": "strict"}).json["id"]

    both = {"policyId": policy, "environmentId": production["id"]}
    attached = factstore.post("/api/v1/policy-attachments", both)

    assert (attached.status, before) == (201, "UNKNOWN")
    assert factstore.get(path).json["complianceState"] == state
    assert factstore.get(ENVIRONMENTS).json[0]["complianceState"] == state


# --- Diff ---------------------------------------------------------------------


def an_entry(name, before, after, tag="1.0"):
    return {"artifactName": name, "artifactTag": tag, "sha256From": before, "sha256To": after}


def test_a_diff_tells_what_came_went_and_changed(factstore, production, path, snap):
    snap(an_artifact("api", ONE), an_artifact("db", ONE), an_artifact("web", ONE, "old"))
    snap(an_artifact("api", TWO, "new"), an_artifact("db", ONE, "9", 5), an_artifact("job", ONE))

    forth = factstore.request("GET", f"{path}/diff?from=1&to=2")
    back = factstore.request("GET", f"{path}/diff?from=2&to=1")
    same = factstore.request("GET", f"{path}/diff?from=1&to=1")

    assert (forth.status, list(forth.json.items())) == (
        200,
        [
            ("environmentId", production["id"]),
            ("fromSnapshotIndex", 1),
            ("toSnapshotIndex", 2),
            ("added", [an_entry("job", None, ONE)]),
            ("removed", [an_entry("web", ONE, None, "old")]),
            ("updated", [an_entry("api", ONE, TWO, "new")]),
            ("unchanged", [an_entry("db", ONE, ONE, "9")]),
        ],
    )
    assert back.json["added"] == [an_entry("web", None, ONE, "old")]
    assert back.json["removed"] == [an_entry("job", ONE, None)]
    assert back.json["updated"] == [an_entry("api", TWO, ONE, "1.0")]
    assert len(same.json["unchanged"]) == 3


def test_the_last_of_several_with_one_name_is_compared(factstore, path, snap):
    snap(an_artifact("api", ONE), an_artifact("api", TWO))
    snap(an_artifact("api", THREE), an_artifact("api", TWO))

    diff = factstore.request("GET", f"{path}/diff?from=1&to=2")

    assert diff.json["unchanged"] == [an_entry("api", TWO, TWO)]
    assert diff.json["updated"] == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("from=1&to=2", 404),
        ("from=2&to=1", 404),
        ("from=1", 400),
        ("to=1", 400),
        ("from=a&to=1", 400),
        ("from=1&to=99999999999999999999", 400),
    ],
)
def test_a_diff_needs_two_snapshots(factstore, path, snap, query, status):
    snap()

    refused = factstore.request("GET", f"{path}/diff?{query}")

    assert refused.status == status
    assert ("no snapshot 2" in refused.json["message"]) == (status == 404)


def test_a_setting_makes_pages_of_the_lists_that_the_reference_server_pages(clock):
    with NovantraLite(clock=clock, random=random.Random(7), factstore_pages=True) as lite:
        factstore = lite.client(*FACTSTORE_SCOPES)
        made = factstore.post("/api/v1/environments", {"name": "production", "type": "K8S"}).json
        trail = begin_trail(lite, factstore)
        factstore.post(f"/api/v1/trails/{trail}/attestations", {"type": "junit"})

        environments = factstore.get("/api/v1/environments").json
        attestations = factstore.get(f"/api/v1/trails/{trail}/attestations").json
        second = factstore.get("/api/v1/environments", page=1).json
        flows = factstore.get("/api/v1/flows").json

    numbers = {"page": 0, "size": 20, "totalItems": 1, "totalPages": 1}
    assert environments == {"items": [made], **numbers}
    assert [attestation["type"] for attestation in attestations.pop("items")] == ["junit"]
    assert attestations == numbers
    assert second == {"items": [], **numbers, "page": 1}
    assert isinstance(flows, list)


@pytest.mark.parametrize("query", ["size=10001", "size=2000000000", "size=0", "page=2147483648"])
def test_a_page_has_at_most_10000_records(factstore, query):
    refused = factstore.get(f"/api/v1/environments?{query}")

    assert refused.status == 400
    assert refused.json["message"].startswith(query.partition("=")[0] + ": Expected a number from")
