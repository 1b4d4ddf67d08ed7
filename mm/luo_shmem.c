// SPDX-License-Identifier: GPL-2.0
/*
 * Functions of shmem and the page cache for the preservation of memfds, which
 * mm/memfd_luo/ops.rs calls.
 */

#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/pageblock-flags.h>
#include <linux/pagemap.h>
#include <linux/shmem_fs.h>
#include <linux/swap.h>
#include <linux/xarray.h>

#include "internal.h"
#include "luo_folio.h"
#include "luo_shmem.h"

/* Bad memory, which cannot be moved, at an address where it cannot be pinned. */
static bool luo_shmem_is_stuck(void *entry)
{
	struct folio *folio = entry;

	return !xa_is_value(entry) && folio_test_hwpoison(folio) &&
	       !folio_test_large(folio) && !folio_is_longterm_pinnable(folio);
}

/**
 * luo_shmem_next_run - find the next pages of a file that have memory
 * @mapping: mapping of a shmem file
 * @from: first page of the search
 * @max: maximum number of folios and swap entries to examine, not 0
 * @run: returns the pages
 *
 * A page has memory if it has a folio or is swapped out. The run ends at the
 * first page that has none, or after @max folios and swap entries. A page that is
 * stuck is a run of its own.
 *
 * Context: Any context. Pages may get memory, or lose it, at any time.
 * Return: true if there is such a page; otherwise, @run is not changed.
 */
bool luo_shmem_next_run(struct address_space *mapping, pgoff_t from,
			unsigned int max, struct luo_shmem_run *run)
{
	XA_STATE(xas, &mapping->i_pages, from);
	unsigned long block, last_block = ULONG_MAX;
	unsigned int found = 0;
	void *entry;

	rcu_read_lock();
	xas_for_each(&xas, entry, ULONG_MAX) {
		unsigned long nr;

		if (xas_retry(&xas, entry))
			continue;
		if (!found) {
			run->start = xas.xa_index;
			run->settled = true;
			run->stuck = false;
		} else if (xas.xa_index != run->end) {
			break;
		}
		if (luo_shmem_is_stuck(entry)) {
			/* A run of its own. */
			if (!found) {
				run->end = run->start + 1;
				run->settled = false;
				run->stuck = true;
				run->pfn = folio_pfn(entry);
				found = 1;
			}
			break;
		}

		nr = 1UL << xas_get_order(&xas);
		run->end = round_down(xas.xa_index, nr) + nr;

		if (xa_is_value(entry)) {
			run->settled = false;
		} else if (run->settled) {
			/* Either all or no folios of a pageblock can be pinned. */
			block = folio_pfn(entry) >> pageblock_order;
			if (block != last_block)
				run->settled = folio_is_longterm_pinnable(entry);
			last_block = block;
		}
		if (++found == max)
			break;
	}
	rcu_read_unlock();

	return found;
}

/**
 * luo_shmem_nr_pages - count the pages of a file that have memory
 * @inode: inode of a shmem file
 *
 * Return: number of pages that have a folio or are swapped out. It may change
 * at any time.
 */
unsigned long luo_shmem_nr_pages(struct inode *inode)
{
	struct shmem_inode_info *info = SHMEM_I(inode);
	unsigned long present = READ_ONCE(inode->i_mapping->nrpages);

	/*
	 * A page that is read back from swap can be missing in both nrpages and
	 * swapped, which are not read at once, but not in alloced. A new page is
	 * counted in alloced only after its insertion; until then it is locked,
	 * and cannot be on its way from or to swap.
	 */
	spin_lock(&info->lock);
	present = max(present + info->swapped, info->alloced);
	spin_unlock(&info->lock);

	return present;
}

/**
 * luo_shmem_in_place - check whether pinned folios are part of a file
 * @mapping: mapping of a shmem file that cannot be truncated
 * @folios: folios that were found in the page cache and pinned
 * @nr: number of folios
 *
 * khugepaged and MADV_COLLAPSE copy folios into a large one, which replaces
 * them. They check for other users of a folio before that: one that is pinned
 * afterwards is lost to the file. They hold the lock of the folio all the time,
 * so a folio that is not locked, and is part of the file, stays there.
 *
 * Context: May sleep.
 * Return: false if a folio was replaced; there is another one in its place.
 */
bool luo_shmem_in_place(struct address_space *mapping, struct folio **folios,
			unsigned int nr)
{
	/* Either this sees the lock, or the holder of the lock sees the pin. */
	smp_mb();

	for (unsigned int i = 0; i < nr; i++) {
		if (folio_test_locked(folios[i])) {
			folio_lock(folios[i]);
			folio_unlock(folios[i]);
		}
		/* The mapping changes before the folio is unlocked. */
		smp_rmb();
		if (READ_ONCE(folios[i]->mapping) != mapping)
			return false;
	}

	return true;
}

