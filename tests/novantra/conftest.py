"""Shows pytest where the chapters' common tests stand, and takes their filters from the classes."""

import pytest

pytest.register_assert_rewrite("novantra.retrieval")


def pytest_generate_tests(metafunc):
    """Run a test once for each filter of the class that it is in."""
    if "filtered" in metafunc.fixturenames:
        metafunc.parametrize("filtered", metafunc.cls.filters.split())
