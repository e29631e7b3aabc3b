"""The number of this version; whoever needs it imports it from here, not from the package above."""

__version__ = "0.1.0"
