"""Registers the environments with gymnasium. Importing this module does it; MuJoCo is loaded when one is made."""

import gymnasium

ENVIRONMENTS = {
    "vidssl/Reorient-v0": "vidssl.robot.reorient:ReorientEnv",
    "vidssl/Rover-v0": "vidssl.robot.rover:RoverEnv",
    "vidssl/TwoRooms-v0": "vidssl.robot.two_rooms:TwoRoomsEnv",
}
VARIANTS = {  # of an environment, for commands that take nothing but an id
    "vidssl/RoverEasy-v0": ("vidssl/Rover-v0", {"difficulty": "easy"}),
    "vidssl/RoverHard-v0": ("vidssl/Rover-v0", {"difficulty": "hard"}),
    "vidssl/RoverExtreme-v0": ("vidssl/Rover-v0", {"difficulty": "extreme"}),
}


def register() -> None:
    """Make `gymnasium.make("vidssl/Rover-v0")` work. Calling it again changes nothing."""
    for name, entry_point in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=entry_point)
    for name, (base, options) in VARIANTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=ENVIRONMENTS[base], kwargs=options)


register()
