"""Runs one server for the tests and ends it when the tests are gone, however they end.

usage: python -I keeper.py STOP_SIGNAL REMOVE_FOLDER|- UID|- -- COMMAND...

The tests hold the write end of this process's stdin. `t` ends the server by STOP_SIGNAL, `k` by SIGKILL.
When the pipe ends, as it also does when the tests were killed, the server is ended and REMOVE_FOLDER
removed. The server dies with this process. UID is the user that the server runs as.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1
PATIENCE_SECONDS = 10


def main() -> int:
    """Keep the server of the command line until it ends; returns its exit status."""
    stop_signal, folder, uid = sys.argv[1:4]
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    libc = ctypes.CDLL(None)  # loaded before the fork

    def prepare() -> None:
        for restored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(restored, signal.SIG_DFL)
        if sys.platform == "linux":
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)

    other_user = {}
    if uid != "-":
        other_user = {"user": int(uid), "group": pwd.getpwuid(int(uid)).pw_gid, "extra_groups": []}
    server = subprocess.Popen(sys.argv[5:], stdin=subprocess.DEVNULL, preexec_fn=prepare, **other_user)
    threading.Thread(target=obey, args=(server, int(stop_signal)), daemon=True).start()
    status = server.wait()
    if gone.is_set() and folder != "-":
        shutil.rmtree(folder, ignore_errors=True)
    return status if status >= 0 else 128 - status  # as a shell has it


gone = threading.Event()


def obey(server: subprocess.Popen[bytes], stop_signal: int) -> None:
    """Follow the tests' orders until the server has ended."""
    while server.returncode is None:
        order = os.read(0, 1)
        if order == b"":
            gone.set()
        server.send_signal(signal.SIGKILL if order == b"k" else stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(PATIENCE_SECONDS)
            return
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
