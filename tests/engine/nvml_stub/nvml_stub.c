/* A stand-in for NVIDIA's libnvidia-ml.so.1. Every call reads its answer from the folder $NVML_STUB_DIR; the layout is described
 * in __init__.py beside this file. */

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
enum { PATH_SIZE = 4096, MAX_PROCESSES = 4096, MAX_NESTED = 64 };

typedef unsigned long long bytes_t;
typedef struct { char name[MAX_NESTED]; } device_t; /* what a handle points to: the folder's name */
typedef struct { bytes_t total, free, used; } memory_t;
typedef struct { unsigned version; bytes_t total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned version, sensor; int temperature; } temperature_t;
typedef struct { unsigned pid; bytes_t used; unsigned gpu_instance, compute_instance; } process_t;

static const bytes_t NOT_AVAILABLE = ~0ULL;
static device_t devices[64];
static int opened = 0;

/* --- files ------------------------------------------------------------------------------------------------------------- */

static int read_text(char *text, size_t size, const char *format, ...) {
    char path[PATH_SIZE];
    const char *root = getenv("NVML_STUB_DIR");
    if (!root) return 0;
    int length = snprintf(path, sizeof path, "%s/", root);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + length, sizeof path - length, format, arguments);
    va_end(arguments);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t got = fread(text, 1, size - 1, file);
    fclose(file);
    while (got && (text[got - 1] == '\n' || text[got - 1] == ' ')) got--;
    text[got] = 0;
    return 1;
}

static bytes_t read_number(bytes_t fallback, const char *device, const char *name) {
    char text[64];
    return read_text(text, sizeof text, "%s/%s", device, name) && *text ? strtoull(text, NULL, 10) : fallback;
}

/* --- faults ------------------------------------------------------------------------------------------------------------- */

static void block(void) {
    const struct timespec step = {0, 5000000};
    char text[64];
    for (double waited = 0; read_text(text, sizeof text, "block") && waited < atof(text); waited += 0.005) nanosleep(&step, NULL);
}

/* The error filed for one of a device's calls ("what" is up to three names, the most exact first), or success. */
static int fault(const char *device, const char *what[], int count) {
    char text[32];
    for (int i = 0; i < count; i++)
        if (what[i] && read_text(text, sizeof text, "%s/errors/%s", device, what[i])) return atoi(text);
    return read_text(text, sizeof text, "%s/errors/all", device) ? atoi(text) : SUCCESS;
}

static int ready(void) {
    block();
    char text[32];
    if (!opened) return UNINITIALIZED;
    return read_text(text, sizeof text, "errors/driver") ? atoi(text) : SUCCESS;
}

#define BEGIN(device, ...)                                                                \
    do {                                                                                  \
        const char *what[] = {__VA_ARGS__};                                               \
        int error = ready();                                                              \
        if (!error) error = (device) ? fault((device)->name, what, sizeof what / sizeof *what) : INVALID_ARGUMENT; \
        if (error) return error;                                                          \
    } while (0)

/* --- processes ---------------------------------------------------------------------------------------------------------- */

static int is_alive(unsigned pid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t got = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[got] = 0;
    char *state = strrchr(text, ')');
    return state && state[1] && state[2] != 'Z' && state[2] != 'X'; /* a zombie has given its memory back */
}

/* The live entries of processes/ or graphics/; those of processes that ended are removed. */
static unsigned list(const char *device, const char *kind, process_t *found) {
    char path[PATH_SIZE], text[64];
    const char *root = getenv("NVML_STUB_DIR");
    snprintf(path, sizeof path, "%s/%s/%s", root ? root : "", device, kind);
    DIR *folder = opendir(path);
    unsigned count = 0;
    if (!folder) return 0;
    for (struct dirent *entry; (entry = readdir(folder)) && count < MAX_PROCESSES;) {
        char *end;
        unsigned pid = strtoul(entry->d_name, &end, 10);
        if (end == entry->d_name || *end) continue;
        if (!is_alive(pid)) {
            unlinkat(dirfd(folder), entry->d_name, 0);
            continue;
        }
        if (!read_text(text, sizeof text, "%s/%s/%s", device, kind, entry->d_name)) continue;
        bytes_t used = strcmp(text, "none") ? strtoull(text, NULL, 10) : NOT_AVAILABLE;
        found[count++] = (process_t){pid, used, ~0U, ~0U};
    }
    closedir(folder);
    return count;
}

static bytes_t held(const char *device) {
    static __thread process_t found[2 * MAX_PROCESSES];
    unsigned compute = list(device, "processes", found);
    unsigned all = compute + list(device, "graphics", found + compute);
    bytes_t sum = 0;
    for (unsigned i = 0; i < all; i++) {
        int counted = found[i].used == NOT_AVAILABLE;
        for (unsigned j = 0; i >= compute && j < compute; j++) counted |= found[j].pid == found[i].pid;
        if (!counted) sum += found[i].used;
    }
    return sum;
}

