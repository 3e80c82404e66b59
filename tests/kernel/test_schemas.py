"""Schemas: an object's faults are told all at once, its values named as the fields are."""

import pytest

from novantra_lite import (
    EMPTY,
    VISIBLE,
    Boolean,
    Choice,
    Filters,
    Finding,
    Flow,
    Integer,
    Json,
    ListOf,
    Schema,
    Shape,
    Text,
    Timestamp,
    ValidationErrors,
    describe_model,
)

VISIT = Schema(
    Finding.title,
    Finding.due_at,
    level=Integer(1, 5, default=3),
    open=Boolean(default=False),
    tags=Json(ListOf(Text(3)), null=True),
    required="dueAt",
    aliases={"name": "title", "label": "title"},
)
WHOLE = {"title": "Hangar 2", "dueAt": "2026-06-01T12:00:00Z"}


def test_values_are_named_as_the_fields_are_and_what_is_unknown_is_ignored():
    values = VISIT.read({**WHOLE, "level": 4, "colour": "red"})

    assert values == {"title": "Hangar 2", "due_at": "2026-06-01T12:00:00.000Z", "level": 4}


def test_every_fault_is_told_at_once_with_its_path():
    data = {"title": "", "level": 9, "open": "no", "tags": ["a", 5, "long"]}

    with pytest.raises(ValidationErrors) as refusal:
        VISIT.read(data)

    assert refusal.value.issues == [
        (["title"], "Expected 1 to 300 characters"),
        (["dueAt"], "Required"),
        (["level"], "Expected a number from 1 to 5"),
        (["open"], "Expected boolean"),
        (["tags", 1], "Expected string"),
        (["tags", 2], "Expected at most 3 characters"),
    ]


@pytest.mark.parametrize("data", [None, [], "a", 1, [WHOLE]])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(ValidationErrors) as refusal:
        VISIT.read(data)

    assert refusal.value.issues == [([], "Expected object")]


@pytest.mark.parametrize(
    ("given", "values"),
    [({"level": None}, {}), ({"open": None}, {}), ({"tags": None}, {"tags": None})],
)
def test_null_means_the_default_where_there_is_one(given, values):
    read = VISIT.read({**WHOLE, **given})

    assert read == {"title": "Hangar 2", "due_at": "2026-06-01T12:00:00.000Z", **values}


def test_null_for_a_required_member_is_its_absence():
    with pytest.raises(ValidationErrors) as refusal:
        VISIT.read({**WHOLE, "title": None})

    assert refusal.value.issues == [(["title"], "Required")]


@pytest.mark.parametrize(
    ("data", "values"), [({}, {}), ({"title": None}, {}), ({"level": 2}, {"level": 2})]
)
def test_a_partial_body_may_lack_everything(data, values):
    assert VISIT.read(data, partial=True) == values


def test_a_partial_body_is_still_held_to_its_fields():
    with pytest.raises(ValidationErrors, match="Expected a number from 1 to 5"):
        VISIT.read({"level": 0}, partial=True)


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"name": "By alias"}, "By alias"),
        ({"label": "Second"}, "Second"),
        ({"title": "Own", "name": "By alias"}, "Own"),
        ({"title": None, "name": "By alias"}, "By alias"),
    ],
)
def test_an_alias_stands_in_for_an_absent_member(given, title):
    values = VISIT.read({"dueAt": "2026-06-01T12:00:00Z", **given})

    assert values["title"] == title


def test_a_lenient_reading_takes_a_number_for_text():
    values = VISIT.read({**WHOLE, "title": 5}, coerce=True)

    assert values["title"] == "5"
    with pytest.raises(ValidationErrors, match="Expected string"):
        VISIT.read({**WHOLE, "title": 5})


def test_text_is_parsed_where_a_query_or_a_cell_is_read():
    values = VISIT.read({**WHOLE, "level": "2", "open": "yes"}, parse=True)

    assert (values["level"], values["open"]) == (2, True)
    with pytest.raises(ValidationErrors) as refusal:
        VISIT.read({**WHOLE, "level": "two", "open": "perhaps"}, parse=True)
    assert [path for path, _ in refusal.value.issues] == [["level"], ["open"]]


def test_a_schema_describes_itself():
    assert VISIT.describe() == {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 300, "minLength": 1, "pattern": VISIBLE},
            "dueAt": {"type": ["string", "null"], "format": "date-time"},
            "level": {"type": ["integer", "null"], "minimum": 1, "maximum": 5, "default": 3},
            "open": {"type": ["boolean", "null"], "default": False},
            "tags": {
                "type": ["array", "null"],
                "items": {"type": "string", "maxLength": 3},
                "maxItems": 1000,
            },
        },
        "required": ["title", "dueAt"],
    }


def test_a_record_describes_all_of_its_members_as_always_there():
    schema = describe_model(Flow)

    assert schema["required"] == [
        *("id", "name", "description", "requiredAttestationTypes", "tags", "orgSlug"),
        *("templateYaml", "createdAt", "updatedAt", "requiresApproval", "requiredApproverRoles"),
        "visibility",
    ]
    assert schema["properties"]["orgSlug"]["type"] == ["string", "null"]
    assert schema["properties"]["visibility"] == {"type": "string", "enum": ["PUBLIC", "PRIVATE"]}


def test_filters_ask_for_nothing_that_is_not_said_to_be_required():
    filters = Filters(Finding.title, kind=Choice("a b"), required="kind")

    assert filters.read({"kind": "a"}) == {"kind": "a"}
    with pytest.raises(ValidationErrors) as refusal:
        filters.read({})
    assert refusal.value.issues == [(["kind"], "Required")]


def test_a_shape_keeps_the_names_of_its_members_and_fills_in_what_is_absent():
    shape = Shape(file_name=Text(9, 1), seen_at=Timestamp(null=True))

    assert shape.read({"fileName": "a.pdf", "more": 1}) == {"fileName": "a.pdf", "seenAt": None}


def test_no_schema_at_all_takes_anything_and_reads_nothing():
    assert EMPTY.read({"a": 1}) == {}
