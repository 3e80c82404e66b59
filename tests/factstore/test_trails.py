"""Trails in both versions, and what goes with a flow."""

import json

import pytest
from stored import audit, events, ledger, tables

from novantra_lite import Approval, Artifact, Attestation, AuditEvent, Trail, write_transaction

FLOWS, TRAILS, TRAILS_V2 = "/api/v1/flows", "/api/v1/trails", "/api/v2/trails"
NOON = "2026-06-01T12:00:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def body(flow):
    return {
        "flowId": flow["id"],
        "gitCommitSha": "4f2a",
        "gitBranch": "main",
        "gitAuthor": "Ann",
        "gitAuthorEmail": "ann@example.org",
    }


@pytest.fixture
def trail(factstore, body):
    return factstore.post(TRAILS, body).json


def do(lite, work):
    """Write what no operation of these chapters writes."""
    return write_transaction(lite.workspace, lambda current: work(), actor="test")


def test_a_trail_needs_a_flow_a_commit_a_branch_and_an_author(lite, factstore, flow, body):
    created = factstore.post(TRAILS, body)

    key = created.json["id"]
    assert created.status == 201
    assert list(created.json.items()) == [
        ("id", key),
        ("flowId", flow["id"]),
        ("gitCommitSha", "4f2a"),
        ("gitBranch", "main"),
        ("gitAuthor", "Ann"),
        ("gitAuthorEmail", "ann@example.org"),
        ("pullRequestId", None),
        ("pullRequestReviewer", None),
        ("deploymentActor", None),
        ("status", "PENDING"),
        ("orgSlug", None),
        ("templateYaml", None),
        ("buildUrl", None),
        ("name", None),
        ("createdAt", NOON),
        ("updatedAt", NOON),
        ("flowName", "payments"),
    ]
    assert factstore.get(f"{TRAILS}/{key}").json == created.json
    assert factstore.get(f"{TRAILS}/{key.upper()}").json == created.json
    assert audit(lite)[-1][1:3] == ("trail.begun", key)
    assert ledger(lite)[-1] == ("TRAIL_BEGUN", key)
    assert factstore.get(f"{TRAILS}/{key}/audit").json == []
    assert events(lite) == []


def test_everything_that_may_be_given_is_kept(factstore, body):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    values = body | {
        "pullRequestId": "17",
        "pullRequestReviewer": "Bea",
        "deploymentActor": "ci",
        "orgSlug": "acme",
        "templateYaml": "version: 1",
        "buildUrl": "https://ci.example.org/1",
        "name": "build-1",
    }

    created = factstore.post(TRAILS, values)

    assert created.status == 201
    assert created.json.items() >= values.items()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"pullRequestNumber": 17}, {"pullRequestId": "17"}),
        ({"pullRequestId": 18, "pullRequestNumber": 17}, {"pullRequestId": "18"}),
        ({"gitCommitSha": 4, "name": 1.5}, {"gitCommitSha": "4", "name": "1.5"}),
        ({"gitCommitSha": "", "gitBranch": " "}, {"gitCommitSha": "", "gitBranch": " "}),
        ({"gitAuthorEmail": ""}, {"gitAuthorEmail": ""}),
        ({"gitAuthorEmail": "bot[bot]@x"}, {"gitAuthorEmail": "bot[bot]@x"}),
        ({"status": "COMPLIANT", "flowName": "x"}, {"status": "PENDING", "flowName": "payments"}),
    ],
)
def test_members_are_taken_as_clients_send_them(factstore, body, given, kept):
    created = factstore.post(TRAILS, body | given)

    assert created.status == 201
    assert created.json.items() >= kept.items()


