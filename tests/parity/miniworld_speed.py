"""Pictures a second of MiniWorld: its four-room scene at 384 x 224, one process, as `errand bench household` draws ours.

    python -m venv venv && venv/bin/pip install miniworld==2.1.0    # and xvfb from the system's packages
    errand bench household --rival "xvfb-run -a venv/bin/python tests/parity/miniworld_speed.py"

The last line on stdout is one JSON object, figure by name. `miniworld_pictures_per_second`: the camera's picture alone, read
back to memory. `miniworld_steps_per_second`: a random action and its picture.
"""

import json
import sys
import time

import numpy
from miniworld.envs.fourrooms import FourRooms


def rate(seconds, act):
    """Calls a second, and the last picture."""
    picture, calls, started = None, 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        picture = act()
        calls += 1
    return calls / (time.perf_counter() - started), picture


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    env = FourRooms(obs_width=384, obs_height=224)
    env.reset(seed=1)
    rng = numpy.random.default_rng(1)

    def step():
        picture, _, terminated, truncated, _ = env.step(int(rng.integers(env.action_space.n)))
        if terminated or truncated:
            env.reset()
        return picture

    rate(0.5, step)
    steps, _ = rate(seconds, step)
    pictures, picture = rate(seconds, env.render_obs)
    if picture.shape != (224, 384, 3) or picture.min() == picture.max():
        sys.exit(f"the picture is {picture.shape}, {picture.min()} to {picture.max()}: expected 224 x 384 x 3 with something in it")
    print(json.dumps({"miniworld_pictures_per_second": pictures, "miniworld_steps_per_second": steps}))


if __name__ == "__main__":
    main()
