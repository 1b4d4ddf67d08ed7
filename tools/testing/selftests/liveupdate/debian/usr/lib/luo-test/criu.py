# SPDX-License-Identifier: GPL-2.0

"""A process that does not know of live updates, saved by CRIU with luoctl exec.

Runs once with each kernel.
"""

import re
import subprocess

from results import Boot, Results, run, until

LOG = "/var/lib/luo-job.log"
JOB = "/usr/lib/luo-test/criu-job"
SAVE = ["luoctl", "exec", "job", "--preserve", "--undo", f"{JOB} resume job", "--", JOB, "save", "job"]


def counts():
    """The numbers that the job has written."""
    try:
        with open(LOG) as file:
            return [int(number) for number in re.findall(r"^count (\d+) good$", file.read(), re.M)]
    except FileNotFoundError:
        return []


def subscribed(*names):
    text = run("luoctl", "list")[1]
    return all(re.search(rf"^{name} .*subscribed", text, re.M) for name in names)


def counts_on(tests, when):
    """The job continues where it was."""
    before = len(counts())
    good = until(lambda: len(counts()) > before + 20)
    with open(LOG) as file:
        text = file.read()
    tests.check(f"the job counts {when}", good, run("systemctl", "status", "--no-pager")[1] + text[-500:])
    numbers = counts()
    tests.check(f"no count is missing or comes twice {when}", numbers == list(range(1, len(numbers) + 1)), text[-500:])
    good = text.count("starts") == 1 and "BAD" not in text
    tests.check(f"its memory is unchanged {when}", good, text[-500:])


def aborted(tests):
    """Another client fails after the job was stopped: the job continues."""
    stopped = "grep -l '^State:.*stopped' /proc/[0-9]*/status | grep -c ."
    fails = f"until [ $({stopped}) = 2 ]; do sleep 0.1; done; exit 1"
    other = subprocess.Popen(["luoctl", "exec", "other", "--preserve", "--", "sh", "-c", fails])
    tests.check("both sessions are subscribed", until(lambda: subscribed("job", "other")), run("luoctl", "list")[1])
    status, said = run("luoctl", "kexec", "--yes", "--timeout", "300")
    good = status == 7 and "the command has failed with the exit code 1" in said
    tests.check("the update is aborted after the job was stopped", good, said)
    other.terminate()
    other.wait()
    counts_on(tests, "after an abort")


def before(tests):
    run(JOB, "start", "job", "/usr/bin/python3", "/usr/lib/luo-test/job.py", LOG)
    tests.check("the job has started", until(lambda: len(counts()) > 5), run("systemctl", "status", "--no-pager")[1])
    status, said = run("luoctl", "load", "/boot/next", "--cmdline", tests.boot.next())
    tests.check("the kernel is loaded", status == 0, said)
    subprocess.Popen(SAVE)
    aborted(tests)
    tests.check("the session is subscribed", until(lambda: subscribed("job")), run("luoctl", "list")[1])
    tests.memory["count"] = len(counts())
    tests.save()
    status, said = run("luoctl", "kexec", "--yes", "--timeout", "300")
    # It ends with luod, or is killed.
    tests.check("luoctl kexec", status <= 0, said)
    return status <= 0


def after(tests):
    tests.check("nothing has counted in between", len(counts()) >= tests.memory["count"], counts())
    status, said = run("luoctl", "exec", "job", "--finish", "--", JOB, "restore", "job")
    tests.check("the job is restored", status == 0, said)
    counts_on(tests, "after the update")
    text = run("luoctl", "list")[1]
    tests.check("its session is finished", re.search(r"^job .*finished", text, re.M), text)


def main():
    tests = Results("criu", Boot())
    try:
        if tests.boot.number:
            after(tests)
        elif before(tests):
            return
    except Exception as error:
        tests.check("the tests have ended", False, repr(error))
    tests.end()


main()
