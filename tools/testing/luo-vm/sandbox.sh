#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Enters the build sandbox: a Debian trixie tree, created once with mmdebstrap
# and entered with bubblewrap, so that every machine builds with the same
# compilers. This script builds and starts luo-vm inside, which does all other
# work.
#
#   sandbox.sh luo-vm ARGS...   build luo-vm and run it in the sandbox
#   sandbox.sh enter CMD...     run any command in the sandbox
#   sandbox.sh deb              build the packages in build/deb
#   sandbox.sh demo-deb         update the kernel of a machine made of packages
#   sandbox.sh doctor           list missing requirements
#   sandbox.sh distclean        remove the caches
#
# SANDBOX=none uses the tools of this machine instead.

set -u -o pipefail
umask 022

SUITE=trixie
PACKAGES=(bc bindgen binutils bison build-essential busybox-static
	ca-certificates cargo ccache clang clang-19 cpio file flex git gzip kmod
	libclang-dev libelf-dev libncurses-dev libssl-dev lld lld-19 llvm llvm-19 ovmf patch perl
	python3 python3-venv qemu-system-x86 rsync rust-clippy rust-src rustc rustfmt sbsigntool
	xz-utils zstd)
# For ARCH=arm64, in a tree of its own: the compilers are the same and run on this machine. Left out
# is what serves x86 only, or occupies the place of a package of the other architecture.
ARM64_WITHOUT=(busybox-static ovmf qemu-system-x86 sbsigntool)
ARM64_PACKAGES=(busybox-static:arm64 libc6-dev:arm64 libgcc-14-dev:arm64 libstd-rust-dev:arm64
	qemu-system-arm)
# Packages of the tree in which our packages are built: its compilers are the
# same, and the programs run on this and later suites.
DEB_PACKAGES=(build-essential ca-certificates cargo cargo-c debhelper dh-python fakeroot
	lintian pkgconf pybuild-plugin-pyproject python3-all python3-setuptools rustc
	systemd-dev)
# The base kernel.
SOURCE=linux-source-7.3
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
SUITE_KEY=/usr/share/keyrings/debian-archive-$SUITE-stable.gpg

TOP=$(cd "$(dirname "$0")/../../.." && pwd)
# The architecture that kernels and their programs are built for. Inside the sandbox its name is
# LUO_ARCH, since every make of a kernel would read ARCH.
LUO_ARCH=${ARCH:-${LUO_ARCH:-x86}}
unset ARCH
QEMU=qemu-system-x86_64 QEMU_PACKAGE=qemu-system-x86
case $LUO_ARCH in
x86_64 | amd64) LUO_ARCH=x86 ;;
aarch64) LUO_ARCH=arm64 ;;
esac
if [ "$LUO_ARCH" = arm64 ]; then
	for package in "${PACKAGES[@]}"; do
		case " ${ARM64_WITHOUT[*]} " in
		*" $package "*) ;;
		*) ARM64_PACKAGES+=("$package") ;;
		esac
	done
	PACKAGES=("${ARM64_PACKAGES[@]}")
	QEMU=qemu-system-aarch64 QEMU_PACKAGE=qemu-system-arm
fi
CACHE=${LUO_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/luo}
KEY=$(printf '%s ' $SUITE "${PACKAGES[@]}" | sha256sum | cut -c1-12)
ROOT=$CACHE/sandbox-$KEY
DEB_ROOT=$CACHE/deb-sandbox-$(printf '%s ' $SUITE "${DEB_PACKAGES[@]}" | sha256sum | cut -c1-12)
LOGS=$TOP/build/logs
# shellcheck source=tools/testing/luo-vm/debian.sh
. "$TOP/tools/testing/luo-vm/debian.sh"

if [ -t 2 ]; then RED=$'\e[31m' OFF=$'\e[0m'; else RED='' OFF=''; fi

step() { printf '%s\n' "$*" >&2; }
die() { printf '%serror:%s %s\n' "$RED" "$OFF" "$*" >&2; exit 1; }

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root.
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"
	elif have sudo; then sudo "$@"
	else die "'$*' needs root, and this machine has no sudo: run it as root, then try again."
	fi
}

