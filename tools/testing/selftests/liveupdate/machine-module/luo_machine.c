// SPDX-License-Identifier: GPL-2.0
/* A module that is built with the package of the headers. */

#include <linux/init.h>
#include <linux/kexec_handover.h>
#include <linux/module.h>

static int __init luo_machine_init(void)
{
	pr_info("Kexec Handover is %s\n", kho_is_enabled() ? "on" : "off");
	return 0;
}
module_init(luo_machine_init);

static void __exit luo_machine_exit(void)
{
}
module_exit(luo_machine_exit);

MODULE_DESCRIPTION("Module built with packaged headers");
MODULE_LICENSE("GPL");
