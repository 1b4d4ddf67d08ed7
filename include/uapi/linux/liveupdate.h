/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */

/*
 * Live Update Orchestrator (LUO): the interface of /dev/liveupdate.
 *
 * See Documentation/userspace-api/liveupdate.rst.
 */

#ifndef _UAPI_LIVEUPDATE_H
#define _UAPI_LIVEUPDATE_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * DOC: Arguments and errors
 *
 * Each ioctl takes a pointer to its own structure. The caller must set the
 * first member to the size of that structure. New members are added at the end
 * of a structure: if @size is smaller than the structure of the kernel, the
 * missing members are 0; if it is larger, all bytes after the structure of the
 * kernel must be 0.
 *
 * The kernel writes the result to the structure before the ioctl takes effect.
 * An ioctl that failed, even with %EFAULT, has no effect and can be repeated.
 *
 * Errors of all ioctls:
 *
 * - %ENOTTY: the file has no such ioctl.
 * - %EFAULT: the structure cannot be read, or the result cannot be written.
 * - %EINVAL: the size is too small; for other reasons see each ioctl.
 * - %E2BIG: a byte after the structure of the kernel is not 0, or the size
 *   exceeds a page.
 *
 * Once reboot(LINUX_REBOOT_CMD_KEXEC) has serialized the sessions, every ioctl
 * that would change them fails with %EBUSY. An ioctl that waits for a kexec or
 * for another ioctl fails with %EINTR on a fatal signal.
 */

/* The type of all ioctls, see Documentation/userspace-api/ioctl/ioctl-number.rst */
#define LIVEUPDATE_IOCTL_TYPE		0xBA

/* Bytes of the name of a session, including the null byte at its end */
#define LIVEUPDATE_SESSION_NAME_LENGTH 64

/* Numbers of the ioctls of /dev/liveupdate */
enum {
	LIVEUPDATE_CMD_BASE = 0x00,
	LIVEUPDATE_CMD_CREATE_SESSION = LIVEUPDATE_CMD_BASE,
	LIVEUPDATE_CMD_RETRIEVE_SESSION = 0x01,
};

/* Numbers of the ioctls of sessions */
enum {
	LIVEUPDATE_CMD_SESSION_BASE = 0x40,
	LIVEUPDATE_CMD_SESSION_PRESERVE_FD = LIVEUPDATE_CMD_SESSION_BASE,
	LIVEUPDATE_CMD_SESSION_RETRIEVE_FD = 0x41,
	LIVEUPDATE_CMD_SESSION_FINISH = 0x42,
	LIVEUPDATE_CMD_SESSION_GET_NAME = 0x43,
	LIVEUPDATE_CMD_SESSION_SET_POLICY = 0x50,
};

/**
 * struct liveupdate_ioctl_create_session - ioctl(LIVEUPDATE_IOCTL_CREATE_SESSION)
 * @size: In: the size of this structure.
 * @fd:   Out: the file descriptor of the session, with %O_CLOEXEC set.
 * @name: In: the name of the session: 1 to 63 bytes and a null byte.
 *
 * Creates an outgoing session, which is handed over to the next kernel. The
 * session exists as long as a descriptor of it is open; closing the last one
 * unpreserves all its files.
 *
 * An incoming session that is not open keeps its name until it is finished. One
 * that is open must be finished before the next kexec, which otherwise fails
 * with %EEXIST.
 *
 * Return:
 * * 0: success.
 * * %EINVAL: the name is empty or has no null byte.
 * * %EEXIST: there is an outgoing session of this name, or an unfinished
 *   incoming one that is not open.
 * * %EMFILE, %ENFILE: too many open files.
 * * %ENOSPC: the maximum number of sessions is reached.
 * * %ENOMEM: no memory.
 * * %EBUSY: the kexec has begun.
 * * %EINTR: a fatal signal.
 */
