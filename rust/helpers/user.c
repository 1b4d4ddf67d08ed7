// SPDX-License-Identifier: GPL-2.0

#include <linux/capability.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>

#ifdef CONFIG_LIVEUPDATE_MEMFD
__rust_helper struct user_struct *rust_helper_get_current_user(void)
{
	return get_uid(current_user());
}

/* Those who may lock any amount are not limited, but counted. */
__rust_helper bool rust_helper_user_lock_pages(struct user_struct *user,
					       unsigned long nr)
{
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	long old = atomic_long_read(&user->locked_vm);
	bool unlimited = capable(CAP_IPC_LOCK);

	do {
		if (!unlimited && (nr > limit || old > limit - nr))
			return false;
	} while (!atomic_long_try_cmpxchg(&user->locked_vm, &old, old + nr));

	return true;
}

__rust_helper void rust_helper_user_force_lock_pages(struct user_struct *user,
						     unsigned long nr)
{
	atomic_long_add(nr, &user->locked_vm);
}

__rust_helper void rust_helper_user_unlock_pages(struct user_struct *user,
						 unsigned long nr)
{
	atomic_long_sub(nr, &user->locked_vm);
}
#endif
