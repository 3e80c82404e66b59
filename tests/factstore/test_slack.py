"""Slack.

Slack itself is a real server on this machine, and its requests are signed by the tests.
"""

import hashlib
import hmac
import json
import random
import threading
from urllib.parse import urlencode

import pytest
from conftest import Clock
from stored import audit, events, ledger, stored_bytes, tables

from factstore.pipelines import happenings
from factstore.servers import LOOPBACK, neighbour
from factstore.trails import begin_trail
from novantra_lite import (
    FACTSTORE_SCOPES,
    Artifact,
    Attestation,
    AuditEntry,
    Client,
    NovantraLite,
    SlackConfig,
    SlackMessage,
    SlackRequest,
    write_transaction,
)

ONE = "sha256:" + "1" * 64
ACME = "/api/v1/organisations/acme/slack"
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
CONFIG = {"botToken": "xoxb-0123-Secret", "signingSecret": SECRET, "channel": "#releases"}
#: Who decides, by the ids of users in Slack.
APPROVERS = {"UANN": "ann", "UBEA": "bea", "UCYD": "cyd"}
NOBODY = "00000000-0000-4000-8000-000000000000"
NOON = 1_780_315_200
FORM = "application/x-www-form-urlencoded"
NOTICE = {
    "trailId": NOBODY,
    "flowName": "payments",
    "missingAttestationTypes": ["junit"],
    "failedAttestationTypes": ["snyk", "sonar"],
    "trailUrl": "https://register.example/trails/1",
}
ASKED = {
    "approvalId": NOBODY,
    "artifactSha": "sha256:4f2a",
    "targetEnvironment": "production",
    "requiredApprovers": ["ann", "bea"],
}


@pytest.fixture
def acme(factstore):
    return factstore.post(ACME, CONFIG | {"approvers": APPROVERS}).json


def sign(body, at=NOON, secret=SECRET):
    """The headers that Slack would send with a body."""
    digest = hmac.new(secret.encode(), b"v0:%d:%b" % (at, body), hashlib.sha256).hexdigest()
    return {"X-Slack-Signature": f"v0={digest}", "X-Slack-Request-Timestamp": str(at)}


def send(lite, path, form, headers=None, at=NOON, **more):
    """What is answered to a form of Slack; without headers, it is signed as it should be."""
    body = form if isinstance(form, bytes) else urlencode(form).encode()
    headers = sign(body, at) if headers is None else headers
    values = {"Content-Type": FORM} | headers | more
    return lite.client().request("POST", path, body=body, headers=values)


def say(lite, text, user="UANN", at=NOON):
    """The text that a command is answered with."""
    form = {"text": text, "user_id": user, "user_name": "whoever"}
    answer = send(lite, f"{ACME}/commands", form, at=at)
    assert answer.status == 200
    assert answer.json["responseType"] == answer.json["response_type"] == "in_channel"
    return answer.json["text"]