struct liveupdate_ioctl_create_session {
	__u32		size;
	__s32		fd;
	__u8		name[LIVEUPDATE_SESSION_NAME_LENGTH];
};

#define LIVEUPDATE_IOCTL_CREATE_SESSION					\
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_CREATE_SESSION)

/**
 * struct liveupdate_ioctl_retrieve_session - ioctl(LIVEUPDATE_IOCTL_RETRIEVE_SESSION)
 * @size: In: the size of this structure.
 * @fd:   Out: the file descriptor of the session, with %O_CLOEXEC set.
 * @name: In: the name with which the session was created: 1 to 63 bytes and a
 *        null byte.
 *
 * Opens an incoming session, i.e. one that the previous kernel handed over. It
 * can be open only once at a time. After it is closed without
 * %LIVEUPDATE_SESSION_FINISH, the session and all its files can be retrieved
 * again.
 *
 * Return:
 * * 0: success.
 * * %EINVAL: the name is empty or has no null byte.
 * * %ENOENT: there is no incoming session of this name, or it is finished.
 * * %EBUSY: the session is open.
 * * %EMFILE, %ENFILE: too many open files.
 * * %ENOMEM: no memory; the session can be retrieved later.
 * * %EINTR: a fatal signal.
 */
struct liveupdate_ioctl_retrieve_session {
	__u32		size;
	__s32		fd;
	__u8		name[LIVEUPDATE_SESSION_NAME_LENGTH];
};

#define LIVEUPDATE_IOCTL_RETRIEVE_SESSION \
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_RETRIEVE_SESSION)

/* The ioctls of sessions */

/**
 * struct liveupdate_session_preserve_fd - ioctl(LIVEUPDATE_SESSION_PRESERVE_FD)
 * @size:  In: the size of this structure.
 * @fd:    In: the file to preserve.
 * @token: In: a number that identifies the file within the session. It must be
 *         unique within the session.
 *
 * Preserves an open file in an outgoing session. The session keeps the file
 * open, and the caller may use its descriptor or close it. The operations that
 * are permitted on a preserved file, and the time until which its changes are
 * handed over, depend on the kind of the file; see
 * Documentation/mm/memfd_preservation.rst for memfds.
 *
 * The file is unpreserved when the session is closed.
 *
 * Return:
 * * 0: success.
 * * %EINVAL: this is an incoming session.
 * * %EBADF: @fd is not an open file, or was opened with %O_PATH.
 * * %EEXIST: the session has a file with this token.
 * * %ENOENT: there is no handler for files of this kind.
 * * %EBUSY: the contents of the file are preserved already, in this or another
 *   session, or were retrieved from a session that is not finished; or the
 *   kexec has begun.
 * * %EOPNOTSUPP: the file has a property that cannot be handed over.
 * * %ENOSPC: the maximum number of files of a session is reached.
 * * %ENOMEM: no memory.
 * * %EINTR: a fatal signal.
 * * any other error of the file's handler.
 */
struct liveupdate_session_preserve_fd {
	__u32		size;
	__s32		fd;
	__aligned_u64	token;
};

#define LIVEUPDATE_SESSION_PRESERVE_FD					\
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_SESSION_PRESERVE_FD)

/**
 * struct liveupdate_session_retrieve_fd - ioctl(LIVEUPDATE_SESSION_RETRIEVE_FD)
 * @size:  In: the size of this structure.
 * @fd:    Out: a file descriptor of the restored file, with %O_CLOEXEC set.
 * @token: In: the token with which the file was preserved.
 *
 * Restores a file of an incoming session. Files can be retrieved in any order.
 * Retrieving a file again returns another descriptor of the same open file.
 *
 * After an error that is caused by a lack of resources, the call can be
 * repeated. If the handler reports a permanent failure, this and all further
 * calls return the error of the handler.
 *
 * Return:
 * * 0: success.
 * * %EINVAL: this is an outgoing session.
 * * %ENOENT: the session has no file with this token.
 * * %EOPNOTSUPP: this kernel has no handler for the file, or does not understand
 *   its data.
 * * %EMFILE, %ENFILE: too many open files.
 * * %ENOMEM: no memory.
 * * %EBUSY: the kexec has begun.
 * * %EINTR: a fatal signal.
 * * any other error of the file's handler.
 */
