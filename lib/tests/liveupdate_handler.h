/* SPDX-License-Identifier: GPL-2.0 */

/*
 * The files of /dev/luo_test, whose handlers are in liveupdate_handler.c and in
 * liveupdate_vital.c.
 */
#ifndef _LIB_TESTS_LIVEUPDATE_HANDLER_H
#define _LIB_TESTS_LIVEUPDATE_HANDLER_H

#include <linux/liveupdate.h>
#include <linux/types.h>

enum luo_test_knob {
	DELAY_PRESERVE,
	FAIL_PRESERVE,
	FAIL_FREEZE,
	FAIL_RETRIEVE,
	FAIL_RETRIEVE_ONCE,
	FAIL_CAN_FINISH,
	NEEDS,
	ASKS,
	VITAL,
	NR_KNOBS,
};

/* The data that is handed over. */
struct luo_test_ser {
	u64 value;
	u32 fail_retrieve;
	u32 fail_retrieve_once;
	u32 fail_can_finish;
	/* The token of the file for which ->retrieve() asks, or 0. */
	u32 asks;
};

struct luo_test_file {
	u64 value;
	u32 knobs[NR_KNOBS];
	/* The state of a file while it is preserved. */
	struct luo_test_ser *ser;
};

struct luo_test_file *luo_test_of(struct file *file);

/* Operations that all handlers share. */
int luo_test_preserve(struct liveupdate_file_op_args *args);
void luo_test_unpreserve(struct liveupdate_file_op_args *args);
int luo_test_freeze(struct liveupdate_file_op_args *args);
void luo_test_unfreeze(struct liveupdate_file_op_args *args);
int luo_test_retrieve(struct liveupdate_file_op_args *args);
void luo_test_finish(struct liveupdate_file_op_args *args);

int luo_test_register_vital(void);

#endif /* _LIB_TESTS_LIVEUPDATE_HANDLER_H */
