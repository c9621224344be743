"""Errors: what is made of other libraries' words."""

from trajectories.errors import (
    ConcertoError,
    RunError,
    StorageError,
    UserError,
    WorkersLost,
    did_you_mean,
    first_line,
    last_line,
)


def test_every_class_carries_its_exit_code():
    assert [kind.exit_code for kind in (ConcertoError, RunError, StorageError, WorkersLost, UserError)] == [
        1,
        1,
        1,
        1,
        2,
    ]
    assert "--resume" in WorkersLost.fix


def test_an_error_in_one_line():
    error = OSError("\nno such file.\nTraceback: …\nOSError: gone\n")
    assert (first_line(error), last_line(error)) == ("no such file", "OSError: gone")
    assert first_line(OSError()) == last_line(OSError()) == "OSError"


def test_a_hint_only_where_something_is_close():
    assert did_you_mean("locl", ["local", "gpu"]) == " Did you mean 'local'?"
    assert did_you_mean("xyz", ["local", "gpu"]) == ""
