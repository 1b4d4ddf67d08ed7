#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Stores descriptors in the kernel number $1, and checks them in later kernels.

test=/usr/lib/systemd/tests/unit-tests/manual/test-luo
boot=$(sed -n 's/.*luo_nboot=\([0-9]*\).*/\1/p' /proc/cmdline)
if [ "${boot:-0}" = "$1" ]; then
	exec $test store "w$1"
else
	exec $test check "w$1"
fi
