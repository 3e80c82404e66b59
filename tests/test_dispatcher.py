"""Dispatcher: every event arrives, however long its receiver takes to come back."""

import contextlib
import http.server
import json
import queue
import random
import threading
import types
from datetime import datetime

import pytest
import standardwebhooks
from conftest import NOON, WHY, Clock
from stored import stored_bytes

from novantra_lite import (
    EvidenceClaim,
    HttpResponse,
    Invalid,
    NotFound,
    NovantraLite,
    Unavailable,
    WebhookError,
    verify_webhook,
)

FINDINGS = "/api/v1/governance/findings"
FINDING = {"title": "Torque wrench 7 is overdue", "severity": "high", "reason": WHY}
FIRST, SECOND = "https://93.184.216.34/first", "https://93.184.216.34/second"
OK = HttpResponse(200, None, "Answered with status 200.")
DOWN = HttpResponse(0, None, "The host refused the connection.")
HOURS = 3600


class Network:
    """Stands in for the network: keeps what is sent, and answers as it was told to for a URL."""

    def __init__(self):
        self.sent, self.answers = [], {}
        self.before = lambda: None

    def post(self, url, body, headers):
        self.before()
        self.sent.append(types.SimpleNamespace(url=url, body=body, headers=headers))
        answer = self.answers.get(url, OK)
        return answer.pop(0) if isinstance(answer, list) else answer

    def urls(self):
        return [request.url for request in self.sent]


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def lite(clock, network):
    with NovantraLite(clock=clock, random=random.Random(7), transport=network) as lite:
        yield lite


def find(lite, **members):
    """Make a finding; its event goes into the outbox."""
    key = lite.source.ulid("key")
    return lite.collection("findings").create(
        **{"findingKey": key, "title": "Seal", "severity": "low", "reason": WHY} | members
    )


def delivery(lite):
    """The only delivery there is."""
    (result,) = lite.webhooks.deliveries()
    return result


def rows(lite, sql):
    return lite.workspace.reader.connection().execute(sql).fetchall()


def seconds_until(lite, body):
    """How long it is until a delivery is due."""
    return datetime.fromisoformat(body["dueAt"]).timestamp() - lite.source.clock()


def is_verified(request, secret, at):
    """Whether a receiver with this secret trusts a request at this time."""
    try:
        verify_webhook(request.body, request.headers, secret, clock=lambda: at)
    except WebhookError:
        return False
    return True


def test_an_event_is_delivered_once_and_its_outcome_written_down(lite, network):
    endpoint = lite.webhooks.add(FIRST)["id"]
    finding = find(lite)

    arrived = lite.step(), lite.step()

    result = delivery(lite)
    assert arrived == (1, 0)
    assert network.urls() == [FIRST]
    assert (result["state"], result["attempts"], result["statusCode"]) == ("done", 1, 200)
    assert (result["dueAt"], result["note"]) == (None, "Answered with status 200.")
    assert json.loads(network.sent[0].body) == {
        "id": network.sent[0].headers["webhook-id"],
        "type": "finding.created",
        "createdAt": "2026-06-01T12:00:00.000Z",
        "organization": {"id": lite.workspace.id, "slug": "workspace"},
        "data": {
            "finding": {
                "id": finding["id"],
                "title": "Seal",
                "severity": "low",
                "status": "open",
                "subjectModuleKey": None,
                "subjectResourceType": None,
                "subjectResourceId": None,
                "createdAt": "2026-06-01T12:00:00.000Z",
            }
        },
    }
    assert lite.webhooks.list()[0]["id"] == endpoint
    assert lite.verify() == []


#: The shortest and the longest wait before each further attempt: the schedule and 20 % of it.
WAITS = (
    (4, 6),
    (240, 360),
    (1440, 2160),
    (5760, 8640),
    (14_400, 21_600),
    (28_800, 43_200),
    (40_320, 60_480),
    (57_600, 86_400),
    (69_120, 103_680),
)


