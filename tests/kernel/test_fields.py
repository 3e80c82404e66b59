"""Fields: one declaration is column, CHECK, JSON member, validation and schema at once."""

import re
import sqlite3

import pytest
from rawfile import FINDING, FINDINGS, rows

import novantra_lite
from novantra_lite import (
    Boolean,
    Choice,
    Integer,
    Json,
    Key,
    ListOf,
    MapOf,
    PrefixedId,
    Text,
    Timestamp,
    Uuid,
    ValidationErrors,
    camel,
)

SEVERITY = Choice("low medium high")
TIMES = [("2026-06-01T14:00:00+02:00", "2026-06-01T12:00:00.000Z")]


def test_a_name_is_spelled_as_the_apis_spell_it():
    assert [camel(name) for name in ("id", "due_at", "owner_member_user_id")] == [
        "id",
        "dueAt",
        "ownerMemberUserId",
    ]


@pytest.mark.parametrize(
    ("field", "value", "stored"),
    [
        (Text(3), "", ""),
        (Text(3, 1), "abc", "abc"),
        (Text(2), "\N{GRINNING FACE}\N{GRINNING FACE}", "\N{GRINNING FACE}\N{GRINNING FACE}"),
        (Text(9, pattern="[a-z]+", hint="Expected a-z"), "abc", "abc"),
        (SEVERITY, "low", "low"),
        (Integer(1, 5), 1, 1),
        (Integer(1, 5), 5, 5),
        (Integer(1, 5), 2.0, 2),
        (Integer(), 2**63 - 1, 2**63 - 1),
        (Boolean(), False, False),
        (Timestamp(), *TIMES[0]),
        (Timestamp(dates=True), "2026-06-01", "2026-06-01T00:00:00.000Z"),
        (ListOf(Text(3), 2), ["a", "b"], ["a", "b"]),
        (MapOf(Text(3), 1), {"a": "b"}, {"a": "b"}),
        (PrefixedId("find"), "find_01HXY", "find_01HXY"),
    ],
)
def test_a_fitting_value_is_taken(field, value, stored):
    assert field.read(value) == stored


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (Text(3), "abcd", "Expected at most 3 characters"),
        (Text(3, 1), "", "Expected 1 to 3 characters"),
        (Text(3), 1, "Expected string"),
        (Text(3), ["a"], "Expected string"),
        (Text(9, pattern="[a-z]+", hint="Expected a-z"), "abc\n", "Expected a-z"),
        (SEVERITY, "Low", "Expected one of: low, medium, high"),
        (SEVERITY, ["low"], "Expected one of: low, medium, high"),
        (SEVERITY, {}, "Expected one of: low, medium, high"),
        (Integer(1, 5), 0, "Expected a number from 1 to 5"),
        (Integer(1, 5), 6, "Expected a number from 1 to 5"),
        (Integer(1, 5), True, "Expected integer"),
        (Integer(1, 5), 2.5, "Expected integer"),
        (Integer(1, 5), "2", "Expected integer"),
        (Integer(), 2**63, "Expected a number from"),
        (Boolean(), 1, "Expected boolean"),
        (Boolean(), "true", "Expected boolean"),
        (Timestamp(), 1780315200, "Expected string"),
        (Timestamp(), "2026-06-01", "Expected a date-time"),
        (ListOf(Text(3), 2), ["a", "b", "c"], "Expected at most 2 elements"),
        (ListOf(Text(3), 2), {"0": "a"}, "Expected array"),
        (MapOf(Text(3), 1), {"a": "b", "c": "d"}, "Expected at most 1 entries"),
        (MapOf(Text(3), 1), ["a"], "Expected object"),
        (Json(ListOf(Text(3))), "[]", "Expected array"),
        (PrefixedId("find"), "risk_01HXY", "Expected an id that starts with find_"),
        (PrefixedId("find"), "find_01HXY\n", "Expected an id that starts with find_"),
        (Uuid(), 5, "Expected a UUID"),
    ],
)
def test_an_unfitting_value_is_refused_in_words(field, value, message):
    with pytest.raises(ValueError) as refusal:
        field.read(value)

    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    ("reader", "value", "paths"),
    [
        (ListOf(Text(1)), ["a", 2, "b", "cc"], [[1], [3]]),
        (MapOf(ListOf(Text(1))), {"a": ["b"], "c": ["d", 5], "e": 6}, [["c", 1], ["e"]]),
        (MapOf(Text(), name=Text(2)), {"a": "", "bcd": ""}, [["bcd"]]),
    ],
)
def test_a_collection_tells_every_fault_with_its_place(reader, value, paths):
    with pytest.raises(ValidationErrors) as refusal:
        reader.read(value)

    assert [path for path, _ in refusal.value.issues] == paths


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        (Integer(), "-12", -12),
        (Boolean(), "Yes", True),
        (Boolean(), "0", False),
        (Timestamp(), "2026-06-01", "2026-06-01T00:00:00.000Z"),
        (Json(ListOf(Text())), '["a"]', ["a"]),
        (Text(), "12", "12"),
    ],
)
def test_the_text_of_a_cell_stands_for_a_value(field, text, value):
    assert field.parse(text) == value


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *((Integer(), text) for text in ("", "1.0", "1e3", " 1", "0x1", "9" * 20)),
        *((Boolean(), text) for text in ("", "maybe", "2")),
        (Json(ListOf(Text())), "[a]"),
        (Timestamp(), "June"),
    ],
)
def test_the_text_of_a_cell_that_stands_for_nothing_is_refused(field, text):
    with pytest.raises(ValueError, match="Expected"):
        field.parse(text)


