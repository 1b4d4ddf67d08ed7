/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Client library of the Live Update Orchestrator.
 *
 * All functions return a file descriptor or 0, or a negative error number: one
 * of those in Documentation/userspace-api/liveupdate-errno.rst, or -EINVAL for
 * invalid arguments. liveupdate_error() describes the last error in this
 * thread.
 *
 * File descriptors belong to the caller, which must close them with close(2).
 * They are all closed on exec. No function keeps a descriptor of the caller.
 */
#ifndef LIVEUPDATE_H
#define LIVEUPDATE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The maximum length of the name of a session in bytes, without the null byte.
 */
#define LIVEUPDATE_NAME_MAX 63

/* The kind of a file descriptor, see liveupdate_session_kind(). */
enum liveupdate_kind {
	LIVEUPDATE_NOT_A_SESSION = 0,
	LIVEUPDATE_OUTGOING = 1,	/* to be filled, for the next kernel */
	LIVEUPDATE_INCOMING = 2,	/* from the previous kernel */
};

/*
 * Opens /dev/liveupdate, or @path if that is not NULL. -EBUSY if it is already
 * open: close it after creating or retrieving sessions.
 */
int liveupdate_open(const char *path);

/*
 * Creates a session. When its last descriptor is closed, the session ends and
 * its files are not handed over.
 */
int liveupdate_create_session(int device, const char *name);

/* Retrieves a session that the previous kernel handed over. */
int liveupdate_retrieve_session(int device, const char *name);

/* Preserves @fd: in the next kernel it can be retrieved with @token. */
int liveupdate_preserve(int session, int fd, uint64_t token);

/* Retrieves a file from an incoming session. */
int liveupdate_retrieve(int session, uint64_t token);

/*
 * Ends an incoming session; files that were not retrieved are lost. The caller
 * must close the descriptor. If this fails, it can be called again.
 */
int liveupdate_finish(int session);

/*
 * Writes the name of a session, with a null byte, to @name, a buffer of @size
 * bytes. -ERANGE if it does not fit.
 */
int liveupdate_session_name(int session, char *name, size_t size);

/* Returns the kind of @fd: one of enum liveupdate_kind. Changes nothing. */
int liveupdate_session_kind(int fd);

/*
 * The last error in this thread, as a sentence; "" if there was none. Valid
 * until the next call of a function of this library in this thread.
 */
const char *liveupdate_error(void);

#ifdef __cplusplus
}
#endif

#endif /* LIVEUPDATE_H */
