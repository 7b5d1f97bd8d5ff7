from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic_run import make_run

from snellen.report.html import write_report

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")


@pytest.fixture(scope="session")
def malicious(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run whose text, names and verdict try to act; with its report."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "malicious", malicious=True)
    write_report(folder)
    return folder


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50,000 tokens with their report."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "large", tokens=50_000, documents=24)
    write_report(folder)
    return folder


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[object]:
    """Headless Chromium that logs its console and what it asks the network for."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip("no chromium: apt-get install chromium chromium-driver (CI does)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1280,1000",
        f"user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()
