"""Whose processor time it was, held against processes that work and processes that do not."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from convatlas.bench.processors import worked, worked_by

SPIN = "import time\nbegin = time.process_time()\nwhile time.process_time() - begin < {seconds}: pass\n"


def test_a_group_is_counted_with_its_ended_children() -> None:
    before = worked()
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {SPIN.format(seconds=0.4)!r}])\n"
    code += SPIN.format(seconds=0.3) + "print('done', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], process_group=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        own, everybody = worked_by(process.pid), worked() - before
    assert 0.7 <= own < 3
    assert everybody >= own - 0.1  # two clocks of 10 ms


def test_a_group_that_sleeps_or_is_gone_works_nothing() -> None:
    with subprocess.Popen(["sleep", "60"], process_group=0) as process:
        first = worked_by(process.pid)
        time.sleep(0.2)
        assert worked_by(process.pid) - first <= 0.02
        process.kill()
    assert worked_by(process.pid) == 0
    assert worked_by(os.getpgrp()) > 0
