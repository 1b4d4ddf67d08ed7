// SPDX-License-Identifier: GPL-2.0

/*
 * Handlers of the files of /dev/luo_test whose data is vital; see "vital" in
 * liveupdate_handler.c.
 */

#include <linux/array_size.h>
#include <linux/compiler.h>
#include <linux/init.h>
#include <linux/liveupdate.h>
#include <linux/module.h>

#include "liveupdate_handler.h"

static struct liveupdate_file_handler luo_test_vital_handlers[4];

static bool luo_test_vital_can_preserve(struct liveupdate_file_handler *handler,
					struct file *file)
{
	struct luo_test_file *test = luo_test_of(file);

	return test && READ_ONCE(test->knobs[VITAL]) ==
			       handler - luo_test_vital_handlers + 1;
}

#define LUO_TEST_VITAL_OPS						\
	.can_preserve	= luo_test_vital_can_preserve,			\
	.preserve	= luo_test_preserve,				\
	.unpreserve	= luo_test_unpreserve,				\
	.freeze		= luo_test_freeze,				\
	.unfreeze	= luo_test_unfreeze,				\
	.retrieve	= luo_test_retrieve,				\
	.finish		= luo_test_finish,				\
	.owner		= THIS_MODULE

static const struct liveupdate_file_ops luo_test_vital_ops = {
	LUO_TEST_VITAL_OPS,
	.flags		= LIVEUPDATE_RETRIEVE_RETRIES |
			  LIVEUPDATE_NOT_UNDERSTOOD_FATAL,
};

static const struct liveupdate_file_ops luo_test_vital_flb_user_ops = {
	LUO_TEST_VITAL_OPS,
	.flags		= LIVEUPDATE_RETRIEVE_RETRIES,
};

static const struct liveupdate_file_ops luo_test_silenced_ops = {
	LUO_TEST_VITAL_OPS,
	.flags		= LIVEUPDATE_RETRIEVE_RETRIES |
			  LIVEUPDATE_NOT_UNDERSTOOD_SILENCED,
};

/*
 * The second and the last format are not in the list: the next kernel does not
 * support them.
 */
static struct liveupdate_file_handler luo_test_vital_handlers[4] = {
	{ .ops = &luo_test_vital_ops, .compatible = "luo-test-vital-v1" },
	{ .ops = &luo_test_vital_ops, .compatible = "luo-test-vital-v2" },
	{
		.ops = &luo_test_vital_flb_user_ops,
		.compatible = "luo-test-vital-flb-user-v1",
	},
	{ .ops = &luo_test_silenced_ops, .compatible = "luo-test-silenced-v1" },
};
LIVEUPDATE_FORMAT("luo-test-vital-v1");
LIVEUPDATE_FORMAT("luo-test-vital-flb-user-v1");

static int luo_test_flb_preserve(struct liveupdate_flb_op_args *args)
{
	return 0;
}

static void luo_test_flb_unpreserve(struct liveupdate_flb_op_args *args)
{
}

static const struct liveupdate_flb_ops luo_test_flb_ops = {
	.preserve	= luo_test_flb_preserve,
	.unpreserve	= luo_test_flb_unpreserve,
	.retrieve	= luo_test_flb_preserve,
	.finish		= luo_test_flb_unpreserve,
	.owner		= THIS_MODULE,
	.flags		= LIVEUPDATE_NOT_UNDERSTOOD_FATAL,
};

/* This format is not in the list either. */
static struct liveupdate_flb luo_test_vital_flb = {
	.ops = &luo_test_flb_ops,
	.compatible = "luo-test-vital-flb-v1",
};

int __init luo_test_register_vital(void)
{
	unsigned int i;
	int err;

	for (i = 0; i < ARRAY_SIZE(luo_test_vital_handlers); i++) {
		err = liveupdate_register_file_handler(&luo_test_vital_handlers[i]);
		if (err)
			return err;
	}
	return liveupdate_register_flb(&luo_test_vital_handlers[2],
				       &luo_test_vital_flb);
}
