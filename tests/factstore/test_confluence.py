"""Confluence.

Confluence is a real server on this machine.
"""

import base64

import pytest
from stored import audit, events, ledger, stored_bytes, tables

from factstore.servers import LOOPBACK, neighbour
from novantra_lite import NovantraLite

CONFLUENCE = "/api/v1/integrations/confluence"
CONFIG, TEST = f"{CONFLUENCE}/config", f"{CONFLUENCE}/test"
TOKEN = "ATATT-0123-Secret"
CONNECTION = {
    "confluenceBaseUrl": "https://93.184.216.34/",
    "confluenceUsername": "robot@acme.example",
    "confluenceApiToken": TOKEN,
    "defaultSpaceKey": "QA/1",
}
NOON = "2026-06-01T12:00:00.000000Z"


@pytest.fixture
def confluence():
    with neighbour(lambda request: (200, {"key": "QA/1"})) as server:
        yield server


@pytest.fixture
def client(confluence, clock):
    """A client of an instance that is connected to the Confluence on this machine."""
    with NovantraLite(clock=clock, webhook_private_targets=LOOPBACK) as lite:
        client = lite.client("factstore:admin")
        client.post(CONFIG, CONNECTION | {"confluenceBaseUrl": confluence.url})
        yield client


def test_the_connection_is_stored_and_read_without_its_token(lite, factstore):
    stored = factstore.post(CONFIG, CONNECTION)
    read = factstore.get(CONFIG)

    key = stored.json["id"]
    assert (stored.status, read.status) == (200, 200)
    assert (
        stored.json
        == read.json
        == {
            "id": key,
            "confluenceBaseUrl": "https://93.184.216.34",
            "confluenceUsername": "robot@acme.example",
            "defaultSpaceKey": "QA/1",
            "createdAt": NOON,
            "updatedAt": NOON,
        }
    )
    assert audit(lite)[-1][1:3] == ("confluence_connection.created", key)
    assert ledger(lite)[-1] == ("CONFLUENCE_CONNECTION_CREATED", key)
    assert events(lite) == []


def test_there_is_one_connection_and_it_is_overwritten(lite, factstore, clock):
    first = factstore.post(CONFIG, CONNECTION).json
    clock.advance(60)

    second = factstore.post(CONFIG, CONNECTION | {"defaultSpaceKey": "OPS"}).json

    later = "2026-06-01T12:01:00.000000Z"
    assert second == first | {"defaultSpaceKey": "OPS", "updatedAt": later}
    assert len(tables(lite)["confluence_connection"]) == 1
    assert lite.verify() == []


def test_the_token_is_nowhere_in_the_file_in_the_clear(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        lite.client("factstore:admin").post(CONFIG, CONNECTION)

        assert TOKEN.encode() not in stored_bytes(lite)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confluenceBaseUrl": "acme.example"}, "confluenceBaseUrl: The URL must start with"),
        ({"confluenceBaseUrl": "http://10.0.0.1"}, "has an address that is not public"),
        ({"confluenceBaseUrl": "http://8.8.8.8"}, "The URL must start with https://."),
        ({"confluenceUsername": None}, "confluenceUsername: Required"),
        ({"confluenceApiToken": None}, "confluenceApiToken: Required"),
        ({"defaultSpaceKey": ""}, "defaultSpaceKey: Expected 1 to 255 characters"),
    ],
)
def test_a_connection_that_cannot_be_is_refused(lite, factstore, change, message):
    before = tables(lite)

    refused = factstore.post(CONFIG, CONNECTION | change)

    assert refused.status == 400
    assert message in refused.json["message"]
    assert tables(lite) == before


def test_the_connection_is_for_administrators(lite):
    client = lite.client("factstore:read", "factstore:write")

    statuses = client.get(CONFIG).status, client.post(CONFIG, CONNECTION).status

    assert (*statuses, client.post(TEST).status) == (403, 403, 403)


def test_a_connection_that_works_says_so(client, confluence):
    response = client.post(TEST)

    (query,) = confluence.asked
    credentials = base64.b64encode(f"robot@acme.example:{TOKEN}".encode()).decode()
    assert (response.status, response.json) == (
        200,
        {"success": True, "message": "Confluence knows robot@acme.example."},
    )
    assert (query.method, query.path) == ("GET", "/wiki/rest/api/space/QA%2F1")
    assert query.headers["Authorization"] == f"Basic {credentials}"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {}), "Confluence refused the user name or the token."),
        ((404, {}), "Confluence shows this user no space QA/1."),
        ((503, {}), "Confluence gave no usable response. Answered with status 503."),
        ((200, [1]), "Confluence gave a response that cannot be parsed."),
    ],
)
def test_a_connection_that_does_not_work_says_why(client, confluence, answer, message):
    confluence.answer = lambda request: answer

    response = client.post(TEST)

    assert (response.status, response.json) == (200, {"success": False, "message": message})


def test_what_is_not_configured_says_so(factstore):
    tested, read = factstore.post(TEST), factstore.get(CONFIG)

    assert (tested.status, tested.json) == (
        200,
        {"success": False, "message": "Confluence is not configured."},
    )
    assert (read.status, read.json["message"]) == (404, "Confluence is not configured.")


def test_a_test_reaches_no_private_network_that_is_not_permitted_any_more(
    tmp_path, confluence, clock
):
    path = tmp_path / "register.db"
    with NovantraLite(path, clock=clock, webhook_private_targets=LOOPBACK) as lite:
        settings = CONNECTION | {"confluenceBaseUrl": confluence.url}
        lite.client("factstore:admin").post(CONFIG, settings)

    with NovantraLite(path, clock=clock) as lite:
        body = lite.client("factstore:admin").post(TEST).json

    assert body["success"] is False
    assert "not public" in body["message"]
    assert confluence.asked == []
