"""Pages: lists are walked by keyset, each cursor good for its own list, filters and time."""

import base64
import itertools

import pytest
from conftest import WHY
from rawfile import FINDING, FINDINGS

from novantra_lite import NovantraLite

ASSETS = "/api/v1/assets"


def asset(lite, key, created_at, status="active"):
    return lite.collection("assets").create(
        assetKey=key,
        assetKind="tool",
        displayName=key,
        sourceKind="manual",
        status=status,
        createdAt=created_at,
        reason=WHY,
    )


def walk(client, path, plural, **query):
    """The pages of a list, each as its records."""
    cursor = {}
    while True:
        answer = client.get(path, **query, **cursor)
        assert answer.status == 200
        yield answer.json[plural]
        if not answer.json["pagination"]:
            return
        cursor = {"cursor": answer.json["pagination"]["nextCursor"]}


def made_at(second):
    return f"2026-05-01T00:00:{second:02d}.000Z"


#: In the order in which they are made: several in one moment, and moments out of order.
SECONDS = (3, 1, 3, 2, 3, 1, 2, 3, 0)


@pytest.fixture
def assets(lite):
    return [
        asset(lite, f"a{number}", made_at(second), ("active", "retired")[number % 2])
        for number, second in enumerate(SECONDS)
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 8, 9, 10])
def test_a_walk_meets_every_record_once_newest_first(novantra, assets, limit):
    pages = list(walk(novantra, ASSETS, "assets", limit=limit))

    met = [record["assetKey"] for record in itertools.chain(*pages)]
    assert met == ["a7", "a4", "a2", "a0", "a6", "a3", "a5", "a1", "a8"]
    assert all(len(page) == limit for page in pages[:-1])
    assert 0 < len(pages[-1]) <= limit


def test_a_filtered_walk_keeps_the_same_order(novantra, assets):
    pages = list(walk(novantra, ASSETS, "assets", limit=2, status="active"))

    assert [[record["assetKey"] for record in page] for page in pages] == [
        ["a4", "a2"],
        ["a0", "a6"],
        ["a8"],
    ]


def test_created_after_is_exclusive_and_takes_a_date_too(novantra, assets):
    later = novantra.get(ASSETS, createdAfter=made_at(2)).json["assets"]
    on_the_day = novantra.get(ASSETS, createdAfter="2026-05-01").json["assets"]

    assert [record["assetKey"] for record in later] == ["a7", "a4", "a2", "a0"]
    assert len(on_the_day) == 8


def test_the_text_of_a_long_page_is_in_order_though_sqlite_promises_none(lite, novantra):
    for number in range(200):
        asset(lite, f"k{number:03d}", made_at(number * 7 % 60))

    page = novantra.get(ASSETS, limit=200).json["assets"]
    filtered = novantra.get(ASSETS, limit=200, status="active").json["assets"]

    order = [(record["createdAt"], record["id"]) for record in page]
    assert order == sorted(order, reverse=True)
    assert filtered == page
    assert len(page) == 200


def test_records_made_during_a_walk_neither_shift_nor_repeat_anything(lite, novantra, assets):
    pages = walk(novantra, ASSETS, "assets", limit=4)
    first = next(pages)
    asset(lite, "new", made_at(59))

    rest = list(itertools.chain(*pages))

    met = [record["assetKey"] for record in first + rest]
    assert met == ["a7", "a4", "a2", "a0", "a6", "a3", "a5", "a1", "a8"]


def test_the_console_lists_in_the_order_of_creation(lite, assets):
    listed = [record["assetKey"] for record in lite.collection("assets").list(status="active")]
    first = [record["assetKey"] for record in lite.collection("assets").list(limit=3)]

    assert listed == ["a8", "a6", "a0", "a2", "a4"]
    assert first == ["a8", "a1", "a5"]


def test_the_factstore_lists_everything_in_the_order_of_creation(factstore, clock):
    for name in ("c", "a", "b"):
        factstore.post("/api/v1/flows", {"name": name})
        clock.advance(0.000002)

    listed = factstore.get("/api/v1/flows").json

    assert [flow["name"] for flow in listed] == ["c", "a", "b"]
    assert [flow["createdAt"][-7:] for flow in listed] == ["000000Z", "000002Z", "000004Z"]


def test_an_empty_list_is_an_empty_page(novantra):
    assert novantra.get(ASSETS).json == {"assets": [], "pagination": {}}


