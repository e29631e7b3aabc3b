"""The version number of keylite; modules import it from here, because no room may import the package itself."""

__version__ = "0.1.0"
