// SPDX-License-Identifier: GPL-2.0
/*
 * Functions of hugetlb for the preservation of memfds of huge pages, which
 * mm/memfd_luo/hugetlb/ops.rs calls.
 */

#include <linux/hugetlb.h>
#include <linux/hugetlb_cgroup.h>
#include <linux/memblock.h>
#include <linux/memcontrol.h>
#include <linux/memfd.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/vmstat.h>
#include <uapi/linux/memfd.h>

#include "hugetlb_internal.h"
#include "hugetlb_vmemmap.h"
#include "internal.h"
#include "luo_folio.h"
#include "luo_hugetlb.h"

/* The pages of one size that the previous kernel has announced. */
static struct luo_hugetlb_pool {
	/* 0 if this entry is not used. */
	unsigned int order;
	/* Whether the hstate counts the pages as pages in use. */
	bool counted;
	/* Size of the pool according to the command line. */
	unsigned long wanted;
	/*
	 * Pages on each node that were not taken over yet: pages of the pool that
	 * are in use. Protected by hugetlb_lock as soon as there are pools.
	 */
	unsigned long expected[MAX_NUMNODES];
} pools[HUGE_MAX_HSTATE];

/* The memory of this machine, in pages. */
static unsigned long all_pages;

/*
 * Gigantic pages are allocated on one node after the other. For each node, the
 * number of its announced pages that were not yet counted instead of a new page, in
 * the pool that is being filled.
 */
static unsigned long turns[MAX_NUMNODES] __initdata;

/* Returns the first pool that has this order, or NULL. */
static struct luo_hugetlb_pool *luo_hugetlb_pool(unsigned int order)
{
	for (int i = 0; i < HUGE_MAX_HSTATE; i++)
		if (pools[i].order == order)
			return &pools[i];

	return NULL;
}

static unsigned long luo_hugetlb_expected(const struct luo_hugetlb_pool *pool)
{
	unsigned long nr = 0;

	for (int nid = 0; nid < MAX_NUMNODES; nid++)
		nr += pool->expected[nid];

	return nr;
}

/**
 * luo_hugetlb_is_file - whether a file belongs to hugetlbfs
 * @file: any file
 */
bool luo_hugetlb_is_file(const struct file *file)
{
	return is_file_hugepages(file);
}

/**
 * luo_hugetlb_order - order of the pages of a file
 * @inode: inode of hugetlbfs
 */
unsigned int luo_hugetlb_order(struct inode *inode)
{
	return huge_page_order(hstate_inode(inode));
}

/**
 * luo_hugetlb_has_order - whether there are huge pages of a size
 * @order: order of the pages
 */
bool luo_hugetlb_has_order(unsigned int order)
{
	return order <= MAX_FOLIO_ORDER && size_to_hstate(PAGE_SIZE << order);
}

/**
 * luo_hugetlb_node - NUMA node of a page
 * @folio: any folio
 */
int luo_hugetlb_node(const struct folio *folio)
{
	return folio_nid(folio);
}

/**
 * luo_hugetlb_freeze - see hugetlb_freeze()
 * @inode: inode of hugetlbfs, which must be locked
 *
 * Return: 0 on success, -EBUSY if the file is frozen already.
 */
int luo_hugetlb_freeze(struct inode *inode)
{
	return hugetlb_freeze(inode);
}

/**
 * luo_hugetlb_thaw - undo luo_hugetlb_freeze()
 * @inode: inode that was frozen
 */
void luo_hugetlb_thaw(struct inode *inode)
{
	hugetlb_thaw(inode);
}

/**
 * luo_hugetlb_set_handed_over - see hugetlbfs_set_handed_over()
 * @inode: inode that is frozen
 * @handed_over: whether the file belongs to the next kernel
 */
void luo_hugetlb_set_handed_over(struct inode *inode, bool handed_over)
{
	hugetlbfs_set_handed_over(inode, handed_over);
}

/**
 * luo_hugetlb_new_file - create an empty memfd of huge pages
 * @name: name of the file
 * @order: order of the pages
 *
 * Return: the file, or an error pointer; -ENODEV or -ENOENT if there are no pages of
 * this size.
 */
struct file *luo_hugetlb_new_file(const char *name, unsigned int order)
{
	unsigned int shift = order + PAGE_SHIFT;

	if (shift > MFD_HUGE_MASK)
		return ERR_PTR(-ENODEV);