# Explains failures that the user can fix.
explain() {
	local log=$1 pkg
	if pkg=$(grep -oE "Unable to locate package [^ ]+|Package '?[^ ']+'? has no installation candidate" "$log" | head -n1) && [ -n "$pkg" ]; then
		echo "The archive no longer has what is needed ($pkg)."
	elif grep -qE 'Could not resolve|Temporary failure|Could not connect|Unable to connect|Connection (refused|timed out)|Network is unreachable' "$log"; then
		echo "No network: the Debian archive cannot be reached."
	elif grep -qE 'NO_PUBKEY|is not signed|no valid OpenPGP|Missing key' "$log"; then
		echo "The keys of Debian $SUITE are not in $KEYRING: upgrade the package debian-archive-keyring."
	elif grep -qE 'No space left' "$log"; then
		echo "The disk is full: the sandbox needs 3 GB in $CACHE."
	else
		echo "It failed."
	fi
}

# The time between two lines of progress, in seconds; empty if no progress is printed.
EVERY=

# Prints the last line of a log from time to time, until it is killed or this script ends.
follow() {
	local log=$1 started=$SECONDS shown=0
	# Wait by reading from this pipe: a sleep would be another process to kill.
	exec 9<> <(:)
	while read -r -t 2 -u 9 || kill -0 $$ 2>/dev/null; do
		if [ $((SECONDS - started - shown)) -ge "$EVERY" ]; then
			shown=$((SECONDS - started))
			printf '%4d s  %s\n' "$shown" "$(tail -n 1 "$log" | tr -d '\r' | cut -c1-80)" >&2
		fi
	done
}

# logged NAME CMD...: output goes to a log, or to the terminal as well with V=1.
logged() {
	local log=$LOGS/$1.log status follower=; shift
	mkdir -p "$LOGS"
	if [ "${V:-0}" = 1 ]; then
		"$@" 2>&1 | tee "$log" >&2
	else
		: >"$log"
		if [ -n "$EVERY" ]; then
			follow "$log" &
			follower=$!
		fi
		"$@" >"$log" 2>&1
	fi
	status=$?
	if [ -n "$follower" ]; then
		kill $follower
		wait $follower 2>/dev/null
	fi
	[ $status != 0 ] || return 0
	printf '%s\n' "--- the last lines of $log" >&2
	tail -n 15 "$log" >&2
	die "$(explain "$log") The whole log is $log."
}

# Prints the missing packages of this machine that the sandbox needs.
missing_packages() {
	have mmdebstrap || echo mmdebstrap
	have bwrap || echo bubblewrap
	[ -r "$SUITE_KEY" ] || echo debian-archive-keyring
	if [ "$(id -u)" != 0 ]; then have newuidmap || echo uidmap; fi
}

install_packages() {
	have apt-get || die "This machine has no apt-get: install $* by hand, or use SANDBOX=none with the tools that 'make doctor' lists."
	step "installing $* on this machine (apt-get, as root)"
	logged apt-update as_root apt-get update
	logged apt-install as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y --no-install-recommends "$@"
}

# Prints the Debian archive of this machine.
archive() {
	apt-get indextargets --format '$(SITE) $(COMPONENT) $(LABEL)' 'Created-By: Packages' 2>/dev/null |
		awk '$2 == "main" && $3 == "Debian" { print $1; exit }'
}

# Succeeds if a sandbox can be entered.
namespaces() {
	if [ "$(id -u)" = 0 ]; then
		bwrap --bind / / --dev /dev --proc /proc true 2>/dev/null
	else
		bwrap --unshare-user --bind / / --dev /dev --proc /proc true 2>/dev/null
	fi
}

no_namespaces="User namespaces are forbidden on this machine, so the sandbox cannot be entered: allow them (sysctl -w kernel.unprivileged_userns_clone=1, and kernel.apparmor_restrict_unprivileged_userns=0 where that exists), run make as root, or use SANDBOX=none."

free_gb() { mkdir -p "$1" && df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }'; }

# Sets site: the archive of this machine.
find_site() {
	site=$(archive)
	if [ -z "$site" ]; then
		logged apt-update as_root apt-get update
		site=$(archive)
	fi
	[ -n "$site" ] || die "apt on this machine has no Debian archive configured (apt-get indextargets lists none), so there is nothing to make the sandbox from."
}