def test_a_failing_receiver_is_tried_ten_times_on_the_schedule(lite, network, clock):
    lite.webhooks.add(FIRST)
    network.answers[FIRST] = HttpResponse(500, None, "Answered with status 500.")
    find(lite)

    shares = []
    for attempt, (shortest, longest) in enumerate(WAITS, 1):
        assert lite.step() == 0
        result = delivery(lite)
        wait = seconds_until(lite, result)
        assert (result["state"], result["attempts"], result["statusCode"]) == ("due", attempt, 500)
        assert shortest <= wait <= longest
        shares.append(wait / (shortest + longest))
        clock.advance(wait - 0.01)
        assert (lite.step(), len(network.sent)) == (0, attempt)
        clock.advance(0.02)
    lite.step()

    result = delivery(lite)
    assert (result["state"], result["attempts"], result["dueAt"]) == ("failed", 10, None)
    assert len({round(share, 3) for share in shares}) > 5
    clock.advance(1000 * HOURS)
    lite.step()
    assert len(network.sent) == 10


def test_the_waits_come_from_the_chance_that_was_handed_in():
    def first_wait(seed):
        network = Network()
        network.answers[FIRST] = DOWN
        chance = random.Random(seed)
        with NovantraLite(clock=Clock(), random=chance, transport=network) as lite:
            lite.webhooks.add(FIRST)
            find(lite)
            lite.step()
            return delivery(lite)["dueAt"]

    assert first_wait(1) == first_wait(1) != first_wait(2)


def test_id_and_bytes_stay_the_same_on_every_attempt_and_each_is_signed_anew(lite, network, clock):
    secret = lite.webhooks.add(FIRST)["secret"]
    network.answers[FIRST] = [DOWN, HttpResponse(503, None, ""), DOWN, OK]
    finding = find(lite)

    for _ in range(4):
        lite.step()
        lite.collection("findings").update(finding["id"], title="Later", reason=WHY)
        clock.advance(1 * HOURS)

    assert len(network.sent) == 4
    assert len({record.body for record in network.sent}) == 1
    assert {record.headers["webhook-id"] for record in network.sent} == {
        json.loads(network.sent[0].body)["id"]
    }
    assert len({record.headers["webhook-signature"] for record in network.sent}) == 4
    for hour, record in enumerate(network.sent):
        assert is_verified(record, secret, NOON + hour * HOURS)


@pytest.mark.parametrize(
    ("answer", "shortest", "longest"),
    [
        (HttpResponse(503, 8, ""), 8, 8),
        (HttpResponse(429, 9, ""), 9, 9),
        (HttpResponse(503, 1, ""), 4, 6),
        (HttpResponse(503, 10, ""), 10, 10),
        (HttpResponse(503, 86_400, ""), 10, 10),
        (HttpResponse(500, 86_400, ""), 4, 6),
        (HttpResponse(503, None, ""), 4, 6),
    ],
)
def test_retry_after_is_honoured_up_to_twice_the_step(lite, network, answer, shortest, longest):
    lite.webhooks.add(FIRST)
    network.answers[FIRST] = answer
    find(lite)

    lite.step()

    assert shortest <= seconds_until(lite, delivery(lite)) <= longest


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_every_2xx_is_an_arrival(lite, network, status):
    lite.webhooks.add(FIRST)
    network.answers[FIRST] = HttpResponse(status, None, "")
    find(lite)

    assert lite.step() == 1
    assert delivery(lite)["state"] == "done"


@pytest.mark.parametrize("status", [0, 199, 302, 400, 404, 500])
def test_everything_else_is_a_failure(lite, network, status):
    lite.webhooks.add(FIRST)
    network.answers[FIRST] = HttpResponse(status, None, "")
    find(lite)

    assert lite.step() == 0
    assert delivery(lite)["state"] == "due"
    assert delivery(lite)["statusCode"] == (status or None)


