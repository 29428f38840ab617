"""Running a program that says nothing unless it fails."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable


def run(command: list[str], environment: dict[str, str], tick: Callable[[], object] | None = None) -> tuple[int, str]:
    """Run a program quietly: (exit status, everything it printed). It ends with us, whatever ends us."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=0.2)
                    break
                if tick:
                    tick()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        return code, output.read()