	return memfd_alloc_file(name, MFD_HUGETLB | shift << MFD_HUGE_SHIFT);
}

/**
 * luo_hugetlb_set_seals - give a new file exactly these seals
 * @inode: inode of a new file of hugetlbfs, which must be locked
 * @seals: F_SEAL_*
 *
 * Return: 0 on success, -EBUSY if writing is sealed and there is a writable mapping.
 */
int luo_hugetlb_set_seals(struct inode *inode, unsigned int seals)
{
	struct hugetlbfs_inode_info *info = HUGETLBFS_I(inode);

	if (seals & ~info->seals & F_SEAL_WRITE) {
		int err = mapping_deny_writable(inode->i_mapping);

		if (err)
			return err;
	}
	info->seals = seals;

	return 0;
}

static void luo_hugetlb_count(struct folio *folio, long sign)
{
	lruvec_stat_mod_folio(folio, NR_HUGETLB, sign * (long)folio_nr_pages(folio));
}

/**
 * luo_hugetlb_take_over - add a page of the previous kernel to the pool
 * @folio: folio without other users, which has content
 *
 * The page is in use, and goes to the pool when its last reference is put. If it
 * was not announced, the pool grows by it.
 *
 * Context: May sleep.
 * Return: 0 on success, -EOPNOTSUPP if there are no huge pages of this size; the
 * folio has not changed then.
 */
int luo_hugetlb_take_over(struct folio *folio)
{
	struct hstate *h = size_to_hstate(folio_size(folio));
	struct luo_hugetlb_pool *pool = luo_hugetlb_pool(folio_order(folio));
	int nid = folio_nid(folio);

	if (!h)
		return -EOPNOTSUPP;
	/* Huge pages are set up without references. */
	if (!folio_ref_freeze(folio, 1))
		return -EBUSY;

	folio_change_private(folio, NULL);
	init_new_hugetlb_folio(folio);
	if (luo_folio_has_bad_page(folio)) {
		/* Must never be allocated again, and its parts stay marked. */
		folio_set_hugetlb_raw_hwp_unreliable(folio);
		folio_set_hwpoison(folio);
	} else {
		hugetlb_vmemmap_optimize_folio(h, folio);
	}
	__folio_mark_uptodate(folio);

	spin_lock_irq(&hugetlb_lock);
	if (pool && pool->expected[nid]) {
		pool->expected[nid]--;
	} else {
		h->nr_huge_pages++;
		h->nr_huge_pages_node[nid]++;
	}
	list_add(&folio->lru, &h->hugepage_activelist);
	folio_ref_unfreeze(folio, 1);
	spin_unlock_irq(&hugetlb_lock);
	luo_hugetlb_count(folio, 1);

	return 0;
}

static void luo_hugetlb_uncharge_memcg(struct folio *folio)
{
	luo_hugetlb_count(folio, -1);
	mem_cgroup_uncharge(folio);
	luo_hugetlb_count(folio, 1);
}

static int luo_hugetlb_charge_memcg(struct folio *folio, gfp_t gfp)
{
	int err;

	luo_hugetlb_count(folio, -1);
	/* Without an mm: to the active memcg, or else to that of the current task. */
	err = mem_cgroup_charge_hugetlb(folio, NULL, gfp);
	luo_hugetlb_count(folio, 1);

	return err;
}

/*
 * Whether memory is allocated on behalf of the system, as for a kexec. What is charged
 * to no hugetlb cgroup belongs to the root.
 */
static bool luo_hugetlb_charges_root(void)
{
#ifdef CONFIG_MEMCG
	return current->active_memcg && mem_cgroup_is_root(current->active_memcg);
#else
	return false;
#endif
}

/**
 * luo_hugetlb_add_folio - add a page to a new file
 * @inode: inode of hugetlbfs
 * @folio: page without other users, see luo_hugetlb_take_over()
 * @index: index of the page, in huge pages
 *
 * The page is charged to the cgroups of the current task, like one that was
 * allocated by a page fault without a reservation, or else to the root if that is the
 * active memory cgroup. It stays locked, so that
 * luo_hugetlb_remove_folio() can undo this. If this fails for a page,
 * luo_hugetlb_forget() must be called when all others are removed.
 *
 * Context: May sleep. Return: 0 on success, or a negative error code.
 */
