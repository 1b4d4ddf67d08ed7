# SPDX-License-Identifier: Apache-2.0 OR MIT

"""The device and its sessions. All errors are OSErrors with the number of the kernel."""

import fcntl
import os
import struct

DEVICE = "/dev/liveupdate"
# The maximum length of the name of a session in bytes.
NAME_MAX = 63

# The requests of include/uapi/linux/liveupdate.h. Their structures begin with their size.
CREATE_SESSION, RETRIEVE_SESSION = 0xBA00, 0xBA01
PRESERVE_FD, RETRIEVE_FD, FINISH, GET_NAME = 0xBA40, 0xBA41, 0xBA42, 0xBA43
NAMED = struct.Struct("=Ii64s")
FILE = struct.Struct("=IiQ")
FLAGS = struct.Struct("=II")


def _call(fd, request, form, *fields):
    """An ioctl; returns the fields of the structure without its size."""
    argument = bytearray(form.pack(form.size, *fields))
    fcntl.ioctl(fd, request, argument)
    return form.unpack(argument)[1:]


class Descriptor:
    """Owns a file descriptor, and closes it at the end of a `with` block."""

    def __init__(self, fd):
        self._fd = fd

    def fileno(self):
        """The descriptor, which belongs to this object."""
        if self._fd < 0:
            raise ValueError("the descriptor is closed")
        return self._fd

    def detach(self):
        """Returns the descriptor, which then belongs to the caller."""
        fd, self._fd = self.fileno(), -1
        return fd

    def close(self):
        """Closes the descriptor. Does nothing if it is closed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()


class Session(Descriptor):
    """A session: an OutgoingSession or an IncomingSession."""

    def name(self):
        """The name of the session."""
        name = _call(self.fileno(), GET_NAME, NAMED, 0, b"")[1]
        return name.split(b"\0")[0].decode()


class OutgoingSession(Session):
    """A session for the next kernel. When its last descriptor is closed, its files are not handed
    over."""

    def preserve(self, file, token):
        """Preserves a file, a descriptor or an object with fileno(): in the next kernel it can be
        retrieved with `token`, a number that only the caller interprets."""
        fd = file if isinstance(file, int) else file.fileno()
        _call(self.fileno(), PRESERVE_FD, FILE, fd, token)


class IncomingSession(Session):
    """A session of the previous kernel. If it is closed without finish(), it can be retrieved
    again."""

    def retrieve(self, token):
        """Returns a new descriptor of a file, which belongs to the caller."""
        return _call(self.fileno(), RETRIEVE_FD, FILE, -1, token)[0]

    def finish(self):
        """Ends the session, and closes it. Files that were not retrieved are lost. If this fails,
        it can be called again."""
        _call(self.fileno(), FINISH, FLAGS, 0)
        self.close()


class Device(Descriptor):
    """The device, which only one process can open: close it after creating or retrieving
    sessions."""

    def __init__(self, path=DEVICE):
        super().__init__(-1)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def create_session(self, name):
        """Creates a session for the next kernel."""
        return OutgoingSession(self._named(CREATE_SESSION, name))

    def retrieve_session(self, name):
        """Retrieves a session of the previous kernel."""
        return IncomingSession(self._named(RETRIEVE_SESSION, name))

    def _named(self, request, name):
        text = name.encode()
        if not 0 < len(text) <= NAME_MAX or b"\0" in text:
            raise ValueError(f"the session name {name!r} is empty, too long, or has a null byte")
        return _call(self.fileno(), request, NAMED, -1, text)[0]
