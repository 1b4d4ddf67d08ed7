// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hands over the list of bad page frames.
 *
 * Without it, the next kernel would allocate page frames that this kernel has
 * taken out of use. The list of these frames is handed over with KHO, whether
 * or not other data is handed over. Frames in the scratch area are reserved
 * before anything is allocated there, all others before the memory that they
 * are in is used. The format is described in include/linux/kho/abi/hwpoison.h.
 *
 * Other code may rely on this list: a bad frame in the scratch area cannot be
 * preserved, but the next kernel can give it back to a file whose data has its
 * number.
 *
 * Not covered: frames that were poisoned before kho_hwpoison_init() ran.
 */

#define pr_fmt(fmt) "KHO: hwpoison: " fmt

#include <linux/err.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/hwpoison.h>
#include <linux/memblock.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/page-flags.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include <asm/early_ioremap.h>

#include "kexec_handover_internal.h"

/* memblock cannot enlarge its arrays yet: leave room for other users. */
#define EARLY_MAX 32

static DEFINE_SPINLOCK(lock);
/* The list for the next kernel; NULL without KHO. */
static struct kho_hwpoison_block *first_block, *last_block;
/* A spare block, since frames are added in contexts that cannot allocate. */
static struct kho_hwpoison_block *spare_block;

static struct kho_hwpoison_block *alloc_block(void)
{
	struct kho_hwpoison_block *block = kho_alloc_preserve(PAGE_SIZE);

	if (!IS_ERR(block))
		block->version = KHO_HWPOISON_VERSION;
	return block;
}

static void provide_spare(struct work_struct *work)
{
	struct kho_hwpoison_block *block;

	if (READ_ONCE(spare_block))
		return;

	block = alloc_block();
	if (IS_ERR(block)) {
		pr_warn("cannot allocate memory for bad page frames: %pe\n", block);
		return;
	}

	spin_lock_irq(&lock);
	if (!spare_block) {
		WRITE_ONCE(spare_block, block);
		block = NULL;
	}
	spin_unlock_irq(&lock);

	if (block)
		kho_unpreserve_free(block);
}

static DECLARE_WORK(provide_spare_work, provide_spare);

/**
 * kho_hwpoison_add - add a bad page frame to the list for the next kernel
 * @pfn: the page frame
 *
 * Context: any but NMI.
 */
void kho_hwpoison_add(unsigned long pfn)
{
	struct kho_hwpoison_block *block;
	unsigned long flags;
	bool low;

	spin_lock_irqsave(&lock, flags);
	block = last_block;
	if (!block)
		goto unlock;

	if (block->count == KHO_HWPOISON_MAX) {
		if (!spare_block) {
			pr_warn_ratelimited("the next kernel will not know of the bad frame %#lx\n",
					    pfn);
			goto unlock;
		}
		spare_block->index = block->index + 1;
		block->next = virt_to_phys(spare_block);
		block = spare_block;
		last_block = block;
		WRITE_ONCE(spare_block, NULL);
	}
	block->phys[block->count++] = PFN_PHYS(pfn);

	low = !spare_block && block->count >= KHO_HWPOISON_MAX / 2;
	if (low)
		schedule_work(&provide_spare_work);
unlock:
	spin_unlock_irqrestore(&lock, flags);
}

/**
 * kho_hwpoison_del - remove a page frame from the list for the next kernel
 * @pfn: the page frame, which need not have been added
 *
 * Context: any but NMI.
 */
void kho_hwpoison_del(unsigned long pfn)
{
	struct kho_hwpoison_block *block;
	unsigned long flags;

	spin_lock_irqsave(&lock, flags);
	block = first_block;
	while (block) {
		for (u64 i = 0; i < block->count; i++) {
			if (block->phys[i] == PFN_PHYS(pfn)) {
				block->phys[i] = block->phys[--block->count];
				goto unlock;
			}
		}
		block = block->next ? phys_to_virt(block->next) : NULL;
	}
unlock:
	spin_unlock_irqrestore(&lock, flags);
}

/* Returns whether a block of the previous kernel can be read. */
static bool block_is_valid(const struct kho_hwpoison_block *block, u32 index)
{
	return block->version == KHO_HWPOISON_VERSION &&
	       block->index == index && block->count <= KHO_HWPOISON_MAX &&
	       PAGE_ALIGNED(block->next);
}

/*
 * Reserves the bad frames in the scratch area. Nothing has been allocated
 * there, and there is no direct map yet. The preserved memory is not known
 * either, so that only a limited number of frames is reserved, and only if the
 * list is well-formed.
 */