def press(lite, payload):
    """What is answered to a button."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return send(lite, f"{ACME}/actions", {"payload": text})


@pytest.fixture
def ask(lite, factstore):
    """Asks for an approval of a trail, and gives its id."""
    trail = begin_trail(lite, factstore)

    def ask(**body):
        return factstore.post(f"/api/v1/trails/{trail}/approvals", body).json["id"]

    return ask


def read_approval(factstore, key):
    return factstore.get(f"/api/v1/approvals/{key}").json


# Settings


def test_settings_are_stored_and_read_without_their_secrets(lite, factstore):
    stored = factstore.post(ACME, CONFIG)
    read = factstore.get(ACME)

    key = stored.json["id"]
    assert (stored.status, read.status) == (200, 200)
    assert (
        stored.json
        == read.json
        == {
            "id": key,
            "orgSlug": "acme",
            "channel": "#releases",
            "approvers": None,
            "createdAt": "2026-06-01T12:00:00.000000Z",
            "updatedAt": "2026-06-01T12:00:00.000000Z",
        }
    )
    assert audit(lite)[-1][1:3] == ("slack_config.created", key)
    assert ledger(lite)[-1] == ("SLACK_CONFIG_CREATED", key)
    assert events(lite) == []


def test_settings_are_overwritten_and_keep_their_id(lite, factstore, clock, acme):
    clock.advance(60)

    again = factstore.post(ACME, CONFIG | {"channel": "#ops", "botToken": "xoxb-other"})

    later = "2026-06-01T12:01:00.000000Z"
    assert again.status == 200
    assert again.json == acme | {"channel": "#ops", "updatedAt": later}
    with lite.workspace.read():
        (entry,) = AuditEntry.select().where(AuditEntry.action == "slack_config.updated")
        assert entry.detail == '{"before":{"channel":"#releases"}}'
    assert lite.verify() == []


def test_secrets_are_nowhere_in_the_file_in_the_clear(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        lite.client("factstore:admin").post(ACME, CONFIG, headers={"Idempotency-Key": "one"})

        stored = stored_bytes(lite)
        assert SECRET.encode() not in stored
        assert b"xoxb-0123-Secret" not in stored


def test_settings_are_found_by_the_uuid_of_the_organisation_too(factstore):
    made = factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"}).json

    factstore.post(f"/api/v1/organisations/{made['id'].upper()}/slack", CONFIG)

    assert factstore.get(ACME).json["orgSlug"] == "acme"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"botToken": None}, "botToken: Required"),
        ({"botToken": ""}, "botToken: Expected 1 to 255 characters"),
        ({"botToken": "a\r\nX: y"}, "botToken: Expected a token of visible ASCII characters"),
        ({"signingSecret": ""}, "signingSecret: Expected 1 to 255 characters"),
        ({"signingSecret": "x" * 256}, "signingSecret: Expected 1 to 255 characters"),
        ({"channel": " "}, "channel: Expected text that is not blank"),
        ({"channel": {}}, "channel: Expected string"),
    ],
)
def test_settings_that_cannot_be_are_refused(lite, factstore, change, message):
    before = tables(lite)

    refused = factstore.post(ACME, CONFIG | change)

    assert (refused.status, refused.json["message"]) == (400, message)
    assert tables(lite) == before


def test_settings_are_for_administrators_and_messages_for_writers(lite, acme):
    client = lite.client("factstore:read", "factstore:write")

    statuses = [
        client.get(ACME).status,
        client.post(ACME, CONFIG).status,
        client.delete(ACME).status,
        client.post(f"{ACME}/notify/approval-requested", ASKED).status,
        lite.client("factstore:admin").post(f"{ACME}/notify/approval-requested", ASKED).status,
    ]

    assert statuses == [403, 403, 403, 202, 403]


def test_settings_that_are_forgotten_take_along_what_waits(lite, factstore, acme):
    factstore.post(f"{ACME}/notify/approval-requested", ASKED)

    deleted = factstore.delete(ACME)

    assert (deleted.status, deleted.body) == (204, b"")
    assert audit(lite)[-1][1:3] == ("slack_config.deleted", acme["id"])
    assert tables(lite)["slack_message"] == []
    assert factstore.get(ACME).status == factstore.delete(ACME).status == 404
    assert lite.step() == 0


def test_an_organisation_takes_its_settings_along(lite, factstore, acme):
    factstore.post("/api/v1/organisations", {"slug": "acme", "name": "Acme"})
    factstore.post(f"{ACME}/notify/approval-requested", ASKED)

    deleted = factstore.delete("/api/v1/organisations/acme")

    assert deleted.status == 204
    assert tables(lite)["slack_message"] == tables(lite)["slack_config"] == []


def test_a_dry_run_of_settings_tells_and_stores_nothing(lite, factstore):
    before = tables(lite)

    response = factstore.post(ACME, CONFIG, dryRun="true")

    assert (response.status, response.json["result"]["orgSlug"]) == (200, "acme")
    assert tables(lite) == before


# Signatures


def test_a_command_is_answered_whatever_the_case_of_its_signature(lite, acme):
    body = urlencode({"text": "help"}).encode()
    headers = {name: value.upper() for name, value in sign(body).items()}

    answer = send(lite, f"{ACME}/commands", body, headers)

    assert answer.status == 200
    assert answer.json["text"].startswith("Commands:")


@pytest.mark.parametrize("path", ["commands", "actions"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: {},
        lambda body: sign(body) | {"X-Slack-Signature": ""},
        lambda body: sign(body) | {"X-Slack-Signature": " "},
        lambda body: sign(body) | {"X-Slack-Signature": "v0="},
        lambda body: sign(body) | {"X-Slack-Signature": "é"},
        lambda body: sign(body) | {"X-Slack-Request-Timestamp": ""},
        lambda body: sign(body) | {"X-Slack-Request-Timestamp": "noon"},
        lambda body: sign(body) | {"X-Slack-Request-Timestamp": f"{NOON}.0"},
        lambda body: sign(body) | {"X-Slack-Request-Timestamp": str(NOON + 1)},
        lambda body: sign(body, NOON - 301),
        lambda body: sign(body, NOON + 301),
        lambda body: sign(body + b" "),
        lambda body: sign(body, secret="another"),
    ],
)
def test_what_slack_did_not_sign_just_now_is_refused(lite, acme, ask, path, spoil):
    key = ask()
    action = {"actions": [{"action_id": "approve_release", "value": key}]}
    body = urlencode({"text": f"approve {key}", "payload": json.dumps(action)}).encode()

    refused = send(lite, f"{ACME}/{path}", body, spoil(body))

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert refused.json["message"] == "The signature is missing or does not verify."
    assert read_approval(lite.client("factstore:read"), key)["status"] == "PENDING_APPROVAL"


@pytest.mark.parametrize("off", [-300, 300])
def test_a_request_may_be_off_by_five_minutes(lite, acme, off):
    assert say(lite, "help", at=NOON + off).startswith("Commands:")


@pytest.mark.parametrize("path", ["commands", "actions"])
def test_without_settings_nothing_is_there_however_it_is_signed(lite, path):
    answers = [
        send(lite, f"{ACME}/{path}", {"text": "help"}),
        send(lite, f"{ACME}/{path}", {"text": "help"}, headers={}),
    ]

    assert [answer.status for answer in answers] == [404, 404]


def test_the_signature_is_checked_before_the_form_is_read(lite, acme):
    unsigned = send(lite, f"{ACME}/commands", b"%ff=%", headers={})
    signed = send(lite, f"{ACME}/commands", b"%ff=%")
    other = send(lite, f"{ACME}/commands", b"{}", **{"Content-Type": "application/json"})

    assert unsigned.json["message"] == "The signature is missing or does not verify."
    assert (signed.status, signed.json["message"]) == (400, "The body is not form encoded.")
    assert other.status == 415


def test_of_several_workspaces_the_one_acts_whose_secret_verifies(tmp_path):
    with NovantraLite(workspaces=tmp_path, clock=Clock(NOON)) as lite:
        for slug, secret in (("north", "secret-north"), ("south", SECRET)):
            values = {"org_slug": "acme", "bot_token": "x", "signing_secret": secret}
            write_transaction(
                lite.create_workspace(slug),
                lambda current, values=values: SlackConfig.create(channel="c", **values),
                actor="test",
            )

        answer = send(lite, f"{ACME}/commands", {"text": "help"})
        refused = send(lite, f"{ACME}/commands", {"text": "help"}, headers={})

        assert (answer.status, refused.status) == (200, 400)
        counts = {}
        for slug, workspace in lite.workspaces.items():
            with workspace.read():
                counts[slug] = SlackRequest.select().count()
        assert counts == {"north": 0, "south": 1}


def test_a_request_acts_once_however_often_it_comes(lite, factstore, clock, acme, ask):
    key = ask(requiredApprovers=["ann", "bea"])
    form = {"text": f"approve {key}", "user_id": "UANN", "user_name": "bea"}

    first = send(lite, f"{ACME}/commands", form)
    before = tables(lite)
    clock.advance(300)
    second = send(lite, f"{ACME}/commands", form)
    third = send(lite, f"{ACME}/commands", form, sign(urlencode(form).encode()))

    assert first.json["text"].startswith("⏳ ann approves")
    assert (second.status, second.json["text"]) == (200, "This was answered before.")
    assert third.json["text"] == "This was answered before."
    assert len(read_approval(factstore, key)["decisions"]) == 1
    assert tables(lite) == before


def test_two_of_the_same_request_at_once_act_once(lite, factstore, acme, ask):
    key = ask(requiredApprovers=["ann", "bea"])
    form = {"text": f"approve {key}", "user_id": "UANN", "user_name": "bea"}
    texts = []
    threads = [
        threading.Thread(
            target=lambda: texts.append(send(lite, f"{ACME}/commands", form).json["text"])
        )
        for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(texts)[:3] == ["This was answered before."] * 3
    assert len(read_approval(factstore, key)["decisions"]) == 1


def test_signatures_are_forgotten_when_they_are_too_old_to_be_used(lite, clock, acme):
    say(lite, "help")
    clock.advance(301)

    say(lite, "help", at=NOON + 301)

    assert len(tables(lite)["slack_request"]) == 1


def test_a_dry_run_of_a_command_acts_on_nothing(lite, factstore, acme, ask):
    key = ask()
    before = tables(lite)
    form = {"text": f"approve {key}", "user_id": "UANN", "user_name": "bea"}

    response = send(lite, f"{ACME}/commands", form, **{"X-Dry-Run": "true"})

    assert response.json["result"]["text"] == f"✅ Approval {key} is granted by ann."
    assert tables(lite) == before


# Commands


@pytest.mark.parametrize(
    "text", ["", "  ", "help", "HELP me", "search", "trail", "env", "approve", "Reject", "trail 7"]
)
def test_whoever_asks_for_help_or_half_a_command_is_told_all(lite, acme, text):
    response = say(lite, text)

    assert response.splitlines()[0] == "Commands:"
    assert "`approve ID [comment]`" in response


def test_an_unknown_command_is_echoed_with_what_slack_would_act_on_escaped(lite, acme):
    response = say(lite, "deploy <!channel> & more")

    assert response == "There is no command `deploy &lt;!channel&gt; &amp; more`; " + (
        "`help` lists them."
    )


def test_artifacts_are_found_by_the_beginning_of_their_digest(lite, factstore, acme):
    trail = begin_trail(lite, factstore)

    def work(current):
        for number in range(12):
            digest = f"sha256:4f{number:02}{0:060}"
            Artifact.create(trail=trail, image_name="app", image_tag="1", sha256_digest=digest)
        Artifact.create(trail=trail, image_name="db", image_tag="2", sha256_digest="50" * 32)

    write_transaction(lite.workspace, work, actor="test")

    assert say(lite, "search sha256:4f").splitlines() == [
        *[f"app:1 sha256:4f{number:02}{0:060}" for number in range(10)],
        "… and more: a longer prefix finds fewer.",
    ]
    assert say(lite, "SEARCH sha256:50") == f"db:2 {'50' * 32}"
    assert say(lite, "search SHA256:4F0").count("\n") == 9
    assert say(lite, "search sha256:4e") == (
        "There is no artifact whose digest starts with sha256:4e."
    )
    assert say(lite, "search %") == "There is no artifact whose digest starts with %."


def test_a_trail_is_shown_with_its_attestations(lite, factstore, acme):
    trail = begin_trail(lite, factstore)
    bare = say(lite, f"trail {trail}")

    def work(current):
        for record_type, status in (("junit", "PASSED"), ("snyk", "FAILED"), ("sonar", "PENDING")):
            Attestation.create(trail=trail, type=record_type, status=status)

    write_transaction(lite.workspace, work, actor="test")

    lines = [
        f"Trail {trail}",
        "Flow: payments",
        "Commit: c0ffee",
        "Branch: main",
        "Author: Ada",
        "Status: PENDING",
    ]
    assert bare.splitlines() == [*lines, "There are no attestations."]
    assert say(lite, f"Trail {trail.upper()} now").splitlines() == [
        *lines,
        "✅ junit",
        "❌ snyk",
        "⏳ sonar",
    ]
    assert say(lite, f"trail {NOBODY}") == f"There is no trail {NOBODY}."


def test_a_trail_with_many_attestations_is_cut(lite, factstore, acme):
    trail = begin_trail(lite, factstore)

    def work(current):
        for number in range(51):
            Attestation.create(trail=trail, type=f"t{number}", status="PASSED")

    write_transaction(lite.workspace, work, actor="test")

    lines = say(lite, f"trail {trail}").splitlines()

    assert lines[-2:] == ["✅ t49", "… and more attestations."]


def test_an_environment_is_shown_as_it_stands(lite, factstore, acme):
    key = factstore.post("/api/v1/environments", {"name": "line 1", "type": "K8S"}).json["id"]
    path = f"/api/v1/environments/{key}"
    empty = say(lite, "env line 1")
    artifact = {"artifactSha256": ONE, "artifactName": "app", "artifactTag": "1"}
    factstore.post(f"{path}/snapshots", {"recordedBy": "ci", "artifacts": [artifact]})
    undisputed = say(lite, "ENV  line 1 ")
    factstore.post(f"{path}/baselines", {"approvedBy": "ann"})
    steady = say(lite, "env line 1", user="bea")
    factstore.post(f"{path}/snapshots", {"recordedBy": "ci", "artifacts": []})

    drifted = say(lite, "env line 1", user="cyd")

    first = ["Environment line 1 (K8S)", "Compliance: UNKNOWN"]
    assert empty.splitlines() == [*first, "There is no snapshot of it yet."]
    snapshot = "Snapshot: 1 of 2026-06-01T12:00:00.000000Z"
    assert undisputed.splitlines() == [*first, snapshot, "Artifacts: 1"]
    assert steady.splitlines()[2:] == [snapshot, "Artifacts: 1", "It did not drift."]
    assert drifted.splitlines()[2:] == [
        "Snapshot: 2 of 2026-06-01T12:00:00.000000Z",
        "Artifacts: 0",
        "It drifted from its baseline.",
    ]
    assert say(lite, "env nowhere") == "There is no environment 'nowhere'."


# Decisions


def test_an_approval_in_slack_is_a_decision_like_any_other(lite, factstore, acme, ask):
    key = ask()

    response = say(lite, f"Approve {key.upper()} Fine  by me & all")

    approval = read_approval(factstore, key)
    (decision,) = approval["decisions"]
    assert response.splitlines() == [
        f"✅ Approval {key} is granted by ann.",
        "Comment: Fine by me &amp; all",
    ]
    assert approval["status"] == "APPROVED"
    assert (decision["approverIdentity"], decision["comments"]) == ("ann", "Fine  by me & all")
    assert events(lite)[-1] == ("factstore.approval.granted", {"approval": approval})
    assert happenings(lite)[-1][:3] == ("APPROVAL_GRANTED", "ann", {"approvalId": key})
    assert audit(lite)[-1][:3] == ("slack:UANN", "approval.updated", key)
    assert lite.verify() == []


def test_a_rejection_in_slack_ends_the_approval(lite, factstore, acme, ask):
    key = ask()

    response = say(lite, f"reject {key}")

    approval = read_approval(factstore, key)
    assert response == f"❌ Approval {key} is rejected by ann."
    assert (approval["status"], approval["decisions"][0]["comments"]) == ("REJECTED", None)
    assert events(lite)[-1] == ("factstore.approval.rejected", {"approval": approval})
    assert happenings(lite)[-1][:2] == ("APPROVAL_REJECTED", "ann")


def test_an_approval_that_needs_others_too_says_whom(lite, factstore, acme, ask):
    key = ask(requiredApprovers=["ann", "bea"])

    response = say(lite, f"approve {key}")

    assert response == f"⏳ ann approves {key}, which still waits for bea."
    assert read_approval(factstore, key)["status"] == "PENDING_APPROVAL"


def test_an_approver_may_be_named_as_slack_knows_them(lite, factstore, acme, ask):
    key = ask(requiredApprovers=["ann"])

    response = say(lite, f"approve {key}")

    assert response == f"✅ Approval {key} is granted by ann."
    (decision,) = read_approval(factstore, key)["decisions"]
    assert decision["approverIdentity"] == "ann"
    assert audit(lite)[-1][:3] == ("slack:UANN", "approval.updated", key)


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_who_is_no_approver_is_told_so_and_changes_nothing(lite, factstore, acme, ask, verb):
    key = ask(requiredApprovers=["cora", "bea"])
    before = read_approval(factstore, key)

    response = say(lite, f"{verb} {key}")

    assert response == f"Approval {key} is for cora, bea to decide; here you are ann."
    assert read_approval(factstore, key) == before


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_what_cannot_be_decided_any_more_is_told_as_text(lite, factstore, clock, acme, ask, verb):
    decided = ask()
    factstore.post(f"/api/v1/approvals/{decided}/reject", {"approverIdentity": "zed"})
    expired = ask(deadline="2026-06-01T12:00:01Z")
    clock.advance(2)

    texts = [say(lite, f"{verb} {key}") for key in (decided, expired, NOBODY, "7<8")]

    assert texts == [
        f"Approval {decided} is REJECTED and cannot be decided any more.",
        f"Approval {expired} is EXPIRED and cannot be decided any more.",
        f"There is no approval {NOBODY}.",
        "There is no approval 7&lt;8.",
    ]
    assert audit(lite)[-1][1] == "approval.requested"


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ({"user_name": "ann"}, "Your Slack user without an id is mapped"),
        ({"user_name": "ann", "user_id": "UEVE"}, "Your Slack user UEVE is mapped"),
        ({"user_name": "UANN", "user_id": "ann"}, "Your Slack user ann is mapped"),
        ({"user_id": "uann"}, "Your Slack user uann is mapped"),
        ({}, "Your Slack user without an id is mapped"),
    ],
)
@pytest.mark.parametrize("approvers", [[], ["ann"]])
def test_a_name_that_people_choose_in_slack_decides_nothing(
    lite, factstore, acme, ask, form, named, approvers
):
    key = ask(requiredApprovers=approvers)

    answer = send(lite, f"{ACME}/commands", {"text": f"approve {key}"} | form)

    approval = read_approval(factstore, key)
    assert answer.json["text"].startswith(f"{named} to no approver; an administrator names it")
    assert (approval["status"], approval["decisions"]) == ("PENDING_APPROVAL", [])


def test_nobody_decides_in_slack_before_somebody_is_named(lite, factstore, ask):
    factstore.post(ACME, CONFIG)
    key = ask()

    response = say(lite, f"approve {key}")

    assert response.startswith("Your Slack user UANN is mapped to no approver")
    assert read_approval(factstore, key)["status"] == "PENDING_APPROVAL"


def test_a_request_of_a_user_is_not_decided_by_the_same_person_in_slack(clock):
    with NovantraLite(clock=clock, random=random.Random(7)) as lite:
        factstore = lite.client(*FACTSTORE_SCOPES)
        ann = factstore.post("/api/v1/users", {"email": "ann@acme.example", "name": "Ann"}).json
        owner = {"ownerId": ann["id"], "ownerType": "USER", "label": "hers"}
        key = factstore.post("/api/v1/api-keys", owner).json["plainTextKey"]
        own = Client(lite, {"X-Api-Key": key})
        approvers = {"UANN": "ann@acme.example", "UBEA": "bea"}
        factstore.post(ACME, CONFIG | {"approvers": approvers})
        trail = begin_trail(lite, factstore)
        key = own.post(f"/api/v1/trails/{trail}/approvals").json["id"]

        refused, granted = say(lite, f"approve {key}"), say(lite, f"approve {key}", "UBEA")

        assert refused.startswith(
            f"Approval {key} was requested with credentials of the same owner"
        )
        assert granted == f"✅ Approval {key} is granted by bea."
        (decision,) = read_approval(factstore, key)["decisions"]
        assert (decision["approverIdentity"], decision["decidedBy"]) == ("bea", "slack:UBEA")


@pytest.mark.parametrize(
    ("button", "status"), [("approve_release", "APPROVED"), ("reject_release", "REJECTED")]
)
def test_a_button_decides(lite, factstore, acme, ask, button, status):
    key = ask()
    actions = [{"action_id": button, "value": key}, {"action_id": "other", "value": key}]

    answer = press(lite, {"actions": actions, "user": {"id": "UBEA", "username": "cyd"}})
    again = press(lite, {"actions": actions, "user": {"id": "UCYD"}})

    approval = read_approval(factstore, key)
    assert answer.status == again.status == 200
    assert "bea" in answer.json["text"]
    assert again.json["text"] == f"Approval {key} is {status} and cannot be decided any more."
    assert approval["status"] == status
    assert [decision["approverIdentity"] for decision in approval["decisions"]] == ["bea"]


@pytest.mark.parametrize(
    "payload",
    [
        "nonsense",
        "[1]",
        '"\\ud800"',
        {},
        {"actions": []},
        {"actions": {"action_id": "approve_release"}},
        {"actions": ["approve_release"]},
        {"actions": [{"action_id": "other", "value": NOBODY}]},
        {"actions": [{"action_id": ["approve_release"], "value": NOBODY}]},
        {"actions": [{"action_id": "approve_release", "value": 7}]},
        {"actions": [{"action_id": "approve_release"}]},
    ],
)
def test_a_button_that_says_nothing_of_use_is_answered_all_the_same(lite, acme, payload):
    answer = press(lite, payload)

    assert (answer.status, answer.json["text"]) == (200, "This button does nothing here.")


def test_a_repeated_button_is_answered_once(lite, acme):
    first, second = (press(lite, {}) for _ in range(2))

    assert first.json["text"] == "This button does nothing here."
    assert second.json["text"] == "This was answered before."


def test_a_button_without_a_payload_is_refused_in_slacks_own_way(lite, acme):
    refused = send(lite, f"{ACME}/actions", {"other": "1"})

    assert refused.status == 400
    assert refused.json["text"] == "The form has no payload."


@pytest.mark.parametrize("user", ["x", {}, {"id": 7}, {"username": "ann"}, None])
def test_a_button_of_somebody_without_an_id_decides_nothing(lite, factstore, acme, ask, user):
    key = ask()

    press(lite, {"actions": [{"action_id": "approve_release", "value": key}], "user": user})

    assert read_approval(factstore, key)["decisions"] == []


# Messages


TAKEN = (200, {"ok": True})


@pytest.fixture
def slack():
    """Slack's Web API, which takes everything unless a test says otherwise."""
    with neighbour(lambda request: TAKEN) as server:
        yield server


