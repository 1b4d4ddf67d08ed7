// SPDX-License-Identifier: GPL-2.0

/*
 * File handlers of the Live Update Orchestrator whose files share state.
 *
 * Each of the devices /dev/luo_shared0, /dev/luo_shared1, ... has a handler and
 * a state of its own, so that tests are independent. Files that are opened from
 * a device can be preserved. Write
 *
 *   register, unregister                  to make the files depend on the state,
 *                                         or end that; at first, they do not
 *   get-outgoing, put-outgoing,           to make the kernel use the state
 *   get-incoming, put-incoming
 *   get-twin, put-twin                    to use the incoming state by another
 *                                         implementation (the twin), which has
 *                                         the same name but objects of another
 *                                         kind
 *   register-handler, unregister-handler  to register or unregister the handler,
 *                                         which is registered at first
 *   register-vital, register-vital-state  to register a handler whose data is
 *                                         vital, or to make the files depend on
 *                                         such a state; both fail in a module
 *
 * Read to get the number of calls of each operation of the state.
 */

#define pr_fmt(fmt) "luo_shared: " fmt

#include <linux/anon_inodes.h>
#include <linux/atomic.h>
#include <linux/cleanup.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/liveupdate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

enum luo_shared_op { PRESERVE, UNPRESERVE, RETRIEVE, FINISH, NR_OPS };

struct luo_shared {
	struct liveupdate_file_handler handler;
	struct liveupdate_flb flb;
	struct liveupdate_flb twin;
	struct miscdevice device;
	atomic_t calls[NR_OPS];
};

/* The data must be handed over unchanged. */
#define LUO_SHARED_MAGIC 0x6465726168735f31ULL

/* The object of the second implementation. */
struct luo_twin {
	u64 kind;
	struct folio *folio;
};

#define LUO_TWIN_KIND 0x6e6977745f6f756cULL

static struct luo_shared *luo_shared_of(struct file *file)
{
	return container_of(file->private_data, struct luo_shared, device);
}

static int luo_shared_open(struct inode *inode, struct file *file)
{
	/* The miscdevice layer has set private_data. */
	return 0;
}

static ssize_t luo_shared_read(struct file *file, char __user *buf, size_t len,
			       loff_t *pos)
{
	struct luo_shared *shared = luo_shared_of(file);
	char text[64];
	int size;

	size = scnprintf(text, sizeof(text), "%d %d %d %d\n",
			 atomic_read(&shared->calls[PRESERVE]),
			 atomic_read(&shared->calls[UNPRESERVE]),
			 atomic_read(&shared->calls[RETRIEVE]),
			 atomic_read(&shared->calls[FINISH]));
	return simple_read_from_buffer(buf, len, pos, text, size);
}

static int luo_twin_get(struct luo_shared *shared)
{
	void *object;
	int err;

	err = liveupdate_flb_get_incoming(&shared->twin, &object);
	if (err)
		return err;
	/* Reading more than the first word could be out of bounds. */
	if (*(u64 *)object == LUO_TWIN_KIND)
		return 0;
	liveupdate_flb_put_incoming(&shared->twin);
	return -EUCLEAN;
}

static struct liveupdate_file_handler luo_shared_vital;
static struct liveupdate_flb luo_shared_vital_flb;

static int luo_shared_order(struct luo_shared *shared, const char *order)
{
	void *object;

	if (!strcmp(order, "register"))
		return liveupdate_register_flb(&shared->handler, &shared->flb);
	if (!strcmp(order, "get-outgoing"))
		return liveupdate_flb_get_outgoing(&shared->flb, &object);
	if (!strcmp(order, "get-incoming"))
		return liveupdate_flb_get_incoming(&shared->flb, &object);
	if (!strcmp(order, "get-twin"))
		return luo_twin_get(shared);
	if (!strcmp(order, "register-handler"))
		return liveupdate_register_file_handler(&shared->handler);
	if (!strcmp(order, "register-vital"))
		return liveupdate_register_file_handler(&luo_shared_vital);
	if (!strcmp(order, "register-vital-state"))
		return liveupdate_register_flb(&shared->handler,
					       &luo_shared_vital_flb);

	if (!strcmp(order, "unregister"))
		liveupdate_unregister_flb(&shared->handler, &shared->flb);
	else if (!strcmp(order, "put-outgoing"))
		liveupdate_flb_put_outgoing(&shared->flb);
	else if (!strcmp(order, "put-incoming"))
		liveupdate_flb_put_incoming(&shared->flb);
	else if (!strcmp(order, "put-twin"))
		liveupdate_flb_put_incoming(&shared->twin);
	else if (!strcmp(order, "unregister-handler"))
		liveupdate_unregister_file_handler(&shared->handler);
	else
		return -EINVAL;
	return 0;
}

