/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_KHO_ABI_HUGETLB_H
#define _LINUX_KHO_ABI_HUGETLB_H

#include <linux/types.h>
#include <linux/kho/abi/kexec_handover.h>

/**
 * DOC: Format of memfds of huge pages
 *
 * A memfd with ``MFD_HUGETLB`` is handed over as a &struct hugetlb_memfd_luo_ser,
 * whose array contains one &struct memfd_luo_folio_ser for each of its pages, in the
 * order of the file. All files together have a &struct hugetlb_ser, the number
 * of pages that they have taken from the huge-page pools.
 *
 * A change of a structure requires another compatible string.
 */

/* The compatible string of a memfd of huge pages. */
#define HUGETLB_LUO_FH_COMPATIBLE	"hugetlb-memfd-v1"

/* The compatible string of the number of pages. */
#define HUGETLB_LUO_FLB_COMPATIBLE	"hugetlb-v2"

/*
 * A device may write to the memory of the file: until it is finished, its pages
 * must not be used for anything else.
 */
#define HUGETLB_LUO_DMA_TARGET	1

/* The maximum number of sizes and nodes of huge pages. */
#define HUGETLB_SER_COUNTS	63

/**
 * struct hugetlb_memfd_luo_ser - a memfd of huge pages
 * @pos: file position, in bytes
 * @size: size of the file, in bytes
 * @seals: F_SEAL_*
 * @order: each page has (1 << order) base pages
 * @flags: HUGETLB_LUO_DMA_TARGET
 * @nr_folios: number of pages, and of entries of the array
 * @folios: the array; the index of an entry is in base pages
 */
struct hugetlb_memfd_luo_ser {
	u64 pos;
	u64 size;
	u32 seals;
	u16 order;
	u16 flags;
	u64 nr_folios;
	struct kho_vmalloc folios;
} __packed;

/**
 * struct hugetlb_count_ser - pages of one size on one node
 * @nr_pages: number of pages that preserved files have
 * @node: NUMA node of the pages, by the numbers of the kernel that preserves them
 * @order: each of them has (1 << order) base pages
 */
struct hugetlb_count_ser {
	u64 nr_pages;
	u16 node;
	u8 order;
};

/**
 * struct hugetlb_ser - pages of all preserved files
 * @nr_counts: number of entries that are used
 * @counts: the pages of each size on each node
 */
struct hugetlb_ser {
	u64 nr_counts;
	struct hugetlb_count_ser counts[HUGETLB_SER_COUNTS];
};

#endif /* _LINUX_KHO_ABI_HUGETLB_H */
