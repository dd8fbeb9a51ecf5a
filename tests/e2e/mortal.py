"""How does a `hybrid serve` die at one exact step of its work? Run by test_death.py in place of `hybrid`.

Usage: python mortal.py POINT serve ...   with POINT as MODULE:FUNCTION:MOMENT:TIME, where MOMENT is call or return, and
TIME is how often the process comes there until it dies: 1 is the first time. Of several points, joined by `+`, each
counts from the moment at which the one before it was reached, and the last one kills.

A profile function watches every thread for the point and kills the process with SIGKILL there, as `kill -9` or the
kernel would: nothing is flushed, closed or caught. The program is not changed and does not know.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from types import FrameType

from hybrid.cli import main


def watch(point: str) -> None:
    """Kill this process when it has come to the point so often, in whatever thread."""
    points = [one.split(":") for one in point.split("+")]
    lefts = [itertools.count(int(time) - 1, -1) for *_, time in points]

    def look(frame: FrameType, event: str, _argument: object) -> None:
        module, function, moment, _ = points[0]
        if (
            event == moment
            and frame.f_code.co_name == function
            and frame.f_globals.get("__name__") == module
            and not next(lefts[0])
        ):
            if len(points) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            del points[0], lefts[0]

    threading.setprofile(look)
    sys.setprofile(look)


if __name__ == "__main__":
    watch(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
