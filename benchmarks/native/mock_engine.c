/* mock_engine.c - deterministic OpenAI-compatible mock engine (epoll, one thread).
 *
 *   cc -O2 -o mock_engine mock_engine.c
 *   ./mock_engine --port 18000 [--tokens 64] [--ttft-ms 0] [--itl-ms 0] [--model mock]
 *
 *   POST .../completions, .../generate   an answer, streamed (SSE, one send() per token) or whole
 *   GET  /v1/models                      the one model
 *   anything else                        200 {"status":"ok"}: enough for a router's health check
 *
 * Token k has the text "zqKKKK " (zq0000, zq0001, ...), so that a client can see whether one was
 * lost, doubled or reordered, whatever JSON the proxy in the middle makes of it. "[[n=32 t=5 d=20]]"
 * in the prompt sets tokens, ms to the first token and ms between tokens of that request;
 * "max_tokens" (or "max_completion_tokens") sets the number too, where the prompt does not.
 * Images are not looked at.
 *
 * Token k is due at t0 + ttft + k * itl (an absolute schedule: no drift). With itl 0 the engine works
 * in steps, as continuous batching does: one token to every running stream, then a look at the
 * sockets.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    int fd, dead, blocked, want_close;
    char *in, *out;
    size_t in_len, in_capacity, out_len, out_sent, out_capacity;
    int active, slot; /* in the list of running answers */
    int stream, num_tokens, next_token;
    double due_ms, itl_ms;
} connection;

static int default_tokens = 64;
static double default_ttft_ms, default_itl_ms;
static const char *model = "mock";
static int epoll_fd;
static connection **running;
static int num_running, running_capacity;

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* ---- output ----------------------------------------------------------------------------------*/

static void out_add(connection *c, const char *p, size_t n) {
    if (c->out_sent == c->out_len) c->out_sent = c->out_len = 0;
    if (c->out_len + n > c->out_capacity) {
        c->out_capacity = (c->out_len + n) * 2;
        c->out = realloc(c->out, c->out_capacity);
    }
    memcpy(c->out + c->out_len, p, n);
    c->out_len += n;
}

static void watch(connection *c) {
    struct epoll_event e = {.events = EPOLLIN | (c->out_sent < c->out_len ? EPOLLOUT : 0),
                            .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void out_flush(connection *c) {
    while (c->out_sent < c->out_len) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN) {
                c->blocked = 1;
                watch(c);
            } else {
                c->dead = 1;
            }
            return;
        }
        c->out_sent += sent;
    }
    c->blocked = 0;
}

static void reply_json(connection *c, const char *body, size_t n) {
    char head[256];
    int m = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                     "content-length: %zu\r\n\r\n",
                     n);
    out_add(c, head, m);
    out_add(c, body, n);
    out_flush(c);
}

/* ---- answers ---------------------------------------------------------------------------------*/

static void answer_begin(connection *c) {
    if (num_running == running_capacity) {
        running_capacity = running_capacity ? running_capacity * 2 : 256;
        running = realloc(running, running_capacity * sizeof *running);
    }
    c->slot = num_running;
    running[num_running++] = c;
    c->active = 1;
}

static void answer_end(connection *c) {
    if (!c->active) return;
    running[c->slot] = running[--num_running];
    running[c->slot]->slot = c->slot;
    c->active = 0;
}

static int add_chunk(char *to, const char *text, int n) {
    int m = sprintf(to, "%x\r\n", n);
    memcpy(to + m, text, n);
    memcpy(to + m + n, "\r\n", 2);
    return m + n + 2;
}

static int add_event(char *to, const char *delta, const char *finish_reason) {
    char event[512];
    int n = snprintf(event, sizeof event,
                     "data: {\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\","
                     "\"created\":1700000000,\"model\":\"%s\",\"choices\":[{\"index\":0,"
                     "\"delta\":{%s},\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
                     model, delta, finish_reason);
    return add_chunk(to, event, n);
}

