"""Servers that many tests share. A test that harms its server starts one of its own."""

import functools
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
# A proxy of the environment is not for loopback.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
# Flags of the binary are environment variables too; the caller's own must not steer the tests.
for name in [name for name in os.environ if name.startswith("TROUPE_")]:
    if name not in ("TROUPE_BINARY", "TROUPE_TEST_MODEL", "TROUPE_PYTHON", "TROUPE_CHAOS_SEED"):
        del os.environ[name]

from troupe_process import BINARY, MODEL, Missed, Reference, Server, run  # noqa: E402

TRIES = 5
missed = []  # tries that came to no verdict


def pytest_configure():
    if not BINARY.is_file():
        pytest.exit(f"{BINARY} is missing: deploy/build", returncode=1)
    if not MODEL.is_file():
        pytest.exit(f"{MODEL} is missing: deploy/get-model", returncode=1)


def tried_again(test):
    """The test, run again while it comes to no verdict; what is wrong fails at once."""
    @functools.wraps(test)
    def tries(**fixtures):
        for number in range(1, TRIES + 1):
            Missed.seen = number - 1
            try:
                return test(**fixtures)
            except Missed as why:
                missed.append(f"{test.__name__}: {why}")
                print(f"try {number} of {TRIES} came to no verdict: {why}")
                if number == TRIES:
                    raise
    return tries


def pytest_collection_modifyitems(items):
    here = pathlib.Path(__file__).parent
    for item in items:
        if item.path.parent == here:
            item.obj = tried_again(item.obj)


def pytest_terminal_summary(terminalreporter):
    if missed:
        terminalreporter.section(f"{len(missed)} tries came to no verdict and were repeated", sep="-")
        for line in missed:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def server():
    """One prefill and one decode process."""
    with Server(prefill=1, decode=1) as running:
        yield running


@pytest.fixture(scope="session")
def draft_model(tmp_path_factory):
    """A draft of six of the model's own layers."""
    path = tmp_path_factory.mktemp("draft") / "draft.gguf"
    made = run("prune", MODEL, path, "--layers", "0-3,28,29")
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture(scope="session")
def single():
    """All roles in one process."""
    with Server(single_process=True) as running:
        yield running


@pytest.fixture(scope="session")
def reference(single):
    return Reference(single)
