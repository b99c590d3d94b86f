"""A three-axis wrist in MuJoCo that turns an object before a camera with limited torque.

MuJoCo's world axes are the camera's: x right, y down, z forward; so gravity points along +y, and the body's rotation is
the object's in the camera frame. V vertices of the object.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidssl.rendering import load_mujoco

mujoco = load_mujoco()

Floats = NDArray[np.float64]
TIMESTEP = 0.002  # s
MASS = 0.5  # of any object, kg
MAX_TORQUE = 0.5  # N·m, of the three axes together
STIFFNESS = 5.0  # of the servo, N·m/rad
DAMPING = 0.2  # of the servo, N·m·s/rad
LEAD = 0.2  # the servo's reference runs ahead of the object by this angle at most, rad
DISTANCE = 0.8  # camera to the wrist's centre, m

# The inertial frame is written for each object; one that coincided with the body's would be compiled in as such.
_MODEL = f"""
<mujoco model="wrist">
  <option timestep="{TIMESTEP}" gravity="0 9.81 0" integrator="implicitfast"/>
  <worldbody>
    <body name="object" pos="0 0 {DISTANCE}">
      <joint name="wrist" type="ball" armature="0.001" damping="0.01"/>
      <inertial pos="0.01 0.01 0.01" quat="0.8 0.6 0 0" mass="{MASS}" diaginertia="0.001 0.001 0.001"/>
    </body>
  </worldbody>
  <actuator>
    {
    "".join(
        f'<motor name="{a}" joint="wrist" gear="{g}" ctrlrange="{-MAX_TORQUE} {MAX_TORQUE}"/>'
        for a, g in (("x", "1 0 0"), ("y", "0 1 0"), ("z", "0 0 1"))
    )
}
  </actuator>
</mujoco>"""


class Wrist:
    """Three motors whose axes meet in one point, as a ball joint with a torque about each axis.

    A chain of three hinges would lock where two of its axes align, and every orientation is asked for here; wrists
    without such a place are built as spherical parallel mechanisms (Gosselin & Hamel 1994), and a ball joint is their
    motion. The servo is what such a wrist has: it holds a reference orientation, which the commanded angular velocity
    moves, by a torque `STIFFNESS` · (rotation vector to the reference) + `DAMPING` · (commanded - own velocity) of at
    most `MAX_TORQUE`. Gravity is not compensated, since nobody told the wrist the object's weight or centre of mass:
    the object hangs some tenths of a degree below the reference.
    """

    def __init__(self) -> None:
        self._model = mujoco.MjModel.from_xml_string(_MODEL)
        self._data = mujoco.MjData(self._model)
        self._body = self._model.body("object").id
        self._reference = np.array([1.0, 0, 0, 0])

    @property
    def rotation(self) -> Floats:
        """The object's rotation [3,3] in the camera frame."""
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, self._data.qpos)
        return matrix.reshape(3, 3)

    @property
    def torque(self) -> Floats:
        """What the motors give at present, [3] N·m about the object's axes."""
        return self._data.ctrl.copy()

    def hold(self, vertices: NDArray[Any], grip: Floats, rotation: Floats) -> None:
        """Take an object, at rest.

        Args:
            vertices: [V,3] m about the object's own centre; it weighs `MASS`, spread evenly over its convex hull.
            grip: [3] m, where its centre is seen from the wrist's, in the object's axes.
            rotation: [3,3], in which it is held.
        """
        centre, inertia = hull_inertia(np.asarray(vertices, np.float64), MASS)
        moments, axes = np.linalg.eigh(inertia)
        axes[:, 2] *= np.sign(np.linalg.det(axes))
        model, data = self._model, self._data
        model.body_ipos[self._body] = centre + grip
        model.body_inertia[self._body] = moments
        mujoco.mju_mat2Quat(model.body_iquat[self._body], axes.ravel())
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)
        mujoco.mju_mat2Quat(data.qpos, np.ascontiguousarray(rotation, np.float64).ravel())
        mujoco.mj_forward(model, data)
        # The reference from which the servo's torque carries the weight, so that nothing moves until told to.
        mujoco.mju_copy(self._reference, data.qpos)
        mujoco.mju_quatIntegrate(self._reference, data.qfrc_bias / STIFFNESS, 1.0)

    def turn(self, velocity: Floats, seconds: float) -> None:
        """Move the reference with an angular velocity [3] rad/s in the camera frame, for a multiple of `TIMESTEP`."""
        data, own = self._data, np.empty(3)
        inverse, error = np.empty(4), np.empty(3)
        for _ in range(round(seconds / TIMESTEP)):
            mujoco.mju_negQuat(inverse, data.qpos)
            mujoco.mju_rotVecQuat(own, velocity, inverse)  # the commanded velocity in the object's axes, as qvel is
            mujoco.mju_subQuat(error, self._advanced(velocity), data.qpos)
            angle = np.sqrt(error @ error)
            if angle > LEAD:  # the motors are at their limit: the reference waits
                error *= LEAD / angle
                mujoco.mju_copy(self._reference, data.qpos)
                mujoco.mju_quatIntegrate(self._reference, error, 1.0)
            torque = STIFFNESS * error + DAMPING * (own - data.qvel)
            data.ctrl[:] = torque * min(1.0, MAX_TORQUE / max(np.sqrt(torque @ torque), 1e-9))
            mujoco.mj_step(self._model, data)

    def _advanced(self, velocity: Floats) -> Floats:
        """The reference after one more time step."""
        local, inverse = np.empty(3), np.empty(4)
        mujoco.mju_negQuat(inverse, self._reference)
        mujoco.mju_rotVecQuat(local, velocity, inverse)
        mujoco.mju_quatIntegrate(self._reference, local, TIMESTEP)
        return self._reference


def hull_inertia(vertices: Floats, mass: float) -> tuple[Floats, Floats]:
    """Centre of mass [3] and inertia [3,3] about it of an evenly filled convex hull.

    The hull is cut into tetrahedra from an inner point; one with corners 0, a, b, c and volume v has the second moment
    v/20 (aaᵀ + bbᵀ + ccᵀ + ssᵀ), s = a + b + c (Blow & Binstock 2004).
    """
    from scipy.spatial import ConvexHull  # type: ignore[import-untyped]

    hull = ConvexHull(vertices, qhull_options="QJ")  # joggled: a flat object has a hull too
    inner = vertices[hull.vertices].mean(axis=0)
    corners = vertices[hull.simplices] - inner  # [F,3,3]
    volume = np.abs(np.linalg.det(corners)) / 6
    total = corners.sum(axis=1)
    centre = np.einsum("f,fi->i", volume, total) / (4 * volume.sum())
    second = np.einsum("f,fki,fkj->ij", volume, corners, corners) + np.einsum("f,fi,fj->ij", volume, total, total)
    second = second / (20 * volume.sum()) - np.outer(centre, centre)
    return inner + centre, mass * (np.trace(second) * np.eye(3) - second)
