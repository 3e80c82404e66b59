"""What every test starts from: a fresh workspace with its own time, and its callers."""

import functools
import gc
import os
import random

import pytest

import novantra_lite
from novantra_lite import NovantraLite

#: 2026-06-01T12:00:00Z
NOON = 1_780_315_200.0

WHY = "Seen in the quarterly review."


class Clock:
    """A time that only moves when a test says so."""

    def __init__(self, at=NOON):
        self.at = at

    def __call__(self):
        return self.at

    def advance(self, seconds):
        self.at += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lite(clock):
    # Tests ask and decide with one client, unless they are about who may.
    options = {"random": random.Random(7), "self_approval": True}
    with NovantraLite(clock=clock, **options) as lite:
        yield lite


@pytest.fixture
def novantra(lite):
    """A client that has every scope of the Novantra surface."""
    return lite.client(*novantra_lite.novantra_scopes())


@pytest.fixture
def factstore(lite):
    """A client that has every scope of the Factstore surface."""
    return lite.client(*novantra_lite.FACTSTORE_SCOPES)


#: The operations that some test has had a good answer from.
DRIVEN = set()
#: The operations whose every request is refused: without a runtime for WASM none is enforced.
REFUSED = {"uploadWasmModule"}


def pytest_configure(config):
    """Note every operation that a test drives; schemathesis drives them all and proves little."""
    # What somebody's own shell is set up with, a Vault above all, is no business of the tests.
    for name in [name for name in os.environ if name.startswith(("NOVANTRA_LITE_", "VAULT_"))]:
        del os.environ[name]
    # Processes that tests start find the module compiled from the second one on.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    handle = novantra_lite.handle

    @functools.wraps(handle)
    def noted(context, path):
        try:
            reply = handle(context, path)
        except novantra_lite.Unprocessable:
            if context.operation.id in REFUSED:
                DRIVEN.add(context.operation.id)
            raise
        if "test_schemathesis" not in os.environ.get("PYTEST_CURRENT_TEST", ""):
            DRIVEN.add(context.operation.id)
        return reply

    novantra_lite.handle = noted


def pytest_make_parametrize_id(val, argname):
    """Long values, which may be of chance such as keys, do not name a test."""
    return argname if isinstance(val, str | bytes) and len(val) > 50 else None


def pytest_collection_finish():
    """What is loaded by now stays: the garbage collector need not go through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_testnodedown(node, error):
    """Take over what the tests of one process drove."""
    DRIVEN.update(getattr(node, "workeroutput", {}).get("driven", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail a run of the whole suite that leaves an operation without a test of its own."""
    config, option = session.config, session.config.option
    if hasattr(config, "workeroutput"):
        config.workeroutput["driven"] = sorted(DRIVEN)
        return
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    narrowed = option.keyword or option.markexpr or option.collectonly or option.ignore
    if whole and not narrowed and not exitstatus:
        missing = {operation.id for operation in novantra_lite.every_operation()} - DRIVEN
        if missing:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            config.missing_operations = sorted(missing)


def pytest_terminal_summary(terminalreporter, config):
    for name in getattr(config, "missing_operations", ()):
        terminalreporter.write_line(f"No test drives the operation {name}.", red=True)