def test_gone_disables_the_endpoint_at_once(lite, network, clock):
    endpoint = lite.webhooks.add(FIRST)["id"]
    network.answers[FIRST] = HttpResponse(410, None, "Answered with status 410.")
    find(lite)

    lite.step()
    find(lite)
    clock.advance(1 * HOURS)
    lite.step()

    assert lite.webhooks.list()[0]["status"] == "disabled"
    assert (delivery(lite)["state"], len(network.sent)) == ("failed", 1)
    assert rows(lite, "SELECT actor, action, subject_id FROM audit_entry ORDER BY id")[-2] == (
        "dispatcher",
        "webhook_endpoint.updated",
        endpoint,
    )
    assert lite.verify() == []


def fail_at(lite, clock, *hours):
    """Have a new event fail at each of these hours."""
    begin = clock.at
    for hour in hours:
        clock.at = begin + hour * HOURS
        find(lite)
        lite.step()


def test_120_hours_of_nothing_but_failures_disable_an_endpoint(lite, network, clock):
    lite.webhooks.add(FIRST)
    network.answers[FIRST] = DOWN
    fail_at(lite, clock, 0, 60, 119.99)
    before = lite.webhooks.list()[0]["status"]

    fail_at(lite, clock, 0.02)

    assert (before, lite.webhooks.list()[0]["status"]) == ("enabled", "disabled")


def test_one_success_in_between_begins_the_120_hours_anew(lite, network, clock):
    lite.webhooks.add(FIRST)
    network.answers[FIRST] = DOWN
    fail_at(lite, clock, 0, 60)
    network.answers[FIRST] = [OK, *[DOWN] * 50]
    clock.advance(30 * HOURS)
    lite.step()

    fail_at(lite, clock, 1, 119)
    before = lite.webhooks.list()[0]["status"]
    fail_at(lite, clock, 3)

    assert (before, lite.webhooks.list()[0]["status"]) == ("enabled", "disabled")


def test_an_endpoint_that_was_enabled_again_gets_its_120_hours_again(lite, network, clock):
    endpoint = lite.webhooks.add(FIRST)["id"]
    network.answers[FIRST] = DOWN
    fail_at(lite, clock, 0, 121)
    disabled = lite.webhooks.list()[0]["status"]
    lite.webhooks.resume(endpoint)

    fail_at(lite, clock, 1)

    assert (disabled, lite.webhooks.list()[0]["status"]) == ("disabled", "enabled")


def test_a_paused_endpoint_gets_what_happened_meanwhile_once_it_resumes(lite, network):
    endpoint = lite.webhooks.add(FIRST)["id"]
    lite.webhooks.pause(endpoint)
    for _ in range(3):
        find(lite)
    held = lite.step()

    lite.webhooks.resume(endpoint)
    arrived = lite.step()

    assert (held, arrived) == (0, 3)
    ids = [record.headers["webhook-id"] for record in network.sent]
    assert ids == sorted(ids)


def test_a_redelivery_is_the_same_event_again(lite, network, clock):
    lite.webhooks.add(FIRST)
    find(lite)
    lite.step()
    clock.advance(60)

    lite.webhooks.redeliver(delivery(lite)["id"])
    arrived = lite.step()

    first, second = network.sent
    assert arrived == 1
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])
    assert delivery(lite)["attempts"] == 1


def test_all_that_failed_can_be_sent_again_at_once(lite, network, clock):
    endpoint, other = lite.webhooks.add(FIRST)["id"], lite.webhooks.add(SECOND)["id"]
    gone = HttpResponse(410, None, "")
    network.answers = {FIRST: gone, SECOND: gone}
    find(lite)
    lite.step()
    network.answers = {}
    lite.webhooks.resume(endpoint)
    lite.webhooks.resume(other)

    count = lite.webhooks.redeliver_failed(endpoint)
    lite.step()

    assert count == 1
    assert network.urls() == [FIRST, SECOND, FIRST]
    assert [record["state"] for record in lite.webhooks.deliveries(endpoint)] == ["done"]
    assert [record["state"] for record in lite.webhooks.deliveries(state="failed")] == ["failed"]