@pytest.mark.parametrize(
    ("limit", "length"), [("1", 1), ("+2", 2), ("200", 9), ("201", 9), ("9" * 400, 9)]
)
def test_a_limit_is_at_most_two_hundred(novantra, assets, limit, length):
    answer = novantra.get(ASSETS, limit=limit)

    assert len(answer.json["assets"]) == length


@pytest.mark.parametrize("limit", ["0", "-1", "", "ten", "1.5", "1e2", "1_0", "-" + "9" * 400])
def test_a_limit_that_is_no_positive_number_is_refused(novantra, assets, limit):
    answer = novantra.get(ASSETS, limit=limit)

    assert (answer.status, answer.json["error"]) == (400, "validation")
    assert [fault["path"] for fault in answer.json["issues"]] == [["limit"]]


@pytest.fixture
def cursor(novantra, assets):
    return novantra.get(ASSETS, limit=2).json["pagination"]["nextCursor"]


def forge(cursor):
    """The same cursor with another place in it."""
    data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    return base64.urlsafe_b64encode(data.replace(b"2026", b"2027")).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "change",
    [
        forge,
        lambda cursor: "",
        lambda cursor: "AAAA",
        lambda cursor: "MQ",
        lambda cursor: "\N{SNOWMAN}",
        lambda cursor: cursor[:-8],
        lambda cursor: cursor[4:],
        lambda cursor: ("B" if cursor[0] == "A" else "A") + cursor[1:],
        lambda cursor: cursor + "AAAA",
        lambda cursor: cursor + "!!!!",
        lambda cursor: cursor[:10] + "\n" + cursor[10:],
        lambda cursor: cursor * 3,
        lambda cursor: "a",
    ],
)
def test_a_cursor_that_was_changed_is_refused(novantra, cursor, change):
    answer = novantra.get(ASSETS, cursor=change(cursor))

    assert (answer.status, answer.json["error"]) == (400, "invalid_cursor")


@pytest.mark.parametrize(
    ("path", "query"),
    [(ASSETS, {"status": "active"}), (ASSETS, {"createdAfter": "2026-01-01"}), (FINDINGS, {})],
)
def test_a_cursor_is_good_for_its_own_list_and_filters_only(novantra, cursor, path, query):
    answer = novantra.get(path, cursor=cursor, **query)

    assert (answer.status, answer.json["error"]) == (400, "invalid_cursor")


def test_the_size_of_the_page_may_change_during_a_walk(novantra, cursor):
    answer = novantra.get(ASSETS, cursor=cursor, limit=3)

    assert [record["assetKey"] for record in answer.json["assets"]] == ["a2", "a0", "a6"]


def test_a_filter_said_in_another_way_is_the_same_filter(novantra, assets):
    query = {"createdAfter": "2026-05-01", "limit": 2}
    cursor = novantra.get(ASSETS, **query).json["pagination"]["nextCursor"]

    query["createdAfter"] = "2026-05-01T02:00:00+02:00"
    answer = novantra.get(ASSETS, cursor=cursor, **query)

    assert [record["assetKey"] for record in answer.json["assets"]] == ["a2", "a0"]


@pytest.mark.parametrize(("seconds", "status"), [(172_800, 200), (172_801, 400), (-61, 400)])
def test_a_cursor_is_good_for_48_hours(lite, clock, cursor, seconds, status):
    clock.advance(seconds)
    client = lite.client("assets:read")

    answer = client.get(ASSETS, cursor=cursor)

    assert answer.status == status
    assert answer.json.get("error") == {200: None, 400: "invalid_cursor"}[status]


def test_a_cursor_outlasts_the_process_and_is_of_no_use_in_another_workspace(tmp_path, clock):
    def open_and_list(name, **query):
        with NovantraLite(tmp_path / f"{name}.db", clock=clock) as lite:
            if not list(lite.collection("findings").list(limit=1)):
                for _ in range(3):
                    lite.client("governance.findings:write").post(FINDINGS, FINDING)
            return lite.client("governance.findings:read").get(FINDINGS, limit=1, **query)

    cursor = open_and_list("first").json["pagination"]["nextCursor"]

    assert open_and_list("first", cursor=cursor).status == 200
    assert open_and_list("second", cursor=cursor).json["error"] == "invalid_cursor"


def test_a_page_opens_the_encrypted_values_of_every_record(lite, novantra):
    rows = [f'Text {number} with "quotes", }} and \\' for number in range(5)]
    for text in rows:
        novantra.post(FINDINGS, FINDING | {"description": text})
    novantra.post(FINDINGS, FINDING)

    page = novantra.get(FINDINGS).json["findings"]

    assert [finding["description"] for finding in page] == [None, *reversed(rows)]
