"""Lag between a controller and its robot, in steps: late, jittered and lost actions and observations.

Every action is a packet, sent at the step it was computed for; so is every observation. Packet k is lost, or arrives
d_k >= 0 steps after it was sent. With delay 2 and packet 3 lost (`n` the neutral action, which is zeros unless stated):

    step        0  1  2  3  4  5  6
    computed    a0 a1 a2 a3 a4 a5 a6
    executed    n  n  a0 a1 a2 a2 a4      ActionDelay: hold the last one where one is lost
    age         -1 -1 2  2  2  3  2       info["action_age"], -1 while nothing has arrived

    time        0  1  2  3  4  5  6
    happens     o0 o1 o2 o3 o4 o5 o6
    seen        o0 o0 o0 o1 o2 o2 o4      ObservationDelay: o0, of the reset, is always known at once
    age         0  1  2  2  2  3  2       info["observation_age"]

Where delays differ from packet to packet one may overtake another. In order (the default, as with numbered packets)
one that arrives after a newer one is discarded; otherwise whatever arrived last counts. Of packets that arrive at the
same step the newest counts, either way.

Counted in steps and drawn from the episode's seed, so an episode with lag repeats exactly, which wall-clock delays do
not. Delays and losses are drawn by inversion from the same uniform numbers: of two settings with the same seed the one
with the larger share of losses loses the same packets and more.
"""

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from vidssl.errors import VidsslError

Delay = int | tuple[int, int] | Mapping[int, float]
LONGEST = 10_000  # steps


class Channel:
    """Packets on their way; `send` one a step, then `receive`.

    Args:
        delay: steps a packet takes: a number; (low, high), uniform over low..high; or {steps: probability}.
        drop: share of packets lost, 0 to below 1.
        in_order: discard a packet that arrives after a newer one.

    Raises VidsslError for delays that are negative or no whole numbers, probabilities that do not add up to 1, and
    shares out of range.
    """

    def __init__(self, delay: Delay, drop: float = 0.0, in_order: bool = True) -> None:
        self.steps, chances = _distribution(delay)
        self._cumulative = np.cumsum(chances)
        if not 0 <= drop < 1:
            raise VidsslError(f"drop: got {drop!r}; the share of lost packets is at least 0 and below 1")
        self._drop, self._in_order = drop, in_order
        self.reset(np.random.default_rng(0))

    def reset(self, rng: np.random.Generator) -> None:
        """Nothing is on its way; delays and losses come from `rng`."""
        self._rng = rng
        self._way: list[tuple[int, int, Any]] = []  # (arrives at, sent at, content)
        self._last: tuple[int, Any] | None = None  # (sent at, content)
        self._sent = 0

    def send(self, content: Any, at_once: bool = False) -> None:
        """Send this step's packet; `at_once`: it is neither late nor lost."""
        late, lost = self._rng.random(2)
        delay = int(self.steps[min(np.searchsorted(self._cumulative, late, side="right"), len(self.steps) - 1)])
        if at_once or lost >= self._drop:
            self._way.append((self._sent + (0 if at_once else delay), self._sent, content))
        self._sent += 1

    def receive(self) -> tuple[Any, int] | None:
        """What counts at the step of the last `send`, and its age in steps; None when nothing has arrived yet."""
        now = self._sent - 1
        arrived = sorted((packet[:2] for packet in self._way if packet[0] <= now), reverse=True)
        if arrived:
            contents = {sent: content for _, sent, content in self._way}
            sent = max(packet[1] for packet in arrived) if self._in_order else arrived[0][1]
            if self._last is None or not self._in_order or sent > self._last[0]:
                self._last = (sent, contents[sent])
            self._way = [packet for packet in self._way if packet[0] > now]
        return None if self._last is None else (self._last[1], now - self._last[0])


