"""Templates, their conditions and patterns, and a trail's status."""

import re
import time

import pytest
import yaml
from stored import audit, events, tables

from factstore.trails import make_trail
from novantra_lite import (
    TEMPLATE_SIZE,
    Approval,
    Artifact,
    Condition,
    Pattern,
    Problem,
    Template,
    Trail,
    artifact_fields,
    parse_yaml,
    read_template,
    record_attestation,
    update_trail_status,
    write_transaction,
)

FIELDS = {
    "flow": None,
    "flow.name": "payments",
    "flow.tags": None,
    "flow.tags.team": "money",
    "flow.tags.cost-center": "7",
    "flow.tags.two words": "yes",
    "flow.tags.empty": "",
    **artifact_fields("registry.io/payments/api", "sha256:00ff"),
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('flow.name == "payments"', True),
        ('flow.name == "billing"', False),
        ("flow.name == 'payments'", True),
        ('flow.name=="payments"', True),
        ('flow.name != "billing"', True),
        ('flow.name != "payments"', False),
        ('${{ flow.name == "payments" }}', True),
        ('  ${{flow.name == "payments"}}  ', True),
        ('${{ flow.name == "billing" }}', False),
        ('artifact.name == "registry.io/payments/api"', True),
        ('artifact.fingerprint == "sha256:00ff"', True),
        ('flow.tags.team == "money"', True),
        ('flow.tags["team"] == "money"', True),
        ("flow.tags[ 'two words' ] == 'yes'", True),
        ('flow.tags.cost-center == "7"', True),
        ('flow.tags.empty == ""', True),
        ('flow.name in ["billing", "payments"]', True),
        ('flow.name in ["billing"]', False),
        ("flow.name in []", False),
        ("exists(flow)", True),
        ("exists(artifact)", True),
        ("exists(flow.tags)", True),
        ("exists( flow.tags.team )", True),
        ("exists(flow.tags.empty)", True),
        ("exists(flow.tags.tier)", False),
        ("exists(artifact.name)", True),
        ('matches(flow.name, "pay.*")', True),
        ('matches(flow.name, "pay")', False),
        ('matches(artifact.name, "registry\\.io/.*/api")', True),
        ("${{ matches(artifact.fingerprint, 'sha256:[0-9a-f]{4}') }}", True),
        ('flow.name == "payments" and flow.tags.team == "money"', True),
        ('flow.name == "payments" and flow.tags.team == "other"', False),
        ('flow.name == "billing" or flow.tags.team == "money"', True),
        ('flow.name == "billing" or flow.tags.team == "other"', False),
        ('not flow.name == "payments"', False),
        ('not flow.name == "billing"', True),
        ('not not flow.name == "payments"', True),
        # and binds closer than or, not closer than and.
        ('flow.name == "payments" or flow.name == "x" and flow.name == "y"', True),
        ('flow.name == "x" and flow.name == "y" or flow.name == "payments"', True),
        ('(flow.name == "payments" or flow.name == "x") and flow.name == "y"', False),
        ('not flow.name == "x" and flow.name == "y"', False),
        ('not (flow.name == "x" and flow.name == "y")', True),
        ('not (exists(flow) or exists(flow.tags.x)) or flow.tags.team == "money"', True),
        ("exists(flow) and exists(artifact)", True),
        ("exists(flow) and exists(flow.tags.x)", False),
        ('flow.name != "a and b" and flow.name in ["payments", "x or (y"]', True),
        # A tag that the flow lacks is unlike everything.
        ('flow.tags.owner == "x"', False),
        ('flow.tags.owner == ""', False),
        ('flow.tags.owner != "x"', True),
        ('flow.tags.owner in ["x"]', False),
        ('matches(flow.tags.owner, ".*")', False),
        ('flow.tags["tier"] != "1"', True),
    ],
)
def test_a_condition_holds_as_it_reads(text, holds):
    condition = Condition(text)

    assert condition.holds(FIELDS) is holds


