"""`keylite` and `python -m keylite`: the command line, whose imports take a moment, in which Ctrl-C is Ctrl-C, too."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from keylite.cli import main as command_line

        command_line()
    except KeyboardInterrupt:  # in an import, or while the last line is being said
        print("keylite: stopped", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
