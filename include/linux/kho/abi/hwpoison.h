/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _LINUX_KHO_ABI_HWPOISON_H
#define _LINUX_KHO_ABI_HWPOISON_H

#include <linux/types.h>

#include <asm/page.h>

/**
 * DOC: Poisoned page frames
 *
 * The subtree "hwpoison" lists the page frames that the previous kernel found
 * bad, so that the next kernel does not allocate them. It is a chain of blocks
 * of one page each, which are preserved by KHO. The subtree's blob is the
 * first block. A kernel that does not support the version must ignore the list.
 */

#define KHO_HWPOISON_NODE_NAME "hwpoison"
#define KHO_HWPOISON_VERSION 1

/**
 * struct kho_hwpoison_block - some poisoned page frames
 * @version: %KHO_HWPOISON_VERSION
 * @index: place of this block in the chain, counted from 0
 * @next: physical address of the next block, or 0
 * @count: number of elements of @phys
 * @phys: physical addresses of the page frames, in no particular order
 */
struct kho_hwpoison_block {
	u32 version;
	u32 index;
	u64 next;
	u64 count;
	u64 phys[];
};

#define KHO_HWPOISON_MAX \
	((PAGE_SIZE - sizeof(struct kho_hwpoison_block)) / sizeof(u64))

#endif /* _LINUX_KHO_ABI_HWPOISON_H */
