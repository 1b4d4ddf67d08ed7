# SPDX-License-Identifier: Apache-2.0 OR MIT

"""The tests act as luod and as the kernel."""

import errno
import json
import os
import pathlib
import resource
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest
from unittest import mock

import liveupdate
from liveupdate import device

# Lines of the protocol that all its implementations must understand. Not in a package.
GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "protocol/tests/golden"
SOON = 30


class Luod:
    """A luod with one connection at a time, which answers in a thread."""

    def __init__(self, test, answer):
        self.dir = tempfile.TemporaryDirectory()
        self.path = f"{self.dir.name}/sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.answer, self.requests, self.connection = answer, [], None
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        test.addCleanup(self.end)

    def serve(self):
        while True:
            try:
                self.connection, _ = self.listener.accept()
            except OSError:
                return
            with self.connection, self.connection.makefile("r") as lines:
                try:
                    for line in lines:
                        self.requests.append(json.loads(line))
                        self.reply(self.requests[-1])
                except OSError:
                    pass

    def reply(self, request):
        """Sends the events that `answer` returns: a dict, or one with descriptors."""
        cmd = request["cmd"]
        if cmd == "HELLO":
            answers = [{"event": "HELLO", "version": 2, "luod": "test", "phase": "idle"}]
        else:
            answers = self.answer(request) or [{"event": "OK", "cmd": cmd}]
        *earlier, last = answers
        for event in earlier:
            self.send(event)
        self.send({"seq": request["seq"], **last})

    def send(self, event):
        fds = event.pop("fds", [])
        line = json.dumps(event).encode() + b"\n"
        if not fds:
            # Lines arrive in pieces.
            self.connection.sendall(line[:7])
            self.connection.sendall(line[7:])
            return
        socket.send_fds(self.connection, [line[:5]], fds)
        self.connection.sendall(line[5:])
        for fd in fds:
            os.close(fd)

    def asked(self, cmd):
        return [request for request in self.requests if request["cmd"] == cmd]

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(SOON)
        self.dir.cleanup()


def null():
    return os.open("/dev/null", os.O_RDONLY)


def no_session(request):
    if request["cmd"] == "CLAIM":
        return [{"event": "ERROR", "code": "no-session", "message": "none"}]
    return None


class Recorder(liveupdate.Participant):
    """Records its calls."""

    def __init__(self):
        self.calls = []
        self.fail = None

    def preserve(self, name, session):
        self.calls.append(("preserve", name))
        if self.fail:
            raise self.fail
        session.preserve(0, 7)

    def restore(self, name, session):
        self.calls.append(("restore", name, session.retrieve(7)))
        if self.fail:
            raise self.fail

    def pause(self, name, session):
        self.calls.append(("pause", name))
        session.preserve(0, 8)

    def cancelled(self, name, reason):
        self.calls.append(("cancelled", name, reason))

    def frozen(self, name):
        self.calls.append(("frozen", name))


class Kernel:
    """The ioctls of the kernel."""

    def __init__(self):
        self.calls = []
        self.errors = {}

    def __call__(self, fd, request, argument):
        self.calls.append((request, bytes(argument)))
        error = self.errors.get(request)
        if error:
            raise OSError(error, os.strerror(error))
        if request in (device.RETRIEVE_FD, device.RETRIEVE_SESSION):
            struct.pack_into("=i", argument, 4, 99)
        if request == device.GET_NAME:
            struct.pack_into("=64s", argument, 8, b"cache")
        return 0

    def requests(self):
        return [request for request, _ in self.calls]


class Sessions(unittest.TestCase):
    def setUp(self):
        self.kernel = Kernel()
        patch = mock.patch("fcntl.ioctl", self.kernel)
        patch.start()
        self.addCleanup(patch.stop)

    def test_the_structures_are_those_of_the_header(self):
        with liveupdate.OutgoingSession(null()) as session:
            session.preserve(3, 1 << 63)
            self.assertEqual(session.name(), "cache")
        session = liveupdate.IncomingSession(null())
        self.assertEqual(session.retrieve(5), 99)
        session.finish()
        self.assertRaises(ValueError, session.fileno)
        self.assertEqual(self.kernel.calls, [
            (0xBA40, struct.pack("=IiQ", 16, 3, 1 << 63)),
            (0xBA43, struct.pack("=II64s", 72, 0, b"")),
            (0xBA41, struct.pack("=IiQ", 16, -1, 5)),
            (0xBA42, struct.pack("=II", 8, 0)),
        ])

    def test_an_unfinished_session_stays_open(self):
        self.kernel.errors[device.FINISH] = errno.EBUSY
        with liveupdate.IncomingSession(null()) as session:
            with self.assertRaises(OSError) as caught:
                session.finish()
            self.assertEqual(caught.exception.errno, errno.EBUSY)
            self.assertGreaterEqual(session.fileno(), 0)

    def test_names(self):
        with liveupdate.Device("/dev/null") as dev:
            for bad in ("", "a\0b", "a" * 64):
                self.assertRaises(ValueError, dev.create_session, bad)
            self.assertEqual(self.kernel.calls, [])
            dev.retrieve_session("a" * 63).detach()
        self.assertEqual(self.kernel.requests(), [0xBA01])


