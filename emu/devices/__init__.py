"""The chips, one file each. Imports `emu.bus`, `emu.clock`, `emu.errors`; never the CPU."""