static void send_next_token(connection *c) {
    char buffer[2048], delta[64];
    int n = 0;
    if (c->next_token == 0) n += add_event(buffer, "\"role\":\"assistant\",\"content\":\"\"", "null");
    if (c->next_token < c->num_tokens) {
        snprintf(delta, sizeof delta, "\"content\":\"zq%04d \"", c->next_token);
        n += add_event(buffer + n, delta, "null");
    }
    if (++c->next_token >= c->num_tokens) {
        n += add_event(buffer + n, "", "\"stop\"");
        n += add_chunk(buffer + n, "data: [DONE]\n\n", 14);
        memcpy(buffer + n, "0\r\n\r\n", 5);
        n += 5;
        answer_end(c);
    }
    c->due_ms += c->itl_ms;
    out_add(c, buffer, n);
    out_flush(c);
}

static void send_whole_answer(connection *c) {
    char *text = malloc(c->num_tokens * 7 + 1), *body = malloc(c->num_tokens * 7 + 600);
    int length = 0;
    text[0] = 0;
    for (int i = 0; i < c->num_tokens; i++) length += sprintf(text + length, "zq%04d ", i);
    int n = sprintf(body,
                    "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\","
                    "\"created\":1700000000,\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":"
                    "{\"role\":\"assistant\",\"content\":\"%s\"},\"logprobs\":null,"
                    "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":8,"
                    "\"completion_tokens\":%d,\"total_tokens\":%d}}",
                    model, text, c->num_tokens, c->num_tokens + 8);
    answer_end(c);
    reply_json(c, body, n);
    free(text);
    free(body);
}

/* ---- requests --------------------------------------------------------------------------------*/

/* The text after `name` in the first n bytes, ignoring case. */
static const char *after(const char *p, size_t n, const char *name) {
    size_t length = strlen(name);
    for (size_t i = 0; i + length <= n; i++)
        if (!strncasecmp(p + i, name, length)) return p + i + length;
    return 0;
}

/* The value of a JSON member, wherever it stands in the body. */
static const char *member(const char *body, size_t n, const char *quoted_name) {
    const char *p = memmem(body, n, quoted_name, strlen(quoted_name));
    if (!p) return 0;
    for (p += strlen(quoted_name); *p == ' ' || *p == ':';) p++;
    return p;
}

static void start_answer(connection *c, const char *body, size_t n) {
    const char *p = member(body, n, "\"stream\"");
    double ttft_ms = default_ttft_ms;
    c->stream = p && *p == 't';
    c->num_tokens = default_tokens;
    c->next_token = 0;
    c->itl_ms = default_itl_ms;
    if (!(p = member(body, n, "\"max_tokens\""))) p = member(body, n, "\"max_completion_tokens\"");
    if (p && atoi(p) > 0) c->num_tokens = atoi(p);
    if ((p = memmem(body, n, "[[", 2))) {
        for (p += 2; p < body + n && *p != ']'; p++) {
            if (!strncmp(p, "n=", 2)) c->num_tokens = atoi(p + 2);
            if (!strncmp(p, "t=", 2)) ttft_ms = atof(p + 2);
            if (!strncmp(p, "d=", 2)) c->itl_ms = atof(p + 2);
        }
    }
    c->due_ms = now_ms() + ttft_ms + (c->stream ? 0 : c->itl_ms * (c->num_tokens - 1));
    if (c->stream) {
        static const char head[] =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
        out_add(c, head, sizeof head - 1);
        if (ttft_ms > 0) out_flush(c);
    }
    answer_begin(c);
}

static void answer_request(connection *c, size_t head, const char *body, size_t n) {
    if (!strncmp(c->in, "POST", 4) &&
        (memmem(c->in, head, "/completions", 12) || memmem(c->in, head, "/generate", 9))) {
        start_answer(c, body, n);
    } else if (memmem(c->in, head < 64 ? head : 64, "/v1/models", 10)) {
        char models[256];
        int m = snprintf(models, sizeof models,
                         "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\","
                         "\"created\":1700000000,\"owned_by\":\"mock\"}]}",
                         model);
        reply_json(c, models, m);
    } else {
        reply_json(c, "{\"status\":\"ok\"}", 15);
    }
}

/* Decodes a chunked body into `to`; returns the bytes of input used, 0 if it is not complete. */
static size_t dechunk(const connection *c, size_t at, char *to, size_t *length) {
    for (*length = 0;;) {
        char *line_end = memmem(c->in + at, c->in_len - at, "\r\n", 2);
        if (!line_end) return 0;
        size_t size = strtoul(c->in + at, 0, 16);
        at = line_end - c->in + 2;
        if (at + size + 2 > c->in_len) return 0;
        memcpy(to + *length, c->in + at, size);
        *length += size;
        at += size + 2;
        if (!size) {
            to[*length] = 0;
            return at;
        }
    }
}

