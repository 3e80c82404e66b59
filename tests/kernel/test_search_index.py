"""Search index: it has each record's text as it is, whatever becomes of record and file."""

import lzma
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
from rawfile import rows, tamper, until

import novantra_lite
from novantra_lite import (
    ENTRIES_WAITING,
    PLACES,
    Asset,
    NovantraLite,
    Text,
    find_places,
    folded,
    place_ranges,
    restore,
    searched_models,
)

LAYOUTS = Path(__file__).parents[1] / "layouts"


def write(lite, work):
    """Do a piece of work that writes."""
    return novantra_lite.write_transaction(lite.workspace, lambda session: work(), actor="test")


def an_asset(name):
    """An asset of this name, made in the session at hand."""
    return Asset.create(asset_key=name, asset_kind="tool", display_name=name)


def found(lite, text):
    """The ids of the records that the index finds for a text, the newest first."""
    lite.workspace.update_index()
    with lite.workspace.read():
        places = find_places(text, [model.searched.number for model in searched_models().values()])
    query = "SELECT record FROM search_record WHERE place = ?"
    return [rows(lite, query, location)[0][0] for location in places]


def test_the_numbers_of_the_kinds_are_what_files_were_written_with():
    numbers = {model.searched.type: model.searched.number for model in searched_models().values()}

    assert numbers == {
        "attestation": 1,
        "artifact": 2,
        "trail": 3,
        "vulnerability": 4,
        "finding": 5,
        "asset": 6,
        "evidence-claim": 7,
        "framework-node": 8,
        "patch-requirement": 9,
        "change-request": 10,
        "release": 11,
        "configuration-baseline": 12,
        "exception": 13,
        "assessment": 14,
        "vulnerability-assessment": 15,
        "submission-package": 16,
        "submission-requirement": 17,
        "evidence-requirement": 18,
        "engagement": 19,
        "indicator": 20,
        "monitor": 21,
        "risk": 22,
        "control": 23,
        "framework": 24,
        "deployment-policy": 25,
        "policy": 26,
        "logical-environment": 27,
        "environment": 28,
        "flow": 29,
        "organisation": 30,
    }


def test_only_text_is_searched_and_only_of_facts():
    for model in searched_models().values():
        names = f"{model.searched.names} {model.searched.text}".split()
        assert all(isinstance(model._meta.fields[name], Text) for name in names)
        assert model.fact
        assert not model.seeds


def test_a_change_of_the_text_and_only_that_moves_the_index(lite):
    asset = write(lite, lambda: an_asset("wrench"))
    lite.workspace.update_index()
    index = rows(lite, "SELECT * FROM search_data")

    write(lite, lambda: Asset.find(asset.id).change(status="retired"))
    lite.workspace.update_index()
    same = rows(lite, "SELECT * FROM search_data")
    write(lite, lambda: Asset.find(asset.id).change(display_name="pump"))

    assert same == index
    assert [found(lite, text) for text in ("wrench", "pump")] == [[asset.id], [asset.id]]
    assert rows(lite, "SELECT text FROM search_record") == [
        ("\ufdd0pump\ufdd0wrench\ufdd0\ufdd1tool\ufdd1\ufdd1",)
    ]
    assert lite.verify() == []


def test_a_record_keeps_its_place_while_it_is_there(lite):
    first = write(lite, lambda: an_asset("wrench one"))
    second = write(lite, lambda: an_asset("wrench two"))

    write(lite, lambda: Asset.find(first.id).change(display_name="wrench three"))

    assert found(lite, "wrench") == [second.id, first.id]


