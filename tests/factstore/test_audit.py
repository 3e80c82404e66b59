"""The audit log. Its pages against plain counting, and
what happens where."""

import itertools
import json
import lzma
import random
from pathlib import Path

import pytest

from factstore.pipelines import happenings
from factstore.trails import begin_trail
from novantra_lite import FACTSTORE_SCOPES, AuditEvent, NovantraLite, write_transaction

ONE = "sha256:" + "1" * 64
TWO = "sha256:" + "2" * 64
THREE = "sha256:" + "3" * 64
FOUR = "sha256:" + "4" * 64
AUDIT = "/api/v1/audit"
LAYOUTS = Path(__file__).parents[1] / "layouts"
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
    """Write audit events with these values."""
    write_transaction(
        lite.workspace,
        lambda current: [AuditEvent.create(**{"payload": "{}", **values}) for values in happened],
        actor="test",
    )


def chosen(events, query):
    """The events that a query asks for, by going through all of them; newest first."""
    matches = [
        event
        for event in events
        if query.get("eventType") in (None, event["eventType"])
        and query.get("trailId") in (None, event["trailId"])
        and query.get("actor") in (None, event["actor"])
        and query.get("from", "") <= event["occurredAt"] <= query.get("to", "~")
    ]
    return sorted(matches, key=lambda event: event["occurredAt"])[::-1]