# Sets opts: the common options of mmdebstrap.
bootstrap_options() {
	local proxy P
	opts=(--components=main --keyring="$KEYRING"
		--aptopt='Acquire::Check-Valid-Until "false"')
	proxy=$(apt-config shell P Acquire::http::Proxy 2>/dev/null)
	if [ -n "$proxy" ]; then
		eval "$proxy"
		opts+=(--aptopt="Acquire::http::Proxy \"$P\"")
	fi
}

# Succeeds if luo-vm with these arguments needs the userland of the tests under
# systemd.
wants_debian() {
	[ "$LUO_ARCH" = x86 ] || return 1
	case $1 in
	demo | demo-vm | test-all) true ;;
	test) case ${ONLY:-debian} in debian | debian-long | guest | guest-long | hosts) true ;; *) false ;; esac ;;
	*) false ;;
	esac
}

# Succeeds if luo-vm with these arguments needs the packages.
wants_packages() {
	[ "$LUO_ARCH" = x86 ] || return 1
	case $1 in
	test-all) true ;;
	test) [ "${ONLY:-}" = hosts ] ;;
	*) false ;;
	esac
}

# Succeeds if luo-vm with these arguments needs the machine made of packages.
wants_machine() {
	[ "$LUO_ARCH" = x86 ] || return 1
	case $1 in
	test-all) case ,${ONLY:-packages}, in *,packages,*) true ;; *) false ;; esac ;;
	test) [ "${ONLY:-}" = packages ] ;;
	*) false ;;
	esac
}

# Succeeds if luo-vm with these arguments needs the kernel source and it is
# missing.
wants_source() {
	local deb
	[ -z "${KERNEL_SRC:-}" ] || return 1
	for deb in "$CACHE/sources/${SOURCE}_"*.deb "/usr/src/$SOURCE.tar.xz"; do
		[ ! -e "$deb" ] || return 1
	done
	case $1 in
	run | demo | demo-deb | deb-kernel | demo-device | demo-vm | machine-packages | test | test-all | bench | kernel | shell | menuconfig | htmldocs | rust-analyzer) true ;;
	*) false ;;
	esac
}

# Fetches the kernel source while the sandbox is created. If this fails, luo-vm
# tries again and prints the reason.
fetch_source() {
	local site tmp state
	local -a options

	find_site
	mkdir -p "$CACHE/sources" "$LOGS"
	tmp=$(mktemp -d "$CACHE/sources/.fetch-XXXXXX") || return
	# shellcheck disable=SC2064 # tmp is not set when the shell exits
	trap "rm -rf '$tmp'" EXIT
	state=$tmp/state
	mkdir -p "$state/lists/partial" "$state/archives/partial"
	echo "deb [signed-by=$KEYRING] $site $SUITE-backports main" >"$tmp/sources.list"
	options=(-o "Dir::Etc::SourceList=$tmp/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o "Dir::State::Lists=$state/lists" -o "Dir::Cache=$state" -o Acquire::Languages=none
		-o 'Acquire::Check-Valid-Until=false' -o "APT::Sandbox::User=$(id -un)")
	(cd "$tmp" && apt-get "${options[@]}" update --error-on=any &&
		apt-get "${options[@]}" download "$SOURCE") >"$LOGS/fetch-source.log" 2>&1 || return
	mv "$tmp/${SOURCE}_"*.deb "$CACHE/sources/"
}

