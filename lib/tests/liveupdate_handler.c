// SPDX-License-Identifier: GPL-2.0

/*
 * A file handler of the Live Update Orchestrator that fails on request.
 *
 * Each open file of /dev/luo_test has a value, which is
 * read as text and can be preserved. Write
 *
 *   NUMBER                     to set the value
 *   delay-preserve MS          to delay ->preserve()
 *   fail-preserve ERRNO        to make ->preserve() fail
 *   fail-freeze ERRNO          to make ->freeze() fail
 *   fail-retrieve ERRNO        to make ->retrieve() fail permanently in the
 *                              next kernel
 *   fail-retrieve-once ERRNO   the same, but it succeeds when it is called again
 *   fail-can-finish N          to have ->can_finish() refuse N times in the next
 *                              kernel
 *   needs TOKEN                to have ->preserve() and ->retrieve() ask for the
 *                              file of the same session with this token
 *   asks TOKEN                 the same, but only ->retrieve() asks
 *   vital N                    to have the file preserved by a handler whose data
 *                              is vital; the next kernel supports its format if N
 *                              is 1, but not if it is 2; if N is 3, only an FLB on
 *                              which the file depends is vital, and not supported;
 *                              if N is 4, it is not supported, and devices are
 *                              silenced instead
 *   rollback                   to test whether a failure of kho_preserve_folios()
 *                              unpreserves folios that were preserved before
 *   access-late ADDRESS        to write a byte to memory of the caller, between
 *                              the moment when everything is serialized and the
 *                              jump, with a lock held that the shutdown of a
 *                              device takes; the next kernel finds the value
 *                              1000 plus the errno
 *
 * where 0 means not to fail (any more). Settings for the next kernel are saved
 * when the file is preserved, and the value when it is frozen.
 *
 * Each operation prints a line with its name and the value of the file.
 *
 * The parameter reboot_delay_ms delays a reboot between the serialization and
 * the jump.
 */

#define pr_fmt(fmt) "luo_test: " fmt

#include <linux/anon_inodes.h>
#include <linux/atomic.h>
#include <linux/cleanup.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/kstrtox.h>
#include <linux/liveupdate.h>
#include <linux/miscdevice.h>
#include <linux/memblock.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/reboot.h>
#include <linux/rwsem.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "liveupdate_handler.h"

static const char * const luo_test_knobs[NR_KNOBS] = {
	[DELAY_PRESERVE]	= "delay-preserve",
	[FAIL_PRESERVE]		= "fail-preserve",
	[FAIL_FREEZE]		= "fail-freeze",
	[FAIL_RETRIEVE]		= "fail-retrieve",
	[FAIL_RETRIEVE_ONCE]	= "fail-retrieve-once",
	[FAIL_CAN_FINISH]	= "fail-can-finish",
	[NEEDS]			= "needs",
	[ASKS]			= "asks",
	[VITAL]			= "vital",
};

static int luo_test_open(struct inode *inode, struct file *file)
{
	struct luo_test_file *test = kzalloc(sizeof(*test), GFP_KERNEL);

	if (!test)
		return -ENOMEM;
	file->private_data = test;
	return 0;
}

static int luo_test_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static ssize_t luo_test_read(struct file *file, char __user *buf, size_t len,
			     loff_t *pos)
{
	struct luo_test_file *test = file->private_data;
	char text[24];
	int size;

	size = scnprintf(text, sizeof(text), "%llu\n", READ_ONCE(test->value));
	return simple_read_from_buffer(buf, len, pos, text, size);
}

/*
 * A failure to preserve folios must not unpreserve folios that were preserved
 * before.
 */
