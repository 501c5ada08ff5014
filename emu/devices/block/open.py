"""From a file's name to a medium: which format, which layers."""

import errno
import os

from emu.config import FilePath
from emu.devices.block.backend import BlockBackend
from emu.devices.block.raw import RawImage, open_locked
from emu.errors import ConfigError

FORMATS = ("raw", "qcow2")
QCOW2_MAGIC = b"QFI\xfb"


def open_image(
    path: FilePath, image_format: str | None = None, read_only: bool = False, snapshot: bool = False
) -> BlockBackend:
    """Open a disk image; `image_format` None looks at the file's magic.

    With `snapshot` the file is only read and writes are forgotten. Raises ConfigError in one line.
    """
    if image_format is not None and image_format not in FORMATS:
        raise ConfigError(f"{path}: format {image_format} is not supported; use {' or '.join(FORMATS)}")
    is_qcow2 = probe_format(path) == "qcow2"
    if image_format == "qcow2" and not is_qcow2:
        raise ConfigError(f"{path}: is not a qcow2 image (no magic); try format=raw")
    if image_format is None:
        image_format = "qcow2" if is_qcow2 else "raw"
    if image_format == "qcow2" and not (read_only or snapshot):
        raise ConfigError(
            f"{path}: qcow2 images are only read; add -snapshot (writes are forgotten) or readonly=on, "
            f'or try "qemu-img convert -O raw {path} disk.img"'
        )
    base: BlockBackend
    if image_format == "qcow2":
        from emu.devices.block.qcow2 import Qcow2Image  # noqa: PLC0415 - most disks are raw

        base = Qcow2Image(path)
    else:
        base = RawImage(path, read_only=read_only or snapshot)
    if not snapshot or read_only:
        return base
    from emu.devices.block.overlay import Overlay  # noqa: PLC0415 - for -snapshot alone

    try:
        return Overlay(base)
    except BaseException:
        base.close()
        raise


def probe_format(path: FilePath) -> str:
    """Say "qcow2" or "raw" by the first bytes. Raises ConfigError where the file cannot be read."""
    fd = open_locked(path, read_only=True)
    try:
        return "qcow2" if os.pread(fd, len(QCOW2_MAGIC), 0) == QCOW2_MAGIC else "raw"
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    finally:
        os.close(fd)