# create_tree ROOT NAME PACKAGES...: makes a tree of Debian, unless it exists.
create_tree() {
	local root=$1 name=$2 site tmp started=$SECONDS missing
	local -a opts
	shift 2

	mkdir -p "$CACHE" || die "The cache directory $CACHE cannot be created."
	[ -e "$root/etc/luo-sandbox" ] && return 0
	exec 8>"$CACHE/.$name.lock"
	flock 8
	if [ -e "$root/etc/luo-sandbox" ]; then
		exec 8>&-
		return 0
	fi

	[ "$(free_gb "$CACHE")" -ge 4 ] ||
		die "No disk space: the $name needs 4 GB in $CACHE, and $(free_gb "$CACHE") GB are free."
	missing=$(missing_packages)
	# shellcheck disable=SC2086 # one word per package
	[ -z "$missing" ] || install_packages $missing
	namespaces || die "$no_namespaces"

	find_site
	step "making the $name: Debian $SUITE, $# packages (one or two minutes)"
	tmp=$(mktemp -d "$CACHE/.$name-XXXXXX") || die "The cache directory $CACHE cannot be written."
	chmod 755 "$tmp"
	# shellcheck disable=SC2064 # tmp is not set when the shell exits
	trap "rm -rf '$tmp'" EXIT
	bootstrap_options
	opts+=(--include="$(IFS=,; echo "$*")")
	# Libraries of another architecture, beside those of this machine.
	case " $* " in
	*:arm64\ *) opts+=(--architectures="$(dpkg --print-architecture),arm64") ;;
	esac
	if [ "$(id -u)" = 0 ]; then
		logged "$name" mmdebstrap --mode=root --variant=apt "${opts[@]}" "$SUITE" "$tmp/root" \
			"deb $site $SUITE main" "deb $site $SUITE-backports main"
	else
		# As a user: files belong to the user, and there are no device
		# nodes.
		logged "$name" mmdebstrap --mode=unshare --variant=apt "${opts[@]}" "$SUITE" "$tmp/root.tar" \
			"deb $site $SUITE main" "deb $site $SUITE-backports main"
		mkdir "$tmp/root"
		logged "$name-unpack" tar -xf "$tmp/root.tar" -C "$tmp/root" \
			--no-same-owner --exclude='./dev/*'
	fi
	# Required mount points, and files to mount over.
	mkdir -p "$tmp/root/luo" "$tmp/root/cache" "$tmp/root/kernel-src"
	rm -f "$tmp/root/etc/resolv.conf"
	touch "$tmp/root/etc/resolv.conf" "$tmp/root/etc/luo-sandbox"
	mv "$tmp/root" "$root" || die "The $name cannot be moved to $root."
	rm -rf "$tmp"
	trap - EXIT
	step "made the $name in $((SECONDS - started)) s"
	exec 8>&-
}

create() { create_tree "$ROOT" sandbox "${PACKAGES[@]}"; }

# The last commit that changed more than results, with a + if there are uncommitted changes.
commit() {
	local head changes source=(. ':!Documentation/project/results*.rst')
	head=$(git -C "$TOP" log -1 --format=%h --abbrev=12 -- "${source[@]}" 2>/dev/null) || return 0
	changes=$(git -C "$TOP" status --porcelain -- "${source[@]}" 2>/dev/null)
	echo "$head${changes:++}"
}

enter() {
	create
	enter_tree "$@"
}

# Runs a command in the tree $ROOT.
enter_tree() {
	local -a args
	have bwrap || install_packages bubblewrap
	namespaces || die "$no_namespaces"
	mkdir -p "$CACHE/cargo" "$CACHE/ccache"
	args=(--bind "$ROOT" / --dev /dev --proc /proc --ro-bind /sys /sys
		--tmpfs /tmp --tmpfs /run --bind "$TOP" /luo --bind "$CACHE" /cache
		--ro-bind-try /etc/resolv.conf /etc/resolv.conf
		--ro-bind-try /etc/hosts /etc/hosts
		--die-with-parent --chdir /luo)
	# A network with its own certificate authority.
	if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
		args+=(--ro-bind /etc/ssl/certs /etc/ssl/certs)
	fi
	if [ -n "${KERNEL_SRC:-}" ]; then
		[ -e "$KERNEL_SRC" ] || die "KERNEL_SRC=$KERNEL_SRC does not exist."
		args+=(--bind "$(realpath "$KERNEL_SRC")" "/kernel-src/$(basename "$KERNEL_SRC")"
			--setenv KERNEL_SRC "/kernel-src/$(basename "$KERNEL_SRC")"
			--setenv LUO_HOST_KERNEL_SRC "$KERNEL_SRC")
	fi
	local var
	for var in MAKEFLAGS MFLAGS MAKELEVEL RUSTFLAGS RUSTUP_HOME RUSTUP_TOOLCHAIN \
		RUSTC CARGO_BUILD_TARGET CC CFLAGS ARCH CROSS_COMPILE LLVM; do
		args+=(--unsetenv $var)
	done
	exec bwrap "${args[@]}" \
		--setenv PATH /usr/sbin:/usr/bin:/sbin:/bin --setenv HOME /tmp \
		--setenv LANG C.UTF-8 --setenv LC_ALL C.UTF-8 \
		--setenv CARGO_HOME /cache/cargo --setenv CARGO_TARGET_DIR /luo/build/target \
		--setenv CCACHE_DIR /cache/ccache --setenv CCACHE_MAXSIZE 4G \
		--setenv LUO_DEBIAN "/cache/$DEBIAN" --setenv LUO_CACHE /cache --setenv LUO_TOP /luo \
		--setenv LUO_HOST_TOP "$TOP" --setenv LUO_HOST_CACHE "$CACHE" \
		--setenv LUO_HOST_ROOT "$ROOT" --setenv LUO_ARCH "$LUO_ARCH" \
		--setenv LUO_COMMIT "$(commit)" \
		"$@"
}