int luo_hugetlb_add_folio(struct inode *inode, struct folio *folio,
			  pgoff_t index)
{
	struct hugetlb_cgroup *used = NULL, *reserved = NULL;
	struct hstate *h = hstate_inode(inode);
	unsigned long nr = pages_per_huge_page(h);
	int err, h_idx = hstate_index(h);

	if (!luo_hugetlb_charges_root()) {
		err = hugetlb_cgroup_charge_cgroup_rsvd(h_idx, nr, &reserved);
		if (err)
			return err;
		err = hugetlb_cgroup_charge_cgroup(h_idx, nr, &used);
		if (err)
			goto uncharge_reserved;
	}
	err = luo_hugetlb_charge_memcg(folio, htlb_alloc_mask(h) |
					      __GFP_RETRY_MAYFAIL);
	if (err)
		goto uncharge_used;
	err = hugetlb_mark_allocated(inode, index);
	if (err)
		goto uncharge_memcg;
	err = hugetlb_add_to_page_cache(folio, inode->i_mapping, index);
	if (err)
		goto uncharge_memcg;

	spin_lock_irq(&hugetlb_lock);
	hugetlb_cgroup_commit_charge(h_idx, nr, used, folio);
	hugetlb_cgroup_commit_charge_rsvd(h_idx, nr, reserved, folio);
	spin_unlock_irq(&hugetlb_lock);

	return 0;

uncharge_memcg:
	luo_hugetlb_uncharge_memcg(folio);
uncharge_used:
	hugetlb_cgroup_uncharge_cgroup(h_idx, nr, used);
uncharge_reserved:
	hugetlb_cgroup_uncharge_cgroup_rsvd(h_idx, nr, reserved);
	return err;
}

/**
 * luo_hugetlb_remove_folio - undo luo_hugetlb_add_folio()
 * @folio: page that was added
 *
 * Context: May sleep.
 */
void luo_hugetlb_remove_folio(struct folio *folio)
{
	struct hstate *h = folio_hstate(folio);
	unsigned long nr = pages_per_huge_page(h);

	folio_clear_dirty(folio);
	filemap_remove_folio(folio);

	spin_lock_irq(&hugetlb_lock);
	hugetlb_cgroup_uncharge_folio(hstate_index(h), nr, folio);
	hugetlb_cgroup_uncharge_folio_rsvd(hstate_index(h), nr, folio);
	spin_unlock_irq(&hugetlb_lock);
	luo_hugetlb_uncharge_memcg(folio);
	folio_unlock(folio);
}

/**
 * luo_hugetlb_forget - prepare a file that could not be filled to be freed
 * @inode: inode of a new file of hugetlbfs without pages
 */
void luo_hugetlb_forget(struct inode *inode)
{
	hugetlb_unmark_allocated(inode);
}

/**
 * luo_hugetlb_release_folio - transfer a page to its file
 * @folio: page that was added
 *
 * Unlocks the page, and drops the reference of the caller.
 */
void luo_hugetlb_release_folio(struct folio *folio)
{
	folio_set_hugetlb_migratable(folio);
	folio_unlock(folio);
	folio_put(folio);
}

/**
 * luo_hugetlb_read_expected - read which pages the previous kernel has preserved
 *
 * Must be called before any pool is filled, when the nodes are known. Does not
 * allocate memory.
 */
void __init luo_hugetlb_read_expected(void)
{
	all_pages = PHYS_PFN(memblock_phys_mem_size());
	luo_hugetlb_announce();
}

/**
 * luo_hugetlb_expect - announce pages of the previous kernel
 * @order: order of the pages
 * @nid: node of the pages
 * @nr: number of pages
 *
 * Called by luo_hugetlb_announce(). If this kernel does not have the node, as with
 * numa=off, the pages are expected on the first node.
 */
void luo_hugetlb_expect(unsigned int order, unsigned int nid, unsigned long nr)
{
	struct luo_hugetlb_pool *pool = luo_hugetlb_pool(order) ?: luo_hugetlb_pool(0);
	unsigned long limit = order < BITS_PER_LONG ? all_pages >> order : 0;

	if (!pool || nr > limit || luo_hugetlb_expected(pool) > limit - nr) {
		pr_warn("HugeTLB: the previous kernel announced more pages than there is memory\n");
		return;
	}
	if (nid >= MAX_NUMNODES || !node_state(nid, N_MEMORY))
		nid = first_memory_node;

	pool->order = order;
	pool->expected[nid] += nr;
}

