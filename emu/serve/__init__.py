"""Processes that serve devices of other processes' machines: `emu serve`."""
