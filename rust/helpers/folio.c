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

__rust_helper void rust_helper___folio_set_locked(struct folio *folio)
{
	__folio_set_locked(folio);
}

__rust_helper void rust_helper___folio_set_swapbacked(struct folio *folio)
{
	__folio_set_swapbacked(folio);
}

__rust_helper void rust_helper_folio_set_large_rmappable(struct folio *folio)
{
	folio_set_large_rmappable(folio);
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

__rust_helper void rust_helper_folio_set_dirty(struct folio *folio)
{
	folio_set_dirty(folio);
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
