"""The end of processes that were started, and of those that these left behind."""

import subprocess
import sys

import psutil

from cluster.descendants import none_left

ORPHAN = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid)"


def test_what_was_started_ends_and_so_does_what_its_parent_left_behind():
    with none_left():
        child = subprocess.Popen(["sleep", "60"])
        orphan = int(subprocess.check_output([sys.executable, "-c", ORPHAN]))
        assert psutil.Process(orphan).is_running()
    assert child.wait(5) == -9
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_what_ran_before_goes_on():
    with subprocess.Popen(["sleep", "60"]) as earlier:
        with none_left():
            pass
        assert earlier.poll() is None
        earlier.kill()
