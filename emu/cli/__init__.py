"""The command line: one file a subcommand. May import everything of this package; nothing imports it.

A subcommand's file has `run(argv: list[str], out: TextIO) -> int`: the words after its name, the stream its
results go to, the exit status back. It raises ConfigError for what the user got wrong; `main` turns every
error into one line. `emu.cli.main` imports a subcommand's file only when it is called, so `run` is all
that it needs. Flags are rows of a table (`emu.cli.options`), QEMU's own in `emu.cli.flags`.
"""
