"""The two splits of whatever is drawn or loaded: objects, layouts, digits; none is in both."""

from vidssl.errors import unknown_name

SPLITS = ("train", "test")


def check_split(split: str) -> None:
    """Raises VidsslError for a name that is neither "train" nor "test"."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
