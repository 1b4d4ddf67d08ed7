# SPDX-License-Identifier: Apache-2.0 OR MIT

"""Clients of luod that implement the protocol."""

import errno
import time

from .client import SOCKET, Client, Refused

# The time until a retry, in seconds.
RETRY = 0.2
# How long a Member waits at its start for a luod that refuses temporarily or is restarted.
PATIENCE = 60
# Refusals of a subscription that end by themselves.
LATER = frozenset(("update-running", "in-use", "try-again"))


class Participant:
    """The part of a program in a live update. Any exception of prepare(), preserve() and pause()
    aborts the update, and its text is shown to the operator."""

    # Whether pause() does a part of the work, so that the program works until all others are ready.
    pauses = False

    def preserve(self, name, session):
        """Preserves all files of a session, or with `pauses` those whose contents may still change.
        Without `pauses`, the program must not change them in a way that its next instance cannot
        handle, until cancelled() is called."""
        raise NotImplementedError

    def pause(self, name, session):
        """Only with `pauses`: stops the work of the program until cancelled() is called, and
        preserves the rest. With an older luod, this is called directly after preserve()."""

    def restore(self, name, session):
        """Retrieves the files that the last instance of the program has preserved. If it succeeds
        for all sessions, the Member finishes them; otherwise they can be claimed again."""
        raise NotImplementedError

    def cancelled(self, name, reason):
        """The update was aborted, also because preserve() or pause() has failed: the program
        continues."""

    def prepare(self, name, deadline):
        """An update begins; preserve() is called next. `deadline` is in seconds from now."""

    def frozen(self, name):
        """The next kernel is started now."""


class _Held:
    """A session that is being preserved."""

    def __init__(self, session):
        self.session = session
        # Whether the session may be part of the update.
        self.ready = False
        self.frozen = False


