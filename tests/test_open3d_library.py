"""Open3D where it is missing."""

import sys

import pytest

from vidssl.errors import VidsslError
from vidssl.open3d_library import load_open3d


def test_without_open3d(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(VidsslError, match=r"need Open3D .*not on Linux on ARM, for which there is no wheel"):
        load_open3d()
