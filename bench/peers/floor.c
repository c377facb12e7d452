/* The floor: what the kernel costs, and next to nothing else.
 *
 * One thread, one epoll, one send() for each answer and for each member of a room.  It speaks the protocol as far
 * as a load goes: WebSocket upgrade, SIGN_IN (always accepted), HEARTBEAT, MESSAGE (pushed at once to all members
 * of the room, acknowledged if it has an id), close.  No tokens, no limits, no queue.
 *
 *     cc -O2 -o floor floor.c && ./floor PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, BUFFER = 1 << 17, MAX_ROOM_NAME = 128, MAX_FDS = 1 << 20, MAX_KEPT = 1 << 20 };

struct room;

struct client {
    int fd;
    int upgraded;
    struct room *room;
    int place;             /* in the room's members */
    unsigned char *unread; /* an incomplete head or frame, NULL at rest */
    size_t unread_size;
    unsigned char *unsent; /* what the socket did not take, NULL at rest */
    size_t unsent_size;
};

struct room {
    struct room *next;
    char name[MAX_ROOM_NAME];
    size_t name_size;
    struct client **members;
    int count, space;
};

struct bytes {
    const unsigned char *at;
    size_t size;
};

static int poller;
static struct client *clients[MAX_FDS];
static struct room *rooms;
static unsigned char input[BUFFER], output[BUFFER];

static void *checked(void *memory) {
    if (!memory) {
        perror("memory");
        exit(1);
    }
    return memory;
}

/* ---- SHA-1 and base64, for the upgrade alone (RFC 6455 section 4.2.2) ---------------------------------------- */

static uint32_t rotate(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void sha1_block(uint32_t h[5], const unsigned char *block) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
        else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
        else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
        else f = b ^ c ^ d, k = 0xCA62C1D6;
        uint32_t t = rotate(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = t;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
}

/* Write the 28 characters of the Sec-WebSocket-Accept for a key of 24. */
static void accept_of(const char *key, char *accept) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char text[128] = {0}, digest[21] = {0};
    memcpy(text, key, 24);
    memcpy(text + 24, guid, 36);
    text[60] = 0x80;
    text[126] = 60 * 8 >> 8, text[127] = 60 * 8 & 0xFF;
    sha1_block(h, text);
    sha1_block(h, text + 64);
    for (int i = 0; i < 20; i++) digest[i] = h[i / 4] >> (24 - i % 4 * 8);
    for (int i = 0; i < 7; i++) {
        uint32_t three = digest[3 * i] << 16 | digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int j = 0; j < 4; j++) accept[4 * i + j] = digits[three >> (18 - 6 * j) & 63];
    }
    accept[27] = '=';
}

/* ---- clients and rooms --------------------------------------------------------------------------------------- */

static void leave(struct client *client) {
    struct room *room = client->room;
    if (!room) return;
    struct client *last = room->members[--room->count];
    room->members[client->place] = last;
    last->place = client->place;
    client->room = NULL;
    if (room->count) return;
    for (struct room **link = &rooms; *link; link = &(*link)->next)
        if (*link == room) {
            *link = room->next;
            break;
        }
    free(room->members);
    free(room);
}

static void end(struct client *client) {
    leave(client);
    clients[client->fd] = NULL;
    close(client->fd);
    free(client->unread);
    free(client->unsent);
    free(client);
}

static struct room *find(struct bytes name) {
    for (struct room *room = rooms; room; room = room->next)
        if (room->name_size == name.size && !memcmp(room->name, name.at, name.size)) return room;
    return NULL;
}

static void join(struct client *client, struct bytes name) {
    leave(client);
    if (name.size > MAX_ROOM_NAME) return;
    struct room *room = find(name);
    if (!room) {
        room = checked(calloc(1, sizeof *room));
        memcpy(room->name, name.at, room->name_size = name.size);
        room->next = rooms;
        rooms = room;
    }
    if (room->count == room->space) {
        room->space = room->space ? 2 * room->space : 4;
        room->members = checked(realloc(room->members, room->space * sizeof *room->members));
    }
    client->room = room;
    client->place = room->count;
    room->members[room->count++] = client;
}

static void watch(struct client *client, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = client->fd};
    epoll_ctl(poller, operation, client->fd, &event);
}

