#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the Debian packages, in the tree that sandbox.sh has made for this.
#
#   packages.sh source   make the source package; needs a network for new crates
#   packages.sh build    build the packages from it, and check them with lintian
#
# The source package consists of the files below and of all crates that they
# need. Both steps do nothing if the packages in build/deb are up to date.

set -eu -o pipefail
umask 022

TOP=$LUO_TOP
OUT=$TOP/build/deb
# In memory: there are thousands of files.
WORK=/tmp/deb
DEBIAN=$TOP/tools/liveupdate/debian
# The files of the repository in the source package, besides tools/liveupdate.
FILES=(COPYING LICENSES Documentation/admin-guide/liveupdate include/uapi/linux/liveupdate.h
	tools/Cargo.lock tools/liveupdate)

field() { dpkg-parsechangelog -l "$DEBIAN/changelog" -S "$1"; }

SOURCE=$(field Source)
REVISION=$(field Version)
VERSION=${REVISION%-*}
TREE=$WORK/$SOURCE-$VERSION
SOURCE_DATE_EPOCH=$(field Timestamp)
export SOURCE_DATE_EPOCH

# pack NAME DIR...: a tarball that only depends on the contents.
pack() {
	local file=$1
	shift
	tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
		--format=gnu -C "$WORK/stage" -c "$@" | xz -T0 -0 >"$file.tmp"
	mv "$file.tmp" "$file"
}

# The sum of everything that the packages are built from.
inputs() {
	cd "$TOP"
	find "${FILES[@]}" tools/Cargo.toml "$0" -type f -print0 | LC_ALL=C sort -z |
		xargs -0 sha256sum | sha256sum
	dpkg-query -W cargo cargo-c debhelper lintian rustc
}

is_current() { [ -s "$OUT/inputs" ] && inputs | cmp -s - "$OUT/inputs"; }

# The crates, in stage/vendor. The source of those that only other systems need
# is left out.
vendor() {
	local key saved
	key=$(cat tools/Cargo.lock tools/Cargo.toml tools/liveupdate/*/Cargo.toml \
		"$TOP/tools/testing/luo-vm/vendor.py" | sha256sum | cut -c1-16)
	saved=$LUO_CACHE/sources/vendor-$key.tar.xz
	if [ ! -e "$saved" ]; then
		echo "fetching the crates"
		# With the usual directory, it would wait for all builds on this machine.
		export CARGO_HOME=$WORK/cargo
		cargo vendor --quiet --manifest-path tools/Cargo.toml --versioned-dirs vendor >/dev/null
		cp tools/Cargo.lock vendor/
		python3 "$TOP/tools/testing/luo-vm/vendor.py" tools/Cargo.toml vendor
		mkdir -p "$LUO_CACHE/sources"
		pack "$saved" -C "$PWD" vendor
		rm -r vendor
	fi
	tar -xf "$saved"
	cp "$saved" "$OUT/${SOURCE}_$VERSION.orig-vendor.tar.xz"
	# Without the crates of the members that the package does not have.
	cp vendor/Cargo.lock tools/Cargo.lock
}

make_source() {
	local stage=$WORK/stage file
	rm -f "$OUT"/*.{deb,ddeb,dsc,tar.xz,changes,buildinfo} "$OUT"/inputs*
	inputs >"$OUT/inputs.tmp"
	mkdir -p "$stage"
	cd "$stage"
	for file in "${FILES[@]}"; do
		mkdir -p "${file%/*}"
		cp -a "$TOP/$file" "$file"
	done
	rm -rf tools/liveupdate/debian
	grep -Ev '"(testing|liveupdate/client/examples)/' "$TOP/tools/Cargo.toml" >tools/Cargo.toml
	vendor
	# S: the targets of symbolic links stay as they are.
	pack "$OUT/${SOURCE}_$VERSION.orig.tar.xz" --exclude=vendor --transform "s,^\.,$SOURCE-$VERSION,S" .
	mkdir -p "$TREE"
	mv "$stage"/* "$TREE"
	cp -a "$DEBIAN" "$TREE/debian"
	python3 "$DEBIAN/copyright.py" "$TREE/vendor" "$DEBIAN/copyright" >"$TREE/debian/copyright"
	cd "$OUT"
	dpkg-source -b "$TREE"
}

build() {
	export CARGO_TARGET_DIR=$OUT/target
	# Cargo compares times, which are the same in all source packages.
	mkdir -p "$CARGO_TARGET_DIR"
	sha256sum "$OUT"/*.orig*.tar.xz >"$OUT/sources"
	if ! cmp -s "$OUT/sources" "$CARGO_TARGET_DIR/sources"; then
		rm -rf "$CARGO_TARGET_DIR"/{,*/}release/.fingerprint/{liveupdate,luo}*
	fi
	mv "$OUT/sources" "$CARGO_TARGET_DIR/sources"
	mkdir -p "$WORK"
	cd "$WORK"
	dpkg-source -x "$OUT/${SOURCE}_$REVISION.dsc" "$TREE"
	cd "$TREE"
	dpkg-buildpackage --build=binary --no-sign
	cd "$OUT"
	mv "$WORK"/*.{buildinfo,changes,deb} .
}

check() {
	local said
	said=$(lintian --allow-root --display-info --pedantic --fail-on none \
		"$OUT/${SOURCE}_$REVISION.dsc" "$OUT/${SOURCE}_$REVISION"_*.changes)
	printf '%s\n' "$said" | tee "$OUT/lintian.txt"
	[ -z "$said" ] || { echo "lintian has complaints"; exit 1; }
}

mkdir -p "$OUT"
if is_current; then
	exit 0
fi
case ${1:-} in
source) make_source ;;
build)
	build
	check
	mv "$OUT/inputs.tmp" "$OUT/inputs" ;;
*)
	sed -n '5,11s/^# \{0,1\}//p' "$0"
	exit 2 ;;
esac