static ssize_t luo_shared_write(struct file *file, const char __user *buf,
				size_t len, loff_t *pos)
{
	char *text __free(kfree) = NULL;
	int err;

	if (len >= 64)
		return -EINVAL;
	text = memdup_user_nul(buf, len);
	if (IS_ERR(text))
		return PTR_ERR(no_free_ptr(text));

	err = luo_shared_order(luo_shared_of(file), strim(text));
	return err ?: len;
}

static const struct file_operations luo_shared_fops = {
	.owner		= THIS_MODULE,
	.open		= luo_shared_open,
	.read		= luo_shared_read,
	.write		= luo_shared_write,
	.llseek		= noop_llseek,
};

static bool luo_shared_can_preserve(struct liveupdate_file_handler *handler,
				    struct file *file)
{
	return file->f_op == &luo_shared_fops &&
	       &luo_shared_of(file)->handler == handler;
}

/* The handler is the only state of a file. */
static int luo_shared_preserve(struct liveupdate_file_op_args *args)
{
	return 0;
}

static void luo_shared_nothing(struct liveupdate_file_op_args *args)
{
}

static int luo_shared_retrieve(struct liveupdate_file_op_args *args)
{
	struct luo_shared *shared =
		container_of(args->handler, struct luo_shared, handler);
	struct file *file;

	file = anon_inode_getfile("[luo_shared]", &luo_shared_fops,
				  &shared->device, O_RDWR);
	if (IS_ERR(file))
		return PTR_ERR(file);
	args->file = file;
	return 0;
}

static const struct liveupdate_file_ops luo_shared_file_ops = {
	.can_preserve	= luo_shared_can_preserve,
	.preserve	= luo_shared_preserve,
	.unpreserve	= luo_shared_nothing,
	.retrieve	= luo_shared_retrieve,
	.finish		= luo_shared_nothing,
	.owner		= THIS_MODULE,
	.flags		= LIVEUPDATE_RETRIEVE_RETRIES,
};

static bool luo_shared_vital_can_preserve(struct liveupdate_file_handler *handler,
					  struct file *file)
{
	return false;
}

static const struct liveupdate_file_ops luo_shared_vital_ops = {
	.can_preserve	= luo_shared_vital_can_preserve,
	.preserve	= luo_shared_preserve,
	.unpreserve	= luo_shared_nothing,
	.retrieve	= luo_shared_retrieve,
	.finish		= luo_shared_nothing,
	.owner		= THIS_MODULE,
	.flags		= LIVEUPDATE_NOT_UNDERSTOOD_FATAL,
};

static struct liveupdate_file_handler luo_shared_vital = {
	.ops = &luo_shared_vital_ops,
	.compatible = "luo-shared-vital-file",
};

static void luo_shared_called(struct liveupdate_flb *flb, enum luo_shared_op op)
{
	atomic_inc(&container_of(flb, struct luo_shared, flb)->calls[op]);
}

static int luo_shared_flb_preserve(struct liveupdate_flb_op_args *argp)
{
	u64 *magic;

	luo_shared_called(argp->flb, PRESERVE);
	magic = kho_alloc_preserve(sizeof(*magic));
	if (IS_ERR(magic))
		return PTR_ERR(magic);
	*magic = LUO_SHARED_MAGIC;
	argp->data = virt_to_phys(magic);
	argp->obj = magic;
	return 0;
}

static void luo_shared_flb_unpreserve(struct liveupdate_flb_op_args *argp)
{
	luo_shared_called(argp->flb, UNPRESERVE);
	kho_unpreserve_free(argp->obj);
}

static int luo_shared_flb_retrieve(struct liveupdate_flb_op_args *argp)
{
	struct folio *folio;
	u64 *magic;

	luo_shared_called(argp->flb, RETRIEVE);
	folio = kho_restore_folio(argp->data);
	if (!folio) {
		argp->retrieve_status = -EINVAL;
		return -EINVAL;
	}
	magic = folio_address(folio);
	if (*magic != LUO_SHARED_MAGIC)
		pr_err("the state is not what was handed over\n");
	argp->obj = magic;
	return 0;
}

static void luo_shared_flb_finish(struct liveupdate_flb_op_args *argp)
{
	u64 *magic = argp->obj;

	/* A damaged state is ignored. */
	if (*magic == LUO_SHARED_MAGIC)
		luo_shared_called(argp->flb, FINISH);
	folio_put(virt_to_folio(magic));
}

static const struct liveupdate_flb_ops luo_shared_flb_ops = {
	.preserve	= luo_shared_flb_preserve,
	.unpreserve	= luo_shared_flb_unpreserve,
	.retrieve	= luo_shared_flb_retrieve,
	.finish		= luo_shared_flb_finish,
	.owner		= THIS_MODULE,
	.flags		= LIVEUPDATE_RETRIEVE_RETRIES,
};

static const struct liveupdate_flb_ops luo_shared_vital_flb_ops = {
	.preserve	= luo_shared_flb_preserve,
	.unpreserve	= luo_shared_flb_unpreserve,
	.retrieve	= luo_shared_flb_retrieve,
	.finish		= luo_shared_flb_finish,
	.owner		= THIS_MODULE,
	.flags		= LIVEUPDATE_NOT_UNDERSTOOD_SILENCED,
};

