// SPDX-License-Identifier: GPL-2.0

#include <linux/fs.h>
#include <linux/shmem_fs.h>

__rust_helper void rust_helper_inode_lock(struct inode *inode)
{
	inode_lock(inode);
}

__rust_helper int rust_helper_inode_lock_killable(struct inode *inode)
{
	return inode_lock_killable(inode);
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