MALFORMED = [
    "flow.nam == 'payments'",
    "flow.owner == 'x'",
    "flow == 'payments'",
    "flow.tags == 'money'",
    "flow.tags. == 'money'",
    "artifact == 'api'",
    "artifact.tag == 'api'",
    "exists(release)",
    "exists(flow.owner)",
    'matches(flow, ".*")',
    "Flow.name == 'payments'",
    'matches(flow.name, "a{1000}")',
    'matches(flow.name, "(a{100}){100}")',
    'matches(flow.name, "((a{9}){9}){9}")',
    "${{ }}",
    "${{ exists(flow)",
    "flow.name",
    "flow.name ==",
    'flow.name = "payments"',
    "flow.name == payments",
    'flow.name == "payments',
    'flow.name == "payments" and',
    'and flow.name == "payments"',
    'flow.name == "payments" flow.name == "payments"',
    'flow.name == "payments" && exists(flow)',
    '(flow.name == "payments"',
    'flow.name == "payments")',
    "()",
    "not",
    "in in in",
    'flow.name in "payments"',
    'flow.name in ["payments"',
    'flow.name in ["payments",]',
    'flow.name in ["payments" "x"]',
    "exists()",
    "exists(flow",
    'exists("flow")',
    "matches(flow.name)",
    "matches(flow.name, pay)",
    'matches(flow.name, "(pay")',
    'matches(flow.name, "[pay")',
    'matches(flow.name, "*")',
    'matches(flow.name, "a**")',
    'matches(flow.name, "p{3,1}")',
    'matches(flow.name, "[z-a]")',
    'matches(flow.name, "(p)\\1.*")',
    'matches(flow.name, "(?=pay).*")',
    'matches(flow.name, "(?<!x)pay.*")',
    "(" * 5000 + "exists(flow)" + ")" * 5000,
    "not " * 5000 + "exists(flow)",
    'matches(flow.name, "' + "(" * 200 + ")" * 200 + '")',
]


@pytest.mark.parametrize("text", MALFORMED)
@pytest.mark.parametrize("entry", ["{}", "not ({})", "exists(flow) or {}"])
def test_a_malformed_condition_is_refused_with_its_line_and_column(factstore, text, entry):
    document = yaml.safe_dump({"trail": {"attestations": [{"if": "@", "name": "junit"}]}})
    template = document.replace("'@'", yaml_text(entry.format(text)))

    refused = factstore.post("/api/v1/flows", {"name": "payments", "templateYaml": template})

    rule = "templateYaml: Line 3, column 9: this condition cannot be read: "
    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert refused.json["message"].startswith(rule)
    assert len(refused.json["message"]) < 400
    assert factstore.get("/api/v1/flows").json == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flow.nam == 'x'", "unknown field 'flow.nam' at character 1: use flow.name, "),
        ("exists(flow) and flow.name = 'x'", "expected ==, != or in at character 28."),
        ("flow.name == 'x' && exists(flow)", "unexpected '&& exists(flow)' at character 18."),
        ("${{ exists(flow) exists(flow) }}", "unexpected 'exists' at character 14."),
        ("matches(flow.name, '(x')", "the pattern at character 20 cannot be used: "),
        ("flow.name == ", "expected text at the end."),
    ],
)
def test_an_error_in_a_condition_says_what_was_expected_and_where(factstore, text, message):
    template = f'trail: {{attestations: [{{name: junit, if: "{text}"}}]}}'

    refused = factstore.post("/api/v1/flows", {"name": "payments", "templateYaml": template})

    assert refused.status == 400
    assert f"Line 1, column 42: this condition cannot be read: {message}" in refused.json["message"]


def yaml_text(text):
    return yaml.safe_dump(text, default_style='"', width=100_000).strip()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ["junit"]),
        ("if:", ["junit"]),
        ("if: ''", ["junit"]),
        ("if: true", ["junit"]),
        ("if: false", []),
        ("if: yes", ["junit"]),
        ("if: exists(flow)", ["junit"]),
        ("if: ${{ exists(flow.tags.x) }}", []),
        ("""if: ${{ flow.tags["team"] == "money" }}""", ["junit"]),
    ],
)
def test_an_entry_counts_without_an_if_or_where_it_is_true(given, kept):
    template = Template(f"trail:\n  attestations:\n    - name: junit\n      {given}\n")

    assert template.names(FIELDS) == kept


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{}", []),
        ("version: 1", []),
        ("trail: {}", []),
        ("trail: {attestations: [], artifacts: []}", []),
        ("version: 1.0\nid: a\nname: b\ndescription: c\nframework: d\ntags: {e: [f]}", []),
        (
            "requiredAttestations: [junit, snyk]\ntrail: {attestations: [{name: a}]}",
            ["junit", "snyk", "a"],
        ),
        ("trail: {attestations: [{name: b}, {name: a}, {name: b}]}", ["b", "a"]),
        (
            "trail: {attestations: [{name: a}], artifacts: "
            "[{name: api, attestations: [{name: c}, {name: a}]}, {name: web, attestations: "
            "[{name: d}]}]}\nartifacts: [{name: api, attestations: [{name: e}]}]",
            ["a", "c", "e"],
        ),
        ("artifacts: [{name: api, attestations: [{name: e}]}]", ["e"]),
        ("trail: {artifacts: []}\nartifacts: [{name: api, attestations: [{name: e}]}]", ["e"]),
        (
            "trail: {attestations: &x [{name: junit}]}\nartifacts: [{name: api, attestations: *x}]",
            ["junit"],
        ),
        ("trail: {attestations: [&x {name: a, type: t}, {<<: *x, name: b}]}", ["a", "b"]),
    ],
)
def test_a_template_asks_for_the_names_of_its_trail_and_of_one_artifact(text, names):
    template = Template(text)

    assert template.names(artifact_fields("api", "sha256:00")) == names


