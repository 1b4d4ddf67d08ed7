# SPDX-License-Identifier: Apache-2.0 OR MIT

"""Live updates of the kernel.

A program on a machine with luod, the live update daemon, implements its part of an update as a
`Participant`; a `Member` claims its sessions of the previous kernel, subscribes for the next update
and calls the participant. `Client` has the requests of the protocol. Without luod, a program opens
the `Device` and keeps its session itself.
"""

from .client import SOCKET, Client, Closed, Refused
from .device import DEVICE, NAME_MAX, Device, IncomingSession, OutgoingSession
from .member import Member, Participant

__all__ = [
    "DEVICE",
    "NAME_MAX",
    "SOCKET",
    "Client",
    "Closed",
    "Device",
    "IncomingSession",
    "Member",
    "OutgoingSession",
    "Participant",
    "Refused",
]