static int luo_test_rollback(void)
{
#ifdef CONFIG_LIVEUPDATE_ERROR_INJECTION
	struct folio *folios[2];
	unsigned long pfn = 0;
	int err;

	/* With this option, the failure causes a warning. */
	if (IS_ENABLED(CONFIG_KEXEC_HANDOVER_DEBUG))
		return -EOPNOTSUPP;

	while (!kho_scratch_overlap(PFN_PHYS(pfn), PAGE_SIZE)) {
		if (++pfn >= max_pfn)
			return -EOPNOTSUPP;
	}

	folios[0] = folio_alloc(GFP_KERNEL, 0);
	if (!folios[0])
		return -ENOMEM;
	folios[1] = (struct folio *)pfn_to_page(pfn);

	err = kho_preserve_folio(folios[0]);
	if (err)
		goto put;
	if (kho_preserve_folios(folios, 2) != -EINVAL)
		err = -EBADE;
	else if (!kho_is_preserved(PFN_PHYS(folio_pfn(folios[0]))))
		err = -ENODATA;
	kho_unpreserve_folio(folios[0]);
put:
	folio_put(folios[0]);
	return err;
#else
	return -EOPNOTSUPP;
#endif
}

/*
 * Like RTNL, or the lock of a USB device: held during an access, and taken by a
 * shutdown.
 */
static DECLARE_RWSEM(luo_test_lock);
static DECLARE_COMPLETION(luo_test_rebooting);
static DECLARE_WAIT_QUEUE_HEAD(luo_test_locked);
/* Tasks that do not have the lock yet. */
static atomic_t luo_test_late = ATOMIC_INIT(0);

static int luo_test_access_late(struct luo_test_file *test, unsigned long address)
{
	struct luo_test_ser *ser;
	int err;

	atomic_inc(&luo_test_late);
	err = wait_for_completion_killable(&luo_test_rebooting);
	if (!err)
		down_read(&luo_test_lock);
	if (atomic_dec_and_test(&luo_test_late))
		wake_up(&luo_test_locked);
	if (err)
		return err;

	err = put_user((u8)1, (u8 __user *)address);
	ser = READ_ONCE(test->ser);
	if (ser)
		ser->value = 1000 - err;
	up_read(&luo_test_lock);
	return err;
}

static void luo_test_shutdown(struct platform_device *device)
{
	down_write(&luo_test_lock);
	up_write(&luo_test_lock);
}

static struct platform_driver luo_test_driver = {
	.shutdown	= luo_test_shutdown,
	.driver.name	= "luo_test",
};

static ssize_t luo_test_write(struct file *file, const char __user *buf,
			      size_t len, loff_t *pos)
{
	struct luo_test_file *test = file->private_data;
	char *text __free(kfree) = NULL;
	char *arg, *name;
	u64 value;
	int err, knob;

	if (len >= 64)
		return -EINVAL;
	text = memdup_user_nul(buf, len);
	if (IS_ERR(text))
		return PTR_ERR(no_free_ptr(text));

	arg = strim(text);
	name = strsep(&arg, " ");
	if (!strcmp(name, "rollback"))
		return luo_test_rollback() ?: len;
	err = kstrtou64(arg ?: name, 0, &value);
	if (err)
		return err;

	if (!arg) {
		WRITE_ONCE(test->value, value);
	} else if (!strcmp(name, "access-late")) {
		err = luo_test_access_late(test, value);
		if (err)
			return err;
	} else {
		knob = match_string(luo_test_knobs, NR_KNOBS, name);
		if (knob < 0 || value > MAX_ERRNO)
			return -EINVAL;
		WRITE_ONCE(test->knobs[knob], value);
	}
	/* The next read() returns the value. */
	*pos = 0;
	return len;
}

static const struct file_operations luo_test_fops = {
	.owner		= THIS_MODULE,
	.open		= luo_test_open,
	.release	= luo_test_release,
	.read		= luo_test_read,
	.write		= luo_test_write,
	.llseek		= default_llseek,
};

static struct miscdevice luo_test_device = {
	.minor		= MISC_DYNAMIC_MINOR,
	.name		= "luo_test",
	.fops		= &luo_test_fops,
};

/* Returns the data of a file of /dev/luo_test, and NULL for other files. */
struct luo_test_file *luo_test_of(struct file *file)
{
	return file->f_op == &luo_test_fops ? file->private_data : NULL;
}

