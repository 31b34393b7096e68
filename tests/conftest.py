"""Fixtures shared by all tests: development data, the GPU, signals and logging."""

import gc
import importlib.util
import logging
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ("--no-sandbox", "--disable-gpu")

# On a busy machine an example may take any time, so no test has a deadline.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while the modules are imported, since there is little."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """Nor look through these modules again in the tests."""
    gc.freeze()
    try:
        return (yield)
    finally:
        gc.unfreeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real videos, weights and annotations; tests that need it are skipped without it."""
    folder = Path(os.environ.get("VIGIL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"development data is not in {folder}: set VIGIL_TEST_DATA to its folder")
    return folder.resolve()


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> Path:
    """Folder of reference figures, beside the development data."""
    folder = shared_data.parent / "golden"
    if not folder.is_dir():
        pytest.skip(f"reference figures are not in {folder}")
    return folder


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The first CUDA device; tests that need it are skipped without, or fail if REQUIRE_GPU=1."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail("REQUIRE_GPU=1, but torch finds no CUDA device")
    pytest.skip("no CUDA device on this machine")


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium, driven by Playwright; tests that need it are skipped without."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("Playwright is not installed: pip install playwright")
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} does not exist: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def rough_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures in few dots and without a layout, which takes most of their time."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(
        "vigil.pipeline.scores.plots.new_figure",
        lambda width, height: Figure(figsize=(width, height), dpi=20),
    )


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Restore Ctrl-C, which a shell's background processes ignore and their children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Sync nothing in this process: no file of a test needs to survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which also refuses a descriptor that is not open
        yield


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo after each test the logging that a command set up."""
    logger = logging.getLogger("vigil")
    level, propagate, handlers = logger.level, logger.propagate, logger.handlers[:]
    yield
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.propagate, logger.handlers[:] = propagate, handlers
    logger.setLevel(level)