/**
 * luo_shmem_init_folio - set up a folio to be added to a file
 * @folio: folio without other users
 * @index: page of the file for the folio
 * @uptodate: the folio has content
 *
 * The folio is marked as dirty, even if the previous kernel has recorded it as
 * clean: there is no other copy of its content, so it must not be dropped.
 */
void luo_shmem_init_folio(struct folio *folio, pgoff_t index, bool uptodate)
{
	folio->index = index;
	__folio_set_swapbacked(folio);
	if (uptodate)
		__folio_mark_uptodate(folio);
	/* All that folio_mark_dirty() does for shmem. */
	folio_set_dirty(folio);
	/* The page cache needs this of large folios; KHO does not set it. */
	if (folio_test_large(folio)) {
		folio_set_large_rmappable(folio);
		if (luo_folio_has_bad_page(folio))
			folio_set_has_hwpoisoned(folio);
	}
}

/**
 * luo_shmem_account - account pages to be added to a file
 * @inode: inode of a new shmem file
 * @pages: number of pages
 *
 * Must always be followed by luo_shmem_settle(), whether or not the pages have
 * been added.
 *
 * Return: 0, or a negative error code if no pages are accounted.
 */
int luo_shmem_account(struct inode *inode, long pages)
{
	return shmem_inode_acct_blocks(inode, pages);
}

/**
 * luo_shmem_settle - use or release accounted pages
 * @inode: inode of a new shmem file
 * @pages: number of pages passed to luo_shmem_account()
 *
 * Pages that are not in the page cache are released.
 */
void luo_shmem_settle(struct inode *inode, long pages)
{
	shmem_recalc_inode(inode, pages, 0);
}

static int luo_shmem_add_folio(struct address_space *mapping,
			       struct folio *folio)
{
	gfp_t gfp = mapping_gfp_mask(mapping);
	int err;

	if (!IS_ALIGNED(folio->index, folio_nr_pages(folio)))
		return -EINVAL;

	/* The OOM killer would kill the task that needs the file. */
	err = mem_cgroup_charge(folio, NULL, gfp | __GFP_RETRY_MAYFAIL);
	if (err)
		return err;

	__folio_set_locked(folio);
	if (shmem_mapping(mapping))
		err = shmem_add_to_page_cache(folio, mapping, folio->index,
					      NULL, gfp);
	else
		err = __filemap_add_folio(mapping, folio, folio->index, gfp,
					  NULL);
	if (err) {
		mem_cgroup_uncharge(folio);
		folio_unlock(folio);
	}

	return err;
}

/**
 * luo_shmem_add_folios - add folios to the page cache of a new file
 * @inode: inode of a shmem file, or of a guest_memfd
 * @folios: folios without other users, set up by luo_shmem_init_folio() or
 *	    luo_gmem_init_folio()
 * @nr: number of folios
 *
 * The folios are charged to the memory cgroup of the current task, locked, and
 * not added to the LRU lists, so that luo_shmem_remove_folios() can undo this.
 * The caller keeps its references.
 *
 * Context: May sleep. Return: 0, or a negative error code if no folio is in the
 * page cache, charged, or locked.
 */
int luo_shmem_add_folios(struct inode *inode, struct folio **folios,
			 unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		int err = luo_shmem_add_folio(inode->i_mapping, folios[i]);

		if (err) {
			luo_shmem_remove_folios(folios, i);
			return err;
		}
	}

	return 0;
}

/**
 * luo_shmem_remove_folios - undo luo_shmem_add_folios()
 * @folios: folios that were added
 * @nr: number of folios
 *
 * Context: May sleep.
 */
void luo_shmem_remove_folios(struct folio **folios, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		filemap_remove_folio(folios[i]);
		mem_cgroup_uncharge(folios[i]);
		folio_unlock(folios[i]);
	}
}

/**
 * luo_shmem_release_folios - transfer folios to the page cache
 * @folios: folios added by luo_shmem_add_folios()
 * @nr: number of folios
 *
 * Puts the folios on the LRU lists, but for those with bad memory, unlocks them,
 * and drops the references of the caller.
 *
 * Context: May sleep.
 */
void luo_shmem_release_folios(struct folio **folios, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		if (!folio_contain_hwpoisoned_page(folios[i]))
			folio_add_lru(folios[i]);
		folio_unlock(folios[i]);
		folio_put(folios[i]);
	}
}