@pytest.fixture
def connected(clock, slack):
    """An instance whose Slack is the one on this machine, with the settings of an organisation."""
    options = {"slack_url": f"{slack.url}/api/", "webhook_private_targets": LOOPBACK}
    with NovantraLite(clock=clock, random=random.Random(7), **options) as lite:
        lite.client("factstore:admin").post(ACME, CONFIG)
        yield lite


def notify(lite, kind="approval-requested", body=ASKED, **options):
    return lite.client("factstore:write").post(f"{ACME}/notify/{kind}", body, **options)


def message(lite):
    """State, attempts, status and note of the only message."""
    with lite.workspace.read():
        (record,) = SlackMessage.select()
        return record.state, record.attempts, record.status_code, record.note


def test_a_trail_that_is_not_compliant_is_told_to_the_channel(connected, slack):
    answer = notify(connected, "trail-non-compliant", NOTICE)

    assert (answer.status, answer.body) == (202, b"")
    assert connected.step() == 1
    (query,) = slack.asked
    assert (query.method, query.path) == ("POST", "/api/chat.postMessage")
    assert query.headers["Authorization"] == "Bearer xoxb-0123-Secret"
    assert query.headers["Content-Type"] == "application/json; charset=utf-8"
    assert query.json == {
        "channel": "#releases",
        "text": f"🚨 Trail {NOBODY} is not compliant.\nFlow: payments\nMissing: junit\n"
        "Failed: snyk, sonar\nDetails: https://register.example/trails/1",
    }
    assert message(connected) == ("done", 1, 200, "Answered with status 200.")
    assert audit(connected)[-1][1] == "slack_message.posted"


