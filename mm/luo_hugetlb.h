/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _MM_LUO_HUGETLB_H
#define _MM_LUO_HUGETLB_H

#include <linux/types.h>

struct file;
struct folio;
struct inode;

bool luo_hugetlb_is_file(const struct file *file);
unsigned int luo_hugetlb_order(struct inode *inode);
bool luo_hugetlb_has_order(unsigned int order);
int luo_hugetlb_node(const struct folio *folio);
int luo_hugetlb_freeze(struct inode *inode);
void luo_hugetlb_thaw(struct inode *inode);
void luo_hugetlb_set_handed_over(struct inode *inode, bool handed_over);

struct file *luo_hugetlb_new_file(const char *name, unsigned int order);
int luo_hugetlb_set_seals(struct inode *inode, unsigned int seals);
int luo_hugetlb_take_over(struct folio *folio);
int luo_hugetlb_add_folio(struct inode *inode, struct folio *folio,
			  pgoff_t index);
void luo_hugetlb_remove_folio(struct folio *folio);
void luo_hugetlb_forget(struct inode *inode);
void luo_hugetlb_release_folio(struct folio *folio);

void luo_hugetlb_announce(void);
void luo_hugetlb_expect(unsigned int order, unsigned int nid, unsigned long nr);
void luo_hugetlb_expect_no_more(void);

#endif /* _MM_LUO_HUGETLB_H */