struct liveupdate_session_retrieve_fd {
	__u32		size;
	__s32		fd;
	__aligned_u64	token;
};

#define LIVEUPDATE_SESSION_RETRIEVE_FD					\
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_SESSION_RETRIEVE_FD)

/**
 * struct liveupdate_session_finish - ioctl(LIVEUPDATE_SESSION_FINISH)
 * @size:     In: the size of this structure.
 * @reserved: In: 0.
 *
 * Ends an incoming session. Retrieved files are no longer part of it; other
 * files are discarded and their memory is freed. The session cannot be
 * retrieved any more, and its descriptor should be closed.
 *
 * Return:
 * * 0: success.
 * * %EINVAL: this is an outgoing session, or @reserved is not 0.
 * * %EBUSY: a handler is not ready, or a retrieved file depends on one that was
 *   not retrieved, in which case nothing was finished and the call can be
 *   repeated; or the kexec has begun.
 * * %EINTR: a fatal signal; nothing was finished.
 */
struct liveupdate_session_finish {
	__u32		size;
	__u32		reserved;
};

#define LIVEUPDATE_SESSION_FINISH					\
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_SESSION_FINISH)

/**
 * struct liveupdate_session_get_name - ioctl(LIVEUPDATE_SESSION_GET_NAME)
 * @size:     In: the size of this structure.
 * @reserved: In: 0.
 * @name:     Out: the name of the session, padded with null bytes.
 *
 * Returns the name of an incoming or outgoing session. It can also be used to
 * check whether a file descriptor is a session.
 *
 * Return:
 * * 0: success.
 * * %EINVAL: @reserved is not 0.
 * * %EFAULT: the structure cannot be read or written.
 */
struct liveupdate_session_get_name {
	__u32		size;
	__u32		reserved;
	__u8		name[LIVEUPDATE_SESSION_NAME_LENGTH];
};

#define LIVEUPDATE_SESSION_GET_NAME					\
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_SESSION_GET_NAME)

/* What a kexec does if a file of a session cannot be handed over */
#define LIVEUPDATE_POLICY_ABORT		0	/* It fails. */
#define LIVEUPDATE_POLICY_SKIP		1	/* It continues without the file. */

/**
 * struct liveupdate_session_set_policy - ioctl(LIVEUPDATE_SESSION_SET_POLICY)
 * @size:   In: the size of this structure.
 * @policy: In: %LIVEUPDATE_POLICY_ABORT or %LIVEUPDATE_POLICY_SKIP.
 *
 * Sets what reboot(LINUX_REBOOT_CMD_KEXEC) does if a file that was preserved in
 * this outgoing session cannot be frozen: it fails with the error of the
 * file's handler, which is the default, or continues, in which case the next
 * kernel gets the session without that file. The kernel log names the file in
 * both cases. The policy is not handed over: if the session is still unfinished
 * at the next kexec, and a file cannot be carried over, that kexec fails.
 *
 * Kernels that do not have this ioctl fail with %ENOTTY.
 *
 * Return:
 * * 0: success.
 * * %EINVAL: this is an incoming session, or the policy is unknown.
 * * %EBUSY: the kexec has begun.
 * * %EINTR: a fatal signal.
 */
struct liveupdate_session_set_policy {
	__u32		size;
	__u32		policy;
};

#define LIVEUPDATE_SESSION_SET_POLICY					\
	_IO(LIVEUPDATE_IOCTL_TYPE, LIVEUPDATE_CMD_SESSION_SET_POLICY)

#endif /* _UAPI_LIVEUPDATE_H */