class Clients(unittest.TestCase):
    def test_requests(self):
        """The requests are those of the golden file, and nothing else."""
        luod = Luod(self, lambda _: None)
        with liveupdate.Client("vmm", luod.path) as client:
            client.subscribe("vm-1", 10)
            client.unsubscribe("vm-1")
            self.assertTrue(client.preserved("vm-1"))
            client.ready("vm-1")
            client.refuse("vm-1", "no")
            client.progress("vm-1", 1, 2, "half")
            client.finished("vm-1")
        sent = luod.requests
        self.assertEqual([request.pop("seq") for request in sent], list(range(1, 9)))
        if not GOLDEN.is_dir():
            self.skipTest("the golden files are not in the package")
        lines = [line for path in GOLDEN.glob("*/requests.jsonl") for line in path.read_text().splitlines()]
        golden = [json.loads(line) for line in lines]
        for request in golden:
            request.pop("seq", None)
        for request in sent:
            self.assertIn(request, golden)

    def test_descriptors_of_any_number_can_be_waited_for(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 2048:
            self.skipTest("the limit for descriptors is too low")
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        others = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
        self.addCleanup(lambda: [os.close(fd) for fd in others])
        luod = Luod(self, lambda _: None)
        with liveupdate.Client("cache", luod.path) as client:
            client.subscribe("cache")
            self.assertIsNone(client.next(0.01))

    def test_events_that_come_before_an_answer_are_kept(self):
        def answer(request):
            if request["cmd"] == "READY":
                return [
                    {"event": "START_PRESERVATION", "id": "a", "deadline_ms": 1, "fds": [null()]},
                    {"event": "FROZEN", "id": "a"},
                    {"event": "OK"},
                ]
            return None

        luod = Luod(self, answer)
        with liveupdate.Client("test", luod.path) as client:
            client.ready("a")
            self.assertTrue(client.has_early())
            event = client.next(0)
            self.assertIsInstance(event["session"], liveupdate.OutgoingSession)
            os.fstat(event["session"].fileno())
            self.assertEqual(client.next(0)["event"], "FROZEN")
            self.assertIsNone(client.next(0))

    def test_claims(self):
        answers = iter([
            {"event": "ERROR", "code": "no-session", "message": "none"},
            {"event": "ERROR", "code": "try-again", "message": "later"},
            {"event": "ERROR", "code": "not-allowed", "message": "never"},
            {"event": "SESSION", "id": "a", "fds": [null()]},
        ])
        luod = Luod(self, lambda _: [next(answers)])
        with liveupdate.Client("test", luod.path) as client:
            self.assertIsNone(client.claim("a"))
            for temporary in (True, False):
                with self.assertRaises(liveupdate.Refused) as caught:
                    client.claim("a")
                self.assertEqual(caught.exception.is_temporary, temporary)
            with client.claim("a") as session:
                os.fstat(session.fileno())

    def test_without_luod(self):
        self.assertRaises(FileNotFoundError, liveupdate.Client, "test", "/nonexistent")


class Job(unittest.TestCase):
    """The example that saves processes by CRIU, with a program in the place of CRIU."""

    PROGRAM = pathlib.Path(__file__).resolve().parents[1] / "examples/criu-job"

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.dir = pathlib.Path(directory.name)
        criu = self.dir / "criu"
        criu.write_text(f"#!/bin/sh\nkill -STOP $3; touch {self.dir}/stopped; sleep 1\n")
        criu.chmod(0o755)
        self.job = subprocess.Popen(["sleep", "1000"])
        self.addCleanup(lambda: (self.job.kill(), self.job.wait()))
        (self.dir / "job.pid").write_text(str(self.job.pid))

    def state(self):
        text = pathlib.Path(f"/proc/{self.job.pid}/stat").read_text()
        return text.rsplit(")", 1)[1].split()[0]

    def test_a_job_that_cannot_be_saved_in_time_continues(self):
        program = f"""
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.SourceFileLoader("job", "{self.PROGRAM}")
spec = importlib.util.spec_from_loader("job", loader)
job = importlib.util.module_from_spec(spec)
loader.exec_module(job)
job.STATE = "{self.dir}"
job.save("job")
"""
        env = {**os.environ, "PATH": f"{self.dir}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1",
               "PYTHONPATH": str(self.PROGRAM.parents[1])}
        save = subprocess.Popen(["python3", "-c", program], env=env, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + SOON
        while not (self.dir / "stopped").exists() and time.monotonic() < end:
            time.sleep(0.01)
        save.send_signal(signal.SIGTERM)
        said = save.communicate(timeout=SOON)[1]
        self.assertEqual(save.returncode, 1, said)
        self.assertIn("not enough time", said)
        while self.state() == "T" and time.monotonic() < end:
            time.sleep(0.01)
        self.assertNotEqual(self.state(), "T")


class Members(unittest.TestCase):
    def setUp(self):
        self.kernel = Kernel()
        patch = mock.patch("fcntl.ioctl", self.kernel)
        patch.start()
        self.addCleanup(patch.stop)
        self.participant = Recorder()

    def join(self, answer, **options):
        luod = Luod(self, answer)
        member = liveupdate.Member("test", ["a"], self.participant, path=luod.path, **options)
        self.addCleanup(member.close)
        return luod, member

    def until(self, member, done):
        end = time.monotonic() + SOON
        while time.monotonic() < end:
            if done():
                return
            member.step(0.1)
        self.fail("it does not happen")

    def test_an_update(self):
        luod, member = self.join(no_session)
        luod.send({"event": "START_PRESERVATION", "id": "a", "deadline_ms": 1, "fds": [null()]})
        self.until(member, lambda: luod.asked("READY"))
        self.assertEqual(self.kernel.requests(), [device.PRESERVE_FD])
        luod.send({"event": "FROZEN", "id": "a"})
        luod.send({"event": "CANCELLED", "id": "a", "reason": "the kexec failed"})
        self.until(member, lambda: len(self.participant.calls) == 3)
        self.assertEqual(self.participant.calls, [
            ("preserve", "a"), ("frozen", "a"), ("cancelled", "a", "the kexec failed"),
        ])

    def test_a_program_that_works_until_it_is_told_to_stop(self):
        luod, member = self.join(no_session)
        self.participant.pauses = True
        luod.send({"event": "START_PRESERVATION", "id": "a", "deadline_ms": 1, "fds": [null()]})
        self.until(member, lambda: luod.asked("PRESERVED"))
        member.step(0.1)
        self.assertEqual(self.participant.calls, [("preserve", "a")])
        self.assertEqual(luod.asked("READY"), [])
        luod.send({"event": "PAUSE", "id": "a", "update": 7, "deadline_ms": 1})
        self.until(member, lambda: luod.asked("READY"))
        self.assertEqual(self.participant.calls[1:], [("pause", "a")])
        self.assertEqual(self.kernel.requests(), [device.PRESERVE_FD] * 2)

    def test_an_older_luod_does_not_tell_a_program_to_stop(self):
        def answer(request):
            if request["cmd"] == "PRESERVED":
                return [{"event": "ERROR", "code": "unknown-command", "message": "?"}]
            return no_session(request)

        luod, member = self.join(answer)
        self.participant.pauses = True
        luod.send({"event": "START_PRESERVATION", "id": "a", "deadline_ms": 1, "fds": [null()]})
        self.until(member, lambda: luod.asked("READY"))
        self.assertEqual(self.participant.calls, [("preserve", "a"), ("pause", "a")])

    def test_an_update_is_cancelled_before_the_program_stops(self):
        luod, member = self.join(no_session)
        self.participant.pauses = True
        luod.send({"event": "START_PRESERVATION", "id": "a", "deadline_ms": 1, "fds": [null()]})
        self.until(member, lambda: luod.asked("PRESERVED"))
        luod.send({"event": "CANCELLED", "id": "a", "reason": "no"})
        luod.send({"event": "PAUSE", "id": "a", "update": 7, "deadline_ms": 1})
        self.until(member, lambda: len(self.participant.calls) == 2)
        member.step(0.1)
        self.assertEqual(self.participant.calls, [("preserve", "a"), ("cancelled", "a", "no")])
        self.assertEqual(luod.asked("READY"), [])

    def test_a_failure_aborts_the_update(self):
        luod, member = self.join(no_session)
        self.participant.fail = RuntimeError("the disk is on fire")
        luod.send({"event": "START_PRESERVATION", "id": "a", "update": 7, "deadline_ms": 1,
                   "fds": [null()]})
        self.until(member, lambda: luod.asked("REFUSE"))
        self.assertEqual(luod.asked("REFUSE")[0]["update"], 7)
        self.assertEqual(luod.asked("REFUSE")[0]["reason"], "the disk is on fire")
        self.until(member, lambda: len(self.participant.calls) == 2)
        self.assertEqual(luod.asked("READY"), [])

    def test_a_session_crosses_with_a_refusal(self):
        luod, member = self.join(no_session)
        self.participant.prepare = mock.Mock(side_effect=RuntimeError("not now"))
        luod.send({"event": "PRESERVATION_REQUEST", "id": "a", "update": 7, "deadline_ms": 1})
        luod.send({"event": "START_PRESERVATION", "id": "a", "deadline_ms": 1, "fds": [null()]})
        luod.send({"event": "FROZEN", "id": "a"})
        self.until(member, lambda: luod.asked("REFUSE"))
        self.assertEqual(luod.asked("REFUSE")[0]["update"], 7)
        for _ in range(3):
            member.step(0.1)
        self.assertEqual(self.participant.calls, [])
        self.assertEqual(luod.asked("READY"), [])

    def test_sessions_are_restored_and_finished(self):
        def answer(request):
            if request["cmd"] == "CLAIM":
                tries.append(request)
                if len(tries) == 1:
                    return [{"event": "ERROR", "code": "try-again", "message": "later"}]
                return [{"event": "SESSION", "id": "a", "fds": [null()]}]
            return None

        tries = []
        luod, _ = self.join(answer)
        self.assertEqual(self.participant.calls, [("restore", "a", 99)])
        self.assertEqual(self.kernel.requests(), [device.RETRIEVE_FD, device.FINISH])
        self.assertEqual([r["cmd"] for r in luod.requests],
                         ["HELLO", "CLAIM", "CLAIM", "FINISHED", "SUBSCRIBE"])

    def test_a_session_that_is_not_restored_is_not_finished(self):
        self.participant.fail = RuntimeError("no")
        session = {"event": "SESSION", "id": "a"}
        luod = Luod(self, lambda _: [{**session, "fds": [null()]}])
        with self.assertRaisesRegex(RuntimeError, "no"):
            liveupdate.Member("test", ["a"], self.participant, path=luod.path)
        self.assertEqual(self.kernel.requests(), [device.RETRIEVE_FD])
        self.assertEqual(luod.asked("FINISHED"), [])

    def test_luod_that_cannot_tell_is_not_luod_without_sessions(self):
        luod = Luod(self, lambda _: [{"event": "ERROR", "code": "try-again", "message": "later"}])
        with self.assertRaises(TimeoutError):
            liveupdate.Member("test", ["a"], self.participant, path=luod.path, patience=0)
        self.assertEqual(luod.asked("SUBSCRIBE"), [])

    def test_after_ready_luod_must_confirm_that_there_is_no_update(self):
        def answer(request):
            if request["cmd"] == "REFUSE":
                refusals.append(request)
                code = "wrong-state" if len(refusals) == 1 else "no-session"
                return [{"event": "ERROR", "code": code, "message": "x"}]
            return no_session(request)

        refusals = []
        luod, member = self.join(answer)
        luod.send({"event": "START_PRESERVATION", "id": "a", "deadline_ms": 1, "fds": [null()]})
        self.until(member, lambda: luod.asked("READY"))
        luod.connection.shutdown(socket.SHUT_RDWR)
        self.until(member, lambda: refusals)
        self.assertEqual(self.participant.calls, [("preserve", "a")])
        self.until(member, lambda: len(luod.asked("SUBSCRIBE")) == 2)
        self.assertEqual(self.participant.calls[1:], [("cancelled", "a", "the connection to luod was lost")])

    def test_a_restart_of_luod_before_ready_cancels(self):
        luod, member = self.join(no_session)
        luod.connection.shutdown(socket.SHUT_RDWR)
        self.until(member, lambda: len(luod.asked("SUBSCRIBE")) == 2)
        self.assertEqual(self.participant.calls, [])


if __name__ == "__main__":
    unittest.main()
