/* SPDX-License-Identifier: GPL-2.0 */

/*
 * Live Update Orchestrator (LUO): the interface for file handlers in C.
 *
 * See Documentation/core-api/liveupdate.rst for an introduction, and
 * rust/kernel/liveupdate.rs for the same interface in Rust.
 */
#ifndef _LINUX_LIVEUPDATE_H
#define _LINUX_LIVEUPDATE_H

#include <linux/bug.h>
#include <linux/build_bug.h>
#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/kho/abi/luo.h>
#include <linux/types.h>
#include <uapi/linux/liveupdate.h>

struct file;
struct liveupdate_file_handler;
struct liveupdate_flb;
struct liveupdate_session;
struct module;

/**
 * struct liveupdate_file_op_args - arguments of a file operation
 * @handler:         The handler whose operation is called.
 * @retrieve_status: Result of ->retrieve(): 0 if it was not called or may be
 *                   called again, 1 if it succeeded, a negative errno if it
 *                   failed permanently. ->retrieve() sets it to a negative
 *                   errno if a failure is permanent, see
 *                   %LIVEUPDATE_RETRIEVE_RETRIES. In ->prepare() and
 *                   ->preserve(), 1 for a file that was retrieved and is
 *                   preserved again, since its session is not finished.
 * @file:            The file. ->retrieve() sets it and transfers a reference.
 * @serialized_data: Value for the next kernel. Set by ->preserve(), may be
 *                   changed by ->freeze(); in the next kernel, passed to
 *                   ->retrieve(), ->can_finish() and ->finish().
 * @private_data:    For the handler's own use. Before the kexec, a value that
 *                   ->prepare() stores is passed to ->preserve(), and one that
 *                   ->preserve() stores to all later operations on the file.
 *                   After the kexec, initially NULL; a value that ->retrieve()
 *                   or ->can_finish() stores is passed to later operations.
 * @session:         The session of the file, for liveupdate_get_file_outgoing()
 *                   and others, in ->preserve() and ->retrieve(). NULL in all
 *                   other operations. Only for the calling task, and only
 *                   until the operation returns.
 * @dma_target:      In ->freeze(), whether a device may write to the memory of
 *                   the file while there is no kernel, see
 *                   %LIVEUPDATE_DMA_TARGET. False in all other operations.
 */
struct liveupdate_file_op_args {
	struct liveupdate_file_handler *handler;
	int retrieve_status;
	struct file *file;
	u64 serialized_data;
	void *private_data;
	struct liveupdate_session *session;
	bool dma_target;
};

/**
 * LIVEUPDATE_RETRIEVE_RETRIES - failures of ->retrieve() can be temporary
 *
 * Without this flag, ->retrieve() is called once for each file or shared state:
 * if it fails, the error is permanent. With this flag, a failed ->retrieve()
 * must not lose data, and is called again, unless it has set retrieve_status in
 * its arguments. If it fails and private_data is NULL, it must not have claimed
 * anything: the next kexec carries the file over unchanged.
 */
#define LIVEUPDATE_RETRIEVE_RETRIES	1

/**
 * LIVEUPDATE_NOT_UNDERSTOOD_FATAL - no kernel may continue without the data
 *
 * A kernel may not understand data of the previous one: it has no handler or
 * shared state of that name, live updates are off, or ->retrieve() fails
 * permanently. By default, it keeps the memory and continues. With this flag,
 * it panics instead, before any driver is probed if it does not support the
 * name.
 *
 * For data about something that keeps working while no kernel runs, and that
 * would overwrite memory which a kernel without this data uses. Only for
 * built-in code whose name is in the list of LIVEUPDATE_FORMAT(): modules
 * cannot register vital data.
 */
#define LIVEUPDATE_NOT_UNDERSTOOD_FATAL	2

/**
 * LIVEUPDATE_NOT_UNDERSTOOD_SILENCED - devices are silenced without the data
 *
 * As %LIVEUPDATE_NOT_UNDERSTOOD_FATAL, but the kernel continues: it clears the
 * bus master bit of every device that it discovers, before it frees memory to
 * which a device may write. It panics only if it does not support that.
 *
 * For data about devices that keep working while no kernel runs. Only for
 * built-in code, like %LIVEUPDATE_NOT_UNDERSTOOD_FATAL.
 */
