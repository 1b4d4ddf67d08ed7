/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _ASM_X86_KEXEC_VMLINUX_H
#define _ASM_X86_KEXEC_VMLINUX_H

#include <linux/types.h>

struct setup_header;

/**
 * struct kexec_vmlinux - contents of a relocated kernel, or nothing
 * @buffer: the contents, or NULL
 * @size: size of @buffer in bytes
 * @entry: offset of its 64-bit entry point
 * @loadflags: flags that the boot code would add to loadflags of the setup
 *             header
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