@pytest.mark.parametrize(("value", "text"), [(5, "5"), (1.5, "1.5"), (True, "true"), ("a", "a")])
def test_a_lenient_surface_takes_a_number_for_its_text(value, text):
    assert Text().coerce(value) == text


@pytest.mark.parametrize(
    ("field", "schema"),
    [
        (
            Text(9, 1),
            {"type": "string", "maxLength": 9, "minLength": 1, "pattern": novantra_lite.VISIBLE},
        ),
        (SEVERITY, {"type": "string", "enum": ["low", "medium", "high"]}),
        (Integer(1, 5), {"type": "integer", "minimum": 1, "maximum": 5}),
        (Boolean(), {"type": "boolean"}),
        (Timestamp(), {"type": "string", "format": "date-time"}),
        (Uuid(), {"type": "string", "format": "uuid"}),
        (PrefixedId("find"), {"type": "string", "pattern": "^find_"}),
        (
            Json(ListOf(Boolean(), 3)),
            {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        ),
        (
            MapOf(Boolean()),
            {
                "type": "object",
                "additionalProperties": {"type": "boolean"},
                "maxProperties": 1000,
                "propertyNames": {"type": "string", "maxLength": 255},
            },
        ),
    ],
)
def test_a_field_describes_itself(field, schema):
    assert field.describe() == schema


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE finding SET severity = 'grave'",
        "UPDATE finding SET status = NULL",
        "UPDATE service_account SET disabled = 2",
        "UPDATE service_account SET generation = 'two'",
        "UPDATE finding SET title = x'00'",
        "INSERT INTO delivery (id, event_id, endpoint_id, state, attempts, note, created_at, "
        "updated_at) VALUES ('dlv_1', 'evt_1', 'whep_1', 'due', 0, '', '', '')",
    ],
)
def test_the_table_itself_holds_every_value_to_its_field(lite, novantra, statement):
    novantra.post(FINDINGS, FINDING)
    before = rows(lite, "SELECT * FROM finding")

    with pytest.raises(sqlite3.IntegrityError):
        lite.workspace.writer.database.connection().execute(statement)

    assert rows(lite, "SELECT * FROM finding") == before


@pytest.mark.parametrize(
    "value", [" ", "\t\n", "\u00a0", "\u3000", "\u200b\u200d", "\ufeff", "\x01", "\u3164", "\u2800"]
)
def test_text_that_nobody_sees_is_empty_where_a_minimum_length_is_asked(value):
    with pytest.raises(ValueError, match="Expected text that is not blank"):
        Text(20, 1).read(value * 10)

    assert Text(20).read(value) == value


@pytest.mark.parametrize(
    "value", ["k-7", "  k-7\t", "\u00a0k-7\u3000", "\ufeffk-7\u200b", "\nk-7 "]
)
def test_a_key_is_taken_without_the_blanks_around_it(value):
    assert Key().read(value) == "k-7"


def test_a_text_keeps_the_blanks_around_it_and_a_key_those_within():
    assert Text(20, 1).read(" a b ") == " a b "
    assert Key().read(" a b ") == "a b"


def test_a_key_is_as_long_as_it_is_without_the_blanks_around_it():
    assert Key().read(" " * 300 + "k" * 200) == "k" * 200


@pytest.mark.parametrize("text", ["a", " a ", "日本", "é", "\u200bx", "\u0600"])
def test_the_document_takes_a_text_that_shows_something(text):
    assert re.search(Text(9, 1).describe()["pattern"], text)
    assert Text(9, 1).read(text) == text


@pytest.mark.parametrize("text", [" ", "\t\n", "\u200b", "\u3000\ufeff", "\u3164"])
def test_the_document_refuses_a_text_that_shows_nothing_as_the_field_does(text):
    assert not re.search(Text(9, 1).describe()["pattern"], text)
    with pytest.raises(ValueError, match="Expected text that is not blank"):
        Text(9, 1).read(text)
