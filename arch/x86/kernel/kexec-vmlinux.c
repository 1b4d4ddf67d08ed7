// SPDX-License-Identifier: GPL-2.0
/*
 * Start the kernel inside of a bzImage without the boot code around it.
 *
 * If the kernel is not compressed, the boot code only copies it to another
 * address and relocates it. Both can be done when the image is loaded, instead
 * of during the blackout. The kernel_info of the image states that its payload
 * can be read here; other images are started by their boot code.
 *
 * Virtual addresses are random, as with the boot code. The physical address is
 * the one that kexec has chosen, which is not random. Hence this needs KHO: the
 * boot code, too, can only choose among addresses in the scratch area then.
 */

#define pr_fmt(fmt) "kexec-vmlinux: " fmt

#include <linux/cc_platform.h>
#include <linux/efi.h>
#include <linux/elf.h>
#include <linux/errno.h>
#include <linux/kexec.h>
#include <linux/kexec_handover.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/random.h>
#include <linux/string.h>
#include <linux/unaligned.h>

#include <asm/bootparam.h>
#include <asm/cmdline.h>
#include <asm/cpuid/api.h>
#include <asm/kexec-vmlinux.h>
#include <asm/page_types.h>
#include <asm/pgtable_64_types.h>

/*
 * The part of kernel_info that describes the payload;
 * Documentation/arch/x86/boot.rst.
 */
struct kernel_info {
	__le32 header;
	__le32 size;
	__le32 size_total;
	__le32 setup_type_max;
	__le32 payload_format;
};

#define KERNEL_INFO_MAGIC 0x506f544c

/* The length of an image follows the image. */
#define PAYLOAD_TRAILER sizeof(u32)

/*
 * Sizes of relocated values. There is a list for each, backwards from the end
 * of the image.
 */
static const unsigned int reloc_sizes[] = { sizeof(u32), sizeof(u64) };

/*
 * Returns whether the image declares that its payload is an ELF file with
 * relocations.
 */
static bool payload_is_plain(const struct setup_header *header,
			     const char *code, unsigned long code_len)
{
	struct kernel_info info;
	unsigned long end;

	if (header->version < 0x020f ||
	    check_add_overflow((unsigned long)header->kernel_info_offset,
			       sizeof(info), &end) || end > code_len)
		return false;
	memcpy(&info, code + header->kernel_info_offset, sizeof(info));

	return le32_to_cpu(info.header) == KERNEL_INFO_MAGIC &&
	       le32_to_cpu(info.size) >= sizeof(info) &&
	       le32_to_cpu(info.payload_format) == KERNEL_INFO_PAYLOAD_ELF_RELOCS;
}

/*
 * Returns whether the next kernel can be started without the platform setup of
 * its boot code.
 */
static bool platform_is_plain(const struct setup_header *header,
			      const char *cmdline)
{
	bool la57 = (cpuid_ecx(7) & BIT(16)) &&
		    (header->xloadflags & XLF_5LEVEL_ENABLED) &&
		    cmdline_find_option_bool(cmdline, "no5lvl") <= 0;

	/* Without it, the boot code chooses a random address in all memory. */
	if (!kho_is_enabled())
		return false;

	/* Only the boot code can switch to another depth of page tables. */
	if (la57 != pgtable_l5_enabled())
		return false;

#ifdef CONFIG_UNACCEPTED_MEMORY
	if (efi.unaccepted != EFI_INVALID_TABLE_ADDR)
		return false;
#endif
	return !cc_platform_has(CC_ATTR_MEM_ENCRYPT) &&
	       !strstr(cmdline, "mem_encrypt=");
}

/*
 * Copies the loadable segments to their offsets; returns the end of the ELF
 * file.
 */
static unsigned long lay_out(struct kexec_vmlinux *vmlinux,
			     const struct setup_header *header,
			     const char *elf, unsigned long len)
{
	const struct elf64_hdr *ehdr = (const struct elf64_hdr *)elf;
	const struct elf64_phdr *phdrs;
	unsigned long end, phdrs_end;

	if (len < sizeof(*ehdr) || memcmp(ehdr->e_ident, ELFMAG, SELFMAG) ||
	    ehdr->e_ident[EI_CLASS] != ELFCLASS64 ||
	    ehdr->e_machine != EM_X86_64 ||
	    ehdr->e_phentsize != sizeof(*phdrs))
		return 0;

	if (check_add_overflow(ehdr->e_phoff, array_size(ehdr->e_phnum, sizeof(*phdrs)),
			       &phdrs_end) || phdrs_end > len ||
	    check_add_overflow(ehdr->e_shoff,
			       array_size(ehdr->e_shnum, ehdr->e_shentsize), &end) ||
	    end > len)
		return 0;
	phdrs = (const struct elf64_phdr *)(elf + ehdr->e_phoff);

	for (unsigned int i = 0; i < ehdr->e_phnum; i++) {
		const struct elf64_phdr *phdr = &phdrs[i];
		unsigned long offset, place_end, file_end;

		if (phdr->p_type != PT_LOAD)
			continue;
		if (check_sub_overflow(phdr->p_paddr, header->pref_address, &offset) ||
		    check_add_overflow(offset, phdr->p_filesz, &place_end) ||
		    check_add_overflow(phdr->p_offset, phdr->p_filesz, &file_end) ||
		    place_end > header->init_size || file_end > len)
			return 0;
		memcpy(vmlinux->buffer + offset, elf + phdr->p_offset, phdr->p_filesz);
		vmlinux->size = max(vmlinux->size, place_end);
		end = max(end, file_end);
	}

	if (check_sub_overflow(ehdr->e_entry, header->pref_address, &vmlinux->entry) ||
	    vmlinux->entry >= vmlinux->size)
		return 0;

	return end;
}

