# SPDX-License-Identifier: GPL-2.0
# Connects the guests to the network of its host. They wait for this after an update: few programs are
# started for it.
#
# The network card is connected to QEMU's user network, which resets connections that it does not know,
# whatever address they are for. Frames for a guest that is not resumed yet must not get there: the
# bridge knows from the beginning where the guests are.
set -e
ip -batch - <<END
link add br0 type bridge
tuntap add tap0 mode tap
tuntap add tap1 mode tap
link set tap0 master br0 up
link set tap1 master br0 up
link set eth0 master br0 up
END
bridge -batch - <<END
fdb add 52:54:00:12:34:02 dev tap0 master static
fdb add 52:54:00:12:34:03 dev tap1 master static
END
ip link set br0 up