def test_lines_with_nothing_to_tell_are_left_out(connected, slack):
    empty = {"missingAttestationTypes": [], "failedAttestationTypes": [], "trailUrl": None}

    notify(connected, "trail-non-compliant", NOTICE | empty)

    connected.step()
    assert slack.asked[0].json["text"] == f"🚨 Trail {NOBODY} is not compliant.\nFlow: payments"


def test_an_approval_that_is_asked_for_is_told_to_the_channel(connected, slack):
    answer = notify(connected, body=ASKED | {"targetEnvironment": "<!here> & there"})

    assert answer.status == 202
    connected.step()
    assert slack.asked[0].json["text"].splitlines() == [
        f"🔔 Approval {NOBODY} is requested.",
        "Artifact: sha256:4f2a",
        "Environment: &lt;!here&gt; &amp; there",
        "Approvers: ann, bea",
        f"Decide with `approve {NOBODY}` or `reject {NOBODY}`, and a comment if you like.",
    ]


def test_long_lists_are_cut_so_that_slack_takes_the_message(connected, slack):
    names = [f"type-{number}-{'x' * 200}" for number in range(1000)]

    notify(connected, "trail-non-compliant", NOTICE | {"missingAttestationTypes": names})

    connected.step()
    assert len(slack.asked[0].json["text"]) < 10_000


