"""Names: every one that Ray takes, and what a demonstration's id says."""

from hypothesis import given
from hypothesis import strategies as st

from trajectories.ids import demonstrated_task, demonstration_id, plain_name


@given(st.text())
def test_a_plain_name_is_ascii_without_separators_and_plain_names_stay(name):
    plain = plain_name(name)
    assert plain.isascii() and not set(plain) & set(" :/#()\n") and plain_name(plain) == plain
    assert bool(plain) == bool(name)


def test_letters_with_accents_and_blanks_become_dashes():
    assert plain_name("für é 1.0") == "f-r-1.0" and plain_name("demo_2-webshop") == "demo_2-webshop"


@given(st.text("abc_", min_size=1), st.text())
def test_a_demonstration_s_id_names_its_task(environment, task):
    assert demonstrated_task(demonstration_id(environment, task)) == (environment, task)