@pytest.mark.parametrize("path", [TRAILS, TRAILS_V2])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"flowId": None}, "flowId"),
        ({"flowId": "nonsense"}, "flowId"),
        ({"gitCommitSha": None}, "gitCommitSha"),
        ({"gitBranch": None}, "gitBranch"),
        ({"gitAuthor": None}, "gitAuthor"),
        ({"gitAuthor": " \n"}, "gitAuthor"),
        ({"gitAuthor": "x" * 256}, "gitAuthor"),
        ({"gitAuthorEmail": None}, "gitAuthorEmail"),
        ({"gitAuthorEmail": "x" * 256}, "gitAuthorEmail"),
        ({"gitCommitSha": ["4f2a"]}, "gitCommitSha"),
        ({"gitBranch": "x" * 256}, "gitBranch"),
        ({"buildUrl": "x" * 2049}, "buildUrl"),
        ({"pullRequestNumber": {}}, "pullRequestId"),
    ],
)
def test_a_wrong_member_is_refused(lite, factstore, body, path, change, named):
    before = tables(lite)

    refused = factstore.post(path, body | change)

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert named in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("body", [[], "x", 5, None, [["a"]]])
def test_a_body_that_is_no_object_is_refused(factstore, body):
    refused = factstore.post(TRAILS, body=json.dumps(body).encode())

    assert refused.status == 400


def test_the_flow_is_looked_for_before_the_commit(factstore, body):
    refused = factstore.post(TRAILS, body | {"flowId": NOBODY, "gitCommitSha": None})

    assert (refused.status, refused.json["error"]) == (404, "Not Found")
    assert NOBODY in refused.json["message"]


def test_an_organisation_that_is_not_there_is_not_found(factstore, body):
    refused = factstore.post(TRAILS, body | {"orgSlug": "nobody"})

    assert refused.status == 404
    assert "nobody" in refused.json["message"]


def test_a_name_is_taken_once_in_each_flow(factstore, body):
    other = factstore.post(FLOWS, {"name": "billing"}).json

    first = factstore.post(TRAILS, body | {"name": "build-1"})
    again = factstore.post(TRAILS, body | {"name": "build-1"})
    elsewhere = factstore.post(TRAILS, body | {"name": "build-1", "flowId": other["id"]})
    nameless = [factstore.post(TRAILS, body).status for _ in range(2)]

    assert (first.status, again.status, elsewhere.status, nameless) == (201, 409, 201, [201, 201])
    assert again.json["error"] == "Conflict"
    assert "build-1" in again.json["message"]


def test_the_list_is_a_bare_array_of_all_or_of_one_flow(factstore, body, trail):
    other = factstore.post(FLOWS, {"name": "billing"}).json
    second = factstore.post(TRAILS, body | {"flowId": other["id"]}).json

    every = factstore.get(TRAILS)
    own = factstore.get(TRAILS, flowId=other["id"].upper())
    blank = factstore.get(f"{TRAILS}?flowId=")
    nobodys = factstore.get(TRAILS, flowId=NOBODY)
    wrong = factstore.get(TRAILS, flowId="x")

    assert every.json == blank.json == [trail, second]
    assert (own.json, nobodys.json) == ([second], [])
    assert second["flowName"] == "billing"
    assert wrong.status == 400
    assert "flowId" in wrong.json["message"]


def test_a_trail_tells_the_name_that_its_flow_has_now(factstore, flow, trail):
    factstore.put(f"{FLOWS}/{flow['id']}", {"name": "money"})

    read = factstore.get(f"{TRAILS}/{trail['id']}")

    assert read.json == trail | {"flowName": "money"}


def test_the_trails_of_a_flow_come_in_pages(factstore, flow, body):
    factstore.post(TRAILS, body | {"flowId": factstore.post(FLOWS, {"name": "b"}).json["id"]})
    keys = [factstore.post(TRAILS, body).json["id"] for _ in range(3)]
    path = f"{FLOWS}/{flow['id']}/trails"

    expected = {
        (query.get("page"), query.get("size")): factstore.get(path, **query).json
        for query in ({}, {"size": 2}, {"page": 1, "size": 2}, {"page": 9})
    }

    pages = {
        request: ([record["id"] for record in page.pop("items")], *page.values())
        for request, page in expected.items()
    }
    assert pages == {
        (None, None): (keys, 0, 20, 3, 1),
        (None, 2): (keys[:2], 0, 2, 3, 2),
        (1, 2): (keys[2:], 1, 2, 3, 2),
        (9, None): ([], 9, 20, 3, 1),
    }
    assert list(expected[None, None]) == ["page", "size", "totalItems", "totalPages"]