def test_a_delivery_that_is_not_there_cannot_be_sent_again(lite):
    with pytest.raises(NotFound):
        lite.webhooks.redeliver("dlv_0")


def test_an_endpoint_gets_the_events_that_it_asked_for(lite, network):
    lite.webhooks.add(FIRST, ["finding.closed"])
    lite.webhooks.add(SECOND)
    finding = find(lite)
    lite.collection("findings").update(finding["id"], status="accepted", reason=WHY)

    lite.step()

    types_of = {FIRST: [], SECOND: []}
    for record in network.sent:
        types_of[record.url].append(json.loads(record.body)["type"])
    assert types_of == {
        FIRST: ["finding.closed"],
        SECOND: ["finding.created", "finding.updated", "finding.closed"],
    }


def test_one_event_has_one_id_for_every_endpoint(lite, network):
    lite.webhooks.add(FIRST)
    lite.webhooks.add(SECOND)
    find(lite)

    lite.step()

    first, second = network.sent
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


def test_an_unknown_event_is_refused_by_name(lite):
    with pytest.raises(Invalid, match=r"There is no event finding\.made; there are finding\.cre"):
        lite.webhooks.add(FIRST, ["finding.made"])

    assert lite.webhooks.list() == []


def test_a_failing_endpoint_does_not_hold_back_another(lite, network):
    lite.webhooks.add(FIRST)
    lite.webhooks.add(SECOND)
    network.answers[FIRST] = DOWN
    for _ in range(3):
        find(lite)

    arrived = lite.step()

    assert arrived == 3
    assert network.urls().count(FIRST) == 1


def test_a_long_queue_for_a_failing_endpoint_does_not_hold_back_another_either(lite, network):
    lite.webhooks.add(FIRST, ["finding.created"])
    lite.webhooks.add(SECOND, ["finding.closed"])
    network.answers[FIRST] = DOWN
    findings = lite.collection("findings")
    queued = [(n, {"findingKey": f"f{n}", "title": "A", "severity": "low"}) for n in range(120)]
    findings.import_rows(queued, reason=WHY)
    last = find(lite)
    findings.update(last["id"], status="accepted", reason=WHY)

    arrived = lite.step()

    assert arrived == 1
    assert network.urls() == [FIRST, SECOND]


def test_a_queue_longer_than_a_batch_is_delivered_in_one_step_and_in_order(lite, network):
    lite.webhooks.add(FIRST)
    queued = [(n, {"findingKey": f"f{n}", "title": "A", "severity": "low"}) for n in range(120)]
    lite.collection("findings").import_rows(queued, reason=WHY)

    arrived = lite.step()

    ids = [record.headers["webhook-id"] for record in network.sent]
    assert arrived == 120
    assert ids == sorted(set(ids))


def test_nothing_is_sent_inside_a_transaction(lite, network):
    lite.webhooks.add(FIRST)
    find(lite)
    seen = []

    def write_meanwhile():
        seen.append(lite.workspace.writer.database.connection().in_transaction)
        if len(seen) == 1:
            find(lite)

    network.before = write_meanwhile

    first, second = lite.step(), lite.step()

    assert (first, second) == (1, 1)
    assert seen == [False, False]


def test_an_endpoint_removed_while_it_is_sent_to_disturbs_nobody(lite, network):
    endpoint = lite.webhooks.add(FIRST)["id"]
    lite.webhooks.add(SECOND)
    find(lite)

    def remove():
        network.before = lambda: None
        lite.webhooks.remove(endpoint)

    network.before = remove
    lite.step()
    lite.step()

    assert network.urls() == [FIRST, SECOND]
    assert [record["state"] for record in lite.webhooks.deliveries()] == ["done"]
    assert lite.verify() == []