/* Send now; what the socket does not take is kept, and a client with too much of it gets nothing more. */
static void send_to(struct client *client, const unsigned char *data, size_t size) {
    ssize_t sent = 0;
    if (!client->unsent_size) {
        sent = send(client->fd, data, size, MSG_NOSIGNAL);
        if (sent == (ssize_t)size) return;
        if (sent < 0) sent = 0; /* an error of the connection shows when it is read */
    }
    size_t left = size - sent;
    if (client->unsent_size + left > MAX_KEPT) return;
    client->unsent = checked(realloc(client->unsent, client->unsent_size + left));
    memcpy(client->unsent + client->unsent_size, data + sent, left);
    if (!client->unsent_size) watch(client, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    client->unsent_size += left;
}

static void flush(struct client *client) {
    ssize_t sent = send(client->fd, client->unsent, client->unsent_size, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) end(client);
        return;
    }
    client->unsent_size -= sent;
    memmove(client->unsent, client->unsent + sent, client->unsent_size);
    if (client->unsent_size) return;
    free(client->unsent);
    client->unsent = NULL;
    watch(client, EPOLL_CTL_MOD, EPOLLIN);
}

/* ---- protobuf: varints and length-delimited fields ----------------------------------------------------------- */

static int read_varint(struct bytes *from, uint64_t *value) {
    *value = 0;
    for (int shift = 0; from->size && shift < 64; shift += 7) {
        unsigned char byte = *from->at++;
        from->size--;
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return 1;
    }
    return 0;
}

/* Read the next field: its number into *field, and either its number or its bytes. */
static int read_field(struct bytes *from, uint64_t *field, uint64_t *number, struct bytes *value) {
    uint64_t key;
    if (!from->size || !read_varint(from, &key)) return 0;
    *field = key >> 3;
    *value = (struct bytes){NULL, 0};
    if ((key & 7) == 0) return read_varint(from, number);
    if ((key & 7) != 2 || !read_varint(from, number) || *number > from->size) return 0;
    *value = (struct bytes){from->at, *number};
    from->at += *number;
    from->size -= *number;
    return 1;
}

static unsigned char *put_varint(unsigned char *to, uint64_t value) {
    for (; value >= 0x80; value >>= 7) *to++ = value | 0x80;
    *to++ = value;
    return to;
}

static size_t varint_size(uint64_t value) {
    size_t size = 1;
    while (value >>= 7) size++;
    return size;
}

/* ---- requests ------------------------------------------------------------------------------------------------ */

static unsigned char *put_head(unsigned char *to, size_t size) {
    *to++ = 0x82;
    if (size < 126) {
        *to++ = size;
        return to;
    }
    int wide = size >= 1 << 16;
    *to++ = wide ? 127 : 126;
    for (int shift = wide ? 56 : 8; shift >= 0; shift -= 8) *to++ = (uint64_t)size >> shift;
    return to;
}

static void acknowledge(struct client *client, uint64_t id) {
    unsigned char answer[16] = {0x82, 0, 0x08, 0x05, 0x50};
    answer[1] = put_varint(answer + 5, id) - answer - 2;
    send_to(client, answer, answer[1] + 2);
}

static void sign_in(struct client *client, struct bytes data) {
    static const unsigned char suc[] = {0x82, 7, 0x12, 5, 0x12, 3, 's', 'u', 'c'};
    uint64_t field, number;
    struct bytes value, room = {NULL, 0};
    while (read_field(&data, &field, &number, &value))
        if (field == 2 && value.at) room = value;
    join(client, room);
    send_to(client, suc, sizeof suc);
}

/* Push Reply{3, BroadcastRoomReq{room, level, one record}} to all members. */
static void broadcast(struct bytes message) {
    uint64_t field, number, level = 0;
    struct bytes value, name = {NULL, 0}, data = {NULL, 0};
    while (read_field(&message, &field, &number, &value)) {
        if (field == 1) name = value;
        if (field == 2) level = number;
        if (field == 3) data = value;
    }
    struct room *room = find(name);
    if (!room || !data.at) return;
    size_t record = 4 + data.size;
    size_t body = 1 + varint_size(name.size) + name.size + (level ? 2 : 0) + 1 + varint_size(record) + record;
    unsigned char *to = put_head(output, 2 + 1 + varint_size(body) + body);
    *to++ = 0x08, *to++ = 0x03, *to++ = 0x12;
    to = put_varint(to, body);
    *to++ = 0x0A;
    to = mempcpy(put_varint(to, name.size), name.at, name.size);
    if (level) *to++ = 0x10, *to++ = level;
    *to++ = 0x1A;
    to = put_varint(to, record);
    for (int shift = 0; shift < 32; shift += 8) *to++ = data.size >> shift;
    to = mempcpy(to, data.at, data.size);
    for (int i = 0; i < room->count; i++) send_to(room->members[i], output, to - output);
}

