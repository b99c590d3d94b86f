"""A camera in another package's MuJoCo environment, drawn by our renderer: one GL context a process, any image size.

The environment's own renderer is never used. Each of those makes a GL context of its own, several of which in one
process have spoilt each other's pictures; and it draws shadows, reflections, four samples a pixel and triangles far
smaller than one, which at camera sizes take most of the time and show next to nothing.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vidssl.errors import VidsslError
from vidssl.rendering import SceneRenderer, load_mujoco

from .coarse_meshes import coarse_meshes

if TYPE_CHECKING:
    import mujoco

FAR = 1e6  # fog begins at this many extents of the model: never
MOST_GEOMS = 400  # that the renderer draws


@dataclass(frozen=True)
class View:
    """Where the picture is taken from: a camera of the model (`name`), or a free one.

    Attributes:
        name: camera of the model; None for a free camera.
        position: moves the named camera there, m, in the frame of the body it belongs to.
        upside_down: the model mounts this camera upside down; its picture is turned by 180°.
        lookat, distance, azimuth, elevation: of the free camera, m and degrees.
        detail: what is smaller than this, m, need not be seen (`coarse_meshes`); 0 to draw all there is.
    """

    name: str | None = None
    position: tuple[float, float, float] | None = None
    upside_down: bool = False
    lookat: tuple[float, float, float] = (0.0, 0.0, 0.0)
    distance: float = 1.0
    azimuth: float = 90.0
    elevation: float = -45.0
    detail: float = 0.0


class MujocoCamera:
    """Takes pictures of a MuJoCo environment.

    Args:
        env: the bare environment, with `model` and `data`.
        view: None for the view that the environment itself renders.
        largest: side of the largest picture that will be asked for, pixels.

    Raises VidsslError when there is no GL library, the view's camera is not in the model, or the scene is too large.
    """

    def __init__(self, env: Any, view: View | None, largest: int) -> None:
        self._mj = load_mujoco()
        self._env = env
        self._upside_down = view is not None and view.upside_down
        model = env.model
        if model.ngeom + model.nsite > MOST_GEOMS:
            raise VidsslError(f"the scene has {model.ngeom} geoms and {model.nsite} sites; at most {MOST_GEOMS} fit")
        detail = 0.0 if view is None else view.detail
        self._simplify(model, largest, detail)
        self._camera = _own_camera(self._mj, env) if view is None else _camera(self._mj, model, view)
        with coarse_meshes(model, detail) if detail else nullcontext():
            self._renderer = SceneRenderer(model)

    def __call__(self, size: int) -> NDArray[np.uint8]:
        """The scene as it is now, uint8 [size,size,3]."""
        image, _ = self._renderer.render(self._env.data, self._camera, (size, size))
        return np.ascontiguousarray(image[::-1, ::-1]) if self._upside_down else image

    def close(self) -> None:
        """Free the GL objects; safe to call twice."""
        self._renderer.close()

    def _simplify(self, model: "mujoco.MjModel", largest: int, detail: float) -> None:
        """Leave out what costs time; only what is drawn changes, never the physics."""
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = model.vis.global_.offheight = largest
        model.vis.map.fogstart, model.vis.map.fogend = FAR, 2 * FAR
        model.mat_reflectance[:] = 0
        if detail:  # balls and cylinders of as few facets as a small picture shows
            model.vis.quality.numslices, model.vis.quality.numstacks, model.vis.quality.numquads = 12, 8, 1


def is_mujoco(env: Any) -> bool:
    """Whether an environment (unwrapped) is a MuJoCo simulation whose scene can be drawn."""
    return type(getattr(env, "model", None)).__name__ == "MjModel" and hasattr(env, "data")


def _camera(mj: Any, model: "mujoco.MjModel", view: View) -> "mujoco.MjvCamera":
    camera = mj.MjvCamera()
    if view.name is None:
        camera.type = mj.mjtCamera.mjCAMERA_FREE
        camera.lookat[:] = view.lookat
        camera.distance, camera.azimuth, camera.elevation = view.distance, view.azimuth, view.elevation
        return camera
    camera.type = mj.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = mj.mj_name2id(model, mj.mjtObj.mjOBJ_CAMERA, view.name)
    if camera.fixedcamid < 0:
        names = [model.camera(index).name for index in range(model.ncam)]
        raise VidsslError(f"the model has no camera {view.name!r}; its cameras: {', '.join(names) or 'none'}")
    if view.position is not None:
        model.cam_pos[camera.fixedcamid] = view.position
    return camera


def _own_camera(mj: Any, env: Any) -> "mujoco.MjvCamera":
    """The camera that gymnasium's renderer would use: named by the environment, or free with its settings."""
    camera = mj.MjvCamera()
    renderer = getattr(env, "mujoco_renderer", None)
    index = getattr(renderer, "camera_id", -1)
    if index is not None and index >= 0:
        camera.type, camera.fixedcamid = mj.mjtCamera.mjCAMERA_FIXED, index
        return camera
    camera.type = mj.mjtCamera.mjCAMERA_FREE
    camera.lookat[:] = np.median(env.data.geom_xpos, axis=0)
    camera.distance = env.model.stat.extent
    for key, value in (getattr(renderer, "default_cam_config", None) or {}).items():
        if isinstance(value, np.ndarray):
            getattr(camera, key)[:] = value
        else:
            setattr(camera, key, value)
    return camera
