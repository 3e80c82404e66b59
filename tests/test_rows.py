"""Rows in and out of files, and OSCAL catalogs as rows."""

import io
from pathlib import Path

import pytest
from conftest import Clock

from novantra_lite import Invalid, Progress, Report, RowFault, oscal_rows, read_rows, write_rows


def read(data, format):
    """All rows in these bytes."""
    data = data.encode() if isinstance(data, str) else data
    return list(read_rows(io.BytesIO(data), format))


def refusal(data, format):
    """The sentence with which these bytes are refused."""
    with pytest.raises(Invalid) as caught:
        read(data, format)
    return str(caught.value)


# --- Reading CSV --------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_is_read_with_the_delimiter_of_its_header(delimiter):
    text = f"assetKey{delimiter}title\na-1{delimiter}x y z\n"

    matches = read(text, "csv")

    assert matches == [(2, {"assetKey": "a-1", "title": "x y z"})]


def test_delimiters_in_rows_and_quoted_header_cells_do_not_count():
    text = 'assetKey;"a,b,c"\n"1,2,3,4";x\n'

    matches = read(text, "csv")

    assert matches == [(2, {"assetKey": "1,2,3,4", "a,b,c": "x"})]


def test_a_byte_order_mark_is_no_part_of_the_first_name():
    data = b"\xef\xbb\xbfassetKey,title\r\na-1,caf\xc3\xa9\r\n"

    matches = read(data, "csv")

    assert matches == [(2, {"assetKey": "a-1", "title": "café"})]


def test_a_csv_row_stands_at_the_physical_line_where_it_starts():
    text = '\nassetKey,title\n\na-1,"one\ntwo\r\nthree"\n\na-2,x\n'

    matches = read(text, "csv")

    assert matches == [
        (4, {"assetKey": "a-1", "title": "one\ntwo\r\nthree"}),
        (8, {"assetKey": "a-2", "title": "x"}),
    ]


def test_a_row_with_too_many_cells_is_a_fault_that_stops_no_other():
    text = "assetKey,title\na-1,x,y\na-2,z\n"

    matches = read(text, "csv")

    message = "3 cells under a header of 2: quote cells that hold the delimiter."
    assert matches == [(2, RowFault(2, "", message)), (3, {"assetKey": "a-2", "title": "z"})]


def test_missing_cells_are_absent_and_rows_of_empty_cells_are_skipped():
    text = "assetKey,title,status\na-1\n,,\na-2,,active\n"

    matches = read(text, "csv")

    assert matches == [(2, {"assetKey": "a-1"}), (4, {"assetKey": "a-2", "status": "active"})]


def test_spaces_around_a_cell_are_kept_and_around_a_name_are_not():
    text = "assetKey , title\n a-1 , x \n"

    matches = read(text, "csv")

    assert matches == [(2, {"assetKey": " a-1 ", "title": " x "})]


def test_a_quote_left_open_is_refused_with_the_line_where_its_row_starts():
    text = 'assetKey,title\na-1,x\na-2,"open\na-3,y\n'

    message = refusal(text, "csv")

    assert message.startswith("The row in line 3 is not CSV: close quotes")


def test_a_csv_that_is_not_utf8_is_refused_with_its_line():
    data = b"assetKey,title\na-1,x\na-2,caf\xe9\n"

    message = refusal(data, "csv")

    assert message == "Line 3 is not UTF-8: save the file as CSV in UTF-8."


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_table_that_excel_or_powershell_saved_as_utf16_is_read(encoding):
    # Both characters have the byte of a line feed in them.
    data = "assetKey\ttitle\r\na-1\tcaf\u00e9 \u0a0d\r\na-2\t\u010a\r\n".encode(encoding)

    matches = read(data, "csv")

    assert matches == [
        (2, {"assetKey": "a-1", "title": "caf\u00e9 \u0a0d"}),
        (3, {"assetKey": "a-2", "title": "\u010a"}),
    ]


def test_a_utf16_file_that_ends_within_a_character_is_refused_with_its_line():
    data = "assetKey,title\na-1,x\na-2,y".encode("utf-16")[:-1]

    message = refusal(data, "csv")

    assert message == "Line 3 is not UTF-8: save the file as CSV in UTF-8."


