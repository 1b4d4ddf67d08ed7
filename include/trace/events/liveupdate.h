/* SPDX-License-Identifier: GPL-2.0 */

/*
 * The steps of a live update. One event is recorded at the end of a step. It has
 * the duration, and not a second event for the begin: each record is complete,
 * histograms need no synthetic events, and the buffer keeps twice the number of
 * steps before the jump.
 */

#undef TRACE_SYSTEM
#define TRACE_SYSTEM liveupdate

#if !defined(_TRACE_LIVEUPDATE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_LIVEUPDATE_H

#include <linux/tracepoint.h>
#include <linux/types.h>

/**
 * luo_file - a step of one file has ended
 *
 * @session:		name of the session, not terminated
 * @session_len:	length of the name
 * @token:		token of the file in the session
 * @handler:		name of the file handler, NULL if there is none
 * @result:		0, or a negative error number
 * @duration:		duration in nanoseconds
 */
DECLARE_EVENT_CLASS(luo_file,

	TP_PROTO(const char *session, size_t session_len, u64 token,
		 const char *handler, int result, u64 duration),

	TP_ARGS(session, session_len, token, handler, result, duration),

	TP_STRUCT__entry(
		__string_len(session, session, session_len)
		__field(u64, token)
		__string(handler, handler)
		__field(int, result)
		__field(u64, duration_ns)
	),

	TP_fast_assign(
		__assign_str(session);
		__entry->token = token;
		__assign_str(handler);
		__entry->result = result;
		__entry->duration_ns = duration;
	),

	TP_printk("session=%s token=%llu handler=%s result=%d duration_ns=%llu",
		  __get_str(session), __entry->token, __get_str(handler),
		  __entry->result, __entry->duration_ns)
);

#define DEFINE_LUO_FILE_EVENT(name)						\
DEFINE_EVENT(luo_file, name,							\
	TP_PROTO(const char *session, size_t session_len, u64 token,		\
		 const char *handler, int result, u64 duration),		\
	TP_ARGS(session, session_len, token, handler, result, duration)		\
)

/* Outgoing files. What is carried over is preserved again during the kexec. */
DEFINE_LUO_FILE_EVENT(luo_preserve);
DEFINE_LUO_FILE_EVENT(luo_unpreserve);
DEFINE_LUO_FILE_EVENT(luo_freeze);
DEFINE_LUO_FILE_EVENT(luo_unfreeze);

/* Incoming files, also those that are retrieved because another one needs them. */
DEFINE_LUO_FILE_EVENT(luo_retrieve);
DEFINE_LUO_FILE_EVENT(luo_finish_file);

/**
 * luo_session - a step of an incoming session has ended
 *
 * @session:		name of the session, not terminated
 * @session_len:	length of the name
 * @files:		number of its files, 0 if there is no such session
 * @result:		0, or a negative error number
 * @duration:		duration in nanoseconds
 */
DECLARE_EVENT_CLASS(luo_session,

	TP_PROTO(const char *session, size_t session_len, u64 files, int result,
		 u64 duration),

	TP_ARGS(session, session_len, files, result, duration),

	TP_STRUCT__entry(
		__string_len(session, session, session_len)
		__field(u64, files)
		__field(int, result)
		__field(u64, duration_ns)
	),

	TP_fast_assign(
		__assign_str(session);
		__entry->files = files;
		__entry->result = result;
		__entry->duration_ns = duration;
	),

	TP_printk("session=%s files=%llu result=%d duration_ns=%llu",
		  __get_str(session), __entry->files, __entry->result,
		  __entry->duration_ns)
);

#define DEFINE_LUO_SESSION_EVENT(name)						\
DEFINE_EVENT(luo_session, name,							\
	TP_PROTO(const char *session, size_t session_len, u64 files,		\
		 int result, u64 duration),					\
	TP_ARGS(session, session_len, files, result, duration)			\
)

DEFINE_LUO_SESSION_EVENT(luo_claim);
DEFINE_LUO_SESSION_EVENT(luo_finish);

/**
 * luo_serialize - all sessions were frozen and serialized for a kexec, or none
 *
 * @sessions:		number of sessions that are handed over, 0 after an error
 * @files:		number of their files
 * @result:		0, or a negative error number
 * @duration:		duration in nanoseconds
 */
TRACE_EVENT(luo_serialize,

	TP_PROTO(u64 sessions, u64 files, int result, u64 duration),

	TP_ARGS(sessions, files, result, duration),

	TP_STRUCT__entry(
		__field(u64, sessions)
		__field(u64, files)
		__field(int, result)
		__field(u64, duration_ns)
	),

	TP_fast_assign(
		__entry->sessions = sessions;
		__entry->files = files;
		__entry->result = result;
		__entry->duration_ns = duration;
	),

	TP_printk("sessions=%llu files=%llu result=%d duration_ns=%llu",
		  __entry->sessions, __entry->files, __entry->result,
		  __entry->duration_ns)
);

#endif /* _TRACE_LIVEUPDATE_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
