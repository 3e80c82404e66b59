"""Signed checkpoints: what both chains were at a time, for somebody who keeps it elsewhere.

The notes are read here as https://c2sp.org/signed-note has it, by a parser of this test's own.
"""

import base64
import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import sqlite3
import stat

import pytest
from conftest import WHY
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rawfile import audit, rows

from novantra_lite import Checkpoint, Invalid, NoteKey, NovantraLite, main, restore

FLOWS = "/api/v1/flows"
ZERO = base64.b64encode(bytes(32)).decode()
#: A key and a note of it, as the page about signed notes shows them.
EXAMPLE = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
EXAMPLE_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
EXAMPLE_SIGNATURE = (
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "register.db"


@pytest.fixture
def opened(place, clock):
    """Opens the workspace in the directory of the test, again and again, with its clock."""
    chance = random.Random(7)

    def run(**settings):
        return NovantraLite(place, clock=clock, random=chance, **settings)

    return run


@pytest.fixture
def verify(place, capsys):
    """Verifies the file against notes; gives the faults, or what was said instead of them."""

    def run(notes, *arguments, file=place):
        line = ["verify", str(file), "--checkpoint", str(notes), "--json", *arguments]
        assert main(line) in (0, 1)
        payload = json.loads(capsys.readouterr().out)
        return payload.get("faults", payload)

    return run


def notes_of(location):
    return location.with_name("register.db.checkpoints")


def make_flow(lite, name):
    return lite.client("factstore:write").post(FLOWS, {"name": name}).json["id"]


def checked(note, key):
    """The text of a note, once a key has signed it."""
    name, number, encoded = key.split("+", 2)
    raw = base64.b64decode(encoded)
    assert raw[0] == 1
    assert hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4].hex() == number
    text, _, signatures = note.rpartition("\n\n")
    (line,) = signatures.splitlines()
    dash, signer, encoded = line.split(" ")
    signed = base64.b64decode(encoded, validate=True)
    assert (dash, signer, signed[:4].hex()) == ("\N{EM DASH}", name, number)
    Ed25519PublicKey.from_public_bytes(raw[1:]).verify(signed[4:], f"{text}\n".encode())
    return text


def test_a_checkpoint_is_a_signed_note_of_both_heads(opened):
    with opened() as lite:
        make_flow(lite, "payments")

        result = lite.checkpoint()

        origin, size, head, *extensions = checked(
            **dict(zip(("note", "key"), result.values(), strict=True))
        ).split("\n")
        (ledger,) = rows(lite, "SELECT entry_hash FROM ledger_entry ORDER BY id DESC LIMIT 1")
        (entry,) = rows(lite, "SELECT hash FROM audit_entry ORDER BY id DESC LIMIT 1")
        assert origin == f"novantra-lite/{lite.workspace.id}"
        assert result["publicKey"].startswith(f"{origin}+")
        assert (size, base64.b64decode(head).hex()) == ("3", ledger[0])
        assert extensions == [
            f"audit 4 {base64.b64encode(bytes.fromhex(entry[0])).decode()}",
            "time 2026-06-01T12:00:00.000Z",
        ]


def test_a_key_reads_and_verifies_as_the_page_about_notes_shows():
    key = NoteKey.read(EXAMPLE)

    signed = base64.b64decode(EXAMPLE_SIGNATURE)

    assert (str(key), key.name, signed[:4]) == (EXAMPLE, "PeterNeumann", key.id)
    assert key.has_signed(EXAMPLE_TEXT, signed[4:])
    assert not key.has_signed(EXAMPLE_TEXT + "!", signed[4:])
    assert not key.has_signed(EXAMPLE_TEXT, b"short")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PeterNeumann",
        EXAMPLE.replace("c74f20a3", "c74f20a4"),
        EXAMPLE.replace("PeterNeumann", "Peter"),
        EXAMPLE.replace("ARpc", "AApc"),
        EXAMPLE[:-4],
        EXAMPLE.replace("+AR", "+AR "),
    ],
)
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(Invalid, match=r"reads NAME\+HEX\+BASE64"):
        NoteKey.read(text)


