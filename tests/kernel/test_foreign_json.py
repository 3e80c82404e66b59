"""JSON of other programs: reading it by paths, and errors that name them."""

import pytest

from novantra_lite import JsonNode

DOCUMENT = {
    "name": "trivy",
    "number": 7,
    "none": None,
    "runs": [{"results": [{"level": "error"}, {"level": 5}]}],
    "words": ["a", "b"],
}


def strict(value, **options):
    return JsonNode.root(value, "report", ValueError, **options)


def lenient(value):
    return JsonNode.root(value, "response", ValueError, is_strict=False)


def test_members_are_read_by_dotted_paths():
    report = strict(DOCUMENT | {"tool": {"driver": {"name": "x"}}})

    assert report.text("tool.driver.name") == "x"
    assert report.integer("number") == 7
    assert report.texts("words") == ["a", "b"]
    assert [result.value for result in report.items("runs")[0].items("results")] == [
        {"level": "error"},
        {"level": 5},
    ]
    assert (report.has("name"), report.has("none"), report.has("other")) == (True, False, False)


@pytest.mark.parametrize("path", ["none", "other", "other.inner", "none.inner"])
def test_what_is_absent_or_null_reads_as_empty(path):
    for node in (strict(DOCUMENT), lenient(DOCUMENT)):
        assert (node.text(path), node.items(path), node.texts(path)) == ("", [], [])
        assert node.get(path).members() == {}


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda report: report.text("number"), "report.number: Expected text."),
        (lambda report: report.text("name.first"), "report.name: Expected an object."),
        (lambda report: report.text("other", required=True), "report.other: Expected text."),
        (lambda report: report.items("name"), "report.name: Expected a list."),
        (lambda report: report.items("other", required=True), "report.other: Expected a list."),
        (lambda report: report.items("words"), "report.words[0]: Expected an object."),
        (lambda report: report.texts("runs"), "report.runs[0]: Expected text."),
        (lambda report: report.integer("name"), "report.name: Expected an integer."),
        (lambda report: report.integer("none"), "report.none: Expected an integer."),
        (
            lambda report: report.items("runs")[0].items("results")[1].text("level"),
            "report.runs[0].results[1].level: Expected text.",
        ),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_its_path(read, message):
    with pytest.raises(ValueError, match=r"^report") as error:
        read(strict(DOCUMENT))

    assert str(error.value) == message


@pytest.mark.parametrize("value", [None, [], "text", 5])
def test_the_root_of_a_strict_document_must_be_an_object(value):
    with pytest.raises(ValueError, match=r"^report: Expected an object\.$"):
        strict(value).text("name")


@pytest.mark.parametrize("value", [None, [], "text", 5, {"a": 5}, {"a": {"b": []}}])
def test_in_a_lenient_document_a_value_of_another_type_reads_as_empty(value):
    response = lenient(value)

    assert (response.text("a.b"), response.items("a"), response.get("a.c").value) == ("", [], None)


def test_in_a_lenient_document_what_is_required_is_an_error():
    with pytest.raises(ValueError, match=r"^response\.a: Expected a list\.$"):
        lenient({"a": 5}).items("a", required=True)


def test_a_boolean_is_no_integer():
    with pytest.raises(ValueError, match=r"^report\.a: Expected an integer\.$"):
        strict({"a": True}).integer("a")


def test_a_member_that_was_not_declared_cannot_be_read():
    report = strict(DOCUMENT, reads={"name", "runs", "results"})

    assert report.text("name") == "trivy"
    with pytest.raises(LookupError, match="does not declare that it reads 'number'"):
        report.integer("number")
    with pytest.raises(LookupError, match="does not declare that it reads 'level'"):
        report.items("runs")[0].items("results")[0].text("level")


def test_the_list_items_of_a_document_are_limited():
    report = strict({"a": [{}, {}], "b": [{}, {}]}, max_items=3)

    assert len(report.items("a")) == 2
    with pytest.raises(ValueError, match=r"^report\.b: .* more than 3 list items\.$"):
        report.items("b")


@pytest.mark.parametrize("data", [b"", b"<html>", b"\xff", b"NaN"])
def test_bytes_that_are_not_json_are_an_empty_lenient_document(data):
    document = JsonNode.parse(data)

    assert (document.value, document.text("a"), document.items("b")) == (None, "", [])
