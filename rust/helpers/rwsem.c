// SPDX-License-Identifier: GPL-2.0

#include <linux/rwsem.h>

#ifndef CONFIG_DEBUG_LOCK_ALLOC
__rust_helper int rust_helper_down_write_killable_nested(struct rw_semaphore *sem,
							 int subclass)
{
	return down_write_killable_nested(sem, subclass);
}
#endif
