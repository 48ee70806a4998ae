/* loadgen.c - closed-loop HTTP/1.1 load generator for OpenAI chat completions (epoll, one thread).
 *
 *   cc -O2 -o loadgen loadgen.c
 *   ./loadgen --port 18000 -c 64 -d 5 --stream --itl 20
 *   ./loadgen --port 18000 -c 16 -d 5 --body image.json --salt AbCd --salt-start 200000
 *
 *   -c N            connections (keep-alive), one request in flight on each
 *   -d S            seconds measured, after --warm seconds (default 5 after 1)
 *   -n N            instead of -d: this many requests in all, no warm-up cut
 *   --stream        the reply is SSE (the built-in body asks for it; a --body must do so itself)
 *   --tokens N      tokens per reply (64); --ttft MS and --itl MS steer the mock engine
 *   --ramp MS       open the connections evenly over this time
 *   --timeout S     a request that takes longer is an error (60)
 *   --noreuse       a new connection for every request
 *   --path P  --model M  --auth KEY
 *   --body FILE     send this JSON instead of the built-in prompt
 *   --salt TEXT     overwrite this placeholder (4 base64 characters, once in the body) with another
 *                   value in every request: each request then carries another, still valid, image
 *   --salt-start N  number of the first value, so that runs need not repeat each other's
 *
 * Prints ONE line of JSON: rps, tok_s (content tokens/s), ev_s ("data:" lines/s), ttft_ms, total_ms
 * and gap_ms with p50, p95, p99 and max, errors by kind. Requests that finish in the measured window
 * count for rps; tokens count when they arrive in it; tok_all and req_all include the warm-up.
 *
 * Token i of a reply must read zq%04d: zq0000, zq0001, ... Every token is checked. Errors:
 *   tok      a token was lost, doubled or out of order    trunc    the reply ended early
 *   done     all tokens, but no [DONE]                    http     status other than 200
 *   conn     refused, reset or closed                     timeout  see --timeout
 * multi counts SSE events that hold more than one token (not an error, but not one event per token).
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SALT_CHARS 4
#define LINE_START 24 /* bytes kept of each line: enough to tell data:, [DONE] and an error apart */

/* ---- samples ---------------------------------------------------------------------------------*/

typedef struct {
    float *values;
    size_t count, capacity;
} samples;

static void samples_add(samples *s, double value) {
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? s->capacity * 2 : 65536;
        s->values = realloc(s->values, s->capacity * sizeof *s->values);
    }
    s->values[s->count++] = value;
}

static int compare_floats(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static double samples_quantile(const samples *s, double q) { /* sorted; -1: no sample */
    return s->count ? s->values[(size_t)(q * (s->count - 1) + .5)] : -1;
}

/* ---- state -----------------------------------------------------------------------------------*/

enum phase { HEADER, BY_LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, UNTIL_CLOSE };

typedef struct {
    int fd, connected, busy, keep_alive, wants_out;
    enum phase phase;
    int status, skip_line;
    char header[8192], salt[SALT_CHARS];
    size_t header_len, left, written;
    /* the reply */
    int tokens, bad, events, done, token_state, token_number, token_digits;
    char line[LINE_START];
    int line_len, line_tokens;
    char error_text[200];
    int error_len;
    double started, first_token, last_token;
} connection;

static struct {
    int port, connections, stream, tokens, requests, no_reuse;
    double seconds, warm, itl_ms, ttft_ms, ramp_ms, timeout_s;
    const char *path, *model, *auth, *body_file, *salt;
    long salt_start;
} opt = {.port = 18000, .connections = 1, .tokens = 64, .seconds = 5, .warm = 1, .timeout_s = 60,
         .path = "/v1/chat/completions", .model = "mock"};

static struct {
    long conn, http, trunc, tok, done, timeout;
    int last_errno;
    char sample[300];
} err;

static char *request;
static size_t request_len, salt_at; /* salt_at == request_len: no salt */
static int epoll_fd, in_flight, most_in_flight;
static connection *connections;
static double began, window_from, window_to; /* milliseconds */
static long started, finished_in_window, finished, tokens_in_window, tokens_all;
static long events_in_window, multi_token_events, bytes_in_window;
static samples ttft, total, gap;

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static int in_window(double t) { return t >= window_from && t < window_to; }

static void keep_error(const char *kind, const char *text, size_t n) {
    if (err.sample[0]) return;
    snprintf(err.sample, sizeof err.sample - 40, "%s %.*s", kind, (int)(n < 220 ? n : 220), text);
    for (char *q = err.sample; *q; q++)
        if (*q == '"' || *q == '\\' || (unsigned char)*q < 32 || (unsigned char)*q > 126) *q = '\'';
}

/* ---- connections and requests ----------------------------------------------------------------*/

static void connection_watch(connection *c, int out, int operation) {
    struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &e);
    c->wants_out = out;
}

