#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Functions of sandbox.sh: systems of Debian for virtual machines, made with mmdebstrap.

# Packages for the tests under systemd, from a newer suite. e2fsprogs creates
# the disk; systemd-ukify and systemd-boot-efi make unified kernel images.
DEBIAN_SUITE=forky
DEBIAN_PACKAGES=(chrony criu dbus e2fsprogs iproute2 kmod libarchive13t64 memcached nftables python3
	qemu-guest-agent qemu-system-x86 systemd systemd-boot-efi systemd-sysv systemd-tests
	systemd-ukify)
# Debian's packages of the machine that is made of packages only.
# dosfstools, e2fsprogs, mtools and systemd-repart make its disk.
MACHINE_PACKAGES=(dbus dosfstools e2fsprogs grub-efi-amd64-bin grub2-common initramfs-tools kmod
	mount mtools python3 systemd systemd-boot systemd-repart systemd-sysv udev zstd)
# Extracts the kernel of linux-image-amd64 from its package, without installing it.
# shellcheck disable=SC2016 # mmdebstrap's shell must expand this
GET_KERNEL='set -eu
	mkdir "$1/kernel"; cd "$1/kernel"; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
	version=$(apt-cache depends linux-image-amd64 | sed -n "s/^ *Depends: linux-image-\([0-9]\)/\1/p")
	apt-get -o APT::Sandbox::User=root download "linux-binary-$version"
	dpkg-deb --fsys-tarfile linux-binary-*.deb | tar -xO --wildcards "./*/vmlinuz" >vmlinuz'
DEBIAN=debian-$DEBIAN_SUITE-$(printf '%s ' "${DEBIAN_PACKAGES[@]}" | sha256sum | cut -c1-12)

# make_debian NAME FILE OPTIONS...: creates FILE in the cache from Debian's
# newer suite, by mmdebstrap in $tmp.
make_debian() {
	local name=$1 file=$2 site mode=unshare
	local -a opts
	shift 2

	have mmdebstrap || install_packages mmdebstrap
	[ -r "$SUITE_KEY" ] || install_packages debian-archive-keyring
	find_site
	bootstrap_options
	[ "$(id -u)" = 0 ] && mode=root
	logged "$name" mmdebstrap --mode=$mode "${opts[@]}" "$@" "deb $site $DEBIAN_SUITE main"
	mkdir -p "$CACHE/$DEBIAN"
	mv "$tmp/$file" "$CACHE/$DEBIAN/$file" || die "$file cannot be moved to $CACHE/$DEBIAN."
}

# Creates the userland of the tests under systemd, as an archive, since it is
# only used in virtual machines, and its kernel, which is only examined.
create_debian() {
	local tmp started=$SECONDS

	mkdir -p "$CACHE" || die "The cache directory $CACHE cannot be created."
	[ -e "$CACHE/$DEBIAN/root.tar" ] && [ -e "$CACHE/$DEBIAN/vmlinuz" ] && return 0
	exec 8>"$CACHE/.debian.lock"
	flock 8
	# Another run may have created them before this one got the lock.
	if [ -e "$CACHE/$DEBIAN/root.tar" ] && [ -e "$CACHE/$DEBIAN/vmlinuz" ]; then
		exec 8>&-
		return 0
	fi
	tmp=$(mktemp -d "$CACHE/.debian-XXXXXX") || die "The cache directory $CACHE cannot be written."
	chmod 755 "$tmp"
	trap 'rm -rf "$tmp"' EXIT
	if [ ! -e "$CACHE/$DEBIAN/root.tar" ]; then
		step "making a Debian $DEBIAN_SUITE with systemd (one or two minutes)"
		make_debian debian root.tar --variant=apt \
			--aptopt='APT::Install-Recommends "false"' \
			--dpkgopt='path-exclude=/usr/share/man/*' \
			--dpkgopt='path-exclude=/usr/share/locale/*' \
			--dpkgopt='path-exclude=/usr/share/doc/*' \
			--include="$(IFS=,; echo "${DEBIAN_PACKAGES[*]}")" "$DEBIAN_SUITE" "$tmp/root.tar"
	fi
	if [ ! -e "$CACHE/$DEBIAN/vmlinuz" ]; then
		make_debian debian-kernel vmlinuz --variant=custom --customize-hook="$GET_KERNEL" \
			--customize-hook="copy-out /kernel/vmlinuz $tmp" "$DEBIAN_SUITE" /dev/null
	fi
	rm -rf "$tmp"
	trap - EXIT
	step "made Debian $DEBIAN_SUITE in $((SECONDS - started)) s"
	exec 8>&-
}

# Makes the disk of the machine, from Debian and the packages that luo-vm has
# collected in build/machine/packages. A disk of the same packages is kept.
create_machine() {
	local site mode=unshare started=$SECONDS machine=$TOP/build/machine hook inputs
	local -a opts

	hook=$TOP/tools/testing/luo-vm/machine.sh
	inputs=$(cd "$machine/packages" && sha256sum ./*.deb "$hook" && echo "${MACHINE_PACKAGES[@]}") ||
		die "There are no packages in $machine/packages."
	[ -e "$machine/disk.raw" ] && [ "$(cat "$machine/inputs" 2>/dev/null)" = "$inputs" ] && return 0
	rm -f "$machine/inputs" "$machine/disk.raw"
	have mmdebstrap || install_packages mmdebstrap
	[ -r "$SUITE_KEY" ] || install_packages debian-archive-keyring
	find_site
	bootstrap_options
	[ "$(id -u)" = 0 ] && mode=root
	step "making a machine of Debian $DEBIAN_SUITE and our packages (some minutes)"
	# shellcheck disable=SC2016 # mmdebstrap's shell must expand $1
	logged machine mmdebstrap --mode=$mode "${opts[@]}" --variant=apt \
		--aptopt='APT::Install-Recommends "false"' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--include="$(IFS=,; echo "${MACHINE_PACKAGES[*]}")" \
		--customize-hook='copy-in '"$machine/packages"' /' \
		--customize-hook="'$hook' \"\$1\"" \
		--customize-hook="copy-out /disk.raw $machine" \
		"$DEBIAN_SUITE" /dev/null "deb $site $DEBIAN_SUITE main"
	echo "$inputs" >"$machine/inputs"
	step "made the machine in $((SECONDS - started)) s"
}
