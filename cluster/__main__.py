"""`python -m cluster` is `concerto`."""

from __future__ import annotations

from cluster.own_packages import prefer_own_packages


def main() -> None:
    """Run the command, on Concerto's own packages."""
    prefer_own_packages()
    from cluster.cli import main  # not before: it imports others of them

    main()


if __name__ == "__main__":
    main()
