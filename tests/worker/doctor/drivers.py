"""A driver of the test's own: a libnvidia-ml.so.1 with one RTX 3060, which pynvml finds as it would find the real one."""

import subprocess
from pathlib import Path

# nvml.h's functions, those that every driver has; the rest is answered by pynvml with "function not found".
SOURCE = """
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strcpy(text, "VERSION"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &nvmlInitWithFlags; return 0; }
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) { strcpy(text, "GPU-3060"); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) { strcpy(text, "NVIDIA GeForce RTX 3060"); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { *major = 8; *minor = 6; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = TOTAL_MIBull << 20; memory->free = FREE_MIBull << 20; memory->used = memory->total - memory->free; return 0;
}
"""


def driver(folder: Path, version: str = "580.65.06", *, free_mib: int = 12_000, total_mib: int = 12_288) -> Path:
    """The folder for the loader's path."""
    folder.mkdir()
    source = folder / "driver.c"
    values = {"VERSION": version, "TOTAL_MIB": str(total_mib), "FREE_MIB": str(free_mib)}
    text = SOURCE
    for name, value in values.items():
        text = text.replace(name, value)
    source.write_text(text)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder
