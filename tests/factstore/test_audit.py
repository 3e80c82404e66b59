"""The audit log: section 2 of the notes on operations. Its pages against plain counting, its cost
against its length, and what happens where."""

import contextlib
import itertools
import json
import random
import sqlite3

import pytest
from factstore.delivering import begin_trail, happenings
from looking import audit, ledger, tables

from novantra_lite import FACTSTORE_SCOPES, AuditEvent, NovantraLite, perform

AUDIT = "/api/v1/audit"
TRAILS = [f"{number:08}-0000-4000-8000-000000000000" for number in range(4)]
NOBODY = "00000000-0000-4000-8000-00000000beef"
DIGEST = "sha256:" + "ab" * 32


def rows(lite, sql):
    """What a query finds in the workspace's file."""
    return lite.workspace.reader.connection().execute(sql).fetchall()


def moment(second):
    """So many seconds after the first of June."""
    return f"2026-06-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.000000Z"


def write(lite, *happened):
    """Write audit events with these values and, unless given, ids of chance."""
    perform(
        lite.workspace,
        lambda current: [AuditEvent.create(**{"payload": "{}", **values}) for values in happened],
        actor="test",
    )


def chosen(events, query):
    """The events that a query asks for, by going through all of them; newest first."""
    found = [
        event
        for event in events
        if query.get("eventType") in (None, event["eventType"])
        and query.get("trailId") in (None, event["trailId"])
        and query.get("actor") in (None, event["actor"])
        and query.get("from", "") <= event["occurredAt"] <= query.get("to", "~")
    ]
    return sorted(found, key=lambda event: event["occurredAt"])[::-1]


@pytest.fixture(scope="module")
def log():
    """A client, and all of the three thousand events of its log in the order of writing.

    One in ten is a mark. Many happened at the same moment; now and then the clock is set back.
    """
    chance = random.Random(11)
    second, happened = 3000, []
    for number in range(3000):
        second += chance.choice((0, 0, 1, 1, 2, 2, -40 if number % 100 == 0 else 1))
        tail = chance.choice(("00", *(f"{other:02x}" for other in range(1, 10))))
        happened.append(
            {
                "id": f"{number:08x}-0000-4000-8000-0000000000{tail}",
                "event_type": chance.choice(("GATE_ALLOWED", "GATE_BLOCKED", "ARTIFACT_UPDATED")),
                "trail_id": chance.choice((None, *TRAILS)),
                "actor": chance.choice(("system", "system", "Ada", "ada")),
                "occurred_at": moment(second),
            }
        )
    with NovantraLite(random=random.Random(7), rate_limits=False) as lite:
        for start in range(0, len(happened), 500):
            write(lite, *happened[start : start + 500])
        with lite.workspace.read():
            events = [event.json() for event in AuditEvent.select()]
        yield lite.client(*FACTSTORE_SCOPES), events
        assert lite.verify() == []


EVERY_FILTER = {
    "eventType": (None, "GATE_BLOCKED", "POLICY_EVALUATED"),
    "trailId": (None, TRAILS[1], NOBODY),
    "actor": (None, "ada", "nobody"),
    "from": (None, moment(3600), moment(7000)),
    "to": (None, moment(3600), moment(5400)),
}


@pytest.mark.parametrize("event_type", EVERY_FILTER["eventType"])
@pytest.mark.parametrize("trail", EVERY_FILTER["trailId"])
def test_every_combination_of_filters_gives_what_plain_counting_gives(log, event_type, trail):
    client, events = log
    rest = itertools.product(*list(EVERY_FILTER.values())[2:])

    for values in rest:
        query = dict(zip(EVERY_FILTER, (event_type, trail, *values), strict=True))
        query = {name: value for name, value in query.items() if value}
        expected = chosen(events, query)
        total = len(expected)
        for order, page in itertools.product((True, False), sorted({0, 1, total // 14, 10**6})):
            ordered = expected if order else expected[::-1]
            told = client.get(AUDIT, **query, page=page, size=7, sortDesc=str(order).lower()).json
            assert told == {
                "events": ordered[page * 7 : page * 7 + 7],
                "page": page,
                "size": 7,
                "totalElements": total,
                "totalPages": -(-total // 7),
            }, query
