// g++ 12 sees its own _mm512_undefined_epi32() as an error (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "base/xxh3.hpp"
#include "transport/checksum_kernel.hpp"

namespace troupe::transport::detail {
namespace {

struct vector512 {
  using stripe = __m512i;
  static stripe load(const std::byte* p) { return _mm512_loadu_si512(p); }
  static void store(std::byte* p, stripe v) { _mm512_storeu_si512(p, v); }
  static void stream(std::byte* p, stripe v) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), v);
  }
  static void opaque(stripe& v) { asm volatile("" : "+v"(v)); }
  static void fence() { _mm_sfence(); }
  static stripe accumulate(stripe lanes, stripe data, const std::byte* secret) {
    stripe keyed = _mm512_xor_si512(data, load(secret));
    stripe product = _mm512_mul_epu32(keyed, _mm512_srli_epi64(keyed, 32));
    stripe swapped = _mm512_shuffle_epi32(data, static_cast<_MM_PERM_ENUM>(0x4E));
    return _mm512_add_epi64(_mm512_add_epi64(lanes, swapped), product);
  }
  static stripe scramble(stripe lanes, const std::byte* secret) {
    lanes = _mm512_xor_si512(lanes, _mm512_srli_epi64(lanes, 47));
    lanes = _mm512_xor_si512(lanes, load(secret));
    const stripe prime = _mm512_set1_epi64(xxh3::prime32_1);
    stripe low = _mm512_mul_epu32(lanes, prime);
    stripe high = _mm512_mul_epu32(_mm512_srli_epi64(lanes, 32), prime);
    return _mm512_add_epi64(low, _mm512_slli_epi64(high, 32));
  }
};

}  // namespace

void blocks_avx512(const block_job& job) {
  block_loop<vector512>::choose(job);
}

}  // namespace troupe::transport::detail