/**
 * luo_hugetlb_count_expected - count announced pages before the pool is filled
 * @h: pool without pages; nothing is done if the announced ones were counted before
 */
void __init luo_hugetlb_count_expected(struct hstate *h)
{
	struct luo_hugetlb_pool *pool = luo_hugetlb_pool(huge_page_order(h));
	unsigned long flags, more = 0;
	bool for_nodes = false;
	int nid;

	memset(turns, 0, sizeof(turns));
	if (!pool || pool->counted)
		return;

	/* Interrupts are still disabled when the pool of gigantic pages is filled. */
	spin_lock_irqsave(&hugetlb_lock, flags);
	pool->counted = true;
	pool->wanted = h->max_huge_pages;
	memcpy(turns, pool->expected, sizeof(turns));
	for_each_node_state(nid, N_MEMORY) {
		unsigned long nr = pool->expected[nid];
		unsigned int wanted = h->max_huge_pages_node[nid];

		h->nr_huge_pages += nr;
		h->nr_huge_pages_node[nid] += nr;
		if (wanted)
			for_nodes = true;
		/* The number on the command line includes them. */
		h->max_huge_pages_node[nid] -= min(nr, wanted);
		if (nr > wanted)
			more += nr - wanted;
	}
	/* Each node gets at least its number on the command line. */
	if (for_nodes)
		h->max_huge_pages += more;
	h->max_huge_pages = max(h->max_huge_pages, h->nr_huge_pages);
	spin_unlock_irqrestore(&hugetlb_lock, flags);
}

/**
 * luo_hugetlb_takes_turn - whether a node has an announced page instead of a new one
 * @nid: the node whose turn it is
 *
 * Applies to the pool whose pages were counted last.
 *
 * Return: true if an announced page counts for this turn; each page counts once.
 */
bool __init luo_hugetlb_takes_turn(int nid)
{
	if (!turns[nid])
		return false;

	turns[nid]--;
	return true;
}

/**
 * luo_hugetlb_behind - find the nodes that have fewer pages than others
 * @h: pool that is being filled
 * @nodes: set to the nodes with the fewest pages
 *
 * Return: the number of pages to allocate on these nodes until they have as many as
 * the next ones, or until the pool is complete; 0 if all nodes have the same number.
 */
unsigned long __init luo_hugetlb_behind(struct hstate *h, nodemask_t *nodes)
{
	unsigned long fewest = ULONG_MAX, next = ULONG_MAX;
	int nid;

	for_each_node_state(nid, N_MEMORY)
		fewest = min(fewest, h->nr_huge_pages_node[nid]);

	nodes_clear(*nodes);
	for_each_node_state(nid, N_MEMORY) {
		if (h->nr_huge_pages_node[nid] == fewest)
			node_set(nid, *nodes);
		else
			next = min(next, h->nr_huge_pages_node[nid]);
	}
	if (next == ULONG_MAX)
		return 0;

	return min((next - fewest) * nodes_weight(*nodes),
		   h->max_huge_pages - h->nr_huge_pages);
}

/**
 * luo_hugetlb_expect_no_more - end the takeover of pages of the previous kernel
 *
 * Announced pages that were not taken over are replaced by others, up to the
 * number on the command line.
 *
 * Context: May sleep.
 */
void luo_hugetlb_expect_no_more(void)
{
	struct hstate *h;

	for_each_hstate(h) {
		struct luo_hugetlb_pool *pool = luo_hugetlb_pool(huge_page_order(h));
		unsigned long lost, size;

		if (!pool || !pool->counted)
			continue;

		spin_lock_irq(&hugetlb_lock);
		lost = luo_hugetlb_expected(pool);
		size = h->nr_huge_pages - h->surplus_huge_pages;
		h->nr_huge_pages -= lost;
		for (int nid = 0; nid < MAX_NUMNODES; nid++) {
			h->nr_huge_pages_node[nid] -= pool->expected[nid];
			pool->expected[nid] = 0;
		}
		spin_unlock_irq(&hugetlb_lock);
		if (!lost)
			continue;

		size = min(size, pool->wanted);
		pr_warn("HugeTLB: %lu pages of the previous kernel were not taken over\n",
			lost);
		if (h->nr_huge_pages - h->surplus_huge_pages < size)
			__nr_hugepages_store_common(false, h, NUMA_NO_NODE,
						    size, 0);
	}
}
