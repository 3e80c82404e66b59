"""Approvals and the decisions on them."""

import pytest
from stored import audit, events, ledger, tables

from novantra_lite import Attestation, Client, NovantraLite, write_transaction

FLOWS, TRAILS, APPROVALS = "/api/v1/flows", "/api/v1/trails", "/api/v1/approvals"
NOON = "2026-06-01T12:00:00.000000Z"
LATER = "2026-06-01T12:01:00.000000Z"
NOBODY = "00000000-0000-4000-8000-000000000000"
ANN, BEA = {"approverIdentity": "ann"}, {"approverIdentity": "bea"}


@pytest.fixture
def flow(factstore):
    return factstore.post(
        FLOWS, {"name": "payments", "requiresApproval": True, "requiredAttestationTypes": ["junit"]}
    ).json


@pytest.fixture
def trail(factstore, flow):
    return factstore.post(
        TRAILS,
        {
            "flowId": flow["id"],
            "gitCommitSha": "4f2a",
            "gitBranch": "main",
            "gitAuthor": "Ann",
            "gitAuthorEmail": "ann@example.org",
        },
    ).json


@pytest.fixture
def ask(factstore, trail):
    """Asks for an approval of the trail."""
    return lambda **body: factstore.post(f"{TRAILS}/{trail['id']}/approvals", body).json


def decide(factstore, approval, verb, **body):
    return factstore.post(
        f"{APPROVALS}/{approval['id']}/{verb}", {"approverIdentity": "ann"} | body
    )


def test_an_approval_is_asked_for_with_nothing_but_the_path(lite, factstore, flow, trail):
    response = factstore.post(f"{TRAILS}/{trail['id']}/approvals")

    key = response.json["id"]
    assert response.status == 200
    assert response.json == {
        "id": key,
        "trailId": trail["id"],
        "flowId": flow["id"],
        "status": "PENDING_APPROVAL",
        "requiredApprovers": [],
        "comments": None,
        "requestedAt": NOON,
        "deadline": None,
        "resolvedAt": None,
        "requestedBy": response.json["requestedBy"],
        "decisions": [],
    }
    assert response.json["requestedBy"].startswith("svc_")
    assert factstore.get(f"{APPROVALS}/{key}").json == response.json
    assert audit(lite)[-1][1:3] == ("approval.requested", key)
    assert ledger(lite)[-1] == ("APPROVAL_REQUESTED", key)
    assert events(lite)[-1] == ("factstore.approval.requested", {"approval": response.json})
    assert factstore.get(f"{TRAILS}/{trail['id']}/audit").json == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"trailId": NOBODY, "requestedBy": "x"}, {}),
        ({"trailId": None, "requiredApprovers": None}, {"requiredApprovers": []}),
        ({"requiredApprovers": [" a, b", "", 5]}, {"requiredApprovers": ["a", "b", "5"]}),
        ({"comments": "Ship it."}, {"comments": "Ship it."}),
        (
            {"deadline": "2026-06-01T14:30:00+02:00"},
            {"deadline": "2026-06-01T12:30:00.000000Z", "status": "PENDING_APPROVAL"},
        ),
    ],
)
def test_a_request_is_taken_as_clients_send_it(factstore, trail, ask, given, kept):
    response = ask(**given)

    assert response.items() >= ({"trailId": trail["id"]} | kept).items()


@pytest.mark.parametrize(
    ("key", "body", "status"),
    [
        (NOBODY, {}, 404),
        ("nonsense", {}, 400),
        (None, {"trailId": "nonsense"}, 400),
        (None, {"requiredApprovers": "ann"}, 400),
        (None, {"requiredApprovers": [{}]}, 400),
        (None, {"deadline": "tomorrow"}, 400),
        (None, {"comments": ["x"]}, 400),
        (None, [], 400),
    ],
)
def test_a_request_that_cannot_be_is_refused(lite, factstore, trail, key, body, status):
    before = tables(lite)

    refused = factstore.post(f"{TRAILS}/{key or trail['id']}/approvals", body)

    assert refused.status == status
    assert tables(lite) == before


