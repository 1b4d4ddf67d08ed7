// SPDX-License-Identifier: GPL-2.0

#include <linux/cacheflush.h>
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#if IS_ENABLED(CONFIG_LIVEUPDATE_MEMFD)
#include "../../mm/internal.h"
#endif

__rust_helper unsigned long rust_helper_folio_pfn(const struct folio *folio)
{
	return folio_pfn(folio);
}

__rust_helper struct folio *rust_helper_pfn_folio(unsigned long pfn)
{
	return pfn_folio(pfn);
}

__rust_helper unsigned long
rust_helper_folio_nr_pages(const struct folio *folio)
{
	return folio_nr_pages(folio);
}

__rust_helper void rust_helper_folio_get(struct folio *folio)
{
	folio_get(folio);
}

__rust_helper void rust_helper_folio_lock(struct folio *folio)
{
	folio_lock(folio);
}

/* Three answers for the price of one call, as there are many folios. */
__rust_helper bool rust_helper_folio_dirty_and_sound(struct folio *folio)
{
	return folio_test_dirty(folio) && folio_test_uptodate(folio) &&
	       !folio_contain_hwpoisoned_page(folio);
}

__rust_helper bool rust_helper_folio_test_uptodate(const struct folio *folio)
{
	return folio_test_uptodate(folio);
}

__rust_helper void rust_helper_folio_mark_uptodate(struct folio *folio)
{
	folio_mark_uptodate(folio);
}

__rust_helper void rust_helper_folio_zero_range(struct folio *folio,
						size_t start, size_t length)
{
	folio_zero_range(folio, start, length);
}

__rust_helper void rust_helper_flush_dcache_folio(struct folio *folio)
{
	flush_dcache_folio(folio);
}

__rust_helper bool
rust_helper_folio_contain_hwpoisoned_page(struct folio *folio)
{
	return folio_contain_hwpoisoned_page(folio);
}

/*
 * What shmem expects of a folio before it is in the page cache. Nobody else may
 * use it. Several steps for the price of one call, as there are many folios.
 */
__rust_helper void rust_helper_folio_make_shmem(struct folio *folio,
						pgoff_t index, bool uptodate,
						bool dirty)
{
	folio->index = index;
	__folio_set_swapbacked(folio);
	if (uptodate)
		__folio_mark_uptodate(folio);
	/* What folio_mark_dirty() does with a folio of shmem. */
	if (dirty)
		folio_set_dirty(folio);
	/* As the page cache expects it; KHO does not know what folios are for. */
	if (folio_test_large(folio))
		folio_set_large_rmappable(folio);
}

/* Nobody else may use the folios. */
__rust_helper void rust_helper_folio_batch_set_locked(struct folio_batch *fbatch)
{
	for (unsigned int i = 0; i < folio_batch_count(fbatch); i++)
		__folio_set_locked(fbatch->folios[i]);
}

__rust_helper void rust_helper_folio_batch_unlock(struct folio_batch *fbatch)
{
	for (unsigned int i = 0; i < folio_batch_count(fbatch); i++)
		folio_unlock(fbatch->folios[i]);
}

__rust_helper void rust_helper_folio_batch_put(struct folio_batch *fbatch)
{
	for (unsigned int i = 0; i < folio_batch_count(fbatch); i++)
		folio_put(fbatch->folios[i]);
}

__rust_helper gfp_t
rust_helper_mapping_gfp_mask(const struct address_space *mapping)
{
	return mapping_gfp_mask(mapping);
}

__rust_helper unsigned long rust_helper_totalram_pages(void)
{
	return totalram_pages();
}

#if IS_ENABLED(CONFIG_LIVEUPDATE_MEMFD)
__rust_helper int
rust_helper_mem_cgroup_charge_folios(struct folio_batch *fbatch, gfp_t gfp)
{
	return mem_cgroup_charge_folios(fbatch, gfp);
}
#endif

__rust_helper void
rust_helper_mem_cgroup_uncharge_folios(struct folio_batch *fbatch)
{
	mem_cgroup_uncharge_folios(fbatch);
}
