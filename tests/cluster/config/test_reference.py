"""The reference of all settings is made of their docstrings, and is not stale."""

from pathlib import Path

from cluster.config.loading import keys, section_of
from cluster.config.reference import reference
from cluster.config.run import RunSettings
from trajectories.settings import Settings

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_what_the_settings_say():
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_the_page_has_every_key():
    lines = reference().splitlines()
    for key in keys():
        (line,) = [line for line in lines if line.startswith(f"| `{key}` |")]
        assert line.count(" | ") == 4


def test_every_setting_says_what_it_means_and_how_it_is_tuned():
    def check(settings: type[Settings]) -> None:
        for name, field in settings.model_fields.items():
            section = section_of(field.annotation)
            if section is not None:
                assert section.__doc__ and issubclass(section, Settings)
                check(section)
            else:
                assert field.description and " Tuning: " in " ".join(field.description.split()), (settings, name)

    check(RunSettings)
