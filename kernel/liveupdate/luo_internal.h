/* SPDX-License-Identifier: GPL-2.0 */

#ifndef _LINUX_LUO_INTERNAL_H
#define _LINUX_LUO_INTERNAL_H

#include <linux/liveupdate.h>
#include <trace/events/liveupdate.h>

#ifdef CONFIG_LIVEUPDATE_TEST
void liveupdate_test_register(struct liveupdate_file_handler *fh);
#endif

#ifdef CONFIG_LIVEUPDATE_ERROR_INJECTION
bool liveupdate_should_fail(void);
void liveupdate_last_moment(void);
#endif

#endif /* _LINUX_LUO_INTERNAL_H */
