"""The tally: what triggers count as records come, change and go, also in an older file."""

import pytest
from factstore.trails import make, make_attestation, make_trail
from inside import rows, tamper
from older import make_older, write_as_before

from novantra_lite import (
    Attestation,
    Flow,
    NovantraLite,
    SecurityScan,
    Tally,
    Trail,
    record_scan,
    schema_sql,
)


def tally(lite, model):
    """What is known of all of a model's records."""
    with lite.workspace.read():
        return dict(Tally.of(model))


def places(lite, kind):
    """What is known of a kind, by place and state."""
    found = rows(lite, "SELECT place, state, number FROM tally WHERE kind = ?", kind)
    return {row[:2]: row[2] for row in found}


def settle(lite, trail, status):
    return make(lite, lambda: Trail.fetch(trail).change(status=status))


def remove_flow(lite, name):
    return make(lite, lambda: Flow.get(Flow.name == name).remove())


def test_records_are_counted_as_they_come_change_and_go(lite, clock):
    first = make_trail(lite, "payments")
    clock.advance(86_400)
    make_trail(lite, "billing")
    before = tally(lite, Trail)

    settle(lite, first, "COMPLIANT")
    after = tally(lite, Trail)
    remove_flow(lite, "payments")

    assert before == {"PENDING": 2}
    assert after == {"PENDING": 1, "COMPLIANT": 1}
    assert tally(lite, Trail) == {"PENDING": 1, "COMPLIANT": 0}
    assert lite.verify() == []


def test_trails_are_counted_by_day_and_by_flow_and_day(lite, clock):
    first = make_trail(lite, "payments")
    clock.advance(86_400)
    make_trail(lite, "billing")
    settle(lite, first, "COMPLIANT")
    flows = dict(rows(lite, "SELECT name, id FROM flow"))

    counted = {place: number for place, number in places(lite, "trail").items() if number}

    assert counted == {
        ("all", "PENDING"): 1,
        ("all", "COMPLIANT"): 1,
        ("all/2026-06-01", "COMPLIANT"): 1,
        ("all/2026-06-02", "PENDING"): 1,
        (f"{flows['payments']}/2026-06-01", "COMPLIANT"): 1,
        (f"{flows['billing']}/2026-06-02", "PENDING"): 1,
    }


def test_what_is_found_is_added_up(lite):
    trail = make_trail(lite)
    found = {"critical_vulnerabilities": 2, "medium_vulnerabilities": 5}

    make(lite, lambda: record_scan(Trail.fetch(trail), {"tool": "trivy", **found}))
    make(lite, lambda: record_scan(Trail.fetch(trail), {"tool": "trivy", **found}))
    make(lite, lambda: record_scan(Trail.fetch(trail), {"tool": "trivy"}))

    assert tally(lite, SecurityScan) == {
        "FAILED": 2,
        "PASSED": 1,
        "withCritical": 2,
        "critical": 4,
        "high": 0,
        "medium": 10,
        "low": 0,
    }


def test_work_that_fails_counts_for_nothing(lite):
    trail = make_trail(lite)

    def work():
        Attestation.create(trail=trail, type="scan")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        make(lite, work)

    assert tally(lite, Attestation) == {}


def test_a_file_of_an_older_layout_is_counted_when_it_is_opened(tmp_path, clock, monkeypatch):
    path = tmp_path / "register.db"
    with monkeypatch.context() as patch:
        write_as_before(patch)
        with NovantraLite(path, clock=clock) as lite:
            make_attestation(lite, make_trail(lite), status="PASSED")
            present = rows(lite, "SELECT type, name FROM sqlite_schema ORDER BY name")
    make_older(path)

    with NovantraLite(path, clock=clock) as lite:
        make_attestation(lite, make_trail(lite, "billing"), status="FAILED")

        assert tally(lite, Trail) == {"PENDING": 2}
        assert tally(lite, Attestation) == {"PASSED": 1, "FAILED": 1}
        assert rows(lite, "SELECT type, name FROM sqlite_schema ORDER BY name") == present
        assert lite.verify() == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tally SET number = number + 1 WHERE place = 'all'",
        "DELETE FROM tally WHERE kind = 'trail' AND place = 'all'",
        "INSERT INTO tally (kind, place, state, number) VALUES ('trail', 'all', 'COMPLIANT', 7)",
    ],
)
def test_a_tally_that_does_not_add_up_is_found(lite, change):
    make_trail(lite)

    assert tamper(lite, change) == 1
    assert lite.verify() == ["The tally of trail records does not add up."]


def test_only_tables_that_say_so_have_a_tally():
    triggers = [line for line in schema_sql().splitlines() if "_tally_" in line]

    assert {line.split('"')[1].split("_tally_")[0] for line in triggers} == {
        "attestation",
        "security_scan",
        "trail",
    }