@pytest.mark.parametrize("format", ["json", "ndjson"])
def test_json_is_read_in_utf16_too(format):
    text = '{"assetKey": "a-1"}'
    data = (f"[{text}]" if format == "json" else text).encode("utf-16")

    assert read(data, format) == [(1, {"assetKey": "a-1"})]


def test_the_empty_columns_that_excel_leaves_at_the_end_are_no_columns():
    text = "assetKey;title;;;\r\na-1;x;;;\r\na-2;y\r\n;;;;\r\na-3;z;;!;\r\n"

    matches = read(text, "csv")

    message = "5 cells under a header of 2: quote cells that hold the delimiter."
    assert matches == [
        (2, {"assetKey": "a-1", "title": "x"}),
        (3, {"assetKey": "a-2", "title": "y"}),
        (5, RowFault(5, "", message)),
    ]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "\ufeffsep=;", "sep=;;;"])
def test_the_first_line_of_excel_names_the_delimiter(first):
    text = f"{first}\r\nassetKey;title\r\na-1;1,5,7\r\n"

    matches = read(text, "csv")

    assert matches == [(3, {"assetKey": "a-1", "title": "1,5,7"})]


@pytest.mark.parametrize("text", ["", "\n\n", "a,,c\n1,2,3\n", "a,b,a\n1,2,3\n"])
def test_a_header_without_a_name_for_each_column_is_refused(text):
    message = refusal(text, "csv")

    assert message == "Line 1 must be a header that names every column, each name once."


def test_a_csv_cell_may_be_longer_than_the_csv_modules_own_limit():
    text = "assetKey,title\na-1," + "x" * 200_000 + "\n"

    [(line, row)] = read(text, "csv")

    assert (line, len(row["title"])) == (2, 200_000)


def test_a_stream_that_was_read_is_left_open():
    stream = io.BytesIO(b"assetKey\na-1\n")

    list(read_rows(stream, "csv"))

    assert not stream.closed


# --- Reading JSON and NDJSON --------------------------------------------------


def test_the_elements_of_a_json_array_come_with_their_lines():
    text = """
[
  {"assetKey": "a-1",
   "tags": ["x"]},

  {"assetKey": "a-2"}, {"assetKey": "a-3"}
]"""

    matches = read(text, "json")

    assert matches == [
        (3, {"assetKey": "a-1", "tags": ["x"]}),
        (6, {"assetKey": "a-2"}),
        (6, {"assetKey": "a-3"}),
    ]


def test_an_object_with_one_array_is_read_as_that_array():
    text = """{"pagination": {"nextCursor": null, "x": [1]},
"assets": [
{"assetKey": "[,:"}
], "n": 1}"""

    matches = read(text, "json")

    assert matches == [(3, {"assetKey": "[,:"})]


@pytest.mark.parametrize("text", ["[]", " [ ] ", '{"assets": []}', "\ufeff[]"])
def test_an_empty_json_array_has_no_rows(text):
    assert read(text, "json") == []


def test_an_element_that_is_no_object_is_a_fault_that_stops_no_other():
    text = '[\n1,\n{"assetKey": "a-1"},\nnull]'

    matches = read(text, "json")

    message = "Expected a JSON object with the members of a record."
    assert matches == [
        (2, RowFault(2, "", message)),
        (3, {"assetKey": "a-1"}),
        (4, RowFault(4, "", message)),
    ]


@pytest.mark.parametrize("text", ["{}", "5", '"text"', "null", '{"a": [], "b": []}'])
def test_json_without_exactly_one_array_is_refused(text):
    message = refusal(text, "json")

    assert message.startswith("Line 1: expected an array of records, or an object with exactly one")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'[\n{"a": 1},\n{"a" 2}\n]', 3),
        (b"", 1),
        (b'[{"a": 1}]\n\nx', 3),
        (b'[\n{"a": "\xe9"}]', 2),
        (b'[{"a": NaN}]', 1),
        (b"[" * 200_000, 1),
        (b"[" + b"9" * 5_000 + b"]", 1),
    ],
)
def test_what_is_not_json_is_refused_with_its_line(data, line):
    message = refusal(data, "json")

    assert message == f"Line {line}: expected JSON in UTF-8 here."