#define LIVEUPDATE_NOT_UNDERSTOOD_SILENCED	4

/**
 * LIVEUPDATE_DMA_TARGET - devices may write to the memory of preserved files
 *
 * ->freeze() must hand over @dma_target of its arguments. If it is set, the
 * next kernel must leave the memory of the file where it is, and must not use
 * it for anything else, until ->finish(), even if the retrieved file is
 * truncated or closed.
 */
#define LIVEUPDATE_DMA_TARGET		8

/**
 * struct liveupdate_file_ops - operations of a file handler
 * @can_preserve: Returns whether the handler supports this kind of file. Must
 *                be cheap: it is called for files of all kinds.
 * @prepare:      Optional. Waits for resources that @preserve needs and that
 *                other tasks may hold, or until the task is killed. A kexec
 *                does not wait for it.
 * @unprepare:    Undoes @prepare. Not called if @preserve has succeeded, which
 *                takes over the private_data of @prepare.
 * @preserve:     Saves the state that the next kernel needs, while the file
 *                stays in use.
 * @unpreserve:   Undoes @preserve.
 * @freeze:       Optional. The last chance to save something before the jump.
 * @unfreeze:     Optional. Undoes @freeze.
 * @retrieve:     In the next kernel, creates the file again.
 * @can_finish:   Optional. Returns whether @finish may be called now.
 * @finish:       Releases all remaining handed over data, whether or not the
 *                file was retrieved.
 * @get_id:       Optional. Returns a number that is equal for files that share
 *                their contents; only one of them can be preserved. By default,
 *                the address of the file.
 * @owner:        THIS_MODULE. The module cannot be unloaded while files of the
 *                handler are preserved, or retrieved and not finished.
 * @flags:        %LIVEUPDATE_RETRIEVE_RETRIES, %LIVEUPDATE_DMA_TARGET, and at
 *                most one of %LIVEUPDATE_NOT_UNDERSTOOD_FATAL and
 *                %LIVEUPDATE_NOT_UNDERSTOOD_SILENCED.
 *
 * All of them may sleep.
 */
struct liveupdate_file_ops {
	bool (*can_preserve)(struct liveupdate_file_handler *handler,
			     struct file *file);
	int (*prepare)(struct liveupdate_file_op_args *args);
	void (*unprepare)(struct liveupdate_file_op_args *args);
	int (*preserve)(struct liveupdate_file_op_args *args);
	void (*unpreserve)(struct liveupdate_file_op_args *args);
	int (*freeze)(struct liveupdate_file_op_args *args);
	void (*unfreeze)(struct liveupdate_file_op_args *args);
	int (*retrieve)(struct liveupdate_file_op_args *args);
	bool (*can_finish)(struct liveupdate_file_op_args *args);
	void (*finish)(struct liveupdate_file_op_args *args);
	unsigned long (*get_id)(struct file *file);
	struct module *owner;
	unsigned int flags;
};

/**
 * struct liveupdate_file_handler - preserves one kind of files
 * @ops:        The operations.
 * @compatible: Names the kind of files and the format of the data. The next
 *              kernel needs a handler with the same name.
 *
 * Belongs to the caller of liveupdate_register_file_handler() and must not be
 * changed or freed until it is unregistered.
 */
struct liveupdate_file_handler {
	const struct liveupdate_file_ops *ops;
	const char compatible[LIVEUPDATE_HNDL_COMPAT_LENGTH];
};

/**
 * struct liveupdate_flb_op_args - arguments of an operation on shared state
 * @flb:  The shared state.
 * @data: Value for the next kernel: set by ->preserve(), passed to
 *        ->unpreserve() and, in the next kernel, to ->retrieve().
 * @obj:  The object of the state in this kernel: set by ->preserve() or
 *        ->retrieve(), passed to ->unpreserve() and ->finish().
 * @retrieve_status: ->retrieve() sets it to a negative errno if a failure is
 *        permanent, see %LIVEUPDATE_RETRIEVE_RETRIES.
 */
