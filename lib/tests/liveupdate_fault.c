// SPDX-License-Identifier: GPL-2.0

/*
 * Fault injection for steps of the Live Update Orchestrator.
 *
 * failslab and fail_page_alloc make allocations fail. This is for steps
 * that allocate no memory but may fail for other reasons. Like those two,
 * it is controlled by /proc/PID/task/TID/fail-nth, which counts all of
 * them, and by the directory fail_liveupdate in debugfs.
 */

#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/fault-inject.h>
#include <linux/init.h>

#include "../../kernel/liveupdate/luo_internal.h"

static DECLARE_FAULT_ATTR(fail_liveupdate);

/* Called at each step; returns whether the step must fail. */
bool liveupdate_should_fail(void)
{
	return should_fail(&fail_liveupdate, 1);
}

static int __init fail_liveupdate_debugfs(void)
{
	struct dentry *dir;

	dir = fault_create_debugfs_attr("fail_liveupdate", NULL,
					&fail_liveupdate);
	return PTR_ERR_OR_ZERO(dir);
}
late_initcall(fail_liveupdate_debugfs);
