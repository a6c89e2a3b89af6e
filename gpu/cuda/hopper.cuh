// Hopper's asynchronous machinery in one place: mbarriers, the tensor copy engine (TMA), programmatic dependent launch.
//
// Device code only, sm_90a. Instructions and their operands are those of NVIDIA's PTX ISA 9.0, sections "mbarrier",
// "cp.async.bulk" and "griddepcontrol" (https://docs.nvidia.com/cuda/parallel-thread-execution/).
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace troupe::gpu::cuda {

__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

// --- mbarrier: a count of arrivals and of bytes, one phase bit ---

__device__ inline void barrier_init(std::uint64_t* bar, std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals));
}
// After barrier_init, before the other threads and the copy engine may use them.
__device__ inline void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void barrier_arrive(std::uint64_t* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
// A warp is done with what `bar` guards, which counts arrivals_of_warp for each: one lane arrives, behind the others' accesses, which
// __syncwarp orders before it (PTX ISA, "Memory Consistency Model": causality is transitive). compute-sanitizer's racecheck follows
// arriving threads only: for it (TROUPE_CUDA_RACECHECK) all of them do. Not at all without at_all, but the warp meets.
#ifdef TROUPE_CUDA_RACECHECK
constexpr std::uint32_t arrivals_of_warp = 32;
#else
constexpr std::uint32_t arrivals_of_warp = 1;
#endif
__device__ __forceinline__ void warp_arrive(std::uint64_t* bar, bool at_all = true) {
  __syncwarp();
  if (at_all && threadIdx.x % 32 < arrivals_of_warp) barrier_arrive(bar);
}
// barrier_arrive at the same barrier of block `block` of the cluster.
__device__ inline void barrier_arrive_at(std::uint64_t* bar, std::uint32_t block) {
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(shared_address(bar)),
      "r"(block)
      : "memory");
}
__device__ inline void barrier_expect(std::uint64_t* bar, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)),
               "r"(bytes)
               : "memory");
}
// barrier_expect by a warp, at a barrier that counts arrivals_of_warp for it; what it then copies comes behind it.
__device__ __forceinline__ void warp_expect(std::uint64_t* bar, std::uint32_t bytes) {
  const std::uint32_t lane = threadIdx.x % 32;
  if (lane == 0)
    barrier_expect(bar, bytes);
  else if (lane < arrivals_of_warp)
    barrier_arrive(bar);
  __syncwarp();
}
__device__ inline void barrier_wait(std::uint64_t* bar, std::uint32_t phase) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(shared_address(bar)),
      "r"(phase)
      : "memory");
}
// Whether the phase has ended; another one may not have, for then the answer is that of two phases on.
__device__ inline bool barrier_passed(std::uint64_t* bar, std::uint32_t phase) {
  std::uint32_t passed;
  asm volatile(
      "{\n.reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n}\n"
      : "=r"(passed)
      : "r"(shared_address(bar)), "r"(phase)
      : "memory");
  return passed != 0;
}

// Position in a ring of kStages buffers: the index and the phase bit that flips at each turn.
template <int kStages>
struct ring_position {
  std::uint32_t stage = 0, phase = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// --- the copy engine ---

__device__ inline void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// Streams that are read once should not push the KV and activations out of L2.
__device__ inline std::uint64_t evict_first_policy() {
  std::uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ inline std::uint64_t evict_normal_policy() {
  std::uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// One piece of memory, multiples of 16 bytes.
__device__ inline void copy_bulk(void* to, const void* from, std::uint32_t bytes,
                                 std::uint64_t* bar, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(bar)), "l"(policy)
      : "memory");
}
// The same into the shared memory of every block of a cluster whose bit is set, at the same place, and to the barrier there.
__device__ inline void copy_bulk_to(std::uint16_t blocks, void* to, const void* from,
                                    std::uint32_t bytes, std::uint64_t* bar, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::"
      "cache_hint [%0], [%1], %2, [%3], %4, %5;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(bar)), "h"(blocks), "l"(policy)
      : "memory");
}
__device__ inline void copy_tile_2d(void* to, const CUtensorMap* map, std::uint64_t* bar, int x,
                                    int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y)
      : "memory");
}
__device__ inline void copy_tile_3d(void* to, const CUtensorMap* map, std::uint64_t* bar, int x,
                                    int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z)
      : "memory");
}
__device__ inline void copy_tile_4d(void* to, const CUtensorMap* map, std::uint64_t* bar, int x,
                                    int y, int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5, %6}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}
__device__ inline void copy_tile_4d_to(std::uint16_t blocks, void* to, const CUtensorMap* map,
                                       std::uint64_t* bar, int x, int y, int z, int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::"
      "cluster [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z), "r"(w), "h"(blocks)
      : "memory");
}
__device__ inline void store_tile_2d(const CUtensorMap* map, const void* from, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(shared_address(from)), "r"(x), "r"(y)
      : "memory");
}
__device__ inline void store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// The sources of all committed stores may be written again.
__device__ inline void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
__device__ inline void store_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// Makes ordinary writes to shared memory visible to the copy engine and the tensor cores.
__device__ inline void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- between kernels, and between some of the warps ---

// Blocks until the kernels before this one are complete and their writes visible. Every kernel of a step calls it, so
// that completion is transitive along the chain.
__device__ inline void wait_for_previous_kernel() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ inline void let_next_kernel_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// One lane of a warp that is here as a whole. The assembler knows that it is one, which it does not of `lane == 0`: there it
// puts a loop over the lanes around each copy, five instructions and a branch.
__device__ inline bool elect_lane() {
  std::uint32_t elected;
  asm volatile(
      "{\n.reg .pred chosen;\n"
      "elect.sync _|chosen, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, chosen;\n}\n"
      : "=r"(elected));
  return elected != 0;
}

// All threads of a cluster's blocks.
__device__ inline void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}

// How many registers each thread of this warpgroup has from here on: fewer, or more once others have given theirs.
template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

__device__ inline void sync_threads(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

}  // namespace troupe::gpu::cuda
