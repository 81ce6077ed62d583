"""Runs a command and ends with it; and ends it, with all that it has started, when the process that asked is gone.

    python guard.py COMMAND ARGUMENT ...        in a process group of its own, standard input a pipe of who asks

A process that is killed says nothing to those that it has started. But its end of the pipe closes, whatever ended it.
Exit code: the command's, 128 + n where signal n ended it, 127 where it cannot be started. Standard library only: it is
run by its path.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _watch() -> None:
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def main(line: list[str]) -> int:
    try:
        command = subprocess.Popen(line, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{line[0]}: {error.strerror}", flush=True)
        return 127
    threading.Thread(target=_watch, daemon=True).start()
    code = command.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # Not sys.exit: the thread that reads would be waited for.
    os._exit(main(sys.argv[1:]))