/* Returns the random offset of the virtual addresses of the next kernel. */
static unsigned long random_delta(const struct setup_header *header)
{
	unsigned long taken = header->pref_address + header->init_size;
	unsigned long align = header->kernel_alignment;

	if (!align || taken > KERNEL_IMAGE_SIZE)
		return 0;

	return get_random_u32_inclusive(0, (KERNEL_IMAGE_SIZE - taken) / align) * align;
}

/* Applies the relocations between the ELF file and @end. */
static int relocate(struct kexec_vmlinux *vmlinux,
		    const struct setup_header *header, const void *elf_end,
		    const s32 *end, unsigned long delta)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(reloc_sizes); i++) {
		while (true) {
			unsigned long offset;
			void *place;

			if ((const void *)(end - 1) < elf_end)
				return -ENOEXEC;
			/* Each list ends with 0. */
			if (!*--end)
				break;

			offset = (unsigned long)(long)*end - __START_KERNEL_map -
				 header->pref_address;
			if (vmlinux->size < reloc_sizes[i] ||
			    offset > vmlinux->size - reloc_sizes[i])
				return -ENOEXEC;
			place = vmlinux->buffer + offset;
			if (reloc_sizes[i] == sizeof(u32))
				put_unaligned(get_unaligned((u32 *)place) + (u32)delta,
					      (u32 *)place);
			else
				put_unaligned(get_unaligned((u64 *)place) + delta,
					      (u64 *)place);
		}
	}

	return 0;
}

/**
 * kexec_vmlinux_prepare - prepare a kernel to be started without boot code
 * @vmlinux: on success, the kernel to load; kexec_vmlinux_free() frees it
 * @header: setup header of the image
 * @code: the image after the setup code
 * @code_len: length of @code
 * @cmdline: command line of the next kernel
 *
 * Return: 0, or an error if the kernel must be started by its boot code: it is
 * compressed, the platform needs more than plain memory, or there is no memory.
 */
int kexec_vmlinux_prepare(struct kexec_vmlinux *vmlinux,
			  const struct setup_header *header, const char *code,
			  unsigned long code_len, const char *cmdline)
{
	unsigned long payload_end, elf_len, elf_end;
	const char *elf = code + header->payload_offset;
	int err = -ENOEXEC;

	*vmlinux = (struct kexec_vmlinux){};

	if (check_add_overflow((unsigned long)header->payload_offset,
			       (unsigned long)header->payload_length, &payload_end) ||
	    payload_end > code_len || header->payload_length < PAYLOAD_TRAILER ||
	    !payload_is_plain(header, code, code_len) ||
	    !platform_is_plain(header, cmdline))
		return -ENOEXEC;
	elf_len = header->payload_length - PAYLOAD_TRAILER;

	vmlinux->buffer = kvzalloc(header->init_size, GFP_KERNEL | __GFP_NOWARN);
	if (!vmlinux->buffer)
		return -ENOMEM;

	elf_end = lay_out(vmlinux, header, elf, elf_len);
	if (!elf_end)
		goto err_free;

	/* There are relocations if the kernel was configured for KASLR. */
	if (elf_end != elf_len && cmdline_find_option_bool(cmdline, "nokaslr") <= 0) {
		if (!IS_ENABLED(CONFIG_RANDOMIZE_BASE))
			goto err_free;
		err = relocate(vmlinux, header, elf + elf_end,
			       (const s32 *)(elf + elf_len), random_delta(header));
		if (err)
			goto err_free;
		vmlinux->loadflags = KASLR_FLAG;
	}

	return 0;

err_free:
	pr_debug("the boot code of the image is needed\n");
	kexec_vmlinux_free(vmlinux);
	return err;
}

/**
 * kexec_vmlinux_free - free a prepared kernel
 * @vmlinux: filled in by kexec_vmlinux_prepare(), successful or not
 */
void kexec_vmlinux_free(struct kexec_vmlinux *vmlinux)
{
	kvfree(vmlinux->buffer);
	*vmlinux = (struct kexec_vmlinux){};
}