def test_a_broken_ndjson_line_stops_no_other_and_blank_lines_are_skipped():
    data = b'\xef\xbb\xbf{"a": 1}\n\n{"a": \n \r\n[2]\n{"a": "\xe9"}\n{"a": Infinity}\n{"a": 3}'

    matches = read(data, "ndjson")

    message = "This line is not a JSON object in UTF-8."
    assert matches == [
        (1, {"a": 1}),
        (3, RowFault(3, "", message)),
        (5, RowFault(5, "", message)),
        (6, RowFault(6, "", message)),
        (7, RowFault(7, "", message)),
        (8, {"a": 3}),
    ]


def test_ndjson_is_read_as_a_stream():
    def lines():
        yield b'{"a": 1}\n'
        raise AssertionError("The second line was read before it was asked for.")

    matches = next(read_rows(lines(), "ndjson"))

    assert matches == (1, {"a": 1})


# --- Formats ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "assetKey;title\na,1;x\n"),
        ("a.TSV", "assetKey\ttitle\na,1\tx\n"),
        ("a.ndjson", '\n{"assetKey": "a,1", "title": "x"}\n'),
        ("a.jsonl", '\n{"assetKey": "a,1", "title": "x"}\n'),
        ("a.json", '[\n{"assetKey": "a,1", "title": "x"}]'),
    ],
)
def test_the_suffix_of_a_file_names_its_format(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, "utf-8")

    matches = list(read_rows(path))

    assert matches == [(2, {"assetKey": "a,1", "title": "x"})]


