"""JSON: what no record may hold is refused before anybody looks at it."""

import pytest
from rawfile import FINDINGS, counts

from novantra_lite import Invalid, read_json, to_json

UNFIT = {
    "nothing": b"",
    "half an object": b'{"a":',
    "two values": b"1 2",
    "other bytes than UTF-8": b'{"a":"\xff"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "not a number": b'{"a":NaN}',
    "infinity": b"[Infinity]",
    "minus infinity": b"[-Infinity]",
    "a number beyond every float": b"[1e999]",
    "a number of 5,000 digits": b"9" * 5000,
    "a raw NUL": b'["a\0"]',
    "an escaped NUL": b'["a\\u0000"]',
    "a NUL in a name": b'{"a\\u0000":1}',
    "half a surrogate pair": b'["\\ud83d"]',
    "half a surrogate pair in a name": b'{"\\ude00":1}',
    "33 levels": b"[" * 33 + b"]" * 33,
    "33 levels of both kinds": b'[{"a":' * 17 + b"1" + b"}]" * 17,
    "100,000 levels": b"[" * 100_000,
}


@pytest.mark.parametrize("data", UNFIT.values(), ids=UNFIT)
def test_a_body_that_no_record_may_hold_is_refused(data):
    with pytest.raises(Invalid) as refusal:
        read_json(data)

    assert refusal.value.status == 400
    assert refusal.value.issues[0]["message"].startswith("Expected")


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'["\\ud83d\\ude00"]', ["\N{GRINNING FACE}"]),
        ('"Prüfung"'.encode(), "Prüfung"),
        (b'["' + b"[{" * 40 + b'"]', ["[{" * 40]),
        (b"[" + b"[1]," * 40 + b"[1]]", [[1]] * 41),
    ],
)
def test_a_body_that_only_looks_unfit_is_read(data, value):
    assert read_json(data) == value


def test_thirty_two_levels_are_read():
    value = read_json(b"[" * 32 + b"]" * 32)

    assert to_json(value) == "[" * 32 + "]" * 32


def test_json_is_written_compactly_and_in_its_own_letters():
    assert to_json({"a": ["Prüfung", None, True, 1.5]}) == '{"a":["Prüfung",null,true,1.5]}'


@pytest.mark.parametrize("data", UNFIT.values(), ids=UNFIT)
def test_such_a_body_gets_a_400_and_leaves_nothing(lite, novantra, data):
    answer = novantra.request("POST", FINDINGS, body=data or b" ")

    assert (answer.status, answer.json["error"]) == (400, "validation")
    assert counts(lite) == (0, 3, 2, 0, 0)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b'{"title": "a\\u0000b"}', ["title"]),
        (b'{"title": "\\ud800"}', ["title"]),
        (b'{"x": [{"y": 1}, {"y": "\\ud83d x"}]}', ["x", 1, "y"]),
        (b'{"x": {"\\udfff": 1}}', ["x"]),
        (b'["\\u0000"]', [0]),
    ],
)
def test_the_issue_names_the_member_whose_text_is_no_text(novantra, data, path):
    refused = novantra.request("POST", FINDINGS, body=data)

    assert (refused.status, refused.json["error"]) == (400, "validation")
    assert refused.json["issues"] == [
        {"path": path, "message": "Expected text without NUL and lone surrogates"}
    ]
