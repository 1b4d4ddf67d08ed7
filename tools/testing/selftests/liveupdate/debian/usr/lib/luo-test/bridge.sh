# SPDX-License-Identifier: GPL-2.0
# Connects the guests to the network of its host.
set -e
ip link add br0 type bridge
for number in 0 1; do
	ip tuntap add tap$number mode tap
	ip link set tap$number master br0 up
	# The network card is connected to QEMU's user network, which resets connections that it does
	# not know, whatever address they are for. Frames for a guest that is not resumed yet must not
	# get there.
	bridge fdb add 52:54:00:12:34:0$((number + 2)) dev tap$number master static
done
ip link set eth0 master br0 up
ip link set br0 up
