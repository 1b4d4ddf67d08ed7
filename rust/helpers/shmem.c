// SPDX-License-Identifier: GPL-2.0

#include <linux/bitops.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>

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
