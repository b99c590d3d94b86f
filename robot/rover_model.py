"""The MuJoCo model of the rover's world, compiled once; a layout is then written into it in place.

Rocks, beacon and the ring of hills are mocap bodies, so a new layout only moves them; ground heights and the ground's
texture are overwritten. Units: metres, kilograms, radians, newtons; gravity is that of Mars, 3.72 m/s².
"""

from typing import TYPE_CHECKING

import numpy as np

from . import looks
from .looks import Weather
from .rover_rocks import ROCKS, rock_bank
from .rover_worlds import World
from .terrain import HALF, NODES, Floats, Layout

if TYPE_CHECKING:
    import mujoco

TIMESTEP = 0.02  # s
WHEEL_RADIUS = 0.15  # m
AXLES = 0.31  # outer axles before and behind the middle one, m
TRACK = 0.36  # half the distance between left and right wheels, m
WHEELS = [(side, x) for side in ("left", "right") for x in (AXLES, 0.0, -AXLES)]  # the 3 left ones first
AXLE = 0.16  # height of the wheel centres at the start, a little off the ground, m
TOP_SPEED = 0.9  # rim speed at action 1, m/s
CAMERA_FOV = 90.0  # of the mast camera, degrees, both ways
BURIED = -20.0  # where rocks go that a layout does not use, m
GRIP = 0.9  # friction of a wheel on firm ground
# On loose sand a wheel has less grip and pushes sand before it, the more the faster it goes. Six wheels then reach
# 0.6 m/s at most, where the grip, 0.3 * 76 N, equals the drag: at full speed a third of the way is slip.
LOOSE_GRIP = 0.3
SAND_DRAG = 6.5  # of one wheel on loose sand, N s/m
SOFT = (0.04, 1.0)  # solref of the ground

# Collision groups as bits. Everything of the rover carries no group and asks for ground and rock.
GROUND, ROCK = 1, 2
# The mast camera looks over the rover's nose and sees nothing of the rover, so its picture leaves the rover out.
ROVER_SKIN = 2
TOUCH = f'contype="0" conaffinity="{GROUND | ROCK}" group="{ROVER_SKIN}"'
SEEN = f'contype="0" conaffinity="0" group="{ROVER_SKIN}" mass="0"'


def build_model(buffer: tuple[int, int], world: World, weather: Weather) -> "mujoco.MjModel":
    """Compile the world. `buffer` (width, height) in pixels is the largest image that will be rendered."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(_world(buffer, world, weather))
    looks.paint_plain(model)
    return model


class Sand:
    """Loose sand under the wheels of a model: less grip and drag, renewed before every control step."""

    def __init__(self, model: "mujoco.MjModel") -> None:
        names = [f"wheel{k}" for k in range(len(WHEELS))]
        self._geoms = [model.geom(name).id for name in names]
        self._bodies = [model.body(name).id for name in names]
        # The wheel's friction counts, not the greater of wheel and ground; the rest stays the ground's.
        model.geom_priority[self._geoms] = 1
        model.geom_solref[self._geoms] = SOFT

    def apply(self, model: "mujoco.MjModel", data: "mujoco.MjData", layout: Layout) -> None:
        """Set the wheels' friction, and the drag on them for the coming steps."""
        loose = layout.looseness(data.xpos[self._bodies, :2])[:, None]  # [6,1]
        model.geom_friction[self._geoms, 0] = GRIP + loose[:, 0] * (LOOSE_GRIP - GRIP)
        turning = data.body("rover").xmat.reshape(3, 3) @ data.qvel[3:6]
        velocity = data.qvel[:3] + np.cross(turning, data.xpos[self._bodies] - data.qpos[:3])
        data.xfrc_applied[self._bodies, :3] = -SAND_DRAG * loose * velocity


def write_layout(model: "mujoco.MjModel", data: "mujoco.MjData", layout: Layout, weather: Weather) -> None:
    """Put a layout into model and data: heights, rocks, beacon, daylight, texture and the rover's start pose."""
    import mujoco

    mujoco.mj_resetData(model, data)
    model.hfield_data[:] = (layout.heights / layout.world.top).ravel()
    rock = model.geom("rock0").id
    data.mocap_pos[:ROCKS] = (0.0, 0.0, BURIED)
    model.geom_rgba[rock : rock + ROCKS, 3] = 0.0  # not drawn
    for k, xy, yaw, shade in zip(layout.rock, layout.rock_xy, layout.rock_yaw, layout.rock_shade, strict=True):
        data.mocap_pos[k] = (*xy, layout.height(xy) - 0.05)
        data.mocap_quat[k] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        model.geom_rgba[rock + k] = (*shade, 1.0)
    data.mocap_pos[ROCKS] = (*layout.goal, layout.height(layout.goal))
    looks.write_daylight(model, data, layout, weather)
    data.qpos[:3], data.qpos[3:7] = _start_pose(layout)
    mujoco.mj_forward(model, data)


