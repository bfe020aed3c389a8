"""What the workers of each role take of memory and GPUs, as they last said."""

from collections import Counter

from advdmd_ray.metrics.series import Sample
from advdmd_ray.stations.records import GpuUse


class Footprint:
    """Sums over the workers of a role; an event costs the same however many there are."""

    def __init__(self) -> None:
        self._resident: dict[str, int] = {}
        self._gpu: dict[str, GpuUse] = {}
        self._role: dict[str, str] = {}
        self._resident_of, self._gpu_of = Counter[str](), Counter[str]()

    def told(self, worker: str, role: str, resident_bytes: int, gpu: GpuUse | None) -> None:
        """What a worker says after some work.

        Args:
            worker: Its name.
            role: Its role.
            resident_bytes: Resident memory of its process.
            gpu: What it has of its GPU; None: it has none, or has not looked.
        """
        self._role[worker] = role
        self._resident_of[role] += resident_bytes - self._resident.get(worker, 0)
        self._resident[worker] = resident_bytes
        if gpu is not None:
            before = self._gpu.get(worker)
            self._gpu_of[role] += gpu.memory_bytes - (0 if before is None else before.memory_bytes)
            self._gpu[worker] = gpu

    def left(self, worker: str) -> None:
        """A worker's process is no more."""
        if worker not in self._role:
            return
        role = self._role.pop(worker)
        self._resident_of[role] -= self._resident.pop(worker)
        if worker in self._gpu:
            self._gpu_of[role] -= self._gpu.pop(worker).memory_bytes

    def samples(self) -> list[Sample]:
        """The same as series; of GPUs nothing where nobody has one, and of their utilisation where nobody knows it."""
        shares: dict[str, list[float]] = {}
        for worker, gpu in self._gpu.items():
            if gpu.utilisation is not None:
                shares.setdefault(self._role[worker], []).append(gpu.utilisation)
        return [
            *(Sample.of("advdmd_run_resident_memory_bytes", size, role=r) for r, size in self._resident_of.items()),
            *(Sample.of("advdmd_run_gpu_memory_bytes", size, role=role) for role, size in self._gpu_of.items()),
            *(Sample.of("advdmd_run_gpu_utilisation", sum(each) / len(each), role=r) for r, each in shares.items()),
        ]