static bool luo_test_can_preserve(struct liveupdate_file_handler *handler,
				  struct file *file)
{
	struct luo_test_file *test = luo_test_of(file);

	return test && !READ_ONCE(test->knobs[VITAL]);
}

/*
 * Both functions for the outgoing session must agree.
 */
static int luo_test_need(struct liveupdate_file_op_args *args, u64 wanted)
{
	struct file *other;
	u64 token = 0;
	int err;

	err = liveupdate_get_file_outgoing(args->session, wanted, &other);
	if (err)
		return err;
	err = liveupdate_get_token_outgoing(args->session, other, &token);
	fput(other);
	if (err)
		return err;
	return token == wanted ? 0 : -EBADE;
}

int luo_test_preserve(struct liveupdate_file_op_args *args)
{
	struct luo_test_file *test = args->file->private_data;
	int fail = READ_ONCE(test->knobs[FAIL_PRESERVE]);
	u32 needs = READ_ONCE(test->knobs[NEEDS]);
	struct luo_test_ser *ser;
	int err;

	msleep(READ_ONCE(test->knobs[DELAY_PRESERVE]));
	if (fail) {
		pr_info("preserve %llu fails\n", test->value);
		return -fail;
	}
	if (needs) {
		err = luo_test_need(args, needs);
		if (err)
			return err;
	}

	ser = kho_alloc_preserve(sizeof(*ser));
	if (IS_ERR(ser))
		return PTR_ERR(ser);
	ser->value = test->value;
	ser->fail_retrieve = test->knobs[FAIL_RETRIEVE];
	ser->fail_retrieve_once = test->knobs[FAIL_RETRIEVE_ONCE];
	ser->fail_can_finish = test->knobs[FAIL_CAN_FINISH];
	ser->asks = needs ?: test->knobs[ASKS];

	args->serialized_data = virt_to_phys(ser);
	args->private_data = ser;
	WRITE_ONCE(test->ser, ser);
	pr_info("preserve %llu\n", ser->value);
	return 0;
}

void luo_test_unpreserve(struct liveupdate_file_op_args *args)
{
	struct luo_test_file *test = args->file->private_data;
	struct luo_test_ser *ser = args->private_data;

	WRITE_ONCE(test->ser, NULL);
	pr_info("unpreserve %llu\n", ser->value);
	kho_unpreserve_free(ser);
}

int luo_test_freeze(struct liveupdate_file_op_args *args)
{
	struct luo_test_file *test = args->file->private_data;
	struct luo_test_ser *ser = args->private_data;
	int fail = READ_ONCE(test->knobs[FAIL_FREEZE]);

	if (fail) {
		pr_info("freeze %llu fails\n", test->value);
		return -fail;
	}

	ser->value = test->value;
	pr_info("freeze %llu\n", ser->value);
	return 0;
}

void luo_test_unfreeze(struct liveupdate_file_op_args *args)
{
	struct luo_test_ser *ser = args->private_data;

	pr_info("unfreeze %llu\n", ser->value);
}

/*
 * Claims the data that was handed over, once for each file. Returns NULL if
 * there is no preserved memory at this address.
 */
static struct luo_test_ser *luo_test_adopt(struct liveupdate_file_op_args *args)
{
	struct folio *folio;

	if (!args->private_data) {
		folio = kho_restore_folio(args->serialized_data);
		if (folio)
			args->private_data = folio_address(folio);
	}
	return args->private_data;
}

