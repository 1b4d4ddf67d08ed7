# SPDX-License-Identifier: GPL-2.0

"""A client of luod in plain Python.

Keeps a memfd that counts the updates.
"""

import fcntl
import json
import os
import socket
import struct
import time

ID = "python"
PATH = "/run/luod/liveupdate.sock"
# Seconds until a retry.
RETRY = 0.2
# Errors after which the session may exist.
TEMPORARY = "try-again", "device-busy", "in-use"
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
    """The connection: lines of JSON with descriptors.

    luod may be restarted at any time. Then nothing can be sent, and None is received.
    """

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(PATH)
        self.bytes = b""
        self.fds = []
        # After this, luod acknowledges each request.
        self.send("HELLO", version=2, client=ID)
        self.receive()

    def send(self, cmd, **fields):
        line = json.dumps({"cmd": cmd, **fields}) + "\n"
        try:
            self.socket.sendall(line.encode())
        except OSError:
            pass

    def receive(self):
        """The next event, and its descriptors."""
        while b"\n" not in self.bytes:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 65536, 8)
            except OSError:
                return None, []
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


class Client:
    def __init__(self):
        self.luod = Luod()
        # The session that may be part of an update.
        self.session = None
        self.restored = False
        self.memfd = self.claim()
        self.luod.send("SUBSCRIBE", id=ID)

    def claim(self):
        """The memfd from before the update; a new one if there was none.

        If luod does not know yet, or is restarted, there may be one.
        """
        while True:
            self.luod.send("CLAIM", id=ID)
            event, fds = self.luod.receive()
            if event is None:
                self.luod, _ = connect()
                continue
            if event["event"] == "SESSION":
                return self.restore(fds[0])
            code = event.get("code")
            if code == "no-session":
                memfd = os.memfd_create(ID, os.MFD_CLOEXEC)
                os.pwrite(memfd, content(1), 0)
                print("new")
                return memfd
            if code not in TEMPORARY:
                raise SystemExit(f"unexpected: {event}")
            time.sleep(RETRY)

    def restore(self, session):
        memfd = retrieve(session)
        data = os.pread(memfd, SIZE + 1, 0)
        updates = struct.unpack("<Q", data[:8])[0]
        if data != content(updates):
            raise SystemExit("the content has changed")
        fcntl.ioctl(session, FINISH, struct.pack("=II", 8, 0))
        # The file now belongs to this program. If the report to luod fails, it
        # is repeated later.
        self.restored = True
        os.close(session)
        self.luod.send("FINISHED", id=ID)
        os.pwrite(memfd, content(updates + 1), 0)
        print("verified", updates)
        return memfd

    def cancel(self):
        if self.session is not None:
            os.close(self.session)
        self.session = None

    def connect_again(self):
        """If the session may be part of an update, luod must first confirm that it is not.

        Otherwise the next kernel may be started while this program continues.
        """
        while True:
            self.luod, was_there = connect()
            if not was_there:
                self.cancel()
            if self.session is None:
                break
            self.luod.send("REFUSE", id=ID)
            event, _ = self.luod.receive()
            if event and (event["event"] == "OK" or event.get("code") == "no-session"):
                self.cancel()
                break
            time.sleep(RETRY)
        if self.restored:
            self.luod.send("FINISHED", id=ID)
        self.luod.send("SUBSCRIBE", id=ID)

    def run(self):
        while True:
            event, fds = self.luod.receive()
            if event is None:
                self.connect_again()
                continue
            print(json.dumps(event))
            if event["event"] == "START_PRESERVATION":
                self.session = fds[0]
                preserve(self.session, self.memfd)
                self.luod.send("READY", id=ID)
            elif event["event"] == "CANCELLED":
                self.cancel()


def connect():
    """A new connection, and whether a luod listened all the time."""
    was_there = True
    while True:
        try:
            return Luod(), was_there
        except OSError:
            was_there = False
            time.sleep(RETRY)


Client().run()
