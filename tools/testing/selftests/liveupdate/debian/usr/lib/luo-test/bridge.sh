# SPDX-License-Identifier: GPL-2.0
# Connects the guests to the network of their host. After an update, the guests wait for this script,
# which therefore starts only a few programs.
#
# The network card is connected to QEMU's user network, which resets all connections that it does not
# know, to any address. Frames for a guest that is not resumed yet must not be sent there. Static
# entries therefore tell the bridge where the guests are.
set -e
# On a kernel with modules, this runs before udev loads them.
[ -e /sys/class/net/eth0 ] || modprobe -a virtio_net bridge tun
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
