"""What every collection that v1 reads promises; a chapter inherits it and says what is its own."""

from typing import ClassVar

import pytest
from conftest import NOON, WHY

CREATED = "2026-06-01T12:00:00.000Z"


def make(lite, collection, **members):
    """A record, made as the console makes it."""
    return lite.collection(collection).create(reason=WHY, **members)


class Listed:
    """The list of one kind of record: `first` has every member that can be given, `second` little.

    Where a list can be filtered, the two differ.
    """

    path = collection = key = scope = ""
    #: Every member in the order of the contract, and those that `second` leaves null.
    members = nulls = ""
    #: The filters, `name:member` where the member is called otherwise; those that know their words.
    filters = choices = ""
    #: The filter without which the list is refused.
    required = ""
    first: ClassVar = {}
    second: ClassVar = {}

    def rows(self, lite):
        """What to give for both records; chapters whose records point to others make these here."""
        return self.first, self.second

    @pytest.fixture
    def given(self, lite):
        return self.rows(lite)

    @pytest.fixture
    def older(self, lite, given):
        return make(lite, self.collection, **given[0])

    @pytest.fixture
    def newer(self, lite, given, older, clock):
        clock.advance(1)
        return make(lite, self.collection, **given[1])

    @pytest.fixture
    def query(self, given):
        """What the list has to be asked with."""
        return {self.required: given[0][self.required]} if self.required else {}

    def test_a_record_has_the_members_of_the_contract_in_their_order(
        self, novantra, given, older, query
    ):
        listed = novantra.get(self.path, **query)

        (record,) = listed.json[self.key]
        assert list(record) == self.members.split()
        assert record.items() >= given[0].items()
        assert {record.get("createdAt", CREATED), record.get("updatedAt", CREATED)} == {CREATED}

    def test_what_was_not_given_is_an_explicit_null(self, novantra, newer, query):
        record = novantra.get(self.path, **query).json[self.key][0]

        assert [member for member in record if record[member] is None] == self.nulls.split()

    def test_the_newest_record_comes_first_and_nothing_follows(self, novantra, older, newer, query):
        listed = novantra.get(self.path, **query)

        assert listed.status == 200
        assert listed.json == {self.key: [newer, older], "pagination": {}}

    def test_a_filter_keeps_what_equals_it(self, novantra, newer, query, filtered):
        name, _, member = filtered.partition(":")

        listed = novantra.get(self.path, **query | {name: newer[member or name]})

        assert listed.json == {self.key: [newer], "pagination": {}}

    def test_a_word_unknown_to_a_filter_is_refused_and_other_text_matches_nothing(
        self, novantra, older, query, filtered
    ):
        name = filtered.partition(":")[0]

        answer = novantra.get(self.path, **query | {name: "nonsense"})

        if name in self.choices.split():
            assert (answer.status, answer.json["error"]) == (400, "validation")
            assert [issue["path"] for issue in answer.json["issues"]] == [[name]]
        else:
            assert (answer.status, answer.json) == (200, {self.key: [], "pagination": {}})

    @pytest.mark.parametrize(
        ("after", "count"),
        [
            ("2026-06-01", 2),
            ("2026-06-01T11:59:59.999Z", 2),
            ("2026-06-01T16:00:00+04:00", 1),
            ("2026-06-01T12:00:01Z", 0),
            ("2026-06-02", 0),
        ],
    )
    def test_created_after_leaves_that_moment_out(self, novantra, newer, query, after, count):
        listed = novantra.get(self.path, createdAfter=after, **query)

        assert len(listed.json[self.key]) == count
        assert listed.json[self.key][:1] == [newer][:count]

    def test_cursors_walk_through_records_of_one_moment(self, lite, novantra, given, query):
        ids = [make(lite, self.collection, **row)["id"] for row in given]

        page = novantra.get(self.path, limit=1, **query).json
        cursor = page["pagination"]["nextCursor"]
        last = novantra.get(self.path, limit=1, cursor=cursor, **query).json

        assert [record["id"] for record in page[self.key] + last[self.key]] == ids[::-1]
        assert last["pagination"] == {}

    def test_a_cursor_is_bound_to_its_filters_and_dies_after_48_hours(
        self, lite, novantra, clock, newer, query
    ):
        page = novantra.get(self.path, limit=1, **query).json
        cursor = page["pagination"]["nextCursor"]

        other = novantra.get(self.path, cursor=cursor, createdAfter="2026-01-01", **query)
        clock.at = NOON + 1 + 48 * 3600
        young = lite.client(self.scope).get(self.path, cursor=cursor, **query)
        clock.advance(1)
        old = lite.client(self.scope).get(self.path, cursor=cursor, **query)

        assert (other.status, other.json["error"]) == (400, "invalid_cursor")
        assert young.status == 200
        assert (old.status, old.json["error"]) == (400, "invalid_cursor")

    def test_an_id_below_the_list_that_is_not_there_is_not_found(self, novantra, older):
        key = older["id"][:-1] + ("0" if older["id"][-1] != "0" else "1")

        refused = novantra.get(f"{self.path}/{key}")

        assert (refused.status, refused.json["error"]) == (404, "not_found")


class Retrieved(Listed):
    """The list, and the reading of one record by its id under the name `noun`."""

    noun = ""

    def test_one_record_comes_in_an_envelope_of_its_name(self, lite, novantra, older):
        response = novantra.get(f"{self.path}/{older['id']}")

        current = lite.collection(self.collection).retrieve(older["id"])
        assert (response.status, response.json) == (200, {self.noun: current})
