"""Jira.

Jira is a real server on this machine.
"""

import contextlib
import random
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from kernel.rawfile import until
from processes import call, connect
from stored import audit, events, ledger, stored_bytes, tables

from factstore.jira import TOKEN, USER, running_jira
from factstore.servers import LOOPBACK, neighbour
from factstore.trails import another_trail, begin_trail
from novantra_lite import (
    AuditEntry,
    HttpResponse,
    JiraPosting,
    JiraTicket,
    NovantraLite,
    Trail,
    write_transaction,
)

JIRA = "/api/v1/integrations/jira"
CONFIG, TICKETS = f"{JIRA}/config", f"{JIRA}/tickets"
CONNECTION = {
    "jiraBaseUrl": "https://93.184.216.34/jira",
    "jiraUsername": USER,
    "jiraApiToken": TOKEN,
    "defaultProjectKey": "OPS",
}
SCOPES = ("factstore:read", "factstore:write", "factstore:admin")
NOBODY = "00000000-0000-4000-8000-000000000000"
NOON = "2026-06-01T12:00:00.000000Z"


@pytest.fixture
def jira():
    with running_jira() as jira:
        yield jira


@pytest.fixture
def nowhere():
    """A URL at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def near(clock):
    """An instance that may call servers on this machine."""
    options = {"webhook_private_targets": LOOPBACK, "webhook_timeout": 5.0}
    with NovantraLite(clock=clock, random=random.Random(7), rate_limits=False, **options) as lite:
        yield lite


@pytest.fixture
def client(near):
    return near.client(*SCOPES)


@pytest.fixture
def connected(client, jira):
    """The stored connection to the Jira on this machine."""
    return client.post(CONFIG, CONNECTION | {"jiraBaseUrl": jira.url}).json


@pytest.fixture
def trail(near, client):
    return begin_trail(near, client)


def fail(lite, *trails):
    """Make trails non-compliant."""

    def work(current):
        for key in trails:
            Trail.find(key).change(status="NON_COMPLIANT")

    write_transaction(lite.workspace, work, actor="test")


def ticket_for(trail, **more):
    return {"trailId": trail, "summary": "Sign the artifact"} | more


def states(lite):
    """State, attempts and status of every posting."""
    with lite.workspace.read():
        return [
            (posting.state, posting.attempts, posting.status_code)
            for posting in JiraPosting.select()
        ]


# The connection


def test_the_connection_is_stored_and_read_without_its_token(lite, factstore):
    stored = factstore.post(CONFIG, CONNECTION | {"jiraBaseUrl": "https://93.184.216.34/jira//"})
    read = factstore.get(CONFIG)

    key = stored.json["id"]
    assert (stored.status, read.status) == (200, 200)
    assert (
        stored.json
        == read.json
        == {
            "id": key,
            "jiraBaseUrl": "https://93.184.216.34/jira",
            "jiraUsername": USER,
            "defaultProjectKey": "OPS",
            "createdAt": NOON,
            "updatedAt": NOON,
        }
    )
    assert audit(lite)[-1][1:3] == ("jira_connection.created", key)
    assert ledger(lite)[-1] == ("JIRA_CONNECTION_CREATED", key)
    assert events(lite) == []


def test_there_is_one_connection_and_it_is_overwritten(lite, factstore, clock):
    first = factstore.post(CONFIG, CONNECTION).json
    clock.advance(60)

    second = factstore.post(CONFIG, CONNECTION | {"defaultProjectKey": "QA", "jiraApiToken": "b"})
    same = factstore.post(CONFIG, CONNECTION | {"defaultProjectKey": "QA", "jiraApiToken": "b"})

    later = "2026-06-01T12:01:00.000000Z"
    assert second.json == same.json == first | {"defaultProjectKey": "QA", "updatedAt": later}
    assert factstore.get(CONFIG).json == second.json
    with lite.workspace.read():
        entries = list(AuditEntry.select().where(AuditEntry.action == "jira_connection.updated"))
        assert entries[0].detail == '{"before":{"defaultProjectKey":"OPS"}}'
    assert lite.verify() == []


def test_the_token_is_nowhere_in_the_file_in_the_clear(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        lite.client("factstore:admin").post(CONFIG, CONNECTION, headers={"Idempotency-Key": "a"})

        assert TOKEN.encode() not in stored_bytes(lite)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jiraBaseUrl": None}, "jiraBaseUrl: Required"),
        ({"jiraBaseUrl": "///"}, "jiraBaseUrl: The URL must start with"),
        ({"jiraBaseUrl": "ftp://acme.example"}, "jiraBaseUrl: The URL must start with"),
        ({"jiraBaseUrl": "https://a:b@acme.example"}, "must not contain a user name"),
        ({"jiraBaseUrl": "https://acme.example/?x=1"}, "without query and fragment"),
        ({"jiraBaseUrl": "https://acme.example/#"}, "without query and fragment"),
        ({"jiraBaseUrl": "https://acme.example/" + "x" * 255}, "Expected 1 to 255 characters"),
        ({"jiraBaseUrl": "http://127.0.0.1:8080"}, "has an address that is not public"),
        ({"jiraBaseUrl": "http://169.254.169.254"}, "has an address that is not public"),
        ({"jiraBaseUrl": "http://8.8.8.8"}, "The URL must start with https://."),
        ({"jiraUsername": ""}, "jiraUsername: Expected 1 to 255 characters"),
        ({"jiraUsername": "a:b"}, "jiraUsername: Expected a name without a colon"),
        ({"jiraApiToken": ""}, "jiraApiToken: Expected 1 to 255 characters"),
        ({"defaultProjectKey": " "}, "defaultProjectKey: Expected text that is not blank"),
    ],
)
def test_a_connection_that_cannot_be_is_refused(lite, factstore, change, message):
    before = tables(lite)

    refused = factstore.post(CONFIG, CONNECTION | change)

    assert refused.status == 400
    assert message in refused.json["message"]
    assert tables(lite) == before


def test_the_connection_is_for_administrators(lite, factstore):
    factstore.post(CONFIG, CONNECTION)
    reader, writer = lite.client("factstore:read"), lite.client("factstore:write")

    statuses = [
        [
            record.get(CONFIG).status,
            record.post(CONFIG, CONNECTION).status,
            record.post(f"{JIRA}/test").status,
        ]
        for record in (reader, writer)
    ]

    assert statuses == [[403, 403, 403], [403, 403, 403]]
    assert (reader.get(TICKETS).status, writer.get(TICKETS).status) == (200, 403)
    assert reader.post(f"{JIRA}/sync").status == 403
    assert reader.post(TICKETS, ticket_for(NOBODY)).status == 403


def test_a_dry_run_of_the_connection_stores_nothing(lite, factstore):
    before = tables(lite)

    response = factstore.post(CONFIG, CONNECTION, dryRun="true")

    assert (response.status, response.json["result"]["jiraUsername"]) == (200, USER)
    assert tables(lite) == before


# The test


def test_a_connection_that_works_says_so(client, connected, jira):
    response = client.post(f"{JIRA}/test")

    assert (response.status, response.json) == (
        200,
        {"success": True, "message": f"Jira knows {USER}."},
    )
    assert [request.path for request in jira.server.asked] == ["/rest/api/2/myself"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {}), "Jira refused the user name or the token."),
        ((403, {}), "Jira does not permit this to the user."),
        ((500, {}), "Jira gave no usable response. Answered with status 500."),
        ((200, b"<html>"), "Jira gave a response that cannot be parsed."),
        ((200, b"x" * 70_000), "Jira gave a response that cannot be parsed."),
        (
            (302, b"", ("Location", "/login")),
            "Jira gave no usable response. Answered with status 302; redirects are not followed.",
        ),
    ],
)
def test_a_connection_that_does_not_work_says_why(client, connected, jira, answer, message):
    jira.answers = [answer]

    response = client.post(f"{JIRA}/test")

    assert (response.status, response.json) == (200, {"success": False, "message": message})


def test_a_server_that_is_down_is_a_failed_test_and_no_error(client, nowhere):
    client.post(CONFIG, CONNECTION | {"jiraBaseUrl": nowhere})

    response = client.post(f"{JIRA}/test")

    assert response.status == 200
    assert response.json == {
        "success": False,
        "message": "Jira gave no usable response. The host refused the connection.",
    }


def test_what_is_not_configured_says_so(factstore):
    tested, read = factstore.post(f"{JIRA}/test"), factstore.get(CONFIG)

    assert (tested.status, tested.json) == (
        200,
        {"success": False, "message": "Jira is not configured."},
    )
    assert (read.status, read.json["message"]) == (404, "Jira is not configured.")


# Tickets


def test_a_ticket_is_made_in_jira_and_listed(near, client, connected, jira, trail):
    made = client.post(TICKETS, ticket_for(trail.upper()))
    listed = client.get(TICKETS)

    key = made.json["id"]
    assert made.status == 201
    assert made.json == {
        "id": key,
        "ticketKey": "OPS-1",
        "summary": "Sign the artifact",
        "status": "Open",
        "issueType": "Task",
        "projectKey": "OPS",
        "trailId": trail,
        "createdAt": NOON,
        "problem": None,
    }
    assert listed.json == [made.json]
    assert [request.json for request in jira.server.asked] == [
        {
            "fields": {
                "project": {"key": "OPS"},
                "summary": "Sign the artifact",
                "issuetype": {"name": "Task"},
                "labels": [f"factstore-{key}"],
            }
        }
    ]
    assert [entry[1:3] for entry in audit(near)][-2:] == [
        ("jira_ticket.created", key),
        ("jira_ticket.updated", key),
    ]
    assert near.verify() == []
    assert near.step() == 0


def test_a_long_summary_is_kept_whole_and_sent_as_jira_takes_it(client, connected, jira, trail):
    summary = "Line\none " + "x" * 500

    made = client.post(TICKETS, ticket_for(trail, summary=summary, issueType="Bug"))

    fields = jira.issues["OPS-1"]["fields"]
    assert made.json["summary"] == summary
    assert (fields["summary"], len(fields["summary"])) == (("Line one " + "x" * 500)[:255], 255)
    assert fields["issuetype"] == {"name": "Bug"}


def test_a_ticket_without_connection_or_trail_is_refused(client, jira, trail):
    unconfigured = client.post(TICKETS, ticket_for(trail))
    client.post(CONFIG, CONNECTION | {"jiraBaseUrl": jira.url})
    nowhere = client.post(TICKETS, ticket_for(NOBODY))

    assert (unconfigured.status, unconfigured.json["message"]) == (404, "Jira is not configured.")
    assert (nowhere.status, client.get(TICKETS).json) == (404, [])
    assert jira.server.asked == []


@pytest.mark.parametrize(
    "change",
    [
        {"trailId": None},
        {"trailId": "7"},
        {"summary": None},
        {"summary": " "},
        {"summary": "x" * 513},
        {"issueType": ""},
        {"issueType": {}},
    ],
)
def test_a_ticket_that_cannot_be_is_refused(client, connected, jira, trail, change):
    refused = client.post(TICKETS, ticket_for(trail) | change)

    assert refused.status == 400
    assert jira.server.asked == client.get(TICKETS).json == []


def test_a_dry_run_of_a_ticket_leaves_no_trace_here_or_in_jira(
    near, client, connected, jira, trail
):
    before = tables(near)

    response = client.post(TICKETS, ticket_for(trail), dryRun="true")

    assert response.status == 200
    assert response.json["wouldCreate"]["status"] == "Pending"
    assert tables(near) == before
    assert jira.server.asked == []


def test_a_ticket_is_made_once_for_each_idempotency_key(client, connected, jira, trail):
    headers = {"Idempotency-Key": "one"}

    first, second = (client.post(TICKETS, ticket_for(trail), headers=headers) for _ in range(2))

    assert (first.status, second.status) == (201, 201)
    assert first.json == second.json
    assert len(jira.issues) == 1


def test_while_jira_is_down_a_ticket_waits_until_it_is_up(
    near, client, connected, jira, clock, trail
):
    jira.answers = [(503, {}), (503, {})]
    made = client.post(TICKETS, ticket_for(trail))
    clock.advance(7)
    near.step()
    meanwhile = client.get(TICKETS).json[0]
    clock.advance(400)

    arrived = near.step()

    assert made.status == 201
    assert re.fullmatch("OPS-PENDING-[0-9A-F]{8}", made.json["ticketKey"])
    assert (made.json["status"], made.json["problem"]) == (
        "Pending",
        "Jira gave no usable response. Answered with status 503.",
    )
    assert meanwhile == made.json
    assert arrived == 1
    assert client.get(TICKETS).json == [
        made.json | {"ticketKey": "OPS-1", "status": "Open", "problem": None}
    ]
    assert len(jira.issues) == 1
    assert near.verify() == []


def test_a_server_that_nobody_answers_at_leaves_the_ticket_pending(client, nowhere, trail):
    client.post(CONFIG, CONNECTION | {"jiraBaseUrl": nowhere})

    made = client.post(TICKETS, ticket_for(trail))

    assert (made.status, made.json["status"]) == (201, "Pending")
    assert made.json["problem"] == "Jira gave no usable response. The host refused the connection."


@pytest.mark.parametrize("search", ["/rest/api/2/search", "/rest/api/2/search/jql"])
def test_an_issue_whose_answer_was_lost_is_found_and_not_made_again(
    near, client, connected, jira, clock, trail, search
):
    jira.search, jira.loses_answers = search, True
    made = client.post(TICKETS, ticket_for(trail))
    jira.loses_answers = False
    clock.advance(7)

    arrived = near.step()

    assert made.json["status"] == "Pending"
    assert arrived == 1
    assert client.get(TICKETS).json[0]["ticketKey"] == "OPS-1"
    assert len(jira.asked("POST")) == 1


def test_a_jira_without_a_search_is_sent_the_ticket_again(
    near, client, connected, jira, clock, trail
):
    jira.search = "/nowhere"
    jira.answers = [(500, {})]
    client.post(TICKETS, ticket_for(trail))
    clock.advance(7)

    arrived = near.step()

    assert arrived == 1
    assert len(jira.issues) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((400, {}), None),
        ((401, {}), 401),
        ((500, {}), 500),
        ((200, {"key": "OPS-1"}), 200),
        ((200, b"["), 200),
    ],
)
def test_while_nobody_knows_whether_the_issue_is_there_it_is_not_made(
    near, client, connected, jira, clock, trail, answer, code
):
    jira.answers = [(504, {}), answer]
    client.post(TICKETS, ticket_for(trail))
    clock.advance(7)

    near.step()

    assert client.get(TICKETS).json[0]["status"] == "Pending"
    assert len(jira.asked("POST")) == 1
    assert states(near) == [("due", 2, code)]


def test_a_request_that_ended_early_leaves_its_ticket_to_the_dispatcher(
    near, client, connected, jira, clock, trail, monkeypatch
):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(JiraPosting, "deliver_first", stop)
    with pytest.raises(KeyboardInterrupt):
        client.post(TICKETS, ticket_for(trail))
    early = near.step()
    clock.advance(41)

    arrived = near.step()

    assert (early, arrived) == (0, 1)
    assert [record["ticketKey"] for record in client.get(TICKETS).json] == ["OPS-1"]


def test_the_dispatcher_keeps_off_a_ticket_that_a_request_is_sending(
    near, client, connected, jira, trail
):
    sent = []
    answer = jira.answer

    def step_meanwhile(request):
        sent.append(near.step())
        return answer(request)

    jira.server.answer = step_meanwhile

    made = client.post(TICKETS, ticket_for(trail))

    assert (made.json["ticketKey"], sent, len(jira.issues)) == ("OPS-1", [0], 1)


def test_a_request_that_the_dispatcher_overtook_changes_nothing(
    near, client, connected, jira, clock, trail
):
    answer = jira.answer

    def dawdle(request):
        jira.server.answer = answer
        clock.advance(41)
        assert near.step() == 1
        return 504, b""

    jira.server.answer = dawdle

    made = client.post(TICKETS, ticket_for(trail))

    assert (made.json["ticketKey"], made.json["status"]) == ("OPS-1", "Open")
    assert states(near) == [("done", 1, 201)]


def test_what_jira_refuses_is_failed_and_says_why(near, client, connected, jira, clock, trail):
    made = client.post(TICKETS, ticket_for(trail, issueType="Saga"))

    clock.advance(100_000)
    assert near.step() == 0
    assert made.status == 201
    assert (made.json["status"], made.json["problem"]) == (
        "Failed",
        "Jira refused the ticket. issuetype: The issue type selected is invalid.",
    )
    assert len(jira.server.asked) == 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "Jira refused the ticket."),
        ({"errorMessages": "x", "errors": []}, "Jira refused the ticket."),
        ({"errorMessages": ["One.", 2]}, "Jira refused the ticket. One."),
    ],
)
def test_a_refusal_may_be_worded_in_any_way(client, connected, jira, trail, body, problem):
    jira.answers = [(400, body)]

    made = client.post(TICKETS, ticket_for(trail))

    assert (made.json["status"], made.json["problem"]) == ("Failed", problem)


def test_wrong_credentials_leave_the_ticket_pending_until_they_are_right(
    near, client, connected, jira, clock, trail
):
    settings = CONNECTION | {"jiraBaseUrl": jira.url}
    client.post(CONFIG, settings | {"jiraApiToken": "wrong"})
    made = client.post(TICKETS, ticket_for(trail))
    client.post(CONFIG, settings)
    clock.advance(7)

    arrived = near.step()

    assert (made.json["status"], made.json["problem"]) == (
        "Pending",
        "Jira refused the user name or the token.",
    )
    assert arrived == 1
    assert client.get(TICKETS).json[0]["status"] == "Open"


def test_a_good_status_without_a_key_is_not_taken_for_a_ticket(client, connected, jira, trail):
    jira.answers = [(201, {"key": "../x"})]

    made = client.post(TICKETS, ticket_for(trail))

    assert made.json["status"] == "Pending"
    assert "PENDING" in made.json["ticketKey"]


def test_a_ticket_that_was_tried_long_enough_is_failed(near, client, connected, jira, clock, trail):
    jira.answers = [(503, {})] * 11
    client.post(TICKETS, ticket_for(trail))

    for _ in range(9):
        clock.advance(120_000)
        near.step()

    (ticket,) = near.client("factstore:read").get(TICKETS).json
    assert states(near) == [("failed", 10, 503)]
    assert (ticket["status"], ticket["problem"]) == (
        "Failed",
        "Jira gave no usable response. Answered with status 503.",
    )


# Sync


def test_a_sync_without_a_connection_does_nothing(factstore):
    response = factstore.post(f"{JIRA}/sync")

    assert (response.status, response.json) == (
        200,
        {"syncedCount": 0, "message": "Jira is not configured."},
    )


def test_a_sync_makes_one_ticket_for_each_trail_that_is_not_compliant(
    near, client, connected, jira
):
    flow = client.post("/api/v1/flows", {"name": "payments"}).json["id"]
    _, bad, worse = (another_trail(near, flow) for _ in range(3))
    fail(near, bad, worse)

    first = client.post(f"{JIRA}/sync")
    second = client.post(f"{JIRA}/sync")

    tickets = client.get(TICKETS).json
    assert (first.status, first.json) == (
        200,
        {"syncedCount": 2, "message": "Tickets made in Jira: 2, read from there: 0."},
    )
    assert second.json == {
        "syncedCount": 2,
        "message": "Tickets made in Jira: 0, read from there: 2.",
    }
    assert [ticket["trailId"] for ticket in tickets] == [bad, worse]
    assert [ticket["summary"] for ticket in tickets] == [
        "Trail c0ffee of flow payments is not compliant"
    ] * 2
    assert [(ticket["ticketKey"], ticket["status"]) for ticket in tickets] == [
        ("OPS-1", "To Do"),
        ("OPS-2", "To Do"),
    ]
    assert len(jira.issues) == 2
    assert near.verify() == []


def test_a_trail_that_has_a_ticket_by_hand_gets_no_other(near, client, connected, jira, trail):
    client.post(TICKETS, ticket_for(trail))
    fail(near, trail)

    client.post(f"{JIRA}/sync")

    assert len(client.get(TICKETS).json) == len(jira.issues) == 1


def test_two_syncs_at_once_make_no_ticket_twice(near, client, connected, jira, trail):
    fail(near, trail, another_trail(near, read_flow(near, trail)))
    both, answers = threading.Barrier(2), []

    def sync():
        both.wait(5)
        answers.append(client.post(f"{JIRA}/sync").json["syncedCount"])

    threads = [threading.Thread(target=sync) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 2
    assert len(client.get(TICKETS).json) == len(jira.issues) == 2


def read_flow(lite, trail):
    """The flow of a trail."""
    with lite.workspace.read():
        return Trail.find(trail).flow_id


def test_a_sync_reads_the_status_of_open_tickets(near, client, connected, jira, clock):
    flow = client.post("/api/v1/flows", {"name": "payments"}).json["id"]
    trails = [another_trail(near, flow) for _ in range(3)]
    for trail in trails:
        client.post(TICKETS, ticket_for(trail))
    jira.move("OPS-1", "In Review", "indeterminate")
    jira.move("OPS-2", "Done", "done")
    del jira.issues["OPS-3"]

    first = client.post(f"{JIRA}/sync").json
    jira.move("OPS-2", "Reopened", "new")
    clock.advance(1)
    second = client.post(f"{JIRA}/sync").json

    statuses = [record["status"] for record in client.get(TICKETS).json]
    assert (first["syncedCount"], second["syncedCount"]) == (2, 1)
    # What is done is not read again, and what is gone stays as it was.
    assert statuses == ["In Review", "Done", "Open"]
    paths = [record.path for record in jira.asked("GET")]
    assert paths[:3] == [f"/rest/api/2/issue/OPS-{number}?fields=status" for number in (1, 2, 3)]
    assert len(paths) == 5


def test_a_sync_while_jira_is_down_leaves_everything_to_the_dispatcher(
    near, client, connected, jira, clock
):
    flow = client.post("/api/v1/flows", {"name": "payments"}).json["id"]
    fail(near, *(another_trail(near, flow) for _ in range(3)))
    jira.answers = [(503, {})]

    body = client.post(f"{JIRA}/sync").json
    attempts = len(jira.server.asked)
    clock.advance(41)
    near.step()

    assert body == {
        "syncedCount": 0,
        "message": "Tickets made in Jira: 0, read from there: 0, waiting for Jira: 3.",
    }
    assert attempts == 1
    assert [record["status"] for record in client.get(TICKETS).json] == ["Open"] * 3
    assert len(jira.issues) == len(set(jira.labels())) == 3


def test_a_sync_sends_again_what_jira_refused(near, client, connected, jira, trail):
    jira.answers = [(400, {"errors": {"project": "There is none."}})]
    made = client.post(TICKETS, ticket_for(trail)).json

    body = client.post(f"{JIRA}/sync").json

    assert made["status"] == "Failed"
    assert body["message"] == "Tickets made in Jira: 1, read from there: 0."
    assert client.get(TICKETS).json == [
        made | {"ticketKey": "OPS-1", "status": "Open", "problem": None}
    ]


def test_a_status_of_jira_may_be_called_as_our_own_are(near, client, connected, jira, trail):
    client.post(TICKETS, ticket_for(trail))
    jira.move("OPS-1", "Failed", "indeterminate")
    client.post(f"{JIRA}/sync")
    jira.move("OPS-1", "Pending", "indeterminate")
    client.post(f"{JIRA}/sync")
    jira.move("OPS-1", "Fixed", "indeterminate")

    client.post(f"{JIRA}/sync")

    assert client.get(TICKETS).json[0]["status"] == "Fixed"
    assert len(jira.asked("POST")) == 1


def test_a_sync_takes_up_a_hundred_trails_at_a_time(near, client, connected, jira, trail):
    flow = read_flow(near, trail)
    fail(near, *(another_trail(near, flow) for _ in range(101)))
    jira.answers = [(503, {})]

    client.post(f"{JIRA}/sync")
    first = len(client.get(TICKETS).json)
    jira.answers = [(503, {})]
    client.post(f"{JIRA}/sync")

    assert (first, len(client.get(TICKETS).json)) == (100, 101)


def test_no_transaction_is_open_while_jira_is_waited_for(near, client, connected, jira, trail):
    fail(near, trail)
    answer, meanwhile = jira.answer, []

    def write_meanwhile(request):
        name = f"flow-{len(meanwhile)}"
        meanwhile.append(client.post("/api/v1/flows", {"name": name}).status)
        return answer(request)

    jira.server.answer = write_meanwhile

    client.post(f"{JIRA}/sync")
    client.post(TICKETS, ticket_for(trail))

    assert meanwhile == [201, 201]


def test_a_sync_ends_when_its_time_is_up(near, client, connected, jira, trail, monkeypatch):
    fail(near, trail, another_trail(near, read_flow(near, trail)))
    monkeypatch.setattr("novantra_lite.SYNC_TIME", 0)

    body = client.post(f"{JIRA}/sync").json

    assert body["message"] == "Tickets made in Jira: 1, read from there: 0, waiting for Jira: 1."
    assert len(jira.server.asked) == 1


def test_a_dry_run_of_a_sync_only_counts(near, client, connected, jira, trail):
    fail(near, trail)
    before = tables(near)

    response = client.post(f"{JIRA}/sync", dryRun="true")

    assert response.json["result"] == {
        "syncedCount": 0,
        "message": "Trails that would get a ticket: 1.",
    }
    assert tables(near) == before
    assert jira.server.asked == []


def test_a_nonsensical_status_is_not_taken_over(client, connected, jira, trail):
    client.post(TICKETS, ticket_for(trail))
    jira.answers = [(200, {"fields": {"status": {"name": ""}}})]

    body = client.post(f"{JIRA}/sync").json

    assert body["syncedCount"] == 0
    assert client.get(TICKETS).json[0]["status"] == "Open"


def test_a_transport_of_somebody_else_is_enough(clock):
    class Network:
        def post(self, url, body, headers):
            return HttpResponse(201, None, "Answered with status 201.", b'{"key": "OPS-7"}')

    with NovantraLite(clock=clock, transport=Network()) as lite:
        client = lite.client("factstore:read", "factstore:write", "factstore:admin")
        client.post(CONFIG, CONNECTION)
        made = client.post(TICKETS, ticket_for(begin_trail(lite, client)))

        assert made.json["ticketKey"] == "OPS-7"
        with lite.workspace.read():
            assert JiraTicket.get().stage == "open"


# A Jira that takes its time


def waiting_threads():
    return sum(thread.name.startswith("waitress-") for thread in threading.enumerate())


def test_reads_are_answered_while_more_requests_wait_for_jira_than_there_are_threads():
    open_again = threading.Event()

    def answer(request):
        open_again.wait(60)
        return 200, {"name": "robot", "displayName": "Robot"}

    def test_connection(url, token):
        with contextlib.closing(connect(url)) as connection:
            return call(connection, "POST", f"{JIRA}/test", token)

    settings = {"threads": 2, "webhook_private_targets": LOOPBACK, "webhook_timeout": 60.0}
    with (
        neighbour(answer) as slow,
        NovantraLite(rate_limits=False, **settings) as lite,
        lite.listening() as url,
        ThreadPoolExecutor(12) as callers,
    ):
        lite.client(*SCOPES).post(CONFIG, CONNECTION | {"jiraBaseUrl": slow.url})
        token = lite.token(*SCOPES)

        waiting = [callers.submit(test_connection, url, token) for _ in range(12)]
        until(lambda: len(slow.asked) == 12)
        with contextlib.closing(connect(url)) as connection:
            read, _ = call(connection, "GET", CONFIG, token)
        meanwhile = waiting_threads()
        open_again.set()
        answers = [record.result() for record in waiting]
        until(lambda: waiting_threads() == 2)

    assert read == 200
    assert meanwhile == 2 + 12 - 1
    assert [(status, result["success"]) for status, result in answers] == [(200, True)] * 12
    assert waiting_threads() == 0