static void connection_open(connection *c) {
    int one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(opt.port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->connected = c->busy = 0;
    connect(c->fd, (void *)&a, sizeof a);
    connection_watch(c, 1, EPOLL_CTL_ADD);
}

static void connection_reopen(connection *c) {
    if (c->busy) in_flight--;
    close(c->fd);
    connection_open(c);
}

/* 60 of the 64 base64 digits, so that none of the three bytes that four digits spell is 0 */
static void fill_salt(char *salt, long number) {
    static const char digits[] = "BCDEFGHIJKLMNOPRSTUVWXYZabcdefhijklmnopqrstuvxyz0123456789+/";
    unsigned long n = ((unsigned long)number * 7654321UL) % (60UL * 60 * 60 * 60);
    for (int i = 0; i < SALT_CHARS; i++, n /= 60) salt[i] = digits[n % 60];
}

static void request_write(connection *c) {
    while (c->written < request_len) {
        struct iovec parts[3];
        int n = 0;
        size_t at = c->written, salt_end = salt_at + (salt_at < request_len ? SALT_CHARS : 0);
        if (at < salt_at) {
            parts[n++] = (struct iovec){request + at, salt_at - at};
            at = salt_at;
        }
        if (at < salt_end) {
            parts[n++] = (struct iovec){c->salt + (at - salt_at), salt_end - at};
            at = salt_end;
        }
        if (at < request_len) parts[n++] = (struct iovec){request + at, request_len - at};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = n};
        ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN) {
                if (!c->wants_out) connection_watch(c, 1, EPOLL_CTL_MOD);
                return;
            }
            err.conn++;
            err.last_errno = errno;
            connection_reopen(c);
            return;
        }
        c->written += sent;
    }
    if (c->wants_out) connection_watch(c, 0, EPOLL_CTL_MOD);
}

static void request_start(connection *c) {
    if (opt.requests ? started >= opt.requests : now_ms() >= window_to) return;
    if (opt.salt) fill_salt(c->salt, opt.salt_start + started);
    started++;
    if (++in_flight > most_in_flight) most_in_flight = in_flight;
    c->busy = c->keep_alive = 1;
    c->phase = HEADER;
    c->header_len = c->written = 0;
    c->status = c->tokens = c->bad = c->events = c->done = 0;
    c->token_state = c->line_len = c->line_tokens = c->error_len = 0;
    c->first_token = c->last_token = 0;
    c->started = now_ms();
    request_write(c);
}

/* ---- replies ---------------------------------------------------------------------------------*/

static void line_ended(connection *c, double t) {
    if (c->line_len >= 5 && !memcmp(c->line, "data:", 5)) {
        c->events++;
        if (in_window(t)) events_in_window++;
        if (c->line_tokens > 1 && opt.stream) multi_token_events++;
        if (memmem(c->line, c->line_len, "[DONE]", 6)) c->done = 1;
    }
    c->line_len = c->line_tokens = 0;
}

/* Finds "zq" and four digits, wherever the reply is cut into pieces. */
static void token_scan(connection *c, char ch) {
    switch (c->token_state) {
    case 0:
        c->token_state = ch == 'z';
        break;
    case 1:
        c->token_state = ch == 'q' ? 2 : ch == 'z';
        c->token_number = c->token_digits = 0;
        break;
    default:
        if (ch < '0' || ch > '9') {
            c->token_state = ch == 'z';
            break;
        }
        c->token_number = c->token_number * 10 + ch - '0';
        if (++c->token_digits == 4) {
            if (c->token_number != c->tokens) c->bad = 1;
            c->tokens++;
            c->line_tokens++;
            c->token_state = 0;
        }
    }
}