def test_one_decision_approves_where_nobody_is_required(lite, factstore, clock, trail, ask):
    approval = ask()
    clock.advance(60)

    approved = decide(factstore, approval, "approve", comments="Fine.")

    decision = approved.json["decisions"][0]
    assert approved.status == 200
    assert decision == {
        "id": decision["id"],
        "approvalId": approval["id"],
        "approverIdentity": "ann",
        "decision": "APPROVED",
        "comments": "Fine.",
        "decidedAt": LATER,
        "decidedBy": approval["requestedBy"],
    }
    assert approved.json == approval | {
        "status": "APPROVED",
        "resolvedAt": LATER,
        "decisions": [decision],
    }
    assert factstore.get(f"{APPROVALS}/{approval['id']}").json == approved.json
    assert events(lite)[-1] == ("factstore.approval.granted", {"approval": approved.json})
    assert [entry[1] for entry in audit(lite)][-3:] == [
        "approval_decision.recorded",
        "factstore.event.recorded",
        "approval.updated",
    ]
    happened = factstore.get(f"{TRAILS}/{trail['id']}/audit").json
    assert [(event["eventType"], event["actor"], event["payload"]) for event in happened] == [
        ("APPROVAL_GRANTED", "ann", f'{{"approvalId":"{approval["id"]}"}}')
    ]
    assert lite.verify() == []


def test_everybody_who_is_required_must_approve_by_exact_name(lite, factstore, trail, ask):
    approval = ask(requiredApprovers=["ann", "bea"])

    states = [
        decide(factstore, approval, "approve", approverIdentity=identity).json["status"]
        for identity in ("ann", "ann", "Bea", "somebody", "bea")
    ]

    assert states == ["PENDING_APPROVAL"] * 4 + ["APPROVED"]
    read = factstore.get(f"{APPROVALS}/{approval['id']}").json
    heard = ["ann", "ann", "Bea", "somebody", "bea"]
    assert [decision["approverIdentity"] for decision in read["decisions"]] == heard
    happened = factstore.get(f"{TRAILS}/{trail['id']}/audit").json
    assert [(event["eventType"], event["actor"]) for event in happened] == [
        ("APPROVAL_GRANTED", identity) for identity in reversed(heard)
    ]
    assert [name for name, _ in events(lite)] == [
        "factstore.approval.requested",
        "factstore.approval.granted",
    ]


def test_one_rejection_ends_it(lite, factstore, clock, trail, ask):
    approval = ask(requiredApprovers=["ann"])
    clock.advance(60)

    rejected = decide(factstore, approval, "reject", approverIdentity="zed", comments="No.")

    assert rejected.status == 200
    assert rejected.json["status"] == "REJECTED"
    assert rejected.json["resolvedAt"] == LATER
    assert [decision["decision"] for decision in rejected.json["decisions"]] == ["REJECTED"]
    assert events(lite)[-1] == ("factstore.approval.rejected", {"approval": rejected.json})
    happened = factstore.get(f"{TRAILS}/{trail['id']}/audit").json
    assert [(event["eventType"], event["actor"]) for event in happened] == [
        ("APPROVAL_REJECTED", "zed")
    ]
    assert factstore.get(f"{TRAILS}/{trail['id']}").json == trail


@pytest.mark.parametrize("last", ["approve", "reject"])
@pytest.mark.parametrize(("first", "state"), [("approve", "APPROVED"), ("reject", "REJECTED")])
def test_what_is_decided_stays_decided(lite, factstore, ask, first, state, last):
    approval = ask()
    decide(factstore, approval, first)
    before = tables(lite)

    refused = decide(factstore, approval, last, approverIdentity="bea")

    assert (refused.status, refused.json["error"]) == (409, "Conflict")
    assert approval["id"] in refused.json["message"]
    assert state in refused.json["message"]
    assert tables(lite) == before


@pytest.mark.parametrize("verb", ["approve", "reject"])
@pytest.mark.parametrize(
    ("key", "body", "status"),
    [
        (NOBODY, ANN, 404),
        ("nonsense", ANN, 400),
        (None, {}, 400),
        (None, {"approverIdentity": None}, 400),
        (None, {"approverIdentity": ["ann"]}, 400),
        (None, {"approverIdentity": "x" * 256}, 400),
        (None, ANN | {"comments": {}}, 400),
    ],
)
def test_a_decision_that_cannot_be_is_refused(lite, factstore, ask, verb, key, body, status):
    approval = ask()
    before = tables(lite)

    refused = factstore.post(f"{APPROVALS}/{key or approval['id']}/{verb}", body)

    assert refused.status == status
    assert tables(lite) == before


