#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A hook of mmdebstrap: makes a Debian tree a machine with UEFI, and the tree a disk.
#
#   machine.sh ROOT
#
# It installs the packages in ROOT/packages. The disk is ROOT/disk.raw.

set -eu
root=$1

# The settings of an administrator: the machine boots by systemd-boot and later by GRUB, and is reset if
# a kernel panics or hangs, also after a live update.
cat >"$root/etc/kernel/install.conf" <<END
layout=bls
BOOT_ROOT=/efi
END
echo luo >"$root/etc/kernel/entry-token"
cmdline="root=PARTLABEL=luo-root ro console=ttyS0 panic=5 watchdog.stop_on_reboot=0 systemd.show_status=no"
cmdline+=" systemd.minimum_uptime_sec=0 systemd.mask=serial-getty@ttyS0.service"
echo "$cmdline" >"$root/etc/kernel/cmdline"
mkdir -p "$root/etc/default" "$root/etc/systemd/system.conf.d"
cat >"$root/etc/default/grub" <<END
GRUB_DEFAULT=saved
GRUB_TIMEOUT=0
GRUB_TERMINAL=console
GRUB_CMDLINE_LINUX="$cmdline"
END
cat >"$root/etc/systemd/system.conf.d/watchdog.conf" <<END
[Manager]
RuntimeWatchdogSec=2min
KExecWatchdogSec=2min
END
# The host may be busy: time limits only detect hangs.
cat >"$root/etc/systemd/system.conf.d/patience.conf" <<END
[Manager]
DefaultTimeoutStartSec=15min
DefaultTimeoutStopSec=15min
DefaultDeviceTimeoutSec=15min
END
echo luo-machine >"$root/etc/hostname"
cat >"$root/etc/fstab" <<END
PARTLABEL=luo-root / ext4 defaults 0 1
PARTLABEL=luo-efi /efi vfat umask=0077 0 2
END

# The boot loader, to a directory that becomes the EFI system partition.
export SYSTEMD_RELAX_ESP_CHECKS=1 SYSTEMD_ESP_PATH=/efi DEBIAN_FRONTEND=noninteractive
# The paths in boot entries are relative to this file system.
mkdir "$root/efi"
mount -t tmpfs -o mode=700 tmpfs "$root/efi"
trap 'umount "$root/efi"' EXIT
chroot "$root" bootctl install --no-variables --make-entry-directory=no
echo "timeout 0" >"$root/efi/loader/loader.conf"

chroot "$root" sh -c 'dpkg -i /packages/*.deb'
rm -r "$root/packages"

# systemd-repart leaves /boot out if there is an EFI system partition.
mv "$root/boot" "$root/boot-files"
mkdir "$root/boot" "$root/repart"
cat >"$root/repart/10-efi.conf" <<END
[Partition]
Type=esp
Label=luo-efi
Format=vfat
SizeMinBytes=256M
SizeMaxBytes=256M
CopyFiles=/efi:/
END
cat >"$root/repart/20-root.conf" <<END
[Partition]
Type=root
Label=luo-root
Format=ext4
SizeMinBytes=1200M
CopyFiles=/
CopyFiles=/boot-files:/boot
ExcludeFiles=/efi/ /dev/ /proc/ /sys/ /run/ /tmp/ /var/tmp/ /var/cache/apt/ /var/lib/apt/lists/
ExcludeFiles=/repart /disk.raw
# mmdebstrap has it, so that no service is started.
ExcludeFiles=/usr/sbin/policy-rc.d
ExcludeFilesTarget=/boot-files
END
chroot "$root" systemd-repart --offline=yes --empty=create --size=auto --dry-run=no \
	--definitions=/repart /disk.raw