@pytest.mark.parametrize(
    "text",
    [
        f"a\n0\n{ZERO}\n",
        f"a\n01\n{ZERO}\naudit 0 {ZERO}\ntime t\n",
        f"a\n-1\n{ZERO}\naudit 0 {ZERO}\ntime t\n",
        f"a\n0\n{ZERO[:-4]}\naudit 0 {ZERO}\ntime t\n",
        f"a\n0\n{ZERO}\naudit 0 {ZERO}\ntime t\nmore\n",
    ],
)
def test_a_text_of_another_form_is_no_checkpoint(text):
    result = Checkpoint.read(f"a\n0\n{ZERO}\naudit 0 {ZERO}\ntime t\n")

    assert result == Checkpoint("a", (0, "0" * 64), (0, "0" * 64), "t")
    assert Checkpoint.read(text) is None


# --- When they are written ----------------------------------------------------


def written(location):
    """The sizes of the ledger in the checkpoints beside a file, one after another."""
    if not notes_of(location).exists():
        return []
    return [int(note.split("\n")[1]) for note in notes_of(location).read_text().split("\n\nnova")]


def test_a_checkpoint_is_written_at_shutdown_when_something_is_new(opened, place):
    for name in ("one", "", "two"):
        with opened() as lite:
            if name:
                make_flow(lite, name)

    assert written(place) == [3, 4]
    assert stat.S_IMODE(notes_of(place).stat().st_mode) == 0o600


def test_checkpoints_are_written_at_intervals_while_the_ledger_grows(opened, place, clock):
    seen = []
    with opened(checkpoint_interval=600) as lite:
        for wait in (0, 599, 1, 600):
            make_flow(lite, f"after {wait}")
            clock.advance(wait)
            lite.step()
            seen.append(written(place))
        for _ in range(3):
            clock.advance(600)
            lite.step()
        seen.append(written(place))

    assert seen == [[3], [3], [3, 5], [3, 5, 6], [3, 5, 6]]


def test_what_a_killed_process_left_is_covered_by_the_next_one(opened, place, clock):
    with opened() as lite:
        lite.step()
        make_flow(lite, "payments")
        for part in (place, place.with_name("register.db-wal"), notes_of(place)):
            shutil.copy(part, part.with_name(part.name.replace("register", "killed")))
        shutil.copy(f"{place}.key", place.with_name("killed.db.key"))

    killed = place.with_name("killed.db")
    with NovantraLite(killed, clock=clock) as lite:
        lite.step()

        assert killed.with_name("killed.db.checkpoints").read_text().count("\ntime ") == 2


