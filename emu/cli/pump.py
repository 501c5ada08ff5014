"""What moves bytes between a character device of the host and one of the guest, without anyone waiting."""

from collections.abc import Callable
from typing import Protocol

from emu.cli.chardev import Source
from emu.cli.escapes import EscapeKeys, Key
from emu.cli.mainloop import MainLoop
from emu.cli.output import BATCH, DeviceSink


class GuestInput(Protocol):
    """Where the host's bytes go. Any thread."""

    def input(self, data: bytes, /) -> None:
        """Bytes for the guest."""

    def room(self) -> int:
        """How many more bytes should be given now."""


class Port(GuestInput, Protocol):
    """A virtio port of the guest's; see `emu.devices.virtio.char_port.CharPort`."""

    on_room: Callable[[], None]

    def connect(self, send: Callable[[memoryview], int], /) -> None:
        """Where the guest's bytes go."""

    def opened(self, is_open: bool, /) -> None:
        """Somebody has connected, or left."""

    def writable(self) -> None:
        """What `send` did not take can be sent now."""


class Pump:
    """Hands over what a source brings, as far as the guest has room; the main loop's own, but for `paused`.

    With `keys` the Ctrl-A keys are told to `on_key`. With `keep_signals`, Ctrl-C on a terminal is a signal.
    """

    def __init__(
        self, source: Source, *, keys: bool, on_key: Callable[[Key], None], keep_signals: bool | None = None
    ) -> None:
        self.source = source
        self.keys = EscapeKeys() if keys else None
        self.keep_signals = not keys if keep_signals is None else keep_signals
        self.paused = False
        self.guest: GuestInput | None = None
        """None before and after the run: what is typed then is for the shell."""
        self.on_open: Callable[[bool], None] = _nobody
        self._on_key = on_key
        self._ended = False

    def start(self, loop: MainLoop, guest: GuestInput) -> None:
        """Begin; before the loop starts."""
        self.guest, self._loop = guest, loop
        self.source.attach(loop, self._on_readable, self._on_open)

    def _on_open(self, is_open: bool) -> None:
        self.on_open(is_open)

    def _on_readable(self) -> None:
        guest = self.guest
        if guest is None:
            self._stop()
        elif guest.room() <= 0:
            self._pause()
        elif (data := self.source.read()) == b"":
            self._stop()
        elif data is not None:
            for event in self.keys.feed(data) if self.keys is not None else [data]:
                if isinstance(event, bytes):
                    guest.input(event)
                else:
                    self._on_key(event)

    def _stop(self) -> None:
        self._ended = True
        self.source.pause()

    def _pause(self) -> None:
        self.paused = True
        self.source.pause()
        self._loop.wake()  # the tick also sees room that came before anyone knew that we wait for it

    def tick(self) -> bool:
        """Go on where there is room again; True while there is none."""
        if self.paused and not self._ended and self.guest is not None and self.guest.room() > 0:
            self.paused = False
            self.source.resume()
        return self.paused


class PortPump:
    """Both directions of one virtio port. `wake` makes the main loop tick."""

    def __init__(self, port: Port, sink: DeviceSink, pump: Pump | None, wake: Callable[[], None]) -> None:
        self.pump, self._port, self._sink, self._wake = pump, port, sink, wake
        self._blocked = False
        port.connect(self._send)
        if pump is not None:
            port.on_room = self._on_room
            pump.on_open = port.opened

    def start(self, loop: MainLoop) -> None:
        """Begin; before the loop starts. A device without input is always connected."""
        if self.pump is not None:
            self.pump.start(loop, self._port)
        else:
            self._port.opened(True)

    def stop(self) -> None:
        """The run is over."""
        if self.pump is not None:
            self.pump.guest = None

    def tick(self) -> bool:
        """Main loop: go on where somebody was slow; True while the host's side still is."""
        if self.pump is not None:
            self.pump.tick()
        if self._blocked and self._sink.ready():
            self._blocked = False
            self._port.writable()
        return self._blocked

    def _on_room(self) -> None:
        if self.pump is not None and self.pump.paused:
            self._wake()

    def _send(self, data: memoryview) -> int:
        """The vCPU thread: give what is taken at once."""
        done = 0
        while done < len(data) and (taken := self._sink.offer(data[done : done + BATCH])):
            done += taken
        if done < len(data):
            self._blocked = True
            self._wake()
        return done


def _nobody(_is_open: bool) -> None:
    """Nobody minds."""
