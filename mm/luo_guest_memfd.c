// SPDX-License-Identifier: GPL-2.0
/*
 * Functions of the page cache for the preservation of guest_memfds, which
 * mm/memfd_luo/guest_memfd/ops.rs calls.
 */

#include <linux/folio_batch.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "internal.h"
#include "luo_folio.h"
#include "luo_guest_memfd.h"

/**
 * luo_gmem_pin_folios - pin folios of a guest_memfd
 * @mapping: mapping of a guest_memfd that is frozen
 * @first: first page of the search
 * @end: page after the last one
 * @folios: returns the folios, in the order of the file, each with a pin
 * @max: size of @folios
 *
 * The folios need not be moved: they are not allocated where others must stay
 * movable.
 *
 * Context: May sleep.
 * Return: number of folios, or a negative error code if none is pinned.
 */
long luo_gmem_pin_folios(struct address_space *mapping, pgoff_t first,
			 pgoff_t end, struct folio **folios, unsigned int max)
{
	struct folio_batch batch;
	unsigned int nr = 0;
	int err = 0;

	folio_batch_init(&batch);
	while (!err && nr < max && first < end &&
	       filemap_get_folios(mapping, &first, end - 1, &batch)) {
		for (unsigned int i = 0; i < folio_batch_count(&batch); i++) {
			struct folio *folio = batch.folios[i];

			if (nr == max)
				break;
			if (folio_is_longterm_pinnable(folio))
				err = try_grab_folio(folio, 1, FOLL_PIN);
			else
				err = -EBUSY;
			if (err)
				break;
			folios[nr++] = folio;
		}
		folio_batch_release(&batch);
	}
	if (err) {
		unpin_folios(folios, nr);
		return err;
	}

	return nr;
}

/**
 * luo_gmem_init_folio - set up a folio to be added to a guest_memfd
 * @folio: folio without other users, which has content
 * @index: page of the file for the folio
 */
void luo_gmem_init_folio(struct folio *folio, pgoff_t index)
{
	folio->index = index;
	__folio_mark_uptodate(folio);
	/* A page fault would evict a clean one, and provide zeroes instead. */
	if (luo_folio_has_bad_page(folio))
		folio_set_dirty(folio);
}
