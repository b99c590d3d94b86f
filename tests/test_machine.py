"""What this machine gives to a process."""

import os

import numpy as np
import pytest

import vidssl
from vidssl.machine import cores, versions


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux's affinities")
def test_only_cores_that_the_process_may_use_count() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores() == len(allowed)


def test_versions_leaves_out_what_is_not_installed() -> None:
    found = versions(("numpy", "no-such-package", "vidssl"))

    assert found == {"numpy": np.__version__, "vidssl": vidssl.__version__}
    assert list(found) == ["numpy", "vidssl"]