def test_nobody_decides_after_the_deadline(lite, factstore, clock, ask):
    approval = ask(deadline=LATER)
    clock.advance(60)
    in_time = factstore.get(f"{APPROVALS}/{approval['id']}").json["status"]
    clock.advance(1)
    before = tables(lite)

    refused = [decide(factstore, approval, verb) for verb in ("approve", "reject")]

    read = factstore.get(f"{APPROVALS}/{approval['id']}").json
    assert in_time == "PENDING_APPROVAL"
    assert [response.status for response in refused] == [409, 409]
    assert "EXPIRED" in refused[0].json["message"]
    assert (read["status"], read["resolvedAt"]) == ("EXPIRED", None)
    assert tables(lite) == before


def test_a_decision_in_time_outlives_the_deadline(factstore, clock, ask):
    approval = ask(deadline=LATER)
    decide(factstore, approval, "approve")
    clock.advance(61)

    read = factstore.get(f"{APPROVALS}/{approval['id']}")

    assert read.json["status"] == "APPROVED"


def test_approvals_are_listed_by_their_present_state(factstore, clock, ask):
    made = {
        "APPROVED": ask(),
        "REJECTED": ask(),
        "PENDING_APPROVAL": ask(),
        "EXPIRED": ask(deadline=LATER),
    }
    decide(factstore, made["APPROVED"], "approve")
    decide(factstore, made["REJECTED"], "reject")
    clock.advance(61)

    listed = {state: factstore.get(APPROVALS, status=state).json for state in made}

    every = factstore.get(APPROVALS).json
    assert {state: [record["id"] for record in result] for state, result in listed.items()} == {
        state: [record["id"]] for state, record in made.items()
    }
    assert [record["status"] for record in every] == list(made)
    assert [len(record["decisions"]) for record in every] == [1, 1, 0, 0]
    assert factstore.get(f"{APPROVALS}?status=").json == every


def test_a_state_that_there_is_not_is_refused(factstore):
    refused = factstore.get(APPROVALS, status="approved")

    assert refused.status == 400
    assert "status" in refused.json["message"]


@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("nonsense", 400)])
def test_an_approval_that_is_not_there_is_refused(factstore, key, status):
    refused = factstore.get(f"{APPROVALS}/{key}")

    assert refused.status == status


def test_a_trail_lists_its_approvals(factstore, flow, trail, ask):
    made = [ask(), ask(comments="Again.")]
    body = {name: trail[name] for name in ("gitCommitSha", "gitBranch", "gitAuthor")}
    body |= {"flowId": flow["id"], "gitAuthorEmail": ""}
    other = factstore.post(TRAILS, body).json
    factstore.post(f"{TRAILS}/{other['id']}/approvals", {})

    listed = factstore.get(f"{TRAILS}/{trail['id']}/approvals")
    nobodys = factstore.get(f"{TRAILS}/{NOBODY}/approvals")

    assert (listed.status, listed.json) == (200, made)
    assert (nobodys.status, nobodys.json) == (200, [])


def test_an_approval_completes_what_the_flow_requires(lite, factstore, trail, ask):
    write_transaction(
        lite.workspace,
        lambda current: Attestation.create(trail=trail["id"], type="junit", status="PASSED"),
        actor="test",
    )
    approval = ask(requiredApprovers=["ann", "bea"])
    states = []

    for identity in ("ann", "bea"):
        decide(factstore, approval, "approve", approverIdentity=identity)
        states.append(factstore.get(f"{TRAILS}/{trail['id']}").json["status"])

    assert states == ["PENDING", "COMPLIANT"]
    assert [name for name, _ in events(lite)] == [
        "factstore.approval.requested",
        "factstore.approval.granted",
        "factstore.trail.settled",
    ]
    assert audit(lite)[-1][1:3] == ("trail.updated", trail["id"])


def test_a_dry_run_tells_and_stores_nothing(lite, factstore, trail, ask):
    approval = ask()
    before = tables(lite)

    response = factstore.post(f"{TRAILS}/{trail['id']}/approvals", {"comments": "x"}, dryRun="true")
    approved = factstore.post(f"{APPROVALS}/{approval['id']}/approve", ANN, dryRun="true")
    rejected = factstore.post(f"{APPROVALS}/{approval['id']}/reject", BEA, dryRun="true")

    assert [request.status for request in (response, approved, rejected)] == [200, 200, 200]
    assert response.json["wouldCreate"].items() >= {"comments": "x", "decisions": []}.items()
    assert approved.json["result"]["status"] == "APPROVED"
    assert rejected.json["result"]["status"] == "REJECTED"
    assert tables(lite) == before


# --- Who may decide -----------------------------------------------------------


@pytest.fixture
def strict(clock):
    """An instance whose requesters decide nothing, as any is unless told otherwise."""
    with NovantraLite(clock=clock) as lite:
        yield lite


