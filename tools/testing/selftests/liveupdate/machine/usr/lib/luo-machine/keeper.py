# SPDX-License-Identifier: GPL-2.0

"""A service that keeps 16 MiB and the number of updates in the session "keeper"."""

import os

import liveupdate

SIZE = 16 << 20
DATA, COUNT = 1, 2


class Keeper(liveupdate.Participant):
    def __init__(self):
        self.data = self.count = None

    def preserve(self, name, session):
        session.preserve(self.data, DATA)
        session.preserve(self.count, COUNT)

    def restore(self, name, session):
        self.data, self.count = session.retrieve(DATA), session.retrieve(COUNT)


def content():
    return bytes(n * 7 % 251 for n in range(1 << 16)) * (SIZE >> 16)


keeper = Keeper()
with liveupdate.Member("keeper", ["keeper"], keeper) as member:
    if keeper.data is None:
        keeper.data = os.memfd_create("keeper", os.MFD_CLOEXEC)
        keeper.count = os.memfd_create("keeper-count", os.MFD_CLOEXEC)
        os.write(keeper.data, content())
        os.pwrite(keeper.count, b"0", 0)
        print("new")
    elif os.pread(keeper.data, SIZE + 1, 0) != content():
        print("the data has changed")
    else:
        updates = int(os.pread(keeper.count, 20, 0)) + 1
        os.pwrite(keeper.count, str(updates).encode(), 0)
        print(f"verified after {updates}")
    member.run()
