"""Private directories of child processes."""

import shutil

from actors.engine_process import private_directory


def test_a_directory_left_behind_is_removed_by_the_next_one_in_use_stay():
    used, used_lock = private_directory()
    left, left_lock = private_directory()
    left_lock.close()  # as if its process had ended
    mine, mine_lock = private_directory()
    assert used.exists() and mine.exists() and not left.exists()
    for directory, lock in ((used, used_lock), (mine, mine_lock)):
        lock.close()
        shutil.rmtree(directory)