/* Returns the bytes of input used; 0: the request is not complete. */
static size_t take_request(connection *c) {
    char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = end - c->in + 4, length = 0, used;
    const char *v;
    char *decoded = 0;
    if ((v = after(c->in, head, "\r\ntransfer-encoding:")) && after(v, end - v, "chunked")) {
        decoded = malloc(c->in_len + 1);
        if (!(used = dechunk(c, head, decoded, &length))) {
            free(decoded);
            return 0;
        }
    } else {
        if ((v = after(c->in, head, "\r\ncontent-length:"))) length = strtoul(v, 0, 10);
        used = head + length;
        if (c->in_len < used) {
            if (c->in_len == head && after(c->in, head, "\r\nexpect: 100")) {
                out_add(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
                out_flush(c);
            }
            return 0;
        }
    }
    if (after(c->in, head, "\r\nconnection: close")) c->want_close = 1;
    answer_request(c, head, decoded ? decoded : c->in + head, length);
    free(decoded);
    return used;
}

static void take_requests(connection *c) {
    while (!c->active && c->in_len) {
        size_t used = take_request(c);
        if (!used) return;
        memmove(c->in, c->in + used, c->in_len - used);
        c->in_len -= used;
    }
}

/* ---- the loop --------------------------------------------------------------------------------*/

static void connection_close(connection *c) {
    answer_end(c);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
        connection *c = calloc(1, sizeof *c);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        c->in_capacity = 4096;
        c->in = malloc(c->in_capacity + 1);
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void receive(connection *c) {
    for (;;) {
        if (c->in_len == c->in_capacity) {
            c->in_capacity *= 2;
            c->in = realloc(c->in, c->in_capacity + 1);
        }
        size_t room = c->in_capacity - c->in_len;
        ssize_t n = recv(c->fd, c->in + c->in_len, room, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN) c->dead = 1;
            break;
        }
        c->in_len += n;
        c->in[c->in_len] = 0;
        if ((size_t)n < room) break;
    }
    if (!c->dead) take_requests(c);
}

static void connection_ready(connection *c, uint32_t events) {
    if (events & EPOLLOUT) {
        out_flush(c);
        if (!c->dead && c->out_sent >= c->out_len) watch(c);
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
    if (c->dead) connection_close(c);
}

static void send_due_tokens(void) {
    double t = now_ms();
    for (int i = num_running - 1; i >= 0; i--) {
        if (i >= num_running) continue; /* the list shrank meanwhile */
        connection *c = running[i];
        if (c->blocked || c->due_ms > t) continue;
        if (c->stream)
            send_next_token(c);
        else
            send_whole_answer(c);
        if (c->dead || (!c->active && c->want_close && c->out_sent >= c->out_len))
            connection_close(c);
        else if (!c->active)
            take_requests(c);
    }
}

static int ms_until_due(void) {
    double first = 1e18;
    for (int i = 0; i < num_running; i++)
        if (!running[i]->blocked && running[i]->due_ms < first) first = running[i]->due_ms;
    if (first >= 1e17) return -1;
    double wait = first - now_ms();
    return wait <= 0 ? 0 : (int)wait;
}

static int listen_on(int port) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) {
        perror("mock_engine: cannot listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    static struct epoll_event events[512];
    int port = 18000;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *a = argv[i], *v = argv[i + 1];
        if (!strcmp(a, "--port")) port = atoi(v);
        else if (!strcmp(a, "--tokens")) default_tokens = atoi(v);
        else if (!strcmp(a, "--ttft-ms")) default_ttft_ms = atof(v);
        else if (!strcmp(a, "--itl-ms")) default_itl_ms = atof(v);
        else if (!strcmp(a, "--model")) model = v;
        else {
            fprintf(stderr, "mock_engine: bad argument %s; the head of mock_engine.c lists them\n", a);
            return 2;
        }
    }
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_on(port);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = 0};
    epoll_fd = epoll_create1(0);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 512, num_running ? ms_until_due() : -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                connection_ready(events[i].data.ptr, events[i].events);
            else
                accept_all(listener);
        }
        if (num_running) send_due_tokens();
    }
}
