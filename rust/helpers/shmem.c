// SPDX-License-Identifier: GPL-2.0

#include <linux/bitops.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/xarray.h>

__rust_helper void rust_helper_inode_lock(struct inode *inode)
{
	inode_lock(inode);
}

__rust_helper bool rust_helper_inode_trylock(struct inode *inode)
{
	return inode_trylock(inode);
}

__rust_helper void rust_helper_inode_unlock(struct inode *inode)
{
	inode_unlock(inode);
}

__rust_helper loff_t rust_helper_i_size_read(const struct inode *inode)
{
	return i_size_read(inode);
}

__rust_helper void rust_helper_i_size_write(struct inode *inode, loff_t size)
{
	i_size_write(inode, size);
}

__rust_helper struct inode *rust_helper_file_inode(const struct file *file)
{
	return file_inode(file);
}

__rust_helper int
rust_helper_mapping_deny_writable(struct address_space *mapping)
{
	return mapping_deny_writable(mapping);
}

/* For loops that run for as long as user space made a file. */
__rust_helper int rust_helper_resched_or_killed(void)
{
	cond_resched();
	return fatal_signal_pending(current) ? -EINTR : 0;
}

__rust_helper void rust_helper_cond_resched(void)
{
	cond_resched();
}

/* How many pages of this machine are known to be broken. */
__rust_helper unsigned long rust_helper_nr_poisoned_pages(void)
{
#ifdef CONFIG_MEMORY_FAILURE
	return atomic_long_read(&num_poisoned_pages);
#else
	return 0;
#endif
}

#ifdef CONFIG_SHMEM
__rust_helper bool rust_helper_shmem_file(struct file *file)
{
	return shmem_file(file);
}

__rust_helper struct shmem_inode_info *rust_helper_SHMEM_I(struct inode *inode)
{
	return SHMEM_I(inode);
}

__rust_helper void rust_helper_shmem_freeze(struct inode *inode, bool freeze)
{
	shmem_freeze(inode, freeze);
}

/*
 * Unlike shmem_freeze(), does not need the inode lock, which a writer may hold
 * for as long as user space lets it wait for a page.
 */
__rust_helper void rust_helper_shmem_unfreeze(struct inode *inode)
{
	clear_bit(ilog2(SHMEM_F_MAPPING_FROZEN), &SHMEM_I(inode)->flags);
}

/*
 * Finds the first page from *first on that has a folio or is swapped out, and the
 * first one behind it that has not. Looks at about @max pages from there.
 */
__rust_helper bool
rust_helper_shmem_next_run(struct address_space *mapping, pgoff_t *first,
			   pgoff_t *end, unsigned long max)
{
	XA_STATE(xas, &mapping->i_pages, *first);
	bool found = false;
	void *entry;

	rcu_read_lock();
	xas_for_each(&xas, entry, ULONG_MAX) {
		unsigned long nr;

		if (xas_retry(&xas, entry))
			continue;
		if (!found)
			*first = xas.xa_index;
		else if (xas.xa_index != *end)
			break;
		found = true;
		nr = 1UL << xas_get_order(&xas);
		*end = round_down(xas.xa_index, nr) + nr;
		if (*end - *first >= max)
			break;
	}
	rcu_read_unlock();

	return found;
}

/*
 * The number of pages that have a folio or are swapped out.
 *
 * A page on its way back from swap can be missing in nrpages + swapped, since
 * both are not read at once, but not in alloced. A new one is counted there only
 * after it was inserted, but it is locked until then, so it is not on such a way.
 */
__rust_helper unsigned long rust_helper_shmem_nr_pages(struct inode *inode)
{
	struct shmem_inode_info *info = SHMEM_I(inode);
	unsigned long present = READ_ONCE(inode->i_mapping->nrpages);

	spin_lock(&info->lock);
	present = max(present + info->swapped, info->alloced);
	spin_unlock(&info->lock);

	return present;
}

/* BIT() constants are nothing that bindgen can evaluate. */
__rust_helper bool rust_helper_shmem_is_frozen(struct inode *inode)
{
	return SHMEM_I(inode)->flags & SHMEM_F_MAPPING_FROZEN;
}

__rust_helper bool rust_helper_sb_is_kernmount(const struct super_block *sb)
{
	return sb->s_flags & SB_KERNMOUNT;
}
#endif
