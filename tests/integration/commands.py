"""Run geoelle as its users do: in a process of its own, or in this one where only words and exit codes count."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from geoelle.cli import main

__all__ = ["DEMO_ARGS", "SEAM", "SMALL", "Result", "geoelle", "invoke", "start"]

SEAM = "--bbox=-75.5675,37.645,-75.551,37.660"
"""115 cells of the embedded scene where four parts meet."""
SMALL = "--bbox=-75.655,37.66,-75.64,37.67"
"""72 cells of one part."""
DEMO_ARGS = ("--dates", "2015/2018", "--catalog", "demo")
_LONGEST_S = 200
torch.set_num_threads(1)  # as in the processes that `start` starts; two workers of two threads wait for one another


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def json(self) -> object:
        """Return stdout as strict JSON: neither text beside it nor NaN in it."""
        return json.loads(self.out, parse_constant=_refuse)

    def failure(self) -> str:
        """Return the one line that a failure ends with; check that there is no other and no traceback."""
        assert self.code == 1, self
        assert self.out == "", self.out
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and self.err.splitlines()[-1] == lines[0], self.err
        return lines[0].removeprefix("error: ")


def geoelle(*args: object, cwd: Path | None = None) -> Result:
    """Run a command in a process of its own."""
    process = start(*args, cwd=cwd)
    try:
        out, err = process.communicate(timeout=_LONGEST_S)
    finally:
        process.kill()
    return Result(process.returncode, out, err)


def start(*args: object, cwd: Path | None = None, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
    """Start a command; one thread, since its tests share a machine. `before` runs in the new process first.

    Ctrl-C works in it also where the tests run in the background of a shell, which has it ignored.
    """

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if before:
            before()

    script = Path(sys.executable).with_name("geoelle")
    program = [str(script)] if script.is_file() else [sys.executable, "-m", "geoelle.cli"]
    return subprocess.Popen(
        [*program, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=prepare,
    )


def invoke(*args: object) -> Result:
    """Run a command in this process; anything but an orderly exit is raised."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with (
        mock.patch.object(sys, "argv", ["geoelle", *map(str, args)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    assert isinstance(code, int)
    return Result(code, out.getvalue(), err.getvalue())


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
