// The inner loop of checksum.hpp, once for each instruction set. A stripe is 64 bytes, a block 16
// stripes. Private to checksum*.cpp; everything here has internal linkage, since each including
// file is compiled for other flags.
#pragma once

#include <cstddef>
#include <cstdint>

namespace troupe::transport::detail {

inline constexpr std::size_t stripe_bytes = 64, stripes_per_block = 16;
inline constexpr std::size_t sum_block_bytes = stripe_bytes * stripes_per_block;

// What a kernel does with `blocks` blocks of 1024 bytes. `secret` is XXH3's default secret of 192
// bytes.
struct block_job {
  std::uint64_t* lanes;  // 8, aligned to 64; null: copy only
  std::byte* to;         // null: sum only
  const std::byte* from;
  std::size_t blocks;
  const std::byte* secret;
};
using block_kernel = void (*)(const block_job&);

void blocks_portable(const block_job& job);
void blocks_avx2(const block_job& job);
void blocks_avx512(const block_job& job);

// `Vector` brings: load, stream, store, opaque, accumulate, scramble and fence for one 64-byte
// stripe.
template <class Vector>
struct block_loop {
  template <bool Sum, bool Copy, bool Stream>
  static void run(const block_job& job) {
    typename Vector::stripe lanes{};
    if constexpr (Sum) lanes = Vector::load(reinterpret_cast<const std::byte*>(job.lanes));
    const std::byte* from = job.from;
    std::byte* to = job.to;
    for (std::size_t block = 0; block < job.blocks; ++block) {
      for (std::size_t i = 0; i < stripes_per_block; ++i, from += stripe_bytes) {
        __builtin_prefetch(from + 2 * sum_block_bytes);
        auto data = Vector::load(from);
        Vector::opaque(
            data);  // keeps the compiler from loading the source a second time for the sum
        if constexpr (Copy) {
          if constexpr (Stream)
            Vector::stream(to, data);
          else
            Vector::store(to, data);
          to += stripe_bytes;
        }
        if constexpr (Sum) lanes = Vector::accumulate(lanes, data, job.secret + 8 * i);
      }
      if constexpr (Sum) lanes = Vector::scramble(lanes, job.secret + 192 - stripe_bytes);
    }
    if constexpr (Stream) Vector::fence();
    if constexpr (Sum) Vector::store(reinterpret_cast<std::byte*>(job.lanes), lanes);
  }
  static void choose(const block_job& job) {
    bool aligned = reinterpret_cast<std::uintptr_t>(job.to) % stripe_bytes == 0;
    if (job.to == nullptr) return run<true, false, false>(job);
    if (job.lanes == nullptr)
      return aligned ? run<false, true, true>(job) : run<false, true, false>(job);
    return aligned ? run<true, true, true>(job) : run<true, true, false>(job);
  }
};

}  // namespace troupe::transport::detail
