/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_LUO_GUEST_MEMFD_H
#define _MM_LUO_GUEST_MEMFD_H

#include <linux/types.h>

struct address_space;
struct folio;

long luo_gmem_pin_folios(struct address_space *mapping, pgoff_t first,
			 pgoff_t end, struct folio **folios, unsigned int max);
void luo_gmem_init_folio(struct folio *folio, pgoff_t index);

#endif /* _MM_LUO_GUEST_MEMFD_H */
