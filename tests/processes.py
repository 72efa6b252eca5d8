"""Processes on this machine that are one run: begun together, and none left behind."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
_FLAG = "--xla_force_host_platform_device_count"


def environment(devices):
    """Return the environment of a process with so many CPU devices."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if _FLAG not in flag]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": path,
        "XLA_FLAGS": " ".join([*flags, f"{_FLAG}={devices}"]),
    }


def _free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Processes:
    """Python processes, each told where they meet, how many they are and which it is."""

    def __init__(self, count, arguments, devices=1, **variables):
        group = f"127.0.0.1:{_free_port()}", count
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self._all = [
            subprocess.Popen(
                [sys.executable, *arguments((*group, index))],
                env=environment(devices) | variables,
                **pipe,
            )
            for index in range(count)
        ]
        self._outputs = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._all:
            process.kill()
        self.wait()

    def __getitem__(self, index):
        return self._all[index]

    def wait(self, timeout=300):
        """Wait for all of them and return their exit statuses."""
        if self._outputs is None:
            self._outputs = [process.communicate(timeout=timeout) for process in self._all]
        return [process.returncode for process in self._all]

    def said(self):
        """Return what each wrote to stderr."""
        return [err for _, err in self._outputs]

    def printed(self):
        """Return what each wrote to stdout."""
        return [out for out, _ in self._outputs]
