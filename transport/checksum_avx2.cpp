#include <immintrin.h>

#include "base/xxh3.hpp"
#include "transport/checksum_kernel.hpp"

namespace troupe::transport::detail {
namespace {

struct vector256 {
  struct stripe {
    __m256i a, b;
  };
  static __m256i load_half(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static stripe load(const std::byte* p) { return {load_half(p), load_half(p + 32)}; }
  static void store(std::byte* p, stripe v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), v.b);
  }
  static void stream(std::byte* p, stripe v) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), v.a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p + 32), v.b);
  }
  static void opaque(stripe& v) { asm volatile("" : "+x"(v.a), "+x"(v.b)); }
  static void fence() { _mm_sfence(); }
  static __m256i accumulate_half(__m256i lanes, __m256i data, const std::byte* secret) {
    __m256i keyed = _mm256_xor_si256(data, load_half(secret));
    __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
    return _mm256_add_epi64(_mm256_add_epi64(lanes, _mm256_shuffle_epi32(data, 0x4E)), product);
  }
  static stripe accumulate(stripe lanes, stripe data, const std::byte* secret) {
    return {accumulate_half(lanes.a, data.a, secret),
            accumulate_half(lanes.b, data.b, secret + 32)};
  }
  static __m256i scramble_half(__m256i lanes, const std::byte* secret) {
    lanes = _mm256_xor_si256(lanes, _mm256_srli_epi64(lanes, 47));
    lanes = _mm256_xor_si256(lanes, load_half(secret));
    const __m256i prime = _mm256_set1_epi64x(xxh3::prime32_1);
    __m256i low = _mm256_mul_epu32(lanes, prime);
    __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(lanes, 32), prime);
    return _mm256_add_epi64(low, _mm256_slli_epi64(high, 32));
  }
  static stripe scramble(stripe lanes, const std::byte* secret) {
    return {scramble_half(lanes.a, secret), scramble_half(lanes.b, secret + 32)};
  }
};

}  // namespace

void blocks_avx2(const block_job& job) {
  block_loop<vector256>::choose(job);
}

}  // namespace troupe::transport::detail
