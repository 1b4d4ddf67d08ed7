// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A client of luod in C: a memfd that survives live updates.
 *
 *   luod-client [SOCKET [NAME]]
 *
 * Documentation/userspace-api/liveupdate-luod-protocol.rst describes the
 * protocol. A larger program should use a JSON library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "liveupdate.h"

#define TOKEN 1
/* More than one page, and not a multiple of the page size. */
#define SIZE 1000003
/* The time until a retry. */
#define RETRY_US 200000

struct luod {
	const char *path;
	/* -1 if the connection is closed. */
	int socket;
	/* The received bytes, and the length of the last line. */
	char buffer[65536];
	size_t used, line;
	/* The session of a line that is not read yet. */
	int session;
};

static _Noreturn void fail(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s\n", what, why);
	exit(1);
}

static unsigned char content(size_t at)
{
	return at * 2654435761u >> 24;
}

static int new_memfd(void)
{
	unsigned char *bytes = malloc(SIZE);
	int memfd = memfd_create("luod-client", MFD_CLOEXEC);
	size_t at;

	if (!bytes || memfd < 0)
		fail("memfd", strerror(errno));
	for (at = 0; at < SIZE; at++)
		bytes[at] = content(at);
	if (pwrite(memfd, bytes, SIZE, 0) != SIZE)
		fail("memfd", strerror(errno));
	free(bytes);
	return memfd;
}

static void check_memfd(int memfd)
{
	unsigned char *bytes = malloc(SIZE + 1);
	size_t at;

	if (!bytes || pread(memfd, bytes, SIZE + 1, 0) != SIZE)
		fail("memfd", "the size has changed");
	for (at = 0; at < SIZE; at++)
		if (bytes[at] != content(at))
			fail("memfd", "the content has changed");
	free(bytes);
}

/* The connection is closed: luod may have been restarted. */
static void gone(struct luod *luod)
{
	if (luod->socket >= 0)
		close(luod->socket);
	if (luod->session >= 0)
		close(luod->session);
	luod->socket = luod->session = -1;
	luod->used = luod->line = 0;
}

/*
 * If this fails, the connection is closed, and the next wait for an answer
 * fails as well.
 */
static void send_line(struct luod *luod, const char *line)
{
	size_t len = strlen(line), done;
	ssize_t sent;

	for (done = 0; luod->socket >= 0 && done < len; done += sent) {
		sent = send(luod->socket, line + done, len - done, MSG_NOSIGNAL);
		if (sent < 0)
			gone(luod);
	}
}

static void say(struct luod *luod, const char *cmd, const char *id)
{
	char line[256];
	int len;

	len = snprintf(line, sizeof(line), "{\"cmd\":\"%s\",\"id\":\"%s\"}\n",
		       cmd, id);
	if (len >= (int)sizeof(line))
		fail(id, "the name is too long");
	send_line(luod, line);
}

/*
 * Receives a part of a line, several lines, or a descriptor. Returns 0 if the
 * connection is closed.
 */
static int receive(struct luod *luod)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec data = {
		luod->buffer + luod->used,
		sizeof(luod->buffer) - 1 - luod->used,
	};
	struct msghdr message = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header;
	ssize_t got;

	if (!data.iov_len)
		fail("luod", "the line is too long");
	got = luod->socket < 0 ? 0 : recvmsg(luod->socket, &message, MSG_CMSG_CLOEXEC);
	if (got <= 0) {
		gone(luod);
		return 0;
	}
	luod->used += got;
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET &&
	    header->cmsg_type == SCM_RIGHTS)
		memcpy(&luod->session, CMSG_DATA(header), sizeof(int));
	return 1;
}

/*
 * Returns the next line, which is valid until the next call. NULL if the
 * connection is closed.
 */
static const char *next_line(struct luod *luod)
{
	char *end;

	luod->used -= luod->line;
	memmove(luod->buffer, luod->buffer + luod->line, luod->used);
	while (!(end = memchr(luod->buffer, '\n', luod->used))) {
		luod->line = 0;
		if (!receive(luod))
			return NULL;
	}
	*end = 0;
	luod->line = end + 1 - luod->buffer;
	return luod->buffer;
}

/* Returns whether the field @name of a line is @value. */
static int is(const char *line, const char *name, const char *value)
{
	char field[32];
	const char *found;
	size_t len = strlen(value);

	snprintf(field, sizeof(field), "\"%s\"", name);
	found = strstr(line, field);
	if (!found)
		return 0;
	found += strlen(field);
	found += strspn(found, " :");
	return found[0] == '"' && !strncmp(found + 1, value, len) &&
	       found[len + 1] == '"';
}

