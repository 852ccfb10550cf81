/* A stand-in for libnvidia-ml.so.1 whose answers stand in a text file, read again at every call, so that a test can
 * change them under a running program. MEMINSPECT_STUB_NVML names the file. Its lines are "key value":
 *
 *   count 2                            the GPUs
 *   0.name NVIDIA Stub                 of GPU 0; likewise 0.uuid
 *   0.total 1000    0.used 400         bytes; free is what is left
 *   0.processes 17:300 18:na           pid:bytes; "na": the driver does not say
 *   0.busy 40       0.rx 10 0.tx 20    percent, and KiB/s over PCIe
 *   0.mig 3                            the GPU is cut into MIG devices, at places 0 to 2 …
 *   0.mig.1 7                          … of which place 1 has device 7, with lines of its own (7.name, …)
 *   0.nvmlDeviceGetMemoryInfo 15       this function fails on GPU 0 with this nvmlReturn_t
 *   nvmlInit 9                         this function fails
 *   @5 0.used 900                      from the fifth reading of any memory on; the last line that holds counts
 *
 * Signatures and structures: nvml.h of CUDA 12.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE 4096
static int memory_readings;  /* so far: the clock of a script */
enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilisation_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;

/* The value of a key into `value`; 0 where there is none. */
static int look_up(const char *key, char *value)
{
    const char *path = getenv("MEMINSPECT_STUB_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    size_t length = strlen(key);
    int found = 0;
    char line[LINE];
    while (file && fgets(line, LINE, file)) {
        char *rest = line;
        if (*line == '@' && (strtol(line + 1, &rest, 10) > memory_readings || !*rest++))
            continue;
        if (strncmp(rest, key, length) == 0 && rest[length] == ' ') {
            strcpy(value, rest + length + 1);
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
    memory_readings++;
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

int nvmlDeviceGetUtilizationRates(void *device, utilisation_t *rates)
{
    int failed = failure_of(device, "nvmlDeviceGetUtilizationRates");
    rates->gpu = (unsigned)number_of(device, "busy");
    rates->memory = 0;
    return failed;
}

int nvmlDeviceGetPcieThroughput(void *device, int counter, unsigned *kib_per_s)
{
    int failed = failure_of(device, "nvmlDeviceGetPcieThroughput");
    *kib_per_s = (unsigned)number_of(device, counter ? "rx" : "tx");
    return failed;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending)
{
    int failed = failure_of(device, "nvmlDeviceGetMigMode");
    char value[LINE];
    *current = *pending = (unsigned)look_up_of(device, "mig", value);
    return failed;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count)
{
    *count = (unsigned)number_of(device, "mig");
    return failure_of(device, "nvmlDeviceGetMaxMigDeviceCount");
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned place, void **slice)
{
    char key[32], value[LINE];
    snprintf(key, sizeof key, "mig.%u", place);
    if (!look_up_of(device, key, value))
        return NOT_FOUND;
    *slice = (void *)(uintptr_t)(strtoul(value, NULL, 10) + 1);
    return failure_of(*slice, "nvmlDeviceGetMigDeviceHandleByIndex");
}
