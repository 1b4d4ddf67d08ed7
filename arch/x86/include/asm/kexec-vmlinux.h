/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _ASM_X86_KEXEC_VMLINUX_H
#define _ASM_X86_KEXEC_VMLINUX_H

#include <linux/types.h>

struct setup_header;

/**
 * struct kexec_vmlinux - a kernel as it is to be in memory, or nothing
 * @buffer: its content, or NULL
 * @size: how long that is
 * @entry: offset of its 64-bit entry point
 * @loadflags: what its boot code would have added to those of the setup header
 */
struct kexec_vmlinux {
	void *buffer;
	unsigned long size;
	unsigned long entry;
	u8 loadflags;
};

int kexec_vmlinux_prepare(struct kexec_vmlinux *vmlinux,
			  const struct setup_header *header, const char *code,
			  unsigned long code_len, const char *cmdline);
void kexec_vmlinux_free(struct kexec_vmlinux *vmlinux);

#endif /* _ASM_X86_KEXEC_VMLINUX_H */
