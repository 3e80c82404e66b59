"""Outbox: an event is there exactly when the change that it tells of is."""

import pytest
from conftest import WHY
from rawfile import FINDING, FINDINGS, rows

from novantra_lite import Invalid, emit, write_transaction

HOOK = "https://93.184.216.34/hook"
DELIVERIES = (
    "SELECT endpoint_id, type, state, attempts, due_at FROM delivery "
    "JOIN event ON event.id = event_id ORDER BY delivery.id"
)


def test_an_event_is_addressed_to_every_endpoint_that_wants_it(lite, novantra):
    everything = lite.webhooks.add(HOOK)["id"]
    closings = lite.webhooks.add(HOOK, ["finding.closed", "assessment.completed"])["id"]
    changes = lite.webhooks.add(HOOK, ["finding.updated", "finding.created"])["id"]
    finding = novantra.post(FINDINGS, FINDING).json["finding"]

    lite.collection("findings").update(finding["id"], status="accepted", reason=WHY)

    at = "2026-06-01T12:00:00.000Z"
    assert rows(lite, DELIVERIES) == [
        (everything, "finding.created", "due", 0, at),
        (changes, "finding.created", "due", 0, at),
        (everything, "finding.updated", "due", 0, at),
        (changes, "finding.updated", "due", 0, at),
        (everything, "finding.closed", "due", 0, at),
        (closings, "finding.closed", "due", 0, at),
    ]


def test_an_event_is_kept_when_nobody_wants_it(lite, novantra):
    novantra.post(FINDINGS, FINDING)

    lite.webhooks.add(HOOK)

    assert rows(lite, "SELECT type FROM event") == [("finding.created",)]
    assert rows(lite, DELIVERIES) == []


def test_an_event_waits_for_a_paused_endpoint_and_not_for_a_disabled_one(lite, novantra):
    paused, disabled = lite.webhooks.add(HOOK)["id"], lite.webhooks.add(HOOK)["id"]
    lite.webhooks.pause(paused)
    lite.webhooks.set_status(disabled, "disabled")

    novantra.post(FINDINGS, FINDING)

    assert [row[0] for row in rows(lite, DELIVERIES)] == [paused]


def test_an_event_of_work_that_fails_is_not_there(lite):
    lite.webhooks.add(HOOK)

    def work(current):
        emit("finding.created", {"finding": {}})
        raise Invalid("No.")

    with pytest.raises(Invalid):
        write_transaction(lite.workspace, work, actor="console", reason=WHY)

    assert rows(lite, "SELECT * FROM event") == rows(lite, DELIVERIES) == []


def test_a_change_whose_event_cannot_be_kept_is_not_there_either(lite, novantra):
    connection = lite.workspace.writer.database.connection()
    connection.execute("ALTER TABLE event RENAME TO elsewhere")

    answer = novantra.post(FINDINGS, FINDING)

    connection.execute("ALTER TABLE elsewhere RENAME TO event")
    assert answer.status == 503
    assert rows(lite, "SELECT * FROM finding") == rows(lite, "SELECT * FROM event") == []
    assert lite.verify() == []


def test_the_dispatcher_is_woken_only_by_what_was_committed(lite, novantra):
    lite.webhooks.add(HOOK)
    novantra.post(FINDINGS, FINDING, headers={"X-Dry-Run": "true"})
    novantra.post(FINDINGS, FINDING | {"severity": "grave"})
    before = lite.bell.is_set()

    novantra.post(FINDINGS, FINDING)

    assert (before, lite.bell.is_set()) == (False, True)


def test_an_event_that_nobody_wants_wakes_nobody(lite, novantra):
    lite.webhooks.add(HOOK, events=["assessment.completed"])

    novantra.post(FINDINGS, FINDING)

    assert not lite.bell.is_set()


def test_delivered_events_are_kept_for_thirty_days_and_waiting_ones_longer(lite, novantra, clock):
    novantra.post(FINDINGS, FINDING)
    paused = lite.webhooks.add(HOOK)["id"]
    lite.webhooks.pause(paused)
    novantra.post(FINDINGS, FINDING)
    clock.advance(2_592_000)
    lite.step()
    kept = rows(lite, "SELECT count(*) FROM event")
    clock.advance(3600)

    lite.step()

    assert kept == [(2,)]
    assert rows(lite, "SELECT count(*) FROM event") == [(1,)]
    assert [row[0] for row in rows(lite, DELIVERIES)] == [paused]