def test_a_format_that_is_given_outweighs_the_suffix(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("assetKey\na-1\n", "utf-8")

    matches = list(read_rows(path, "csv"))

    assert matches == [(2, {"assetKey": "a-1"})]


def test_an_unknown_format_is_refused_with_those_that_are_known():
    message = refusal("", "xlsx")

    assert message == "Name the format of the rows: one of csv, tsv, json, ndjson, jsonl."


def test_a_file_that_is_not_there_is_refused_by_name():
    with pytest.raises(Invalid, match=r"There is no file nowhere\.csv, or it cannot be read\."):
        list(read_rows(Path("nowhere.csv")))


# --- Writing ------------------------------------------------------------------


def write(records, format, columns):
    """The text that these records become."""
    stream = io.StringIO(newline="")
    assert write_rows(records, stream, format, columns) == len(records)
    return stream.getvalue()


def test_csv_tells_null_from_empty_and_writes_what_is_no_text_as_json():
    records = [{"a": None, "b": "", "c": ["x", {"y": None}], "d": True, "e": 1.5}, {"a": "x"}]

    text = write(records, "csv", ["a", "b", "c", "d", "e"])

    assert text == 'a,b,c,d,e\r\n,"","[""x"",{""y"":null}]",true,1.5\r\nx,,,,\r\n'


@pytest.mark.parametrize("format", ["csv", "tsv", "json", "ndjson"])
@pytest.mark.parametrize(
    "value",
    [
        "one\ntwo",
        "one\r\ntwo",
        "one\rtwo",
        'say "hello"',
        '"',
        " spaces ",
        "\u00a0no-break",
        "a,b;c\td",
        "naïve 数 🙂 \u2028",
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "'quoted'",
        "\ufeffmark",
    ],
)
def test_a_text_survives_being_written_and_read(format, value):
    records = [{"key": "k", "text": value}, {"key": value, "text": "t"}]

    text = write(records, format, ["key", "text"])

    assert [row for _, row in read(text, format)] == records


def test_json_has_one_record_a_line():
    records = [{"b": None, "a": "é", "hidden": 1}, {"a": {"x": [1]}}]

    text = write(records, "json", ["a", "b"])

    assert text == '[\n{"a":"é","b":null},\n{"a":{"x":[1]}}\n]\n'


def test_ndjson_has_one_record_a_line():
    records = [{"a": 1}, {"a": "x\ny"}]

    text = write(records, "ndjson", ["a"])

    assert text == '{"a":1}\n{"a":"x\\ny"}\n'


@pytest.mark.parametrize(
    ("format", "expected"),
    [("csv", "a,b\r\n"), ("tsv", "a\tb\r\n"), ("json", "[]\n"), ("ndjson", "")],
)
def test_no_records_make_an_empty_file_of_their_format(format, expected):
    assert write([], format, ["a", "b"]) == expected


# --- Report -------------------------------------------------------------------


def test_a_report_keeps_a_thousand_faults_and_counts_the_others():
    report = Report()
    report.created, report.updated, report.unchanged = 1, 2, 3

    for line in range(1, 601):
        report.add_refused(
            RowFault(line, "title", "Required."), RowFault(line, "status", "Unknown.")
        )

    assert (report.refused, report.total) == (600, 606)
    assert (len(report.faults), report.omitted) == (1000, 200)
    assert report.faults[-1] == RowFault(500, "status", "Unknown.")


def test_a_report_reads_as_json():
    report = Report()
    report.created = 4

    report.add_refused(RowFault(7, "title", "Required."))

    assert report.json() == {
        "created": 4,
        "updated": 0,
        "unchanged": 0,
        "refused": 1,
        "faults": [{"line": 7, "field": "title", "message": "Required."}],
        "ignored": [],
        "omitted": 0,
        "stopped": 0,
        "total": 5,
    }


# --- Progress -----------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that counts what is drawn on it."""

    def __init__(self, is_terminal=True):
        super().__init__()
        self.is_terminal, self.drawn = is_terminal, []

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        self.drawn.append(text)


def test_progress_shows_share_rate_and_time_left_and_clears_itself():
    terminal, clock = Terminal(), Clock(50.0)

    with Progress(4_000, terminal, clock) as progress:
        clock.at = 52.0
        progress.advance(1_000)

    assert terminal.drawn == [
        "\r 25% [#####---------------] 500 rows/s, 0:06 left",
        "\r                                                 \r",
    ]


def test_progress_of_unknown_length_shows_the_count():
    terminal, clock = Terminal(), Clock(50.0)

    progress = Progress(None, terminal, clock, noun="bytes")
    clock.at = 54.0
    progress.advance(6_000_000)

    assert terminal.drawn == ["\r6.0 MB, 1.5 MB/s"]


def test_progress_blanks_what_a_longer_line_left():
    terminal, clock = Terminal(), Clock(50.0)

    progress = Progress(None, terminal, clock)
    clock.at = 51.0
    progress.advance(1_000)
    clock.at = 151.0
    progress.advance(0)

    assert terminal.drawn == ["\r1,000 rows, 1,000 rows/s", "\r1,000 rows, 10 rows/s   "]


def test_progress_is_drawn_at_most_ten_times_a_second():
    terminal, clock = Terminal(), Clock(50.0)

    progress = Progress(1_000, terminal, clock)
    for step in range(1, 1_001):
        clock.at = 50.0 + step / 1_000
        progress.advance()

    assert 8 <= len(terminal.drawn) <= 10


def test_progress_beyond_its_total_stays_at_all_of_it():
    terminal, clock = Terminal(), Clock(50.0)

    progress = Progress(10, terminal, clock)
    clock.at = 51.0
    progress.advance(20)

    assert terminal.drawn == ["\r100% [####################] 20 rows/s, 0:00 left"]


def test_progress_writes_nothing_to_a_stream_that_is_no_terminal():
    terminal, clock = Terminal(is_terminal=False), Clock(50.0)

    with Progress(10, terminal, clock) as progress:
        clock.at = 60.0
        progress.advance(5)

    assert terminal.drawn == []
    assert progress.done == 5


# --- OSCAL --------------------------------------------------------------------


def prop(name, value, **others):
    """An OSCAL property."""
    return {"name": name, "value": value, **others}


def control(id, **members):
    """An OSCAL control with a title."""
    return {"id": id, "title": f"Title of {id}", **members}


def catalog(**members):
    """An OSCAL catalog document."""
    metadata = {
        "title": "Harbour Rules, 2nd Édition",
        "version": "2.0",
        "last-modified": "2024-02-13T17:43:40.74643+02:00",
        "oscal-version": "1.1.2",
    }
    return {"catalog": {"uuid": "6a5e", "metadata": metadata, **members}}


def statement(prose, **members):
    """The parts of a control that has this statement and some guidance."""
    return [
        {"name": "guidance", "prose": "Guidance."},
        {"name": "statement", "prose": prose, **members},
    ]


def describe(prose, params):
    """The description of a control with this statement and these parameters."""
    document = catalog(controls=[control("c-1", params=params, parts=statement(prose))])
    return oscal_rows(document).nodes[0]["description"]


def test_an_oscal_catalogs_metadata_become_framework_and_version():
    document = catalog(controls=[control("c-1")])

    matches = oscal_rows(document)

    assert matches.framework == {
        "frameworkKey": "harbour-rules-2nd-edition",
        "name": "Harbour Rules, 2nd Édition",
        "description": None,
        "status": "active",
        "sourceKind": "standard",
    }
    assert matches.version == {
        "versionKey": "2.0",
        "versionLabel": "Version 2.0",
        "status": "active",
        "sourceKind": "standard",
        "publishedAt": "2024-02-13T15:43:40.746Z",
        "effectiveFrom": "2024-02-13T15:43:40.746Z",
    }


def test_the_time_of_publication_goes_before_that_of_the_last_change():
    document = catalog(controls=[control("c-1")])
    document["catalog"]["metadata"]["published"] = "2023-01-02T03:04:05Z"

    matches = oscal_rows(document)

    assert matches.version["publishedAt"] == "2023-01-02T03:04:05.000Z"


def test_groups_controls_and_enhancements_come_in_document_order_below_their_parents():
    deep = control("a-1.1", controls=[control("a-1.1.1")])
    group = {"id": "a", "title": "A", "groups": [{"id": "b", "title": "B"}]}
    group["controls"] = [control("a-1", controls=[deep]), control("a-2")]
    document = catalog(controls=[control("z-1")], groups=[group])

    nodes = oscal_rows(document).nodes

    matches = [(n["nodeKey"], n["parentKey"], n["nodeKind"], n["sortOrder"]) for n in nodes]
    assert matches == [
        ("z-1", None, "control", 1),
        ("a", None, "group", 2),
        ("b", "a", "group", 3),
        ("a-1", "a", "control", 4),
        ("a-1.1", "a-1", "control-enhancement", 5),
        ("a-1.1.1", "a-1.1", "control-enhancement", 6),
        ("a-2", "a", "control", 7),
    ]


def test_the_sort_order_follows_sort_ids_where_there_are_some():
    late = control("a-10", props=[prop("sort-id", "a-10")], controls=[control("a-10.1")])
    document = catalog(controls=[late, control("a-2", props=[prop("sort-id", "a-02")])])

    nodes = oscal_rows(document).nodes

    matches = [(node["nodeKey"], node["sortOrder"]) for node in nodes]
    assert matches == [("a-10", 2), ("a-10.1", 3), ("a-2", 1)]


def test_a_group_without_an_id_gets_a_key_from_its_title():
    inner = {"title": "Berths & Quays", "controls": [control("q-1")]}
    document = catalog(groups=[{"id": "h", "title": "Harbour", "groups": [inner]}])

    nodes = oscal_rows(document).nodes

    matches = [(node["nodeKey"], node["parentKey"]) for node in nodes]
    assert matches == [("h", None), ("h-berths-quays", "h"), ("q-1", "h-berths-quays")]


def test_the_reference_code_is_the_plain_label_or_else_the_id():
    labels = [
        prop("label", "A-01", **{"class": "zero-padded"}),
        prop("label", "theirs", ns="https://example.com/ns"),
        prop("label", "A-1"),
    ]
    padded = control("a-2", props=[prop("label", "A-02", **{"class": "zero-padded"})])
    document = catalog(controls=[control("a-1", props=labels), padded, control("a-3")])

    nodes = oscal_rows(document).nodes

    assert [node["referenceCode"] for node in nodes] == ["A-1", "A-02", "A-3"]


def test_a_withdrawn_control_says_so_and_has_no_description():
    gone = control("a-1", props=[prop("status", "Withdrawn")])
    document = catalog(controls=[gone, control("a-2", props=[prop("status", "new")])])

    nodes = oscal_rows(document).nodes

    matches = [(node["status"], node["description"]) for node in nodes]
    assert matches == [("withdrawn", None), ("active", None)]


def test_nested_items_of_a_statement_become_lines_with_their_labels():
    below = [{"name": "item", "props": [prop("label", "1.")], "prose": " Ropes; "}]
    items = [
        {"name": "item", "props": [prop("label", "a.")], "prose": "Check:", "parts": below},
        {"name": "item", "props": [prop("label", "b.")], "prose": "Report."},
    ]
    document = catalog(controls=[control("a-1", parts=statement("The master must:", parts=items))])

    nodes = oscal_rows(document).nodes

    assert nodes[0]["description"] == "The master must:\na. Check:\n1. Ropes;\nb. Report."


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ([{"id": "p", "label": "period"}], "Within [period]."),
        ([{"id": "p", "label": "period", "values": ["2 h", "3 h"]}], "Within 2 h, 3 h."),
        ([{"id": "p", "select": {"choice": ["a ", "b"]}}], "Within [one of: a; b]."),
        (
            [
                {"id": "p", "select": {"how-many": "one-or-more", "choice": ["a {{ q }} ", "b"]}},
                {"id": "q", "label": "other"},
            ],
            "Within [one or more of: a [other]; b].",
        ),
        ([{"id": "p"}], "Within [p]."),
        ([], "Within [p]."),
    ],
)
def test_a_placeholder_gives_way_to_value_label_choices_or_id(params, expected):
    prose = "Within {{ insert: param, p }}."

    assert describe(prose, params) == expected


