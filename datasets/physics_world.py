"""The stage of the physics videos: one MuJoCo model, dressed for every video, and the camera that films it.

MuJoCo draws; where bodies are at an instant comes from `physics_motion`. All bodies are mocap bodies without contacts,
so one model, one renderer and one GL context serve every video of a process. T frames; units metres, seconds, radians.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vidssl.rendering import SceneRenderer, load_mujoco

from .physics_looks import FACE_TEXELS, GROUND_TEXELS, SKY_TEXELS, Scene, Texels, Thing
from .physics_motion import Floats, Motion

if TYPE_CHECKING:
    import mujoco

FOV = 45.0  # degrees, both ways
SUPERSAMPLING = 2  # pictures are drawn at twice the size and averaged, so that motion below a pixel shows
BODIES, CLUTTER = 2, 3
SHADE = 0.35  # opacity of the shadow discs
# A geom compiled at its body's origin stays there whatever its pose is set to later: compile it elsewhere.
APART = 'pos="1 1 1" quat="0.5 0.5 0.5 0.5"'


@dataclass(frozen=True)
class View:
    """A free camera looking at a point. Azimuth 90° looks along +y, elevation < 0 looks down; degrees."""

    target: Floats
    distance: float
    azimuth: float
    elevation: float

    @property
    def position(self) -> Floats:
        """[3] of the camera."""
        azimuth, elevation = np.deg2rad(self.azimuth), np.deg2rad(self.elevation)
        ahead = (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
        return self.target - self.distance * np.array(ahead)


class Stage:
    """Draws videos of `size` x `size` pixels. What it draws depends on the arguments alone, not on earlier videos."""

    def __init__(self, size: int) -> None:
        self._mj = load_mujoco()
        self._size = size
        self._model: mujoco.MjModel = self._mj.MjModel.from_xml_string(_world(SUPERSAMPLING * size))
        self._data: mujoco.MjData = self._mj.MjData(self._model)
        self._renderer = SceneRenderer(self._model)
        self._camera = self._mj.MjvCamera()

    def film(self, motion: Motion, things: list[Thing], scene: Scene, view: View, times: Floats) -> np.ndarray:
        """Frames uint8 [T,size,size,3] at the instants `times` [T]; `things` are those of `motion.bodies`, in order."""
        self._dress(scene)
        self._cast(motion, things)
        self._camera.lookat[:], self._camera.distance = view.target, view.distance
        self._camera.azimuth, self._camera.elevation = view.azimuth, view.elevation
        paths = [path(times) for path in motion.paths]  # [T,3] each
        turns = np.zeros(len(times)) if motion.turns is None else motion.turns(times)
        return np.stack([self._frame(motion, paths, turns, scene.sun, k) for k in range(len(times))])

    def close(self) -> None:
        """Free the GL side."""
        self._renderer.close()

    def _dress(self, scene: Scene) -> None:
        model = self._model
        self._paint("ground", scene.ground)
        self._paint("sky", scene.sky)
        model.light_dir[0] = scene.sun
        model.light_diffuse[0], model.light_ambient[0] = scene.light, scene.ambient
        for number, (kind, position, half, colour) in enumerate(scene.clutter):
            self._shape(f"clutter{number}", kind, half, (*colour, 1.0))
            self._put(f"clutter{number}", position)

    def _cast(self, motion: Motion, things: list[Thing]) -> None:
        for number in range(BODIES):
            present = float(number < len(things))
            thing = things[number] if present else things[0]
            self._shape(f"body{number}", thing.body.shape, np.array(thing.body.half), (1, 1, 1, present))
            self._paint(f"body{number}", thing.texels)
            on_ground = present and motion.ramp is None
            half = np.array([thing.body.half[0], thing.body.half[0], 0.001])
            self._shape(f"shade{number}", "cylinder", half, (0, 0, 0, SHADE * bool(on_ground)))
        self._build_ramp(motion)
        hung = float(motion.pivot is not None)
        for name in ("rod", "bar"):
            self._model.geom_rgba[self._model.geom(name).id, 3] = hung
        if motion.pivot is not None:
            self._put("bar", motion.pivot)

    def _build_ramp(self, motion: Motion) -> None:
        """A board whose upper surface is the slope."""
        ramp = self._model.geom("ramp").id
        self._model.geom_rgba[ramp, 3] = float(motion.ramp is not None)
        if motion.ramp is not None:
            angle, (x, z), half = motion.ramp
            self._model.geom_size[ramp] = (half, 0.5, 0.04)
            self._put("ramp", np.array([x - 0.04 * np.sin(angle), 0, z - 0.04 * np.cos(angle)]), angle)

    def _frame(self, motion: Motion, paths: list[Floats], turns: Floats, sun: Floats, k: int) -> np.ndarray:
        data = self._data
        for number, path in enumerate(paths):
            here = path[k]
            data.mocap_pos[number] = here
            data.mocap_pos[BODIES + number] = (*(here - sun * here[2] / sun[2])[:2], 0.004)
            data.mocap_quat[number] = _about_y(turns[k])
        if motion.turns is not None and motion.bodies[0].shape == "cylinder":  # its axis along y
            data.mocap_quat[0] = _times(_about_y(turns[k]), np.array([np.sqrt(0.5), np.sqrt(0.5), 0, 0]))
        if motion.pivot is not None:
            self._hang(motion.pivot, paths[0][k])
        self._mj.mj_kinematics(self._model, data)
        self._mj.mj_camlight(self._model, data)
        side = SUPERSAMPLING * self._size
        image, _ = self._renderer.render(data, self._camera, (side, side))
        blocks = image.reshape(self._size, SUPERSAMPLING, self._size, SUPERSAMPLING, 3)
        return np.asarray(blocks.mean(axis=(1, 3)) + 0.5, np.uint8)

    def _hang(self, pivot: Floats, bob: Floats) -> None:
        rod = self._model.geom("rod").id
        across = bob - pivot
        self._model.geom_size[rod, :2] = (0.015, np.linalg.norm(across) / 2)
        self._put("rod", (pivot + bob) / 2, np.arctan2(across[0], across[2]))

    def _put(self, name: str, position: Floats, angle: float = 0.0) -> None:
        """Move a geom of the world, turned about the y axis."""
        geom = self._model.geom(name).id
        self._model.geom_pos[geom], self._model.geom_quat[geom] = position, _about_y(angle)

    def _shape(self, name: str, kind: str, half: Floats, rgba: tuple[float, ...]) -> None:
        """Make a geom a sphere, upright cylinder or box with the half sizes [3]."""
        geom = self._model.geom(name).id
        self._model.geom_type[geom] = getattr(self._mj.mjtGeom, f"mjGEOM_{kind.upper()}")
        self._model.geom_size[geom] = (half[0], half[2], 0) if kind == "cylinder" else half
        self._model.geom_rgba[geom] = rgba

    def _paint(self, texture: str, texels: Texels) -> None:
        number = self._model.texture(texture).id
        start = int(self._model.tex_adr[number])
        self._model.tex_data[start : start + texels.size] = texels.ravel()
        self._renderer.upload(texture=number)


def _about_y(angle: float) -> Floats:
    """Quaternion [4], w first."""
    return np.array([np.cos(angle / 2), 0, np.sin(angle / 2), 0])


def _times(a: Floats, b: Floats) -> Floats:
    """Product of quaternions [4], w first."""
    return np.append(a[0] * b[0] - a[1:] @ b[1:], a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:]))


def _world(buffer: int) -> str:
    bodies = "".join(
        f'<body name="body{k}" mocap="true"><geom name="body{k}" type="sphere" size="0.1" material="body{k}"/></body>'
        for k in range(BODIES)
    )
    shades = "".join(
        f'<body name="shade{k}" mocap="true"><geom name="shade{k}" type="cylinder" size="0.1 0.001"/></body>'
        for k in range(BODIES)
    )
    clutter = "".join(f'<geom name="clutter{k}" type="box" size="0.1 0.1 0.1" {APART}/>' for k in range(CLUTTER))
    textures = "".join(
        f'<texture name="body{k}" type="cube" builtin="flat" width="{FACE_TEXELS}" height="{6 * FACE_TEXELS}"/>'
        f'<material name="body{k}" texture="body{k}" specular="0.2" shininess="0.3"/>'
        for k in range(BODIES)
    )
    return f"""
