/* A stand-in for libnvidia-ml.so.1 whose answers stand in a text file, read again at every call, so that a test can
 * change them under a running program. MEMINSPECT_STUB_NVML names the file. Its lines are "key value":
 *
 *   count 2                            the GPUs
 *   0.name NVIDIA Stub                 of GPU 0; likewise 0.uuid
 *   0.total 1000    0.used 400         bytes; free is what is left
 *   0.processes 17:300 18:na           pid:bytes; "na": the driver does not say
 *   0.nvmlDeviceGetMemoryInfo 15       this function fails on GPU 0 with this nvmlReturn_t
 *   nvmlInit 9                         this function fails
 *
 * Signatures and structures: nvml.h of CUDA 12.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE 4096
enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7 };

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;

/* The value of a key into `value`; 0 where there is none. */
static int look_up(const char *key, char *value)
{
    const char *path = getenv("MEMINSPECT_STUB_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    size_t length = strlen(key);
    int found = 0;
    while (file && !found && fgets(value, LINE, file)) {
        if (strncmp(value, key, length) == 0 && value[length] == ' ') {
            memmove(value, value + length + 1, strlen(value + length));
            value[strcspn(value, "\n")] = 0;
            found = 1;
        }
    }
    if (file)
        fclose(file);
    if (!found)
        value[0] = 0;
    return found;
}

static int look_up_of(void *device, const char *name, char *value)
{
    char key[128];
    snprintf(key, sizeof key, "%lu.%s", (unsigned long)(uintptr_t)device - 1, name);
    return look_up(key, value);
}

static unsigned long long number_of(void *device, const char *name)
{
    char value[LINE];
    return look_up_of(device, name, value) ? strtoull(value, NULL, 10) : 0;
}

static int failure(const char *function)
{
    char value[LINE];
    return look_up(function, value) ? atoi(value) : SUCCESS;
}

static int failure_of(void *device, const char *function)
{
    return device ? (int)number_of(device, function) : INVALID_ARGUMENT;
}

static int text_of(void *device, const char *name, char *buffer, unsigned size)
{
    char value[LINE];
    look_up_of(device, name, value);
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, value);
    return SUCCESS;
}

int nvmlInit_v2(void) { return failure("nvmlInit"); }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return failure("nvmlInit"); }
int nvmlShutdown(void) { return failure("nvmlShutdown"); }

const char *nvmlErrorString(int result)
{
    static char text[64];
    snprintf(text, sizeof text, "stub error %d", result);
    return text;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    char value[LINE];
    int failed = failure("nvmlDeviceGetCount");
    *count = look_up("count", value) ? (unsigned)atoi(value) : 0;
    return failed;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    unsigned count;
    nvmlDeviceGetCount_v2(&count);
    if (index >= count)
        return INVALID_ARGUMENT;
    *device = (void *)(uintptr_t)(index + 1);
    return failure_of(*device, "nvmlDeviceGetHandleByIndex");
}

int nvmlDeviceGetName(void *device, char *name, unsigned size)
{
    int failed = failure_of(device, "nvmlDeviceGetName");
    return failed ? failed : text_of(device, "name", name, size);
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size)
{
    int failed = failure_of(device, "nvmlDeviceGetUUID");
    return failed ? failed : text_of(device, "uuid", uuid, size);
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory)
{
    int failed = failure_of(device, "nvmlDeviceGetMemoryInfo");
    if (failed)
        return failed;
    memory->total = number_of(device, "total");
    memory->used = number_of(device, "used");
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *memory)
{
    memory_t plain;
    int failed = nvmlDeviceGetMemoryInfo(device, &plain);
    if (failed)
        return failed;
    memory->total = plain.total;
    memory->reserved = 0;
    memory->free = plain.free;
    memory->used = plain.used;
    return SUCCESS;
}

/* As the driver: the number of processes goes into `count`, and too small an array is an error unless there are none. */
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *processes)
{
    char value[LINE];
    unsigned room = *count, listed = 0;
    int failed = failure_of(device, "nvmlDeviceGetComputeRunningProcesses");
    if (failed)
        return failed;
    look_up_of(device, "processes", value);
    for (char *word = strtok(value, " "); word; word = strtok(NULL, " "), listed++) {
        char *bytes = strchr(word, ':') + 1;
        if (listed < room)
            processes[listed] = (process_t){
                (unsigned)atoi(word), *bytes == 'n' ? ~0ULL : strtoull(bytes, NULL, 10), ~0U, ~0U };
    }
    *count = listed;
    return listed > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, process_t *processes)
{
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, processes);
}