/* Connects to luod. Returns an error number, or 0. */
static int connect_to(struct luod *luod)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *line;
	int error;

	if (strlen(luod->path) >= sizeof(address.sun_path))
		fail(luod->path, "the path is too long");
	strcpy(address.sun_path, luod->path);
	luod->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (luod->socket < 0 ||
	    connect(luod->socket, (struct sockaddr *)&address, sizeof(address))) {
		error = errno;
		gone(luod);
		return error;
	}
	/* After this, luod acknowledges each request. */
	send_line(luod, "{\"cmd\":\"HELLO\",\"version\":2,\"client\":\"luod-client\"}\n");
	line = next_line(luod);
	if (line && is(line, "event", "HELLO"))
		return 0;
	gone(luod);
	return EAGAIN;
}

/* The session of the last line. */
static int take_session(struct luod *luod)
{
	int session = luod->session;

	if (session < 0)
		fail("luod", "no session was sent");
	luod->session = -1;
	return session;
}

/* Returns whether luod may give another answer later. */
static int is_temporary(const char *line)
{
	return is(line, "code", "try-again") || is(line, "code", "device-busy") ||
	       is(line, "code", "in-use");
}

/*
 * Returns the memfd from before the update, or a new one if there was none. If
 * luod cannot tell, or is restarted, there may be one.
 */
static int claim(struct luod *luod, const char *id, int *restored)
{
	const char *line;
	int session, memfd;

	for (;;) {
		say(luod, "CLAIM", id);
		line = next_line(luod);
		if (line && is(line, "code", "no-session"))
			return new_memfd();
		if (line && is(line, "event", "SESSION"))
			break;
		if (line && !is_temporary(line))
			fail("claim", line);
		usleep(RETRY_US);
		if (!line)
			connect_to(luod);
	}
	session = take_session(luod);
	memfd = liveupdate_retrieve(session, TOKEN);
	if (memfd < 0)
		fail("retrieve", liveupdate_error());
	check_memfd(memfd);
	if (liveupdate_finish(session))
		fail("finish", liveupdate_error());
	/*
	 * The files now belong to this program. If luod cannot be told, it is
	 * told again later.
	 */
	*restored = 1;
	close(session);
	say(luod, "FINISHED", id);
	puts("verified");
	return memfd;
}

/*
 * Connects again. If the session may be part of an update, luod must first
 * confirm that it is not: otherwise the kexec may come while this program
 * continues.
 */
static void connect_again(struct luod *luod, const char *id, int restored,
			  int *session)
{
	const char *line;
	int error;

	for (;;) {
		error = connect_to(luod);
		if (error == ENOENT || error == ECONNREFUSED) {
			/* The session is not part of an update. */
			if (*session >= 0)
				close(*session);
			*session = -1;
		}
		if (error) {
			usleep(RETRY_US);
			continue;
		}
		if (*session < 0)
			break;
		say(luod, "REFUSE", id);
		line = next_line(luod);
		if (line && (is(line, "event", "OK") ||
			     is(line, "code", "no-session"))) {
			close(*session);
			*session = -1;
			break;
		}
		gone(luod);
		usleep(RETRY_US);
	}
	if (restored)
		say(luod, "FINISHED", id);
	say(luod, "SUBSCRIBE", id);
}

int main(int argc, char **argv)
{
	const char *id = argc > 2 ? argv[2] : "luod-client";
	static struct luod luod = { .session = -1 };
	int memfd, error, session = -1, restored = 0;
	const char *line;

	luod.path = argc > 1 ? argv[1] : "/run/luod/liveupdate.sock";
	error = connect_to(&luod);
	if (error)
		fail(luod.path, strerror(error));
	memfd = claim(&luod, id, &restored);
	say(&luod, "SUBSCRIBE", id);
	for (;;) {
		line = next_line(&luod);
		if (!line) {
			connect_again(&luod, id, restored, &session);
		} else if (is(line, "event", "START_PRESERVATION")) {
			session = take_session(&luod);
			if (liveupdate_preserve(session, memfd, TOKEN)) {
				fprintf(stderr, "%s\n", liveupdate_error());
				say(&luod, "REFUSE", id);
			} else {
				say(&luod, "READY", id);
			}
		} else if (is(line, "event", "CANCELLED") && session >= 0) {
			/* The memfd is not preserved any more. */
			close(session);
			session = -1;
		} else if (is(line, "event", "ERROR") &&
			   !is(line, "cmd", "FINISHED")) {
			fprintf(stderr, "luod: %s\n", line);
		}
		fflush(stdout);
	}
}
