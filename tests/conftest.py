"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ASSETS = "ANOMALIB_LITE_TEST_ASSETS"


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder with real photographs (data/) and backbone weights (weights/), or a skip with the reason."""
    folder = os.environ.get(ASSETS)
    if not folder:
        pytest.skip(f"{ASSETS} is not set: no real photographs here")
    path = Path(folder)
    if not (path / "data").is_dir():
        pytest.fail(f"{ASSETS}={folder}: expected a folder with data/ and weights/")
    return path