def _distribution(delay: Delay) -> tuple[np.ndarray, np.ndarray]:
    """The possible delays in steps, rising, and their probabilities."""
    if isinstance(delay, Mapping):
        steps, chances = np.array(sorted(delay)), np.array([delay[step] for step in sorted(delay)], float)
    elif isinstance(delay, tuple) and len(delay) == 2 and all(map(_whole, delay)) and delay[0] <= delay[1]:
        steps = np.arange(delay[0], delay[1] + 1)
        chances = np.full(len(steps), 1 / len(steps))
    else:
        steps, chances = np.array([delay] if _whole(delay) else [-1]), np.ones(1)
    whole = bool(len(steps)) and steps.dtype.kind == "i" and steps.min() >= 0 and steps.max() <= LONGEST
    if not whole or not np.isfinite(chances).all() or chances.min() < 0 or abs(chances.sum() - 1) > 1e-6:
        raise VidsslError(
            f"delay: got {delay!r}; give steps as a whole number from 0 to {LONGEST}, as a range (low, high), or as "
            "{steps: probability} whose probabilities add up to 1"
        )
    return steps, chances


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


class _Seeded:
    """Random numbers of an episode: by the seed of its reset, or going on from the episode before."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._rng = np.random.default_rng()

    def next(self, seed: int | None) -> np.random.Generator:
        if seed is not None:
            self._rng = np.random.default_rng([self._key, seed])
        return self._rng


class ActionDelay(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """The robot executes actions late; see the module for what is executed when.

    `info["action_age"]`: steps since the executed action was computed, -1 for the neutral one.

    Args:
        env: any environment; spaces stay as they are.
        delay, drop, in_order: see `Channel`.
        neutral: executed until the first action arrives; by default zeros.

    Raises VidsslError for a neutral action outside the action space, and see `Channel`.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        delay: Delay,
        drop: float = 0.0,
        in_order: bool = True,
        neutral: Any = None,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, delay=delay, drop=drop, in_order=in_order, neutral=neutral)
        gym.Wrapper.__init__(self, env)
        self._neutral = _neutral(env.action_space, neutral)
        self._channel, self._seeded = Channel(delay, drop, in_order), _Seeded(0x616374)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; no action is on its way."""
        self._channel.reset(self._seeded.next(seed))
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "action_age": -1}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Send `action`, and step the environment by what has arrived."""
        self._channel.send(copy.deepcopy(action))
        executed, age = self._channel.receive() or (copy.deepcopy(self._neutral), -1)
        observation, reward, terminated, truncated, info = self.env.step(executed)
        return observation, reward, terminated, truncated, {**info, "action_age": age}


class ObservationDelay(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """The controller sees observations late; see the module for what is seen when.

    Rewards, ends and the other infos are the environment's present ones: they are for whoever keeps the score.
    `info["observation_age"]`: steps since what is seen happened.

    Args:
        env: any environment; spaces stay as they are.
        delay, drop, in_order: see `Channel`.
    """

    def __init__(self, env: gym.Env[Any, Any], delay: Delay, drop: float = 0.0, in_order: bool = True) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, delay=delay, drop=drop, in_order=in_order)
        gym.Wrapper.__init__(self, env)
        self._channel, self._seeded = Channel(delay, drop, in_order), _Seeded(0x6F6273)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; its first observation is known at once."""
        self._channel.reset(self._seeded.next(seed))
        observation, info = self.env.reset(seed=seed, options=options)
        seen, age = self._seen(observation, at_once=True)
        return seen, {**info, "observation_age": age}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; returns the newest observation that has arrived."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        seen, age = self._seen(observation)
        return seen, reward, terminated, truncated, {**info, "observation_age": age}

    def _seen(self, observation: Any, at_once: bool = False) -> tuple[Any, int]:
        # Copied on the way in and out: environments reuse their arrays, and controllers may write into what they get.
        self._channel.send(copy.deepcopy(observation), at_once)
        received = self._channel.receive()
        assert received is not None  # the reset's observation is always there
        return copy.deepcopy(received[0]), received[1]


def _neutral(space: gym.Space[Any], neutral: Any) -> Any:
    if neutral is None:
        if not isinstance(space, gym.spaces.Box):
            raise VidsslError(f"ActionDelay: zeros are no action of {space}; say which is executed first: neutral=…")
        neutral = np.zeros(space.shape, space.dtype)
    elif isinstance(space, gym.spaces.Box):
        neutral = np.asarray(neutral, space.dtype)
    if not space.contains(neutral):
        raise VidsslError(f"ActionDelay: neutral={neutral!r} is no action of {space}; give one that is")
    return neutral
