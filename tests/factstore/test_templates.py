"""Templates, their conditions and patterns, and a trail's status: sections 3 and 6 of the notes."""

import re
import time

import pytest
import yaml
from looking import audit, events

from novantra_lite import (
    TEMPLATE_SIZE,
    Approval,
    Artifact,
    Condition,
    Flow,
    Pattern,
    Template,
    Trail,
    artifact_fields,
    perform,
    read_yaml,
    record_attestation,
    update_trail_status,
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
        ("exists(release)", False),
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
        ('not (exists(flow) or exists(release)) or flow.tags.team == "money"', True),
        ("exists(flow) and exists(artifact)", True),
        ("exists(flow) and exists(release)", False),
        ('flow.name != "a and b" and flow.name in ["payments", "x or (y"]', True),
        # A field that is not known is unlike everything.
        ('flow.owner == "x"', False),
        ('flow.owner == ""', False),
        ('flow.owner != "x"', True),
        ('flow.owner in ["x"]', False),
        ('matches(flow.owner, ".*")', False),
        ('flow == "payments"', False),
        ('flow.tags["tier"] != "1"', True),
    ],
)
def test_a_condition_holds_as_it_reads(text, holds):
    condition = Condition(text)

    assert condition.holds(FIELDS) is holds


MALFORMED = [
    " ",
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
    "\0",
]


@pytest.mark.parametrize("text", MALFORMED)
@pytest.mark.parametrize("entry", ["{}", "not ({})", "exists(flow) or {}"])
def test_what_is_malformed_never_asks_for_anything(text, entry):
    document = yaml.safe_dump({"trail": {"attestations": [{"name": "junit", "if": "@"}]}})

    template = Template(document.replace("'@'", yaml_text(entry.format(text))))

    assert template.document is not None or "\0" in text
    assert template.names(FIELDS) == []


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
        ("if: 5", []),
        ("if: [a]", []),
        ("if: exists(flow)", ["junit"]),
        ("if: ${{ exists(release) }}", []),
        ("""if: ${{ flow.tags["team"] == "money" }}""", ["junit"]),
    ],
)
def test_an_entry_counts_without_an_if_or_where_it_is_true(given, kept):
    template = Template(f"trail:\n  attestations:\n    - name: junit\n      {given}\n")

    assert template.names(FIELDS) == kept


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("  \n", []),
        ("[", []),
        ("just text", []),
        ("version: 1", []),
        ("trail: [x]\nartifacts: {a: b}", []),
        ("trail: {attestations: {name: x}}", []),
        ("trail: {attestations: [x, 5, null, [y], {name: junit}]}", ["junit"]),
        ("trail: {attestations: [{type: junit}]}", [""]),
        ("trail: {attestations: [{name: 5}, {name: true}]}", ["5", "true"]),
        ("trail: {attestations: [{name: b}, {name: a}, {name: b}]}", ["b", "a"]),
        (
            "trail: {attestations: [{name: a}], artifacts: "
            "[{name: api, attestations: [{name: c}, {name: a}]}, {name: web, attestations: "
            "[{name: d}]}]}\nartifacts: [{name: api, attestations: [{name: e}]}]",
            ["a", "c"],
        ),
        ("artifacts: [{name: api, attestations: [{name: e}]}]", ["e"]),
        ("trail: {artifacts: []}\nartifacts: [{name: api, attestations: [{name: e}]}]", ["e"]),
        ("x: &x [{name: junit}]\ntrail: {attestations: *x}", ["junit"]),
        ("x: &x {name: junit}\ntrail: {attestations: [{<<: *x, type: z}]}", ["junit"]),
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
def test_a_yaml_bomb_is_no_template_and_found_out_at_once(monkeypatch, loader, bomb):
    monkeypatch.setattr(yaml, "CSafeLoader", getattr(yaml, loader))
    before = time.process_time()

    document = read_yaml(bomb)

    assert document is None
    assert time.process_time() - before < 2


@pytest.mark.parametrize(
    "text",
    [
        "a: !!timestamp x",
        "a: !!bool x",
        "a: !!int ''",
        "a: !!float 1:x",
        'a: "\\ud800"',
        "a: 2001-99-99",
        "a: " + "9" * 5000,
        "a: !!python/name:os.system x",
        "a: 1\n---\nb: 1",
    ],
)
def test_values_that_are_none_make_no_template(factstore, text):
    flow = factstore.post("/api/v1/flows", {"name": "payments", "templateYaml": text}).json

    found = factstore.get(f"/api/v1/flows/{flow['id']}/template")

    assert (found.status, found.json["effectiveTemplate"]) == (200, None)


