// SPDX-License-Identifier: GPL-2.0

/*
 * Failures of the Live Update Orchestrator's steps.
 *
 * Allocations fail by failslab and fail_page_alloc. This is for steps that
 * need no memory, but may fail for other reasons. Like those two, it obeys
 * /proc/PID/task/TID/fail-nth, which counts all of them, and a directory in
 * debugfs, fail_liveupdate.
 */

#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/fault-inject.h>
#include <linux/init.h>

#include "../../kernel/liveupdate/luo_internal.h"

static DECLARE_FAULT_ATTR(fail_liveupdate);

/* Called at each step; says whether it is to fail. */
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