def _start_pose(layout: Layout) -> tuple[Floats, Floats]:
    """Position [3] and quaternion [4] (w first) that put the outer wheels on the ground."""
    x, y, yaw = layout.start
    ahead, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    corners = np.array([(f, s) for f in (AXLES, -AXLES) for s in (TRACK, -TRACK)])
    height = layout.height(layout.start[:2] + corners @ np.stack([ahead, left]))  # [4]
    front = np.append(ahead, (height[:2].mean() - height[2:].mean()) / (2 * AXLES))
    side = np.append(left, (height[::2].mean() - height[1::2].mean()) / (2 * TRACK))
    up = np.cross(front, side)
    front, up = front / np.linalg.norm(front), up / np.linalg.norm(up)
    frame = np.stack([front, np.cross(up, front), up], axis=1)
    import mujoco

    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, frame.ravel())
    return np.array([x, y, height.mean() + AXLE]), quat


def _world(buffer: tuple[int, int], world: World, weather: Weather) -> str:
    near, far = weather.sight
    return f"""
<mujoco model="rover">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" gravity="0 0 -3.72" cone="pyramidal" iterations="20"/>
  <size memory="8M"/>
  <statistic extent="1" center="0 0 0" meansize="0.3"/>
  <visual>
    <global fovy="50" offwidth="{buffer[0]}" offheight="{buffer[1]}"/>
    <quality shadowsize="0" offsamples="0" numslices="16" numstacks="10"/>
    <map znear="{looks.NEAR}" zfar="{looks.FAR}" fogstart="{near}" fogend="{far}"/>
    <headlight ambient="{_spaced(weather.ambient)}" diffuse="0.08 0.08 0.08" specular="0 0 0"/>
    <rgba fog="{_spaced(weather.fog)} 1"/>
  </visual>
  <asset>
    {looks.assets(weather)}
    <hfield name="ground" nrow="{NODES}" ncol="{NODES}" size="{HALF} {HALF} {world.top} 0.2"/>
    {_rock_meshes()}
  </asset>
  <worldbody>
    <light name="sun" directional="true" castshadow="false" dir="0 0 -1"/>
    <geom name="ground" type="hfield" hfield="ground" material="ground" contype="{GROUND}" conaffinity="0"
      friction="{GRIP}" solref="{SOFT[0]} {SOFT[1]}"/>
    <geom name="plain" type="plane" size="60 60 20" pos="0 0 -0.03" material="plain" contype="{GROUND}" conaffinity="0"
      friction="{GRIP}" solref="{SOFT[0]} {SOFT[1]}"/>
    {_rocks()}
    {_beacon()}
    <body name="hills" mocap="true">
      <geom type="mesh" mesh="hills" material="hills" contype="0" conaffinity="0"/>
    </body>
    {_rover()}
  </worldbody>
  <actuator>
    {_motors()}
  </actuator>
</mujoco>"""


def _spaced(colour: looks.Colour) -> str:
    return " ".join(map(str, colour))


def _rock_meshes() -> str:
    """Every face has its own three vertices and normals, so that stones look chipped, not molten."""
    meshes = []
    for k, rock in enumerate(rock_bank()):
        corners = rock.vertices[rock.faces]  # [F,3,3]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        meshes.append(
            f'<mesh name="rock{k}" vertex="{_numbers(corners)}" normal="{_numbers(np.repeat(normal, 3, axis=0))}" '
            f'face="{" ".join(map(str, range(3 * len(corners))))}"/>'
        )
    return "\n".join(meshes)


def _numbers(values: Floats) -> str:
    return " ".join(f"{v:.4f}" for v in values.ravel())


def _rocks() -> str:
    return "\n".join(
        f"""<body name="rock{k}" mocap="true">
      <geom name="rock{k}" type="mesh" mesh="rock{k}" material="rock" contype="{ROCK}" conaffinity="0" solref="0.04 1"/>
    </body>"""
        for k in range(ROCKS)
    )