static void request(struct client *client, struct bytes payload) {
    static const unsigned char pong[] = {0x82, 8, 0x08, 2, 0x12, 4, 'p', 'o', 'n', 'g'};
    uint64_t field, number, type = 0, id = 0;
    struct bytes value, data = {NULL, 0};
    while (read_field(&payload, &field, &number, &value)) {
        if (field == 1) type = number;
        if (field == 2) data = value;
        if (field == 10) id = number;
    }
    if (type == 2) send_to(client, pong, sizeof pong);
    if (type == 1) sign_in(client, data);
    if (type == 3) {
        if (id) acknowledge(client, id);
        broadcast(data);
    }
}

/* ---- bytes of a client --------------------------------------------------------------------------------------- */

/* Answer the upgrade; return how many bytes its head had, 0 while it is incomplete, -1 to end the client. */
static ssize_t upgrade(struct client *client, unsigned char *data, size_t size) {
    char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    "Sec-WebSocket-Accept: ............................\r\n\r\n";
    char *end_of_head = memmem(data, size, "\r\n\r\n", 4);
    if (!end_of_head) return size < BUFFER / 2 ? 0 : -1;
    *end_of_head = 0;
    char *key = strcasestr((char *)data, "sec-websocket-key:");
    if (!key) return -1;
    key += strlen("sec-websocket-key:");
    key += strspn(key, " ");
    if (strlen(key) < 24) return -1;
    accept_of(key, strstr(answer, "...."));
    client->upgraded = 1;
    send_to(client, (unsigned char *)answer, sizeof answer - 1);
    return end_of_head + 4 - (char *)data;
}

/* Act on one whole frame; return its size, 0 while it is incomplete, -1 to end the client. */
static ssize_t frame(struct client *client, unsigned char *data, size_t size) {
    if (size < 6) return 0;
    size_t length = data[1] & 0x7F, head = 6;
    if (length == 127 || !(data[1] & 0x80)) return -1;
    if (length == 126) {
        if (size < 8) return 0;
        length = data[2] << 8 | data[3];
        head = 8;
    }
    if (size < head + length) return 0;
    unsigned char *payload = data + head, *mask = payload - 4;
    for (size_t i = 0; i < length; i++) payload[i] ^= mask[i & 3];
    int opcode = data[0] & 0x0F;
    if (opcode == 8) {
        unsigned char bye[] = {0x88, 2, 3, 0xE8};
        send_to(client, bye, sizeof bye);
        return -1;
    }
    if (opcode == 1 || opcode == 2) request(client, (struct bytes){payload, length});
    return head + length;
}

static void keep(struct client *client, const unsigned char *data, size_t size) {
    free(client->unread);
    client->unread = NULL;
    client->unread_size = size;
    if (size) memcpy(client->unread = checked(malloc(size)), data, size);
}

static void receive(struct client *client) {
    size_t size = client->unread_size, done = 0;
    if (size) memcpy(input, client->unread, size);
    ssize_t came = recv(client->fd, input + size, BUFFER - size, 0);
    if (came < 0 && errno == EAGAIN) return;
    if (came <= 0) {
        end(client);
        return;
    }
    size += came;
    while (done < size) {
        ssize_t used = (client->upgraded ? frame : upgrade)(client, input + done, size - done);
        if (used < 0) {
            end(client);
            return;
        }
        if (!used) break;
        done += used;
    }
    if (client->unread || done < size) keep(client, input + done, size - done);
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        clients[fd] = checked(calloc(1, sizeof *clients[fd]));
        clients[fd]->fd = fd;
        watch(clients[fd], EPOLL_CTL_ADD, EPOLLIN);
    }
}

int main(int count, char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN}, events[EVENTS];
    struct rlimit files;
    int one = 1;
    if (count != 2) return fprintf(stderr, "usage: %s PORT\n", arguments[0]), 2;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    address.sin_port = htons(atoi(arguments[1]));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        return perror("listen"), 1;
    poller = epoll_create1(0);
    event.data.fd = listener;
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            struct client *client = clients[events[i].data.fd];
            if (events[i].data.fd == listener) accept_all(listener);
            else if (client && events[i].events & EPOLLOUT) flush(client);
            else if (client) receive(client);
        }
    }
}