@pytest.mark.parametrize("query", [{"page": -1}, {"size": 0}, {"size": "x"}, {"page": 2**31}])
def test_a_page_that_cannot_be_is_refused(factstore, flow, query):
    refused = factstore.get(f"{FLOWS}/{flow['id']}/trails", **query)

    assert refused.status == 400
    assert next(iter(query)) in refused.json["message"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{TRAILS}/{NOBODY}", 404),
        (f"{TRAILS}/nonsense", 400),
        (f"{TRAILS_V2}/{NOBODY}", 404),
        (f"{TRAILS_V2}/nonsense", 400),
        (f"{FLOWS}/{NOBODY}/trails", 404),
        (f"/api/v2/flows/{NOBODY}/trails", 404),
        (f"{TRAILS}/nonsense/audit", 400),
        (f"{TRAILS_V2}/nonsense/audit", 400),
    ],
)
def test_what_is_not_there_is_not_found(factstore, path, status):
    refused = factstore.get(path)

    assert refused.status == status


@pytest.mark.parametrize("path", [TRAILS, TRAILS_V2])
def test_audit_events_of_a_trail_come_newest_first(lite, factstore, clock, trail, path):
    for number in range(2):
        do(
            lite,
            lambda number=number: AuditEvent.record(
                "APPROVAL_GRANTED", "ann", {"n": number, "x": None}, trail_id=trail["id"]
            ),
        )
        clock.advance(1)
    do(lite, lambda: AuditEvent.record("GATE_ALLOWED", "system", {}, trail_id=NOBODY))

    listed = factstore.get(f"{path}/{trail['id']}/audit")

    newest, oldest = listed.json
    assert listed.status == 200
    assert (newest["payload"], oldest["payload"]) == ('{"n":1,"x":null}', '{"n":0,"x":null}')
    assert list(oldest.items())[1:] == [
        ("eventType", "APPROVAL_GRANTED"),
        ("environmentId", None),
        ("trailId", trail["id"]),
        ("artifactSha256", None),
        ("actor", "ann"),
        ("payload", '{"n":0,"x":null}'),
        ("occurredAt", NOON),
        ("region", "us-east-1"),
        ("principal", "test"),
    ]


@pytest.mark.parametrize("path", [TRAILS, TRAILS_V2])
def test_a_trail_that_is_not_there_has_no_audit_events(factstore, path):
    listed = factstore.get(f"{path}/{NOBODY}/audit")

    assert (listed.status, listed.json) == (200, [])


def test_a_dry_run_refuses_what_the_real_run_refuses_and_stores_nothing(lite, factstore, body):
    before = tables(lite)

    response = factstore.post(TRAILS, body, headers={"X-Dry-Run": "true"})
    short = factstore.post(TRAILS_V2, body, dryRun="true")
    refused = factstore.post(TRAILS, body | {"gitBranch": None}, dryRun="true")

    assert (response.status, short.status, refused.status) == (200, 200, 400)
    for would in (response.json, short.json):
        assert would["dryRun"] is True
        assert would["wouldCreate"].items() >= (body | {"flowName": "payments"}).items()
    assert tables(lite) == before


def test_a_repeated_create_with_one_key_makes_one_trail(factstore, body):
    key = {"Idempotency-Key": "run-1"}

    first = factstore.post(TRAILS, body, headers=key)
    second = factstore.post(TRAILS, body, headers=key)

    assert (first.status, first.body) == (second.status, second.body)
    assert len(factstore.get(TRAILS).json) == 1


# --- CI context ---------------------------------------------------------------

GITHUB = {
    "GITHUB_SHA": "c0ffee",
    "GITHUB_REF_NAME": "main",
    "GITHUB_SERVER_URL": "https://github.example.org",
    "GITHUB_REPOSITORY": "acme/pay",
    "GITHUB_RUN_ID": "7",
}
AZURE = {
    "BUILD_SOURCEVERSION": "c0ffee",
    "BUILD_SOURCEBRANCH": "refs/heads/main",
    "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI": "https://dev.example.org/acme/",
    "SYSTEM_TEAMPROJECT": "pay",
    "BUILD_BUILDID": "7",
}
GITHUB_RUN = "https://github.example.org/acme/pay/actions/runs/7"
AZURE_RUN = "https://dev.example.org/acme/pay/_build/results?buildId=7"
GITLAB = {"CI_COMMIT_SHA": "c0ffee", "CI_COMMIT_REF_NAME": "main", "CI_JOB_URL": "https://g/1"}
JENKINS = {"GIT_COMMIT": "c0ffee", "GIT_BRANCH": "origin/main", "BUILD_URL": "https://j/1"}
CIRCLE = {"CIRCLE_SHA1": "c0ffee", "CIRCLE_BRANCH": "main", "CIRCLE_BUILD_URL": "https://c/1"}


