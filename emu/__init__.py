"""A whole x86-64 PC in Python: Unicorn runs the guest, Python is the board around it."""

__version__ = "0.1.0"