static memory_v2_t memory(const char *device) {
    memory_v2_t m = {0};
    m.total = read_number(0, device, "total");
    m.reserved = read_number(0, device, "reserved");
    if (m.reserved > m.total) m.reserved = m.total;
    m.used = read_number(0, device, "used") + held(device);
    if (m.used > m.total - m.reserved) m.used = m.total - m.reserved;
    m.free = m.total - m.reserved - m.used;
    return m;
}

static int processes(device_t *device, const char *kind, const char *call, unsigned *count, process_t *infos) {
    static __thread process_t found[MAX_PROCESSES];
    BEGIN(device, call, kind);
    unsigned room = *count, there = list(device->name, kind, found);
    *count = there;
    if (there > room) return INSUFFICIENT_SIZE;
    if (there) memcpy(infos, found, there * sizeof *found);
    return SUCCESS;
}

static int text_of(device_t *device, const char *name, char *text, unsigned size) {
    BEGIN(device, name);
    char found[128];
    if (!read_text(found, sizeof found, "%s/%s", device->name, name)) return 3; /* not supported */
    snprintf(text, size, "%s", found);
    return SUCCESS;
}

static int number_of(device_t *device, const char *name, unsigned *number) {
    BEGIN(device, name);
    bytes_t found = read_number(NOT_AVAILABLE, device->name, name);
    if (found == NOT_AVAILABLE) return 3; /* not supported */
    *number = found;
    return SUCCESS;
}

/* --- the library's calls ------------------------------------------------------------------------------------------------ */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    block();
    char text[32];
    const char *root = getenv("NVML_STUB_DIR");
    if (!root || access(root, F_OK)) return DRIVER_NOT_LOADED;
    if (read_text(text, sizeof text, "errors/init")) return atoi(text);
    if (read_text(text, sizeof text, "errors/driver")) return atoi(text);
    opened++;
    return SUCCESS;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    block();
    if (!opened) return UNINITIALIZED;
    opened--;
    return SUCCESS;
}

const char *nvmlErrorString(int error) { return error ? "Stub Error" : "Success"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    char text[32];
    int error = ready();
    if (!error && read_text(text, sizeof text, "errors/count")) error = atoi(text);
    if (error) return error;
    for (*count = 0; *count < 64; ++*count)
        if (!read_text(text, sizeof text, "gpu-%u/total", *count)) break;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **device) {
    if (index >= 64) return INVALID_ARGUMENT;
    snprintf(devices[index].name, sizeof devices[index].name, "gpu-%u", index);
    BEGIN(&devices[index], "handle");
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetName(device_t *device, char *name, unsigned size) { return text_of(device, "name", name, size); }
int nvmlDeviceGetUUID(device_t *device, char *uuid, unsigned size) { return text_of(device, "uuid", uuid, size); }

int nvmlDeviceGetMemoryInfo(device_t *device, memory_t *info) {
    BEGIN(device, "memory_v1", "memory");
    memory_v2_t m = memory(device->name);
    *info = (memory_t){m.total, m.free, m.total - m.free}; /* version 1 counts the reserve as used */
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(device_t *device, memory_v2_t *info) {
    BEGIN(device, "memory_v2", "memory");
    if (info->version != (sizeof *info | 2U << 24)) return 25; /* argument version mismatch */
    unsigned version = info->version;
    *info = memory(device->name);
    info->version = version;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(device_t *device, utilization_t *rates) {
    *rates = (utilization_t){0};
    return number_of(device, "utilization", &rates->gpu);
}

int nvmlDeviceGetTemperature(device_t *device, unsigned sensor, unsigned *celsius) {
    (void)sensor;
    BEGIN(device, "temperature_v1");
    return number_of(device, "temperature", celsius);
}

int nvmlDeviceGetTemperatureV(device_t *device, temperature_t *info) {
    BEGIN(device, "temperature_v2");
    unsigned celsius = 0;
    int error = number_of(device, "temperature", &celsius);
    info->temperature = celsius;
    return error;
}

int nvmlDeviceGetPowerUsage(device_t *device, unsigned *milliwatts) { return number_of(device, "power", milliwatts); }

int nvmlDeviceGetComputeRunningProcesses_v2(device_t *device, unsigned *count, process_t *infos) {
    return processes(device, "processes", "processes_v2", count, infos);
}

int nvmlDeviceGetComputeRunningProcesses_v3(device_t *device, unsigned *count, process_t *infos) {
    return processes(device, "processes", "processes_v3", count, infos);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(device_t *device, unsigned *count, process_t *infos) {
    return processes(device, "graphics", "graphics_v2", count, infos);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t *device, unsigned *count, process_t *infos) {
    return processes(device, "graphics", "graphics_v3", count, infos);
}
