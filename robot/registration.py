"""Registers the environments with gymnasium. Importing this module does it; MuJoCo is loaded when one is made."""

import gymnasium

ENVIRONMENTS = {
    "vidssl/Reorient-v0": "vidssl.robot.reorient:ReorientEnv",
    "vidssl/Rover-v0": "vidssl.robot.rover:RoverEnv",
    "vidssl/TwoRooms-v0": "vidssl.robot.two_rooms:TwoRoomsEnv",
}


def register() -> None:
    """Make `gymnasium.make("vidssl/Rover-v0")` work. Calling it again changes nothing."""
    for name, entry_point in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=entry_point)


register()
