# SPDX-License-Identifier: Apache-2.0 OR MIT

"""A connection to luod: lines of JSON, with descriptors.

Documentation/userspace-api/liveupdate-luod-protocol.rst has the protocol.
"""

import collections
import json
import math
import os
import select
import socket
import time

from .device import IncomingSession, OutgoingSession

SOCKET = "/run/luod/liveupdate.sock"
# The version of the protocol.
VERSION = 4
# The time limit for an answer, in seconds.
ANSWER = 30
# The maximum number of bytes of a line, and of descriptors with it.
LINE_MAX = 4 << 20
FDS_MAX = 8
# Refusals after which the same request may succeed.
TEMPORARY = frozenset(("try-again", "device-busy", "in-use"))


class Closed(ConnectionError):
    """luod has closed the connection."""


class Refused(Exception):
    """luod has refused a request. `code` is the word for the reason, the text is for people."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code

    @property
    def is_temporary(self):
        """Whether the same request may succeed later."""
        return self.code in TEMPORARY


class Client:
    """A connection to luod. Its methods raise Refused, or OSError if luod does not answer."""

    def __init__(self, name, path=SOCKET):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._bytes = bytearray()
        self._fds = collections.deque()
        self._early = collections.deque()
        self._number = 0
        try:
            self._socket.connect(path)
            self.call("HELLO", version=VERSION, client=name)
        except BaseException:
            self.close()
            raise

    def close(self):
        """Closes the connection, and sessions that were not used."""
        self._socket.close()
        for event in self._early:
            if event.get("session") is not None:
                event["session"].close()
        self._early.clear()
        while self._fds:
            os.close(self._fds.popleft())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def fileno(self):
        """For an event loop: readable when there is an event for next()."""
        return self._socket.fileno()

    def has_early(self):
        """Whether next() has an event that polling does not show."""
        return bool(self._early) or b"\n" in self._bytes

    def call(self, cmd, **fields):
        """Sends a request, and returns its answer. Fields with the value None are left out."""
        self._number += 1
        request = {"seq": self._number, "cmd": cmd}
        request |= {name: value for name, value in fields.items() if value is not None}
        end = time.monotonic() + ANSWER
        self._socket.settimeout(ANSWER)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed("the connection to luod is closed") from error
        while True:
            event = self._receive(end)
            if event is None:
                raise TimeoutError(f"luod has not answered {cmd} within {ANSWER} s")
            if event.get("seq") != self._number:
                self._early.append(event)
            elif event["event"] == "ERROR":
                raise Refused(event["code"], event["message"])
            else:
                return event

    def next(self, timeout=None):
        """The next event, a dict; None if there is none within `timeout` seconds.

        START_PRESERVATION has an OutgoingSession as "session".
        """
        if self._early:
            return self._early.popleft()
        event = self._receive(None if timeout is None else time.monotonic() + timeout)
        if event and event["event"] == "ERROR":
            raise Refused(event["code"], event["message"])
        return event

    def subscribe(self, name, timeout=None):
        """Requests a session in each update from now on. `timeout` is the time that is needed to
        preserve the files, in seconds."""
        self.call("SUBSCRIBE", id=name, timeout_ms=None if timeout is None else int(timeout * 1000))

    def unsubscribe(self, name):
        """Cancels a subscription."""
        self.call("UNSUBSCRIBE", id=name)

    def claim(self, name):
        """The IncomingSession that the previous kernel handed over; None if there is none.

        If this raises Refused, and the refusal is temporary, the session may exist.
        """
        try:
            return self.call("CLAIM", id=name)["session"]
        except Refused as refused:
            if refused.code == "no-session":
                return None
            raise

    def finished(self, name):
        """Reports that a claimed session is finished."""
        try:
            self.call("FINISHED", id=name)
        except Refused as refused:
            # luod has detected it already.
            if refused.code != "no-session":
                raise

    def preserved(self, name):
        """Reports that the client still works, and only has to stop its work and preserve the rest:
        luod sends PAUSE when the other clients are ready or have reported this as well. Returns
        False if luod is too old to send it."""
        try:
            self.call("PRESERVED", id=name)
        except Refused as refused:
            if refused.code != "unknown-command":
                raise
            return False
        return True

    def ready(self, name):
        """Reports that all files are preserved."""
        self.call("READY", id=name)

    def refuse(self, name, reason, update=None):
        """Refuses an update, which aborts it. `update` is its number, from PRESERVATION_REQUEST.
        Without it, this refuses the running update, which may be the next one if luod has cancelled
        the other in between."""
        self.call("REFUSE", id=name, update=update, reason=reason)

    def progress(self, name, done=None, total=None, text=None):
        """Reports the progress, for display."""
        self.call("PROGRESS", id=name, done=done, total=total, text=text)

    def _wait(self, end):
        """Waits until there is something to read. Returns False at the time `end`."""
        # Unlike select(), this takes descriptors of any number.
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        timeout = None if end is None else math.ceil(max(0, end - time.monotonic()) * 1000)
        return bool(poll.poll(timeout))

    def _receive(self, end):
        """The next event, or None at the time `end`."""
        searched = 0
        while True:
            at = self._bytes.find(b"\n", searched)
            if at >= 0:
                break
            searched = len(self._bytes)
            if searched > LINE_MAX:
                raise Closed("luod has sent a line that is too long")
            if not self._wait(end):
                return None
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, FDS_MAX, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError as error:
                raise Closed("the connection to luod is closed") from error
            self._fds.extend(fds)
            if not data:
                raise Closed("luod has closed the connection")
            self._bytes += data
        line = bytes(self._bytes[:at])
        del self._bytes[:at + 1]
        return self._with_session(json.loads(line))

    def _with_session(self, event):
        """Adds the descriptor of an event that has one. Descriptors arrive no later than the line
        with which they were sent, and in the order of the lines."""
        kind = {"START_PRESERVATION": OutgoingSession, "SESSION": IncomingSession}.get(event["event"])
        if kind:
            if not self._fds:
                raise Closed("luod has sent no descriptor")
            event["session"] = kind(self._fds.popleft())
        return event
