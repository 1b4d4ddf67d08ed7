/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Client library of the Live Update Orchestrator. cbindgen has written this file
 * from tools/liveupdate/capi/src.
 *
 * A program on a machine with luod joins its live updates: see
 * liveupdate_join(). Without luod, it opens the device and keeps its session
 * itself: see liveupdate_open().
 *
 * All functions return a file descriptor or 0, or a negative error number: one
 * of those in Documentation/userspace-api/liveupdate-errno.rst, -EFAULT for a
 * NULL pointer, or -EINVAL for other invalid arguments. liveupdate_error()
 * describes the last error in this thread.
 *
 * File descriptors belong to the caller, which must close them with close(2),
 * unless the function says otherwise. They are all closed on exec. No function
 * keeps a descriptor of the caller.
 */


#ifndef LIVEUPDATE_H
#define LIVEUPDATE_H


#define LIVEUPDATE_MAJOR 0
#define LIVEUPDATE_MINOR 1
#define LIVEUPDATE_PATCH 0


#include <stddef.h>
#include <stdint.h>

/**
 * The maximum length of the name of a session in bytes, without the null byte.
 */
#define LIVEUPDATE_NAME_MAX 63

/**
 * The kind of a file descriptor, see liveupdate_session_kind().
 */
enum liveupdate_kind {
        /**
         * No session.
         */
        LIVEUPDATE_NOT_A_SESSION = 0,
        /**
         * To be filled, for the next kernel.
         */
        LIVEUPDATE_OUTGOING = 1,
        /**
         * From the previous kernel.
         */
        LIVEUPDATE_INCOMING = 2,
};

/**
 * A client of luod. It may be used by one thread at a time.
 */
struct liveupdate_member;

/**
 * The part of a program in a live update. All functions get @data and the name
 * of a session, which is valid until they return. Those that return a value
 * return 0, or a negative error number, which the operator sees with the text
 * of liveupdate_error(), if that is their last call. They must not call
 * liveupdate_step() or liveupdate_leave().
 */
struct liveupdate_participant {
        /**
         * sizeof(struct liveupdate_participant). Later versions add fields.
         */
        size_t size;
        /**
         * Passed to all functions.
         */
        void *data;
        /**
         * Preserves all files of @session, a descriptor that belongs to the library.
         * From then on, or from @pause on if there is one, until @cancelled is called,
         * the program must not change the files in a way that its next instance cannot
         * handle. An error aborts the update.
         */
        int (*preserve)(void *data, const char *id, int session);
        /**
         * The update was aborted, also because @preserve or @pause has failed: the
         * program continues its work.
         */
        void (*cancelled)(void *data, const char *id, const char *reason);
        /**
         * Retrieves the files that the last instance of the program has preserved.
         * If it succeeds for all sessions, the library finishes them; otherwise they
         * can be claimed again. @session belongs to the library.
         */
        int (*restore)(void *data, const char *id, int session);
        /**
         * An update begins; @preserve is called next. NULL if there is nothing to do.
         */
        int (*prepare)(void *data, const char *id, uint64_t deadline_ms);
        /**
         * The next kernel is started now. NULL if there is nothing to do.
         */
        void (*frozen)(void *data, const char *id);
        /**
         * Stops the work of the program until @cancelled is called, and preserves the
         * rest of its files; an error aborts the update. Called when all other programs
         * are ready or are paused as well, or directly after @preserve if luod is too
         * old for this. NULL if @preserve does all of this.
         */
        int (*pause)(void *data, const char *id, int session);
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The last error in this thread, as a sentence; "" if there was none. Valid
 * until the next call of a function of this library in this thread.
 */
const char *liveupdate_error(void);

/**
 * Connects to luod at @path, or its usual socket if that is NULL; restores the
 * sessions of the previous kernel, and subscribes for the next update. @name is
 * the name of the program in lists and logs, @ids are the names of @count
 * sessions. @participant is copied; its @data is used until
 * liveupdate_leave().
 *
 * Waits for up to @patience_ms milliseconds for a luod that refuses
 * temporarily or is restarted.
 *
 * On success, *@member is the client. Otherwise all sessions are unchanged:
 * -ENOENT or -ECONNREFUSED if luod does not run, -EACCES if its configuration
 * does not permit a session to this user, -EBUSY if another client has it,
 * -ETIMEDOUT if luod could not answer whether there is a session, which then
 * may exist.
 */
int liveupdate_join(const char *path,
                    const char *name,
                    const char *const *ids,
                    size_t count,
                    const struct liveupdate_participant *participant,
                    uint64_t patience_ms,
                    struct liveupdate_member **member);

/**
 * Waits for an event of luod for up to @timeout_ms milliseconds, without a
 * limit if it is negative, and calls the functions of the participant. If the
 * connection is closed, this connects again; luod then first confirms that no
 * session is part of an update. Fails if luod refuses a subscription after it
 * was restarted.
 */
int liveupdate_step(struct liveupdate_member *member, int timeout_ms);

/**
 * Returns the descriptor for an event loop: call liveupdate_step() with the
 * timeout 0 when it is readable, or after the time that
 * liveupdate_poll_timeout() returns. It changes, and is -1, which poll(2)
 * ignores, while there is no connection: call both functions before each
 * poll(2).
 */
int liveupdate_poll_fd(const struct liveupdate_member *member);

/**
 * Returns the timeout for poll(2) in milliseconds; -1 if there is no limit.
 */
int liveupdate_poll_timeout(const struct liveupdate_member *member);

/**
 * Requests @timeout_ms milliseconds to preserve the files, instead of luod's
 * default. luod has a limit.
 */
int liveupdate_set_timeout(struct liveupdate_member *member,
                           uint64_t timeout_ms);

/**
 * Closes the connection and frees @member, which may be NULL. A running update
 * is aborted, unless the files are preserved. -EBUSY if a function of the
 * participant calls this.
 */
int liveupdate_leave(struct liveupdate_member *member);

/**
 * Opens /dev/liveupdate, or @path if that is not NULL. -EBUSY if it is already
 * open: close it after creating or retrieving sessions. On machines with luod,
 * use liveupdate_join() instead.
 */
int liveupdate_open(const char *path);

/**
 * Creates a session. When its last descriptor is closed, the session ends and
 * its files are not handed over.
 */
int liveupdate_create_session(int device, const char *name);

/**
 * Retrieves a session that the previous kernel handed over.
 */
int liveupdate_retrieve_session(int device, const char *name);

/**
 * Preserves @fd: in the next kernel it can be retrieved with @token.
 */
int liveupdate_preserve(int session, int fd, uint64_t token);

/**
 * Retrieves a file from an incoming session.
 */
int liveupdate_retrieve(int session, uint64_t token);

/**
 * Ends an incoming session; files that were not retrieved are lost. The caller
 * must close the descriptor. If this fails, it can be called again.
 */
int liveupdate_finish(int session);

/**
 * Writes the name of a session, with a null byte, to @name, a buffer of @size
 * bytes. -ERANGE if it does not fit.
 */
int liveupdate_session_name(int session, char *name, size_t size);

/**
 * Returns the kind of @fd: one of enum liveupdate_kind. Changes nothing.
 */
int liveupdate_session_kind(int fd);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LIVEUPDATE_H */
