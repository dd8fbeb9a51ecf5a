"""How does a `hybrid serve` die at one exact step of its work? Run by test_death.py in place of `hybrid`.

Usage: python mortal.py POINT serve ...   with POINT as MODULE:FUNCTION:MOMENT:TIME, where MOMENT is call or return, and
TIME is how often the process comes there until it dies: 1 is the first time.

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
    module, function, moment, time = point.split(":")
    left = itertools.count(int(time) - 1, -1)

    def look(frame: FrameType, event: str, _argument: object) -> None:
        if (
            event == moment
            and frame.f_code.co_name == function
            and frame.f_globals.get("__name__") == module
            and not next(left)
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(look)
    sys.setprofile(look)


if __name__ == "__main__":
    watch(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