def _beacon() -> str:
    """A pole in white and cyan bands under a cyan ball, 2.4 m tall: above any rock and no colour of the ground."""
    bands = "".join(
        f'<geom type="cylinder" size="0.16 0.2" pos="0 0 {0.2 + 0.4 * k}" material="{"beacon" if k % 2 else "band"}" '
        'contype="0" conaffinity="0"/>'
        for k in range(4)
    )
    return f"""<body name="beacon" mocap="true">{bands}
      <geom type="sphere" size="0.42" pos="0 0 2.0" material="beacon" contype="0" conaffinity="0"/>
    </body>"""


def _rover() -> str:
    wheels = "\n".join(_wheel(k, side, x) for k, (side, x) in enumerate(WHEELS))
    arms = "\n".join(
        f'<geom type="capsule" fromto="{a} {s * 0.32} {za} {b} {s * 0.32} {zb}" size="0.025" material="metal" {SEEN}/>'
        for s in (1, -1)
        for a, za, b, zb in (
            (AXLES, 0.0, 0.12, 0.17),
            (0.12, 0.17, -0.18, 0.08),
            (-0.18, 0.08, 0, 0),
            (-0.18, 0.08, -AXLES, 0),
        )
    )
    return f"""<body name="rover">
      <freejoint name="rover"/>
      <geom name="chassis" type="box" size="0.36 0.26 0.085" pos="0 0 0.2" mass="14" material="hull" {TOUCH}/>
      <geom name="mast" type="capsule" fromto="0.1 0 0.28 0.1 0 0.92" size="0.03" mass="0.4" material="metal" {TOUCH}/>
      <geom type="box" size="0.35 0.33 0.012" pos="-0.03 0 0.295" material="panel" {SEEN}/>
      <geom type="box" size="0.055 0.12 0.05" pos="0.1 0 0.95" material="hull" {SEEN}/>
      <geom type="cylinder" fromto="0.15 0.055 0.95 0.17 0.055 0.95" size="0.03" material="glass" {SEEN}/>
      <geom type="cylinder" fromto="0.15 -0.055 0.95 0.17 -0.055 0.95" size="0.03" material="glass" {SEEN}/>
      <geom type="cylinder" fromto="-0.3 0.18 0.29 -0.3 0.18 0.62" size="0.008" material="metal" {SEEN}/>
      <geom type="cylinder" fromto="-0.26 -0.16 0.37 -0.27 -0.16 0.40" size="0.13" material="hull" {SEEN}/>
      {arms}
      <geom type="box" size="0.40 0.42 0.001" pos="0 0 -0.11" material="shade" {SEEN}/>
      <geom type="box" size="0.34 0.34 0.001" pos="0 0 -0.12" material="shade" {SEEN}/>
      <camera name="mast" pos="0.18 0 0.95" xyaxes="0 -1 0 0.2588 0 0.9659" fovy="{CAMERA_FOV}"/>
      {wheels}
    </body>"""


def _wheel(k: int, side: str, x: float) -> str:
    """A sprung wheel, drawn as a drum. It touches as a sphere, which rolls evenly over the ground's facets."""
    y = TRACK if side == "left" else -TRACK
    hub = 0.065 if side == "left" else -0.065
    return f"""<body name="wheel{k}" pos="{x} {y} 0">
        <joint type="slide" axis="0 0 1" range="-0.07 0.07" stiffness="500" damping="60"/>
        <joint name="wheel{k}" type="hinge" axis="0 1 0" armature="0.01" damping="0.05"/>
        <geom name="wheel{k}" type="sphere" size="{WHEEL_RADIUS}" mass="1" group="4" contype="0"
          conaffinity="{GROUND | ROCK}" friction="{GRIP}"/>
        <geom type="cylinder" size="{WHEEL_RADIUS} 0.065" zaxis="0 1 0" material="tyre" {SEEN}/>
        <geom type="cylinder" size="0.07 0.004" pos="0 {hub} 0" zaxis="0 1 0" material="metal" {SEEN}/>
      </body>"""


def _motors() -> str:
    limit = TOP_SPEED / WHEEL_RADIUS
    return "\n".join(
        f'<velocity name="wheel{k}" joint="wheel{k}" kv="2" ctrlrange="{-limit} {limit}" forcerange="-5 5"/>'
        for k in range(len(WHEELS))
    )