def test_a_transport_that_breaks_down_costs_nobody_else_an_event(lite, network, clock):
    lite.webhooks.add(FIRST)
    lite.webhooks.add(SECOND)
    find(lite)

    def break_down():
        network.before = lambda: None
        raise RuntimeError("broken")

    network.before = break_down
    with contextlib.suppress(RuntimeError):
        lite.step()
    clock.advance(10)
    lite.step()

    assert sorted(record["state"] for record in lite.webhooks.deliveries()) == ["done", "done"]


def test_a_rotated_secret_signs_beside_the_old_one_for_24_hours(lite, network, clock):
    added = lite.webhooks.add(FIRST)
    rotated = lite.webhooks.rotate(added["id"])
    outcomes = []
    for wait in (0, 24 * HOURS - 1, 1):
        clock.advance(wait)
        find(lite)
        lite.step()
        record, secrets = network.sent[-1], (added["secret"], rotated["secret"])
        outcomes.append([is_verified(record, secret, clock.at) for secret in secrets])

    assert outcomes == [[True, True], [True, True], [False, True]]
    assert added["secret"] != rotated["secret"]
    stored = stored_bytes(lite)
    assert added["secret"].encode() not in stored
    assert rotated["secret"].encode() not in stored


def test_a_test_event_is_sent_at_once_and_logged(lite, network):
    endpoint = lite.webhooks.add(FIRST, ["finding.closed"])["id"]
    network.answers[FIRST] = HttpResponse(404, None, "Answered with status 404.")

    result = lite.webhooks.test(endpoint)

    assert (result["statusCode"], result["note"]) == (404, "Answered with status 404.")
    assert json.loads(network.sent[0].body)["type"] == "webhook.test"
    assert delivery(lite)["id"] == result["id"]


def test_what_is_done_to_an_endpoint_is_recorded(lite):
    endpoint = lite.webhooks.add(FIRST)["id"]
    lite.webhooks.rotate(endpoint)
    lite.webhooks.pause(endpoint)
    lite.webhooks.resume(endpoint)
    lite.webhooks.remove(endpoint)

    entries = rows(lite, "SELECT actor, action FROM audit_entry WHERE subject_type = 'endpoint'")

    assert entries == [
        ("console", f"webhook_endpoint.{verb}")
        for verb in ("created", "updated", "updated", "updated", "deleted")
    ]
    assert lite.webhooks.list() == []
    assert lite.verify() == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[64:ff9b::7f00:1]", "[2002:a00:1::1]"],
)
def test_a_private_target_is_refused_at_creation_unless_its_network_is_listed(host):
    url = f"http://{host}:8000/hook"
    networks = ("127.0.0.0/8", "10.0.0.0/8", "169.254.0.0/16", "::1/128")

    with NovantraLite() as lite:
        with pytest.raises(Invalid, match="not public"):
            lite.webhooks.add(url)
        assert lite.webhooks.list() == []
    with NovantraLite(webhook_private_targets=networks) as lite:
        assert lite.webhooks.add(url)["url"] == url


def test_a_private_target_is_refused_at_sending_too(tmp_path, clock):
    with NovantraLite(
        tmp_path / "register.db", clock=clock, webhook_private_targets=("127.0.0.0/8",)
    ) as lite:
        lite.webhooks.add("http://127.0.0.1:9/hook")
        find(lite)

    with NovantraLite(tmp_path / "register.db", clock=clock) as lite:
        arrived = lite.step()

        assert arrived == 0
        assert "not public" in delivery(lite)["note"]


def test_nothing_is_lost_between_commit_and_delivery_when_the_instance_ends(tmp_path, clock):
    network = Network()
    with NovantraLite(tmp_path / "register.db", clock=clock, transport=network) as lite:
        lite.webhooks.add(FIRST)
        find(lite)
        before = rows(lite, "SELECT id FROM event")

    with NovantraLite(tmp_path / "register.db", clock=clock, transport=network) as lite:
        arrived = lite.step(), lite.step()

        assert arrived == (1, 0)
        assert [(record.headers["webhook-id"],) for record in network.sent] == before