@pytest.mark.parametrize(
    ("becomes", "finds"),
    [
        (lambda: an_asset("pump").change(display_name="wrench"), ["wrench"]),
        (lambda: an_asset("pump").remove(), []),
        (lambda: [an_asset("pump").remove(), an_asset("pump")], ["pump"]),
        (lambda: [an_asset("pump"), an_asset("gauge")], ["pump", "gauge"]),
    ],
)
def test_a_record_may_become_several_things_in_one_transaction(lite, becomes, finds):
    write(lite, becomes)
    lite.workspace.update_index()

    texts = [text for (text,) in rows(lite, "SELECT text FROM search_record")]
    assert [text.split("\ufdd0")[1] for text in texts] == finds
    assert lite.verify() == []


def test_a_record_may_come_back_with_its_id(lite):
    gone = write(lite, lambda: an_asset("wrench"))
    write(lite, lambda: Asset.find(gone.id).remove())

    write(lite, lambda: Asset.create(**gone.__data__ | {"display_name": "pump"}))

    assert (found(lite, "wrench"), found(lite, "pump")) == ([gone.id], [gone.id])
    assert lite.verify() == []


def test_what_fails_takes_nothing_of_others_with_it(lite):
    def fails():
        an_asset("pump")
        raise KeyError

    with pytest.raises(KeyError):
        write(lite, fails)
    kept = write(lite, lambda: an_asset("wrench"))

    assert (found(lite, "pump"), found(lite, "wrench")) == ([], [kept.id])
    assert lite.verify() == []


def test_pieces_of_work_that_share_a_commit_are_all_taken_up(lite):
    writer = lite.workspace.writer
    works = [partial(an_asset, name) for name in ("wrench one", "wrench two")]
    threads = [threading.Thread(target=write, args=(lite, work)) for work in works]
    statements = []

    with writer.lock:
        for thread in threads:
            thread.start()
        until(lambda: len(writer._waiting) == 2)
        writer.database.connection().set_trace_callback(statements.append)
    for thread in threads:
        thread.join()

    assert statements.count("COMMIT") == 1
    assert len(found(lite, "wrench")) == 2
    assert lite.verify() == []


def test_a_reader_that_may_only_query_searches_too(lite):
    asset = write(lite, lambda: an_asset("wrench"))
    pragmas = [rows(lite, f"PRAGMA {name}") for name in ("query_only", "trusted_schema")]

    assert pragmas == [[(1,)], [(0,)]]
    assert [found(lite, text) for text in ("wrench", "wr", "w")] == [[asset.id]] * 3


def test_a_search_without_any_kind_finds_nothing(lite):
    write(lite, lambda: an_asset("wrench"))

    with lite.workspace.read():
        assert find_places("wrench", []) == []


def test_kinds_that_follow_each_other_are_searched_at_once():
    assert place_ranges([7, 3, 2, 1]) == [(7 * PLACES, 8 * PLACES - 1), (PLACES, 4 * PLACES - 1)]


@pytest.mark.parametrize(
    ("character", "lower"),
    [("A", "a"), ("ς", "σ"), ("İ", "İ"), ("ẞ", "ß"), ("ſ", "s"), ("東", "東")],
)
def test_a_character_is_folded_as_the_index_folds_it(character, lower):
    assert folded(character) == lower


@pytest.mark.parametrize("layout", [1, 2, 3, 4, 5, 6])
def test_an_older_file_is_searched_once_it_is_opened(layout, tmp_path):
    path = tmp_path / "register.db"
    path.write_bytes(lzma.decompress((LAYOUTS / f"layout-{layout}.db.xz").read_bytes()))

    key = "layouts-of-old-files-key-0123456789abcdef"
    with NovantraLite(path, clock=lambda: 1_780_400_000.0, key=key) as lite:
        [(finding,)] = rows(lite, "SELECT id FROM finding WHERE title = 'Second'")
        asset = write(lite, lambda: an_asset("The second drill"))

        assert sorted(found(lite, "second")) == sorted([asset.id, finding])
        assert lite.verify() == []


