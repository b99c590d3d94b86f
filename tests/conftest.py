"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True)  # the same cases every time: a red run means a changed program
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """Two test processes share the machine: one torch thread each."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real footage for tests: `VIDSSL_TEST_DATA`, by default `../shared/data`; absent for a user."""
    folder = Path(os.environ.get("VIDSSL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set VIDSSL_TEST_DATA to the folder")
    return folder