def test_an_attempt_whose_outcome_was_not_written_down_is_made_again_with_the_same_id(
    tmp_path, clock
):
    network = Network()
    with NovantraLite(tmp_path / "register.db", clock=clock, transport=network) as lite:
        lite.webhooks.add(FIRST)
        find(lite)
        connection = lite.workspace.writer.database.connection()
        connection.execute(
            "CREATE TRIGGER t BEFORE UPDATE ON delivery BEGIN SELECT RAISE(ABORT, ''); END"
        )
        with contextlib.suppress(Invalid):
            lite.step()
        connection.execute("DROP TRIGGER t")

    with NovantraLite(tmp_path / "register.db", clock=clock, transport=network) as lite:
        lite.step()

    first, second = network.sent
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])


@pytest.fixture
def receiver():
    """A real HTTP server that puts what it gets into a queue."""
    received = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.put((body, dict(self.headers)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        received.url = f"http://127.0.0.1:{server.server_port}/hook"
        yield received
        server.shutdown()
        thread.join()


def test_a_real_receiver_verifies_what_the_thread_of_a_served_instance_sends(receiver):
    with NovantraLite(webhook_private_targets=("127.0.0.0/8",)) as lite:
        secret = lite.webhooks.add(receiver.url)["secret"]
        client = lite.client("governance.findings:write")
        lite.start()
        finding = client.post(FINDINGS, FINDING).json["finding"]

        body, headers = receiver.get(timeout=10)

        event = standardwebhooks.Webhook(secret).verify(body, headers)
        combined = {"X-Novantra-Signature": headers["X-Novantra-Signature"]}
        assert event["data"]["finding"]["id"] == finding["id"]
        assert verify_webhook(body, headers, secret) == event
        assert verify_webhook(body, combined, secret) == event
        assert headers["Content-Type"] == "application/json"


def test_a_stopped_dispatcher_still_delivers_by_hand(lite, network):
    lite.webhooks.add(FIRST)
    lite.start()
    lite.dispatcher.stop()
    find(lite)

    assert lite.step() == 1
    assert network.urls() == [FIRST]


def test_a_stopped_dispatcher_leaves_no_thread_and_can_start_again(receiver):
    before = threading.active_count()
    with NovantraLite(webhook_private_targets=("127.0.0.0/8",)) as lite:
        lite.webhooks.add(receiver.url)
        lite.start()
        lite.start()
        running = threading.active_count()
        lite.dispatcher.stop()
        stopped = threading.active_count()
        find(lite)
        lite.start()
        receiver.get(timeout=10)

    assert (running, stopped, threading.active_count()) == (before + 1, before, before)


def test_what_a_step_asks_every_second_goes_by_indexes(lite):
    lite.load_demo()
    lite.step()
    query, connection = [], lite.workspace.reader.connection()

    connection.set_trace_callback(query.append)
    lite.step()
    connection.set_trace_callback(None)

    plans = [connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall() for sql in query]
    matches = [step[3] for plan in plans for step in plan if "SCAN CONSTANT" not in step[3]]
    assert any("evidence_claim_lookup (status=? AND valid_until<?)" in step for step in matches)
    assert any("delivery_due_at (due_at<?)" in step for step in matches)
    assert [step for step in matches if step.startswith("SCAN")] == []


# --- What goes on meanwhile ---------------------------------------------------


def test_time_goes_on_while_receivers_answer(lite, network, clock):
    secret = lite.webhooks.add(FIRST)["secret"]
    lite.webhooks.add(SECOND)
    find(lite)
    network.answers[FIRST] = network.answers[SECOND] = HttpResponse(429, 10, "")
    network.before = lambda: clock.advance(400)

    lite.step()

    first, second = sorted(network.sent, key=lambda request: request.url)
    assert {int(each.headers["webhook-timestamp"]) for each in (first, second)} == {
        int(NOON),
        int(NOON) + 400,
    }
    assert is_verified(first, secret, int(first.headers["webhook-timestamp"]))
    result = sorted(
        datetime.fromisoformat(record["dueAt"]).timestamp() for record in lite.webhooks.deliveries()
    )
    assert result == [NOON + 410, NOON + 810]


@pytest.mark.parametrize("act", ["pause", "remove"])
def test_an_endpoint_that_is_stopped_gets_nothing_more_of_the_batch_at_hand(lite, network, act):
    endpoint = lite.webhooks.add(FIRST)["id"]
    for _ in range(3):
        find(lite)

    def stop():
        network.before = lambda: None
        getattr(lite.webhooks, act)(endpoint)

    network.before = stop
    lite.step()

    assert network.urls() == [FIRST]


def test_what_failed_long_ago_and_fails_again_disables_nobody(lite, network, clock):
    lite.webhooks.add(FIRST)
    find(lite)
    network.answers[FIRST] = HttpResponse(404, None, "Answered with status 404.")
    for _ in range(11):
        lite.step()
        clock.advance(24 * HOURS / 2)
        if delivery(lite)["state"] == "failed":
            break
    old = delivery(lite)["id"]
    lite.webhooks.resume(lite.webhooks.list()[0]["id"])
    network.answers[FIRST] = OK
    find(lite)
    lite.step()
    clock.advance(144 * HOURS)
    network.answers[FIRST] = DOWN

    lite.webhooks.redeliver(old)
    lite.step()

    assert lite.webhooks.list()[0]["status"] == "enabled"


def test_a_secret_that_cannot_be_opened_fails_its_own_deliveries_only(lite, network):
    broken = lite.webhooks.add(FIRST)["id"]
    lite.webhooks.add(SECOND)
    connection = lite.workspace.writer.database.connection()
    connection.execute("UPDATE endpoint SET secret = '1.AAAA' WHERE id = ?", (broken,))
    find(lite)

    lite.step()

    result = {record["endpointId"]: record for record in lite.webhooks.deliveries()}[broken]
    assert network.urls() == [SECOND]
    assert (result["state"], result["attempts"]) == ("due", 1)
    assert result["note"] == "An encrypted value of this record cannot be opened."


def test_a_workspace_that_fails_keeps_nothing_from_the_others(tmp_path, clock, network):
    with NovantraLite(workspaces=tmp_path, clock=clock, transport=network) as lite:
        for slug in ("dock", "hangar"):
            lite.create_workspace(slug)
        lite._chosen = "hangar"
        lite.webhooks.add(FIRST)
        find(lite)
        lite.workspaces["dock"].count_read("someone")
        clock.advance(60)
        dock = lite.workspaces["dock"].writer.database.connection()
        dock.execute("PRAGMA query_only = 1")

        with pytest.raises(Unavailable):
            lite.step()

        assert network.urls() == [FIRST]
        dock.execute("PRAGMA query_only = 0")
        lite.step()
        counted = dock.execute("SELECT actor, count FROM read_count").fetchall()
    assert counted == [("someone", 1)]


def test_an_expiry_leaves_alone_what_was_changed_meanwhile(lite, clock, monkeypatch):
    made = lite.collection("evidence-requirements").create(
        requirementKey="log", title="Log", reason=WHY
    )
    claims = lite.collection("evidence-claims")
    values = {"evidenceRequirementId": made["id"], "title": "Log of May", "reason": WHY}
    until = "2026-06-01T13:00:00Z"
    first, second = (
        claims.create(claimKey=key, validUntil=until, **values)["id"] for key in ("one", "two")
    )
    for key in (first, second):
        claims.update(key, status="approved", reason=WHY)
    clock.advance(2 * HOURS)
    overdue = EvidenceClaim.overdue

    def then_withdrawn(workspace, at):
        matches = overdue(workspace, at)
        claims.update(first, status="withdrawn", reason=WHY)
        return matches

    monkeypatch.setattr(EvidenceClaim, "overdue", then_withdrawn)
    lite.step()

    states = [claims.retrieve(key)["status"] for key in (first, second)]
    assert states == ["withdrawn", "expired"]
    assert lite.verify() == []