def test_a_message_is_sent_until_slack_takes_it(connected, slack, clock):
    answers = [(503, {}), (200, b"no JSON"), (200, {"ok": False, "error": "fatal_error"}), TAKEN]
    slack.answer = lambda request: answers.pop(0)
    notify(connected)

    outcomes = []
    for wait in (0, 7, 400, 2200):
        clock.advance(wait)
        connected.step()
        outcomes.append(message(connected))

    assert outcomes == [
        ("due", 1, 503, "Answered with status 503."),
        ("due", 2, 200, "Answered with status 200."),
        ("due", 3, 200, "Slack refused the message: fatal_error."),
        ("done", 4, 200, "Answered with status 200."),
    ]
    assert len({json.dumps(request.json) for request in slack.asked}) == 1


def test_slack_may_ask_for_patience_with_a_good_status(connected, slack, clock):
    limited = (200, {"ok": False, "error": "ratelimited"}, ("Retry-After", "10"))
    answers = [limited, TAKEN]
    slack.answer = lambda request: answers.pop(0)
    notify(connected)
    connected.step()

    clock.advance(9.9)
    early = connected.step()
    clock.advance(0.2)

    assert (early, connected.step()) == (0, 1)
    assert message(connected)[:2] == ("done", 2)


@pytest.mark.parametrize("error", ["invalid_auth", "channel_not_found", "token_revoked"])
def test_what_slack_refuses_for_good_is_not_sent_again(connected, slack, clock, error):
    slack.answer = lambda request: (200, {"ok": False, "error": error})
    notify(connected)
    connected.step()

    clock.advance(100_000)
    connected.step()

    assert message(connected) == ("failed", 1, 200, f"Slack refused the message: {error}.")
    assert len(slack.asked) == 1