void __init kho_hwpoison_reserve_scratch(const void *fdt,
					 const struct kho_scratch *areas,
					 unsigned int nr_areas)
{
	unsigned int nr = 0;
	phys_addr_t phys, next;

	if (kho_fdt_subtree(fdt, KHO_HWPOISON_NODE_NAME, &phys, NULL))
		return;

	for (u32 index = 0; phys && nr < EARLY_MAX; phys = next, index++) {
		struct kho_hwpoison_block *block;

		if (!PAGE_ALIGNED(phys))
			return;
		block = early_memremap(phys, PAGE_SIZE);
		if (!block)
			return;

		next = 0;
		if (!block_is_valid(block, index))
			goto unmap;
		for (u64 i = 0; i < block->count && nr < EARLY_MAX; i++) {
			u64 frame = block->phys[i] & PAGE_MASK;

			for (unsigned int a = 0; a < nr_areas; a++) {
				if (frame < areas[a].addr ||
				    frame - areas[a].addr >= areas[a].size)
					continue;
				if (!memblock_reserve(frame, PAGE_SIZE))
					nr++;
			}
		}
		next = block->next;
unmap:
		early_memunmap(block, PAGE_SIZE);
	}
}

/*
 * Calls @frame for each bad frame, and @done for each block after that. The list is
 * walked twice: frames are reserved before memory is allocated, when there are no
 * struct pages yet in which they could be marked, and no other place where they
 * could be recorded. It is preserved memory, and stays as it is in between.
 */
static void __init walk_frames(void (*frame)(phys_addr_t phys),
			       void (*done)(struct kho_hwpoison_block *block))
{
	phys_addr_t phys;

	if (kho_retrieve_subtree(KHO_HWPOISON_NODE_NAME, &phys, NULL))
		return;

	for (u32 index = 0; phys; index++) {
		struct kho_hwpoison_block *block;
		phys_addr_t next;

		if (!kho_was_preserved(phys, 0)) {
			pr_warn("block %u of the list is not in preserved memory: its page frames are unknown\n",
				index);
			return;
		}
		block = phys_to_virt(phys);
		if (!block_is_valid(block, index)) {
			pr_warn("block %u of the list is damaged or has another version: its page frames are unknown\n",
				index);
			return;
		}
		for (u64 i = 0; i < block->count; i++)
			frame(block->phys[i] & PAGE_MASK);
		next = block->next;
		if (done)
			done(block);
		phys = next;
	}
}

static void __init reserve_frame(phys_addr_t phys)
{
	if (!memblock_is_memory(phys))
		return;
	if (memblock_reserve(phys, PAGE_SIZE))
		pr_warn("the bad frame at %pa cannot be reserved\n", &phys);
}

/* Reserves the bad frames before their memory can be allocated. */
void __init kho_hwpoison_reserve(void)
{
	walk_frames(reserve_frame, NULL);
}

/* Whether the frame is part of a folio that is preserved. */
static bool __init is_preserved(phys_addr_t phys)
{
	for (unsigned int order = 0; order <= MAX_FOLIO_ORDER; order++)
		if (kho_was_preserved(ALIGN_DOWN(phys, PAGE_SIZE << order), order))
			return true;

	return false;
}

static void __init mark_frame(phys_addr_t phys)
{
	unsigned long pfn = PHYS_PFN(phys);
	struct page *page = pfn_to_online_page(pfn);

	if (!page)
		return;
	if (PageBuddy(page)) {
		/* It could not be reserved: take it out of use by memory_failure(). */
		memory_failure_queue(pfn, 0);
		return;
	}
	/* Also adds it to the list for the next kernel. */
	if (!TestSetPageHWPoison(page))
		num_poisoned_pages_inc(pfn);
	if (!PageCompound(page) && PageReserved(page) && !is_preserved(phys)) {
		/* Only a file that it was a page of may get it back. */
		__ClearPageReserved(page);
		kho_mark_restorable(page);
	}
}

/*
 * The frames of a block have been added: allocate the spare block for the next
 * ones.
 */
static void __init block_is_done(struct kho_hwpoison_block *block)
{
	if (block->next)
		provide_spare(NULL);
	kho_restore_free(block);
}

/* After kho_init(), which is an fs_initcall(). */
static int __init kho_hwpoison_init(void)
{
	struct kho_hwpoison_block *block;
	int err;

	if (!kho_is_enabled())
		return 0;

	block = alloc_block();
	if (IS_ERR(block))
		return PTR_ERR(block);
	err = kho_add_subtree(KHO_HWPOISON_NODE_NAME, block, PAGE_SIZE);
	if (err) {
		kho_unpreserve_free(block);
		return err;
	}
	spin_lock_irq(&lock);
	first_block = block;
	last_block = block;
	spin_unlock_irq(&lock);

	walk_frames(mark_frame, block_is_done);
	if (atomic_long_read(&num_poisoned_pages))
		pr_info("%ld bad page frames are known from the previous kernel\n",
			atomic_long_read(&num_poisoned_pages));

	return 0;
}
fs_initcall_sync(kho_hwpoison_init);
