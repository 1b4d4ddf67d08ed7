// SPDX-License-Identifier: GPL-2.0

/*
 * Fault injection for steps of the Live Update Orchestrator.
 *
 * failslab and fail_page_alloc make allocations fail. This is for steps
 * that allocate no memory but may fail for other reasons. Like those two,
 * it is controlled by /proc/PID/task/TID/fail-nth, which counts all of
 * them, and by the directory fail_liveupdate in debugfs.
 *
 * This file also starts the damage to handed over data that tests have
 * requested.
 */

#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/fault-inject.h>
#include <linux/init.h>
#include <linux/kexec.h>
#include <linux/syscore_ops.h>

#include "../../kernel/liveupdate/luo_internal.h"

static DECLARE_FAULT_ATTR(fail_liveupdate);

/* Called at each step; returns whether the step must fail. */
bool liveupdate_should_fail(void)
{
	return should_fail(&fail_liveupdate, 1);
}

/* Called after all devices were shut down, when nothing can fail any more. */
static void liveupdate_shutdown(void *data)
{
	if (kexec_in_progress)
		liveupdate_last_moment();
}

static const struct syscore_ops liveupdate_syscore_ops = {
	.shutdown	= liveupdate_shutdown,
};

static struct syscore liveupdate_syscore = {
	.ops		= &liveupdate_syscore_ops,
};

static int __init fail_liveupdate_debugfs(void)
{
	struct dentry *dir;

	register_syscore(&liveupdate_syscore);
	dir = fault_create_debugfs_attr("fail_liveupdate", NULL,
					&fail_liveupdate);
	return PTR_ERR_OR_ZERO(dir);
}
late_initcall(fail_liveupdate_debugfs);