<mujoco model="physics">
  <statistic extent="1" center="0 0 0" meansize="0.3"/>
  <visual>
    <global fovy="{FOV}" offwidth="{buffer}" offheight="{buffer}"/>
    <quality shadowsize="0" offsamples="0" numslices="24" numstacks="16"/>
    <map znear="0.1" zfar="60" fogstart="50" fogend="60"/>
    <headlight ambient="0 0 0" diffuse="0 0 0" specular="0 0 0"/>
  </visual>
  <default><geom contype="0" conaffinity="0"/></default>
  <asset>
    <texture name="sky" type="skybox" builtin="flat" width="{SKY_TEXELS}" height="{6 * SKY_TEXELS}"/>
    <texture name="ground" type="2d" builtin="flat" width="{GROUND_TEXELS}" height="{GROUND_TEXELS}"/>
    <material name="ground" texture="ground" texrepeat="20 20" specular="0"/>
    {textures}
  </asset>
  <worldbody>
    <light name="sun" directional="true" castshadow="false" dir="0 0 -1" specular="0.2 0.2 0.2"/>
    <geom name="ground" type="plane" size="20 20 1" material="ground"/>
    <geom name="ramp" type="box" size="1 0.5 0.04" rgba="0.62 0.48 0.34 1" {APART}/>
    <geom name="rod" type="capsule" size="0.015 1" rgba="0.15 0.15 0.15 1" {APART}/>
    <geom name="bar" type="box" size="0.12 0.12 0.03" rgba="0.15 0.15 0.15 1" {APART}/>
    {clutter}{bodies}{shades}
  </worldbody>
</mujoco>"""