@pytest.fixture
def variables(monkeypatch):
    """Sets the environment of the process, and keeps that of a CI system around it out."""
    for name in (*GITHUB, *AZURE, *GITLAB, *JENKINS, *CIRCLE):
        monkeypatch.delenv(name, raising=False)

    def set_all(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.fixture
def bare(body):
    return {name: body[name] for name in ("flowId", "gitAuthor", "gitAuthorEmail")}


@pytest.mark.parametrize("path", [TRAILS, TRAILS_V2])
@pytest.mark.parametrize(
    ("system", "environment", "branch", "url"),
    [
        ("github-actions", GITHUB, "main", GITHUB_RUN),
        (" GitHub_Actions ", GITHUB, "main", GITHUB_RUN),
        ("gitlab-ci", GITLAB, "main", "https://g/1"),
        ("gitlab_ci", GITLAB, "main", "https://g/1"),
        ("Jenkins", JENKINS, "origin/main", "https://j/1"),
        ("circleci", CIRCLE, "main", "https://c/1"),
        ("circle-ci", CIRCLE, "main", "https://c/1"),
        ("azure-devops", AZURE, "refs/heads/main", AZURE_RUN),
        ("azure_devops", AZURE, "refs/heads/main", AZURE_RUN),
    ],
)
def test_a_ci_system_tells_what_the_body_does_not(
    factstore, bare, variables, path, system, environment, branch, url
):
    variables(environment)

    created = factstore.post(path, bare, headers={"X-Factstore-CI-Context": system})

    read = factstore.get(f"{TRAILS}/{created.json['id']}").json
    assert created.status == 201
    assert (read["gitCommitSha"], read["gitBranch"], read["buildUrl"]) == ("c0ffee", branch, url)
    assert (read["gitAuthor"], read["pullRequestId"]) == ("Ann", None)


def test_what_the_body_tells_stands(factstore, bare, variables):
    variables(GITLAB)
    values = bare | {"gitCommitSha": "", "gitBranch": None, "buildUrl": "https://own"}

    created = factstore.post(TRAILS, values, headers={"X-Factstore-CI-Context": "gitlab-ci"})

    assert created.status == 201
    assert (
        created.json.items()
        >= {"gitCommitSha": "", "gitBranch": "main", "buildUrl": "https://own"}.items()
    )


@pytest.mark.parametrize("part", ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"])
def test_a_url_needs_all_its_parts(factstore, bare, variables, part):
    variables(GITHUB | {part: ""})

    created = factstore.post(TRAILS, bare, headers={"X-Factstore-CI-Context": "github-actions"})

    assert (created.status, created.json["buildUrl"]) == (201, None)


@pytest.mark.parametrize(
    ("system", "environment", "missing"),
    [
        ("travis", GITHUB, ["gitCommitSha", "gitBranch"]),
        ("circle_ci", CIRCLE, ["gitCommitSha", "gitBranch"]),
        ("github-actions", GITLAB, ["gitCommitSha", "gitBranch"]),
        ("jenkins", {"GIT_COMMIT": "c0ffee"}, ["gitBranch"]),
        ("jenkins", {"GIT_BRANCH": "main"}, ["gitCommitSha"]),
        ("jenkins", JENKINS | {"GIT_COMMIT": "x" * 256}, ["gitCommitSha"]),
        ("jenkins", JENKINS | {"GIT_BRANCH": "\udcff"}, ["gitBranch"]),
    ],
)
def test_what_the_ci_system_does_not_tell_well_is_missed(
    factstore, bare, variables, system, environment, missing
):
    variables(environment)

    refused = factstore.post(TRAILS, bare, headers={"X-Factstore-CI-Context": system})

    assert refused.status == 400
    named = [name for name in ("gitCommitSha", "gitBranch") if name in refused.json["message"]]
    assert named == missing


# --- Second version -----------------------------------------------------------


def test_the_second_version_answers_in_short_and_knows_no_names(lite, factstore, body):
    created = factstore.post(TRAILS_V2, body | {"name": "build-1"})

    key = created.json["id"]
    whole = factstore.get(f"{TRAILS}/{key}").json
    view = {name: value for name, value in whole.items() if name not in ("name", "flowName")}
    assert created.status == 201
    assert created.json == {"id": key, "status": "created", "timestamp": NOON}
    assert whole["name"] is None
    assert len(view) == 15
    assert factstore.get(f"{TRAILS_V2}/{key}").json == view
    assert factstore.get(TRAILS_V2).json == [view]
    assert audit(lite)[-1][1:3] == ("trail.begun", key)


def test_the_second_version_lists_bare_arrays(factstore, flow, body, trail):
    other = factstore.post(FLOWS, {"name": "billing"}).json
    second = factstore.post(TRAILS_V2, body | {"flowId": other["id"]}).json

    every = factstore.get(TRAILS_V2)
    filtered = factstore.get(TRAILS_V2, flowId=other["id"])
    of_flow = factstore.get(f"/api/v2/flows/{flow['id']}/trails", page=0, size=1)

    assert [record["id"] for record in every.json] == [trail["id"], second["id"]]
    assert [record["id"] for record in filtered.json] == [second["id"]]
    assert [record["id"] for record in of_flow.json] == [trail["id"]]
    assert "flowName" not in of_flow.json[0]


# --- Deleting a flow ----------------------------------------------------------


def test_a_deleted_flow_takes_its_trails_and_their_approvals_along(lite, factstore, flow, trail):
    approval = factstore.post(f"{TRAILS}/{trail['id']}/approvals", {"requiredApprovers": ["a"]})
    for identity in "xy":
        factstore.post(
            f"/api/v1/approvals/{approval.json['id']}/approve", {"approverIdentity": identity}
        )

    deleted = factstore.delete(f"{FLOWS}/{flow['id']}")

    assert deleted.status == 204
    assert factstore.get(TRAILS).json == []
    assert factstore.get("/api/v1/approvals").json == []
    assert [entry[1] for entry in audit(lite)][-5:] == [
        "approval_decision.deleted",
        "approval_decision.deleted",
        "approval.deleted",
        "trail.deleted",
        "flow.deleted",
    ]
    assert lite.verify() == []


@pytest.mark.parametrize(
    ("model", "values", "named"),
    [
        (Artifact, {"image_name": "pay", "image_tag": "1", "sha256_digest": DIGEST}, "artifact"),
        (Attestation, {"type": "junit"}, "attestation"),
    ],
)
def test_a_flow_with_something_recorded_on_its_trails_stays(
    lite, factstore, flow, trail, model, values, named
):
    do(lite, lambda: Approval.create(trail=trail["id"], flow=flow["id"]))
    do(lite, lambda: model.create(trail=trail["id"], **values))
    before = tables(lite)

    refused = factstore.delete(f"{FLOWS}/{flow['id']}")

    assert (refused.status, refused.json["error"]) == (409, "Conflict")
    assert named in refused.json["message"]
    assert tables(lite) == before


def test_an_organisation_that_a_trail_carries_stays(factstore, body):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    factstore.post(TRAILS, body | {"orgSlug": "acme"})

    refused = factstore.delete("/api/v1/organisations/acme")

    assert refused.status == 409
    assert "trail" in refused.json["message"]


# --- Speed --------------------------------------------------------------------


@pytest.mark.parametrize("path", [TRAILS, TRAILS_V2])
def test_a_list_is_one_query_whatever_its_length(lite, factstore, flow, body, path):
    values = {"git_commit_sha": "4f2a", "git_branch": "main", "git_author": "Ann"}
    factstore.get(path)
    requests = []

    def count():
        lite.workspace.reader.connection().set_trace_callback(requests.append)
        listed = factstore.get(path)
        lite.workspace.reader.connection().set_trace_callback(None)
        queries = [
            request for request in requests if "FROM" in request and not request.startswith("--")
        ]
        requests.clear()
        return len(listed.json), len(queries)

    counts = []
    for number in (1, 50):
        do(
            lite,
            lambda number=number: [
                Trail.create(flow=flow["id"], git_author_email="", **values) for _ in range(number)
            ],
        )
        counts.append(count())

    assert counts == [(1, 1), (51, 1)]
