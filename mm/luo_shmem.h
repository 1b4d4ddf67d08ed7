/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_LUO_SHMEM_H
#define _MM_LUO_SHMEM_H

#include <linux/types.h>

struct address_space;
struct folio;
struct inode;

/**
 * struct luo_shmem_run - consecutive pages of a file that have memory
 * @start: first page
 * @end: page after the last one
 * @settled: all of them have a folio, which can be pinned for long where it is
 * @stuck: there is only one, whose memory is bad, and it cannot be pinned for long
 *         where it is, nor be moved
 * @pfn: its page frame, if it is @stuck
 */
struct luo_shmem_run {
	pgoff_t start;
	pgoff_t end;
	bool settled;
	bool stuck;
	unsigned long pfn;
};

bool luo_shmem_next_run(struct address_space *mapping, pgoff_t from,
			unsigned int max, struct luo_shmem_run *run);
unsigned long luo_shmem_nr_pages(struct inode *inode);
bool luo_shmem_in_place(struct address_space *mapping, struct folio **folios,
			unsigned int nr);

void luo_shmem_init_folio(struct folio *folio, pgoff_t index, bool uptodate);
int luo_shmem_account(struct inode *inode, long pages);
void luo_shmem_settle(struct inode *inode, long pages);
int luo_shmem_add_folios(struct inode *inode, struct folio **folios,
			 unsigned int nr);
void luo_shmem_remove_folios(struct folio **folios, unsigned int nr);
void luo_shmem_release_folios(struct folio **folios, unsigned int nr);

#endif /* _MM_LUO_SHMEM_H */
