"""Off-screen rendering of MuJoCo models: the GL backend, one GL context a process, one renderer an environment."""

import atexit
import importlib
import os
import platform
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError

if TYPE_CHECKING:
    import mujoco

BACKENDS = ("egl", "osmesa", "glfw", "disabled")
_context: Any = None
_owner = (0, 0)  # process and thread that use `_context`
_forkable = False
_alive: "weakref.WeakSet[SceneRenderer]" = weakref.WeakSet()


def choose_backend() -> str:
    """Settle MUJOCO_GL: what is set wins; else `egl` on a Linux machine without a display, or the platform's own.

    Mesa's software renderer is told to draw in the calling thread (LP_NUM_THREADS=0, unless set): at camera sizes its
    threads cost more than they bring, and a process forked later hangs waiting for threads it did not inherit.
    """
    if "MUJOCO_GL" not in os.environ and platform.system() == "Linux" and not os.environ.get("DISPLAY"):
        os.environ["MUJOCO_GL"] = "egl"
    os.environ.setdefault("LP_NUM_THREADS", "0")
    return os.environ.get("MUJOCO_GL", "").lower().strip()


def load_mujoco() -> Any:
    """The `mujoco` module, imported with the backend settled: MuJoCo loads the GL library as soon as it is imported."""
    choose_backend()
    try:
        import mujoco
    except Exception as error:
        if getattr(error, "name", None) == "mujoco":
            raise
        raise _no_gl(error) from error
    return mujoco


def load_triton_first() -> None:
    """To be called before anything draws by GL.

    Torch imports triton when the first optimiser is made, and triton's LLVM crashes the process when it is loaded after
    the one that Mesa's software renderer brings. The other way round works.
    """
    with suppress(ImportError):
        importlib.import_module("triton")


def _make_context() -> Any:
    load_triton_first()
    try:
        backend = choose_backend()
        if backend == "egl":  # named here, since MuJoCo may have been imported before the backend was settled
            from mujoco.egl import GLContext
        elif backend == "osmesa":
            from mujoco.osmesa import GLContext
        else:
            from mujoco.gl_context import GLContext
        return GLContext(64, 64)
    except Exception as error:
        raise _no_gl(error) from error


def _no_gl(error: Exception) -> VidsslError:
    """PyOpenGL answers a missing library with AttributeError, ImportError, EGLError and others: all end here."""
    return VidsslError(
        f"rendering needs an OpenGL library and found none for MUJOCO_GL={os.environ.get('MUJOCO_GL', '(unset)')} "
        f"({type(error).__name__}: {error}). On Debian or Ubuntu: apt-get install libegl1 (Mesa's software renderer "
        f"comes with it), and set MUJOCO_GL=egl. MUJOCO_GL can be {', '.join(BACKENDS)}; with the last, environments "
        "work that are made with pixels=False"
    )


def _use_context() -> None:
    """Make this process's GL context current, creating it on first use."""
    global _context, _owner, _forkable
    here = os.getpid(), threading.get_ident()
    if _context is None:
        _context, _owner = _make_context(), here
        atexit.register(_close_all)  # only now, so that it runs before MuJoCo's own closing of the display
        _context.make_current()
        _forkable = _drawn_by_this_thread()
    if here != _owner:
        _adopt(here)
    _context.make_current()


def _adopt(here: tuple[int, int]) -> None:
    """Go on with the context inherited by a fork, where the driver allows it."""
    global _owner
    if here[0] == _owner[0]:
        raise VidsslError(
            "rendering was begun in another thread of this process; keep all environments that render in one thread"
        )
    if not _forkable:
        raise VidsslError(
            "this process was forked after its parent had begun to render, which the GL driver does not survive; start "
            "workers with the spawn method, e.g. "
            'make_vec(…, vectorization_mode="async", vector_kwargs={"context": "spawn"})'
        )
    _owner = here


def _drawn_by_this_thread() -> bool:
    from OpenGL import GL  # type: ignore[import-untyped]

    return b"llvmpipe" in (GL.glGetString(GL.GL_RENDERER) or b"") and os.environ.get("LP_NUM_THREADS") == "0"


class SceneRenderer:
    """Renders cameras of one model into arrays. All renderers of a process share one GL context.

    Several contexts in one process are known to corrupt each other's images on some drivers; several framebuffers
    in one context do not.
    """

    def __init__(self, model: "mujoco.MjModel") -> None:
        import mujoco

        self._gl = None
        _use_context()
        self._mj = mujoco
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=400)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_FOG] = 1
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._option = mujoco.MjvOption()
        self._gl = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        self._gl.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR.value
        _alive.add(self)

    def upload(self, *, texture: int | None = None, hfield: int | None = None) -> None:
        """Send changed texels or heights of the model to the GL side."""
        _use_context()
        if texture is not None:
            self._mj.mjr_uploadTexture(self._model, self._gl, texture)
        if hfield is not None:
            self._mj.mjr_uploadHField(self._model, self._gl, hfield)

    def render(
        self,
        data: "mujoco.MjData",
        camera: "mujoco.MjvCamera",
        size: tuple[int, int],
        depth: bool = False,
        hide: int | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Image uint8 [H,W,3] and, if asked for, the distance along the optical axis.

        The distance is float32 [H,W] in metres, that of the far plane where nothing is hit. `hide`: a geom group to
        leave out.
        """
        _use_context()
        height, width = size
        mj = self._mj
        self._option.geomgroup[:3] = 1
        if hide is not None:
            self._option.geomgroup[hide] = 0
        mj.mjv_updateScene(self._model, data, self._option, None, camera, mj.mjtCatBit.mjCAT_ALL.value, self._scene)
        rect = mj.MjrRect(0, 0, width, height)
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN.value, self._gl)
        mj.mjr_render(rect, self._scene, self._gl)
        image = np.empty((height, width, 3), np.uint8)
        buffer = np.empty((height, width), np.float32) if depth else None
        mj.mjr_readPixels(image, buffer, rect, self._gl)
        image = np.ascontiguousarray(image[::-1])  # GL's first row is the lowest
        if buffer is None:
            return image, None
        extent = self._model.stat.extent
        near, far = self._model.vis.map.znear * extent, self._model.vis.map.zfar * extent
        # The buffer holds 1 at the near and 0 at the far plane, linear in 1/z.
        return image, np.ascontiguousarray(near * far / (near + buffer[::-1] * (far - near)))

    def close(self) -> None:
        """Free the GL objects; safe to call twice."""
        gl, self._gl = self._gl, None
        if gl is not None and _context is not None and _owner == (os.getpid(), threading.get_ident()):
            _context.make_current()
            gl.free()

    def __del__(self) -> None:
        self.close()


def _close_all() -> None:
    """Free renderers and context while the GL library is still there."""
    global _context
    if _context is None or os.getpid() != _owner[0]:
        return
    for renderer in list(_alive):
        renderer.close()
    _context.free()
    _context = None