def test_a_workspace_that_ends_with_the_process_writes_none(lite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    lite.step()
    lite.backup("copy.db")

    assert os.listdir() == ["copy.db"]
    assert rows(lite, "SELECT * FROM checkpoint_key") == []


def test_no_key_is_derived_before_a_checkpoint_is_due(lite):
    make_flow(lite, "payments")

    lite.step()

    assert "signer" not in vars(lite.workspace.checkpoints)


def test_a_backup_has_a_checkpoint_of_its_own_beside_it(opened, place, verify):
    with opened() as lite:
        make_flow(lite, "payments")
        lite.step()
        lite.backup(place.with_name("copy.db"))
        make_flow(lite, "later")

    copy, notes = place.with_name("copy.db"), place.with_name("copy.db.checkpoints")
    assert notes.read_text().split("\n")[1] == "3"
    assert stat.S_IMODE(notes.stat().st_mode) == 0o600
    assert verify(notes, file=copy) == []
    assert verify(notes) == []


def test_checkpoints_may_lie_in_another_directory(opened, place, tmp_path):
    media = tmp_path / "media"
    media.mkdir()

    with opened(checkpoints=str(media)):
        pass
    with pytest.raises(Invalid, match=r"There is no directory .*gone"):
        opened(checkpoints=str(tmp_path / "gone"))

    assert os.listdir(media) == ["register.db.checkpoints"]
    assert not notes_of(place).exists()


def test_a_checkpoint_that_cannot_be_written_is_logged_and_nothing_else(
    opened, place, caplog, monkeypatch, clock
):
    with opened() as lite:
        lite.step()
        before = notes_of(place).read_bytes()
        make_flow(lite, "payments")
        clock.advance(3600)

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as disk:
            disk.setattr("novantra_lite.os.fsync", full)
            lite.step()
            lite.step()

        assert notes_of(place).read_bytes() == before
    assert [record.message for record in caplog.records if "checkpoint" in record.message] == [
        f"No checkpoint was written to {notes_of(place)}: [Errno 28] No space left on device"
    ]
    assert written(place) == [1, 3]


def test_the_key_is_put_into_the_file_once_and_audited(opened):
    for name in ("one", "two"):
        with opened() as lite:
            make_flow(lite, name)

    with opened() as lite:
        key = lite.checkpoint()["publicKey"]
        assert rows(lite, "SELECT id FROM checkpoint_key") == [(key,)]
        assert [entry for entry in audit(lite) if entry[1] == "checkpoint_key.key_added"] == [
            ("system", "checkpoint_key.key_added", "checkpoint_key", key)
        ]
        assert lite.verify() == []


def test_the_key_stays_the_same_over_restart_rotation_backup_and_restore(opened, place, clock):
    keys = set()
    with opened() as lite:
        keys.add(lite.checkpoint()["publicKey"])
        lite.rotate_keys()
        keys.add(lite.checkpoint()["publicKey"])
        lite.backup(place.with_name("copy.db"))
    with opened() as lite:
        keys.add(lite.checkpoint()["publicKey"])
    restore(place.with_name("copy.db"), place.with_name("again.db"))
    shutil.copy(f"{place}.key", place.with_name("again.db.key"))
    with NovantraLite(place.with_name("again.db"), clock=clock) as lite:
        keys.add(lite.checkpoint()["publicKey"])

    assert len(keys) == 1


# --- Verification without a secret --------------------------------------------


@pytest.fixture
def closed(opened, place):
    """A closed file with a checkpoint; its key file is gone. Gives the public key."""
    with opened() as lite:
        make_flow(lite, "payments")
        key = lite.checkpoint()["publicKey"]
    place.with_name("register.db.key").unlink()
    return key


def test_a_file_is_verified_with_its_checkpoints_without_any_secret(closed, place, verify):
    before = place.read_bytes()

    faults = verify(notes_of(place)), verify(notes_of(place), "--public-key", closed)

    assert faults == ([], [])
    assert place.read_bytes() == before
    assert not place.with_name("register.db.key").exists()


def test_without_the_key_file_tampering_still_shows(closed, place, verify):
    with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as file:
        file.execute("UPDATE flow SET name = 'mine'")

    (fault,) = verify(notes_of(place))

    assert fault.startswith("Flow ") and fault.endswith(" is not what the ledger recorded.")


def test_only_the_key_that_is_given_counts(closed, place, verify):
    faults = verify(notes_of(place), "--public-key", EXAMPLE)

    assert faults == ["Checkpoint 1 is not signed by a known key."]


def test_a_checkpoint_of_another_workspace_does_not_count(closed, place, verify, clock):
    other = place.with_name("other.db")
    with NovantraLite(other, clock=clock) as lite:
        key, name = lite.checkpoint()["publicKey"], lite.workspace.id
    notes = other.with_name("other.db.checkpoints")

    assert verify(notes) == ["Checkpoint 1 is not signed by a known key."]
    assert verify(notes, "--public-key", key) == [
        f"Checkpoint 1 is of another workspace, novantra-lite/{name}."
    ]


DAMAGE = {
    "another size": (
        lambda text: text.replace("\n3\n", "\n2\n"),
        "The signature of checkpoint 1 does not match: it was changed.",
    ),
    "another time": (
        lambda text: text.replace("time 2026", "time 2025"),
        "The signature of checkpoint 1 does not match: it was changed.",
    ),
    "no signature": (
        lambda text: text.rpartition("\N{EM DASH}")[0],
        "After 0 checkpoints: From line 1 on, this is no signed note.",
    ),
    "something behind it": (
        lambda text: text + "more",
        "After 1 checkpoints: From line 9 on, this is no signed note.",
    ),
    "a control character": (
        lambda text: text.replace("time 2", "time\t2"),
        "After 0 checkpoints: From line 1 on, this is no signed note.",
    ),
    "base64 of no length": (
        lambda text: text.rstrip("\n")[:-1].rstrip("=") + "\n",
        "After 0 checkpoints: From line 1 on, this is no signed note.",
    ),
    "nothing": (lambda text: "", "The file of checkpoints holds none."),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_checkpoint_that_was_changed_is_named(closed, place, verify, what):
    damage, fault = DAMAGE[what]
    notes_of(place).write_text(damage(notes_of(place).read_text()))

    assert fault in verify(notes_of(place))


def test_every_checkpoint_in_a_file_is_checked(opened, place, verify):
    for name in ("one", "two", "three"):
        with opened() as lite:
            make_flow(lite, name)
    text = notes_of(place).read_text()
    notes_of(place).write_text(text.replace("\n4\n", "\n5\n"))

    assert verify(notes_of(place)) == [
        "The signature of checkpoint 2 does not match: it was changed."
    ]


def test_signatures_of_others_beside_ours_do_not_count(closed, place, verify):
    text = notes_of(place).read_text().rstrip("\n")
    notes_of(place).write_text(f"{text}\n\N{EM DASH} PeterNeumann {EXAMPLE_SIGNATURE}\n")

    assert verify(notes_of(place)) == []


# --- The command line ---------------------------------------------------------


def test_the_commands_print_what_verify_reads(opened, place, capsys, verify, tmp_path):
    with opened() as lite:
        make_flow(lite, "payments")

    assert main(["checkpoint", "--database", str(place)]) == 0
    note = capsys.readouterr().out
    assert main(["checkpoint", "--public-key", "--database", str(place)]) == 0
    key = capsys.readouterr().out.strip()
    assert main(["checkpoint", "--json", "--database", str(place)]) == 0
    payload = json.loads(capsys.readouterr().out)
    (tmp_path / "note").write_text(note + note)

    assert checked(note, key).startswith("novantra-lite/org_")
    assert payload["publicKey"] == key
    assert verify(tmp_path / "note", "--public-key", key) == []


@pytest.mark.parametrize(
    ("arguments", "status", "result"),
    [
        (["--public-key", EXAMPLE], 2, "--public-key KEY goes with --checkpoint FILE"),
        (["--checkpoint", "gone"], 1, "gone: no such file or directory."),
        (["--checkpoint", "notes", "--public-key", "x"], 1, "reads NAME+HEX+BASE64."),
    ],
)
def test_what_cannot_be_verified_is_told_in_a_sentence(
    closed, place, capsys, monkeypatch, arguments, status, result
):
    monkeypatch.chdir(place.parent)
    notes_of(place).rename("notes")

    assert main(["verify", str(place), *arguments]) == status

    assert result in capsys.readouterr().err


def test_a_workspace_of_a_directory_is_verified_by_its_slug(tmp_path, capsys):
    with NovantraLite(workspaces=tmp_path / "all") as lite:
        lite.create_workspace("hangar-7")
    notes = tmp_path / "all" / "hangar-7.db.checkpoints"
    line = ["verify", "--workspaces", str(tmp_path / "all"), "--checkpoint", str(notes)]

    assert main([*line, "--workspace", "hangar-7"]) == 0
    assert main([*line, "--workspace", "hangar-8"]) == 1
    assert main(line) == 2
    assert capsys.readouterr().out == (
        "Sound: the file, the ledger, the audit chain and the checkpoints.\n"
    )


def test_bytes_of_evidence_are_verified_too_where_the_key_is_at_hand(opened, place, verify):
    with opened() as lite:
        client = lite.client("governance.evidence:write")
        requirement = lite.collection("evidence-requirements").create(
            requirementKey="training", title="Training", reason=WHY
        )
        content = {"fileName": "a", "contentType": "text/plain", "contentBase64": "YWJj"}
        claim = {
            "evidenceRequirementId": requirement["id"],
            "title": "Training",
            "attachments": [content],
            "reason": WHY,
        }
        client.post("/api/v1/governance/evidence/claims", claim)
        lite.workspace.writer.database.connection().execute(
            "UPDATE attachment_content SET content = zeroblob(40)"
        )

    with_key = verify(notes_of(place))
    place.with_name("register.db.key").unlink()
    without = verify(notes_of(place))

    assert len(with_key) == 1 and "does not match its claim" in with_key[0]
    assert without == []