static void body_read(connection *c, const char *p, size_t n, double t) {
    if (c->status != 200) {
        for (size_t i = 0; i < n && c->error_len < 199; i++) c->error_text[c->error_len++] = p[i];
        return;
    }
    if (in_window(t)) bytes_in_window += n;
    int before = c->tokens;
    for (size_t i = 0; i < n; i++) {
        char ch = p[i];
        token_scan(c, ch);
        if (ch == '\n') {
            line_ended(c, t);
        } else if (c->line_len < LINE_START) {
            c->line[c->line_len++] = ch;
            if (c->line_len == 14 && opt.stream && !memcmp(c->line, "data: {\"error\"", 14))
                keep_error("stream", p + i, n - i);
        }
    }
    int fresh = c->tokens - before;
    if (!fresh) return;
    tokens_all += fresh;
    if (in_window(t)) tokens_in_window += fresh;
    if (!c->first_token)
        c->first_token = t;
    else if (opt.stream && in_window(t) && gap.count < 8000000)
        samples_add(&gap, t - c->last_token);
    c->last_token = t;
}

static void reply_ended(connection *c, double t) {
    finished++;
    in_flight--;
    c->busy = 0;
    if (c->status != 200) {
        char status[16];
        snprintf(status, sizeof status, "%d", c->status);
        err.http++;
        keep_error(status, c->error_text, c->error_len);
    } else if (c->bad || c->tokens > opt.tokens) {
        err.tok++;
    } else if (c->tokens < opt.tokens) {
        err.trunc++;
    } else if (opt.stream && !c->done) {
        err.done++;
    } else if (opt.requests || in_window(t)) {
        finished_in_window++;
        samples_add(&total, t - c->started);
        samples_add(&ttft, (c->first_token ? c->first_token : t) - c->started);
    }
    if (!c->keep_alive || opt.no_reuse || c->written < request_len)
        connection_reopen(c);
    else
        request_start(c);
}

/* Returns 1 when the reply is over already. */
static int header_read(connection *c, double t) {
    char *v;
    c->header[c->header_len] = 0;
    c->status = atoi(c->header + 9);
    if (strcasestr(c->header, "\r\nconnection: close")) c->keep_alive = 0;
    if ((v = strcasestr(c->header, "\r\ntransfer-encoding:")) && strcasestr(v, "chunked")) {
        c->phase = CHUNK_SIZE;
        c->left = c->skip_line = 0;
    } else if ((v = strcasestr(c->header, "\r\ncontent-length:"))) {
        c->phase = BY_LENGTH;
        c->left = strtoul(v + 17, 0, 10);
        if (!c->left) {
            reply_ended(c, t);
            return 1;
        }
    } else {
        c->phase = UNTIL_CLOSE;
        c->keep_alive = 0;
    }
    return 0;
}

static int hex_digit(char ch) {
    if (ch >= '0' && ch <= '9') return ch - '0';
    ch |= 32;
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

static void chunk_size_read(connection *c, char ch) {
    if (ch == '\n') {
        c->phase = c->left ? CHUNK_DATA : TRAILER;
        c->skip_line = 0;
    } else if (ch != '\r' && !c->skip_line) {
        int digit = hex_digit(ch);
        if (digit < 0)
            c->skip_line = 1; /* a chunk extension: ignored */
        else
            c->left = c->left * 16 + digit;
    }
}

static void reply_read(connection *c, const char *p, size_t n, double t) {
    while (n) {
        size_t used = 1;
        char ch = *p;
        switch (c->phase) {
        case HEADER:
            if (c->header_len >= sizeof c->header - 1) {
                err.http++;
                connection_reopen(c);
                return;
            }
            c->header[c->header_len++] = ch;
            if (c->header_len >= 4 && !memcmp(c->header + c->header_len - 4, "\r\n\r\n", 4))
                if (header_read(c, t)) return;
            break;
        case BY_LENGTH:
        case CHUNK_DATA:
            used = n < c->left ? n : c->left;
            body_read(c, p, used, t);
            c->left -= used;
            if (c->left) break;
            if (c->phase == BY_LENGTH) {
                reply_ended(c, t);
                return;
            }
            c->phase = CHUNK_END;
            break;
        case CHUNK_SIZE:
            chunk_size_read(c, ch);
            break;
        case CHUNK_END:
            if (ch == '\n') {
                c->phase = CHUNK_SIZE;
                c->left = c->skip_line = 0;
            }
            break;
        case TRAILER:
            if (ch == '\n') {
                if (!c->skip_line) {
                    reply_ended(c, t);
                    return;
                }
                c->skip_line = 0;
            } else if (ch != '\r') {
                c->skip_line = 1;
            }
            break;
        case UNTIL_CLOSE:
            used = n;
            body_read(c, p, n, t);
            break;
        }
        p += used;
        n -= used;
    }
}

/* ---- events ----------------------------------------------------------------------------------*/

static void connection_closed(connection *c, int error) {
    if (c->busy && c->phase == UNTIL_CLOSE) {
        c->keep_alive = 0;
        reply_ended(c, now_ms());
        return;
    }
    if (c->busy) {
        if (c->phase == HEADER && c->header_len == 0)
            err.conn++;
        else {
            err.trunc++;
            if (opt.requests) finished++;
        }
        err.last_errno = error;
    }
    connection_reopen(c);
}

static void connection_ready(connection *c, uint32_t events) {
    static char buffer[262144];
    if (!c->connected && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            err.conn++;
            err.last_errno = error;
            close(c->fd);
            usleep(1000);
            connection_open(c);
            return;
        }
        c->connected = 1;
        connection_watch(c, 0, EPOLL_CTL_MOD);
        request_start(c);
        return;
    }
    if ((events & EPOLLOUT) && c->busy) request_write(c);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)) || !c->connected) return;
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n > 0) {
        if (c->busy) reply_read(c, buffer, n, now_ms());
    } else if (n == 0 || errno != EAGAIN) {
        connection_closed(c, n ? errno : 0);
    }
}

