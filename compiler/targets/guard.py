"""Wrapper that runs a command, and kills it and its children when the calling process is gone.

    python guard.py COMMAND ARGUMENT ...        in a process group of its own, with a pipe from the caller as stdin

A killed process cannot end its children, but its end of the pipe closes, whatever ended it. Exit code: the command's,
128 + n if signal n ended it, 127 if it cannot be started. Standard library only: it is run by its path.
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
    # Not sys.exit, which would wait for the reading thread.
    os._exit(main(sys.argv[1:]))