def test_a_placeholder_may_be_spaced_freely_and_belong_to_the_catalog():
    parts = statement("{{insert:param,p}} and {{ insert:  param,\n p}}")
    document = catalog(params=[{"id": "p", "label": "x"}], controls=[control("a-1", parts=parts)])

    nodes = oscal_rows(document).nodes

    assert nodes[0]["description"] == "[x] and [x]"


def test_parameters_that_hold_one_another_come_to_an_end():
    params = [
        {"id": "p", "label": "p {{ insert: param, q }}"},
        {"id": "q", "label": "q {{ insert: param, p }}"},
    ]

    description = describe("{{ insert: param, p }}", params)

    assert description == "[p [q [p [q]]]]"


@pytest.mark.parametrize("document", [None, [], {}, {"profile": {}}, {"catalog": {"metadata": 1}}])
def test_a_document_that_is_no_oscal_catalog_is_refused_with_what_was_expected(document):
    with pytest.raises(Invalid, match="Expected an OSCAL catalog: "):
        oscal_rows(document)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "“groups” or “controls”"),
        ({"controls": {}}, r"document\.catalog\.controls: Expected a list"),
        ({"controls": ["a"]}, r"document\.catalog\.controls\[0\]: Expected an object"),
        ({"controls": [{"id": 1}]}, r"document\.catalog\.controls\[0\]\.id: Expected text"),
        ({"controls": [{"id": "a"}]}, "control “a” must have a title, and an id of its own"),
        ({"controls": [{"title": "x"}]}, "control “” must have a title, and an id of its own"),
        ({"controls": [control("a"), control("a")]}, "control “a” must have a title, and an id"),
    ],
)
def test_a_broken_oscal_catalog_is_refused_with_what_is_wrong(members, message):
    document = catalog(**members)

    with pytest.raises(Invalid, match=message):
        oscal_rows(document)


@pytest.mark.parametrize("given", ["", "yesterday", "0001-01-01T00:00:00+14:00"])
def test_an_oscal_catalog_without_a_sound_time_is_refused(given):
    document = catalog(controls=[control("a-1")])
    document["catalog"]["metadata"]["last-modified"] = given

    with pytest.raises(Invalid, match=r"metadata: Expected “published” or “last-modified”"):
        oscal_rows(document)