# Makes the source package with a network, for its crates, and the rest without.
package() {
	local script=/luo/tools/testing/luo-vm/packages.sh
	(enter_tree "$script" source) && (enter_tree --unshare-net "$script" build)
}

build_packages() {
	mkdir -p "$TOP/build/deb"
	exec 7>"$TOP/build/deb/.lock"
	flock 7
	create_tree "$DEB_ROOT" deb-sandbox "${DEB_PACKAGES[@]}"
	ROOT=$DEB_ROOT
	logged deb package
	exec 7>&-
}

# Makes the packages of programs and kernels, and a machine of them.
make_machine() {
	step "building the packages (some minutes)"
	(build_packages) && "$0" luo-vm machine-packages && create_machine
}

# Runs in the sandbox, or on the host with SANDBOX=none.
luo_vm() {
	local log=$LUO_TOP/build/logs/luo-vm.log
	local -a cargo=(cargo build --locked --manifest-path "$LUO_TOP/tools/Cargo.toml" -p luo-vm)

	[ "$1" = bench ] || cargo+=(--no-default-features)

	mkdir -p "${log%/*}"
	have cargo || die "cargo is missing on this machine: install it (apt-get install cargo), or leave SANDBOX=none away."
	[ -x "$CARGO_TARGET_DIR/debug/luo-vm" ] || step "building luo-vm (first time: about a minute)"
	if ! "${cargo[@]}" >"$log" 2>&1; then
		grep -vE '^ +(Compiling|Downloaded|Downloading)' "$log" | tail -n 25 >&2
		if grep -qE 'failed to (download|fetch)|Could not resolve|network failure|spurious network' "$log"; then
			die "No network: the crates that luo-vm needs cannot be fetched. The whole log is ${log/#$LUO_TOP/$LUO_HOST_TOP}."
		fi
		die "luo-vm does not build. The whole log is ${log/#$LUO_TOP/$LUO_HOST_TOP}."
	fi
	exec "$CARGO_TARGET_DIR/debug/luo-vm" "$@"
}

report() { printf '%-9s %s\n' "$1" "$2"; [ "$1" = ok ] || problems=$((problems + 1)); }

doctor() {
	local problems=0 pkg gb tool
	if [ "${SANDBOX:-}" = none ]; then
		for tool in cargo rustc bindgen clang ld.lld llvm-nm make bison flex bc perl python3 \
			gcc patch rsync xz zstd git cpio ccache $QEMU; do
			if have $tool; then report ok "$tool"
			else report MISSING "$tool: apt-get install $(case $tool in
				clang) echo clang ;; ld.lld) echo lld ;; llvm-nm) echo llvm ;;
				xz) echo xz-utils ;; "$QEMU") echo $QEMU_PACKAGE ;;
				*) echo $tool ;; esac)"
			fi
		done
		if [ -x /bin/busybox ]; then report ok busybox; else report MISSING "busybox: apt-get install busybox-static"; fi
	else
		if have apt-get; then report ok apt-get; else report MISSING "apt-get: a Debian machine, or SANDBOX=none"; fi
		for pkg in $(missing_packages); do
			report MISSING "$pkg: 'make run' installs it, or: apt-get install $pkg"
		done
		if ! have bwrap; then report unknown "user namespaces (bubblewrap is not installed, so they cannot be tested)"
		elif namespaces; then report ok "the sandbox can be entered"
		else report MISSING "$no_namespaces"; fi
		if [ -n "$(archive)" ]; then report ok "Debian archive: $(archive)"
		else report unknown "Debian archive: 'apt-get update' has not run yet; 'make run' does it"; fi
		if [ -e "$ROOT/etc/luo-sandbox" ]; then report ok "the sandbox is in $ROOT"
		else report ok "the sandbox does not exist yet; 'make run' creates it in $ROOT"; fi
	fi
	gb=$(free_gb "$CACHE")
	if [ "$gb" -ge 16 ]; then report ok "$gb GB free in $CACHE"
	else report MISSING "disk space: $gb GB free in $CACHE; 'make run' needs 8 GB, 'make test' 16 GB (LUO_CACHE=dir moves it)"; fi
	[ $problems = 0 ] && echo "Nothing is missing." || { echo "Problems found: $problems."; return 1; }
}

