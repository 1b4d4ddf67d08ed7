/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Client library of the Live Update Orchestrator.
 *
 * All functions return a file descriptor or 0, or the negative number of an
 * error: one of those in Documentation/userspace-api/liveupdate-errno.rst, or
 * -EINVAL for arguments that make no sense. liveupdate_error() says in words
 * what the last error in this thread was about.
 *
 * File descriptors belong to the caller, who closes them with close(2). They
 * are all closed on exec. No function keeps one that it was given.
 */
#ifndef LIVEUPDATE_H
#define LIVEUPDATE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How many bytes the name of a session can have, without the null byte. */
#define LIVEUPDATE_NAME_MAX 63

/* What a file descriptor is, see liveupdate_session_kind(). */
enum liveupdate_kind {
	LIVEUPDATE_NOT_A_SESSION = 0,
	LIVEUPDATE_OUTGOING = 1,	/* to be filled, for the next kernel */
	LIVEUPDATE_INCOMING = 2,	/* from the previous kernel */
};

/*
 * Opens /dev/liveupdate, or @path if that is not NULL. -EBUSY if somebody has
 * it open: close it as soon as you have your sessions.
 */
int liveupdate_open(const char *path);

/*
 * Creates a session. It ends, and everything in it stays in this kernel, when
 * its last descriptor is closed.
 */
int liveupdate_create_session(int device, const char *name);

/* Retrieves a session that the previous kernel handed over. */
int liveupdate_retrieve_session(int device, const char *name);

/* Preserves @fd: in the next kernel it can be retrieved by @token. */
int liveupdate_preserve(int session, int fd, uint64_t token);

/* Retrieves a file from an incoming session. */
int liveupdate_retrieve(int session, uint64_t token);

/*
 * Ends an incoming session; what was not retrieved from it is lost. The
 * descriptor is to be closed by the caller, and if this fails, it can be tried
 * again.
 */
int liveupdate_finish(int session);

/*
 * Writes the name of a session, with a null byte, to @name, which has @size
 * bytes. -ERANGE if it does not fit.
 */
int liveupdate_session_name(int session, char *name, size_t size);

/* Tells what @fd is: one of enum liveupdate_kind. Changes nothing. */
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