int luo_test_retrieve(struct liveupdate_file_op_args *args)
{
	struct luo_test_ser *ser = luo_test_adopt(args);
	struct luo_test_file *test;
	struct file *file, *other;
	int fail, err;

	if (!ser) {
		args->retrieve_status = -EINVAL;
		return -EINVAL;
	}

	fail = ser->fail_retrieve_once;
	if (fail) {
		pr_info("retrieve %llu fails once\n", ser->value);
		ser->fail_retrieve_once = 0;
		return -fail;
	}
	fail = ser->fail_retrieve;
	if (fail) {
		pr_info("retrieve %llu fails\n", ser->value);
		args->retrieve_status = -fail;
		return -fail;
	}

	if (ser->asks) {
		err = liveupdate_get_file_incoming(args->session, ser->asks, &other);
		if (err) {
			pr_info("retrieve %llu fails without file %u\n",
				ser->value, ser->asks);
			return err;
		}
		fput(other);
	}

	test = kzalloc(sizeof(*test), GFP_KERNEL);
	if (!test)
		return -ENOMEM;
	test->value = ser->value;
	/* It is preserved once more if it is not finished. */
	test->knobs[NEEDS] = ser->asks;
	/* It supports the same operations as a file of the device. */
	file = anon_inode_getfile_fmode("[luo_test]", &luo_test_fops, test,
					O_RDWR, FMODE_LSEEK | FMODE_PREAD |
						FMODE_PWRITE);
	if (IS_ERR(file)) {
		kfree(test);
		return PTR_ERR(file);
	}

	args->file = file;
	pr_info("retrieve %llu\n", ser->value);
	return 0;
}

static bool luo_test_can_finish(struct liveupdate_file_op_args *args)
{
	struct luo_test_ser *ser = luo_test_adopt(args);

	if (!ser || !ser->fail_can_finish)
		return true;
	pr_info("can_finish %llu refuses\n", ser->value);
	ser->fail_can_finish--;
	return false;
}

void luo_test_finish(struct liveupdate_file_op_args *args)
{
	struct luo_test_ser *ser = luo_test_adopt(args);

	if (!ser)
		return;
	pr_info("finish %llu\n", ser->value);
	folio_put(virt_to_folio(ser));
}

static const struct liveupdate_file_ops luo_test_ops = {
	.can_preserve	= luo_test_can_preserve,
	.preserve	= luo_test_preserve,
	.unpreserve	= luo_test_unpreserve,
	.freeze		= luo_test_freeze,
	.unfreeze	= luo_test_unfreeze,
	.retrieve	= luo_test_retrieve,
	.can_finish	= luo_test_can_finish,
	.finish		= luo_test_finish,
	.owner		= THIS_MODULE,
	.flags		= LIVEUPDATE_RETRIEVE_RETRIES,
};

#define LUO_TEST_COMPATIBLE "luo-test-v1"

static struct liveupdate_file_handler luo_test_handler = {
	.ops		= &luo_test_ops,
	.compatible	= LUO_TEST_COMPATIBLE,
};
LIVEUPDATE_FORMAT(LUO_TEST_COMPATIBLE);

static unsigned int reboot_delay_ms;
module_param(reboot_delay_ms, uint, 0644);
MODULE_PARM_DESC(reboot_delay_ms, "Delay of a reboot in milliseconds");

static int luo_test_reboot(struct notifier_block *nb, unsigned long action,
			   void *data)
{
	msleep(reboot_delay_ms);
	complete_all(&luo_test_rebooting);
	wait_event(luo_test_locked, !atomic_read(&luo_test_late));
	return NOTIFY_DONE;
}

static struct notifier_block luo_test_reboot_nb = {
	.notifier_call	= luo_test_reboot,
};

static int __init luo_test_init(void)
{
	struct platform_device *device;
	int err;

	if (!liveupdate_enabled())
		return 0;

	err = liveupdate_register_file_handler(&luo_test_handler);
	if (err)
		return err;
	err = luo_test_register_vital();
	if (err)
		return err;

	err = misc_register(&luo_test_device);
	if (err) {
		liveupdate_unregister_file_handler(&luo_test_handler);
		return err;
	}

	err = platform_driver_register(&luo_test_driver);
	if (err)
		return err;
	device = platform_device_register_simple("luo_test", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(device))
		return PTR_ERR(device);
	return register_reboot_notifier(&luo_test_reboot_nb);
}
device_initcall(luo_test_init);