static void drop_overdue(int opened, double t) {
    for (int i = 0; i < opened; i++)
        if (connections[i].busy && t - connections[i].started > opt.timeout_s * 1e3) {
            err.timeout++;
            connection_reopen(&connections[i]);
        }
}

static void run(void) {
    static struct epoll_event events[1024];
    int opened = 0;
    double checked = began;
    for (;;) {
        double t = now_ms();
        int want = opt.ramp_ms > 0 ? (int)((t - began) / opt.ramp_ms * opt.connections) + 1
                                   : opt.connections;
        if (want > opt.connections) want = opt.connections;
        while (opened < want) connection_open(&connections[opened++]);
        if (opt.requests ? finished + err.conn + err.timeout >= opt.requests : t >= window_to) return;
        if (opt.requests && t - began > opt.timeout_s * 1e3 + 60000) return;
        if (t - checked > 500) {
            checked = t;
            drop_overdue(opened, t);
        }
        int n = epoll_wait(epoll_fd, events, 1024, opened < opt.connections ? 1 : 50);
        for (int i = 0; i < n; i++) connection_ready(events[i].data.ptr, events[i].events);
    }
}

/* ---- start and end ---------------------------------------------------------------------------*/

static void usage(const char *argument) {
    fprintf(stderr, "loadgen: bad argument %s; the head of loadgen.c lists them\n", argument);
    exit(2);
}

static void read_options(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!strcmp(a, "--stream")) { opt.stream = 1; continue; }
        if (!strcmp(a, "--noreuse")) { opt.no_reuse = 1; continue; }
        if (i + 1 >= argc) usage(a);
        const char *v = argv[++i];
        if (!strcmp(a, "--port")) opt.port = atoi(v);
        else if (!strcmp(a, "-c")) opt.connections = atoi(v);
        else if (!strcmp(a, "-d")) opt.seconds = atof(v);
        else if (!strcmp(a, "-n")) opt.requests = atoi(v);
        else if (!strcmp(a, "--tokens")) opt.tokens = atoi(v);
        else if (!strcmp(a, "--itl")) opt.itl_ms = atof(v);
        else if (!strcmp(a, "--ttft")) opt.ttft_ms = atof(v);
        else if (!strcmp(a, "--warm")) opt.warm = atof(v);
        else if (!strcmp(a, "--ramp")) opt.ramp_ms = atof(v);
        else if (!strcmp(a, "--timeout")) opt.timeout_s = atof(v);
        else if (!strcmp(a, "--path")) opt.path = v;
        else if (!strcmp(a, "--model")) opt.model = v;
        else if (!strcmp(a, "--auth")) opt.auth = v;
        else if (!strcmp(a, "--body")) opt.body_file = v;
        else if (!strcmp(a, "--salt")) opt.salt = v;
        else if (!strcmp(a, "--salt-start")) opt.salt_start = atol(v);
        else usage(a);
    }
}

