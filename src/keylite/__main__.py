"""`python -m keylite`: the command line, for launchers that start a module."""

from keylite.cli import main

if __name__ == "__main__":
    main()