@pytest.fixture(scope="module")
def log():
    """A client, and all of the four thousand events of its log in the order of writing.

    Many happened at the same moment; now and then the clock is set back.
    """
    chance = random.Random(11)
    second, happened = 3000, []
    for number in range(4000):
        second += chance.choice((0, 0, 1, 1, 2, 2, -40 if number % 100 == 0 else 1))
        happened.append(
            {
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
            body = client.get(AUDIT, **query, page=page, size=7, sortDesc=str(order).lower()).json
            assert body == {
                "events": ordered[page * 7 : page * 7 + 7],
                "page": page,
                "size": 7,
                "totalElements": total,
                "totalPages": -(-total // 7),
            }, query


def test_a_page_holds_its_events_as_they_are_read_one_by_one(lite, factstore, clock):
    write(lite, {"event_type": "GATE_BLOCKED", "actor": "Ada", "region": "eu-1"})
    clock.advance(1)
    write(
        lite,
        {"event_type": "GATE_ALLOWED", "actor": "system", "payload": '{"decision":"ALLOWED"}'}
        | {"environment_id": NOBODY, "trail_id": TRAILS[0], "artifact_sha256": DIGEST},
    )

    page = factstore.get(AUDIT)

    newest, oldest = page.json["events"]
    assert page.status == 200
    assert list(page.json.items())[1:] == [
        ("page", 0), ("size", 20), ("totalElements", 2), ("totalPages", 1),
    ]  # fmt: skip
    assert list(newest.items())[1:] == [
        ("eventType", "GATE_ALLOWED"),
        ("environmentId", NOBODY),
        ("trailId", TRAILS[0]),
        ("artifactSha256", DIGEST),
        ("actor", "system"),
        ("payload", '{"decision":"ALLOWED"}'),
        ("occurredAt", "2026-06-01T12:00:01.000000Z"),
        ("region", None),
        ("principal", None),
    ]
    assert (oldest["actor"], oldest["region"], oldest["trailId"]) == ("Ada", "eu-1", None)
    assert factstore.get(f"{AUDIT}/{newest['id'].upper()}").json == newest


def test_an_empty_log_has_no_pages(factstore):
    page = factstore.get(AUDIT).json

    assert page == {"events": [], "page": 0, "size": 20, "totalElements": 0, "totalPages": 0}


@pytest.mark.parametrize(
    ("query", "total"),
    [
        ("", 2),
        ("eventType=&trailId=&from=&to=&page=&size=&sortDesc=", 2),
        ("actor=", 0),
        ("actor=&eventType=GATE_ALLOWED", 0),
        ("actor=ada", 1),
        ("actor=ADA", 0),
        ("actor=a%25", 0),
        (f"trailId={NOBODY.upper()}", 1),
        ("from=2026-06-01T14:00:00%2B02:00&to=2026-06-01T12:00:00Z", 2),
        ("from=2026-06-01T12:00:00.000001Z", 0),
        ("to=2026-06-01T11:59:59.999999Z", 0),
        ("from=2026-06-02T00:00:00Z&to=2026-06-01T00:00:00Z", 0),
        ("page=2147483647&size=100", 2),
    ],
)
def test_filters_are_exact_inclusive_and_absent_when_empty_but_for_the_actor(
    lite, factstore, query, total
):
    write(
        lite,
        {"event_type": "GATE_ALLOWED", "actor": "ada", "trail_id": NOBODY},
        {"event_type": "GATE_BLOCKED", "actor": ""},
    )

    page = factstore.get(f"{AUDIT}?{query}")

    assert (page.status, page.json["totalElements"]) == (200, total)


@pytest.mark.parametrize(
    "query",
    [
        "eventType=gate_allowed", "trailId=nonsense", "from=yesterday", "from=2026-06-01",
        "to=2026-06-01T12:00:00", "page=-1", "page=1.5", "page=2147483648", "size=0", "size=101",
        "sortDesc=perhaps", "actor=%00",
    ],
)  # fmt: skip
def test_a_query_that_cannot_be_meant_is_refused(factstore, query):
    refused = factstore.get(f"{AUDIT}?{query}")

    assert refused.status == 400
    assert query.partition("=")[0] in refused.json["message"]


@pytest.mark.parametrize(("key", "status"), [(NOBODY, 404), ("nonsense", 400)])
def test_an_event_that_is_not_there(factstore, key, status):
    refused = factstore.get(f"{AUDIT}/{key}")

    assert (refused.status, refused.json["status"]) == (status, status)


def test_the_log_is_for_those_who_may_read(lite):
    client = lite.client("factstore:write")

    assert client.get(AUDIT).status == 403
    assert client.get(f"{AUDIT}/{NOBODY}").status == 403


# --- Long logs ----------------------------------------------------------------


def test_deep_pages_of_a_long_log_are_whole(lite, factstore):
    event = {"event_type": "GATE_ALLOWED", "actor": "ada"}
    write(lite, *({**event, "occurred_at": moment(second)} for second in range(650)))

    newest = factstore.get(AUDIT, actor="ada", size=100).json
    oldest = factstore.get(AUDIT, actor="ada", size=100, page=6).json

    assert newest["totalElements"] == oldest["totalElements"] == 650
    assert newest["events"][0]["occurredAt"] == moment(649)
    assert [event["occurredAt"] for event in oldest["events"]][-1] == moment(0)
    assert len(oldest["events"]) == 50


def test_the_marks_of_a_former_layout_go(tmp_path, clock):
    path = tmp_path / "register.db"
    path.write_bytes(lzma.decompress((LAYOUTS / "layout-6.db.xz").read_bytes()))

    with NovantraLite(path, clock=clock, key="layouts-of-old-files-key-0123456789abcdef") as lite:
        names = [name for (name,) in rows(lite, "SELECT name FROM sqlite_schema")]
        faults = lite.verify()

    assert faults == []
    assert [name for name in names if "mark" in name] == []


# --- What happens where -------------------------------------------------------

ENVIRONMENTS = "/api/v1/environments"


def newest(factstore, **query):
    """The events that a query asks for, less when and under which id they were written."""
    values = ("eventType", "actor", "environmentId", "artifactSha256")
    return [
        (*map(event.get, values), json.loads(event["payload"]))
        for event in factstore.get(AUDIT, **query).json["events"]
    ]


@pytest.fixture
def production(factstore):
    """The id of an environment."""
    return factstore.post(ENVIRONMENTS, {"name": "production", "type": "K8S"}).json["id"]


def run_there(factstore, environment, *digests):
    """Record a snapshot of artifacts with these digests, in which each has its digest's name."""
    artifacts = [
        {"artifactSha256": digest, "artifactName": digest, "artifactTag": "1"} for digest in digests
    ]
    body = {"recordedBy": "agent", "artifacts": artifacts}
    assert factstore.post(f"{ENVIRONMENTS}/{environment}/snapshots", body).status == 201


def test_the_making_and_the_end_of_an_environment_are_told(lite, factstore, production):
    renamed = factstore.put(f"{ENVIRONMENTS}/{production}", {"name": "live"})
    ended = factstore.delete(f"{ENVIRONMENTS}/{production}")

    result = newest(factstore)
    caller = rows(lite, "SELECT id FROM service_account")[0][0]
    about = {"environmentId": production, "type": "K8S"}
    assert (renamed.status, ended.status) == (200, 204)
    assert result == [
        ("ENVIRONMENT_DELETED", caller, production, None, about | {"name": "live"}),
        ("ENVIRONMENT_CREATED", caller, production, None, about | {"name": "production"}),
    ]


def test_what_is_refused_or_only_rehearsed_is_not_told(factstore, production):
    again = factstore.post(ENVIRONMENTS, {"name": "production", "type": "K8S"})
    dry = {"X-Dry-Run": "true"}
    rehearsed = factstore.post(ENVIRONMENTS, {"name": "other", "type": "K8S"}, headers=dry)

    assert (again.status, rehearsed.status) == (409, 200)
    assert factstore.get(AUDIT).json["totalElements"] == 1


def test_an_artifact_that_a_snapshot_has_no_more_is_told_once(factstore, production):
    run_there(factstore, production, ONE, TWO, THREE)

    run_there(factstore, production, TWO, FOUR)
    run_there(factstore, production, TWO, FOUR)

    result = newest(factstore, eventType="ARTIFACT_REMOVED", sortDesc="false")
    values = {"environmentId": production, "environmentName": "production", "snapshotIndex": 2}
    rest = values | {"artifactTag": "1", "instanceCount": 1}
    first, third = (
        rest | {"artifactSha256": digest, "artifactName": digest} for digest in (ONE, THREE)
    )
    assert result == [
        ("ARTIFACT_REMOVED", "agent", production, ONE, first),
        ("ARTIFACT_REMOVED", "agent", production, THREE, third),
    ]


def test_an_artifact_that_only_the_scope_leaves_out_is_not_told_as_removed(factstore, production):
    run_there(factstore, production, ONE)
    scope = {"exclude": {"names": [ONE]}}
    factstore.put(f"{ENVIRONMENTS}/{production}", {"scope": scope})

    run_there(factstore, production, ONE)

    assert newest(factstore, eventType="ARTIFACT_REMOVED") == []


def test_provenance_updates_its_artifact(lite, factstore):
    trail = begin_trail(lite, factstore)
    artifact = factstore.post(
        f"/api/v1/trails/{trail}/artifacts",
        {"imageName": "payments", "imageTag": "1", "sha256Digest": DIGEST, "reportedBy": "ci"},
    ).json["id"]
    path = f"/api/v1/trails/{trail}/artifacts/{artifact}/provenance"
    built = {"builderId": "https://ci.example", "builderType": "JENKINS", "slsaLevel": "L2"}

    provenance = factstore.post(path, built).json["id"]
    again = factstore.post(path, built)

    caller = rows(lite, "SELECT id FROM service_account")[0][0]
    payload = {
        "artifactId": artifact,
        "provenanceId": provenance,
        "builderId": "https://ci.example",
        "slsaLevel": "L2",
        "provenanceStatus": "PROVENANCE_UNVERIFIED",
    }
    assert again.status == 409
    assert happenings(lite)[1:] == [("ARTIFACT_UPDATED", caller, payload, trail, DIGEST)]