MERGED = "".join(
    f"m{level}: &m{level} {{<<: [{', '.join([f'*m{level - 1}'] * 9)}]}}\n" for level in range(1, 9)
)
BOMBS = {
    "laughs": "l0: &l0 [x, x]\n"
    + "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10)),
    "merges": "m0: &m0 {a: 1, b: 2}\n" + MERGED,
    "itself": "a: &a {b: *a}",
    "brackets": "a: " + "[" * 99_000,
    "closed brackets": "a: " + "[" * 40 + "]" * 40,
    "dashes": "- " * 49_000,
    "keys": "? " * 49_000,
    "values": "a: &a [" + "x," * 1000 + "]\nb: [" + "*a," * 100 + "]",
    "a chain": "a0: &a0 {x: y}\n"
    + "".join(f"a{n}: &a{n} {{x: *a{n - 1}}}\n" for n in range(1, 99)),
}


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_yaml_bomb_is_refused_at_once(factstore, monkeypatch, loader, bomb):
    monkeypatch.setattr(yaml, "CSafeLoader", getattr(yaml, loader))
    read_template.cache_clear()
    before = time.process_time()

    refused = factstore.post("/api/v1/flows", {"name": "payments", "templateYaml": bomb})

    assert refused.status == 400
    assert re.match(r"templateYaml: Line \d+, column \d+: ", refused.json["message"])
    assert time.process_time() - before < 2


