# SPDX-License-Identifier: GPL-2.0
#
# The entry point of the project; not part of the kernel tree. The targets are
# implemented in tools/testing/luo-vm: a script that makes and enters the build
# sandbox, and the program luo-vm that runs inside.

VM := tools/testing/luo-vm/sandbox.sh

VARIABLES := KERNEL_SRC SMP MEM MEMFD_MB SANDBOX V ONLY SUITES LUO_CACHE FUZZ_SECONDS QUICK N SEED STRESS_SECONDS FLAVOUR \
	BUILD ARCH

export $(VARIABLES)
# Do not export variables that are empty: an empty value differs from an unset
# one.
$(foreach v,$(VARIABLES),$(if $($(v)),,$(eval unexport $(v))))

# Targets that are commands of luo-vm with the same name.
TARGETS := run demo demo-device demo-vm test test-debug test-peer bench fuzz soak kernel menuconfig shell \
	deb-kernel patches check-patches docs htmldocs rust-analyzer

# Targets that check and format the code in the sandbox, without building a
# kernel.
CARGO := $(VM) enter cargo
WORKSPACE := --manifest-path /luo/tools/Cargo.toml
FUZZ := --manifest-path /luo/tools/testing/selftests/liveupdate/fuzz/Cargo.toml
KERNEL_RS = $(addprefix /luo/,$(shell git ls-files -- 'kernel/*.rs' 'mm/*.rs' 'rust/*.rs' 'samples/*.rs' 'drivers/*.rs' 'virt/*.rs'))

.PHONY: help $(TARGETS) test-all check lint format format-check apply deb demo-deb doctor clean distclean

help:
	@echo 'make run        build everything, boot it, and show a live update'
	@echo 'make demo       update the kernel of a Debian system while memcached is in use'
	@echo '                (MEMFD_MB=64 of data)'
	@echo 'make demo-device  update the kernel under a network card that receives frames'
	@echo 'make demo-deb   update the kernel of a UEFI machine made of Debian packages, from'
	@echo '                one package to another'
	@echo 'make demo-vm    update the kernel of a Debian system under a guest of its QEMU'
	@echo 'make test       run the tests (ONLY=group: host matrix kselftest-base kselftest'
	@echo '                devices machines luod debian guest kunit lint)'
	@echo 'make test-all   these and longer tests (hosts packages crates debug kunit-debug lint-debug'
	@echo '                docs machines-all matrix-7.2 configs soak debian-long guest-long cloud'
	@echo '                kasan); and those of arm64. ONLY=group,group runs some; what has passed at the'
	@echo '                same commit is not run again. Writes the last result of each group to'
	@echo '                Documentation/project/results.rst and results-arm64.rst'
	@echo 'make check      host tests and make lint; needs no kernel and no VM'
	@echo 'make lint       formatting, Clippy, words, and the checks of the patches'
	@echo 'make format     format all Rust code'
	@echo 'make bench      compare times with the implementation in C (QUICK=1 ONLY=run,'
	@echo '                also ONLY=devices, ONLY=kinds, ONLY=guest)'
	@echo 'make fuzz       fuzz the parsers of the format, FUZZ_SECONDS=60 a target'
	@echo 'make soak       N=100 kexecs in a row, with random sessions and files (SEED=1)'
	@echo 'make test-debug random operations for STRESS_SECONDS=600 (SEED=1), and'
	@echo '                the kselftests, on a kernel with lockdep, KASAN and kmemleak'
	@echo 'make test-peer  show the faults of the C kernel, which ours must not have'
	@echo '                (ONLY=beginning of an item, suite or case)'
	@echo
	@echo 'make deb        build Debian packages of the programs and libraries, in build/deb'
	@echo 'make deb-kernel  build Debian packages of a kernel with the configuration of Debian, in'
	@echo '                build/kernel-packages (FLAVOUR=cloud: with few modules);'
	@echo '                make demo-deb FLAVOUR=cloud-full runs them'
	@echo 'make kernel     build the kernel'
	@echo 'make menuconfig choose options of our kernels (FLAVOUR=ours debug kasan bench cloud)'
	@echo 'make shell      start a shell in a VM with a kernel loaded for kexec'
	@echo 'make patches    write series for git am to build/patches, one for each topic of'
	@echo '                patches/order'
	@echo 'make check-patches  check that they apply, run checkpatch.pl (BUILD=1: build'
	@echo '                a kernel after each patch; resumable)'
	@echo 'make apply      apply the change to the Linux 7.3 tree KERNEL_SRC'
	@echo 'make docs       rustdoc with private items, man pages and shell completions, in'
	@echo '                build/doc'
	@echo 'make htmldocs   pages of Documentation/ as HTML, in build/html'
	@echo 'make rust-analyzer  rust-project.json for editors: the crates of kernel/, mm/'
	@echo '                and samples/, with the prepared tree for the rest'
	@echo 'make doctor     list missing programs, and the command that installs them'
	@echo 'make clean      remove build/'
	@echo 'make distclean  remove the caches as well (sandbox, kernel trees, ccache)'
	@echo
	@echo 'Variables: KERNEL_SRC=tree|tarball|git  SMP=2  MEM=2G  MEMFD_MB=64  V=1'
	@echo '           SANDBOX=none (use the tools of this machine)'
	@echo '           SUITES=suite,suite (of the group ONLY=kselftest, devices, machines,'
	@echo '           machines-all, guest, guest-long or cloud)'
	@echo '           ARCH=arm64 (for run, kernel, shell, test and test-all; a sandbox of its own)'
	@echo '           LUO_CACHE=~/.cache/luo'

$(TARGETS):
	@$(VM) luo-vm $@

# The groups of arm64 are run after those of x86, even if some of these have failed.
test-all:
	@status=0; $(VM) luo-vm test-all || status=$$?; \
	$(if $(ARCH),,ARCH=arm64 $(VM) luo-vm test-all || status=$$?;) exit $$status

format:
	@$(CARGO) fmt $(WORKSPACE) --all
	@$(CARGO) fmt $(FUZZ) --all
	@$(VM) enter rustfmt --edition=2021 $(KERNEL_RS)

format-check:
	@$(CARGO) fmt $(WORKSPACE) --all -- --check
	@$(CARGO) fmt $(FUZZ) --all -- --check
	@$(VM) enter rustfmt --edition=2021 --check $(KERNEL_RS)

lint: format-check
	@$(CARGO) clippy -q --locked --workspace --all-targets $(WORKSPACE) -- -Dwarnings
	@$(VM) luo-vm check-words
	@$(VM) luo-vm check-patches

check: lint
	@$(CARGO) test -q --locked --workspace $(WORKSPACE)
	@$(VM) enter sh -c 'cd tools/liveupdate/python && PYTHONDONTWRITEBYTECODE=1 python3 -m unittest discover -q -s tests'

apply:
	@$(if $(KERNEL_SRC),,echo 'make apply needs KERNEL_SRC=dir, a Linux 7.3 tree.' >&2; exit 1;) \
	$(VM) luo-vm apply

deb demo-deb:
	@$(VM) $@

doctor:
	@$(VM) doctor

clean:
	rm -rf build

distclean: clean
	@$(VM) distclean
