# SPDX-License-Identifier: GPL-2.0

"""A client of luod in plain Python.

Keeps a memfd that says how many updates it has seen.
"""

import fcntl
import json
import os
import socket
import struct

ID = "python"
TOKEN = 7
SIZE = 1 << 20
PRESERVE_FD, RETRIEVE_FD, FINISH = 0xBA40, 0xBA41, 0xBA42


def content(updates):
    return struct.pack("<Q", updates) + bytes([updates % 251]) * (SIZE - 8)


def preserve(session, fd):
    fcntl.ioctl(session, PRESERVE_FD, struct.pack("=IiQ", 16, fd, TOKEN))


def retrieve(session):
    answer = fcntl.ioctl(session, RETRIEVE_FD, struct.pack("=IiQ", 16, -1, TOKEN))
    return struct.unpack("=IiQ", answer)[1]


class Luod:
    """The connection: lines of JSON, and the descriptors that come with them."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect("/run/luod/liveupdate.sock")
        self.bytes = b""
        self.fds = []

    def send(self, cmd, **fields):
        line = json.dumps({"cmd": cmd, **fields}) + "\n"
        self.socket.sendall(line.encode())

    def receive(self):
        """The next event, and the descriptors that came until its end."""
        while b"\n" not in self.bytes:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 8)
            if not data and not fds:
                return None, []
            self.bytes += data
            self.fds += fds
        line, self.bytes = self.bytes.split(b"\n", 1)
        event = json.loads(line)
        fds = []
        if event["event"] in ("START_PRESERVATION", "SESSION"):
            fds.append(self.fds.pop(0))
        return event, fds


def claim(luod):
    """The memfd from before the update; a new one if there was none."""
    luod.send("CLAIM", id=ID)
    event, fds = luod.receive()
    if event["event"] == "ERROR" and event["code"] == "no-session":
        memfd = os.memfd_create(ID, os.MFD_CLOEXEC)
        os.pwrite(memfd, content(1), 0)
        print("new")
        return memfd
    if event["event"] != "SESSION":
        raise SystemExit(f"unexpected: {event}")
    memfd = retrieve(fds[0])
    data = os.pread(memfd, SIZE + 1, 0)
    updates = struct.unpack("<Q", data[:8])[0]
    if data != content(updates):
        raise SystemExit("the content is not what it was")
    fcntl.ioctl(fds[0], FINISH, struct.pack("=II", 8, 0))
    os.close(fds[0])
    luod.send("FINISHED", id=ID)
    os.pwrite(memfd, content(updates + 1), 0)
    print("verified", updates)
    return memfd


def main():
    luod = Luod()
    memfd = claim(luod)
    luod.send("SUBSCRIBE", id=ID)
    session = None
    while True:
        event, fds = luod.receive()
        if event is None:
            # luod may have died, and is started again.
            luod = Luod()
            luod.send("SUBSCRIBE", id=ID)
            continue
        print(json.dumps(event))
        if event["event"] == "START_PRESERVATION":
            session = fds[0]
            preserve(session, memfd)
            luod.send("READY", id=ID)
        elif event["event"] == "CANCELLED" and session is not None:
            os.close(session)
            session = None


main()