def test_what_json_does_not_have_becomes_text():
    document = read_yaml(
        "{a: .nan, b: -.inf, c: 2026-01-01, d: 0x10, 5: x, true: y, 2026-01-01: z}"
    )

    assert document == {
        "a": "NaN", "b": "-Infinity", "c": "2026-01-01", "d": 16, "5": "x", "true": "y"
    }  # fmt: skip


def test_a_template_that_is_too_long_is_refused_when_it_is_written(factstore):
    fits = factstore.post("/api/v1/flows", {"name": "a", "templateYaml": "x" * TEMPLATE_SIZE})
    long = factstore.post("/api/v1/flows", {"name": "b", "templateYaml": "x" * (TEMPLATE_SIZE + 1)})

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

    found = Pattern(pattern).matches(text)

    assert found is matched
    assert time.process_time() - before < 1


@pytest.mark.parametrize("pattern", ["a{1000}", "(a{100}){100}", "((a{9}){9}){9}", "a?" * 300])
def test_a_pattern_that_is_too_large_leaves_the_requirement_in_force(pattern):
    entry = f"""{{name: junit, if: 'matches(flow.name, "{pattern}")'}}"""

    template = Template(f"trail: {{attestations: [{entry}]}}")

    assert template.names(FIELDS) == ["junit"]


def test_a_template_full_of_patterns_is_read_and_judged_in_bounded_time():
    entry = "- {name: n%d, if: 'matches(artifact.name, \"(a|b)*a(a|b){60}%d\")'}\n"
    text = "trail:\n  attestations:\n" + "".join("  " + entry % (n, n) for n in range(1400))
    before = time.process_time()

    names = Template(text).names(artifact_fields("ab" * 127, "sha256:00"))

    assert len(text) < TEMPLATE_SIZE
    assert "n0" not in names and "n1399" in names
    assert time.process_time() - before < 5


# --- The status of a trail ----------------------------------------------------


@pytest.fixture
def trail(lite):
    """Makes a flow with these values and a trail of it, and returns the trail's id."""

    def make(template=None, **values):
        def work(current):
            flow = Flow.create(name="payments", **values)
            return Trail.create(
                flow=flow.id, git_commit_sha="c0ffee", git_branch="main", git_author="Ada",
                git_author_email="", template_yaml=template,
            ).id  # fmt: skip

        return perform(lite.workspace, work, actor="test")

    return make


@pytest.fixture
def record(lite):
    """Records things on a trail, one after the other, and tells its status after each."""

    def act(key, kind, *values):
        def work(current):
            trail = Trail.fetch(key)
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
            return Trail.fetch(key).status

        return perform(lite.workspace, work, actor="test")

    return act


def test_a_trail_is_compliant_once_all_required_types_have_passed(lite, trail, record):
    key = trail(required_attestation_types=["junit", "snyk"])

    statuses = [record(key, kind) for kind in ("junit", "junit", "zap", "snyk", "zap")]

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
        record_attestation(Trail.fetch(key), {}, type="junit", status="FAILED")
        return Trail.fetch(key).status

    assert perform(lite.workspace, fail, actor="test") == "NON_COMPLIANT"
    assert record(key, "snyk") == "NON_COMPLIANT"
    assert record(key, "junit") == "COMPLIANT"
    assert perform(lite.workspace, fail, actor="test") == "NON_COMPLIANT"


def test_a_template_requires_names_and_no_types(trail, record):
    key = trail(
        required_attestation_types=["snyk"],
        template_yaml="trail: {attestations: [{name: unit}, {name: e2e, if: exists(release)}]}",
    )

    assert [record(key, "unit"), record(key, "junit", "unit")] == ["PENDING", "COMPLIANT"]


def test_the_template_of_a_trail_goes_before_that_of_its_flow(trail, record):
    key = trail("trail: {attestations: [{name: own}]}", template_yaml="[")

    assert [record(key, "x", "unit"), record(key, "x", "own")] == ["PENDING", "COMPLIANT"]


def test_a_blank_template_requires_nothing_of_a_trail(trail, record):
    key = trail("", required_attestation_types=["junit"])

    assert record(key, "junit", "junit") == "PENDING"


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