case $LUO_ARCH in
x86 | arm64) ;;
*) die "ARCH=$LUO_ARCH is not supported: x86 or arm64." ;;
esac

case ${1:-} in
luo-vm)
	shift
	# Both run in the background. Other tests can run without the first; the
	# group that needs it waits for its lock.
	if wants_debian "${1:-}" || { [ "${SANDBOX:-}" != none ] && wants_source "${1:-}"; }; then
		missing=$(missing_packages)
		# shellcheck disable=SC2086 # one word per package
		[ -z "$missing" ] || install_packages $missing
	fi
	fetch=
	if wants_debian "${1:-}"; then
		mkdir -p "$CACHE" || die "The cache directory $CACHE cannot be created."
		(create_debian) &
	fi
	if wants_machine "${1:-}"; then
		(EVERY=20; make_machine)
	fi
	if wants_packages "${1:-}"; then
		mkdir -p "$CACHE" "$TOP/build/deb" || die "The cache directory $CACHE cannot be created."
		(build_packages) &
	fi
	if [ "${SANDBOX:-}" != none ] && [ ! -e "$ROOT/etc/luo-sandbox" ] && wants_source "${1:-}"; then
		mkdir -p "$CACHE" || die "The cache directory $CACHE cannot be created."
		(fetch_source) &
		fetch=$!
	fi
	if [ "${SANDBOX:-}" = none ]; then
		LUO_COMMIT=$(commit)
		export LUO_COMMIT
		export LUO_ARCH LUO_DEBIAN=$CACHE/$DEBIAN
		export LUO_TOP=$TOP LUO_HOST_TOP=$TOP LUO_CACHE=$CACHE LUO_HOST_CACHE=$CACHE
		export CARGO_TARGET_DIR=$TOP/build/target CCACHE_DIR=$CACHE/ccache CCACHE_MAXSIZE=4G
		unset MAKEFLAGS MFLAGS MAKELEVEL
		luo_vm "$@"
	fi
	create
	[ -z "$fetch" ] || wait "$fetch"
	(enter /luo/tools/testing/luo-vm/sandbox.sh inside "$@")
	exit ;;
inside)
	shift
	luo_vm "$@" ;;
enter)
	shift
	enter "$@" ;;
deb)
	EVERY=20
	step "building the packages (some minutes)"
	build_packages
	step "the packages are in $TOP/build/deb:"
	(cd "$TOP/build/deb" && ls -1 ./*.deb ./*.dsc) ;;
demo-deb)
	EVERY=20
	make_machine
	exec "$0" luo-vm demo-deb ;;
doctor)
	doctor ;;
distclean)
	[ -d "$CACHE" ] || exit 0
	step "removing $CACHE"
	chmod -R u+w "$CACHE" 2>/dev/null
	rm -rf "$CACHE"/sandbox-* "$CACHE"/.sandbox* "$CACHE"/deb-sandbox-* "$CACHE"/.deb-sandbox* \
		"$CACHE"/debian-* "$CACHE"/.debian* "$CACHE"/ccache "$CACHE"/cargo "$CACHE"/cargo-*-* "$CACHE"/linux "$CACHE"/sources
	rmdir "$CACHE" 2>/dev/null || true ;;
*)
	sed -n '3,15s/^# \{0,1\}//p' "$0"
	exit 2 ;;
esac
