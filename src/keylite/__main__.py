"""Starts the command line (`keylite`, `python -m keylite`), or says how to install it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from keylite.runtime.packages import require

        command_line = require("keylite.cli", "cli").main
        command_line()
    except ModuleNotFoundError as error:  # the command line is an extra
        print(f"keylite: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # during the imports, which take a moment, or after the verb
        print("keylite: stopped", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