struct liveupdate_flb_op_args {
	struct liveupdate_flb *flb;
	u64 data;
	void *obj;
	int retrieve_status;
};

/**
 * struct liveupdate_flb_ops - operations of shared state
 * @preserve:   Called before the first file that depends on the state is
 *              preserved.
 * @unpreserve: Called after the last such file was unpreserved.
 * @retrieve:   In the next kernel, called at the first use of the state, at the
 *              latest before @finish.
 * @finish:     In the next kernel, called after the last file was finished.
 * @owner:      THIS_MODULE. The module cannot be unloaded while the state is
 *              preserved, or retrieved and not finished.
 * @flags:      %LIVEUPDATE_RETRIEVE_RETRIES, and at most one of
 *              %LIVEUPDATE_NOT_UNDERSTOOD_FATAL and
 *              %LIVEUPDATE_NOT_UNDERSTOOD_SILENCED.
 *
 * All of them are mandatory and may sleep. They are never called concurrently
 * for the same state and direction.
 */
struct liveupdate_flb_ops {
	int (*preserve)(struct liveupdate_flb_op_args *argp);
	void (*unpreserve)(struct liveupdate_flb_op_args *argp);
	int (*retrieve)(struct liveupdate_flb_op_args *argp);
	void (*finish)(struct liveupdate_flb_op_args *argp);
	struct module *owner;
	unsigned int flags;
};

/**
 * struct liveupdate_flb - state that files share: file-lifecycle-bound data
 * @ops:        The operations.
 * @compatible: Names the state and the format of its data.
 *
 * The state is preserved as long as there is a preserved file of one of the
 * handlers with which it was registered.
 */
struct liveupdate_flb {
	const struct liveupdate_flb_ops *ops;
	const char compatible[LIVEUPDATE_FLB_COMPAT_LENGTH];
};

/**
 * struct liveupdate_format - entry of the list of formats in the image
 * @compatible: The name of the format.
 *
 * The section .liveupdate_versions of an image lists all formats that the
 * kernel supports, so that programs can check them before a live update. It
 * begins with a magic number and a version, which the linker writes.
 */
struct liveupdate_format {
	char compatible[LIVEUPDATE_HNDL_COMPAT_LENGTH];
} __aligned(8);

#ifdef CONFIG_LIVEUPDATE

#ifdef MODULE
#define LIVEUPDATE_FORMAT(name)						\
	static_assert(sizeof(name) <= LIVEUPDATE_HNDL_COMPAT_LENGTH);	\
	MODULE_ALIAS("liveupdate:" name)
#else
/**
 * LIVEUPDATE_FORMAT - add the name of a format to the list in the image
 * @name: The name, at most 47 bytes: @compatible of a handler or shared state.
 *
 * A module gets an alias instead: "liveupdate:", followed by the name.
 */
#define LIVEUPDATE_FORMAT(name)						\
	static_assert(sizeof(name) <= LIVEUPDATE_HNDL_COMPAT_LENGTH);	\
	static const struct liveupdate_format				\
	__PASTE(liveupdate_format_, __COUNTER__)			\
	__used __section(".liveupdate_versions") = { .compatible = name }
#endif

extern const struct liveupdate_format __start_liveupdate_versions[];
extern const struct liveupdate_format __stop_liveupdate_versions[];

bool liveupdate_enabled(void);
int liveupdate_reboot(void);

/*
 * Returns whether the previous kernel may have left devices working that are
 * unknown to this one: code that discovers a device must silence it first.
 * Valid after the early initcalls.
 */
bool liveupdate_must_silence(void);

/*
 * Returns whether a kexec waits for the calling operation. Operations that take
 * long should call this regularly, and should stop with -EBUSY: they are called
 * again if the kexec fails. A kexec waits for one second at most.
 */
bool liveupdate_reboot_pending(void);

int liveupdate_register_file_handler(struct liveupdate_file_handler *fh);
void liveupdate_unregister_file_handler(struct liveupdate_file_handler *fh);