def test_a_backup_is_searched_once_it_is_restored(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        asset = write(lite, lambda: an_asset("wrench"))
        lite.backup(tmp_path / "copy.db")

    restore(tmp_path / "copy.db", tmp_path / "again.db")
    (tmp_path / "register.db.key").rename(tmp_path / "again.db.key")

    with NovantraLite(tmp_path / "again.db") as lite:
        assert found(lite, "wrench") == [asset.id]
        assert lite.verify() == []


def test_the_index_survives_a_vacuum(lite):
    assets = [write(lite, lambda name=name: an_asset(name)) for name in ("pump", "wrench")]
    write(lite, lambda: Asset.find(assets[0].id).remove())

    lite.workspace.writer.database.connection().execute("VACUUM")
    write(lite, lambda: Asset.find(assets[1].id).change(display_name="gauge"))

    assert found(lite, "gauge") == [assets[1].id]
    assert lite.verify() == []


OTHER = "The search index does not match the texts of the records."


@pytest.mark.parametrize(
    ("tampering", "fault"),
    [
        ("DELETE FROM search_data WHERE id > 100", OTHER),
        ("INSERT INTO search (search) VALUES ('delete-all')", OTHER),
        ("UPDATE search_record SET text = upper(text)", "The search index differs from asset"),
        ("DELETE FROM search_record", "The search index differs from asset"),
        ("UPDATE search_record SET record = 'asset_x'", "The search index differs from asset"),
    ],
)
def test_an_index_that_is_not_that_of_the_records_is_told(lite, tampering, fault):
    write(lite, lambda: an_asset("wrench"))
    lite.workspace.update_index()

    tamper(lite, tampering)

    assert lite.verify()[0].startswith(fault)


def test_an_index_without_any_text_is_sound(lite):
    assert lite.verify() == []


def test_the_index_of_a_file_that_is_open_for_reading_is_checked(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        asset = write(lite, lambda: an_asset("wrench"))

    with NovantraLite(tmp_path / "register.db", read_only=True) as lite:
        assert found(lite, "wrench") == [asset.id]
        assert lite.verify() == []


WAITING = """SELECT max(id) - ifnull((SELECT entry FROM search_position), 0) FROM ledger_entry"""


def test_what_is_written_waits_for_a_search_or_until_it_is_much(lite):
    lite.workspace.update_index()
    waiting = []
    for number in range(ENTRIES_WAITING + 2):
        write(lite, lambda name=f"wrench {number}": an_asset(name))
        waiting += rows(lite, WAITING)[0]

    assert waiting == [*range(1, ENTRIES_WAITING + 1), 0, 1]
    assert lite.verify() == []
    assert len(found(lite, "wrench")) == ENTRIES_WAITING + 2
    assert rows(lite, WAITING) == [(0,)]


def test_what_waits_is_there_after_a_kill_and_in_every_copy_for_reading(tmp_path):
    with NovantraLite(tmp_path / "register.db") as lite:
        asset = write(lite, lambda: an_asset("wrench"))
        lite.workspace.backup(tmp_path / "killed.db")
        lite.backup(tmp_path / "copy.db")
    for name in ("killed", "copy"):
        shutil.copy(tmp_path / "register.db.key", tmp_path / f"{name}.db.key")

    for name, finds in (("killed", []), ("copy", [asset.id]), ("register", [asset.id])):
        with NovantraLite(tmp_path / f"{name}.db", read_only=True) as lite:
            assert (found(lite, "wrench"), lite.verify()) == (finds, [])
    with NovantraLite(tmp_path / "killed.db") as lite:
        assert (found(lite, "wrench"), lite.verify()) == ([asset.id], [])


def test_who_reads_beside_the_writer_finds_what_the_index_has(tmp_path):
    path = tmp_path / "register.db"
    with NovantraLite(path) as writer, NovantraLite(path, read_only=True) as reader:
        asset = write(writer, lambda: an_asset("wrench"))
        before = found(reader, "wrench")
        found(writer, "wrench")

        assert (before, found(reader, "wrench")) == ([], [asset.id])