@pytest.mark.parametrize(
    "result", [{"ok": "yes"}, [], {"ok": False}, {"ok": False, "error": "A b"}]
)
def test_an_answer_that_says_nothing_is_no_refusal(connected, slack, result):
    slack.answer = lambda request: (200, result)
    notify(connected)

    connected.step()

    assert message(connected) == ("due", 1, 200, "Answered with status 200.")


def test_slack_in_a_private_network_is_not_reached_unless_that_is_permitted(clock, slack):
    with NovantraLite(clock=clock, slack_url=slack.url) as lite:
        lite.client("factstore:admin").post(ACME, CONFIG)
        notify(lite)

        lite.step()

        assert slack.asked == []
        assert "not public" in message(lite)[3]


def test_a_message_without_settings_or_with_faults_is_refused(factstore, acme):
    other = "/api/v1/organisations/other/slack/notify"

    statuses = [
        factstore.post(f"{other}/approval-requested", ASKED).status,
        factstore.post(f"{other}/trail-non-compliant", NOTICE).status,
        factstore.post(f"{ACME}/notify/trail-non-compliant", NOTICE | {"trailId": "7"}).status,
        factstore.post(f"{ACME}/notify/approval-requested", {}).status,
    ]

    assert statuses == [404, 404, 400, 400]


def test_a_message_is_sent_once_for_each_idempotency_key_and_never_by_a_dry_run(connected, slack):
    headers = {"Idempotency-Key": "one"}

    statuses = [notify(connected, headers=headers).status for _ in range(2)]
    dry = notify(connected, dryRun="true")

    assert statuses == [202, 202]
    assert dry.json == {"dryRun": True, "result": None}
    assert connected.step() == 1
    assert len(slack.asked) == 1