/*
 * A file can depend on other files of its session: its handler asks for them,
 * and saves their tokens in its own data. See "Files that depend on other
 * files" in Documentation/core-api/liveupdate-handlers.rst.
 *
 * In ->preserve(), both functions find files that are preserved already, and
 * fail with -ENOENT for others. In ->retrieve(), the file is retrieved first if
 * necessary. The caller must put the file.
 */
int liveupdate_get_file_outgoing(struct liveupdate_session *session, u64 token,
				 struct file **filep);
int liveupdate_get_token_outgoing(struct liveupdate_session *session,
				  struct file *file, u64 *tokenp);
/* The same, for a file to whose memory the device of the current one writes. */
int liveupdate_get_dma_target_outgoing(struct liveupdate_session *session,
				       struct file *file, u64 *tokenp);
int liveupdate_get_file_incoming(struct liveupdate_session *session, u64 token,
				 struct file **filep);

int liveupdate_register_flb(struct liveupdate_file_handler *fh,
			    struct liveupdate_flb *flb);
void liveupdate_unregister_flb(struct liveupdate_file_handler *fh,
			       struct liveupdate_flb *flb);

int liveupdate_flb_get_incoming(struct liveupdate_flb *flb, void **objp);
void liveupdate_flb_put_incoming(struct liveupdate_flb *flb);
int liveupdate_flb_incoming_data(struct liveupdate_flb *flb, u64 *data);

int liveupdate_flb_get_outgoing(struct liveupdate_flb *flb, void **objp);
void liveupdate_flb_put_outgoing(struct liveupdate_flb *flb);

#else /* CONFIG_LIVEUPDATE */

#define LIVEUPDATE_FORMAT(name) \
	static_assert(sizeof(name) <= LIVEUPDATE_HNDL_COMPAT_LENGTH)

static inline bool liveupdate_enabled(void)
{
	return false;
}

static inline int liveupdate_reboot(void)
{
	return 0;
}

static inline bool liveupdate_must_silence(void)
{
	return false;
}

static inline bool liveupdate_reboot_pending(void)
{
	return false;
}

static inline int
liveupdate_register_file_handler(struct liveupdate_file_handler *fh)
{
	return -EOPNOTSUPP;
}

static inline void
liveupdate_unregister_file_handler(struct liveupdate_file_handler *fh)
{
}

static inline int
liveupdate_get_file_outgoing(struct liveupdate_session *session, u64 token,
			     struct file **filep)
{
	return -EOPNOTSUPP;
}

static inline int
liveupdate_get_token_outgoing(struct liveupdate_session *session,
			      struct file *file, u64 *tokenp)
{
	return -EOPNOTSUPP;
}

static inline int
liveupdate_get_dma_target_outgoing(struct liveupdate_session *session,
				   struct file *file, u64 *tokenp)
{
	return -EOPNOTSUPP;
}

static inline int
liveupdate_get_file_incoming(struct liveupdate_session *session, u64 token,
			     struct file **filep)
{
	return -EOPNOTSUPP;
}

static inline int liveupdate_register_flb(struct liveupdate_file_handler *fh,
					  struct liveupdate_flb *flb)
{
	return -EOPNOTSUPP;
}

static inline void liveupdate_unregister_flb(struct liveupdate_file_handler *fh,
					     struct liveupdate_flb *flb)
{
}

static inline int liveupdate_flb_get_incoming(struct liveupdate_flb *flb,
					      void **objp)
{
	return -EOPNOTSUPP;
}

static inline void liveupdate_flb_put_incoming(struct liveupdate_flb *flb)
{
}

static inline int liveupdate_flb_incoming_data(struct liveupdate_flb *flb,
					       u64 *data)
{
	return -EOPNOTSUPP;
}

static inline int liveupdate_flb_get_outgoing(struct liveupdate_flb *flb,
					      void **objp)
{
	return -EOPNOTSUPP;
}

static inline void liveupdate_flb_put_outgoing(struct liveupdate_flb *flb)
{
}

#endif /* CONFIG_LIVEUPDATE */
#endif /* _LINUX_LIVEUPDATE_H */
