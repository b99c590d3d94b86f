"""The one place where Open3D is imported."""

import warnings
from typing import Any


def load_open3d() -> Any:
    """The `open3d` module, imported on first use (seconds), with its notice about a missing CUDA device left out.

    Open3D prints its own warnings to stderr; they are switched off, since callers check what they get and say so.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # "built with CUDA support, but no suitable CUDA devices found"
        warnings.simplefilter("ignore", DeprecationWarning)  # of packages that it imports
        import open3d
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d
