"""The one place where Open3D is imported."""

import warnings
from typing import Any

from vidssl.errors import VidsslError


def load_open3d() -> Any:
    """The `open3d` module, imported on first use (seconds), with its notice about a missing CUDA device left out.

    Open3D prints its own warnings to stderr; they are switched off, since callers check what they get and say so.

    Raises:
        VidsslError: it isn't there, as on Linux on ARM.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # "built with CUDA support, but no suitable CUDA devices found"
        warnings.simplefilter("ignore", DeprecationWarning)  # of packages that it imports
        try:
            import open3d
        except ImportError as error:
            raise VidsslError(
                f"views of meshes, ICP and RANSAC need Open3D ({error}); it comes with this package, but not on Linux "
                "on ARM, for which there is no wheel: render and train on another machine, or build it there"
            ) from error
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d
