"""`keylite` and `python -m keylite`: the command line, or the line that says what installs it.

The imports take a moment, and Ctrl-C in that moment is Ctrl-C, too.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from keylite.runtime.packages import require

        command_line = require("keylite.cli", "cli").main
        command_line()
    except ModuleNotFoundError as error:  # a device with the runtime alone
        print(f"keylite: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # in an import, or while the last line is being said
        print("keylite: stopped", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
