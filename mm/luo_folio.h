/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_LUO_FOLIO_H
#define _MM_LUO_FOLIO_H

#include <linux/mm.h>

/* KHO marks the pages that the previous kernel found to be bad, not the folios. */
static inline bool luo_folio_has_bad_page(struct folio *folio)
{
#ifdef CONFIG_MEMORY_FAILURE
	if (!atomic_long_read(&num_poisoned_pages))
		return false;

	for (unsigned long i = 0; i < folio_nr_pages(folio); i++)
		if (PageHWPoison(folio_page(folio, i)))
			return true;
#endif
	return false;
}

#endif /* _MM_LUO_FOLIO_H */
