"""The bus: address spaces, windows, irq lines, PCI, MSI-X, eventfds, and the exit ledger.

Bottom layer: imports only `emu.errors` and `emu.clock`, never the CPU engine.
"""