class Member:
    """A client of luod, which calls a Participant.

    The constructor restores the sessions `names` of the previous kernel, and subscribes for the
    next update. It raises Refused, OSError, or what restore() has raised; all sessions are
    unchanged then.
    """

    def __init__(self, program, names, participant, path=SOCKET, patience=PATIENCE, timeout=None):
        self._program, self._path, self._timeout = program, path, timeout
        self._names = list(names)
        self._participant = participant
        self._held = {}
        # Sessions that were refused before luod has sent them. It may have done so by then.
        self._refused = set()
        # Restored sessions that the kernel could not finish yet; those that luod does not know of.
        self._unfinished, self._untold = {}, []
        self._subscribed = False
        self._next_try = 0.0
        self._client = Client(program, path)
        try:
            restored = self._restore(time.monotonic() + patience)
            try:
                self._settle()
            except Refused:
                # Files that were restored are not given up for this: step() tries again.
                if not restored:
                    raise
        except BaseException:
            self.close()
            raise

    def close(self):
        """Closes the connection and all sessions. A running update is aborted, unless the client
        was ready."""
        self._disconnect()
        for held in self._held.values():
            held.session.close()
        self._held.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def run(self):
        """Handles events until luod refuses a subscription after it was restarted."""
        while True:
            self.step()

    def fileno(self):
        """For an event loop: call step(0) when it is readable. -1 if there is no connection, or
        if luod has not got all reports: then call step(0) about every second."""
        return -1 if self._client is None or self._is_pending() else self._client.fileno()

    def has_early(self):
        """Whether step() has an event that polling does not show."""
        return self._client is not None and self._client.has_early()

    def step(self, timeout=None):
        """Waits for an event for up to `timeout` seconds, and handles it.

        If the connection is closed, this connects again. A running update is cancelled then,
        unless the session may be part of it: then luod is asked first.
        """
        if self._client is None:
            self._connect_again(timeout)
            return
        if self._is_pending():
            self._settle()
            timeout = RETRY if timeout is None else min(timeout, RETRY)
            if self._client is None:
                return
        try:
            event = self._client.next(timeout)
            if event:
                self._act(event)
        except Refused:
            # The request has most likely crossed with an abort, which is the next event.
            pass
        except OSError:
            self._lost()

    def _disconnect(self):
        if self._client is not None:
            self._client.close()
        self._client = None
        self._refused.clear()
        self._subscribed = False

    def _lost(self):
        self._disconnect()
        self._next_try = 0.0
        self._cancel_all(lambda held: not held.ready)

    def _restore(self, end):
        """Restores all sessions, and then finishes them. Returns whether there were any."""
        sessions = {}
        try:
            for name in self._names:
                session = self._claim(name, end)
                if session:
                    sessions[name] = session
                    self._participant.restore(name, session)
            while sessions:
                name = next(iter(sessions))
                try:
                    sessions[name].finish()
                    self._untold.append(name)
                except OSError as error:
                    # Until one of them is finished, all sessions can be restored again.
                    if not self._untold and not self._unfinished:
                        if error.errno != errno.EBUSY or time.monotonic() >= end:
                            raise
                        time.sleep(RETRY)
                        continue
                    self._unfinished[name] = sessions[name]
                del sessions[name]
            return bool(self._untold or self._unfinished)
        finally:
            for session in sessions.values():
                session.close()

    def _claim(self, name, end):
        """Claims a session, and waits for a luod that refuses temporarily or is restarted."""
        while True:
            try:
                if self._client is None:
                    self._client = Client(self._program, self._path)
                return self._client.claim(name)
            except Refused as refused:
                error = refused
                if refused.code == "too-many":
                    self._disconnect()
                elif not refused.is_temporary:
                    raise
            except OSError as closed:
                error = closed
                self._disconnect()
            if time.monotonic() >= end:
                raise TimeoutError(f"luod did not answer whether there is a session {name}: {error}") from error
            time.sleep(RETRY)

    def _is_pending(self):
        return not self._subscribed or bool(self._untold) or bool(self._unfinished)

    def _settle(self):
        """Finishes and reports sessions, and subscribes, if it is time."""
        if time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + RETRY
        for name, session in list(self._unfinished.items()):
            try:
                session.finish()
            except OSError:
                continue
            del self._unfinished[name]
            self._untold.append(name)
        try:
            for name in list(self._untold):
                try:
                    self._client.finished(name)
                except Refused as refused:
                    if refused.is_temporary:
                        continue
                    # luod asks the kernel itself.
                self._untold.remove(name)
            if not self._subscribed:
                for name in self._names:
                    self._client.subscribe(name, self._timeout)
                self._subscribed = True
        except Refused as refused:
            # A running update, or the last instance of the program, will end.
            if refused.code not in LATER:
                raise
        except OSError:
            self._lost()

    def _connect_again(self, timeout):
        left = max(0.0, self._next_try - time.monotonic())
        if timeout is not None and timeout < left:
            time.sleep(timeout)
            return
        time.sleep(left)
        self._next_try = time.monotonic() + RETRY
        try:
            self._client = Client(self._program, self._path)
        except (FileNotFoundError, ConnectionRefusedError):
            # Without luod, a session that is not frozen is not part of an update.
            self._cancel_all(lambda held: not held.frozen)
            return
        except (OSError, Refused):
            return
        if self._take_back():
            self._next_try = 0.0
            self._settle()
        else:
            # The next kernel is being started. If this fails, luod reports it.
            self._disconnect()

    def _take_back(self):
        """Refuses the update after the connection was lost. Returns False if it is too late."""
        for name in list(self._held):
            try:
                self._client.refuse(name, "the connection was lost")
            except Refused as refused:
                # no-session: luod was restarted, or has ended the update.
                if refused.code != "no-session":
                    return False
            except OSError:
                return False
            self._cancel(name, "the connection to luod was lost")
        return True

    def _cancel_all(self, which):
        for name in [name for name, held in self._held.items() if which(held)]:
            self._cancel(name, "the connection to luod is closed")

    def _cancel(self, name, reason):
        held = self._held.pop(name, None)
        if held:
            # First, unpreserve its files.
            held.session.close()
            self._participant.cancelled(name, reason)

    def _act(self, event):
        name = event.get("id")
        match event["event"]:
            case "PRESERVATION_REQUEST":
                self._refused.discard(name)
                try:
                    self._participant.prepare(name, event["deadline_ms"] / 1000)
                except Exception as error:
                    self._refused.add(name)
                    self._client.refuse(name, str(error), event.get("update"))
            case "START_PRESERVATION" if name in self._refused:
                event["session"].close()
            case "START_PRESERVATION":
                self._preserve(name, event)
            case "PAUSE" if name in self._held:
                self._stop(name, event)
            case "CANCELLED":
                self._refused.discard(name)
                self._cancel(name, event["reason"])
            case "FROZEN":
                if name in self._held:
                    self._held[name].frozen = True
                    self._participant.frozen(name)

    def _preserve(self, name, event):
        session = event["session"]
        self._held[name] = _Held(session)
        try:
            self._participant.preserve(name, session)
        except Exception as error:
            self._give_up(name, event, error)
            return
        if not self._participant.pauses:
            self._ready(name)
            return
        try:
            is_told = self._client.preserved(name)
        except Refused as refused:
            self._cancel(name, str(refused))
            return
        if not is_told:
            self._stop(name, event)

    def _stop(self, name, event):
        try:
            self._participant.pause(name, self._held[name].session)
        except Exception as error:
            self._give_up(name, event, error)
            return
        self._ready(name)

    def _give_up(self, name, event, error):
        """Refuses the update, since the files cannot be preserved."""
        try:
            self._client.refuse(name, str(error) or repr(error), event.get("update"))
        finally:
            self._cancel(name, str(error))

    def _ready(self, name):
        self._held[name].ready = True
        try:
            self._client.ready(name)
        except TimeoutError:
            # The session is part of the update, or will be. luod reports it if it is not.
            pass
        except Refused as refused:
            self._cancel(name, str(refused))