#: Templates that are refused, and what is said of them.
REFUSED = {
    "[": "Line 2, column 1: while parsing a flow node, did not find expected node content.",
    "trail:\n\t- x": "Line 2, column 1: while scanning for the next token, found character that "
    "cannot start any token.",
    "trail: {}\n---\ntrail: {}": "Line 2, column 1: expected a single document in the stream, but "
    "found another document.",
    "# nothing": "Line 1, column 1: the document is empty.",
    "just text": "Line 1, column 1: expected a template, which is a mapping.",
    "- name: junit\n- name: snyk": "Line 1, column 1: expected a template, which is a mapping.",
    "attestations:\n  - name: junit": "Line 1, column 1: a template has no member 'attestations'; "
    "it has trail, artifacts, requiredAttestations, version, id, name, description, framework, "
    "tags.",
    "trail:\nattestations:\n  - name: junit": "Line 2, column 1: a template has no member "
    "'attestations'; it has trail, artifacts, requiredAttestations, version, id, name, "
    "description, framework, tags.",
    "trail:\n  - name: junit": "Line 2, column 3: expected a trail, which is a mapping.",
    "trail:\n  attestation:\n    - name: junit": "Line 2, column 3: a trail has no member "
    "'attestation'; it has attestations, artifacts, description.",
    "trail:\n  attestations:\n    name: a": "Line 3, column 5: expected a list of attestations.",
    "trail:\n  attestations:": "Line 2, column 16: expected a list of attestations.",
    "trail:": "Line 1, column 7: expected a trail, which is a mapping.",
    "trail:\n  attestations: [junit]": "Line 2, column 18: expected an attestation, which is a "
    "mapping.",
    "trail: {attestations: [{type: junit}]}": "Line 1, column 24: this attestation has no name.",
    "trail: {attestations: [{name: ' '}]}": "Line 1, column 31: expected text of 1 to 255 "
    "characters; put numbers, yes and no in quotation marks.",
    "trail: {attestations: [{name: yes}]}": "Line 1, column 31: expected text of 1 to 255 "
    "characters; put numbers, yes and no in quotation marks.",
    "trail: {attestations: [{name: a, type: 5}]}": "Line 1, column 40: expected text of 1 to 255 "
    "characters; put numbers, yes and no in quotation marks.",
    "trail: {attestations: [{name: a, optional: no}]}": "Line 1, column 34: an attestation has no "
    "member 'optional'; it has name, type, if, description.",
    "trail: {attestations: [{name: a, if: 5}]}": "Line 1, column 38: expected a condition, such as "
    "exists(flow).",
    "trail: {attestations: [{name: a, if: [b]}]}": "Line 1, column 38: expected a condition, such "
    "as exists(flow).",
    "artifacts: {api: {attestations: []}}": "Line 1, column 12: expected a list of artifacts.",
    "artifacts: [{attestations: []}]": "Line 1, column 13: this artifact has no name.",
    "artifacts: [{name: api, attestation: []}]": "Line 1, column 25: an artifact has no member "
    "'attestation'; it has name, attestations, description.",
    "trail: {}\ntrail: {}": "Line 2, column 1: 'trail' is repeated.",
    "tags: {a: 1, b: {c: 1, 'c': 2}}": "Line 1, column 24: 'c' is repeated.",
    "tags: {? [a] : b}": "Line 1, column 10: a name must be text.",
    "version: !!timestamp x": "Line 1, column 10: 'x' is no timestamp.",
    "version: !!int ''": "Line 1, column 10: '' is no int.",
    "version: 2001-99-99": "Line 1, column 10: '2001-99-99' is no timestamp.",
    "version: !!python/name:os.system x": "Line 1, column 10: could not determine a constructor "
    "for the tag 'tag:yaml.org,2002:python/name:os.system'.",
    "version: 1\nname: a\x07": "Line 2, column 8: the character U+0007 is not allowed in YAML.",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_template_that_is_not_understood_is_refused_with_line_and_column(lite, factstore, text):
    before = tables(lite)

    refused = factstore.post("/api/v1/flows", {"name": "payments", "templateYaml": text})

    assert (refused.status, refused.json["error"]) == (400, "Bad Request")
    assert refused.json["message"] == f"templateYaml: {REFUSED[text]}"
    assert tables(lite) == before


def test_a_template_is_validated_wherever_it_can_be_stored(lite, factstore):
    flow = factstore.post("/api/v1/flows", {"name": "payments"}).json["id"]
    trail = {"flowId": flow, "gitCommitSha": "c0ffee", "gitBranch": "main", "gitAuthor": "Ada"}
    wrong = {"templateYaml": "trial: {}", "name": "other", "gitAuthorEmail": ""}
    before = tables(lite)

    answers = [
        factstore.post("/api/v1/flows", wrong),
        factstore.post("/api/v2/flows", wrong),
        factstore.put(f"/api/v1/flows/{flow}", wrong),
        factstore.put(f"/api/v2/flows/{flow}", wrong),
        factstore.post("/api/v1/trails", trail | wrong),
        factstore.post("/api/v2/trails", trail | wrong),
    ]
    with pytest.raises(Problem) as stopped:
        lite.collection("flows").create(
            name="other", templateYaml="trial: {}", reason="A new flow for testing."
        )
    report = lite.collection("flows").import_rows(
        iter([(2, {"name": "other", "templateYaml": "trial: {}"})]),
        reason="A new flow for testing.",
    )

    rule = "Line 1, column 1: a template has no member 'trial'"
    assert [answer.status for answer in answers] == [400] * 6
    assert all(rule in answer.json["message"] for answer in answers)
    assert rule in str(stopped.value)
    assert (report.created, report.refused) == (0, 1)
    assert report.faults[0].field == "templateYaml" and rule in report.faults[0].message
    assert tables(lite)["flow"] == before["flow"] and tables(lite)["trail"] == before["trail"]


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_blank_text_takes_a_template_away(factstore, blank):
    flow = factstore.post("/api/v1/flows", {"name": "payments", "templateYaml": "version: 1"}).json

    changed = factstore.put(f"/api/v1/flows/{flow['id']}", {"templateYaml": blank})

    assert (changed.status, changed.json["templateYaml"]) == (200, None)
    assert factstore.get(f"/api/v1/flows/{flow['id']}/template").json["effectiveTemplate"] is None


def test_what_json_does_not_have_becomes_text():
    _, document = parse_yaml(
        "{a: .nan, b: -.inf, c: 2026-01-01, d: 0x10, 5: x, true: y, 2026-01-01: z}"
    )

    assert document == {
        "a": "NaN", "b": "-Infinity", "c": "2026-01-01", "d": 16, "5": "x", "true": "y"
    }  # fmt: skip


def test_a_template_that_is_too_long_is_refused_when_it_is_written(factstore):
    text = "version: 1".ljust(TEMPLATE_SIZE)
    fits = factstore.post("/api/v1/flows", {"name": "a", "templateYaml": text})
    long = factstore.post("/api/v1/flows", {"name": "b", "templateYaml": text + " "})

    assert (fits.status, long.status) == (201, 400)
    assert "templateYaml" in long.json["message"]


@pytest.mark.parametrize(
    "pattern",
    [
        "", "a", "abc", "a*", "a+", "a?b", "(ab)*c?", "a|b|", "(?:a|bc)+", "(a*)*", "(a|b)*abb",
        "a{2}", "a{2,}", "a{1,2}b?", "(a?){3}", "(){5}", "[abc]+", "[^a]*", "[a-b]{2,3}", "a.c",
        ".*", r"\w+", r"\d*", r"a\.c", r"[\]a]", "[]a]+", "a+?b", "^a$", "^a|b$", "(^a|b)c?",
        "a^b", "a$",
        r"\ba\b", r"a\b-\ba", r"a\Bb", "(?i)AB", "a}b]", "((a|b)(a|b))*", "(a|ab)(c|bcd)?",
        "a*?b", r"\s*a\s*", r"a\_b", "x|(a(b(c)?)?)",
    ],
)  # fmt: skip
def test_a_pattern_matches_what_the_regular_expression_does(pattern):
    texts = ["", "a", "b", "c", "aa", "ab", "abc", "abb", "bcbc", "aabb", "a.c", "axc", "AB", "a-a"]
    texts += ["a^b", "]", "a}b]", " a ", "12", "a_b", "abcd", "aaaa", "abab", "ba", "é"]

    matching = [text for text in texts if Pattern(pattern).matches(text)]

    assert matching == [text for text in texts if re.fullmatch(pattern, text, re.ASCII)]


@pytest.mark.parametrize(
    ("pattern", "text", "matched"),
    [
        ("(a+)+$", "a" * 255 + "!", False),
        ("(a+)+$", "a" * 256, True),
        ("(a|a)*b", "a" * 256, False),
        ("(a*)*c", "a" * 256, False),
        ("((a*)*)*c", "a" * 256, False),
        ("(a|aa)+$", "a" * 255 + "b", False),
        (r"(\w*\.)*$", "a.b" * 85, False),
        (".*.*.*.*.*.*.*.*.*.*x", "y" * 256, False),
        ("(.*){40}x", "y" * 256, False),
        ("(a?){60}a{60}", "a" * 60, True),
        ("(a|b)*a(a|b){60}", "ab" * 128, False),
        (r"(\b|\B|a)*c", "a" * 256, False),
    ],
)
def test_no_pattern_takes_long(pattern, text, matched):
    before = time.process_time()

    matches = Pattern(pattern).matches(text)

    assert matches is matched
    assert time.process_time() - before < 1


def test_a_template_full_of_patterns_is_refused_in_bounded_time(factstore):
    entry = "- {name: n%d, if: 'matches(artifact.name, \"(a|b)*a(a|b){60}%d\")'}\n"
    text = "trail:\n  attestations:\n" + "".join("  " + entry % (n, n) for n in range(1400))
    before = time.process_time()

    refused = factstore.post("/api/v1/flows", {"name": "payments", "templateYaml": text})

    assert len(text) < TEMPLATE_SIZE
    assert refused.status == 400
    assert "Line 32, column 21: the patterns up to here are too large" in refused.json["message"]
    assert time.process_time() - before < 2


def test_conditions_for_many_artifacts_are_evaluated_in_bounded_time_and_else_count_as_true():
    entry = "- {name: n%d, if: 'matches(artifact.name, \"(a|b)*a(a|b){60}%d\")'}\n"
    text = "trail:\n  attestations:\n" + "".join("  " + entry % (n, n) for n in range(8))
    template = Template(text)
    artifacts = [artifact_fields("ab" * 100 + f"{n}", "sha256:00") for n in range(10_000)]
    before = time.process_time()

    few, many = template.names_of_all({}, artifacts[:1]), template.names_of_all({}, artifacts)

    assert (few, many) == ([], [f"n{n}" for n in range(8)])
    assert time.process_time() - before < 2


# --- The status of a trail ----------------------------------------------------


@pytest.fixture
def trail(lite):
    """Makes a flow with these values and a trail of it, and returns the trail's id."""

    def make(template=None, **values):
        return make_trail(lite, commit={"template_yaml": template}, **values)

    return make


@pytest.fixture
def record(lite):
    """Records things on a trail, one after the other, and tells its status after each."""

    def act(key, kind, *values):
        def work(current):
            trail = Trail.find(key)
            if kind == "approve":
                Approval.create(trail=key, flow=trail.flow_id, status="APPROVED")
                update_trail_status(trail)
            elif kind == "image":
                Artifact.create(
                    trail=key, image_name=values[0], image_tag="1", sha256_digest="sha256:00"
                )
            else:
                name = values[0] if values else None
                record_attestation(trail, {}, type=kind.lower(), name=name, status="PASSED")
            return Trail.find(key).status

        return write_transaction(lite.workspace, work, actor="test")

    return act


def test_a_trail_is_compliant_once_all_required_types_have_passed(lite, trail, record):
    key = trail(required_attestation_types=["junit", "snyk"])

    statuses = [record(key, item) for item in ("junit", "junit", "zap", "snyk", "zap")]

    assert statuses == ["PENDING", "PENDING", "PENDING", "COMPLIANT", "COMPLIANT"]
    settled = [data["trail"] for name, data in events(lite) if name == "factstore.trail.settled"]
    assert [(one["id"], one["status"]) for one in settled] == [(key, "COMPLIANT")]
    assert [entry[1:3] for entry in audit(lite)].count(("trail.updated", key)) == 1


def test_a_trail_whose_flow_requires_nothing_stays_as_it_is(trail, record):
    key = trail()

    assert [record(key, "junit"), record(key, "approve")] == ["PENDING", "PENDING"]


def test_a_trail_waits_for_its_approval_where_the_flow_asks_for_it(trail, record):
    key = trail(required_attestation_types=["junit"], requires_approval=True)

    assert [record(key, "junit"), record(key, "approve")] == ["PENDING", "COMPLIANT"]


def test_a_failure_makes_a_trail_non_compliant_until_all_has_passed(lite, trail, record):
    key = trail(required_attestation_types=["junit"])

    def fail(current):
        record_attestation(Trail.find(key), {}, type="junit", status="FAILED")
        return Trail.find(key).status

    assert write_transaction(lite.workspace, fail, actor="test") == "NON_COMPLIANT"
    assert record(key, "snyk") == "NON_COMPLIANT"
    assert record(key, "junit") == "COMPLIANT"
    assert write_transaction(lite.workspace, fail, actor="test") == "NON_COMPLIANT"


def test_a_template_requires_names_and_no_types(trail, record):
    key = trail(
        required_attestation_types=["snyk"],
        template_yaml="trail: {attestations: [{name: unit}, {name: e2e, if: exists(flow.tags.x)}]}",
    )

    assert [record(key, "unit"), record(key, "junit", "unit")] == ["PENDING", "COMPLIANT"]


def test_the_template_of_a_trail_goes_before_that_of_its_flow(trail, record):
    key = trail("trail: {attestations: [{name: own}]}", template_yaml="version: 1")

    assert [record(key, "x", "unit"), record(key, "x", "own")] == ["PENDING", "COMPLIANT"]


def test_a_blank_template_is_none(trail, record):
    key = trail("", required_attestation_types=["junit"])

    assert record(key, "junit", "x") == "COMPLIANT"


def test_a_trail_whose_template_cannot_be_read_is_not_compliant(lite, trail, record):
    key = trail("trial: {attestations: [{name: unit}]}")

    assert record(key, "junit", "unit") == "NON_COMPLIANT"


@pytest.mark.parametrize("order", ["unit scan sbom", "sbom unit scan", "scan sbom unit"])
def test_a_trail_waits_for_what_it_reported_and_for_all_that_its_template_names(
    trail, record, order
):
    key = trail(
        "trail:\n  attestations: [{name: unit}, {name: scan, if: 'artifact.name == \"web\"'}]\n"
        "  artifacts: [{name: api, attestations: [{name: sbom}]}]"
    )
    record(key, "image", "web")

    statuses = [record(key, "x", name) for name in order.split()]

    assert statuses == ["PENDING", "PENDING", "COMPLIANT"]