static struct liveupdate_flb luo_shared_vital_flb = {
	.ops = &luo_shared_vital_flb_ops,
	.compatible = "luo-shared-vital",
};

static int luo_twin_flb_retrieve(struct liveupdate_flb_op_args *argp)
{
	struct luo_twin *twin;

	twin = kmalloc_obj(*twin);
	if (!twin)
		return -ENOMEM;
	twin->kind = LUO_TWIN_KIND;
	twin->folio = kho_restore_folio(argp->data);
	if (!twin->folio) {
		kfree(twin);
		argp->retrieve_status = -EINVAL;
		return -EINVAL;
	}
	argp->obj = twin;
	return 0;
}

static void luo_twin_flb_finish(struct liveupdate_flb_op_args *argp)
{
	struct luo_twin *twin = argp->obj;

	if (twin->kind != LUO_TWIN_KIND) {
		pr_err("the twin got an object of another kind\n");
		return;
	}
	folio_put(twin->folio);
	kfree(twin);
}

/* This implementation is only used, never registered. */
static const struct liveupdate_flb_ops luo_twin_flb_ops = {
	.preserve	= luo_shared_flb_preserve,
	.unpreserve	= luo_shared_flb_unpreserve,
	.retrieve	= luo_twin_flb_retrieve,
	.finish		= luo_twin_flb_finish,
	.owner		= THIS_MODULE,
	.flags		= LIVEUPDATE_RETRIEVE_RETRIES,
};

#define LUO_SHARED(number)						\
	{								\
		.handler = {						\
			.ops = &luo_shared_file_ops,			\
			.compatible = "luo-shared-file-" #number,	\
		},							\
		.flb = {						\
			.ops = &luo_shared_flb_ops,			\
			.compatible = "luo-shared-" #number,		\
		},							\
		.twin = {						\
			.ops = &luo_twin_flb_ops,			\
			.compatible = "luo-shared-" #number,		\
		},							\
		.device = {						\
			.minor = MISC_DYNAMIC_MINOR,			\
			.name = "luo_shared" #number,			\
			.fops = &luo_shared_fops,			\
		},							\
	}

static struct luo_shared luo_shared[] = {
	LUO_SHARED(0), LUO_SHARED(1), LUO_SHARED(2), LUO_SHARED(3),
	LUO_SHARED(4), LUO_SHARED(5), LUO_SHARED(6), LUO_SHARED(7),
	LUO_SHARED(8), LUO_SHARED(9),
};

LIVEUPDATE_FORMAT("luo-shared-file-0");
LIVEUPDATE_FORMAT("luo-shared-0");
LIVEUPDATE_FORMAT("luo-shared-file-1");
LIVEUPDATE_FORMAT("luo-shared-1");
LIVEUPDATE_FORMAT("luo-shared-file-2");
LIVEUPDATE_FORMAT("luo-shared-2");
LIVEUPDATE_FORMAT("luo-shared-file-3");
LIVEUPDATE_FORMAT("luo-shared-3");
LIVEUPDATE_FORMAT("luo-shared-file-4");
LIVEUPDATE_FORMAT("luo-shared-4");
LIVEUPDATE_FORMAT("luo-shared-file-5");
LIVEUPDATE_FORMAT("luo-shared-5");
LIVEUPDATE_FORMAT("luo-shared-file-6");
LIVEUPDATE_FORMAT("luo-shared-6");
LIVEUPDATE_FORMAT("luo-shared-file-7");
LIVEUPDATE_FORMAT("luo-shared-7");
LIVEUPDATE_FORMAT("luo-shared-file-8");
LIVEUPDATE_FORMAT("luo-shared-8");
LIVEUPDATE_FORMAT("luo-shared-file-9");
LIVEUPDATE_FORMAT("luo-shared-9");

static void luo_shared_remove(int count)
{
	while (count--) {
		liveupdate_unregister_file_handler(&luo_shared[count].handler);
		misc_deregister(&luo_shared[count].device);
	}
}

static int luo_shared_add(struct luo_shared *shared)
{
	int err;

	err = misc_register(&shared->device);
	if (err)
		return err;
	err = liveupdate_register_file_handler(&shared->handler);
	if (err)
		misc_deregister(&shared->device);
	return err;
}

static int __init luo_shared_init(void)
{
	int err, i;

	for (i = 0; i < ARRAY_SIZE(luo_shared); i++) {
		err = luo_shared_add(&luo_shared[i]);
		if (err) {
			luo_shared_remove(i);
			return err;
		}
	}
	return 0;
}
module_init(luo_shared_init);

static void __exit luo_shared_exit(void)
{
	luo_shared_remove(ARRAY_SIZE(luo_shared));
}
module_exit(luo_shared_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("File handlers of the Live Update Orchestrator for tests");