static char *body_from_file(size_t *length) {
    FILE *file = fopen(opt.body_file, "rb");
    if (!file) {
        perror(opt.body_file);
        exit(2);
    }
    fseek(file, 0, SEEK_END);
    *length = ftell(file);
    rewind(file);
    char *body = malloc(*length + 1);
    if (fread(body, 1, *length, file) != *length) exit(2);
    fclose(file);
    return body;
}

static char *body_built_in(size_t *length) {
    char *body = malloc(1024);
    *length = snprintf(
        body, 1024,
        "{\"model\":\"%s\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful "
        "assistant.\"},{\"role\":\"user\",\"content\":\"Count please [[n=%d t=%g d=%g]]\"}],"
        "\"max_tokens\":%d,\"temperature\":0.7,\"stream\":%s}",
        opt.model, opt.tokens, opt.ttft_ms, opt.itl_ms, opt.tokens, opt.stream ? "true" : "false");
    return body;
}

static void build_request(void) {
    size_t length;
    char *body = opt.body_file ? body_from_file(&length) : body_built_in(&length);
    request = malloc(length + 1024);
    size_t head = snprintf(
        request, 1024,
        "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\naccept: */*\r\n"
        "user-agent: loadgen\r\n%s%s%scontent-length: %zu\r\n\r\n",
        opt.path, opt.port, opt.auth ? "authorization: Bearer " : "", opt.auth ? opt.auth : "",
        opt.auth ? "\r\n" : "", length);
    memcpy(request + head, body, length);
    request_len = salt_at = head + length;
    if (opt.salt) {
        char *at = memmem(request + head, length, opt.salt, strlen(opt.salt));
        if (!at || strlen(opt.salt) != SALT_CHARS) usage("--salt (not in the body, or not 4 long)");
        salt_at = at - request;
    }
    free(body);
}

static void print_quantiles(const char *name, samples *s) {
    qsort(s->values, s->count, sizeof *s->values, compare_floats);
    printf("\"%s\":{\"p50\":%.3f,\"p95\":%.3f,\"p99\":%.3f,\"max\":%.3f},", name,
           samples_quantile(s, .5), samples_quantile(s, .95), samples_quantile(s, .99),
           samples_quantile(s, 1));
}

static void print_result(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu_s = usage.ru_utime.tv_sec + usage.ru_utime.tv_usec / 1e6 + usage.ru_stime.tv_sec +
                   usage.ru_stime.tv_usec / 1e6;
    double secs = (opt.requests ? now_ms() - began : opt.seconds * 1e3) / 1e3;
    printf("{\"c\":%d,\"stream\":%d,\"tokens\":%d,\"itl\":%g,\"secs\":%.2f,\"reqs\":%ld,\"rps\":%.2f,"
           "\"tok_s\":%.0f,\"ev_s\":%.0f,\"mb_s\":%.1f,",
           opt.connections, opt.stream, opt.tokens, opt.itl_ms, secs, finished_in_window,
           finished_in_window / secs, tokens_in_window / secs, events_in_window / secs,
           bytes_in_window / secs / 1e6);
    print_quantiles("ttft_ms", &ttft);
    print_quantiles("total_ms", &total);
    print_quantiles("gap_ms", &gap);
    printf("\"err\":{\"conn\":%ld,\"http\":%ld,\"trunc\":%ld,\"tok\":%ld,\"done\":%ld,"
           "\"timeout\":%ld},\"errno\":%d,",
           err.conn, err.http, err.trunc, err.tok, err.done, err.timeout, err.last_errno);
    printf("\"multi\":%ld,\"maxconc\":%d,\"lg_cpu_s\":%.2f,\"tok_all\":%ld,\"req_all\":%ld,"
           "\"started\":%ld,\"errsample\":\"%s\"}\n",
           multi_token_events, most_in_flight, cpu_s, tokens_all, finished, started, err.sample);
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    build_request();
    epoll_fd = epoll_create1(0);
    connections = calloc(opt.connections, sizeof *connections);
    began = now_ms();
    window_from = opt.requests ? began : began + opt.warm * 1e3;
    window_to = opt.requests ? began + 1e12 : window_from + opt.seconds * 1e3;
    run();
    print_result();
    return 0;
}