def own_client(lite, label, scopes=("factstore:read", "factstore:write", "factstore:govern")):
    return Client(lite, {"X-Api-Key": lite.api_keys.create(label, scopes)["apiKey"]})


def ask_with(client, *approvers):
    """Ask for an approval, with these credentials, of a new trail."""
    flow = client.post(FLOWS, {"name": "payments"}).json["id"]
    commit = {"flowId": flow, "gitCommitSha": "4f2a", "gitBranch": "main"}
    commit |= {"gitAuthor": "Ann", "gitAuthorEmail": "ann@example.org"}
    trail = client.post(TRAILS, commit).json["id"]
    required = list(approvers or ["ciso"])
    return client.post(f"{TRAILS}/{trail}/approvals", {"requiredApprovers": required}).json


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_who_asked_does_not_decide_under_whatever_name_and_key(strict, verb):
    first, second = own_client(strict, "ci"), own_client(strict, "ci")
    approval = ask_with(first)

    refused = [decide(key, approval, verb, approverIdentity="ciso") for key in (first, second)]

    after = first.get(f"{APPROVALS}/{approval['id']}").json
    assert [answer.status for answer in refused] == [403, 403]
    assert refused[0].json["message"] == (
        f"Approval {approval['id']} was requested with credentials of the same owner; somebody"
        " else must decide it, or the setting self_approval must be on."
    )
    assert (after["status"], after["decisions"]) == ("PENDING_APPROVAL", [])


def test_somebody_else_decides_and_is_recorded_beside_the_name(strict):
    approval = ask_with(own_client(strict, "ci"))
    desk = own_client(strict, "release desk")

    decided = decide(desk, approval, "approve", approverIdentity="ciso").json

    keys = {key["label"]: key for key in strict.api_keys.list()}
    (decision,) = decided["decisions"]
    (event,) = desk.get(f"{TRAILS}/{approval['trailId']}/audit").json
    assert decided["status"] == "APPROVED"
    assert decided["requestedBy"] == keys["ci"]["ownerId"]
    assert decision["approverIdentity"] == "ciso"
    assert decision["decidedBy"] == keys["release desk"]["ownerId"]
    assert (event["actor"], event["principal"]) == ("ciso", keys["release desk"]["id"])


def test_nobody_is_two_approvers(strict):
    approval = ask_with(own_client(strict, "ci"), "ciso", "cto")
    desk, board = own_client(strict, "release desk"), own_client(strict, "board")

    first = decide(desk, approval, "approve", approverIdentity="ciso")
    again = decide(desk, approval, "approve", approverIdentity="cto")
    second = decide(board, approval, "approve", approverIdentity="cto")

    assert (first.status, first.json["status"]) == (200, "PENDING_APPROVAL")
    assert again.status == 403
    assert "was decided under another name with credentials of the same" in again.json["message"]
    assert (second.status, second.json["status"]) == (200, "APPROVED")


def test_names_of_principals_in_a_body_count_for_nothing(strict):
    ci = own_client(strict, "ci")
    approval = ask_with(ci)

    refused = decide(ci, approval, "approve", decidedBy="somebody", requestedBy="somebody")

    assert refused.status == 403


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_an_approval_without_a_known_requester_is_for_administrators(strict, verb):
    desk = own_client(strict, "release desk")
    boss = own_client(strict, "boss", ("factstore:read", "factstore:admin"))
    trail = ask_with(desk)["trailId"]
    seeded = strict.collection("approvals").create(
        reason="As an older version recorded it.", trailId=trail, requiredApprovers=["ciso"]
    )

    refused = decide(desk, seeded, verb, approverIdentity="ciso")
    decided = decide(boss, seeded, verb, approverIdentity="ciso")

    expected = {"approve": "APPROVED", "reject": "REJECTED"}[verb]
    assert seeded["requestedBy"] is None
    assert (refused.status, "factstore:admin" in refused.json["message"]) == (403, True)
    assert (decided.status, decided.json["status"]) == (200, expected)


@pytest.mark.parametrize("settings", [{"self_approval": True}, {"factstore_auth": "open"}])
def test_who_asked_may_decide_where_that_is_wanted(clock, settings):
    with NovantraLite(clock=clock, **settings) as lite:
        ci = own_client(lite, "ci")
        approval = ask_with(ci)

        decided = decide(ci, approval, "approve", approverIdentity="ciso")

        assert (decided.status, decided.json["status"]) == (200, "APPROVED")
